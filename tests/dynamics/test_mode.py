"""The closed forms of one mode: the ODE, their limits, and the edges of floating point."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from sslstep import dynamics, linear


def quartic(t, p, q, initial):
    """s' = p s - q s³."""
    family = dynamics.quartic_family(p / 4, q / 4)
    return dynamics.singular_value(t, 1.0, initial, landscape=family)


def _printed_eq10(t, gamma, s0):
    """Eq. 10 exactly as printed, in extended precision."""
    t, gamma, s0 = (np.longdouble(v) for v in (t, gamma, s0))
    return np.exp(4 * gamma * t) / np.sqrt(s0**-2 + (np.exp(8 * gamma * t) - 1) * gamma)


def test_eq10_as_printed(dtype):
    t = jnp.array([0.0, 1e-3, 0.1, 1.0, 5.0, 20.0], dtype)[:, None, None]
    gammas = jnp.array([0.3, 2.0, -0.4, 1e-6, -1e-6, 0.0], dtype)[None, :, None]
    initial = jnp.array([1e-7, 0.1, 1.0, 7.0], dtype)[None, None]
    value = dynamics.singular_value(t, gammas, initial)
    assert value.dtype == dtype
    # The exponent 4γt is rounded to eps of itself.
    rtol = float(jnp.finfo(dtype).eps) * 4 * (4 + 4 * np.abs(gammas * t))
    assert (np.abs(np.asarray(value) / _printed_eq10(t, gammas, initial) - 1) < rtol).all()


def test_gradients_match_finite_differences(x64):
    for gamma in (0.7, -0.7, 1e-9, 0.0):
        for t in (0.3, 4.0):
            for initial in (1e-3, 0.8, 3.0):
                point = np.array([t, gamma, initial])
                gradient = jax.grad(lambda p: dynamics.singular_value(*p))(jnp.asarray(point))
                for i in range(3):
                    h = 1e-6 * max(1.0, abs(point[i]))
                    up, down = point.copy(), point.copy()
                    up[i] += h
                    down[i] -= h
                    slope = dynamics.singular_value(*up) - dynamics.singular_value(*down)
                    # Central differences: h^2 in the third derivative, and eps / h in rounding.
                    assert gradient[i] == pytest.approx(float(slope) / (2 * h), rel=1e-5, abs=1e-7)


def test_limits_of_eq13(dtype):
    gammas = jnp.asarray([4.0, 0.0, -1.0], dtype)
    for t in (jnp.inf, 1e6):
        values = dynamics.singular_value(t, gammas, 0.3)
        np.testing.assert_allclose(values, [0.5, 0.3, 0.0], rtol=4 * jnp.finfo(dtype).eps)


@pytest.mark.parametrize(
    ("p", "q"), [(1.0, 2.0), (0.0, 3.0), (-0.5, 1.0), (2.0, 0.0), (1e-10, 1.0)]
)
def test_quartic_solves_its_equation(x64, p, q):
    t = jnp.linspace(0, 3, 31)
    s, slope = jax.jvp(lambda t: quartic(t, p, q, -0.4), (t,), (jnp.ones_like(t),))
    np.testing.assert_allclose(slope, p * s - q * s**3, rtol=1e-12, atol=1e-14)
    assert float(s[0]) == pytest.approx(-0.4, rel=1e-15)


@pytest.mark.parametrize("p", [0.5, 1e-9, 0.0, -0.5])
@pytest.mark.parametrize("t", [0.1, 3.0])
def test_the_slope_by_the_saturation_where_there_is_none(dtype, p, t):
    """ds/dq = -s0^3 e^{pt} (e^{2pt} - 1) / 2p at q = 0, where s itself is plain growth."""
    initial = 0.3
    grown = np.expm1(2 * p * t) / p if p else 2 * t
    expected = -(initial**3) * np.exp(p * t) * grown / 2
    arguments = [jnp.asarray(v, dtype) for v in (t, p, 0.0, initial)]
    found = jax.grad(quartic, 2)(*arguments)
    # Exponents of up to 3pt are rounded to eps of themselves, and a dozen factors to eps.
    assert float(found) == pytest.approx(expected, rel=float(jnp.finfo(dtype).eps) * (12 + 3 * t))


