"""The paper's choice of the scale of the initial parameters."""

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
    r"""Find the initial scale α at which the top eigenvalue of the embeddings reaches a target.

    It solves :math:`\lambda_1(\alpha) = \mathrm{target}`, where :math:`\lambda_1` is the largest
    eigenvalue on the given pairs when all initial parameters are multiplied by α
    (:func:`sslstep.nn.scale_init`). Appendix D.2 proposes targets of about 1e-3 for Barlow Twins
    and VICReg and 1e-6 for SimCLR: small enough for distinct steps, large enough for a short wait
    before the first step.

    Args:
        key: random key of the initial parameters. With the key that :func:`init_state` gets, α is
            computed for the network that it initialises.
        network: a :class:`Network`, or a module of NNX or Equinox.
        x: one view of n images, as the network takes them; n must exceed the embedding dimension d.
        x_prime: the other view of the same images, same shape.
        target: the desired top eigenvalue, above 0.
        measure: the matrix whose eigenvalue is taken: ``"correlation"``, C of Eq. 2, for Barlow
            Twins; ``"covariance"``, the centred covariance of the embeddings, for other losses
            (Appendix D.4).
        batch_size: number of images that pass through the network at once, in training mode.
            Default: n.
        bounds: lower and upper limit of the search for α, both above 0.
        where: predicate that selects the parameters to scale by their paths below ``params``, such
            as ``"projector/output/kernel"``. Default: all parameters.

    Returns:
        α, to a relative accuracy of 1%.

    Raises:
        ValueError: if an argument is not as described, or no α within the bounds reaches the
            target; the message states the eigenvalues at both bounds.
        TypeError: if ``network`` is not a :class:`Network`, or ``key`` is not a random key.

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
    _check.require_within("target", target, above=0.0)
    _check.require_within("bounds", bounds, above=0.0)
    if not bounds[0] < bounds[1]:
        raise ValueError(f"bounds must be the lower and the upper one, got {bounds}.")
    # The same initial variables as in init_state.
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
