"""The linear model trained: against the dense loop, against theory, and what goes wrong."""

from functools import partial

import equinox
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.test_util import check_grads

from sslstep import dynamics, linear, simulate


def correlated(n, m, seed, dtype=jnp.float64):
    """Γ of correlated pairs whose features have a decaying scale: indefinite, rank <= 2n."""
    rng = np.random.default_rng(seed)
    common = rng.normal(size=(n, m)) * np.arange(1, m + 1) ** -0.7
    x, x_prime = (common + 0.3 * rng.normal(size=(n, m)) / np.sqrt(m) for _ in range(2))
    return linear.cross_correlation(jnp.asarray(x, dtype), jnp.asarray(x_prime, dtype))


def dense_loop(w, gamma, learning_rate, num_steps, record):
    """The obvious alternative: NumPy, a dense Γ, the original coordinates."""
    records = {0: w}
    for step in range(1, num_steps + 1):
        image = w @ gamma
        w = w - 4 * learning_rate * (image @ w.T - np.eye(len(w), dtype=w.dtype)) @ image
        if step in record:
            records[step] = w
    return np.stack([records[step] for step in record])


@pytest.mark.parametrize("n", [30, 8])  # of 20 features: full rank, and rank 16
def test_same_trajectory_as_the_dense_loop(x64, n):
    gamma = correlated(n, 20, 0)
    weights = linear.init_weights(jax.random.key(0), 3, 20, 1e-4, jnp.float64)
    eta = 0.3 * float(dynamics.max_learning_rate(linear.modes(gamma).eigenvalues))
    at = [0, 1, 10, 100, 1000]
    expected = dense_loop(np.asarray(weights), np.asarray(gamma), eta, 1000, at)
    run = simulate.gradient_descent(weights, gamma, eta, 1000, record_at=at, keep_weights=True)
    np.testing.assert_allclose(run.weights, expected, rtol=1e-7, atol=1e-10)
    np.testing.assert_allclose(run.times, eta * np.array(at), rtol=1e-14)
    losses = [float(linear.loss(jnp.asarray(w), gamma)) for w in expected]
    np.testing.assert_allclose(run.loss, losses, rtol=1e-9, atol=1e-12)
    c = expected @ np.asarray(gamma) @ expected.transpose(0, 2, 1)
    np.testing.assert_allclose(run.eigenvalues, np.linalg.eigvalsh(c)[:, ::-1], atol=1e-10)
    every = simulate.gradient_descent(weights, gamma, eta, 1000, record_every=500)
    np.testing.assert_allclose(every.weights[-1], expected[-1], rtol=1e-9, atol=1e-12)
    known = simulate.gradient_descent(weights, linear.modes(gamma), eta, 1000, record_at=at)
    assert known.coefficients.shape == (1, 3, 20)  # of the last record alone
    np.testing.assert_allclose(known.coefficients, run.coefficients[-1:], rtol=1e-9, atol=1e-15)
    np.testing.assert_allclose(known.eigenvalues, run.eigenvalues, rtol=1e-9, atol=1e-15)


@pytest.mark.parametrize("given", ["matrix", "modes"])
def test_a_small_mode_among_many_features_moves_under_jit_and_without(given):
    # In float32 m eps exceeds this γ: as a bound on rounding it would stop the mode.
    gammas = jnp.zeros(1200).at[:2].set(jnp.array([1.0, 1e-4]))
    start = jnp.eye(2, 1200) * jnp.array([[1e-2], [10.0]])

    def final(gammas):
        modes = linear.Modes(gammas, jnp.eye(1200))
        gamma = modes if given == "modes" else jnp.diag(gammas)
        return simulate.gradient_descent(start, gamma, 0.2, 15_000, 15_000).eigenvalues[-1]

    expected = linear.mode_eigenvalue(3000.0, gammas[:2], jnp.diagonal(start), learning_rate=0.2)
    assert 0.09 < expected[1] < 0.11
    np.testing.assert_allclose(final(gammas), expected, rtol=1e-3)
    np.testing.assert_allclose(jax.jit(final)(gammas), final(gammas), rtol=1e-5)