def test_quartic_is_odd_and_eq10_is_one_call_of_it(x64):
    t = jnp.linspace(0, 3, 31)
    np.testing.assert_array_equal(quartic(t, 1.0, 2.0, -0.1), -quartic(t, 1.0, 2.0, 0.1))
    # Of which one is given q, the other its factors.
    np.testing.assert_allclose(
        quartic(t, 1.2, 0.36, 0.1), dynamics.singular_value(t, 0.3, 0.1), rtol=1e-14
    )


def test_critical_time_is_the_half_rise_up_to_order_lambda0(x64):
    for initial in (1e-2, 1e-4, 1e-6):
        value = dynamics.mode_eigenvalue(dynamics.critical_time(0.7, initial), 0.7, initial)
        start = 0.7 * initial**2
        assert abs(float(value) - 0.5) < start
        exact = dynamics.mode_eigenvalue(dynamics.step_time(0.7, initial), 0.7, initial)
        assert float(exact) == pytest.approx(0.5, abs=1e-13)


def test_a_mode_that_starts_past_one_half_has_no_step_ahead(dtype):
    """Both times are 0; Eq. 16 as it stands is negative for the last."""
    initial = jnp.asarray([0.7, 0.71, 0.9, 2.0, 1e18], dtype)
    for eta in (0.0, 0.1):
        for function in (dynamics.step_time, dynamics.critical_time):
            times = np.asarray(function(1.0, initial, learning_rate=eta))
            assert times[0] >= 0
            np.testing.assert_array_equal(times[1:], 0)
    sharp = dynamics.step_time(1.0, initial, landscape=dynamics.sharpened())
    np.testing.assert_array_equal(sharp[1:], 0)
    assert float(dynamics.plateau_loss(0.0, dynamics.critical_time(1.0, initial[2:]))) == 0


def test_times_of_modes_never_or_already_learned(dtype):
    gammas = jnp.asarray([0.0, -1.0, 1.0, 1.0, 1.0], dtype)
    initial = jnp.asarray([0.1, 0.1, 0.0, 0.9, 2.0], dtype)
    np.testing.assert_array_equal(
        dynamics.step_time(gammas, initial), [np.inf, np.inf, np.inf, 0, 0]
    )
    assert not bool(jnp.isfinite(dynamics.critical_time(gammas, initial)[:3]).any())
    for function in (dynamics.step_time, dynamics.critical_time):
        gradient = jax.grad(lambda g, s, f=function: f(g, s)[2:].sum())(gammas, initial)
        assert not bool(jnp.isnan(gradient).any())


def test_effective_eigenvalue(x64):
    assert float(dynamics.effective_eigenvalue(0.0, 0.1)) == 0.0
    assert float(dynamics.effective_eigenvalue(3.0, 0.0)) == 3.0
    assert float(dynamics.effective_eigenvalue(2.0, 0.05)) == pytest.approx(np.log(1.4) / 0.2)
    # One step of gradient descent multiplies by 1 + 4ηγ: so does this rate in time η, negative too.
    for gamma in (-3.0, -1e-9, 1e-9, 5.0):
        rate = dynamics.effective_eigenvalue(gamma, 0.05)
        assert np.exp(4 * 0.05 * float(rate)) == pytest.approx(1 + 4 * 0.05 * gamma, rel=1e-14)


