"""The linear model under preconditioned gradients: against its training, and between its forms."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from sslstep import dynamics, linear, losses, optim

GAMMAS = (1.0, 0.3, 0.1, 0.02)
START = 1e-3


def _limit(gammas, alpha=0.1):
    landscape = dynamics.preconditioned(dynamics.plain(), alpha)
    return dynamics.max_learning_rate(gammas, landscape=landscape)


def descend(gammas, noise, alpha, relative, rate, num_steps, initial):
    """Gradient descent of W on embeddings of data, through the loss and the preconditioner.

    One sample for each mode and sign of its noise, so Γ = diag(γ) and Σ = diag(γ + noise).
    """
    agree, differ = (jnp.diag(jnp.sqrt(part)) for part in (gammas + noise / 2, noise / 2))
    x, x_prime = (jnp.concatenate([agree, sign * differ]) for sign in (1, -1))
    x, x_prime = (jnp.sqrt(len(x)) * view for view in (x, x_prime))
    np.testing.assert_allclose(linear.cross_correlation(x, x_prime), jnp.diag(gammas), atol=1e-12)
    second = (x.T @ x + x_prime.T @ x_prime) / (2 * len(x))
    np.testing.assert_allclose(second, jnp.diag(gammas + noise), atol=1e-12)
    inner = optim.preconditioned(losses.barlow_twins, alpha=alpha, relative=relative)

    def loss(w):
        simplified = {"off_diagonal": 1.0, "batch_norm": False, "symmetrise": True}
        return inner(x @ w.T, x_prime @ w.T, **simplified)

    def step(w, _):
        return w - rate * jax.grad(loss)(w), gammas * jnp.diagonal(w) ** 2

    return jax.lax.scan(step, initial * jnp.eye(len(gammas)), length=num_steps)[1]


@pytest.mark.parametrize("relative", [True, False])
@pytest.mark.parametrize("noise", [0.0, 0.5])
def test_the_mode_equation_is_that_of_training(x64, relative, noise):
    """With noise, the views' second moment is half as large again as Γ."""
    gammas = jnp.asarray(GAMMAS)
    rate, num_steps = 2e-3, 12_000
    trained = descend(gammas, noise * gammas, 0.1, relative, rate, num_steps, START)
    t = rate * jnp.arange(num_steps, dtype=float)
    predicted = dynamics.preconditioned_eigenvalues(
        t, gammas, START * jnp.ones(4), 0.1, relative=relative, variances=(1 + noise) * gammas
    )
    assert int((predicted[-1] > 0.5).sum()) == 4
    # Descent is behind flow by a fraction 2ηγ times the gain of the time, and λ(1 - λ) ≤ 1/4.
    assert float(jnp.abs(trained - predicted).max()) < 0.25 * 8 * 12 * 2 * rate * 2


@pytest.mark.parametrize("alpha", [1.0, 0.01])
def test_half_rise_times_are_those_of_the_mode_equation(x64, alpha):
    gammas, start = jnp.asarray(GAMMAS), START * jnp.ones(4)
    times = dynamics.preconditioned_step_times(gammas, start, alpha)
    at = dynamics.preconditioned_eigenvalues(times, gammas, start, alpha, relative=False)
    np.testing.assert_allclose(jnp.diagonal(at), 0.5, atol=1e-8)
    assert float(times[0]) == pytest.approx(float(dynamics.step_time(1.0, START)), rel=1e-12)


@pytest.mark.parametrize("initial", [1e-19, 1e-23, 1e-30])
def test_starts_whose_squares_underflow(initial):
    """In float32, against float64, where they do not."""
    found, expected = [], []
    for x64, results in ((False, found), (True, expected)):
        with jax.enable_x64(x64):
            arguments = jnp.asarray(GAMMAS), jnp.full(4, initial)
            results.append(np.asarray(dynamics.preconditioned_step_times(*arguments)))
    # log λ0 is of up to 140 and cancels by less than half; each of some ten roundings is to eps.
    np.testing.assert_allclose(found, expected, rtol=20 * float(jnp.finfo(jnp.float32).eps))


def test_times_of_late_modes_are_those_of_the_landscape(x64):
    """Up to what is left of the first mode's rise, e^{-8γ₁t}, and of the start's λ_j / λ_1."""
    gammas, alpha = jnp.asarray([1.0, 0.01, 1e-3]), 0.1
    start = 1e-3 * jnp.ones(3)
    gained = dynamics.preconditioned(dynamics.plain(), alpha)
    times = dynamics.step_time(gammas, start, landscape=gained)
    # With a relative α the gain is there from the start, but mode 1 has to rise first.
    full = dynamics.preconditioned_eigenvalues(times.at[0].set(0), gammas, start, alpha)
    np.testing.assert_allclose([full[1, 1], full[2, 2]], 0.5, atol=2e-3)
    # An absolute one gains nothing before the first mode is learned: (1 + α) t = α t + wait.
    wait = dynamics.step_time(gammas[0], start[0]) / (1 + alpha)
    absolute = dynamics.preconditioned_step_times(gammas, start, alpha)
    gain = np.log(0.5 / (gammas * 1e-6)) * alpha + (1 + alpha) * np.log(2 * (1 - gammas * 1e-6))
    np.testing.assert_allclose(times[1:], (gain / (8 * gammas * (1 + alpha)))[1:], rtol=1e-12)
    late = gain / (8 * gammas * (1 + alpha)) + wait
    np.testing.assert_allclose(absolute[1:], late[1:], rtol=1e-6)


