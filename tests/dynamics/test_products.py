"""Depth and predictors, against the matrices that are trained."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from sslstep import dynamics, linear, losses, simulate

GAMMAS, SIGMAS = np.array([1.0, 0.6, 0.3]), np.array([1.2, 0.9, 0.8])


def descent(loss):
    return lambda weights: jax.tree.map(jnp.negative, jax.grad(loss)(weights))


def rotation(seed):
    return jnp.linalg.qr(jax.random.normal(jax.random.key(seed), (3, 3)))[0]


@pytest.mark.parametrize("num_layers", [1, 2, 3])
def test_deep_networks_of_balanced_layers(x64, num_layers):
    """Under `linear.loss` of their product, from layers that share one set of singular values."""
    start = np.array([0.2, 0.15, 0.1])
    turns = [rotation(i) for i in range(num_layers)] + [jnp.eye(3)]  # Γ's eigenvectors come last
    layers = [
        turns[i] @ jnp.diag(start ** (1 / num_layers)) @ turns[i + 1].T for i in range(num_layers)
    ]

    def loss(layers):
        product = layers[0]
        for layer in layers[1:]:
            product = product @ layer
        return linear.loss(product, jnp.diag(GAMMAS))

    t = jnp.linspace(0.0, 12.0, 25)
    found = simulate.flow(descent(loss), layers, t, rtol=1e-10)
    product = found[0]
    for layer in found[1:]:
        product = product @ layer
    measured = jnp.linalg.norm(product, axis=1)  # the columns are s u
    landscape = dynamics.deep(dynamics.plain(), GAMMAS, num_layers)
    predicted = dynamics.singular_value(t[:, None], GAMMAS, start, landscape=landscape)
    np.testing.assert_allclose(measured, predicted, rtol=1e-7)


def test_the_wait_of_deep_networks_is_a_power_of_the_start(x64):
    starts = np.array([1e-3, 1e-6])
    for num_layers, tol in ((2, 1e-3), (3, 1e-3), (4, 3e-3)):
        landscape = dynamics.deep(dynamics.plain(), 0.7, num_layers)
        times = dynamics.step_time(0.7, starts, landscape=landscape)
        power = 2 * (num_layers - 1) / num_layers
        np.testing.assert_allclose(times, starts**-power / (8 * 0.7 * (num_layers - 1)), rtol=tol)


@pytest.mark.parametrize("gamma", [1e-3, 1.0, 282.0])
def test_forces_that_vanish_at_zero_where_small_numbers_underflow(gamma):
    """In float32, in closed form; λ(0) or its quotient by γ is below the smallest number."""
    starts = np.array([1e-2, 1e-3, 1e-10, 1e-18, 1e-25]) / max(gamma, 1) ** 0.5
    u = np.sqrt([gamma * starts**2, np.full(5, 0.5)])
    since, until = np.arctanh(u) - 1 / u
    landscape = dynamics.deep(dynamics.plain(), gamma, 2)
    times = dynamics.step_time(gamma, starts, landscape=landscape)
    np.testing.assert_allclose(times, (until - since) / (8 * gamma**0.5), rtol=2e-5)
    reached = dynamics.mode_eigenvalue(times[:2], gamma, starts[:2], landscape=landscape)
    np.testing.assert_allclose(reached, 0.5, rtol=1e-3)
    np.testing.assert_allclose(
        dynamics.step_time(
            gamma, starts, level=gamma / 4, landscape=dynamics.self_distillation(gamma, gamma)
        ),
        (1 / starts + np.log(1 / starts - 1) - 2) / (4 * gamma),
        rtol=2e-5,
    )


def test_forces_that_underflow():
    """f = 6 λ² (1 - λ³) is zero at the smallest λ; the integral by mpmath."""
    times = dynamics.step_time(
        1.0, np.sqrt([0.01, 0.001]), landscape=dynamics.modewise(lambda x: x**3)
    )
    np.testing.assert_allclose(times, [208.271118715893, 20833.271493716], rtol=1e-5)


def test_curves_where_rounding_makes_the_force_zero():
    """Near a flat minimum, in float32, from a start that is far away."""
    flat = dynamics.modewise(lambda x: x * (2 - x))
    found, wanted = (
        dynamics.mode_eigenvalue(np.array([10.0, 100.0]), 1.0, 1e-25, landscape=each)
        for each in (flat, dynamics.fourth_power())
    )
    np.testing.assert_allclose(found, wanted, rtol=1e-3)


@pytest.mark.parametrize("predictor", [None, 0.3])
def test_networks_with_predictors(x64, predictor):
    """Under the loss itself, on samples of these Γ and Σ."""
    start = np.array([0.03, 0.02, 0.01])
    u = rotation(0)
    p_start = start if predictor is None else np.full(3, predictor)
    weights = (u @ jnp.diag(start), u @ jnp.diag(p_start) @ u.T)
    # Views (x, y) whose E[x xᵀ], E[y yᵀ] and (E[x yᵀ] + E[y xᵀ]) / 2 are diagonal: by sums and
    # differences of orthogonal rows.
    plus, minus = np.sqrt((SIGMAS + GAMMAS) / 2), np.sqrt((SIGMAS - GAMMAS) / 2)
    rows = np.sqrt(8) * np.linalg.qr(np.random.default_rng(0).normal(size=(8, 6)))[0]
    x, y = rows[:, :3] * plus + rows[:, 3:] * minus, rows[:, :3] * plus - rows[:, 3:] * minus

    def loss(weights, targets):
        w, p = weights
        q, q_prime, t, t_prime = x @ w.T @ p.T, y @ w.T @ p.T, x @ targets.T, y @ targets.T
        return losses.prediction_error(q, q_prime, t, t_prime, normalise=False)

    t = jnp.linspace(0.0, 30.0, 31)
    velocity = descent(lambda weights: loss(weights, jax.lax.stop_gradient(weights[0])))
    w, p = simulate.flow(velocity, weights, t, rtol=1e-10)
    landscape = dynamics.self_distillation(GAMMAS, SIGMAS, p_start**2 - start**2)
    predicted = dynamics.singular_value(t[:, None], GAMMAS, start, landscape=landscape)
    np.testing.assert_allclose(jnp.linalg.norm(w, axis=1), predicted, rtol=1e-6)
    np.testing.assert_allclose(
        jnp.linalg.norm(p, axis=(1, 2)) ** 2,
        np.sum(np.asarray(predicted) ** 2 + p_start**2 - start**2, axis=1),
        rtol=1e-6,
    )


def test_half_way_in_the_predictor_in_closed_form(x64):
    gamma, sigma, start = 0.7, 0.9, np.array([1e-3, 1e-5])
    landscape = dynamics.self_distillation(gamma, sigma)
    level = gamma * (gamma / sigma / 2) ** 2
    found = dynamics.step_time(gamma, start, level=level, landscape=landscape)
    logarithm = np.log(gamma / sigma / start - 1) - 2
    np.testing.assert_allclose(
        found, (1 / (gamma * start) + sigma / gamma**2 * logarithm) / 4, rtol=1e-12
    )


def test_a_predictor_that_is_too_large_learns_nothing():
    """γ = σ p₀ is the limit."""
    gaps = jnp.asarray([0.6, 0.8]) ** 2
    landscape = dynamics.self_distillation(0.7, 1.0, gaps)
    times = dynamics.step_time(jnp.full(2, 0.7), 1e-3, level=1e-3, landscape=landscape)
    assert np.isfinite(times[0])
    assert np.isposinf(times[1])


@pytest.mark.parametrize(
    "make",
    [
        lambda a: dynamics.deep(dynamics.plain(), a, 2),
        lambda a: dynamics.self_distillation(a, 1.0, 0.1),
    ],
)
def test_they_pass_through_transformations(count_compilations, make):
    def time(gamma):
        return dynamics.step_time(gamma, 1e-2, level=1e-3, landscape=make(gamma))

    compiled = jax.jit(time)
    assert count_compilations(compiled, [jnp.float32(a) for a in (0.5, 0.7, 0.9)]) == 0
    gammas = jnp.asarray([0.5, 0.9])
    np.testing.assert_allclose(jax.vmap(time)(gammas), [compiled(a) for a in gammas], rtol=1e-5)
    slope = (time(0.71) - time(0.69)) / 0.02
    np.testing.assert_allclose(jax.grad(time)(jnp.float32(0.7)), slope, rtol=1e-2)


def test_arguments():
    with pytest.raises(ValueError, match="eigenvalue must be > 0, got 0"):
        dynamics.deep(dynamics.plain(), 0.0, 2)
    with pytest.raises(ValueError, match="num_layers must be >= 1, got 0"):
        dynamics.deep(dynamics.plain(), 1.0, 0)
    with pytest.raises(ValueError, match="variance must be > 0, got -1"):
        dynamics.self_distillation(1.0, -1.0)
