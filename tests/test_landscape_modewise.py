"""Appendix G's landscapes: against their losses, by integration, and by stepping them."""

import diffrax
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from sslstep import landscape, linear, losses

LOSSES = {
    "plain": landscape.plain(),
    "sharpened": landscape.sharpened(1e-3),
    "smoothed": landscape.smoothed(),
    "leaky": landscape.smoothed(0.2),
    "quartic": landscape.quartic(),
    "hinge": landscape.hinge(0.2),
    "modewise": landscape.modewise(lambda x: jnp.sqrt(x * (3 + x)) / 2),
    "preconditioned": landscape.preconditioned(landscape.plain(), 0.05),
    "both": landscape.preconditioned(landscape.sharpened(1e-3), 0.05),
}
OF_A_BATCH = {
    "plain": {},
    "sharpened": {"softening": 1e-3},
    "smoothed": {},
    "leaky": {"leak": 0.2},
    "quartic": {},
    "hinge": {"width": 0.2},
}


@pytest.mark.parametrize("name", OF_A_BATCH)
def test_values_are_those_of_the_losses(x64, name):
    """Of one dimension, whose C is the one eigenvalue."""
    if name == "plain":
        loss = lambda z, y, **_: losses.barlow_twins(z, y, batch_norm=False)  # noqa: E731
    else:
        method = getattr(losses, f"{name.replace('leaky', 'smoothed')}_barlow_twins")
        loss = lambda z, y: method(z, y, batch_norm=False, **OF_A_BATCH[name])  # noqa: E731
    one = jnp.ones((2, 1))  # a batch of two equal samples
    for value in (0.0, 1e-3, 0.5, 1.1, 1.7):
        ours = LOSSES[name].value(jnp.asarray(value))
        np.testing.assert_allclose(ours, loss(one, value * one), rtol=1e-12, atol=1e-15)


@pytest.mark.parametrize("name", LOSSES)
def test_the_force_is_minus_the_slope(x64, name):
    loss = LOSSES[name]
    at = jnp.asarray([1e-5, 1e-2, 0.3, 0.7, 1.3, 2.5])
    slopes = jax.vmap(jax.grad(lambda x: loss.value(x)))(at)
    # The integral of a preconditioned force is by panels as wide as the softening.
    tol = 1e-6 if name == "both" else 1e-9
    np.testing.assert_allclose(loss.force(at), -slopes, rtol=tol, atol=1e-12)
    assert float(loss.force(jnp.asarray(loss.rest))) == pytest.approx(0, abs=1e-14)


def integrate(loss, t, gamma, initial):
    """s' = -γ dL/ds = 2 γ s f(s²), by diffrax."""
    return diffrax.diffeqsolve(
        diffrax.ODETerm(lambda t, s, args: 2 * gamma * s * loss.force(s**2)),
        diffrax.Tsit5(),
        t0=t[0],
        t1=t[-1],
        dt0=1e-4,
        y0=initial,
        saveat=diffrax.SaveAt(ts=t),
        stepsize_controller=diffrax.PIDController(rtol=1e-11, atol=1e-14),
        max_steps=100_000,
    ).ys


@pytest.mark.parametrize("name", ["sharpened", "quartic", "hinge", "modewise", "both"])
def test_trajectories_and_step_times_by_integration(x64, name):
    loss, gamma, initial = LOSSES[name], 0.7, jnp.asarray([1e-3, -0.05])
    times = landscape.step_time(loss, gamma, initial)
    t = jnp.linspace(0, 1.5 * times[0], 41)
    expected = integrate(loss, t, gamma, initial)
    ours = landscape.trajectory(loss, t[:, None], gamma, initial[None, :])
    np.testing.assert_allclose(ours, expected, rtol=1e-8)
    np.testing.assert_allclose(landscape.trajectory(loss, times, gamma, initial) ** 2, 0.5)


