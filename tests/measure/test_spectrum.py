"""Spectra of embeddings and the times of their steps."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from sslstep import dynamics, linear
from sslstep.measure import alignment, spectrum


def test_eigenvalues_of_a_pair_and_of_one_array(dtype):
    rng = np.random.default_rng(0)
    z, z_prime = (jnp.asarray(rng.normal(size=(50, 4)) + 1, dtype) for _ in range(2))
    pair = spectrum.correlation_eigenvalues(z, z_prime)
    expected = np.linalg.eigvalsh(np.asarray(linear.cross_correlation(z, z_prime)))[::-1]
    np.testing.assert_allclose(pair, expected, atol=1e-5)
    one = spectrum.covariance_eigenvalues(z)
    covariance = np.cov(np.asarray(z, float).T, bias=True)  # centred, 1 / n
    np.testing.assert_allclose(one, np.linalg.eigvalsh(covariance)[::-1], rtol=1e-4)
    assert bool((jnp.diff(one) <= 0).all())


def test_dimensions_that_have_hardly_grown_are_resolved():
    """In float32, eigenvalues down to 1e-12 of the largest: a covariance matrix would lose them."""
    q, _ = np.linalg.qr(np.random.default_rng(0).normal(size=(4000, 4)))
    q -= q.mean(axis=0)
    scales = np.array([1.0, 1e-2, 1e-4, 1e-6])
    mixing, _ = np.linalg.qr(np.random.default_rng(1).normal(size=(4, 4)))
    z = (q * scales) @ mixing
    exact = np.linalg.svd(z, compute_uv=False) ** 2 / len(z)
    measured = spectrum.covariance_eigenvalues(jnp.asarray(z, jnp.float32))
    np.testing.assert_allclose(measured[:3], exact[:3], rtol=1e-2)
    assert float(measured[3]) < 100 * exact[3]  # eps² of the largest, not eps


def test_the_mean_may_be_far_above_the_deviations():
    """Of float32 numbers, against the same numbers in float64."""
    spread = np.random.default_rng(0).normal(size=(256, 2)) * [1.0, 1e-2]
    z = np.float32(1e4 + spread)
    exact = np.linalg.svd(z - z.mean(axis=0, dtype=float), compute_uv=False) ** 2 / 256
    np.testing.assert_allclose(spectrum.covariance_eigenvalues(z), exact, rtol=1e-5)


def test_gradient_at_a_collapsed_embedding(dtype):
    """All eigenvalues tie at zero: the gradient of their sum is finite."""
    gradient = jax.grad(lambda z: spectrum.covariance_eigenvalues(z).sum())(jnp.ones((6, 3), dtype))
    assert bool(jnp.isfinite(gradient).all())


def test_step_times_of_logistic_curves(dtype):
    """Sampled at 1.6%, as in Figure 1: the interpolation is good to 1e-4."""
    gammas = jnp.asarray([3.0, 0.5, 0.2], dtype)
    times = jnp.geomspace(1e-2, 50.0, 540, dtype=dtype)
    curves = linear.mode_eigenvalue(times[:, None], gammas, 1e-7)
    measured = spectrum.step_times(times, curves)
    np.testing.assert_allclose(measured, dynamics.step_time(gammas, 1e-7), rtol=2e-4)
    earlier = spectrum.step_times(times, curves, 0.1)
    assert bool((earlier < measured).all())


def test_step_times_first_crossing_and_never():
    curves = jnp.array([[0.7, 0.0, 0.0], [0.2, 0.4, 0.1], [0.9, 0.6, 0.2], [0.9, 0.1, 0.3]])
    times = jnp.array([1.0, 2.0, 3.0, 4.0])
    np.testing.assert_allclose(spectrum.step_times(times, curves), [1.0, 2.5, np.inf])
    jitted = jax.jit(spectrum.step_times)(times, curves, 0.3)
    np.testing.assert_allclose(jitted, [1.0, 1.75, 4.0], rtol=1e-6)


@pytest.mark.parametrize("short", [jnp.bfloat16, jnp.float16, jnp.float32])
@pytest.mark.parametrize(
    "times",
    [
        np.array([1000.0, 1001.0, 1002.0]),
        np.array([0.0, 1e5, 2e5]),
        2**24 + np.arange(3, dtype=np.uint32),
    ],
)
def test_times_need_not_fit_the_eigenvalues_type(short, times):
    """Beyond the largest, or so close that they round to the same."""
    curves = jnp.asarray([[0.0, 0.0], [1.0, 0.25], [1.0, 0.75]], short)
    found = spectrum.step_times(times, curves)
    assert found.dtype == jnp.float32
    expected = times[:-1] + np.diff(times) / 2
    # Two records, their difference and the sum are rounded.
    np.testing.assert_allclose(found, expected, rtol=2 * float(jnp.finfo(jnp.float32).eps))
    with pytest.raises(ValueError, match="times must increase"):
        spectrum.step_times(times[::-1], curves)


def test_thresholds_need_not_fit_the_eigenvalues_type():
    """0.3 in bfloat16 is 0.3008, which is no less than itself."""
    curves = jnp.asarray([[0.0], [0.3]], jnp.bfloat16)
    assert float(spectrum.step_times(jnp.arange(2.0), curves, 0.3)[0]) < 1
    np.testing.assert_array_equal(spectrum.learned_dimensions(curves, 0.3), [0, 1])
    edges = np.array([1.0, 1.001, 1.002, 3.0])
    counts = spectrum.histogram(jnp.asarray([[1.0, 2.0]], jnp.bfloat16), edges)
    np.testing.assert_array_equal(counts, [[1, 0, 1]])


@pytest.mark.parametrize("initial", [1e-8, 1e-3])
def test_sharpness_of_logistic_curves(x64, initial):
    """Every mode's is ln(1 / λ(0) - 1) / ln 81, whatever its γ."""
    gammas = jnp.asarray([3.0, 0.5, 0.2])
    times = jnp.linspace(0.0, 60.0, 24001)
    singular_values = jnp.sqrt(initial / gammas)
    curves = linear.mode_eigenvalue(times[:, None], gammas, singular_values)
    expected = np.log(1 / initial - 1) / np.log(81)
    np.testing.assert_allclose(spectrum.step_sharpness(times, curves), expected, rtol=1e-3)


