r"""The exact dynamics of one mode: closed forms that hold at every t, in float32 too."""

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike
from jaxtyping import Array, Float, Real

from sslstep import _check

__all__ = [
    "critical_time",
    "effective_eigenvalue",
    "half_rise_time",
    "max_learning_rate",
    "mode_eigenvalue",
    "plateau_loss",
    "quartic",
    "singular_value",
]


def quartic(
    t: Real[ArrayLike, "..."],
    p: Real[ArrayLike, "..."],
    q: Real[ArrayLike, "..."],
    initial: Real[ArrayLike, "..."],
) -> Float[Array, "..."]:
    r"""Solution of the quartic family's mode equation :math:`s' = p s - q s^3`.

    .. math:: s(t) = \frac{s_0 e^{pt}}{\sqrt{1 + s_0^2\, q\, (e^{2pt} - 1) / p}}

    Every loss that expands to :math:`\mathrm{Tr}[W A W^\top] + \mathrm{Tr}[(W B W^\top)^2]` with A
    and B sharing eigenvectors (eigenvalues a, b of one mode) gives this equation under gradient
    flow, with :math:`p = -2a` and :math:`q = 4b^2` (Ziyin et al. 2022). Barlow Twins with λ = 1 is
    :math:`p = 4\gamma`, :math:`q = 4\gamma^2`: see :func:`singular_value`.

    Computed without a growing exponential, so values are finite for all t ≥ 0, for :math:`p = 0`
    and in float32, and gradients for finite t; :math:`t = \infty` gives the limit. The sign of
    ``initial`` is kept: the equation is odd in s.

    Args:
        t: time ≥ 0, any shape; the four arguments broadcast.
        p: the linear rate, of any sign.
        q: the saturation, :math:`q \ge 0`.
        initial: s(0).

    Returns:
        s(t), in the broadcast shape.

    Raises:
        ValueError: if a time is negative.

    Example:
        >>> from sslstep import linear
        >>> print(f"{linear.quartic(100.0, 2.0, 8.0, 1e-6):.3f}")  # settles at sqrt(p / q)
        0.500
    """
    _check.require_at_least("t", t, 0.0)
    return _quartic(*jnp.broadcast_arrays(*_check.as_floats(t, p, q, initial)))


def _quartic(t: Array, p: Array, q: Array, initial: Array) -> Array:
    grows = p >= 0
    rate = jnp.where(grows, p, -p)  # |p|, with derivative +1 at 0
    x = 2 * rate * jnp.where((rate == 0) & jnp.isinf(t), 0, t)
    # k = q (1 - e^{-2|p|t}) / |p|, which tends to 2 q t as p -> 0.
    small = x < jnp.finfo(x.dtype).eps ** 0.5
    safe_rate = jnp.where(small, 1, rate)
    near_zero = 2 * jnp.where(small, t, 0) * (1 - x / 2)
    lasted = jnp.where(small, near_zero, -jnp.expm1(-jnp.where(small, 1, x)) / safe_rate)
    # At p = q = 0 and t = inf it is 0 times infinity; elsewhere at q = 0 k is 0 and has a slope.
    k = q * jnp.where((q == 0) & jnp.isinf(lasted), 0, lasted)
    # s = sign(s0) e^u / sqrt(1 + e^{2u} k) with u = p t + log|s0|, turned round where u > 0.
    zero = initial == 0
    log_initial = jnp.log(jnp.abs(jnp.where(zero, 1, initial)))
    sign = jnp.where(initial < 0, -1, 1).astype(x.dtype)
    u = jnp.where(grows, x, -x) / 2 + log_initial
    turned = grows & (u > 0)
    u_low = jnp.where(turned, 0, u)
    u_high = jnp.where(turned, u, 0)
    # For p < 0 the factor e^{2u} k becomes s0^2 k: the decay is already inside k.
    weight = jnp.exp(2 * jnp.where(grows, u_low, log_initial))
    low = jnp.exp(u_low) / jnp.sqrt(1 + weight * k)
    high = jax.lax.rsqrt(jnp.exp(-2 * u_high) + jnp.where(turned, k, 0))
    # From zero the solution stays there; its slope in s0 is e^{pt}, bounded to stay finite.
    bound = jnp.log(jnp.finfo(x.dtype).max) / 2
    linear = initial * jnp.exp(jnp.minimum(jnp.where(grows, x, -x) / 2, bound))
    return jnp.where(zero, linear, sign * jnp.where(turned, high, low))