@pytest.mark.parametrize("name", ["plain", "sharpened", "quartic", "hinge", "preconditioned"])
def test_closed_forms_and_quadrature_agree(dtype, name):
    loss = LOSSES[name]
    starts = jnp.asarray([1e-8, 1e-4, 0.3], dtype)
    by_quadrature = landscape.step_time(loss._replace(time=None), 2.0, starts, 0.6)
    if name == "preconditioned":  # its closed form is in the docstring

        def time(x):
            return (0.05 / 1.05 * np.log(x) - np.log1p(-x)) / 8

        closed = (time(0.6) - time(np.asarray(starts) ** 2)) / 2
    else:
        closed = landscape.step_time(loss, 2.0, starts, 0.6)
    np.testing.assert_allclose(by_quadrature, closed, rtol=100 * float(jnp.finfo(dtype).eps))


def test_the_plain_one_is_that_of_the_linear_model(x64):
    t = jnp.linspace(0, 5, 21)
    ours = landscape.trajectory(landscape.plain(), t, 0.7, -1e-3)
    expected = landscape.self_supervised_trajectory(t, 0.7, -1e-3)
    np.testing.assert_allclose(ours, expected, rtol=1e-10)
    gammas = jnp.asarray([3.0, 1.0, -0.2, -1.8])
    for eigenvalues in (gammas, gammas[:3], gammas[2:]):
        ours = landscape.max_learning_rate(landscape.plain(), eigenvalues)
        assert float(ours) == pytest.approx(float(linear.max_learning_rate(eigenvalues)))


def test_the_square_root_is_solved_exactly(x64):
    """Footnote 26: as δ → 0, s = 1 - (1 - s0) e^{-2γt}, with an error of order √δ log 1/δ."""
    t = jnp.linspace(0.05, 3, 20)
    expected = 1 - (1 - 1e-2) * jnp.exp(-2 * 0.7 * t)
    worst = [
        float(jnp.abs(landscape.trajectory(landscape.sharpened(d), t, 0.7, 1e-2) - expected).max())
        for d in (1e-6, 1e-8, 1e-10)
    ]
    assert worst[1] < 0.2 * worst[0]
    assert worst[2] < 0.2 * worst[1]
    assert worst[2] < 1e-4


def step(loss, rate, s, num):
    """Gradient descent of one mode with γ = 1."""

    def advance(_, s):
        return jnp.clip(s + 2 * rate * s * loss.force(s**2), -1e6, 1e6)

    return jax.jit(lambda s: jax.lax.fori_loop(0, num, advance, s))(s)


@pytest.mark.parametrize(
    "name", ["plain", "sharpened", "leaky", "quartic", "hinge", "preconditioned", "both"]
)
def test_below_the_limit_descent_settles_and_above_it_does_not(x64, name):
    """From any small start: at 0.98 of the limit all come to rest, just above it some do not.

    Which starts go back and forth, and at which rates above it, is a matter of chance.
    """
    loss = LOSSES[name]
    limit = float(landscape.max_learning_rate(loss, jnp.ones(1)))
    starts = jnp.geomspace(1e-4, 0.99 * loss.rest**0.5, 4001)

    def settled(rate):
        ends = step(loss, rate, starts, 20_000)
        return np.asarray(jnp.abs(2 * rate * ends * loss.force(ends**2)) < 1e-4)

    assert settled(0.98 * limit).all()
    if name != "both":  # whose 2-cycle there is unstable
        assert not settled((1.03 if name == "plain" else 1.002) * limit).all()


def test_a_quartic_loss_has_a_2_cycle_above_its_limit(x64):
    loss = landscape.quartic()
    limit = float(landscape.max_learning_rate(loss, jnp.ones(1)))
    ends = step(loss, 0.4394, jnp.geomspace(1e-4, 0.99, 4001), 20_000) ** 2
    stuck = np.asarray(jnp.abs(ends - 1) > 0.1)
    assert limit < 0.4394
    assert stuck.mean() == pytest.approx(0.08, abs=0.02)
    found = np.asarray(ends[stuck])
    assert np.abs(found[:, None] - np.array([1.57, 0.20])).min(axis=1).max() < 0.05