def test_the_limit_takes_eigenvalues_in_any_order(x64):
    gammas = jnp.asarray([1.0, 0.9, 0.01])
    for order in ([1, 2, 0], [2, 1, 0]):
        shuffled = _limit(gammas[jnp.asarray(order)])
        assert shuffled == _limit(gammas)


def test_speedup_grows_with_the_ratio_of_eigenvalues_and_is_bounded(x64):
    for alpha in (1.0, 0.1, 1e-3):
        pairs = [jnp.asarray([1.0, gamma]) for gamma in (0.5, 0.1, 1e-2, 1e-4)]
        ratios = [
            float(
                dynamics.step_time(p[1], START)
                / dynamics.preconditioned_step_times(p, START * jnp.ones(2), alpha)[1]
            )
            for p in pairs
        ]
        assert (np.diff(ratios) > 0).all()
        lambdas = [float(p[1]) * 1e-6 for p in pairs]
        for ratio, start in zip(ratios, lambdas, strict=True):
            assert ratio < min(1 + 1 / alpha, np.log2(1 / start))


@pytest.mark.parametrize("alpha", [0.3, 0.03, 1e-3])
def test_below_the_limit_descent_settles(x64, alpha):
    """Two modes, from all small starts of the second: at 0.97 of the limit it comes to rest."""
    gammas = jnp.asarray([1.0, 0.9])
    limit = float(_limit(gammas, alpha))

    def advance(s, rate):
        c = gammas[:, None] * s**2
        gain = (c.max(axis=0, keepdims=True) + alpha) / (c + alpha)
        return jnp.clip(s + 4 * rate * gain * (1 - c) * gammas[:, None] * s, -1e6, 1e6)

    start = jnp.stack([jnp.ones(2001), jnp.geomspace(1e-4, 0.9, 2001)])

    def end(rate):
        return (
            gammas[:, None] * jax.lax.fori_loop(0, 5000, lambda _, s: advance(s, rate), start) ** 2
        )

    np.testing.assert_allclose(end(0.97 * limit), 1.0, rtol=1e-6)


@pytest.mark.parametrize(("second", "alpha"), [(0.5, 0.1), (0.3, 0.01), (0.9, 0.1), (0.5, 1.0)])
def test_below_the_limit_whole_weights_settle(x64, second, alpha):
    """Of 2 x 2 weights from random starts, with Eq. 52's matrix: none diverges at 0.97 of it."""
    gammas = jnp.asarray([1.0, second])
    rate = 0.97 * _limit(gammas, alpha)
    one = jnp.eye(2)[None]

    def step(_, w):
        c = jnp.einsum("sij,j,skj->sik", w, gammas, w)
        largest = jnp.linalg.eigvalsh(c)[:, -1, None, None]
        gain = (1 + alpha) * largest * jnp.linalg.inv(c + alpha * largest * one)
        slope = gain @ (c - one) @ w * gammas[None, None]
        return jnp.clip(w - 4 * rate * slope, -1e3, 1e3)

    start = 1e-3 * jax.random.normal(jax.random.key(0), (64, 2, 2))
    num = int(60 / (rate * second))
    w = jax.jit(lambda w: jax.lax.fori_loop(0, num, step, w))(start)
    c = np.asarray(jnp.einsum("sij,j,skj->sik", w, gammas, w))
    np.testing.assert_allclose(c, np.broadcast_to(np.eye(2), c.shape), atol=1e-6)


def test_no_value_compiles_anew(count_compilations):
    gammas, start = jnp.asarray([1.0, 0.5, 0.1]), 1e-3 * jnp.ones(3)
    t = jnp.linspace(0.0, 3.0, 5)

    def all_of_it(alpha):
        dynamics.preconditioned_eigenvalues(t, gammas, start, alpha)
        dynamics.preconditioned_step_times(gammas, start, alpha)
        _limit(gammas, alpha)

    assert count_compilations(all_of_it, [0.1, 0.2, 0.03]) == 0


MODES, STARTS = np.array([1.0, 0.3, 0.05]), np.full(3, 1e-3)


