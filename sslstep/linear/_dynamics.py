r"""The exact dynamics of one mode: closed forms that hold at every t, in float32 too."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import ArrayLike, DTypeLike
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

    Computed without a growing exponential and in logarithms, so values are finite and right for all
    t ≥ 0, for :math:`p = 0`, in float32, and where :math:`s_0^2`, :math:`q / p` or :math:`s_0^2 q`
    is no normal number; :math:`t = \infty` gives the limit. Gradients are finite: one that exceeds
    the largest number is that number. The sign of ``initial`` is kept: the equation is odd in s.

    Args:
        t: time ≥ 0, any shape; the four arguments broadcast.
        p: the linear rate, of any sign.
        q: the saturation, :math:`q \ge 0`.
        initial: s(0).

    Returns:
        s(t), in the broadcast shape; NaN where a time is negative.

    Raises:
        ValueError: if a time is negative, in a number or an array of NumPy's.

    Example:
        >>> from sslstep import linear
        >>> print(f"{linear.quartic(100.0, 2.0, 8.0, 1e-6):.3f}")  # settles at sqrt(p / q)
        0.500
    """
    _check.require_at_least("t", t, 0.0, on_host=True)
    return _quartic(*_check.as_floats(t, p, q, initial))


@jax.jit
def _quartic(t: Array, p: Array, q: Array, initial: Array) -> Array:
    t, p, q, initial = jnp.broadcast_arrays(t, p, q, initial)
    return _solution(_not_negative(t), _capped(p), _capped(q), jnp.ones_like(q), initial)


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
        learning_rate: 0 for gradient flow. Otherwise the step η of gradient descent: growth is that
            of :func:`effective_eigenvalue`, and the rise earlier by up to
            :math:`\tfrac34 \eta \log 2` than with that alone, as docs/errata.md derives.

    Returns:
        s(t), in the broadcast shape; NaN where a time is negative.

    Raises:
        ValueError: if a time is negative, in a number or an array of NumPy's.

    Example:
        >>> import jax.numpy as jnp
        >>> from sslstep import linear
        >>> linear.singular_value(jnp.inf, jnp.array([4.0, 0.0, -1.0]), 0.125)
        Array([0.5  , 0.125, 0.   ], dtype=float32)
    """
    _check.require_at_least("t", t, 0.0, on_host=True)
    return _singular_value(*_check.as_floats(t, eigenvalue, initial, learning_rate))


@jax.jit
def _singular_value(*mode: Array) -> Array:
    t, gamma, initial, at_once = _of_mode(*mode)
    value = _solution(t, 4 * gamma, 4 * gamma, gamma, initial)
    return jnp.where(at_once & (gamma > 0) & (t > 0), 0, value)


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
        λ(t), in the broadcast shape; NaN where a time is negative.

    Raises:
        ValueError: if a time is negative, in a number or an array of NumPy's.

    Example:
        >>> from sslstep import linear
        >>> tau = linear.half_rise_time(2.0, 1e-7)
        >>> print(f"{linear.mode_eigenvalue(tau, 2.0, 1e-7):.3f}")
        0.500
    """
    _check.require_at_least("t", t, 0.0, on_host=True)
    return _mode_eigenvalue(*_check.as_floats(t, eigenvalue, initial, learning_rate))


@jax.jit
def _mode_eigenvalue(*mode: Array) -> Array:
    t, gamma, initial, infinite = _of_mode(*mode)
    value = _eigenvalue(t, gamma, initial)
    return jnp.where(infinite & (t == 0) & (initial != 0), jnp.sign(gamma) * jnp.inf, value)