def test_only_an_overshoot_bounds_what_nothing_drives_back(x64):
    assert float(landscape.max_learning_rate(landscape.smoothed(), jnp.ones(1))) == np.inf
    rate = landscape.max_learning_rate(landscape.smoothed(), jnp.ones(1), overshoot=1.0)
    assert float(rate) == pytest.approx(0.5, rel=1e-4)  # 4/27 (1 + X)³ / X = 2 at X = 4ηγ = 2


@pytest.mark.parametrize("name", LOSSES)
def test_a_landscape_is_a_pytree(name, count_compilations):
    """It passes through jit, vmap and grad, and its parameters compile nothing anew."""
    loss = LOSSES[name]
    time = jax.jit(landscape.step_time)(loss, 1.0, 1e-3)
    np.testing.assert_allclose(time, landscape.step_time(loss, 1.0, 1e-3), rtol=1e-6)
    slopes = jax.grad(landscape.step_time)(jax.tree.map(jnp.float32, loss), 1.0, 1e-3)
    assert all(np.isfinite(leaf) for leaf in jax.tree.leaves(slopes))
    stacked = jax.tree.map(lambda leaf: jnp.stack([jnp.float32(leaf)] * 2), loss)
    times = jax.vmap(lambda loss: landscape.step_time(loss, 1.0, 1e-3))(stacked)
    np.testing.assert_allclose(times, time, rtol=1e-5)


def test_no_parameter_compiles_anew(count_compilations):
    gammas, t = jnp.asarray([1.0, 0.1]), jnp.linspace(0.0, 3.0, 4)

    def all_of_it(number):
        for loss in (
            landscape.sharpened(number),
            landscape.smoothed(number),
            landscape.hinge(number),
            landscape.preconditioned(landscape.plain(), number),
            landscape.modewise(_half_way, 1 + number),
        ):
            landscape.step_time(loss, 0.1, number * 1e-3)
            landscape.trajectory(loss, t, 0.1, number * 1e-3)
            landscape.max_learning_rate(loss, gammas, overshoot=1 + number)
            landscape.speedup(loss, gammas, 0.1, number * 1e-3)

    assert count_compilations(all_of_it, [0.1, 0.2, 0.05]) == 0


def _half_way(x):
    return x * (3 - x) / 2


def test_the_limit_of_two_curvatures(x64):
    """Descent from everywhere settles below the rate, and above it some starts keep jumping.

    The curvatures alone would allow (1 + 0.8^-2) / 8 = 0.320.
    """
    rate = float(landscape.max_learning_rate(landscape.smoothed(0.8), jnp.ones(1)))
    assert rate < (1 + 0.8**-2) / 8

    def restless(rate):
        s = np.linspace(1e-3, 1.2, 500)
        for _ in range(20_000):
            s = s + 4 * rate * s * (1 - s**2) * np.where(s > 1, 0.8**2, 1)
        return np.mean(np.abs(s**2 - 1) > 1e-3)

    assert restless(0.99 * rate) == 0
    assert restless(1.01 * rate) > 0.1


def test_negative_eigenvalues_bound_the_rate(x64):
    for delta in (1e-2, 1e-4):
        loss = landscape.sharpened(delta)
        gammas = jnp.asarray([1.0, -0.3])
        rate = float(landscape.max_learning_rate(loss, gammas))
        slope = 1 / (delta**0.5 * ((1 + delta) ** 0.5 - delta**0.5))
        assert rate == pytest.approx(1 / (0.3 * slope), rel=1e-9)


def test_speedup_is_of_steps(x64):
    gammas, s0 = jnp.asarray([1.0, 0.01]), 1e-3
    loss = landscape.sharpened(1e-4)
    steps = [
        landscape.step_time(each, 0.01, s0) / landscape.max_learning_rate(each, gammas)
        for each in (landscape.plain(), loss)
    ]
    ratio = landscape.speedup(loss, gammas, 0.01, s0)
    np.testing.assert_allclose(ratio, steps[0] / steps[1], rtol=1e-12)


