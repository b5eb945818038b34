"""Principal angles and alignment of subspaces."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.linalg import subspace_angles

from sslstep.measure import alignment


def at_angles(angles, n, seed, dtype):
    """Two embeddings of n samples with given principal angles, in random bases of their spans."""
    rng = np.random.default_rng(seed)
    angles = np.asarray(angles)
    d = len(angles)
    q, _ = np.linalg.qr(rng.normal(size=(n, 2 * d)))
    a, b = q[:, :d], q[:, :d] * np.cos(angles) + q[:, d:] * np.sin(angles)
    mixed = [basis @ (np.eye(d) + 0.3 * rng.normal(size=(d, d)) / d**0.5) for basis in (a, b)]
    return [jnp.asarray(m, dtype) for m in mixed]


def test_known_angles(dtype):
    angles = np.array([0.0, 1e-3, 0.4, np.pi / 4, 1.2, np.pi / 2])
    a, b = at_angles(angles, 60, 0, dtype)
    tol = 50 * float(jnp.finfo(dtype).eps)
    np.testing.assert_allclose(alignment.principal_angles(a, b), angles, atol=tol)
    np.testing.assert_allclose(alignment.principal_angles(b, a), angles, atol=tol)
    expected = np.mean(np.cos(angles) ** 2)
    np.testing.assert_allclose(alignment.subspace_alignment(a, b), expected, rtol=tol)
    np.testing.assert_allclose(alignment.misalignment(a, b), 1 - expected, rtol=tol)


def test_against_scipy(x64):
    rng = np.random.default_rng(0)
    a, b = rng.normal(size=(30, 5)), rng.normal(size=(30, 3))
    expected = subspace_angles(a, b)[::-1]
    np.testing.assert_allclose(alignment.principal_angles(a, b), expected, rtol=1e-12)
    np.testing.assert_allclose(alignment.principal_angles(b, a), expected, rtol=1e-12)
    np.testing.assert_allclose(alignment.subspace_alignment(a, b), np.mean(np.cos(expected) ** 2))


def test_small_angles_are_not_cancelled(x64):
    """1 - alignment of 1e-20 is far below eps; its parts are exact to relative rounding."""
    a, b = at_angles([1e-10, 2e-10], 20, 0, jnp.float64)
    np.testing.assert_allclose(alignment.misalignment(a, b), 2.5e-20, rtol=1e-4)
    np.testing.assert_allclose(alignment.principal_angles(a, b), [1e-10, 2e-10], rtol=1e-4)


def test_depends_on_the_spans_alone(dtype):
    """Also where dimensions are smaller by many orders of magnitude."""
    rng = np.random.default_rng(0)
    a, b = (jnp.asarray(rng.normal(size=(40, 4)), dtype) for _ in range(2))
    mix = jnp.asarray(rng.normal(size=(4, 4)) + 3 * np.eye(4), dtype)
    scale = jnp.asarray([1.0, 1e-4, 1e-9, 1e-14], dtype)[None, :]
    once = alignment.subspace_alignment(a, b)
    tol = 100 * float(jnp.finfo(dtype).eps)
    np.testing.assert_allclose(alignment.subspace_alignment(a @ mix, b * scale), once, rtol=tol)
    np.testing.assert_allclose(alignment.subspace_alignment(a @ mix, a * scale), 1, rtol=tol)
    assert float(alignment.misalignment(a @ mix, a * scale)) < tol**2


def test_contained_and_orthogonal_spans():
    a = jnp.eye(6)
    assert float(alignment.subspace_alignment(a[:, :4], a[:, 1:3])) == pytest.approx(1)
    assert float(alignment.subspace_alignment(a[:, :2], a[:, 2:5])) == pytest.approx(0, abs=1e-12)
    assert float(alignment.misalignment(a[:, :2], a[:, 2:5])) == pytest.approx(1)


@pytest.mark.parametrize(("dim", "other"), [(5, 5), (8, 3)])
def test_chance_level_is_the_mean_of_random_subspaces(dim, other):
    rng = np.random.default_rng(0)
    a, b = (jnp.asarray(rng.normal(size=(300, 60, k)), jnp.float32) for k in (dim, other))
    values = np.asarray(jax.vmap(alignment.subspace_alignment)(a, b))
    expected = alignment.chance_level(dim, 60)
    assert abs(values.mean() - expected) < 4 * values.std() / 300**0.5


def test_gradient_is_finite_and_right(x64):
    """Along the path of growing angle the alignment is cos²."""
    a, b = jnp.eye(4)[:, :2], jnp.eye(4)[:, 2:]

    def at(angle):
        return alignment.subspace_alignment(a, a * jnp.cos(angle) + b * jnp.sin(angle))

    np.testing.assert_allclose(jax.grad(at)(0.3), -jnp.sin(0.6), rtol=1e-12)


@pytest.mark.parametrize("n", [10, 20_000])
def test_lack_of_rank(dtype, n, unchecked):
    """An error where values are known, also with many samples; NaN where they are not."""
    good = np.random.default_rng(0).normal(size=(n, 3))
    poor = jnp.asarray(good @ np.array([[1, 0, 1], [0, 1, 1], [0, 0, 0]]), dtype)
    good = jnp.asarray(good, dtype)
    with pytest.raises(ValueError, match=rf"b of shape \({n}, 3\) has rank 2"):
        alignment.subspace_alignment(good, poor)
    if n == 10:
        with pytest.raises(ValueError, match=r"a of shape .* has rank 0"):
            alignment.misalignment(jnp.zeros_like(poor), good)
        assert bool(jnp.isnan(jax.jit(alignment.subspace_alignment)(good, poor)))


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: alignment.subspace_alignment(jnp.ones(3), jnp.ones((3, 1))), "a must be a matrix"),
        (lambda: alignment.subspace_alignment(jnp.ones((3, 1)), jnp.ones((4, 1))), "3 and 4 rows"),
        (lambda: alignment.principal_angles(jnp.ones((2, 3)), jnp.ones((2, 1))), "fewer samples"),
        (lambda: alignment.misalignment(jnp.full((3, 1), jnp.nan), jnp.ones((3, 1))), "a of .*NaN"),
        (lambda: alignment.chance_level(0, 3), "dim must be between 1 and num_samples = 3"),
        (lambda: alignment.chance_level(4, 3), "dim must be between 1 and num_samples = 3"),
    ],
)
def test_rejects(call, message, unchecked):
    with pytest.raises(ValueError, match=message):
        call()


def test_retrieval_ranks(x64, unchecked):
    z = np.eye(5)[:, :3] + 0.1
    np.testing.assert_array_equal(alignment.retrieval_ranks(z, 7 * z), 0)  # scale is no matter
    circle = np.array([[1.0, 0.0], [0.0, 1.0], [-1.0, 0.0]])
    turned = np.array([[-1.0, 0.1], [0.0, 1.0], [1.0, -0.1]])
    np.testing.assert_array_equal(alignment.retrieval_ranks(circle, turned), [1, 0, 1])
    with pytest.raises(
        ValueError, match=r"two views of the same n >= 2 samples, got shapes \(5, 3\)"
    ):
        alignment.retrieval_ranks(z, circle)


@pytest.mark.parametrize("scale", [1e-30, 1.0, 1e30])
def test_retrieval_ranks_of_any_length(scale):
    """Of the last sample, the own second view is zero, and three others are nearer."""
    z = np.array([[1.0, 0.0], [0.0, 1.0], [1.0, 1.0], [1.0, 0.5], [0.6, 0.8]])
    z_prime = np.array([[1.0, 0.1], [0.1, 1.0], [1.0, 1.0], [-1.0, -0.5], [0.0, 0.0]])
    found = alignment.retrieval_ranks(*(jnp.asarray(scale * v, jnp.float32) for v in (z, z_prime)))
    np.testing.assert_array_equal(found, [0, 0, 0, 1, 0.75])
    with pytest.raises(ValueError, match=r"z_prime of shape .* that are NaN or infinite"):
        alignment.retrieval_ranks(z, np.where(z_prime < 0, np.nan, z_prime))