def singular_value(
    t: Real[ArrayLike, "..."],
    eigenvalue: Real[ArrayLike, "..."],
    initial: Real[ArrayLike, "..."],
    *,
    learning_rate: Real[ArrayLike, "..."] = 0.0,
) -> Float[Array, "..."]:
    r"""Singular value :math:`s_j(t)` of an aligned model (Proposition 4.1, Eq. 10).

    .. math:: s_j(t) = \frac{e^{4\gamma_j t}}{\sqrt{s_j^{-2}(0) + (e^{8\gamma_j t} - 1)\gamma_j}},
        \qquad s_j' = 4 (1 - \gamma_j s_j^2) \gamma_j s_j \quad (\text{Eq. 12})

    It goes to :math:`\gamma_j^{-1/2}`, stays, or goes to 0 as :math:`\gamma_j` is positive, zero or
    negative (Eq. 13, ``t=jnp.inf``).

    Args:
        t: effective time ≥ 0, learning rate × step; any shape, and the arguments broadcast.
        eigenvalue: γ, of any sign.
        initial: s(0).
        learning_rate: 0 for gradient flow. Otherwise the step of gradient descent, whose slower
            growth is accounted for by :func:`effective_eigenvalue`.

    Returns:
        s(t), in the broadcast shape.

    Raises:
        ValueError: if a time is negative.

    Example:
        >>> import jax.numpy as jnp
        >>> from sslstep import linear
        >>> linear.singular_value(jnp.inf, jnp.array([4.0, 0.0, -1.0]), 0.125)
        Array([0.5  , 0.125, 0.   ], dtype=float32)
    """
    _check.require_at_least("t", t, 0.0)
    t, eigenvalue, initial, learning_rate = _check.as_floats(t, eigenvalue, initial, learning_rate)
    t, eigenvalue, initial, learning_rate = jnp.broadcast_arrays(
        t, eigenvalue, initial, learning_rate
    )
    t = t * _slowdown(eigenvalue, learning_rate)
    return _quartic(t, 4 * eigenvalue, 4 * eigenvalue**2, initial)


def mode_eigenvalue(
    t: Real[ArrayLike, "..."],
    eigenvalue: Real[ArrayLike, "..."],
    initial: Real[ArrayLike, "..."],
    *,
    learning_rate: Real[ArrayLike, "..."] = 0.0,
) -> Float[Array, "..."]:
    r"""Eigenvalue :math:`\lambda_j(t) = \gamma_j s_j^2(t)` of C: for γ > 0 a logistic curve.

    .. math:: \lambda_j(t) = \mathrm{sigmoid}(8\gamma_j t + \mathrm{logit}\,\lambda_j(0))

    The curves of Figure 1(B).

    Args:
        t: effective time ≥ 0; any shape, and the arguments broadcast.
        eigenvalue: γ, of any sign.
        initial: s(0).
        learning_rate: as in :func:`singular_value`.

    Returns:
        λ(t), in the broadcast shape.

    Raises:
        ValueError: if a time is negative.

    Example:
        >>> from sslstep import linear
        >>> tau = linear.half_rise_time(2.0, 1e-7)
        >>> print(f"{linear.mode_eigenvalue(tau, 2.0, 1e-7):.3f}")
        0.500
    """
    t, gamma, initial, rate = _check.as_floats(t, eigenvalue, initial, learning_rate)
    value = singular_value(t, gamma, initial, learning_rate=rate)
    return jnp.broadcast_to(gamma, value.shape) * value**2


