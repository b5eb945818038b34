"""Γ, its modes, and what can go wrong with them."""

import warnings

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from sslstep import linear


def symmetric(eigenvalues, seed, dtype):
    """A matrix with a prescribed spectrum and its eigenvectors."""
    eigenvalues = np.asarray(eigenvalues)
    q, _ = np.linalg.qr(np.random.default_rng(seed).normal(size=(len(eigenvalues),) * 2))
    matrix = (q * eigenvalues) @ q.T
    return jnp.asarray((matrix + matrix.T) / 2, dtype), q


def test_cross_correlation_is_the_sum_of_outer_products(dtype):
    rng = np.random.default_rng(0)
    x, x_prime = rng.normal(size=(2, 7, 4))
    expected = sum(np.outer(a, b) + np.outer(b, a) for a, b in zip(x, x_prime, strict=True)) / 14
    value = linear.cross_correlation(jnp.asarray(x, dtype), jnp.asarray(x_prime, dtype))
    np.testing.assert_allclose(value, expected, atol=20 * float(jnp.finfo(dtype).eps))
    np.testing.assert_array_equal(value, value.T)  # to the last bit


@pytest.mark.parametrize("half", [jnp.float16, jnp.bfloat16])
def test_half_precision_is_accumulated_in_float32(half):
    """Sums overflow where the means that are asked for do not."""
    pixels = np.random.default_rng(0).integers(0, 256, size=(500, 4))
    view = jnp.asarray(pixels, half)
    single = view.astype(jnp.float32)
    gamma = linear.cross_correlation(view, view)
    assert gamma.dtype == jnp.float32
    np.testing.assert_array_equal(gamma, linear.cross_correlation(single, single))
    # |C - I|^2 is 2 * 255^2 + 2 * 256^2, of entries that float16 has but not their squares.
    weights, eye = jnp.full((2, 4), 8, half), jnp.eye(4, dtype=half)
    value, gradient = jax.value_and_grad(linear.loss)(weights, eye)
    assert value.dtype == jnp.float32
    assert float(value) == 2 * 255**2 + 2 * 256**2
    assert gradient.dtype == half


@pytest.mark.parametrize("half", [jnp.float16, jnp.bfloat16])
def test_half_and_single_precision_go_together(half):
    """Even where types are not promoted on their own; the numbers are those of float32."""
    weights, eye = jnp.asarray([[3.0, 1.0, 5.0], [4.0, 3.0, 5.0]]), jnp.eye(3)
    modes = linear.Modes(jnp.asarray([3.0, 2.0, 1.0]), eye)
    small = weights.astype(half)  # exactly
    for ours, expected in (
        (linear.cross_correlation(small, weights), linear.cross_correlation(weights, weights)),
        (linear.loss(small, eye), linear.loss(weights, eye)),
        (linear.align(small, modes), linear.align(weights, modes)),
        (
            linear.align(weights, modes._replace(eigenvectors=eye.astype(half))),
            linear.align(weights, modes),
        ),
    ):
        for part, wanted in zip(jax.tree.leaves(ours), jax.tree.leaves(expected), strict=True):
            assert part.dtype == jnp.float32
            np.testing.assert_array_equal(part, wanted)


def test_embedding_correlation_is_w_gamma_wt(x64):
    rng = np.random.default_rng(1)
    x, x_prime, w = rng.normal(size=(9, 4)), rng.normal(size=(9, 4)), rng.normal(size=(2, 4))
    gamma = linear.cross_correlation(x, x_prime)
    c = linear.cross_correlation(x @ w.T, x_prime @ w.T)
    np.testing.assert_allclose(c, w @ gamma @ w.T, rtol=1e-12, atol=1e-13)
    assert float(linear.loss(w, gamma)) == pytest.approx(float(((c - np.eye(2)) ** 2).sum()))


def test_loss_gradient_is_eq6(x64):
    rng = np.random.default_rng(2)
    gamma = linear.cross_correlation(rng.normal(size=(9, 4)), rng.normal(size=(9, 4)))
    w = rng.normal(size=(2, 4))
    expected = 4 * (w @ gamma @ w.T - np.eye(2)) @ w @ gamma
    np.testing.assert_allclose(
        jax.grad(linear.loss)(jnp.asarray(w), gamma), expected, rtol=1e-11, atol=1e-12
    )


@pytest.mark.parametrize("spectrum", [(3, 1, 0.5, -2), (2, 2, 2, 1), (1, 0, 0, -1e-9), (0, 0)])
def test_modes_recover_a_prescribed_spectrum(dtype, spectrum):
    gamma, _ = symmetric(spectrum, 0, dtype)
    modes = linear.modes(gamma)
    tol = 20 * float(jnp.finfo(dtype).eps) * (np.abs(spectrum).max() + 1e-30)
    np.testing.assert_allclose(modes.eigenvalues, sorted(spectrum, reverse=True), atol=tol)
    v = np.asarray(modes.eigenvectors)
    np.testing.assert_allclose(v.T @ v, np.eye(len(spectrum)), atol=20 * jnp.finfo(dtype).eps)
    np.testing.assert_allclose((v * np.asarray(modes.eigenvalues)) @ v.T, gamma, atol=tol)
    few = linear.modes(gamma, num=2)
    assert few.eigenvectors.shape == (len(spectrum), 2)
    np.testing.assert_array_equal(few.eigenvalues, modes.eigenvalues[:2])