def test_given_modes_stand_still_only_where_gamma_is_zero():
    modes = linear.Modes(jnp.array([1.0, 1e-6, 0.0]), jnp.eye(3))
    start = jnp.array([[0.0, 0.1, 0.1]])
    run = simulate.gradient_descent(start, modes, 0.1, 100_000, 100_000)
    expected = linear.singular_value(1e4, modes.eigenvalues[1:], 0.1)
    np.testing.assert_allclose(run.coefficients[-1, 0, 1:], expected, rtol=1e-2)
    assert expected[0] > 0.104
    flow = simulate.gradient_flow(start, modes, jnp.array([0.0, 1e4]))
    np.testing.assert_allclose(flow.coefficients[-1, 0, 1:], expected, rtol=1e-3)


@pytest.mark.parametrize("rank", [2, 40, 199])
def test_modes_of_a_matrix_of_low_rank_stand_still(rank):
    rng = np.random.default_rng(rank)
    vectors = np.linalg.qr(rng.normal(size=(200, 200)))[0][:, :rank]
    values = np.geomspace(1, 1e-4, rank)
    gamma = (vectors * values) @ vectors.T
    gamma = jnp.asarray((gamma + gamma.T) / 2, jnp.float32)
    weights = 0.1 * jnp.asarray(rng.normal(size=(1, 200)), jnp.float32)
    run = simulate.gradient_descent(weights, gamma, 0.1, 10, 10, keep_weights=True)
    moved = (run.coefficients[1] != run.coefficients[0]).any(axis=0)
    assert not moved[rank:].any()
    assert moved[: np.searchsorted(-values, -1e-3)].all()


def test_step_times_on_the_whole_chain(dtype):
    """Data to Γ to modes to step times, at a rate where gradient descent is not flow."""
    gamma = correlated(60, 30, 0, dtype)
    modes = linear.modes(gamma)
    gammas = modes.eigenvalues[:4]
    weights = linear.init_weights(jax.random.key(0), 4, 30, 1e-6, dtype)
    eta = 0.2 * float(dynamics.max_learning_rate(modes.eigenvalues))
    start = linear.align(weights, modes).singular_values
    tau = np.sort(dynamics.step_time(gammas, start, learning_rate=eta))
    steps = int(1.3 * tau[-1] / eta)
    run = simulate.gradient_descent(weights, gamma, eta, steps, record_at=np.arange(0, steps, 2))
    from sslstep.measure import spectrum

    measured = np.asarray(spectrum.step_times(run.times, run.eigenvalues))
    np.testing.assert_allclose(np.sort(measured), tau, rtol=0.02)


def test_flow_from_an_aligned_start_is_prop_41(dtype):
    gammas = jnp.asarray([2.0, 0.7, 0.0, -0.4], dtype)
    modes = linear.Modes(gammas, jnp.eye(4, dtype=dtype))
    times = jnp.linspace(0, 10, 41, dtype=dtype)
    # Aligned with all four modes, negative and zero ones too (footnote 7).
    start = jnp.asarray([1e-4, 1e-3, 0.2, 0.5], dtype)
    run = simulate.gradient_flow(jnp.diag(start), modes, times)
    expected = linear.singular_value(times[:, None], gammas, start)
    # While a mode grows, each of some hundred steps adds its relative tolerance, 1e-2 sqrt(eps).
    tol = 3e2 * 1e-2 * float(jnp.finfo(dtype).eps) ** 0.5
    np.testing.assert_allclose(np.diagonal(run.weights, 0, 1, 2), expected, rtol=tol, atol=tol)
    off = run.weights - expected[:, :, None] * jnp.eye(4, dtype=dtype)[None]
    assert float(jnp.abs(off).max()) < tol
    modewise = jnp.sum((1 - gammas[None, :] * expected**2) ** 2, axis=1)
    np.testing.assert_allclose(run.loss, modewise, rtol=10 * tol, atol=10 * tol)