def test_sharpness_of_what_never_rises_and_of_jumps(dtype):
    curves = jnp.asarray(
        [[0.0, 0.0, 0.0], [0.6, 0.2, 0.0], [0.7, 1.0, 0.0], [0.8, 1.0, 0.0]], dtype
    )
    sharpness = spectrum.step_sharpness(jnp.arange(4.0, dtype=dtype), curves)
    np.testing.assert_array_equal(sharpness == 0, [True, False, True])
    levels = jax.jit(lambda low: spectrum.step_sharpness(jnp.arange(4.0), curves, low=low))
    assert float(levels(0.3)[1]) > float(levels(0.05)[1])


def test_sharpness_of_what_has_risen_at_the_start():
    """There is no rise: at time 0 it takes no time, from later on it is a jump."""
    for start, expected in ((0.0, 0.0), (1.0, np.inf)):
        times = start + jnp.arange(3.0)
        np.testing.assert_array_equal(spectrum.step_sharpness(times, jnp.ones((3, 1))), expected)
    gradient = jax.grad(lambda x: spectrum.step_sharpness(jnp.arange(3.0), x).sum())
    np.testing.assert_array_equal(gradient(jnp.ones((3, 1))), 0)


def test_effective_rank_is_the_exponential_of_an_entropy(x64):
    rng = np.random.default_rng(0)
    u, _ = np.linalg.qr(rng.normal(size=(40, 6)))
    v, _ = np.linalg.qr(rng.normal(size=(6, 6)))
    singular = np.array([5.0, 2.0, 2.0, 0.5, 0.0, 0.0])
    p = singular[:4] / singular.sum()
    expected = np.exp(-np.sum(p * np.log(p)))
    z = jnp.asarray(u * singular @ v)
    np.testing.assert_allclose(spectrum.effective_rank(z), expected, rtol=1e-6)
    np.testing.assert_allclose(spectrum.effective_rank(1e-5 * z), expected, rtol=1e-6)
    wide = spectrum.effective_rank(jnp.asarray(rng.normal(size=(3, 50))))
    assert 1 <= float(wide) <= 3