@pytest.mark.parametrize(
    ("number", "at"),
    [
        (
            lambda a: dynamics.preconditioned_step_times(
                MODES * (jnp.array([0.0, 1.0, 0.0]) * (a - 1) + 1), STARTS, 0.1
            ),
            1,
        ),
        (lambda a: dynamics.preconditioned_step_times(MODES, STARTS, a), 0.1),
        (lambda a: dynamics.preconditioned_step_times(MODES, a * STARTS, 0.1), 1.0),
        (lambda a: dynamics.max_learning_rate(MODES, landscape=dynamics.hinge(a)), 0.2),
        (lambda a: dynamics.max_learning_rate(MODES, landscape=dynamics.smoothed(leak=a)), 0.3),
        (lambda a: dynamics.max_learning_rate(a * MODES, landscape=dynamics.sharpened(0.1)), 1.0),
        (lambda a: dynamics.max_learning_rate(MODES, overshoot=a), 0.1),
        (lambda a: dynamics.speedup(MODES, 0.05, 1e-3, landscape=dynamics.smoothed(leak=a)), 0.3),
    ],
)
def test_derivatives_of_numbers_found_by_bisection(x64, number, at):
    found = jax.jacfwd(number)(float(at))
    h = 1e-2 * at
    differences = (number(at + h) - number(at - h)) / (2 * h)
    np.testing.assert_allclose(found, differences, rtol=1e-2, atol=1e-4)
    np.testing.assert_allclose(jax.jacrev(number)(float(at)), found, rtol=1e-9, atol=1e-9)


def test_the_limit_where_small_modes_fall():
    """A step multiplies s by 1 + 2 η γ f(0), with f(0) = 2 a: the largest γ limits η."""
    for growth, gammas in ((-1.0, [1.0, 0.1]), (-0.5, [0.2, 2.0])):
        family = dynamics.quartic_family(growth, 1.0)
        found = dynamics.max_learning_rate(jnp.array(gammas), landscape=family)
        np.testing.assert_allclose(found, 1 / (-2 * growth * max(gammas)), rtol=1e-6)


def test_the_limit_by_parts(x64):
    # A second mode far from the first leaves the first's limit, a close one has its own.
    limits = [float(_limit(jnp.asarray([1.0, second]), 1e-4)) for second in (0.01, 1.0)]
    assert limits[0] == pytest.approx(0.25)
    assert limits[1] == pytest.approx((1e-4 / 16) ** (1 / 3), rel=0.02)  # to leading order
    with_negative = _limit(jnp.asarray([1.0, 0.1, -0.4]), 0.1)
    assert float(with_negative) == pytest.approx(1 / (2 * 0.4 * 11))


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda g, s: dynamics.preconditioned_step_times(g, s[:1]), r"one shape \(d,\), got"),
        (lambda g, s: dynamics.preconditioned_step_times(g, s, 0.0), "alpha must be > 0"),
        (lambda g, s: dynamics.preconditioned_step_times(-g, s), "eigenvalues must be > 0"),
        (lambda g, s: dynamics.preconditioned_step_times(g, 0 * s), "between 0 and 1, got .0. 0."),
        (
            lambda g, s: dynamics.preconditioned_step_times(g, 9 + s),
            r"initial_singular_values must make .* between 0 and 1, got \[82.8",
        ),
        (
            lambda g, s: dynamics.preconditioned_eigenvalues(jnp.zeros(()), g, s),
            r"t must be a vector of shape \(T,\)",
        ),
        (
            lambda g, s: dynamics.preconditioned_eigenvalues(s, g, s, variances=g[:1]),
            "variances must have shape",
        ),
        (lambda g, s: _limit(g, -1.0), "alpha must be > 0"),
        (lambda g, s: _limit(g * jnp.nan), "NaN or infinite"),
        (lambda g, s: dynamics.preconditioned_step_times(g[::-1], s), "the first mode must have"),
        (
            lambda g, s: dynamics.preconditioned_step_times(g, s * jnp.array([1.0, 2.0])),
            "the largest of eigenvalues and of C's eigenvalues at the start",
        ),
        (
            lambda g, s: dynamics.preconditioned_step_times(0 * g + 1, jnp.array([1e-30, 1e-29])),
            "the largest of eigenvalues and of C's eigenvalues at the start",
        ),
        (lambda g, s: dynamics.preconditioned_eigenvalues(g, g, s), "t must not decrease"),
        (lambda g, s: dynamics.preconditioned_eigenvalues(g[:0], g, s), "t must hold at least 1"),
        (
            lambda g, s: dynamics.preconditioned_eigenvalues(s, g, s, variances=g / 2),
            "variances must be at least eigenvalues",
        ),
        (lambda g, s: dynamics.max_learning_rate(g * jnp.nan), "NaN or infinite"),
        (lambda g, s: dynamics.max_learning_rate(g[:0]), r"eigenvalues must hold .* shape \(0,\)"),
        (lambda g, s: _limit(g[None]), r"vector .* \(1, 2\)"),
        (lambda g, s: _limit(g, s), "alpha must be a number"),
        (lambda g, s: dynamics.lars_steps(g, g, s, s), "relative_rate must be a number"),
        (lambda g, s: dynamics.lars_steps(-jnp.arange(3.0), g, s, 0.1), "t must be >= 0, got -1"),
    ],
)
def test_rejects(call, message, unchecked):
    with pytest.raises(ValueError, match=message):
        call(jnp.asarray([1.0, 0.5]), jnp.asarray([0.1, 0.1]))