def test_descent_converges_to_flow_at_first_order(x64):
    gamma = correlated(30, 10, 0)
    weights = linear.init_weights(jax.random.key(0), 2, 10, 0.05, jnp.float64)
    end = 0.5
    exact = simulate.gradient_flow(weights, gamma, jnp.asarray([end]), rtol=1e-11).weights[-1]
    errors = []
    for steps in (100, 200, 400):
        run = simulate.gradient_descent(weights, gamma, end / steps, steps, steps)
        errors.append(float(jnp.abs(run.weights[-1] - exact).max()))
    orders = -np.diff(np.log2(errors))
    np.testing.assert_allclose(orders, 1, atol=0.1)


def test_small_eigenvalues_in_float32_are_in_the_coefficients():
    """Beside a learned mode C's are rounding; as the docstring computes them they are not."""
    gammas, steps = np.array([282.0, 6.2, 2.9]), 2000
    weights = np.asarray(linear.init_weights(jax.random.key(0), 3, 3, 1e-7))

    def run(dtype):
        modes = linear.Modes(jnp.asarray(gammas, dtype), jnp.eye(3, dtype=dtype))
        start = jnp.asarray(weights, dtype)
        return simulate.gradient_descent(start, modes, 5e-5, steps, record_at=[steps])

    with jax.enable_x64(True):
        exact = np.asarray(run(jnp.float64).eigenvalues[0])
    found, eps = run(jnp.float32), float(jnp.finfo(jnp.float32).eps)
    assert exact[0] > 0.999
    assert exact[1] < 1e-10
    np.testing.assert_allclose(found.eigenvalues[0], exact, atol=(8 + 4 * 3**0.5) * eps)
    a = np.asarray(found.coefficients[0], np.float64)
    # Each step rounds a coefficient to eps / 2, and an eigenvalue is a square of them.
    np.testing.assert_allclose(np.linalg.eigvalsh(a * gammas @ a.T)[::-1], exact, rtol=steps * eps)


@pytest.mark.parametrize("gamma", [1.0, 3.0])
def test_where_descent_comes_to_rest_in_float32(gamma):
    eta = 1e-4
    modes = linear.Modes(jnp.array([gamma]), jnp.eye(1))
    steps = int(20 / (8 * eta * gamma))  # what is left would be e^-20 of λ's 3/4
    start = jnp.array([[0.5 * gamma**-0.5]])
    rest = 1 - float(simulate.gradient_descent(start, modes, eta, steps, steps).eigenvalues[-1, 0])
    bound = float(jnp.finfo(jnp.float32).eps) / (8 * eta * gamma)
    # λ itself is rounded to some eps, 1e-2 of the bound.
    assert 0.49 * bound < rest < 1.01 * bound


def test_gradients_through_both(x64):
    gamma = correlated(30, 6, 4)
    modes = linear.modes(gamma)
    weights = linear.init_weights(jax.random.key(4), 2, 6, 0.1, jnp.float64)

    @jax.jit
    def descend(w, eta):
        return simulate.gradient_descent(w, modes, eta, 20, 10).loss[-1]

    @jax.jit
    def flow(w):
        return simulate.gradient_flow(w, modes, jnp.asarray([0.2])).loss[-1]

    check_grads(descend, (weights, 0.02), order=1, modes=["rev"], rtol=1e-5)
    check_grads(flow, (weights,), order=1, modes=["rev"], rtol=1e-5)


def test_records_are_told(x64):
    seen = []
    run = simulate.gradient_descent(
        0.1 * jnp.ones((1, 2)),
        jnp.eye(2),
        0.01,
        30,
        10,
        on_record=lambda step: seen.append(int(step)),
    )
    jax.block_until_ready(run)
    jax.effects_barrier()
    assert sorted(seen) == [10, 20, 30]


