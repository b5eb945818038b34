r"""Closed-form solutions of :math:`s' = p s - q s^3`, the quartic family, in logarithms.

The solutions are accurate at every t, in float32 too: no exponential overflows, and squares and
products such as s² may lie outside the range of the dtype. Derivatives beyond this range are
clipped to an eighth of the largest number.
"""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import DTypeLike
from jaxtyping import Array


def of_mode(
    t: Array, gamma: Array, initial: Array, eta: Array, a: Array, b: Array
) -> tuple[Any, ...]:
    """Return the flow time equivalent to descent time t, p, the two factors of q, γ, and a flag.

    The returned γ is finite; the flag says whether the given γ was infinite.
    """
    gamma, was, end = capped(gamma), jnp.isinf(gamma), jnp.isinf(t)
    most = jnp.finfo(gamma.dtype).max / 2
    p, q = jnp.clip(4 * gamma * a, -most, most), (4 * gamma, capped(gamma * b))
    finite = jnp.where(t < 0, jnp.nan, jnp.where(end, 0, t)) * slowdown(p / 4, eta)
    _, v, _ = _exponents(finite, p, *q, initial)
    t = jnp.where(end, t, finite + 0.75 * eta * jax.nn.softplus(v))
    return t, p, q, gamma, was


def slowdown(eigenvalue: Array, learning_rate: Array) -> Array:
    """Return γ_eff / γ = log|1 + 4ηγ| / (4ηγ), or 1 at ηγ = 0, for arguments of one shape."""
    x = jnp.minimum(4 * learning_rate * eigenvalue, jnp.finfo(eigenvalue.dtype).max)
    small = jnp.abs(x) < jnp.finfo(x.dtype).eps ** 0.5
    safe = jnp.where(small, 1, x)
    # Below -1 the factor 1 + x is negative: the mode alternates in sign and |1 + x| is its size.
    size = jnp.abs(1 + jnp.minimum(safe, -0.5))
    log_growth = jnp.where(
        safe > -0.5, jnp.log1p(jnp.maximum(safe, -0.5)), jnp.log(jnp.maximum(size, 1e-30))
    )
    return jnp.where(small, 1 - x / 2, log_growth / safe)


def capped(value: Array) -> Array:
    """Replace infinity by a large finite number, whose product with zero is 0 instead of NaN."""
    most = jnp.finfo(value.dtype).max / 8
    return jnp.clip(value, -most, most)


def _log_range(dtype: DTypeLike) -> float:
    """Return an upper bound on the logarithm of a product of eight numbers of the dtype."""
    return 8 * float(np.log(float(jnp.finfo(dtype).max)))


def log_abs(value: Array) -> Array:
    """Return log|x|, or a very negative number if x is 0 or denormal (processors flush it to 0)."""
    size = jnp.abs(capped(value))
    zero = size < jnp.finfo(size.dtype).tiny
    return jnp.where(zero, -4 * _log_range(size.dtype), jnp.log(jnp.where(zero, 1, size)))


def _exp(exponent: Array) -> Array:
    """Return e^x, capped at an eighth of the largest number of the dtype."""
    return jnp.exp(jnp.minimum(exponent, jnp.log(jnp.finfo(exponent.dtype).max / 8)))


def _is_small(y: Array) -> Array:
    return jnp.abs(y) < jnp.finfo(y.dtype).eps ** 0.5


def _exponents(t: Array, p: Array, a: Array, b: Array, initial: Array) -> tuple[Array, ...]:
    r"""Return y = 2pt, :math:`v = \log E`, and :math:`\log (1 - e^{-|y|}) / |p|`.

    .. math:: E = s_0^2\, a b\, (e^y - 1) / p, \qquad s = s_0\, e^{y/2} (1 + E)^{-1/2}

    Here a b = q, and s_0 is the initial value of s.
    """
    none, bound = (p == 0) | (t == 0), _log_range(t.dtype)
    # At |y| beyond the bound s has reached its limit, up to rounding.
    y = jnp.clip(2 * jnp.where(none, 0, p) * jnp.where(none, 0, t), -bound, bound)
    small = _is_small(y)
    size = jnp.abs(jnp.where(small, 1, y))
    # (1 - e^{-|y|}) / |p|, which tends to 2t.
    lasted = jnp.where(
        small,
        log_abs(t) + jnp.log(2.0).astype(t.dtype) - jnp.abs(y) / 2,
        jnp.log(-jnp.expm1(-size)) - log_abs(p),
    )
    v = log_abs(a) + log_abs(b) + 2 * log_abs(initial) + lasted + jnp.maximum(y, 0)
    return y, v, lasted