def critical_time(
    eigenvalue: Real[ArrayLike, "..."],
    initial: Real[ArrayLike, "..."],
    *,
    learning_rate: Real[ArrayLike, "..."] = 0.0,
) -> Float[Array, "..."]:
    r"""The time at which a mode is learned from small initialisation (Eq. 16).

    .. math:: \tau_j = \frac{-\log(s_j^2(0) \gamma_j)}{8 \gamma_j}

    :math:`\lambda_j(\tau_j) = \tfrac12` up to :math:`O(\lambda_j(0))`; :func:`half_rise_time` is
    exact. A mode with γ ≤ 0, or that starts at zero, is never learned: ``inf``.

    Args:
        eigenvalue: γ, of any sign; the arguments broadcast.
        initial: s(0).
        learning_rate: as in :func:`singular_value`: the rate 8γ in the denominator, not the γ in
            the logarithm, is replaced.

    Returns:
        τ, in units of effective time.

    Example:
        >>> from sslstep import linear
        >>> print(f"{linear.critical_time(1.0, 1e-7):.4f}")
        4.0295
    """
    gamma, log_initial, learned, scale = _growth(eigenvalue, initial, learning_rate)
    return jnp.where(learned, -log_initial / (8 * gamma * scale), jnp.inf)


def half_rise_time(
    eigenvalue: Real[ArrayLike, "..."],
    initial: Real[ArrayLike, "..."],
    *,
    learning_rate: Real[ArrayLike, "..."] = 0.0,
) -> Float[Array, "..."]:
    r"""The time at which :math:`\lambda_j = \tfrac12` exactly.

    .. math:: -\frac{\mathrm{logit}(\gamma_j s_j^2(0))}{8 \gamma_j}

    Zero for a mode that starts at or above one half, ``inf`` for one that is never learned.

    Args:
        eigenvalue: γ, of any sign; the arguments broadcast.
        initial: s(0).
        learning_rate: as in :func:`critical_time`.

    Returns:
        The time, in units of effective time.

    Example:
        >>> from sslstep import linear
        >>> print(f"{linear.half_rise_time(1.0, 0.1):.4f} {linear.critical_time(1.0, 0.1):.4f}")
        0.5744 0.5756
    """
    gamma, log_initial, learned, scale = _growth(eigenvalue, initial, learning_rate)
    below = learned & (log_initial < jnp.log(0.5).astype(gamma.dtype))
    log_initial = jnp.where(below, log_initial, -1)
    logit = log_initial - jnp.log1p(-jnp.exp(log_initial))
    time = jnp.where(below, -logit / (8 * gamma * scale), 0)
    return jnp.where(learned, time, jnp.inf)


def effective_eigenvalue(
    eigenvalue: Real[ArrayLike, "..."], learning_rate: Real[ArrayLike, "..."]
) -> Float[Array, "..."]:
    r"""The rate at which gradient descent, not gradient flow, grows a mode.

    .. math:: \gamma^{\mathrm{eff}} = \frac{\log(1 + 4 \eta \gamma)}{4 \eta}

    A step of gradient descent multiplies a small mode by :math:`1 + 4\eta\gamma`, where gradient
    flow multiplies it by :math:`e^{4\eta\gamma}` in the same time η. With
    :math:`\gamma^{\mathrm{eff}}` in the exponents of Eqs. 10 and 16 (not in the final value
    :math:`\gamma^{-1/2}`) the predictions hold at finite learning rate: the fastest mode of the
    paper's linear run is late by 2 to 3% against Eq. 16 and by less than 1% against this.

    Args:
        eigenvalue: γ, of any sign; the arguments broadcast.
        learning_rate: η ≥ 0; 0 gives γ.

    Returns:
        :math:`\gamma^{\mathrm{eff}}`, in the broadcast shape.

    Example:
        >>> from sslstep import linear
        >>> print(f"{linear.effective_eigenvalue(282.0, 5e-5):.1f}")
        274.3
    """
    gamma, eta = jnp.broadcast_arrays(*_check.as_floats(eigenvalue, learning_rate))
    return gamma * _slowdown(gamma, eta)


