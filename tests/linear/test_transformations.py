"""Every public function under jit, vmap and grad, in both precisions, and with lists and bytes."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from sslstep import dynamics, linear, simulate
from sslstep.measure import spectrum

G, S, T = [0.5, 0.2], [1e-2, 2e-2], [0.3, 1.0]
A = np.random.default_rng(0).normal(size=(6, 3)).tolist()
GAMMA = np.diag([1.0, 0.4, -0.2]).tolist()


def _modes(gammas):
    return linear.Modes(gammas, jnp.eye(gammas.shape[0], dtype=gammas.dtype))


# Each takes float arrays and returns an array; the first argument is differentiated.
CALLS = {
    "cross_correlation": (lambda a: linear.cross_correlation(a, a[::-1]), A),
    "loss": (lambda w: linear.loss(w[:2], jnp.asarray(GAMMA, w.dtype)), A),
    "modes": (lambda g: linear.modes(g).eigenvalues, GAMMA),
    "top_spectral": (lambda g: linear.top_spectral(_modes(g), 2), G),
    "singular_value": (lambda g: dynamics.singular_value(1.0, g, 0.1, learning_rate=0.01), G),
    "mode_eigenvalue": (lambda g: dynamics.mode_eigenvalue(1.0, g, 0.1), G),
    "quartic_family": (
        lambda a: dynamics.mode_eigenvalue(1.0, 1.0, 0.1, landscape=dynamics.quartic_family(a, a)),
        G,
    ),
    "on_a_landscape": (
        lambda g: dynamics.singular_value(1.0, g, 0.1, landscape=dynamics.sharpened(1e-2)),
        G,
    ),
    "critical_time": (lambda g: dynamics.critical_time(g, 0.1, learning_rate=0.01), G),
    "step_time": (lambda s: dynamics.step_time(0.5, s), S),
    "effective_eigenvalue": (lambda g: dynamics.effective_eigenvalue(g, 0.01), G),
    "max_learning_rate": (dynamics.max_learning_rate, G),
    "plateau_loss": (lambda t: dynamics.plateau_loss(t, t), T),
    "settling_time": (dynamics.settling_time, G),
    "supervised_trajectory": (lambda g: dynamics.supervised_trajectory(1.0, g, 0.1), G),
    "initial_singular_values": (lambda a: linear.initial_singular_values(a[0], 3), S),
    "init_weights": (lambda a: linear.init_weights(jax.random.key(0), 2, 3, a[0], a.dtype), S),
    "align": (lambda w: linear.align(w[:2], _modes(w[0])).singular_values, A),
    "small_init_trajectory": (
        lambda w: linear.small_init_trajectory(
            w[:2], _modes(jnp.asarray([1.0, 0.4, -0.2], w.dtype))
        )(1.0),
        A,
    ),
    "alignment_exponent": (lambda g: linear.alignment_exponent(g, 1), G),
    "elements": (lambda g: linear.elements(1.0, g, jnp.eye(2, dtype=g.dtype)), G),
    "gradient_descent": (
        lambda w: simulate.gradient_descent(w[:2], _modes(w[3]), 0.01, 4, 2).coefficients,
        A,
    ),
    "gradient_flow": (
        lambda w: simulate.gradient_flow(w[:2], _modes(w[3]), jnp.ones(1, w.dtype)).coefficients,
        A,
    ),
    "covariance_eigenvalues": (spectrum.covariance_eigenvalues, A),
    "correlation_eigenvalues": (lambda a: spectrum.correlation_eigenvalues(a, a[::-1]), A),
    "step_times": (
        lambda t: spectrum.step_times(
            jnp.arange(2, dtype=t.dtype), jnp.stack([jnp.zeros_like(t), t])
        ),
        [2.0, 3.0],
    ),
}


@pytest.mark.filterwarnings("ignore:only . of the top", "ignore:learning_rate")
@pytest.mark.parametrize("name", [name for name in CALLS if name != "gradient_flow"])
def test_jit_vmap_and_grad(dtype, name):
    require_transformations(dtype, name)


def test_jit_vmap_and_grad_of_gradient_flow(x64):
    """Its program takes as long to compile as all others; test_simulate.py has it in float32."""
    require_transformations(jnp.dtype("float64"), "gradient_flow")


def require_transformations(dtype, name):
    call, argument = CALLS[name]
    argument = jnp.asarray(argument, dtype)
    value = call(argument)
    assert value.dtype == dtype

    @jax.jit
    @jax.vmap
    def transformed(x):
        value, backward = jax.vjp(call, x)
        return value, backward(jnp.ones_like(value))[0]

    values, gradients = transformed(jnp.stack([argument, argument]))
    tol = 1e3 * float(jnp.finfo(dtype).eps)
    np.testing.assert_allclose(values, jnp.stack([value, value]), rtol=tol, atol=tol)
    assert gradients.dtype == dtype
    assert bool(jnp.isfinite(gradients).all())


def test_bytes_and_integers_do_not_wrap(unchecked):
    pixels = np.full((3, 2), 200, np.uint8)
    np.testing.assert_allclose(linear.cross_correlation(pixels, pixels), 40000.0)
    assert float(linear.loss(np.eye(2, dtype=int), 2 * np.eye(2, dtype=int))) == 2.0
    np.testing.assert_allclose(linear.modes([[2, 0], [0, 1]]).eigenvalues, [2.0, 1.0])
    np.testing.assert_allclose(linear.singular_value([0, 1], 1, [0.5, 0.5])[0], 0.5)
    with pytest.raises(ValueError, match=r"views\[0\] must hold real numbers, got dtype complex64"):
        linear.cross_correlation(1j * np.ones((2, 2)), np.ones((2, 2)))


def test_modes_with_nan_are_refused():
    broken = linear.Modes(jnp.array([1.0, jnp.nan]), jnp.eye(2))
    weights = jnp.ones((1, 2))
    for call in (
        lambda: linear.top_spectral(broken, 1),
        lambda: linear.align(weights, broken),
        lambda: simulate.gradient_descent(weights, broken, 0.1, 10),
    ):
        with pytest.raises(ValueError, match=r"eigenvalues of shape \(2,\) holds 1 value"):
            call()


@pytest.mark.parametrize(
    ("weights", "gamma", "message"),
    [
        (np.ones((2, 5)), np.ones((3, 5)), r"gamma_matrix must be square.*\(3, 5\)"),
        (np.ones((2, 2)), np.array([[1.0, 0.5], [0, 1]]), "gamma_matrix must be symmetric"),
        (np.full((2, 2), np.nan), np.eye(2), "weights .* NaN"),
    ],
)
def test_loss_rejects(weights, gamma, message, unchecked):
    with pytest.raises(ValueError, match=message):
        linear.loss(weights, gamma)


def test_alpha_and_threshold_are_traced():
    traces = []

    @jax.jit
    def start(scale):
        traces.append("start")
        return linear.init_weights(jax.random.key(0), 2, 3, scale)

    @jax.jit
    def when(threshold):
        traces.append("when")
        return spectrum.step_times(jnp.arange(3.0), jnp.arange(6.0).reshape(3, 2), threshold)

    for value in (1e-3, 1e-5, 1e-7):
        start(value)
        when(value)
    assert traces == ["start", "when"]


def test_lars_steps_need_a_mode_that_is_not_zero():
    with pytest.raises(ValueError, match="initial_singular_values must not all be zero"):
        dynamics.lars_steps(jnp.array([0.0, 1.0]), jnp.ones(2), jnp.zeros(2), 1e-2)
