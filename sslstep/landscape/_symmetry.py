"""Self-supervised against supervised learning (Appendix F), and where VICReg rests."""

from typing import NamedTuple

import jax.numpy as jnp
from jax.typing import ArrayLike
from jaxtyping import Array, Float, Int, Real

from sslstep import _check
from sslstep.linear import quartic

__all__ = [
    "VICRegPlateau",
    "escape_time",
    "self_supervised",
    "self_supervised_trajectory",
    "settling_time",
    "supervised",
    "supervised_trajectory",
    "vicreg_plateau",
]


def self_supervised(s: Real[ArrayLike, "..."]) -> Float[Array, "..."]:
    r"""Modewise loss of Barlow Twins (Eq. 50, Figure 8A).

    .. math:: \mathcal{L}_j = (1 - \bar s^2)^2, \qquad \bar s = \gamma_j^{1/2} s_j

    Two minima, at ±1, and a maximum at 0: the sign of the start decides.

    Args:
        s: the rescaled singular value :math:`\bar s`, any shape and sign.

    Returns:
        The loss, of the same shape.

    Example:
        >>> import jax.numpy as jnp
        >>> from sslstep import landscape
        >>> landscape.self_supervised(jnp.array([-1.0, 0.0, 1.0]))
        Array([0., 1., 0.], dtype=float32)
    """
    (s,) = _check.as_floats(s)
    return (1 - s**2) ** 2


def supervised(
    c: Real[ArrayLike, "..."], target: Real[ArrayLike, "..."] = 1.0
) -> Float[Array, "..."]:
    r"""Modewise loss of supervised learning in the kernel regime (Appendix F, Figure 8B).

    .. math:: \mathcal{L}_j = (\bar c^* - \bar c)^2, \qquad \bar c = \gamma_j c_j

    Args:
        c: the rescaled coefficient :math:`\bar c`, any shape; the arguments broadcast.
        target: :math:`\bar c^*`.

    Returns:
        The loss, in the broadcast shape.

    Example:
        >>> from sslstep import landscape
        >>> float(landscape.supervised(0.0))
        1.0
    """
    c, target = jnp.broadcast_arrays(*_check.as_floats(c, target))
    return (target - c) ** 2


def self_supervised_trajectory(
    t: Real[ArrayLike, "..."],
    eigenvalue: Real[ArrayLike, "..."],
    initial: Real[ArrayLike, "..."],
) -> Float[Array, "..."]:
    r"""Descent of :func:`self_supervised`: a wait, then a step (Figure 8C).

    .. math:: \bar s' = -\gamma \frac{d\mathcal{L}}{d\bar s} = 4\gamma (\bar s - \bar s^3),
        \qquad \bar s(t) = \frac{\bar s_0 e^{4\gamma t}}{\sqrt{1 + \bar s_0^2 (e^{8\gamma t} - 1)}}

    which is Eq. 10 in the rescaled variable.

    Args:
        t: effective time ≥ 0, any shape; the arguments broadcast.
        eigenvalue: γ ≥ 0.
        initial: :math:`\bar s(0)`, of either sign.

    Returns:
        :math:`\bar s(t)`, in the broadcast shape; NaN where a time is negative.

    Raises:
        ValueError: if a time is negative, in a number or an array of NumPy's.

    Example:
        >>> from sslstep import landscape
        >>> round(float(landscape.self_supervised_trajectory(10.0, 1.0, -1e-6)), 3)
        -1.0
    """
    _check.require_at_least("t", t, 0.0, on_host=True)
    t, rate, initial = _check.as_floats(t, eigenvalue, initial)
    return quartic(t, 4 * rate, 4 * rate, initial)


