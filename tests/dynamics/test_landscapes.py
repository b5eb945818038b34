"""Appendix G's landscapes: against their losses, by integration, and by stepping them."""

import dataclasses
from typing import Any

import diffrax
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from sslstep import dynamics, losses

LOSSES = {
    "plain": dynamics.plain(),
    "sharpened": dynamics.sharpened(1e-3),
    "smoothed": dynamics.smoothed(),
    "leaky": dynamics.smoothed(0.2),
    "quartic": dynamics.fourth_power(),
    "hinge": dynamics.hinge(0.2),
    "modewise": dynamics.modewise(lambda x: jnp.sqrt(x * (3 + x)) / 2),
    "preconditioned": dynamics.preconditioned(dynamics.plain(), 0.05),
    "both": dynamics.preconditioned(dynamics.sharpened(1e-3), 0.05),
}


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Quadrature(dynamics.Landscape):
    """A landscape of one's own: another's loss and nothing else."""

    loss: Any

    @property
    def rest(self) -> Any:
        return self.loss.rest

    def value(self, eigenvalue: Any) -> Any:
        return self.loss.value(eigenvalue)


def by_quadrature(name):
    return LOSSES[name] if "precond" in name else Quadrature(LOSSES[name])


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
    """s' = -dL/ds = 2 γ s f(γ s²), by diffrax."""
    return diffrax.diffeqsolve(
        diffrax.ODETerm(lambda t, s, args: 2 * gamma * s * loss.force(gamma * s**2)),
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
    times = dynamics.step_time(gamma, initial, landscape=loss)
    t = jnp.linspace(0, 1.5 * times[0], 41)
    expected = integrate(loss, t, gamma, initial)
    ours = dynamics.singular_value(t[:, None], gamma, initial[None, :], landscape=loss)
    np.testing.assert_allclose(ours, expected, rtol=1e-8)
    at_half = dynamics.mode_eigenvalue(times, gamma, initial, landscape=loss)
    np.testing.assert_allclose(at_half, 0.5)


@pytest.mark.parametrize("name", ["plain", "sharpened", "quartic", "hinge", "preconditioned"])
def test_closed_forms_and_quadrature_agree(dtype, name):
    starts = jnp.asarray([1e-8, 1e-4, 0.3], dtype)
    found = dynamics.step_time(1.0, starts, level=0.6, landscape=by_quadrature(name))
    if name == "preconditioned":  # its closed form is in the docstring

        def time(x):
            return (0.05 / 1.05 * np.log(x) - np.log1p(-x)) / 8

        closed = time(0.6) - time(np.asarray(starts) ** 2)
    else:
        closed = dynamics.step_time(1.0, starts, level=0.6, landscape=LOSSES[name])
    np.testing.assert_allclose(found, closed, rtol=100 * float(jnp.finfo(dtype).eps))


def test_solving_for_a_curve_agrees_with_the_closed_form(x64):
    t, loss = jnp.linspace(0, 5, 21), Quadrature(dynamics.plain())
    for function in (dynamics.singular_value, dynamics.mode_eigenvalue):
        found = function(t, 0.7, -1e-3, landscape=loss)
        np.testing.assert_allclose(found, function(t, 0.7, -1e-3), rtol=1e-10)
    gammas = jnp.asarray([3.0, 1.0, -0.2, -1.8])
    for eigenvalues in (gammas, gammas[:3], gammas[2:]):
        found = dynamics.max_learning_rate(eigenvalues, landscape=loss)
        assert float(found) == pytest.approx(float(dynamics.max_learning_rate(eigenvalues)))


def test_the_quartic_family_rests_where_theory_says(x64):
    """Weight decay β: learned if γ > β / 2; Γ and Σ that commute: σ² s² ends at γ / σ²."""
    gammas, beta = jnp.asarray([1.0, 0.3, 0.1]), 0.4
    decay = dynamics.quartic_family(1 - beta / (2 * gammas))
    ends = dynamics.mode_eigenvalue(jnp.inf, gammas, 1e-3, landscape=decay)
    np.testing.assert_allclose(ends, [0.8, 1 / 3, 0], rtol=1e-12)
    times = dynamics.step_time(gammas, 1e-3, level=0.3, landscape=decay)
    assert np.isinf(times[2])
    at = dynamics.mode_eigenvalue(times[:2], gammas[:2], 1e-3, landscape=_first(decay, 2))
    np.testing.assert_allclose(at, 0.3, rtol=1e-12)
    variances = jnp.asarray([2.0, 1.0, 0.5])
    contrastive = dynamics.quartic_family(saturation=variances**2 / gammas**2)
    s = dynamics.singular_value(jnp.inf, gammas, 1e-3, landscape=contrastive)
    np.testing.assert_allclose(variances * s**2, gammas / variances, rtol=1e-12)


def test_gradient_descent_in_the_quartic_family(x64):
    """Of s' = p s - q s³, stepped: within 0.1 step, as for plain descent."""
    p, q, eta, s = 1.3, 0.7, 0.2, 1e-4
    level, loss = 0.5 * p / q, dynamics.quartic_family(p / 4, q / 4)
    sizes = [s**2]
    while sizes[-1] < level:
        s += eta * (p * s - q * s**3)
        sizes.append(s**2)
    measured = len(sizes) - 2 + (level - sizes[-2]) / (sizes[-1] - sizes[-2])
    time = dynamics.step_time(1.0, 1e-4, level=level, landscape=loss, learning_rate=eta)
    assert float(time) / eta == pytest.approx(measured, abs=0.1)
    limit = float(dynamics.max_learning_rate(jnp.ones(1), landscape=loss))
    assert limit == pytest.approx(1 / p)  # the slope 1 - 2ηp at rest


def _first(landscape, num):
    return jax.tree.map(lambda leaf: leaf[:num] if jnp.ndim(leaf) else leaf, landscape)


def test_learning_rates_are_for_the_quartic_family():
    for call in (
        lambda loss: dynamics.step_time(1.0, 0.1, landscape=loss, learning_rate=0.1),
        lambda loss: dynamics.singular_value(1.0, 1.0, 0.1, landscape=loss, learning_rate=0.1),
    ):
        with pytest.raises(ValueError, match="learning_rate must be 0 on landscapes"):
            call(dynamics.sharpened())


def test_the_square_root_is_solved_exactly(x64):
    """Footnote 26: as δ → 0, s = 1 - (1 - s0) e^{-2γt}, with an error of order √δ log 1/δ."""
    t = jnp.linspace(0.05, 3, 20)
    expected = 1 - (1 - 1e-2) * jnp.exp(-2 * 0.7 * t)

    def end(loss):
        return dynamics.singular_value(0.7 * t, 1.0, 1e-2, landscape=loss)

    worst = [
        float(jnp.abs(end(dynamics.sharpened(d)) - expected).max()) for d in (1e-6, 1e-8, 1e-10)
    ]
    assert worst[1] < 0.2 * worst[0]
    assert worst[2] < 0.2 * worst[1]
    assert worst[2] < 1e-4


def step(loss, rate, s, num):
    """Gradient descent of one mode with γ = 1."""

    def advance(_, s):
        return jnp.clip(s + 2 * rate * s * loss.force(s**2), -1e6, 1e6)

    return jax.jit(lambda s: jax.lax.fori_loop(0, num, advance, s))(s)


@pytest.mark.parametrize("name", ["sharpened", "leaky", "quartic", "hinge"])
def test_below_the_limit_descent_settles_and_above_it_does_not(x64, name):
    """From any small start: at 0.98 of the limit all come to rest, just above it some do not.

    Which starts go back and forth, and at which rates above it, is a matter of chance.
    """
    loss = LOSSES[name]
    limit = float(dynamics.max_learning_rate(jnp.ones(1), landscape=loss))
    starts = jnp.geomspace(1e-4, 0.99 * loss.rest**0.5, 4001)

    def settled(rate):
        ends = step(loss, rate, starts, 20_000)
        return np.asarray(jnp.abs(2 * rate * ends * loss.force(ends**2)) < 1e-4)

    assert settled(0.98 * limit).all()
    assert not settled(1.002 * limit).all()


def test_a_quartic_loss_has_a_2_cycle_above_its_limit(x64):
    loss = dynamics.fourth_power()
    limit = float(dynamics.max_learning_rate(jnp.ones(1), landscape=loss))
    ends = step(loss, 0.4394, jnp.geomspace(1e-4, 0.99, 4001), 20_000) ** 2
    stuck = np.asarray(jnp.abs(ends - 1) > 0.1)
    assert limit < 0.4394
    assert stuck.mean() == pytest.approx(0.08, abs=0.02)
    found = np.asarray(ends[stuck])
    assert np.abs(found[:, None] - np.array([1.57, 0.20])).min(axis=1).max() < 0.05


def test_only_an_overshoot_bounds_what_nothing_drives_back(x64):
    assert float(dynamics.max_learning_rate(jnp.ones(1), landscape=dynamics.smoothed())) == np.inf
    rate = dynamics.max_learning_rate(jnp.ones(1), landscape=dynamics.smoothed(), overshoot=1.0)
    assert float(rate) == pytest.approx(0.5, rel=1e-4)  # 4/27 (1 + X)³ / X = 2 at X = 4ηγ = 2


@pytest.mark.parametrize("name", LOSSES)
def test_a_landscape_is_a_pytree(name):
    """It passes through jit, vmap and grad."""
    loss = jax.tree.map(jnp.float32, LOSSES[name])

    def when(loss):
        return dynamics.step_time(1.0, 1e-3, landscape=loss)

    time = when(loss)
    np.testing.assert_allclose(jax.jit(when)(loss), time, rtol=1e-6)
    slopes = jax.grad(when)(loss)
    assert all(np.isfinite(leaf) for leaf in jax.tree.leaves(slopes))
    stacked = jax.tree.map(lambda leaf: jnp.stack([leaf] * 2), loss)
    np.testing.assert_allclose(jax.vmap(when, axis_size=2)(stacked), time, rtol=1e-5)


def test_no_parameter_compiles_anew(count_compilations):
    gammas, t = jnp.asarray([1.0, 0.1]), jnp.linspace(0.0, 3.0, 4)

    def all_of_it(number):
        for loss in (
            dynamics.sharpened(number),
            dynamics.smoothed(number),
            dynamics.hinge(number),
            dynamics.preconditioned(dynamics.plain(), number),
            dynamics.modewise(_half_way, 1 + number),
            dynamics.quartic_family(number, 1 + number),
        ):
            dynamics.step_time(0.1, number * 1e-3, landscape=loss)
            dynamics.singular_value(t, 0.1, number * 1e-3, landscape=loss)
            dynamics.max_learning_rate(gammas, landscape=loss, overshoot=1 + number)
            dynamics.speedup(gammas, 0.1, number * 1e-3, landscape=loss)
        for function in (dynamics.singular_value, dynamics.mode_eigenvalue):
            function(t, 0.1, 1e-3, learning_rate=number)

    assert count_compilations(all_of_it, [0.1, 0.2, 0.05]) == 0


def _half_way(x):
    return x * (3 - x) / 2


def test_the_limit_of_two_curvatures(x64):
    """Descent from everywhere settles below the rate, and above it some starts keep jumping.

    The curvatures alone would allow (1 + 0.8^-2) / 8 = 0.320.
    """
    rate = float(dynamics.max_learning_rate(jnp.ones(1), landscape=dynamics.smoothed(0.8)))
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
        loss = dynamics.sharpened(delta)
        gammas = jnp.asarray([1.0, -0.3])
        rate = float(dynamics.max_learning_rate(gammas, landscape=loss))
        slope = 1 / (delta**0.5 * ((1 + delta) ** 0.5 - delta**0.5))
        assert rate == pytest.approx(1 / (0.3 * slope), rel=1e-9)


def test_edges(dtype):
    loss = dynamics.smoothed()
    times = dynamics.step_time(jnp.asarray([1.0, 0.0, -1.0, 1.0], dtype), 0.1, landscape=loss)
    np.testing.assert_array_equal(jnp.isinf(times), [False, True, True, False])
    assert float(dynamics.step_time(1.0, 0.9, landscape=loss)) == 0
    assert float(dynamics.step_time(1.0, 0.0, landscape=loss)) == np.inf
    t, start = jnp.asarray([0.0, 1e6], dtype), jnp.asarray(-0.1, dtype)
    ends = dynamics.singular_value(t, 1.0, start, landscape=loss)
    np.testing.assert_allclose(ends, [-0.1, -1.0], rtol=1e-6)
    gammas, starts = jnp.asarray([1.0, 1.0, -1.0], dtype), jnp.asarray([0.0, 1.1, 0.1], dtype)
    found = dynamics.singular_value(1.0, gammas, starts, landscape=loss)
    np.testing.assert_array_equal(found, [0, np.nan, np.nan])
    assert float(dynamics.singular_value(2.0, 1.0, 1.0, landscape=loss)) == pytest.approx(1)


@pytest.mark.parametrize("closed", [True, False])
@pytest.mark.parametrize("width", [0.0, 0.2])
def test_starts_whose_squares_underflow(dtype, closed, width):
    """A start of any size waits for its time: the logistic of the hinge, which rests at a."""
    a, gamma, eps = 1 - width, 0.7, float(jnp.finfo(dtype).eps)
    loss = dynamics.hinge(width) if closed else Quadrature(dynamics.hinge(width))
    powers = (-18, -19, -23, -30) if dtype == jnp.float32 else (-150, -154, -160, -300)
    starts = np.array([10.0**power for power in powers])
    log_odds = np.log(gamma) + 2 * np.log(starts) - np.log(a)  # of λ0 / a, up to 1e-36 of itself
    expected = (np.log(0.5 / (a - 0.5)) - log_odds) / (8 * gamma * a)
    starts = jnp.asarray(starts, dtype)
    times = dynamics.step_time(gamma, starts, landscape=loss)
    # The quadrature sums 640 values, in pairs.
    np.testing.assert_allclose(times, expected, rtol=(8 if closed else 32) * eps)
    slopes = jax.grad(lambda s: dynamics.step_time(gamma, s, landscape=loss).sum())(starts)
    np.testing.assert_allclose(slopes * starts, -1 / (4 * gamma * a), rtol=32 * eps)
    for share in (0.0, 0.1, 0.9, 1.0):
        s = dynamics.singular_value(share * times, gamma, -starts, landscape=loss)
        v = log_odds + 8 * gamma * a * share * np.asarray(times, float)
        exact = -np.exp((v + np.log(a / gamma) - np.logaddexp(0, v)) / 2)
        # Both v and the times are of size log_odds, and rounded; s's error is half of theirs.
        tol = (8 if closed else 32) * eps * np.abs(log_odds).max()
        np.testing.assert_allclose(s, exact, rtol=tol)


@pytest.mark.parametrize("loss", [dynamics.plain(), dynamics.smoothed()])
def test_levels_passed_and_times_without_end(dtype, loss):
    levels = jnp.asarray([0.0, -1.0, 0.005, 0.5], dtype)
    times = dynamics.step_time(1.0, 0.1, level=levels, landscape=loss)
    np.testing.assert_array_equal(times[:3], 0)
    assert float(times[3]) == pytest.approx(np.log(99) / 8, rel=1e-6)
    assert np.isnan(dynamics.step_time(1.0, np.nan, landscape=loss))
    gammas = jnp.asarray([0.0, 1.0], dtype)
    ends = dynamics.singular_value(np.inf, gammas, 0.1, landscape=loss)
    np.testing.assert_allclose(ends, [0.1, 1.0], rtol=1e-6)


@pytest.mark.parametrize("name", ["sharpened", "preconditioned"])
def test_derivatives_of_trajectories_and_times(x64, name):
    """By time it is the equation itself; by the loss's own setting, a finite difference."""

    def make(setting):
        if name == "sharpened":
            return dynamics.sharpened(setting)
        return dynamics.preconditioned(dynamics.plain(), setting)

    def end(setting, t=0.3):
        return dynamics.singular_value(t, 1.0, 0.1, landscape=make(setting))

    s = end(0.1)
    speed = jax.grad(lambda t: end(0.1, t))(0.3)
    assert float(speed) == pytest.approx(float(2 * s * make(0.1).force(s**2)), rel=1e-8)
    for function in (end, lambda setting: dynamics.step_time(1.0, 0.1, landscape=make(setting))):
        ours = jax.grad(function)(0.1)
        expected = (function(0.1 + 1e-5) - function(0.1 - 1e-5)) / 2e-5
        assert float(ours) == pytest.approx(float(expected), rel=1e-6)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: dynamics.sharpened(0.0), "softening must be > 0"),
        (lambda: dynamics.smoothed(-1.0), "leak must be >= 0"),
        (lambda: dynamics.hinge(1.0), "width must be < 1, got 1"),
        (lambda: dynamics.preconditioned(dynamics.plain(), 0.0), "alpha must be > 0"),
        (lambda: dynamics.modewise(lambda x: x, -1.0), "rest must be > 0"),
        (
            lambda: dynamics.max_learning_rate(
                jnp.ones(1), landscape=dynamics.plain(), overshoot=0.0
            ),
            "overshoot must be > 0",
        ),
        *(
            (lambda call=call: call(jnp.ones(2) / 2), rf"{name} must be a number, got shape \(2,\)")
            for name, call in (
                ("softening", dynamics.sharpened),
                ("leak", dynamics.smoothed),
                ("width", dynamics.hinge),
                ("alpha", lambda alpha: dynamics.preconditioned(dynamics.plain(), alpha)),
                ("rest", lambda rest: dynamics.modewise(lambda x: x, rest)),
                ("variance", lambda weight: dynamics.vicreg_plateau(1, 2, variance=weight)),
                ("covariance", lambda weight: dynamics.vicreg_plateau(1, 2, covariance=weight)),
                (
                    "overshoot",
                    lambda most: dynamics.max_learning_rate(jnp.ones(1), overshoot=most),
                ),
            )
        ),
        (
            lambda: dynamics.max_learning_rate(1.0, landscape=dynamics.plain()),
            r"eigenvalues must be a vector of shape \(k,\), got shape \(\)",
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
    loss = dynamics.preconditioned(dynamics.plain(), 0.1)
    at = jnp.asarray([-0.5, -0.1, -1e-3])
    slopes = jax.vmap(jax.grad(lambda x: loss.value(x)))(at)
    np.testing.assert_allclose(loss.force(at), -slopes, rtol=1e-9)
    across = loss.value(jnp.asarray([-1e-9, 1e-9]))
    assert float(across[0] - across[1]) == pytest.approx(2e-9 * 2 * 11, rel=1e-4)  # continuous
