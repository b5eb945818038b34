"""Plateaus of training: the loss and the eigenvalues between two steps."""

from typing import NamedTuple

import jax.numpy as jnp
from jax.typing import ArrayLike
from jaxtyping import Array, Float, Int, Real

from sslstep import _check
from sslstep.dynamics._landscapes import Landscape
from sslstep.dynamics._mode import PLAIN


def plateau_loss(
    t: Real[ArrayLike, "..."],
    step_times: Real[ArrayLike, " d"],
    *,
    landscape: Landscape = PLAIN,
) -> Float[Array, "..."]:
    r"""The loss as a staircase in time: the number of modes not yet learned (Eq. 20).

    .. math:: \mathcal{L}(t) \approx \sum_{j | \tau_j > t} 1

    On another landscape each unlearned mode contributes the landscape's value at λ = 0 instead
    of 1.

    Args:
        t: effective time, any shape ``(...)``.
        step_times: time :math:`\tau_j` at which each mode is learned, from :func:`critical_time` or
            :func:`step_time`, shape ``(d,)``.
        landscape: the landscape of every mode.

    Returns:
        The loss, shape ``(...)``.

    Raises:
        ValueError: if ``step_times`` is not a vector.

    Example:
        >>> import jax.numpy as jnp
        >>> from sslstep import dynamics
        >>> dynamics.plateau_loss(jnp.array([0.0, 2.0, 9.0]), jnp.array([1.0, 3.0]))
        Array([2., 1., 0.], dtype=float32)
    """
    _check.require_vector("step_times", step_times, "(d,)", least=0)
    t, step_times = _check.as_floats(t, step_times)
    waiting = t[..., None] < jnp.broadcast_to(step_times, (*t.shape, step_times.shape[0]))
    each = landscape.value(jnp.zeros((), t.dtype))
    return jnp.sum(waiting, axis=-1).astype(t.dtype) * each


class VICRegPlateau(NamedTuple):
    """VICReg's plateau between two steps.

    Attributes:
        eigenvalue: the eigenvalue of the embeddings' covariance that all learned dimensions share.
        loss: the loss on the plateau.
    """

    eigenvalue: Float[Array, "..."]
    loss: Float[Array, "..."]


def vicreg_plateau(
    num_learned: Int[ArrayLike, "..."],
    dim: int,
    *,
    variance: Real[ArrayLike, ""] = 25.0,
    covariance: Real[ArrayLike, ""] = 1.0,
) -> VICRegPlateau:
    r"""VICReg's loss and eigenvalue while k of d dimensions are learned (beyond the paper).

    Let μ be the weight of VICReg's variance term and ν that of its covariance term. Embeddings of
    rank k can give all d coordinates the same variance v. Their covariance then has k eigenvalues
    :math:`v d / k`, and with perfectly aligned views the loss is :math:`\mathcal{L}(v)`, with its
    minimum at :math:`v_k`:

    .. math:: \mathcal{L}(v) = \mu\, (1 - \sqrt v)_+ + 2 \nu\, v^2 (d / k - 1), \qquad
        v_k = \min\Big(1, \Big(\frac{\mu}{8 \nu (d / k - 1)}\Big)^{2/3}\Big)

    The hinge's ε is neglected. At k = d the loss is zero for every v ≥ 1, and v = 1 is returned.
    VICReg's eigenvalues therefore do not rise to 1 one by one: the first is :math:`v_1 d`, usually
    above 1, and all fall together to 1 as more dimensions share the variance.

    Equal variances are optimal for :math:`\mu \ge 16 \nu` only, which includes the published
    weights 25 and 1. The squared off-diagonal elements of a covariance of rank k sum to at least
    :math:`(\sum_i v_i)^2 / k - \sum_i v_i^2`. For a fixed :math:`\sum_i v_i` the rest of the loss
    is a sum of :math:`-\mu \sqrt{v_i} - 2\nu\, v_i^2`, which is convex on [0, 1] if and only if
    :math:`\mu \ge 16 \nu`. For smaller μ unequal variances can have a lower loss. At
    :math:`\mu = \nu`, d = 16 and k = 8, seven coordinates of variance 1 and nine that share one
    dimension have the loss 0.457 ν, equal variances have 0.625 ν, and descent ends at various
    values between 0.457 ν and 0.502 ν.

    Args:
        num_learned: k in 0...d, any shape.
        dim: the embedding dimension d.
        variance: μ of :func:`sslstep.losses.vicreg`, at least 16 ν; traced.
        covariance: ν > 0 of :func:`sslstep.losses.vicreg`; traced.

    Returns:
        :class:`VICRegPlateau`, in the shape of ``num_learned``. At k = 0 the eigenvalue is 0 and
        the loss is μ. NaN where traced weights have μ < 16 ν.

    Raises:
        ValueError: if k, μ or ν is out of its range, or μ or ν is an array.

    Example:
        >>> import jax.numpy as jnp
        >>> from sslstep import dynamics
        >>> plateau = dynamics.vicreg_plateau(jnp.array([0, 3, 8, 16]), 16)
        >>> [round(float(value), 2) for value in plateau.eigenvalue]
        [0.0, 4.29, 2.0, 1.0]
        >>> [round(float(value), 2) for value in plateau.loss]
        [25.0, 8.19, 2.0, 0.0]
    """
    _check.require_within("dim", dim, at_least=1)
    _check.require_within("num_learned", num_learned, at_least=0, at_most=dim)
    _check.require_scalar("variance", variance)
    _check.require_scalar("covariance", covariance, above=0.0)
    variance, covariance = _check.as_floats(variance, covariance)
    if _check.is_concrete(variance, covariance) and not variance >= 16 * covariance:
        raise ValueError(
            f"variance must be at least 16 times covariance, got {float(variance):g} and "
            f"{float(covariance):g}: below this ratio equal variances need not be optimal."
        )
    variance = jnp.where(variance >= 16 * covariance, variance, jnp.nan)
    k = jnp.asarray(num_learned, variance.dtype)
    some = jnp.where(k > 0, k, 1)
    excess = dim / some - 1
    # At k = d the covariance term is zero and does not limit the variance.
    free = (variance / (8 * covariance * jnp.where(excess > 0, excess, 1))) ** (2 / 3)
    v = jnp.where(excess > 0, jnp.minimum(1, free), 1)
    loss = variance * (1 - jnp.sqrt(v)) + 2 * covariance * v**2 * excess
    return VICRegPlateau(jnp.where(k > 0, v * dim / some, 0), jnp.where(k > 0, loss, variance))