def max_learning_rate(eigenvalues: Real[ArrayLike, " k"]) -> Float[Array, ""]:
    r"""The learning rate below which gradient descent from a small start is stable.

    Around the top spectral solution the mode equation of gradient descent,
    :math:`s \leftarrow s + 4\eta(1 - \gamma s^2)\gamma s`, has slope :math:`1 - 8\eta\gamma`, and
    the off-diagonal pairs (j, k) have :math:`1 - 4\eta(\gamma_j + \gamma_k)`; a direction with
    γ < 0 has :math:`1 - 4\eta|\gamma|` around zero. All lie within the unit circle if and only if

    .. math:: \eta < \min\left(\frac{1}{4 \gamma_{\max}}, \frac{1}{2 |\gamma_{\min}|}\right),

    the second only if :math:`\gamma_{\min} < 0`. Above the first bound the top spectral solution is
    unstable, and descent can at best end in another one; above the second, what should decay grows
    until the embedding is full. (The paper's :math:`\eta = 1/4` of G.3 is its case γ = 1.)

    Args:
        eigenvalues: of Γ, in any order, shape ``(k,)``.

    Returns:
        The limit, a scalar; ``inf`` if all eigenvalues are zero.

    Raises:
        ValueError: if ``eigenvalues`` is no vector, empty, or not finite.

    Example:
        >>> import jax.numpy as jnp
        >>> from sslstep import linear
        >>> print(f"{linear.max_learning_rate(jnp.array([1.0, 0.1, -0.1])):.2f}")
        0.25
    """
    _check.require_vector("eigenvalues", eigenvalues, "(k,)")
    _check.require_finite("eigenvalues", eigenvalues)
    (eigenvalues,) = _check.as_floats(eigenvalues)
    curvature = jnp.maximum(4 * eigenvalues.max(), -2 * eigenvalues.min())
    return jnp.where(curvature > 0, 1 / jnp.where(curvature > 0, curvature, 1), jnp.inf)


def plateau_loss(
    t: Real[ArrayLike, "..."], critical_times: Real[ArrayLike, " d"]
) -> Float[Array, "..."]:
    r"""The loss as a staircase: the number of modes not yet learned (Eq. 20).

    .. math:: \mathcal{L}(t) \approx \sum_{j | \tau_j > t} 1

    Args:
        t: effective time, any shape ``(...)``.
        critical_times: τ of each mode, shape ``(d,)``.

    Returns:
        The loss, shape ``(...)``.

    Raises:
        ValueError: if ``critical_times`` is no vector.

    Example:
        >>> import jax.numpy as jnp
        >>> from sslstep import linear
        >>> linear.plateau_loss(jnp.array([0.0, 2.0, 9.0]), jnp.array([1.0, 3.0]))
        Array([2., 1., 0.], dtype=float32)
    """
    _check.require_vector("critical_times", critical_times, "(d,)", least=0)
    t, critical_times = _check.as_floats(t, critical_times)
    waiting = t[..., None] < jnp.broadcast_to(critical_times, (*t.shape, critical_times.shape[0]))
    return jnp.sum(waiting, axis=-1).astype(critical_times.dtype)


def _slowdown(eigenvalue: Array, learning_rate: Array) -> Array:
    """γ_eff / γ = log(1 + 4ηγ) / (4ηγ), 1 at ηγ = 0; the arguments have one shape."""
    x = 4 * learning_rate * eigenvalue
    small = jnp.abs(x) < jnp.finfo(x.dtype).eps ** 0.5
    safe = jnp.where(small, 1, x)
    # Below -1 the factor 1 + x is negative: the mode alternates in sign and |1 + x| is its size.
    size = jnp.abs(1 + jnp.minimum(safe, -0.5))
    log_growth = jnp.where(
        safe > -0.5, jnp.log1p(jnp.maximum(safe, -0.5)), jnp.log(jnp.maximum(size, 1e-30))
    )
    return jnp.where(small, 1 - x / 2, log_growth / safe)


def _growth(
    eigenvalue: ArrayLike, initial: ArrayLike, learning_rate: ArrayLike
) -> tuple[Array, Array, Array, Array]:
    """γ and log(s0² γ), made safe where the mode is not learned; whether it is; γ_eff / γ."""
    gamma, initial, eta = jnp.broadcast_arrays(
        *_check.as_floats(eigenvalue, initial, learning_rate)
    )
    learned = (gamma > 0) & (initial != 0)
    gamma = jnp.where(learned, gamma, 1)
    log_initial = 2 * jnp.log(jnp.abs(jnp.where(learned, initial, 1))) + jnp.log(gamma)
    return gamma, log_initial, learned, _slowdown(gamma, eta)