def supervised_trajectory(
    t: Real[ArrayLike, "..."],
    eigenvalue: Real[ArrayLike, "..."],
    initial: Real[ArrayLike, "..."],
    target: Real[ArrayLike, "..."] = 1.0,
) -> Float[Array, "..."]:
    r"""Descent of :func:`supervised`: growth from the first moment (Figure 8D).

    .. math:: \bar c' = -\gamma \frac{d\mathcal{L}}{d\bar c} = 2\gamma (\bar c^* - \bar c),
        \qquad \bar c(t) = \bar c_0 + (\bar c^* - \bar c_0) (1 - e^{-2\gamma t})

    Args:
        t: effective time ≥ 0, any shape; the arguments broadcast.
        eigenvalue: γ ≥ 0.
        initial: :math:`\bar c(0)`.
        target: :math:`\bar c^*`.

    Returns:
        :math:`\bar c(t)`, in the broadcast shape; NaN where a time is negative.

    Raises:
        ValueError: if a time is negative, in a number or an array of NumPy's.

    Example:
        >>> from sslstep import landscape
        >>> round(float(landscape.supervised_trajectory(0.5, 1.0, 0.0)), 3)
        0.632
    """
    _check.require_at_least("t", t, 0.0, on_host=True)
    t, rate, initial, target = jnp.broadcast_arrays(
        *_check.as_floats(t, eigenvalue, initial, target)
    )
    end = jnp.isinf(t)  # where 2γt and its derivatives may be 0 times infinity
    elapsed = 2 * rate * jnp.where(end, 0, t)
    c = initial - (target - initial) * jnp.expm1(-elapsed)
    c = jnp.where(end & (rate > 0), target, c)
    return jnp.where(t < 0, jnp.nan, c)


def escape_time(
    eigenvalue: Real[ArrayLike, "..."],
    initial: Real[ArrayLike, "..."],
    radius: Real[ArrayLike, "..."] = 1.0,
) -> Float[Array, "..."]:
    r"""Time to leave a small ball around the origin of :func:`self_supervised` (footnote 23).

    .. math:: \tau^{(\epsilon)} = \frac{\log(\epsilon / |\bar s(0)|)}{4 \gamma}

    from the linearised dynamics :math:`\bar s' = 4\gamma\bar s`; the paper prints a minus sign in
    front. With ε = 1 it is the critical time of Eq. 16,
    :math:`\tau_j = -\log|\bar s_j(0)| / 4\gamma_j`.

    Args:
        eigenvalue: γ, of any sign; the arguments broadcast.
        initial: :math:`\bar s(0)`, of either sign.
        radius: ε > 0.

    Returns:
        The time, in the broadcast shape: 0 for a start outside the ball; from within it ``inf`` if
        γ ≤ 0 or the start is zero; NaN where ε is not positive.

    Raises:
        ValueError: if ε is not positive, in a number or an array of NumPy's.

    Example:
        >>> from sslstep import landscape, linear
        >>> float(landscape.escape_time(1.0, 1e-7)) == float(linear.critical_time(1.0, 1e-7))
        True
    """
    _check.require_at_least("radius", radius, 0.0, strict=True, on_host=True)
    rate, initial, radius = jnp.broadcast_arrays(*_check.as_floats(eigenvalue, initial, radius))
    size = jnp.abs(initial)
    outside, stays = size >= radius, (rate <= 0) | (size == 0)
    apart = outside | stays
    radius, size = jnp.where(apart, 1, radius), jnp.where(apart, 1, size)
    far = radius / 2 > size  # there the ratio may overflow; elsewhere the difference is not exact
    ratio = jnp.where(far, 1, radius) / jnp.where(far, 1, size)
    log_ratio = jnp.where(far, jnp.log(radius) - jnp.log(size), jnp.log(ratio))
    time = log_ratio / (4 * jnp.where(apart, 1, rate))
    time = jnp.where(stays & ~outside, jnp.inf, jnp.where(outside, 0, time))
    return jnp.where((radius > 0) & ~jnp.isnan(rate + initial), time, jnp.nan)


def settling_time(eigenvalue: Real[ArrayLike, "..."]) -> Float[Array, "..."]:
    r"""Time constant of the final approach to a minimum of :func:`self_supervised`.

    .. math:: \tau' = \frac{1}{8\gamma}, \qquad 1 - |\bar s| \propto e^{-t / \tau'}

    since the landscape's curvature at ±1 is 8. (Appendix F prints 1/4γ.)

    Args:
        eigenvalue: γ, of any sign and shape.

    Returns:
        τ', of the same shape; ``inf`` where γ ≤ 0, as nothing settles there.

    Example:
        >>> from sslstep import landscape
        >>> float(landscape.settling_time(0.5))
        0.25
    """
    (rate,) = _check.as_floats(eigenvalue)
    stays = rate <= 0
    return jnp.where(stays, jnp.inf, 1 / (8 * jnp.where(stays, 1, rate)))


