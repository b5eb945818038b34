"""Barlow Twins on transformed eigenvalues: values, and derivatives at ties and zeros."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.test_util import check_grads

from sslstep import losses

NAMED = {
    "sharpened": partial(losses.sharpened_barlow_twins, softening=1e-2),
    "smoothed": losses.smoothed_barlow_twins,
    "leaky": partial(losses.smoothed_barlow_twins, leak=0.2),
    "hinge": partial(losses.hinge_barlow_twins, width=0.3),
    "quartic": losses.quartic_barlow_twins,
}
# φ and φ' by hand.
ROOT = np.sqrt(1.01) - 0.1


def sharpened_slope(x):
    g = np.sign(x) * (np.sqrt(np.abs(x) + 0.01) - 0.1) / ROOT
    return 2 * (g - 1) / (2 * np.sqrt(np.abs(x) + 0.01) * ROOT)


VALUES = {
    "sharpened": lambda x: (np.sign(x) * (np.sqrt(np.abs(x) + 0.01) - 0.1) / ROOT - 1) ** 2,
    "smoothed": lambda x: (np.minimum(x, 1) - 1) ** 2,
    "leaky": lambda x: (np.minimum(x, 1 + 0.2 * (1 - x)) - 1) ** 2,
    "hinge": lambda x: np.maximum(np.abs(x - 1) - 0.3, 0) ** 2,
    "quartic": lambda x: (1 - x) ** 4,
}
SLOPES = {
    "sharpened": sharpened_slope,
    "smoothed": lambda x: 2 * np.minimum(x - 1, 0),
    "leaky": lambda x: 2 * (x - 1) * np.where(x > 1, 0.04, 1),
    "hinge": lambda x: 2 * np.sign(x - 1) * np.maximum(np.abs(x - 1) - 0.3, 0),
    "quartic": lambda x: -4 * (1 - x) ** 3,
}
SPECTRA = {
    "spread": (1.8, 1.2, 0.6, 0.1, -0.4),
    "ties": (1.5, 1.5, 0.4, 0.4, 0.4),
    "zeros": (1.1, 0.5, 0.0, 0.0, 0.0),
    "all zero": (0.0,) * 5,
    "all one": (1.0,) * 5,
}


def pairs(eigenvalues, dtype=jnp.float64, seed=0):
    """Two views of as many samples as dimensions; the eigenvalues of their C; its vectors."""
    rng = np.random.default_rng(seed)
    vectors, samples = (np.linalg.qr(rng.normal(size=(5, 5)))[0] for _ in range(2))
    z = np.sqrt(5) * samples
    c = vectors * np.asarray(eigenvalues) @ vectors.T
    return jnp.asarray(z, dtype), jnp.asarray(z @ c, dtype), vectors


def embeddings(seed, n=12, d=4, dtype=jnp.float64):
    rng = np.random.default_rng(seed)
    common = rng.normal(size=(n, d))
    return tuple(jnp.asarray(common + rng.normal(size=(n, d)) + 0.5, dtype) for _ in range(2))


@pytest.mark.parametrize("name", NAMED)
def test_value_and_gradient_by_eigenvalues(dtype, name):
    """The gradient by C is V φ'(Λ) Vᵀ, at ties and zeros too; by z it is z' times that over n."""
    loss = partial(NAMED[name], batch_norm=False)
    value_and_gradients = jax.jit(jax.value_and_grad(loss, argnums=(0, 1)))
    # The kinks' slopes, of one side or the other, differ by what rounding makes of λ - 1.
    tol = 300 * float(jnp.finfo(dtype).eps)
    for eigenvalues in map(np.asarray, SPECTRA.values()):
        z, z_prime, vectors = pairs(eigenvalues, dtype)
        value, gradients = value_and_gradients(z, z_prime)
        np.testing.assert_allclose(value, VALUES[name](eigenvalues).sum(), rtol=tol, atol=tol)
        by_c = vectors * SLOPES[name](eigenvalues) @ vectors.T
        for ours, other in zip(gradients, (z_prime, z), strict=True):
            np.testing.assert_allclose(ours, np.asarray(other) @ by_c / 5, atol=tol * 100)


@pytest.mark.parametrize("name", NAMED)
def test_values_are_of_the_normalised_correlation(x64, name):
    z, z_prime = embeddings(0)
    views = [np.asarray(view) for view in (z, z_prime)]
    views = [(view - view.mean(0)) / np.sqrt(view.var(0) + 1e-3) for view in views]
    c = views[0].T @ views[1] / len(z)
    expected = VALUES[name](np.linalg.eigvalsh((c + c.T) / 2)).sum()
    ours = NAMED[name](z, z_prime, eps=1e-3)
    np.testing.assert_allclose(ours, expected, rtol=1e-12)


@pytest.mark.parametrize("batch_norm", [True, False])
def test_the_identity_is_barlow_twins(x64, batch_norm):
    z, z_prime = embeddings(1)
    plain = partial(losses.barlow_twins, off_diagonal=1.0, symmetrise=True, batch_norm=batch_norm)

    def spectral(z, z_prime):
        return losses.spectral_barlow_twins(z, z_prime, lambda x: x, batch_norm=batch_norm)

    for ours, expected in zip(
        jax.tree.leaves(jax.value_and_grad(spectral, argnums=(0, 1))(z, z_prime)),
        jax.tree.leaves(jax.value_and_grad(plain, argnums=(0, 1))(z, z_prime)),
        strict=True,
    ):
        np.testing.assert_allclose(ours, expected, rtol=1e-11, atol=1e-13)


@pytest.mark.parametrize("spectrum", ["ties", "zeros"])
def test_second_derivatives_at_ties(x64, spectrum):
    """Of g = λ (2 - λ) by divided differences, against ‖(I - C)²‖², which has no eigenvectors."""
    z, z_prime, _ = pairs(SPECTRA[spectrum])

    def spectral(scale, z):
        return losses.spectral_barlow_twins(
            z, z_prime, lambda x: scale * x * (2 - x), batch_norm=False
        )

    def direct(scale, z):
        c = z.T @ z_prime / 5
        c = (c + c.T) / 2
        rest = scale * c @ (2 * jnp.eye(5) - c) - jnp.eye(5)
        return jnp.sum(rest**2)

    for derivative in (jax.grad, jax.hessian):
        ours = derivative(spectral, argnums=(0, 1))(1.1, z)
        expected = derivative(direct, argnums=(0, 1))(1.1, z)
        for one, other in zip(jax.tree.leaves(ours), jax.tree.leaves(expected), strict=True):
            np.testing.assert_allclose(one, other, atol=1e-11)


@pytest.mark.parametrize("spectrum", ["ties", "zeros"])
def test_derivatives_by_finite_differences(x64, spectrum):
    """In forward and reverse mode, twice, by the embeddings and by a number that g closes over."""
    z, z_prime, _ = pairs(SPECTRA[spectrum])

    def loss(z, shift):
        def transform(x):
            return jnp.sqrt(x + 0.5 + shift)

        return losses.spectral_barlow_twins(z, z_prime, transform, batch_norm=False)

    check_grads(jax.jit(loss), (z, 0.3), order=2)


def test_half_precision_is_accumulated_in_float32():
    halves = [view.astype(jnp.bfloat16) for view in embeddings(0, n=256, d=8, dtype=jnp.float32)]
    singles = [view.astype(jnp.float32) for view in halves]
    for loss in NAMED.values():
        value, gradients = jax.value_and_grad(loss, argnums=(0, 1))(*halves)
        expected, wanted = jax.value_and_grad(loss, argnums=(0, 1))(*singles)
        assert value.dtype == jnp.float32
        assert float(value) == float(expected)
        for ours, theirs in zip(gradients, wanted, strict=True):
            assert ours.dtype == jnp.bfloat16
            np.testing.assert_array_equal(ours, theirs.astype(jnp.bfloat16))


@pytest.mark.parametrize("value", [0.0, 1.0, 1e-8, 1e8])
def test_collapsed_embeddings_have_finite_gradients(value):
    z = jnp.full((6, 3), value, jnp.float32)
    for loss in NAMED.values():
        for batch_norm in (True, False) if value < 2 else (True,):
            found = jax.value_and_grad(partial(loss, batch_norm=batch_norm), argnums=(0, 1))(z, z)
            assert all(bool(jnp.isfinite(part).all()) for part in jax.tree.leaves(found))


def test_settings_are_traced():
    z, z_prime = embeddings(0, dtype=jnp.float32)
    calls = []

    @jax.jit
    def gradient(softening, leak, width, eps):
        calls.append(1)

        def total(z):
            return (
                losses.sharpened_barlow_twins(z, z_prime, softening=softening, eps=eps)
                + losses.smoothed_barlow_twins(z, z_prime, leak=leak)
                + losses.hinge_barlow_twins(z, z_prime, width=width)
            )

        return jax.grad(total)(z)

    one, other = gradient(1e-2, 0.1, 0.2, 1e-5), gradient(1e-3, 0.2, 0.1, 1e-4)
    assert len(calls) == 1
    assert not np.allclose(one, other)
    swept = jax.vmap(lambda s: losses.sharpened_barlow_twins(z, z_prime, softening=s))(
        jnp.asarray([1e-3, 1e-2])
    )
    each = [losses.sharpened_barlow_twins(z, z_prime, softening=s) for s in (1e-3, 1e-2)]
    np.testing.assert_allclose(swept, each, rtol=1e-5)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda z: losses.quartic_barlow_twins(z, z[:2]), "one shape"),
        (lambda z: losses.quartic_barlow_twins(z[0], z[0]), r"z must be a matrix .*\(n, d\)"),
        (lambda z: losses.quartic_barlow_twins(z, z, eps=-1.0), "eps must be >= 0"),
        (lambda z: losses.sharpened_barlow_twins(z, z, softening=0.0), "softening must be > 0"),
        (lambda z: losses.smoothed_barlow_twins(z, z, leak=-0.1), "leak must be >= 0"),
        (lambda z: losses.smoothed_barlow_twins(z, z, leak=1.5), "leak must be <= 1, got 1.5"),
        (lambda z: losses.hinge_barlow_twins(z, z, width=1.0), "width must be < 1, got 1"),
        (
            lambda z: losses.spectral_barlow_twins(z, z, lambda x: x[None]),
            r"transform must take a scalar .*\(1,\)",
        ),
        (
            lambda z: losses.spectral_barlow_twins(jnp.full((3, 2), jnp.nan), z, lambda x: x),
            "z .*NaN",
        ),
    ],
)
def test_rejects(call, message, unchecked):
    with pytest.raises(ValueError, match=message):
        call(jnp.ones((3, 2)))


def test_transformations_of_whole_numbers_and_of_nothing():
    assert float(losses.smooth(3, leak=0.1)) == pytest.approx(0.8)
    assert float(losses.sharpen(4, 0.5)) == pytest.approx(float(losses.sharpen(4.0, 0.5)))
    assert float(losses.sharpen(0.0, 0.0)) == 0
    assert jnp.isfinite(jax.grad(losses.sharpen)(0.0, 0.0))
    assert float(losses.sharpen(0.25, 0.0)) == 0.5