def test_learned_dimensions_and_histogram_count(dtype):
    rng = np.random.default_rng(0)
    values = 10.0 ** rng.uniform(-5, 0.5, size=(7, 30))
    curves = jnp.asarray(values, dtype)
    learned = spectrum.learned_dimensions(curves, 0.3)
    np.testing.assert_array_equal(learned, (values > 0.3).sum(axis=1))
    edges = np.geomspace(1e-4, 1.0, 9)
    counts = spectrum.histogram(curves, edges)
    expected = [np.histogram(np.asarray(row), np.asarray(edges, dtype))[0] for row in curves]
    np.testing.assert_array_equal(counts, expected)
    on_edges = spectrum.histogram(jnp.asarray([[1.0, 2.0, 3.0]], dtype), jnp.arange(1.0, 4.0))
    np.testing.assert_array_equal(on_edges, [[1, 2]])


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (
            lambda: spectrum.covariance_eigenvalues(jnp.ones(3)),
            r"z must be a matrix of shape \(n, d\)",
        ),
        (lambda: spectrum.covariance_eigenvalues(jnp.full((3, 2), jnp.nan)), "z of shape .* NaN"),
        (lambda: spectrum.correlation_eigenvalues(jnp.ones((3, 2)), jnp.ones((4, 2))), "one shape"),
        (lambda: spectrum.step_times(jnp.arange(3.0), jnp.ones((4, 2))), r"shape \(4,\), one for"),
        (lambda: spectrum.step_times(jnp.zeros(4), jnp.ones((4, 2))), "times must increase"),
        (
            lambda: spectrum.step_sharpness(jnp.arange(3.0), jnp.ones((3, 2)), low=0.9, high=0.1),
            "high must be above low",
        ),
        (
            lambda: spectrum.step_times(jnp.arange(3.0), jnp.ones((3, 2)), jnp.ones(2)),
            r"threshold must be a number, got shape \(2,\)",
        ),
        (
            lambda: spectrum.step_sharpness(jnp.arange(3.0), jnp.ones((3, 2)), low=jnp.zeros(2)),
            r"low must be a number, got shape \(2,\)",
        ),
        (
            lambda: spectrum.step_sharpness(jnp.arange(3.0), jnp.ones((3, 2)), high=jnp.ones(2)),
            r"high must be a number, got shape \(2,\)",
        ),
        (
            lambda: spectrum.learned_dimensions(jnp.ones((3, 2)), jnp.ones(2)),
            r"threshold must be a number, got shape \(2,\)",
        ),
        (lambda: spectrum.effective_rank(jnp.zeros((4, 2))), "z is all zero"),
        (
            lambda: spectrum.histogram(jnp.ones((4, 2)), jnp.array([1.0, 0.5])),
            "edges must increase",
        ),
        (
            lambda: spectrum.histogram(jnp.ones((4, 2)), np.array([1.0, 1.0 + 1e-9, 2.0])),
            "edges as float32 must increase",
        ),
        (lambda: spectrum.histogram(jnp.ones((4, 2)), jnp.ones(1)), "at least 2"),
        (lambda: spectrum.learned_dimensions(jnp.full((4, 2), jnp.nan)), "NaN"),
    ],
)
def test_rejects(call, message, unchecked):
    with pytest.raises(ValueError, match=message):
        call()


@pytest.mark.parametrize("short", [jnp.bfloat16, jnp.float16])
def test_half_precision_is_measured_in_float32(short):
    z, z_prime = jax.random.normal(jax.random.key(0), (2, 300, 5)).astype(short)
    whole, whole_prime = z.astype(jnp.float32), z_prime.astype(jnp.float32)
    for ours, theirs in (
        (spectrum.covariance_eigenvalues(z), spectrum.covariance_eigenvalues(whole)),
        (
            spectrum.correlation_eigenvalues(z, z_prime),
            spectrum.correlation_eigenvalues(whole, whole_prime),
        ),
        (spectrum.effective_rank(z), spectrum.effective_rank(whole)),
        (alignment.misalignment(z, z_prime), alignment.misalignment(whole, whole_prime)),
    ):
        assert ours.dtype == jnp.float32
        np.testing.assert_array_equal(ours, theirs)
    matrix = linear.cross_correlation(z, z_prime)
    theirs = linear.modes(matrix.astype(jnp.float32))
    np.testing.assert_array_equal(linear.modes(matrix).eigenvalues, theirs.eigenvalues)


def test_a_rise_ends_at_one_half_or_above():
    with pytest.raises(ValueError, match=r"high must be at least 1/2, .* got 0.4"):
        spectrum.step_sharpness(jnp.arange(3.0), jnp.ones((3, 1)), low=0.1, high=0.4)
