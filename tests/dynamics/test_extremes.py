"""Closed forms of one mode at the ends of the range, against extended precision."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from sslstep import dynamics

WIDE = np.longdouble


def quartic(t, p, q, initial):
    """s' = p s - q s³."""
    family = dynamics.quartic_family(p / 4, q / 4)
    return dynamics.singular_value(t, 1.0, initial, landscape=family)


def _log_curve(t, gamma, initial):
    """log|λ(t)| and log|s(t)| of Eq. 10, in NumPy's extended precision; elementwise."""
    t, gamma, initial = (np.asarray(x, WIDE) for x in (t, gamma, initial))
    with np.errstate(divide="ignore", over="ignore", invalid="ignore"):
        y = 8 * gamma * t
        log_start = 2 * np.log(np.abs(initial))
        log_growth = np.where(
            y > 0, y + np.log(-np.expm1(-np.abs(y))), np.log(-np.expm1(-np.abs(y)))
        )
        v = log_start + np.log(np.abs(gamma)) + log_growth
        # log s² = log s0² + y - log(1 + e^v)
        square = np.where(
            v > 0,
            np.minimum(y, 0)
            - np.log(np.abs(gamma))
            - np.log(-np.expm1(-np.abs(y)))
            - np.log1p(np.exp(-np.abs(v))),
            log_start + y - np.log1p(np.exp(-np.abs(v))),
        )
        square = np.where((y == 0) | (gamma == 0), log_start, square)
    return square + np.log(np.abs(gamma)), square / 2


def _grid(dtype):
    """Every other power, from the least normal number to the largest."""
    far = 36 if dtype == jnp.float32 else 300
    powers = 10.0 ** np.linspace(-far, far, 13)
    return np.array(list(itertools.product(powers, [*powers, *-powers], powers))).T


def _conditioning(dtype, t, gamma, initial):
    """Rounding of the exponent 8γt, and of logarithms of up to the range's."""
    eps = float(jnp.finfo(dtype).eps)
    span = 8 * np.log(float(jnp.finfo(dtype).max))
    return eps * (10 + np.minimum(np.abs(8 * gamma * t), span) + span)


def test_everywhere_within_the_range(dtype):
    t, gamma, initial = _grid(dtype).astype(dtype)
    log_value, log_s = _log_curve(t, gamma, initial)
    least, most = float(jnp.finfo(dtype).tiny), float(jnp.finfo(dtype).max)
    tol = _conditioning(dtype, t.astype(WIDE), gamma.astype(WIDE), initial)
    for function, expected, sign in (
        (dynamics.mode_eigenvalue, log_value, np.sign(gamma)),
        (dynamics.singular_value, log_s, 1),
    ):
        found = np.asarray(function(t, gamma, initial), WIDE) * sign
        assert not np.isnan(found).any()
        low, high = expected < np.log(least) + 0.1, expected > np.log(most) - 0.1
        assert (found[low] <= 2 * least).all()
        assert (found[high] >= most / 2).all()
        inside = ~low & ~high
        assert inside.sum() > 1000
        error = np.abs(found[inside] / np.exp(expected[inside]) - 1)
        assert (error <= tol[inside].astype(float)).all(), error.max()


def test_the_examples_of_the_report():
    gamma, t, initial = np.float32(1e-22), np.float32(2e22), np.float32(1e9)
    expected = float(np.exp(_log_curve(t, gamma, initial)[0]))
    assert expected == pytest.approx(0.9989, abs=1e-4)
    assert float(dynamics.mode_eigenvalue(t, gamma, initial)) == pytest.approx(expected, rel=1e-5)
    assert float(dynamics.mode_eigenvalue(np.inf, 1e20, 1e-12)) == 1
    assert float(dynamics.singular_value(np.inf, 1e20, 1e-12)) == pytest.approx(1e-10, rel=1e-6)
    assert float(dynamics.singular_value(np.inf, 1e-30, 1e-12)) == pytest.approx(1e15, rel=1e-6)