def test_warns_above_the_stability_limit(x64):
    gamma = jnp.diag(jnp.asarray([1.0, 0.5]))
    with pytest.warns(UserWarning, match=r"learning_rate = 0.26 is above the stability limit 0.25"):
        simulate.gradient_descent(0.1 * jnp.eye(2), gamma, 0.26, 10)


@pytest.mark.filterwarnings("ignore:learning_rate")
@pytest.mark.parametrize("record_every", [1, 50])
def test_divergence_names_the_step(x64, record_every):
    gamma = jnp.diag(jnp.asarray([1.0, 0.5]))
    w, first = 0.1 * np.eye(2), None
    with np.errstate(over="ignore", invalid="ignore"):
        for step in range(1, 51):
            image = w @ np.asarray(gamma)
            w = w - 4 * 2.0 * (image @ w.T - np.eye(2)) @ image
            if not np.isfinite(w).all():
                first = step
                break
    assert first is not None
    with pytest.raises(simulate.DivergenceError, match=f"no longer finite at step {first} "):
        simulate.gradient_descent(0.1 * jnp.eye(2), gamma, 2.0, 50, record_every)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"weights": jnp.ones((2, 4))}, r"weights of shape \(2, 4\) do not fit Γ on 3 features"),
        ({"weights": jnp.ones((4, 3))}, "dimension d exceeds the number of features m"),
        ({"weights": jnp.full((2, 3), jnp.nan)}, "weights .* NaN"),
        ({"gamma_matrix": jnp.ones((3, 2))}, "gamma_matrix must be square"),
        ({"gamma_matrix": jnp.triu(jnp.ones((3, 3)))}, "gamma_matrix must be symmetric"),
        (
            {"gamma_matrix": linear.Modes(jnp.ones(1), jnp.ones((3, 1)))},
            "needs all modes of Γ, got 1 of 3",
        ),
        ({"learning_rate": 0.0}, "learning_rate must be > 0"),
        ({"learning_rate": jnp.full(2, 0.1)}, r"learning_rate must be a number, .* \(2,\)"),
        ({"record_every": 7}, "record_every = 7 does not divide num_steps = 20"),
        ({"record_every": 0}, "record_every must be >= 1"),
        ({"num_steps": -1}, "num_steps must be >= 0"),
        ({"record_at": [0, 5, 5]}, "increase strictly"),
        ({"record_at": [0, 25]}, r"within 0...num_steps = 20; it runs from 0 to 25"),
        ({"record_at": [0.5]}, "whole step numbers"),
    ],
)
def test_rejects(change, message, unchecked):
    arguments = {
        "weights": jnp.ones((2, 3)),
        "gamma_matrix": jnp.eye(3),
        "learning_rate": 0.01,
        "num_steps": 20,
        **change,
    }
    with pytest.raises(ValueError, match=message):
        simulate.gradient_descent(**arguments)


@pytest.mark.parametrize(
    ("times", "message"),
    [
        (jnp.asarray([]), r"times must hold at least 1 number"),
        (jnp.asarray([-1.0, 1.0]), "times must be >= 0, got -1"),
        (jnp.asarray([1.0, 0.5]), "times must not decrease, got 1 and then 0.5"),
        (jnp.asarray([1.0, jnp.inf]), "that are NaN or infinite, the first at index"),
    ],
)
def test_flow_rejects_times(times, message):
    with pytest.raises(ValueError, match=message):
        simulate.gradient_flow(jnp.ones((2, 3)), jnp.eye(3), times)