def test_edges(dtype):
    loss = landscape.plain()
    times = landscape.step_time(loss, jnp.asarray([1.0, 0.0, -1.0, 1.0], dtype), 0.1)
    np.testing.assert_array_equal(jnp.isinf(times), [False, True, True, False])
    assert float(landscape.step_time(loss, 1.0, 0.9)) == 0
    assert float(landscape.step_time(loss, 1.0, 0.0)) == np.inf
    ends = landscape.trajectory(loss, jnp.asarray([0.0, 1e6], dtype), 1.0, jnp.asarray(-0.1, dtype))
    np.testing.assert_allclose(ends, [-0.1, -1.0], rtol=1e-6)
    assert float(landscape.trajectory(loss, 1.0, 1.0, 0.0)) == 0


@pytest.mark.parametrize("closed", [True, False])
@pytest.mark.parametrize("width", [0.0, 0.2])
def test_starts_whose_squares_underflow(dtype, closed, width):
    """A start of any size waits for its time: the logistic of the hinge, which rests at a."""
    a, gamma, eps = 1 - width, 0.7, float(jnp.finfo(dtype).eps)
    loss = landscape.hinge(width) if closed else landscape.hinge(width)._replace(time=None)
    powers = (-18, -19, -23, -30) if dtype == jnp.float32 else (-150, -154, -160, -300)
    starts = np.array([10.0**power for power in powers])
    log_odds = 2 * np.log(starts) - np.log(a)  # of λ0 / a, up to 1e-36 of itself
    expected = (np.log(0.5 / (a - 0.5)) - log_odds) / (8 * gamma * a)
    starts = jnp.asarray(starts, dtype)
    times = landscape.step_time(loss, gamma, starts)
    # The quadrature sums 640 values, in pairs.
    np.testing.assert_allclose(times, expected, rtol=(8 if closed else 32) * eps)
    slopes = jax.grad(lambda s: landscape.step_time(loss, gamma, s).sum())(starts)
    np.testing.assert_allclose(slopes * starts, -1 / (4 * gamma * a), rtol=32 * eps)
    for share in (0.0, 0.1, 0.9, 1.0):
        s = landscape.trajectory(loss, share * times, gamma, -starts)
        v = log_odds + 8 * gamma * a * share * np.asarray(times, float)
        exact = -np.exp((v + np.log(a) - np.logaddexp(0, v)) / 2)
        # Both v and the times are of size log_odds, and rounded; s's error is half of theirs.
        tol = (8 if closed else 32) * eps * np.abs(log_odds).max()
        np.testing.assert_allclose(s, exact, rtol=tol)


def test_levels_passed_and_times_without_end(dtype):
    levels = jnp.asarray([0.0, -1.0, 0.005, 0.5], dtype)
    times = landscape.step_time(landscape.plain(), 1.0, 0.1, levels)
    np.testing.assert_array_equal(times[:3], 0)
    assert float(times[3]) == pytest.approx(float(linear.half_rise_time(1.0, 0.1)), rel=1e-6)
    assert np.isnan(landscape.step_time(landscape.plain(), 1.0, np.nan))
    ends = landscape.trajectory(landscape.plain(), np.inf, jnp.asarray([0.0, 1.0], dtype), 0.1)
    np.testing.assert_allclose(ends, [0.1, 1.0], rtol=1e-6)


@pytest.mark.parametrize("name", ["sharpened", "preconditioned"])
def test_derivatives_of_trajectories_and_times(x64, name):
    """By time it is the equation itself; by the loss's own setting, a finite difference."""

    def make(setting):
        if name == "sharpened":
            return landscape.sharpened(setting)
        return landscape.preconditioned(landscape.plain(), setting)

    def end(setting, t=0.3):
        return landscape.trajectory(make(setting), t, 1.0, 0.1)

    s = end(0.1)
    speed = jax.grad(lambda t: end(0.1, t))(0.3)
    assert float(speed) == pytest.approx(float(2 * s * make(0.1).force(s**2)), rel=1e-8)
    for function in (end, lambda setting: landscape.step_time(make(setting), 1.0, 0.1)):
        ours = jax.grad(function)(0.1)
        expected = (function(0.1 + 1e-5) - function(0.1 - 1e-5)) / 2e-5
        assert float(ours) == pytest.approx(float(expected), rel=1e-6)