@pytest.mark.parametrize(
    ("rate", "initial"), [(0.03, 1e-7), (0.03, 0.1), (0.3, 1e-3), (0.6, 1e-7), (0.9, 0.1)]
)
def test_predictions_follow_gradient_descent_of_one_mode(x64, rate, initial):
    """The discrete map itself, up to nine tenths of the largest stable rate, within 0.1 step."""
    gamma, eta = 1.0, rate / 4
    late = []
    for phase in np.linspace(0, 1, 8):
        s = start = initial * (1 + rate) ** phase
        sizes = [gamma * s**2]
        while sizes[-1] < 0.5:
            s += 4 * eta * (1 - gamma * s**2) * gamma * s
            sizes.append(gamma * s**2)
        low, high = sizes[-2:]
        measured = len(sizes) - 2 + (0.5 - low) / (high - low)
        predicted = float(dynamics.step_time(gamma, start, learning_rate=eta))
        late.append(predicted / eta - measured)
        at_half = dynamics.mode_eigenvalue(predicted, gamma, start, learning_rate=eta)
        assert float(at_half) == pytest.approx(0.5, abs=1e-12)
        critical = float(dynamics.critical_time(gamma, start, learning_rate=eta))
        assert abs(critical - predicted) < gamma * start**2 / (8 * gamma) * 3
    # Eq. 16 with the rate of growth alone is late by 0.35 to 0.52 step.
    assert np.abs(late).max() < 0.11
    if rate < 0.1:
        assert np.abs(late).max() < 0.005


def test_curves_of_gradient_descent(x64):
    """From the first step to rest, of γ of either sign: to second order in ηγ."""
    errors = []
    for rate in (0.05, 0.1):
        for gamma, initial in ((1.0, 1e-4), (-0.5, 0.3)):
            s, sizes = initial, []
            for _ in range(int(40 / rate)):
                sizes.append(gamma * s**2)
                s += rate * (1 - gamma * s**2) * gamma * s
            t = rate / 4 * np.arange(len(sizes))
            curve = dynamics.mode_eigenvalue(t, gamma, initial, learning_rate=rate / 4)
            error = np.abs(np.asarray(curve) - sizes).max()
            errors.append(error)
            assert error < 0.3 * rate**2  # where flow alone is off by 2 rate
    assert (np.array(errors[2:]) > 3 * np.array(errors[:2])).all()


def test_plateau_loss():
    tau = jnp.array([3.0, 1.0, jnp.inf])
    np.testing.assert_array_equal(dynamics.plateau_loss(jnp.array([0.0, 1.0, 5.0]), tau), [3, 2, 1])
    assert float(dynamics.plateau_loss(1.0, jnp.zeros(0))) == 0


def test_plateau_loss_refuses_a_number_for_step_times(unchecked):
    with pytest.raises(ValueError, match=r"step_times must be a vector .* got shape \(\)"):
        dynamics.plateau_loss(1.0, 2.0)


@pytest.mark.parametrize("initial", [1e-3, 1e-30])
@pytest.mark.parametrize("gamma", [0.2, 1.0])
def test_lars_steps_of_one_mode(dtype, gamma, initial):
    """d ln s / dt is the integrand itself: k = ln(s(t) / s(0)) / ρ, whatever γ; no underflow."""
    t = jnp.linspace(0, 40 / gamma, 20_001, dtype=dtype)
    gammas, start = jnp.asarray([gamma], dtype), jnp.asarray([initial], dtype)
    s = dynamics.singular_value(t, gammas[0], start[0])
    found = dynamics.lars_steps(t, gammas, start, 1e-3)
    # The sum of 20,000 terms is rounded, and the trapezoidal rule is off by (4 γ Δt)² / 12.
    tol = 20_000**0.5 * float(jnp.finfo(dtype).eps) + 1e-5
    np.testing.assert_allclose(found[1:], jnp.log(s[1:] / initial) / 1e-3, rtol=30 * tol, atol=1)


@pytest.mark.parametrize(("spread", "error"), [(0.1, 0.08), (0.25, 0.12)])
def test_lars_steps_within_their_domain(x64, spread, error):
    """Two modes with γ₁ / γ₂ = spread / ρ, stepped."""
    rho, initial = 5e-3, 1e-3
    gammas = np.array([1.0, rho / spread])
    s, steps = np.full(2, initial), 0
    while gammas[1] * s[1] ** 2 < 0.5:
        slope = 4 * (1 - gammas * s**2) * gammas * s
        s, steps = s + rho * np.linalg.norm(s) / np.linalg.norm(slope) * slope, steps + 1
    t = jnp.geomspace(1e-3, 2 * dynamics.step_time(gammas[1], initial), 20_001)
    found = dynamics.lars_steps(t, jnp.asarray(gammas), jnp.full(2, initial), rho)
    at = float(jnp.interp(0.5, dynamics.mode_eigenvalue(t, gammas[1], initial), found))
    assert 0 < steps / at - 1 < error


