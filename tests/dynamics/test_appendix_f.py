"""Appendix F: landscapes, their descent, and its two time scales."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from sslstep import dynamics, losses


def test_trajectories_descend_their_losses(dtype):
    """In the rescaled coordinates, in which the landscapes are drawn."""
    t = jnp.linspace(0, 5, 26, dtype=dtype)[:, None, None]
    gammas = jnp.asarray([1.0, 0.3, 0.0], dtype)[None, :, None]
    initial = jnp.asarray([1e-3, -1e-3, 0.0, 1.7], dtype)[None, None]
    pairs = [
        (lambda t: dynamics.singular_value(gammas * t, 1.0, initial), lambda s: (1 - s**2) ** 2),
        (lambda t: dynamics.supervised_trajectory(t, gammas, initial), lambda c: (1 - c) ** 2),
    ]
    for trajectory, loss in pairs:
        s, velocity = jax.jvp(trajectory, (t,), (jnp.ones_like(t),))
        expected = np.asarray(-gammas * jax.grad(lambda s, loss=loss: loss(s).sum())(s))
        # Each side is a difference of terms of size 8γ max|s|^3, rounded some ten times.
        tol = 100 * jnp.finfo(dtype).eps * np.asarray(gammas) * np.maximum(1, np.abs(initial)) ** 3
        assert (np.abs(velocity - expected) <= tol).all()
        np.testing.assert_allclose(s[:1], np.broadcast_to(initial, s[:1].shape), rtol=1e-6)


def test_a_mode_of_eigenvalue_1_is_the_rescaled_one(x64):
    t = jnp.linspace(0, 3, 31)
    for landscape in (dynamics.plain(), dynamics.sharpened(1e-2)):
        rescaled = dynamics.singular_value(0.7 * t, 1.0, 0.7**0.5 * 1e-3, landscape=landscape)
        expected = 0.7**0.5 * dynamics.singular_value(t, 0.7, 1e-3, landscape=landscape)
        np.testing.assert_allclose(rescaled, expected, rtol=1e-9)


def test_symmetry_is_broken_by_the_sign_of_the_start():
    ends = dynamics.singular_value(100.0, 1.0, jnp.array([1e-9, 0.0, -1e-9]))
    np.testing.assert_allclose(ends, [1, 0, -1], rtol=1e-6)
    ends = dynamics.supervised_trajectory(100.0, 1.0, jnp.array([1e-9, 0.0, -1e-9]), target=2.0)
    np.testing.assert_allclose(ends, 2.0)


def test_times_of_modes_that_never_move(dtype):
    gammas = jnp.asarray([0.0, -0.0, -2.0, 1.0], dtype)
    never = [np.inf, np.inf, np.inf]
    np.testing.assert_array_equal(dynamics.settling_time(gammas), [*never, 0.125])
    escape = dynamics.critical_time(gammas, 0.5)
    np.testing.assert_allclose(escape, [*never, np.log(2) / 4], rtol=1e-6)
    assert float(dynamics.critical_time(1.0, -3.0, level=0.1)) == 0  # outside already
    slopes = jax.grad(lambda g, s: dynamics.critical_time(g, s).sum(), (0, 1))(gammas, gammas)
    assert all(np.isfinite(np.asarray(slope)).all() for slope in slopes)
    assert np.isnan(dynamics.critical_time(1.0, 0.1, level=jnp.asarray(-1.0)))
    assert np.isnan(dynamics.settling_time(np.nan))
    with pytest.raises(ValueError, match="level must be > 0"):
        dynamics.critical_time(1.0, 0.1, level=0.0)


def test_settling_time_is_the_rate_of_the_last_approach(x64):
    t, landscape = jnp.asarray([2.0, 2.5]), dynamics.hinge(0.2)
    rest = landscape.rest**0.5 - dynamics.singular_value(t, 1.0, 0.3, landscape=landscape)
    assert float(rest[1] / rest[0]) == pytest.approx(
        np.exp(-0.5 / dynamics.settling_time(1.0, landscape=landscape)),
        rel=1e-3,  # the distance is 2e-4 at most, and that is the relative size of what comes next
    )
    assert np.isinf(dynamics.settling_time(1.0, landscape=dynamics.fourth_power()))


@pytest.mark.parametrize("num_learned", [1, 4])
def test_vicreg_rests_where_its_loss_is_least_at_this_rank(x64, num_learned):
    """Gradient descent on embeddings confined to k directions ends at the plateau's two values."""
    dim, n = 6, 64
    basis, _ = np.linalg.qr(np.random.default_rng(0).normal(size=(n, num_learned)))
    basis -= basis.mean(axis=0)
    basis = jnp.asarray(np.linalg.qr(basis)[0] * np.sqrt(n - 1))

    def loss(weights):
        z = basis @ weights
        return losses.vicreg(z, z, eps=0.0)

    start = 0.01 * jax.random.normal(jax.random.key(num_learned), (num_learned, dim))
    value = jax.value_and_grad(loss)

    def descend(weights, rate):
        return weights - rate * value(weights)[1], None

    # The hinge's kink at variance 1 leaves a jitter of the size of one step.
    weights, _ = jax.lax.scan(descend, start, jnp.geomspace(1e-2, 1e-6, 20_000))
    plateau = dynamics.vicreg_plateau(num_learned, dim)
    assert float(value(weights)[0]) == pytest.approx(float(plateau.loss), rel=1e-3)
    eigenvalues = np.linalg.eigvalsh(np.asarray(weights.T @ weights))[-num_learned:]
    np.testing.assert_allclose(eigenvalues, plateau.eigenvalue, rtol=0.02)


