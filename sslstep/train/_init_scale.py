"""The paper's way to choose the scale of the initial parameters."""

from collections.abc import Callable
from typing import Literal

import jax
import jax.numpy as jnp
import numpy as np
import scipy.optimize
from jaxtyping import Array, Float, Key

from sslstep import _check, nn
from sslstep.measure import spectrum
from sslstep.train._network import Model, initial_variables
from sslstep.train._record import embed_in_batches, require_views

__all__ = ["choose_init_scale"]


def choose_init_scale(
    key: Key[Array, ""],
    network: Model,
    x: Float[Array, "n ..."],
    x_prime: Float[Array, "n ..."],
    *,
    target: float = 1e-3,
    measure: Literal["correlation", "covariance"] = "correlation",
    batch_size: int | None = None,
    bounds: tuple[float, float] = (1e-3, 1.0),
    where: Callable[[str], bool] | None = None,
) -> float:
    r"""The α at which the top eigenvalue of the initial embeddings has a given size.

    Solves :math:`\lambda_1(\alpha) = \mathrm{target}`, where :math:`\lambda_1` is measured on the
    pairs with initial parameters multiplied by α (:func:`sslstep.nn.scale_init`). Appendix D.2
    proposes targets of about 1e-3 for Barlow Twins and VICReg and 1e-6 for SimCLR: small enough for
    clear steps, and large enough not to wait for the first one longer than one must.

    Args:
        key: of the initial parameters; as given to :func:`init_state`, α is for that very network.
        network: as :func:`make_step` takes it.
        x: one view of n images, as the network takes them; n above d.
        x_prime: the other view.
        target: the top eigenvalue that is wanted.
        measure: of which matrix: C (Eq. 2), for Barlow Twins, or the centred covariance of
            embeddings, for other losses (Appendix D.4).
        batch_size: how many pass through the network at once, in training mode. Default: all.
        bounds: between which α is sought.
        where: which parameters are scaled, as :func:`init_state` takes it: told by their paths
            below ``params``, such as ``"projector/output/kernel"``. Default: all.

    Returns:
        α, to 1%.

    Raises:
        ValueError: if the views differ in shape or are not finite, n is not above d, ``bounds`` do
            not increase, ``batch_size`` does not divide n, ``where`` is true of no path, or no α
            within the bounds reaches the target; the message says what they reach.
        TypeError: if the network has not the form of :class:`Network`, or ``key`` is no key.

    Example:
        >>> import jax
        >>> from sslstep import nn, train
        >>> backbone = nn.ResNet(stage_sizes=(1, 1), width=8, stem="small")
        >>> network = nn.Encoder(backbone, nn.Projector(hidden=(32,), dim=4))
        >>> x, x_prime = jax.random.normal(jax.random.key(1), (2, 64, 8, 8, 3))
        >>> 0.01 < train.choose_init_scale(jax.random.key(0), network, x, x_prime) < 1.0
        True
    """
    _check.require_key("key", key)
    _check.require_one_of("measure", measure, ("correlation", "covariance"))
    size = x.shape[0] if batch_size is None else batch_size
    require_views(x, x_prime, size)
    _check.require_finite("x", x)
    _check.require_finite("x_prime", x_prime)
    _check.require_at_least("target", target, 0.0, strict=True)
    _check.require_at_least("bounds", bounds, 0.0, strict=True)
    if not bounds[0] < bounds[1]:
        raise ValueError(f"bounds must be the lower and the upper one, got {bounds}.")
    # As init_state draws them.
    variables = initial_variables(network, jax.random.split(key)[0], x)

    @jax.jit
    def top_eigenvalue(init_scale):
        scaled = variables | {"params": nn.scale_init(variables["params"], init_scale, where)}
        z, z_prime = (embed_in_batches(network, scaled, view, size)[1] for view in (x, x_prime))
        if len(z) <= z.shape[1]:
            raise ValueError(
                f"x has {len(z)} images, which must be more than the {z.shape[1]} dimensions of "
                f"the embeddings."
            )
        if measure == "covariance":
            return spectrum.covariance_eigenvalues(jnp.concatenate([z, z_prime]))[0]
        return spectrum.correlation_eigenvalues(z, z_prime)[0]

    def excess(log_scale: float) -> float:
        value = float(top_eigenvalue(jnp.exp(jnp.asarray(log_scale, jnp.float32))))
        return float(np.log(max(value, float(np.finfo(np.float32).tiny)) / target))

    low, high = (float(np.log(bound)) for bound in bounds)
    at_low, at_high = excess(low), excess(high)
    if not at_low <= 0 <= at_high:
        reached = " to ".join(f"{target * np.exp(value):.3g}" for value in (at_low, at_high))
        raise ValueError(
            f"target = {target:g} is not reached: from α = {bounds[0]:g} to {bounds[1]:g} the top "
            f"eigenvalue goes from {reached}. Choose other bounds or another target."
        )
    root = scipy.optimize.brentq(excess, low, high, xtol=0.005)
    return float(np.exp(root))