def _grown(y: Array, v: Array, initial: Array) -> Array:
    """Return s where E ≤ 1; elsewhere the value has no meaning and is discarded."""
    low = jnp.where((v > 0) | (initial == 0), 0, y)
    # e^(low / 2) in three factors: the whole may overflow where its product with s_0 does not.
    factor = jnp.exp(low / 6)
    return initial * factor * factor * factor * jax.lax.rsqrt(1 + jnp.exp(jnp.minimum(v, 0)))


@jax.custom_jvp
def solution(t: Array, p: Array, a: Array, b: Array, initial: Array) -> Array:
    """Solve s' = p s - a b s³ for s(t); a and b have one sign, and their product may overflow."""
    y, v, _ = _exponents(t, p, a, b, initial)
    # Where E > 1, s = e^{min(y, 0) / 2} / (root sqrt(1 + 1 / E)).
    small = _is_small(y)
    ratio = jnp.sqrt(jnp.abs(a)) / jnp.where(small, 1, jnp.sqrt(jnp.abs(p)))
    size = jnp.abs(y)
    root = jnp.where(small, jnp.sqrt(t) * 2**0.5 * (1 - size / 4), jnp.sqrt(-jnp.expm1(-size)))
    root = jnp.where(v > 0, ratio * jnp.sqrt(jnp.abs(b)) * root, 1)
    high = jnp.exp(jnp.minimum(y, 0) / 2) * jax.lax.rsqrt(1 + jnp.exp(-jnp.maximum(v, 0))) / root
    return jnp.where(v > 0, jnp.sign(initial) * high, _grown(y, v, initial))


@solution.defjvp
def _solution_jvp(primals, tangents):
    t, p, a, b, initial = primals
    s, (y, v, lasted) = solution(*primals), _exponents(*primals)
    small, start, log_left = _is_small(y), log_abs(initial), -jax.nn.softplus(v)
    left = jnp.exp(log_left)  # 1 / (1 + E)
    # t (1 / y - 1 / (e^y - 1)), which is t / 2 at y = 0.
    times = jnp.minimum(t, jnp.finfo(t.dtype).max / 8)
    lag = times / jnp.expm1(jnp.where(small, 1, y))
    lag = jnp.where(small, times / 2 * (1 - y / 6), 0.5 / jnp.where(small, 1, p) - lag)
    # In logarithms, because factors may overflow: s s0² / (1 + E), s (E / q) / (1 + E), and in
    # the last slope s / (s0 (1 + E)).
    cubed = 3 * start + y / 2 + 1.5 * log_left
    by_q = cubed + lasted + jnp.maximum(y, 0)
    sign = jnp.sign(initial)
    slopes = (
        s * (p * left) - sign * _exp(log_abs(a) + log_abs(b) + cubed),
        s * (times * left + jax.nn.sigmoid(v) * lag),
        -0.5 * sign * jnp.sign(b) * _exp(log_abs(b) + by_q),
        -0.5 * sign * jnp.sign(a) * _exp(log_abs(a) + by_q),
        _exp(y / 2 + 1.5 * log_left),
    )
    return s, _along(slopes, tangents)


@jax.custom_jvp
def eigenvalue(t: Array, gamma: Array, initial: Array) -> Array:
    """Return λ(t) = γ s² of plain descent; where E > 1, from y and E alone, without s²."""
    y, v, _ = _exponents(t, 4 * gamma, 4 * gamma, gamma, initial)
    size = jnp.where(v > 0, -jnp.expm1(-jnp.abs(y)), 1) * (1 + jnp.exp(-jnp.maximum(v, 0)))
    high = jnp.sign(gamma) * jnp.exp(jnp.minimum(y, 0)) / size
    grown = _grown(y, v, initial)
    return jnp.where(v > 0, high, (gamma * grown) * grown)


@eigenvalue.defjvp
def _eigenvalue_jvp(primals, tangents):
    t, gamma, initial = primals
    mode = (t, 4 * gamma, 4 * gamma, gamma, initial)
    value, s, (y, v, _) = eigenvalue(*primals), solution(*mode), _exponents(*mode)
    size, log_left = log_abs(gamma) + log_abs(initial), -jax.nn.softplus(v)
    left = jnp.exp(log_left)
    # 1 - λ(t) = (1 - λ(0)) / (1 + E)
    rest = left - jnp.sign(gamma) * _exp(size + log_abs(initial) + log_left)
    slopes = (
        8 * (gamma * value) * rest,
        s * (s * (left + y * rest)),
        2 * jnp.sign(gamma) * jnp.sign(initial) * _exp(size + y + 2 * log_left),
    )
    return value, _along(slopes, tangents)


def _along(slopes, tangents) -> Array:
    """Return the derivative along the tangents, with slopes clipped to the range of the dtype."""
    most = jnp.finfo(slopes[0].dtype).max / 8
    return sum(
        jnp.clip(slope, -most, most) * tangent
        for slope, tangent in zip(slopes, tangents, strict=True)
    )