def test_lars_steps_warn_beyond_their_domain():
    gammas, start, t = jnp.asarray([1.0, 1e-4]), 1e-3 * jnp.ones(2), jnp.geomspace(1e-3, 1e6, 2001)
    with pytest.warns(UserWarning, match=r"relative_rate = 0.0005 is too long a step"):
        dynamics.lars_steps(t, gammas, start, 5e-4)
    dynamics.lars_steps(t[:900], gammas, start, 5e-4)  # not as far as there
    dynamics.lars_steps(t, gammas, start, 1e-5)


def test_lars_steps_of_large_starts(dtype):
    """Squares of s overflow, γ s² does not."""
    big = 1e25 if dtype == jnp.float32 else 1e200
    t = (
        jnp.linspace(0, 1e30, 11, dtype=dtype)
        if dtype == jnp.float32
        else jnp.linspace(0, 1e300, 11)
    )
    steps = dynamics.lars_steps(t, jnp.asarray([1 / big], dtype), jnp.asarray([big], dtype), 1e-3)
    assert np.isfinite(np.asarray(steps)).all()


def test_lars_steps_refuse_bad_input(unchecked):
    with pytest.raises(ValueError, match="relative_rate"):
        dynamics.lars_steps(jnp.ones(3), jnp.ones(2), jnp.ones(2), 0.0)
    with pytest.raises(ValueError, match=r"one shape \(d,\)"):
        dynamics.lars_steps(jnp.ones(3), jnp.ones(2), jnp.ones(3), 0.1)


@pytest.mark.parametrize(
    "call",
    [
        lambda t: quartic(t, 2.0, 8.0, 1e-3),
        lambda t: dynamics.singular_value(t, 1.0, 1e-3, learning_rate=0.1),
        lambda t: dynamics.mode_eigenvalue(t, 1.0, 1e-3),
        lambda t: linear.elements(t, jnp.ones(2), 1e-3 * jnp.ones((1, 2))),
        lambda t: dynamics.supervised_trajectory(t, 1.0, 0.0),
        lambda t: dynamics.singular_value(t, 1.0, 1e-3, landscape=dynamics.sharpened()),
    ],
)
def test_negative_times_are_refused(call):
    """Those of numbers and of NumPy's arrays; a look at one of JAX's would wait for its device."""
    for t in (-0.5, np.array([0.0, -0.5])):
        with pytest.raises(ValueError, match=r"t must be >= 0, got -0\.5"):
            call(t)
    for known in (call, jax.jit(call)):
        value = known(jnp.array([0.0, -0.5]))
        assert np.isfinite(value[0]).all()
        assert np.isnan(value[1]).any()


def test_descent_that_diverges_still_has_a_prediction():
    """Beyond 2/|4γ| a mode that should decay alternates and grows: time runs, not backwards."""
    assert float(dynamics.singular_value(1.0, -1.0, 1e-3, learning_rate=0.6)) > 1e-3


def test_numbers_adapt_to_the_times(x64):
    t = jnp.ones(3, jnp.float32)
    assert dynamics.mode_eigenvalue(t, 2.0, 1e-3).dtype == jnp.float32
    assert dynamics.mode_eigenvalue(t, 2, 1e-3, learning_rate=0.01).dtype == jnp.float32


def test_a_mode_that_falls_is_never_learned():
    """With weight decay above its growth and no quartic term, beside one that rises."""
    growth = np.array([0.9, -0.2])
    family = dynamics.quartic_family(growth, 0.0)
    times = dynamics.step_time(np.ones(2), 1e-2, landscape=family)
    # The force is 2 a, and dλ/dt = 4 γ λ times the force.
    np.testing.assert_allclose(times[0], np.log(0.5 / 1e-4) / (8 * growth[0]), rtol=1e-5)
    assert times[1] == np.inf
    assert float(dynamics.step_time(1.0, 1.0, landscape=dynamics.quartic_family(-1.0, 0.0))) == 0.0
    assert dynamics.settling_time(1.0, landscape=dynamics.quartic_family(0.5, 0.0)) == np.inf