class VICRegPlateau(NamedTuple):
    """Where VICReg rests between two steps.

    Attributes:
        eigenvalue: of the embeddings' covariance, of each dimension learned so far.
        loss: what is left of it.
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
    r"""Where VICReg rests while k of its d dimensions are learned (beyond the paper).

    Embeddings of rank k can give every one of the d coordinates the variance v: their covariance
    then has k eigenvalues :math:`v d / k`, and with perfectly aligned views the loss is

    .. math:: \mathcal{L}(v) = \mu\, (1 - \sqrt v)_+ + 2 \nu\, v^2 (d / k - 1), \qquad
        v_k = \min\Big(1, \Big(\frac{\mu}{8 \nu (d / k - 1)}\Big)^{2/3}\Big)

    at its minimum (ε of the hinge left out; at k = d every v of at least 1 has no loss, of which 1
    is the least). So VICReg's eigenvalues do not rise to 1: they begin near :math:`d` and come down
    to 1 together, as more dimensions share the variance.

    That one variance is best of all holds for :math:`\mu \ge 16 \nu`, as of the publication's 25
    and 1, and no farther. The off-diagonal elements of a covariance of rank k have squares that
    sum to at least :math:`(\sum_i v_i)^2 / k - \sum_i v_i^2`, and given :math:`\sum_i v_i` the rest
    of the loss is a sum of :math:`-\mu \sqrt{v_i} - 2\nu\, v_i^2`, convex on [0, 1] if and only if
    :math:`\mu \ge 16 \nu`. Below, some coordinates do better alone: at :math:`\mu = \nu`, d = 16
    and k = 8, seven of variance 1 and nine that share one dimension have the loss 0.457 ν, one
    variance for all 0.625 ν, and descent ends at many values between 0.457 and 0.502.

    Args:
        num_learned: k in 0...d, any shape.
        dim: d.
        variance: μ of :func:`sslstep.losses.vicreg`, at least 16 ν; traced.
        covariance: ν > 0; traced.

    Returns:
        :class:`VICRegPlateau`, of the shape of ``num_learned``. At k = 0 the eigenvalue is 0 and
        the loss μ. NaN where traced weights have μ < 16 ν.

    Raises:
        ValueError: if k is not within 0...d, ν is not positive, μ is less than 16 ν, or μ or ν is
            an array.

    Example:
        >>> import jax.numpy as jnp
        >>> from sslstep import landscape
        >>> plateau = landscape.vicreg_plateau(jnp.array([0, 3, 8, 16]), 16)
        >>> [round(float(value), 2) for value in plateau.eigenvalue]
        [0.0, 4.29, 2.0, 1.0]
        >>> [round(float(value), 2) for value in plateau.loss]
        [25.0, 8.19, 2.0, 0.0]
    """
    _check.require_at_least("dim", dim, 1)
    _check.require_at_least("num_learned", num_learned, 0, at_most=dim)
    _check.require_scalar("variance", variance)
    _check.require_scalar("covariance", covariance, above=0.0)
    variance, covariance = _check.as_floats(variance, covariance)
    if _check.is_concrete(variance, covariance) and not variance >= 16 * covariance:
        raise ValueError(
            f"variance must be at least 16 times covariance, got {float(variance):g} and "
            f"{float(covariance):g}: with less VICReg has no plateau of one variance."
        )
    variance = jnp.where(variance >= 16 * covariance, variance, jnp.nan)
    k = jnp.asarray(num_learned, variance.dtype)
    some = jnp.where(k > 0, k, 1)
    excess = dim / some - 1
    # At k = d nothing holds the variance back.
    free = (variance / (8 * covariance * jnp.where(excess > 0, excess, 1))) ** (2 / 3)
    v = jnp.where(excess > 0, jnp.minimum(1, free), 1)
    loss = variance * (1 - jnp.sqrt(v)) + 2 * covariance * v**2 * excess
    return VICRegPlateau(jnp.where(k > 0, v * dim / some, 0), jnp.where(k > 0, loss, variance))