def critical_time(
    eigenvalue: Real[ArrayLike, "..."],
    initial: Real[ArrayLike, "..."],
    *,
    learning_rate: Real[ArrayLike, "..."] = 0.0,
) -> Float[Array, "..."]:
    r"""The time at which a mode is learned from small initialisation (Eq. 16).

    .. math:: \tau_j = \frac{-\log(s_j^2(0) \gamma_j)}{8 \gamma_j}

    :math:`\lambda_j(\tau_j) = \tfrac12` up to :math:`O(\lambda_j(0))`; :func:`half_rise_time` is
    exact. A mode with γ ≤ 0, or that starts at zero, is never learned: ``inf``. One that starts at
    or above one half, :math:`s_j^2(0) \gamma_j \ge \tfrac12`, has no step ahead: 0, where Eq. 16 is
    of no meaning and, from :math:`s_j^2(0) \gamma_j = 1` on, negative.

    Args:
        eigenvalue: γ, of any sign; the arguments broadcast.
        initial: s(0).
        learning_rate: as in :func:`singular_value`: the rate 8γ in the denominator, not the γ in
            the logarithm, is replaced, and the time is earlier by up to half a step.

    Returns:
        τ, in units of effective time.

    Example:
        >>> from sslstep import linear
        >>> print(f"{linear.critical_time(1.0, 1e-7):.4f}")
        4.0295
    """
    return _time(*_check.as_floats(eigenvalue, initial, learning_rate), exact=False)