@pytest.mark.parametrize("scale", [1e-19, 1e-30, 1e-37])
def test_flow_from_starts_whose_squares_underflow(scale):
    """In float32, against the logistic curve in float64."""
    gammas = np.array([1.0, 0.5])
    half = -2 * np.log(scale) / 8
    times = np.array([half, 2 * half + 1])
    gamma = jnp.diag(jnp.asarray(gammas, jnp.float32))
    run = simulate.gradient_flow(scale * jnp.eye(2), gamma, jnp.asarray(times, jnp.float32))
    log_odds = np.log(gammas) + 2 * np.log(np.float32(scale)) + 8 * gammas * times[:, None]
    expected = 1 / (1 + np.exp(-log_odds))
    # Exponents of up to 170 accumulate rounding, and a step's tolerance is 3e-6 of some hundred.
    np.testing.assert_allclose(run.eigenvalues, expected, atol=2e-3)


def test_too_few_steps_are_told():
    """Of a flow that needs more, and of one that ends in finite time; others are as raised."""
    times = jnp.array([0.0, 50.0])
    for velocity, most in ((jnp.negative, 3), (jnp.square, 300)):
        with pytest.raises(RuntimeError, match=rf"^the integrator .* max_steps = {most} steps"):
            simulate.flow(velocity, jnp.ones(2), times, max_steps=most)
        ends = partial(simulate.flow, velocity, jnp.ones(2), max_steps=most)
        with pytest.raises(RuntimeError, match=rf"^the integrator .* max_steps = {most} steps"):
            jax.vmap(ends)(jnp.stack([times, times]))

    def broken(w):
        return equinox.error_if(w, w[0] > 0, "w is positive")

    with pytest.raises(RuntimeError, match="w is positive"):
        simulate.flow(broken, jnp.ones(2), times)


def test_flow_of_integers():
    """Integers are converted, as gradient_flow converts them."""
    found = simulate.flow(jnp.negative, np.array([2, -1]), jnp.asarray([0.0, 1.0]))
    np.testing.assert_allclose(found, np.outer([1, np.exp(-1)], [2, -1]), rtol=1e-5)


def test_flow_from_zeros():
    """The biases of most networks start at zero, and may become of any size."""
    start = {"weights": 0.1 * jnp.ones(2), "bias": jnp.zeros(2)}

    def velocity(w):
        return {"weights": -w["weights"], "bias": 1e3 - w["bias"]}

    found = simulate.flow(velocity, start, jnp.asarray([0.0, 1.0]))
    rest = np.exp(-1)
    np.testing.assert_allclose(found["weights"], [[0.1] * 2, [0.1 * rest] * 2], rtol=1e-5)
    np.testing.assert_allclose(found["bias"], [[0] * 2, [1e3 * (1 - rest)] * 2], rtol=1e-5)
    alone = simulate.flow(lambda b: 1e3 - b, jnp.zeros(2), jnp.asarray([0.0, 1.0]))
    np.testing.assert_allclose(alone, found["bias"], rtol=1e-5)


def test_flow_from_starts_whose_squares_overflow():
    """From λ = 100 to 1, in float32, with s from 1e19 to 1e18."""
    gamma = 1e-36 * jnp.eye(2)
    run = simulate.gradient_flow(1e19 * jnp.eye(2), gamma, jnp.asarray([0.0, 3e36]))
    for weights, s in zip(run.weights, (1e19, 1e18), strict=True):
        np.testing.assert_allclose(jnp.diagonal(weights), s, rtol=1e-3)


def test_rates_and_tolerances_compile_nothing_anew(count_compilations):
    gamma, times = jnp.diag(jnp.asarray([1.0, 0.5])), jnp.asarray([0.5, 1.0])

    def run(number):
        simulate.gradient_flow(1e-3 * jnp.eye(2), gamma, times, rtol=number, atol=number)
        simulate.gradient_descent(1e-3 * jnp.eye(2), gamma, number, 20, 20)
        simulate.flow(jnp.negative, jnp.ones(2), times, rtol=number)

    assert count_compilations(run, [1e-4, 1e-5, 1e-6]) == 0