def test_gradient_of_a_matrix_function(dtype):
    """Through eigenvalues and eigenvectors: V diag(γ^2) V^T is Γ^2, with a known derivative."""
    gamma, _ = symmetric((3.0, 1.0, 0.5, -2.0), 1, dtype)
    probe, _ = symmetric((1.0, -0.5, 0.3, 0.2), 2, dtype)

    def through_modes(g):
        modes = linear.modes(g)
        square = (modes.eigenvectors * modes.eigenvalues[None, :] ** 2) @ modes.eigenvectors.T
        return jnp.sum(square * probe)

    gradient = jax.grad(through_modes)(gamma)
    np.testing.assert_allclose(
        gradient, probe @ gamma + gamma @ probe, atol=1e3 * float(jnp.finfo(dtype).eps)
    )


@pytest.mark.parametrize("spectrum", [(2.0, 2.0, 2.0, 1.0), (1.0, 0.0, 0.0, 0.0), (0.0,) * 4])
def test_gradients_at_ties_are_finite_and_right_for_sums_over_modes(dtype, spectrum):
    gamma, _ = symmetric(spectrum, 1, dtype)
    top = np.flatnonzero(np.asarray(spectrum) == spectrum[0]).size
    probe, _ = symmetric((1.0, -0.5, 0.3, 0.2), 2, dtype)

    def through_modes(g):
        modes = linear.modes(g)
        span = modes.eigenvectors[:, :top]
        return jnp.sum(modes.eigenvalues**3) + jnp.sum((span @ span.T) * probe)

    gradient = np.asarray(jax.grad(through_modes)(gamma), float)
    projector, *_ = np.linalg.svd(np.asarray(gamma, float))
    inside = projector[:, :top] @ projector[:, :top].T
    outside = np.eye(4) - inside
    gap = spectrum[0] - spectrum[-1]
    # d tr(Γ^3) = 3 Γ^2; the span's projector turns by (in P out + out P in) / gap.
    turn = (inside @ probe @ outside + outside @ probe @ inside) / gap if gap else 0
    expected = 3 * np.asarray(gamma, float) @ np.asarray(gamma, float) + turn
    np.testing.assert_allclose(gradient, expected, atol=2e2 * float(jnp.finfo(dtype).eps))


def test_top_spectral_has_zero_loss_and_known_norm(dtype):
    gamma, _ = symmetric((4, 2, 1, 0.5, -3), 4, dtype)
    top = linear.top_spectral(linear.modes(gamma), 3)
    # |C - I| is of the order of the rounding of a product of three matrices.
    assert float(linear.loss(top, gamma)) < (1e2 * float(jnp.finfo(dtype).eps)) ** 2
    assert float(jnp.sum(top**2)) == pytest.approx(1 / 4 + 1 / 2 + 1, rel=1e-5)


def test_aligned_losses_are_sums_over_modes(x64):
    """Eq. 14, for any rotation and any singular values."""
    gammas = np.array([4, 2, 1, 0.5, -3])
    rng = np.random.default_rng(0)
    rotation = np.linalg.qr(rng.normal(size=(3, 3)))[0]
    for values in rng.uniform(0, 2, size=(20, 3)):
        weights = (rotation * values) @ np.eye(3, 5)
        expected = np.sum((1 - gammas[:3] * values**2) ** 2)
        assert float(linear.loss(weights, np.diag(gammas))) == pytest.approx(expected, rel=1e-12)


def test_no_other_solution_is_smaller(x64):
    """Prop. 4.3: zero loss is W = Q Γ^{-1/2} on other rows, or any W made to satisfy W Γ Wᵀ = I."""
    gammas = np.array([4, 2, 1, 0.5, -3])
    top = np.asarray(linear.top_spectral(linear.modes(np.diag(gammas)), 3))
    rng = np.random.default_rng(0)
    for size in 10.0 ** rng.uniform(-3, 0, 50):
        rough = top + size * rng.normal(size=top.shape)
        values, vectors = np.linalg.eigh((rough * gammas) @ rough.T)
        if values[0] > 1e-3:
            other = (vectors * values**-0.5) @ vectors.T @ rough
            assert float(linear.loss(other, np.diag(gammas))) < 1e-20
            assert np.linalg.norm(other) > np.linalg.norm(top) * (1 - 1e-12)