def half_rise_time(
    eigenvalue: Real[ArrayLike, "..."],
    initial: Real[ArrayLike, "..."],
    *,
    learning_rate: Real[ArrayLike, "..."] = 0.0,
) -> Float[Array, "..."]:
    r"""The first time at which :math:`\lambda_j` is at least one half, exactly.

    .. math:: -\frac{\mathrm{logit}(\gamma_j s_j^2(0))}{8 \gamma_j}

    Zero for a mode that starts at or above one half, which has no step ahead, as of
    :func:`critical_time` and :func:`sslstep.landscape.step_time`; ``inf`` for one that is never
    learned.

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
    return _time(*_check.as_floats(eigenvalue, initial, learning_rate), exact=True)


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


def _of_mode(*mode: Array) -> tuple[Array, ...]:
    """When flow is where descent is at t; γ, made finite, and s(0); whether γ was infinite."""
    t, eigenvalue, initial, eta = jnp.broadcast_arrays(*mode)
    gamma, end = _capped(eigenvalue), jnp.isinf(t)
    finite = _not_negative(jnp.where(end, 0, t)) * _slowdown(gamma, eta)
    _, v, _ = _exponents(finite, 4 * gamma, 4 * gamma, gamma, initial)
    t = jnp.where(end, t, finite + 0.75 * eta * jax.nn.softplus(v))
    return t, gamma, initial, jnp.isinf(eigenvalue)


def _slowdown(eigenvalue: Array, learning_rate: Array) -> Array:
    """γ_eff / γ = log(1 + 4ηγ) / (4ηγ), 1 at ηγ = 0; the arguments have one shape."""
    x = jnp.minimum(4 * learning_rate * eigenvalue, jnp.finfo(eigenvalue.dtype).max)
    small = jnp.abs(x) < jnp.finfo(x.dtype).eps ** 0.5
    safe = jnp.where(small, 1, x)
    # Below -1 the factor 1 + x is negative: the mode alternates in sign and |1 + x| is its size.
    size = jnp.abs(1 + jnp.minimum(safe, -0.5))
    log_growth = jnp.where(
        safe > -0.5, jnp.log1p(jnp.maximum(safe, -0.5)), jnp.log(jnp.maximum(size, 1e-30))
    )
    return jnp.where(small, 1 - x / 2, log_growth / safe)


@partial(jax.jit, static_argnames="exact")
def _time(gamma: Array, initial: Array, eta: Array, *, exact: bool) -> Array:
    """When a mode is at one half; if not exact, log λ(0) stands for its logit."""
    gamma, initial, eta = jnp.broadcast_arrays(gamma, initial, eta)
    learned = (gamma > 0) & (initial != 0) | jnp.isnan(gamma + initial)
    log_start = _log(gamma) + 2 * _log(initial)
    ahead = learned & ~(log_start >= jnp.log(0.5).astype(gamma.dtype))
    gamma, log_start = jnp.where(ahead, gamma, 1), jnp.where(ahead, log_start, -1)
    rest = -jnp.log1p(-jnp.exp(log_start)) if exact else jnp.zeros_like(gamma)
    # logit λ + (x / 2) log(1 - λ) grows evenly under descent, x = 12 η γ; of λ = 1/2 the root is
    # found by Newton's method, whose steps for this convex function end in rounding.
    x = 6 * jnp.where(ahead, eta, 0) * gamma
    end = x * rest
    root = end - x * jnp.log(2.0).astype(x.dtype) / (1 + x / 2)
    for _ in range(6):
        root = root - (root + x * jax.nn.softplus(root) - end) / (1 + x * jax.nn.sigmoid(root))
    time = (root - log_start - rest) / (8 * gamma * _slowdown(gamma, eta))
    return jnp.where(learned, jnp.where(ahead, jnp.maximum(time, 0), 0), jnp.inf)


def _not_negative(t: Array) -> Array:
    return jnp.where(t < 0, jnp.nan, t)


def _capped(value: Array) -> Array:
    """Infinity as a number, so that what is multiplied by it is no NaN."""
    most = jnp.finfo(value.dtype).max / 8
    return jnp.clip(value, -most, most)


def _log_range(dtype: DTypeLike) -> float:
    """Above all logarithms of products of eight numbers."""
    return 8 * float(np.log(float(jnp.finfo(dtype).max)))


def _log(value: Array) -> Array:
    """log|x|; of 0, which processors take denormal numbers for, a number below what counts."""
    size = jnp.abs(_capped(value))
    zero = size < jnp.finfo(size.dtype).tiny
    return jnp.where(zero, -4 * _log_range(size.dtype), jnp.log(jnp.where(zero, 1, size)))


def _exp(exponent: Array) -> Array:
    """Never infinite."""
    return jnp.exp(jnp.minimum(exponent, jnp.log(jnp.finfo(exponent.dtype).max / 8)))


def _is_small(y: Array) -> Array:
    return jnp.abs(y) < jnp.finfo(y.dtype).eps ** 0.5


def _exponents(t: Array, p: Array, a: Array, b: Array, initial: Array) -> tuple[Array, ...]:
    r"""y = 2pt, :math:`v = \log E`, and the logarithm of E by a b s_0², e^{max(y, 0)} apart.

    .. math:: E = s_0^2\, a b\, (e^y - 1) / p, \qquad s = s_0\, e^{y/2} (1 + E)^{-1/2}
    """
    none, bound = (p == 0) | (t == 0), _log_range(t.dtype)
    # Beyond the bound a mode is at rest to rounding.
    y = jnp.clip(2 * jnp.where(none, 0, p) * jnp.where(none, 0, t), -bound, bound)
    small = _is_small(y)
    size = jnp.abs(jnp.where(small, 1, y))
    # (1 - e^{-|y|}) / |p|, which tends to 2t.
    lasted = jnp.where(
        small,
        _log(t) + jnp.log(2.0).astype(t.dtype) - jnp.abs(y) / 2,
        jnp.log(-jnp.expm1(-size)) - _log(p),
    )
    v = _log(a) + _log(b) + 2 * _log(initial) + lasted + jnp.maximum(y, 0)
    return y, v, lasted


def _grown(y: Array, v: Array, initial: Array) -> Array:
    """s where E ≤ 1, elsewhere not so."""
    low = jnp.where((v > 0) | (initial == 0), 0, y)
    # In three, as the whole may overflow where what it multiplies is small.
    factor = jnp.exp(low / 6)
    return initial * factor * factor * factor * jax.lax.rsqrt(1 + jnp.exp(jnp.minimum(v, 0)))


@jax.custom_jvp
def _solution(t: Array, p: Array, a: Array, b: Array, initial: Array) -> Array:
    """s(t) of s' = p s - a b s³, a and b of one sign; their product, such as γ², may overflow."""
    y, v, _ = _exponents(t, p, a, b, initial)
    # Where E > 1, s = e^{min(y, 0) / 2} / (root sqrt(1 + 1 / E)).
    small = _is_small(y)
    ratio = jnp.sqrt(jnp.abs(a)) / jnp.where(small, 1, jnp.sqrt(jnp.abs(p)))
    size = jnp.abs(y)
    root = jnp.where(small, jnp.sqrt(t) * 2**0.5 * (1 - size / 4), jnp.sqrt(-jnp.expm1(-size)))
    root = jnp.where(v > 0, ratio * jnp.sqrt(jnp.abs(b)) * root, 1)
    high = jnp.exp(jnp.minimum(y, 0) / 2) * jax.lax.rsqrt(1 + jnp.exp(-jnp.maximum(v, 0))) / root
    return jnp.where(v > 0, jnp.sign(initial) * high, _grown(y, v, initial))