def test_slopes_everywhere_are_numbers_and_right(dtype):
    """By Eq. 12, λ' = 8γλ(1 - λ), and by what Eq. 10 says of γ and s(0), in extended precision."""
    t, gamma, initial = _grid(dtype).astype(dtype)
    wide = [x.astype(WIDE) for x in (t, gamma, initial)]
    y = 8 * wide[0] * wide[1]
    with np.errstate(divide="ignore", over="ignore", invalid="ignore"):
        log_value, log_s = _log_curve(*wide)
        log_start = np.log(np.abs(wide[1])) + 2 * np.log(wide[2])
        log_growth = np.maximum(y, 0) + np.log(-np.expm1(-np.abs(y)))
        log_left = -np.logaddexp(0, log_start + log_growth)
        sign = np.sign(wide[1])
        # 1 - λ(t) = (1 - λ(0)) / (1 + E)
        log_rest = np.where(
            sign < 0,
            np.logaddexp(0, log_start) + log_left,
            np.maximum(log_start, 0) + np.log(-np.expm1(-np.abs(log_start))) + log_left,
        )
        rest = np.where(log_start < 0, 1, sign * -1) * np.exp(log_rest)
        slopes = {
            (dynamics.mode_eigenvalue, 0): 8 * wide[1] * sign * np.exp(log_value) * rest,
            (dynamics.mode_eigenvalue, 1): np.exp(2 * log_s) * (np.exp(log_left) + y * rest),
            (dynamics.mode_eigenvalue, 2): 2 * wide[1] * np.exp(log_s + y / 2 + 1.5 * log_left),
            (dynamics.singular_value, 0): 4 * wide[1] * np.exp(log_s) * rest,
            (dynamics.singular_value, 2): np.exp(y / 2 + 1.5 * log_left),
        }
    least, most = float(jnp.finfo(dtype).tiny), float(jnp.finfo(dtype).max)
    eps = float(jnp.finfo(dtype).eps)
    away = np.abs(log_start) > 0.1  # where 1 - λ is no difference of equal numbers
    span = 8 * np.log(most)
    for (function, which), expected in slopes.items():
        mapped = jax.vmap(jax.grad(function, which))
        found = np.asarray(mapped(t, gamma, initial), WIDE)
        assert np.isfinite(found).all()
        inside = (np.abs(expected) > 1e3 * least) & (np.abs(expected) < most / 100)
        # s or λ itself, of which slopes are made, is a normal number.
        inside &= away & (log_s > np.log(least)) & (log_value > np.log(least))
        inside &= (np.abs(y) < 0.1 / eps) & (log_s < np.log(most)) & np.isfinite(expected)
        tol = eps * (20 + 4 * np.minimum(np.abs(y), span) + 4 * span)
        error = np.abs(found[inside] / expected[inside] - 1)
        assert inside.sum() > 300
        assert (error < tol[inside].astype(float)).all(), (function, which, error.max())


def test_no_edge_gives_nan(dtype):
    edges = (
        [0.0, 1e-40, 1.0, np.inf],
        [0.0, 1e-40, -1e-40, np.inf, -np.inf, 3.0, -3.0],
        [0.0, 1e-40, 0.5, -1e30],
    )
    arguments = [jnp.asarray(x, dtype) for x in np.array(list(itertools.product(*edges))).T]
    for function in (dynamics.singular_value, dynamics.mode_eigenvalue):
        assert not np.isnan(function(*arguments)).any()
        slopes = jax.vmap(jax.grad(function, (0, 1, 2)))(*arguments)
        assert np.isfinite(np.asarray(slopes)).all()
    for function in (dynamics.critical_time, dynamics.step_time):
        assert (np.asarray(function(*arguments[1:])) >= 0).all()
        slopes = jax.vmap(jax.grad(function, (0, 1)))(*arguments[1:])
        assert not np.isnan(np.asarray(slopes)).any()


def test_limits_of_infinite_rates(dtype):
    gammas = jnp.asarray([np.inf, np.inf, -np.inf], dtype)
    t = jnp.asarray([0.0, 1.0, 1.0], dtype)
    np.testing.assert_array_equal(dynamics.mode_eigenvalue(t, gammas, 1e-3), [np.inf, 1, 0])
    np.testing.assert_allclose(dynamics.singular_value(t, gammas, 1e-3), [1e-3, 0, 0], rtol=1e-6)
    # Without growth s falls as 1 / sqrt(2 q t); without either nothing moves.
    initial = jnp.asarray(0.3, dtype)
    found = quartic(np.inf, jnp.zeros(2, dtype), jnp.asarray([2.0, 0.0], dtype), initial)
    np.testing.assert_array_equal(found, jnp.stack([0 * initial, initial]))


def test_nan_is_not_hidden():
    for arguments in ((np.nan, 1.0, 0.1), (1.0, np.nan, 0.1), (1.0, 1.0, np.nan)):
        t, *mode = (jnp.float32(x) for x in arguments)
        for function in (dynamics.singular_value, dynamics.mode_eigenvalue):
            assert np.isnan(function(t, *mode))
        if not np.isnan(t):
            assert np.isnan(dynamics.step_time(*mode))
            assert np.isnan(dynamics.critical_time(*mode))


def test_quartic_where_its_ratio_overflows(dtype):
    """s(∞) = sqrt(p / q) with q / p and q s0² outside of the range."""
    big = 1e30 if dtype == jnp.float32 else 1e250
    p, q = jnp.asarray([big, 1 / big], dtype), jnp.asarray([1 / big, big], dtype)
    for initial in (1e-20, 1e20, 1 / big):
        found = quartic(np.inf, p, q, jnp.asarray(initial, dtype))
        np.testing.assert_allclose(found, [big, 1 / big], rtol=1e-5)
