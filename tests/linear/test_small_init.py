"""Alignment (Definitions 4.4, 4.5), Result 4.6, and Appendix C's elements."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from sslstep import linear, simulate

GAMMAS = (1.0, 0.5, 0.25, 0.1, -0.3)


def problem(dtype, gammas=GAMMAS):
    return linear.Modes(jnp.asarray(gammas, dtype), jnp.eye(len(gammas), dtype=dtype))


@pytest.mark.parametrize("scale", [1.0, 1e-20])
def test_align_is_gram_schmidt(dtype, scale):
    modes = problem(dtype)
    unit = linear.init_weights(jax.random.key(0), 3, 5, 1.0, dtype)
    rotation, values = linear.align(scale * unit, modes)
    eps = float(jnp.finfo(dtype).eps)
    np.testing.assert_allclose(rotation.T @ rotation, np.eye(3), atol=20 * eps)
    u = np.asarray(unit, float)[:, :3]
    for j in range(3):
        rest = u[:, j]
        for k in range(j):
            rest = rest - np.asarray(rotation)[:, k] * (np.asarray(rotation)[:, k] @ u[:, j])
        assert float(values[j]) == pytest.approx(scale * np.linalg.norm(rest), rel=200 * eps)
        assert float(values[j]) >= 0
        # u_j has a positive component along its own q_j and none along later ones.
        assert float(np.asarray(rotation)[:, j] @ u[:, j]) > 0


def test_align_undoes_an_aligned_start(x64):
    modes = problem(jnp.float64)
    q, _ = np.linalg.qr(np.random.default_rng(0).normal(size=(3, 3)))
    start = np.array([0.3, 0.1, 0.7])
    rotation, values = linear.align((q * start) @ np.eye(3, 5), modes)
    np.testing.assert_allclose(values, start, rtol=1e-14)
    np.testing.assert_allclose(rotation, q, atol=1e-14)


def test_trajectory_shapes_jit_and_grad(dtype):
    modes = problem(dtype)
    weights = linear.init_weights(jax.random.key(0), 2, 5, 1e-3, dtype)
    path = linear.small_init_trajectory(weights, modes)
    assert path(0.0).shape == (2, 5)
    assert jax.jit(path)(jnp.zeros((3, 4), dtype)).shape == (3, 4, 2, 5)
    gradient = jax.grad(lambda w: linear.small_init_trajectory(w, modes)(1.0).sum())(weights)
    assert bool(jnp.isfinite(gradient).all())
    # Both ends: the aligned start, and a top spectral solution.
    np.testing.assert_allclose(
        jnp.linalg.svd(path(0.0), compute_uv=False),
        jnp.sort(linear.align(weights, modes).singular_values)[::-1],
        rtol=1e-5,
    )
    assert float(linear.loss(path(jnp.inf), jnp.diag(modes.eigenvalues))) < 1e-10


@pytest.mark.parametrize("seed", range(2))
def test_elements_against_the_full_dynamics(x64, seed):
    modes = problem(jnp.float64, (0.5, 0.25, 0.125, 0.0625, 0.03125))
    gammas = modes.eigenvalues
    rng = np.random.default_rng(seed)
    start = np.triu(rng.uniform(0.5, 1.5, size=(3, 5)) * rng.choice([-1, 1], size=(3, 5)))
    np.fill_diagonal(start, np.abs(np.diag(start)))
    start = jnp.asarray(1e-10 * start)
    times = jnp.linspace(0.0, 80.0, 161)
    full = np.asarray(simulate.gradient_flow(start, modes, times).coefficients)
    paper = np.asarray(linear.elements(times, gammas, start))
    coupled = np.asarray(linear.coupled_elements(times, gammas, start))
    assert not np.isnan(paper).any()
    assert not np.isnan(coupled).any()
    # First order in elements of size α^(1/2) = 1e-5; products of two of them, relative to an
    # element they feed, are of order α^(1/4) = 3e-3, here with factors below 10.
    np.testing.assert_allclose(
        coupled[:, :, :3].diagonal(0, 1, 2), full.diagonal(0, 1, 2), rtol=1e-4
    )
    for j, k in [(0, 1), (0, 2), (1, 2), (0, 3), (1, 3), (2, 3)]:
        np.testing.assert_allclose(coupled[:, j, k], full[:, j, k], rtol=0.03)
    for j, k in [(0, 1), (0, 2), (1, 2)]:
        assert coupled[-1, k, j] == pytest.approx(full[-1, k, j], rel=0.03)
        assert abs(paper[-1, j, k] / full[-1, j, k] - 1) > 0.3  # Eq. 48 stops at its plateau
    assert coupled[-1, 0, 1] / paper[-1, 0, 1] == pytest.approx(np.pi / 2, rel=1e-12)


@pytest.mark.parametrize("ratio", [0.9, 0.8, 0.65])
def test_coupled_elements_of_close_modes_are_off_by_what_is_said(x64, ratio):
    """By (√γ_j s_j(0))^(1 - γ_k / γ_j) of themselves, above and below the diagonal."""
    gammas, start = jnp.asarray([0.3, 0.3 * ratio]), 1e-6 * jnp.asarray([[1.0, 0.8], [0.0, 1.0]])
    times = 1.6 * linear.critical_time(gammas[1:], start[1, 1])
    all_modes = linear.Modes(gammas, jnp.eye(2))
    full = simulate.gradient_flow(start, all_modes, times, rtol=1e-9, atol=1e-15).coefficients[0]
    coupled = linear.coupled_elements(times[0], gammas, start)
    off = (float(gammas[0]) ** 0.5 * 1e-6) ** (1 - ratio)
    for j, k in ((0, 1), (1, 0)):
        assert 0.3 * off < float(coupled[j, k] / full[j, k]) - 1 < 1.2 * off


@pytest.mark.parametrize(("ratio", "wanted"), [(16.0, 4.93558318502), (2.0**17, 453.747320377)])
def test_coupled_elements_of_distant_modes(ratio, wanted):
    """At the end, in float32: √π Γ((r + 1) / 2) / Γ(r / 2) by mpmath."""
    gammas, start = jnp.asarray([1.0, 1 / ratio]), 1e-10 * jnp.asarray([[1.0, 1.0], [0.0, 1.0]])
    alone = linear.elements(jnp.inf, gammas, start)[0, 1]
    coupled = linear.coupled_elements(jnp.inf, gammas, start)
    np.testing.assert_allclose(coupled[0, 1] / alone, wanted, rtol=3e-6)
    np.testing.assert_allclose(coupled[1, 0] / alone, -wanted / ratio**0.5, rtol=3e-6)


def test_elements_whose_growth_overflows(dtype):
    """e^(4γt) does, the element does not."""
    small = 1e-30 if dtype == jnp.float32 else 1e-250
    gammas, start = jnp.asarray([small, small / 2], dtype), jnp.full((1, 2), small, dtype)
    found = linear.elements(jnp.inf, gammas, start)
    expected = np.log(small) * np.array([-0.5, 0.25])  # s0 (s∞ / s0)^(1/2) = s0^(1/4)
    np.testing.assert_allclose(np.log(np.asarray(found[0], float)), expected, rtol=1e-5)


@pytest.mark.parametrize(
    ("gammas", "message"),
    [([0.2, 0.5], "descending order"), ([0.5, 0.5], "distinct"), ([0.5, -0.1], "d = 2 positive")],
)
def test_coupled_elements_refuse_eigenvalues(gammas, message, unchecked):
    with pytest.raises(ValueError, match=message):
        linear.coupled_elements(1.0, jnp.asarray(gammas), 0.1 * jnp.eye(2))


def test_elements_with_negative_and_far_apart_modes_stay_finite(dtype):
    gammas = jnp.asarray([282.0, 6.2, 0.28, 0.0, -0.3], dtype)
    start = jnp.triu(jnp.full((3, 5), 1e-7, dtype))
    times = jnp.asarray([0.0, 1e-3, 1.0, 1e3], dtype)
    for function in (linear.elements, linear.coupled_elements):
        value = jax.jit(function)(times, gammas, start)
        assert value.shape == (4, 3, 5)
        assert bool(jnp.isfinite(value).all())
    assert bool(
        jnp.isfinite(jax.grad(lambda a: linear.elements(1.0, gammas, a).sum())(start)).all()
    )


def test_alignment_exponent(dtype):
    gammas = jnp.asarray([1.0, 0.5, 0.1, 0.1], dtype)
    for dim, expected in ((1, 0.5), (2, 0.5), (3, 0.0)):
        assert float(linear.alignment_exponent(gammas, dim)) == pytest.approx(expected, abs=1e-6)
    # A negative mode behind the last one cannot grow: only the pair in front counts.
    behind = jnp.asarray([1.0, 0.2, -0.1], dtype)
    assert float(linear.alignment_exponent(behind, 2)) == pytest.approx(0.8)
    assert float(linear.alignment_exponent(jnp.asarray([1.0, 0.2], dtype), 2)) == pytest.approx(0.8)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (
            lambda: linear.init_weights(jax.random.key(0), 2, 3, -1e-7),
            "init_scale must be >= 0, got -1e-07",
        ),
        (
            lambda: linear.init_weights(jax.random.key(0), 2, 3, np.nan),
            "init_scale must be >= 0, got nan",
        ),
        (lambda: linear.init_weights(jax.random.key(0), 5, 3, 1e-7), "dim = 5 with 3 features"),
        (lambda: linear.initial_singular_values(-1.0, 3), "init_scale must be >= 0, got -1"),
        (lambda: linear.initial_singular_values(1.0, 0), "dim must be >= 1, got 0"),
        (lambda: linear.align(jnp.ones((6, 5)), problem(jnp.float32)), r"dim = 6 with 5 mode\(s\)"),
        (
            lambda: linear.align(jnp.ones((2, 4)), problem(jnp.float32)),
            "do not fit Γ on 5 features",
        ),
        (lambda: linear.align(jnp.full((2, 5), jnp.nan), problem(jnp.float32)), "weights .* NaN"),
        (
            lambda: linear.init_weights(jax.random.key(0), 2, 3, jnp.arange(3.0)),
            r"init_scale must be a number, got shape \(3,\)",
        ),
        (
            lambda: linear.initial_singular_values([1.0, 2.0, 3.0], 3),
            r"init_scale must be a number, got shape \(3,\)",
        ),
        (
            lambda: linear.small_init_trajectory(
                jnp.ones((2, 5)), problem(jnp.float32), learning_rate=jnp.ones(2)
            ),
            r"learning_rate must be a number, got shape \(2,\)",
        ),
        (
            lambda: linear.alignment_exponent(0.5, 1),
            r"eigenvalues must be a vector of shape \(k,\), got shape \(\)",
        ),
        (lambda: linear.alignment_exponent(jnp.array([1.0, -1.0]), 2), "first d = 2 positive"),
        (lambda: linear.alignment_exponent(jnp.array([1.0, 0.5]), 3), "between 1 and .* 2, got 3"),
        (
            lambda: linear.elements(1.0, jnp.ones(2), jnp.ones((3, 2))),
            r"d <= m .* \(3, 2\) and \(2,\)",
        ),
        (
            lambda: linear.elements(1.0, jnp.ones(2), jnp.zeros((2, 2))),
            "initial must be positive on its diagonal",
        ),
    ],
)
def test_rejects(call, message, unchecked):
    with pytest.raises(ValueError, match=message):
        call()


def test_elements_of_whole_numbers(unchecked):
    """Which used to be the type of the times as well."""
    gammas, whole = jnp.array([0.5, 0.25]), np.array([[1, 1]])
    np.testing.assert_array_equal(
        linear.elements(0.5, gammas, whole), linear.elements(0.5, gammas, whole.astype(np.float32))
    )