@_solution.defjvp
def _solution_jvp(primals, tangents):
    t, p, a, b, initial = primals
    s, (y, v, lasted) = _solution(*primals), _exponents(*primals)
    small, start, log_left = _is_small(y), _log(initial), -jax.nn.softplus(v)
    left = jnp.exp(log_left)  # 1 / (1 + E)
    # t (1 / y - 1 / (e^y - 1)), which is t / 2 at y = 0.
    times = jnp.minimum(t, jnp.finfo(t.dtype).max / 8)
    lag = times / jnp.expm1(jnp.where(small, 1, y))
    lag = jnp.where(small, times / 2 * (1 - y / 6), 0.5 / jnp.where(small, 1, p) - lag)
    # Logarithms, as parts of a product may overflow: of s³, s³ E / q and s / s0.
    cubed = 3 * start + y / 2 + 1.5 * log_left
    by_q = cubed + lasted + jnp.maximum(y, 0)
    sign = jnp.sign(initial)
    slopes = (
        s * (p * left) - sign * _exp(_log(a) + _log(b) + cubed),
        s * (times * left + jax.nn.sigmoid(v) * lag),
        -0.5 * sign * jnp.sign(b) * _exp(_log(b) + by_q),
        -0.5 * sign * jnp.sign(a) * _exp(_log(a) + by_q),
        _exp(y / 2 + 1.5 * log_left),
    )
    return s, _along(slopes, tangents)


@jax.custom_jvp
def _eigenvalue(t: Array, gamma: Array, initial: Array) -> Array:
    """γ s², without the square, and without s where it is not small: there λ has no γ in it."""
    y, v, _ = _exponents(t, 4 * gamma, 4 * gamma, gamma, initial)
    size = jnp.where(v > 0, -jnp.expm1(-jnp.abs(y)), 1) * (1 + jnp.exp(-jnp.maximum(v, 0)))
    high = jnp.sign(gamma) * jnp.exp(jnp.minimum(y, 0)) / size
    grown = _grown(y, v, initial)
    return jnp.where(v > 0, high, (gamma * grown) * grown)


@_eigenvalue.defjvp
def _eigenvalue_jvp(primals, tangents):
    t, gamma, initial = primals
    mode = (t, 4 * gamma, 4 * gamma, gamma, initial)
    value, s, (y, v, _) = _eigenvalue(*primals), _solution(*mode), _exponents(*mode)
    size, log_left = _log(gamma) + _log(initial), -jax.nn.softplus(v)
    left = jnp.exp(log_left)
    # 1 - λ(t) = (1 - λ(0)) / (1 + E)
    rest = left - jnp.sign(gamma) * _exp(size + _log(initial) + log_left)
    slopes = (
        8 * (gamma * value) * rest,
        s * (s * (left + y * rest)),
        2 * jnp.sign(gamma) * jnp.sign(initial) * _exp(size + y + 2 * log_left),
    )
    return value, _along(slopes, tangents)


def _along(slopes, tangents) -> Array:
    """The derivative along tangents; a slope that overflows is the largest number."""
    most = jnp.finfo(slopes[0].dtype).max / 8
    return sum(
        jnp.clip(slope, -most, most) * tangent
        for slope, tangent in zip(slopes, tangents, strict=True)
    )