def test_vicreg_plateaus_end_at_d():
    assert float(dynamics.vicreg_plateau(6, 6).loss) == 0
    with pytest.raises(ValueError, match="num_learned must be <= 4, got 5"):
        dynamics.vicreg_plateau(5, 4)


def test_vicreg_plateaus_end_where_coordinates_part(x64, unchecked):
    """At μ = ν seven coordinates alone and nine in one dimension do better than all alike."""

    def loss(variances, blocks, mu=1.0, nu=1.0):
        covariance = np.zeros((16, 16))
        for block in blocks:
            vectors = np.zeros((16, len(block)))
            vectors[block, 0] = np.sqrt(variances[block])
            covariance += vectors @ vectors.T
        rest = covariance - np.diag(np.diag(covariance))
        hinge = np.maximum(0, 1 - np.sqrt(np.diag(covariance)))
        return mu * hinge.mean() + 2 * nu * (rest**2).sum() / 16

    alone = [[j] for j in range(7)] + [list(range(7, 16))]
    apart = loss(np.r_[np.ones(7), np.full(9, (1 / 64) ** (2 / 3))], alone)
    assert apart == pytest.approx(0.457, abs=1e-3)
    excess = 1.0
    v = (1 / (8 * excess)) ** (2 / 3)
    alike = 1 - v**0.5 + 2 * v**2 * excess
    assert alike == pytest.approx(0.625)
    for weights in ({"variance": 1.0, "covariance": 1.0}, {"variance": 15.9}, {"covariance": 2.0}):
        with pytest.raises(ValueError, match="variance must be at least 16 times covariance"):
            dynamics.vicreg_plateau(8, 16, **weights)
    traced = jax.jit(lambda mu: dynamics.vicreg_plateau(8, 16, variance=mu).loss)
    assert np.isnan(traced(1.0))
    assert float(traced(16.0)) == float(dynamics.vicreg_plateau(8, 16, variance=16.0).loss)


def test_no_growth_and_no_end(dtype):
    """0 times infinity, and logarithms of ratios that overflow."""
    big = 1e30 if dtype == jnp.float32 else 1e250
    rates = jnp.asarray([0.0, 1.0], dtype)
    ends = dynamics.supervised_trajectory(jnp.inf, rates, jnp.asarray(0.2, dtype))
    np.testing.assert_allclose(ends, [0.2, 1.0], rtol=1e-6)
    slopes = jax.grad(lambda r: dynamics.supervised_trajectory(jnp.inf, r, 0.2).sum())(rates)
    assert np.isfinite(np.asarray(slopes)).all()
    tiny = jnp.asarray(1 / big, dtype)
    for landscape in (dynamics.plain(), dynamics.smoothed()):
        time = dynamics.step_time(1.0, tiny, level=1 / big, landscape=landscape)
        assert float(time) == pytest.approx(np.log(big) / 8, rel=1e-5)