def test_settings_are_traced():
    calls = []

    @jax.jit
    def all_of_it(softening, leak, width, alpha, overshoot):
        calls.append(1)
        gammas, found = jnp.asarray([1.0, 0.1]), []
        for loss in (
            landscape.sharpened(softening),
            landscape.smoothed(leak),
            landscape.hinge(width),
            landscape.preconditioned(landscape.plain(), alpha),
        ):
            found.append(landscape.step_time(loss, 0.1, 1e-3))
            found.append(landscape.max_learning_rate(loss, gammas, overshoot=overshoot))
        return jnp.stack(found)

    one = all_of_it(1e-2, 0.1, 0.1, 0.1, 1.0)
    other = all_of_it(1e-3, 0.2, 0.2, 0.2, 2.0)
    assert len(calls) == 1
    assert bool(jnp.isfinite(one).all() & jnp.isfinite(other).all())


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: landscape.sharpened(0.0), "softening must be > 0"),
        (lambda: landscape.smoothed(-1.0), "leak must be >= 0"),
        (lambda: landscape.hinge(1.0), "width must be < 1, got 1"),
        (lambda: landscape.preconditioned(landscape.plain(), 0.0), "alpha must be > 0"),
        (lambda: landscape.modewise(lambda x: x, -1.0), "rest must be > 0"),
        (
            lambda: landscape.max_learning_rate(landscape.plain(), jnp.ones(1), overshoot=0.0),
            "overshoot must be > 0",
        ),
        *(
            (lambda call=call: call(jnp.ones(2) / 2), rf"{name} must be a number, got shape \(2,\)")
            for name, call in (
                ("softening", landscape.sharpened),
                ("leak", landscape.smoothed),
                ("width", landscape.hinge),
                ("alpha", lambda alpha: landscape.preconditioned(landscape.plain(), alpha)),
                ("rest", lambda rest: landscape.modewise(lambda x: x, rest)),
                ("variance", lambda weight: landscape.vicreg_plateau(1, 2, variance=weight)),
                ("covariance", lambda weight: landscape.vicreg_plateau(1, 2, covariance=weight)),
                (
                    "overshoot",
                    lambda most: landscape.max_learning_rate(
                        landscape.plain(), jnp.ones(1), overshoot=most
                    ),
                ),
            )
        ),
        (
            lambda: landscape.max_learning_rate(landscape.plain(), 1.0),
            r"eigenvalues must be a vector of shape \(k,\), got shape \(\)",
        ),
        (
            lambda: landscape.trajectory(landscape.quartic(), 1.0, -1.0, 0.1),
            "eigenvalue must be >= 0",
        ),
    ],
)
def test_rejects(call, message, unchecked):
    with pytest.raises(ValueError, match=message):
        call()


@pytest.mark.parametrize("name", LOSSES)
def test_numbers_are_taken_as_arrays_are(x64, name):
    loss = LOSSES[name]
    for value in (-0.3, 0.5, 2):
        at = jnp.asarray(float(value))
        np.testing.assert_allclose(loss.value(value), loss.value(at), rtol=1e-15)
        np.testing.assert_allclose(loss.force(value), loss.force(at), rtol=1e-15)


def test_below_zero_the_preconditioned_force_is_minus_the_slope(x64):
    loss = landscape.preconditioned(landscape.plain(), 0.1)
    at = jnp.asarray([-0.5, -0.1, -1e-3])
    slopes = jax.vmap(jax.grad(lambda x: loss.value(x)))(at)
    np.testing.assert_allclose(loss.force(at), -slopes, rtol=1e-9)
    across = loss.value(jnp.asarray([-1e-9, 1e-9]))
    assert float(across[0] - across[1]) == pytest.approx(2e-9 * 2 * 11, rel=1e-4)  # continuous