def test_top_spectral_says_which_rows_are_missing(dtype):
    gamma, _ = symmetric((4, 2, 0, 0, -3), 5, dtype)
    with pytest.warns(UserWarning, match=r"only 2 of the top 4 .* its loss is 2"):
        top = linear.top_spectral(linear.modes(gamma), 4)
    np.testing.assert_array_equal(top[2:], 0)
    assert float(linear.loss(top, gamma)) == pytest.approx(2, abs=1e-4)
    eye = jnp.eye(3, dtype=dtype)
    with pytest.warns(UserWarning, match="only 1 of the top 3"):
        gradient = jax.grad(lambda e: linear.top_spectral(linear.Modes(e, eye), 3).sum())(
            jnp.asarray([1.0, 0.0, -1.0], dtype)
        )
    np.testing.assert_allclose(gradient, [-0.5, 0, 0])


def test_top_spectral_keeps_small_modes_of_many_features():
    # In float32 m eps exceeds the second γ.
    modes = linear.Modes(jnp.zeros(1200).at[:2].set(jnp.array([1.0, 1e-4])), jnp.eye(1200))
    top = linear.top_spectral(modes, 2)
    np.testing.assert_allclose(jnp.linalg.norm(top, axis=1), [1, 100], rtol=1e-5)


def test_repeated_eigenvalues_need_no_error_and_give_no_nan(dtype):
    with warnings.catch_warnings():
        warnings.simplefilter("error")

        def run(g):
            modes = linear.modes(g)
            weights = linear.init_weights(jax.random.key(0), 2, 3, 1e-3, dtype)
            path = linear.small_init_trajectory(weights, modes)
            return linear.loss(path(1.0), g) + linear.top_spectral(modes, 2).sum()

        value, gradient = jax.value_and_grad(run)(jnp.eye(3, dtype=dtype))
    assert bool(jnp.isfinite(value))
    assert bool(jnp.isfinite(gradient).all())


@pytest.mark.parametrize(
    ("a", "b", "message"),
    [
        (np.ones((3, 2)), np.ones((4, 2)), r"one shape \(n, p\), got \(3, 2\) .* and \(4, 2\)"),
        (np.ones((3, 2)), np.ones((3, 5)), r"got \(3, 2\) .* and \(3, 5\)"),
        (
            np.ones(3),
            np.ones(3),
            r"views\[0\] must be a matrix of shape \(n, p\), got shape \(3,\)",
        ),
        (np.ones((0, 2)), np.ones((0, 2)), r"views\[0\] is empty: shape \(0, 2\)"),
        (np.full((3, 2), np.nan), np.ones((3, 2)), r"views\[0\] of shape \(3, 2\) holds 6 .* NaN"),
        (
            np.ones((3, 2)),
            np.array([[1, 2], [3, np.inf], [5, 6.0]]),
            r"views\[1\] .* at index \(1, 1\)",
        ),
    ],
)
def test_cross_correlation_rejects(a, b, message, unchecked):
    with pytest.raises(ValueError, match=message):
        linear.cross_correlation(a, b)


@pytest.mark.parametrize(
    ("gamma", "message"),
    [
        (np.ones((2, 3)), r"gamma_matrix must be square.*\(2, 3\)"),
        (np.array([[1.0, 0.5], [0.0, 1.0]]), r"gamma_matrix must be symmetric.*cross_correlation"),
        (np.array([[1.0, np.nan], [np.nan, 1.0]]), r"2 value\(s\) that are NaN"),
        (np.ones(4), r"must be a matrix of shape \(m, m\), got shape \(4,\)"),
        (np.ones((0, 0)), "is empty"),
    ],
)
def test_modes_reject(gamma, message, unchecked):
    with pytest.raises(ValueError, match=message):
        linear.modes(gamma)


@pytest.mark.parametrize("short", [jnp.float16, jnp.bfloat16])
def test_short_types_do_not_hide_asymmetry(short):
    """1e3 eps of float16 is 1. What rounding leaves is a few eps, and a Γ of products has it."""
    eps = float(jnp.finfo(short).eps)
    for function in (linear.modes, lambda gamma: linear.loss(jnp.eye(2, dtype=short), gamma)):
        for gap in (0.9, 8 * eps):
            with pytest.raises(ValueError, match="gamma_matrix must be symmetric"):
                function(jnp.array([[1, gap], [0, 1]], short))
        function(jnp.array([[1, 0.5], [0.5 + eps, 1]], short))


@pytest.mark.parametrize("num", [0, 4, -1])
def test_modes_reject_num(num):
    with pytest.raises(ValueError, match=f"num must be between 1 and m = 3.*got {num}"):
        linear.modes(jnp.eye(3), num)


def test_more_dimensions_than_features():
    modes = linear.modes(jnp.eye(3))
    with pytest.raises(ValueError, match=r"dim = 4 with 3 mode\(s\).*at most m dimensions"):
        linear.top_spectral(modes, 4)


def test_top_spectral_wants_one_tolerance(unchecked):
    with pytest.raises(ValueError, match=r"tol must be a number, got shape \(2,\)"):
        linear.top_spectral(linear.modes(jnp.eye(3)), 2, tol=jnp.zeros(2))


def test_loss_rejects_mismatched_shapes(unchecked):
    with pytest.raises(ValueError, match=r"weights of shape \(2, 4\) do not fit Γ on 3 features"):
        linear.loss(jnp.ones((2, 4)), jnp.eye(3))
