"""Losses against the same written in NumPy, and their gradients."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.test_util import check_grads

from sslstep import linear, losses

SIMPLIFIED = {"off_diagonal": 1.0, "batch_norm": False, "symmetrise": True}


def barlow_twins(z, z_prime, off_diagonal, batch_norm, symmetrise, eps=1e-5):
    """Element by element."""
    (n, d), views = z.shape, []
    for view in (z, z_prime):
        if batch_norm:
            view = (view - view.mean(0)) / np.sqrt(view.var(0) + eps)
        views.append(view)
    total = 0.0
    for i in range(d):
        for j in range(d):
            c = views[0][:, i] @ views[1][:, j] / n
            if symmetrise:
                c = (c + views[0][:, j] @ views[1][:, i] / n) / 2
            total += (c - 1) ** 2 if i == j else off_diagonal * c**2
    return total


def embeddings(seed, n=12, d=4, dtype=jnp.float64):
    rng = np.random.default_rng(seed)
    common = rng.normal(size=(n, d))
    return tuple(jnp.asarray(common + rng.normal(size=(n, d)) + 0.5, dtype) for _ in range(2))


@pytest.mark.parametrize("batch_norm", [True, False])
@pytest.mark.parametrize("symmetrise", [True, False])
@pytest.mark.parametrize("off_diagonal", [0.0, 5e-3, 1.0])
def test_barlow_twins_is_its_definition(x64, batch_norm, symmetrise, off_diagonal):
    settings = (off_diagonal, batch_norm, symmetrise)
    names = ("off_diagonal", "batch_norm", "symmetrise")
    for seed in range(3):
        z, z_prime = embeddings(seed)
        ours = losses.barlow_twins(z, z_prime, **dict(zip(names, settings, strict=True)))
        expected = barlow_twins(np.asarray(z), np.asarray(z_prime), *settings)
        np.testing.assert_allclose(ours, expected, rtol=1e-13)


def test_barlow_twins_defaults(x64):
    z, z_prime = embeddings(0)
    expected = barlow_twins(np.asarray(z), np.asarray(z_prime), 5e-3, True, False)
    np.testing.assert_allclose(losses.barlow_twins(z, z_prime), expected, rtol=1e-13)


@pytest.mark.parametrize("settings", [{}, SIMPLIFIED, {"off_diagonal": 0.3}])
def test_gradients_of_barlow_twins(x64, settings):
    def loss(z, z_prime):
        return losses.barlow_twins(z, z_prime, **settings)

    check_grads(loss, embeddings(1), order=2, modes=["rev"])


@pytest.mark.parametrize("seed", range(3))
def test_simplified_loss_of_a_linear_model(dtype, seed):
    x, x_prime = embeddings(seed, n=20, d=6, dtype=dtype)
    weights = linear.init_weights(jax.random.key(seed), 3, 6, 0.5, dtype)
    ours = losses.barlow_twins(x @ weights.T, x_prime @ weights.T, **SIMPLIFIED)
    expected = linear.loss(weights, linear.cross_correlation(x, x_prime))
    np.testing.assert_allclose(ours, expected, rtol=50 * float(jnp.finfo(dtype).eps))
    assert ours.dtype == dtype


def test_batch_norm_forgets_scale_and_shift(x64):
    z, z_prime = embeddings(0)
    moved = losses.barlow_twins(7 * z + 3, z_prime - 2, eps=0.0)
    np.testing.assert_allclose(moved, losses.barlow_twins(z, z_prime, eps=0.0), rtol=1e-12)


def test_swapping_views_and_rotating_embeddings(x64):
    """The simplified loss depends on the spectrum of C alone."""
    z, z_prime = embeddings(0)
    rotation, _ = np.linalg.qr(np.random.default_rng(0).normal(size=(4, 4)))
    once = losses.barlow_twins(z, z_prime, **SIMPLIFIED)
    turned = losses.barlow_twins(z_prime @ rotation, z @ rotation, **SIMPLIFIED)
    np.testing.assert_allclose(turned, once, rtol=1e-13)
    spectrum = np.linalg.eigvalsh(linear.cross_correlation(z, z_prime))
    np.testing.assert_allclose(once, np.sum((1 - spectrum) ** 2), rtol=1e-13)


def test_collapsed_embeddings_have_loss_d_and_finite_gradients(dtype):
    ones = jnp.ones((6, 3), dtype)
    value, gradient = jax.value_and_grad(losses.barlow_twins)(ones, ones)
    assert float(value) == 3.0
    assert bool(jnp.isfinite(gradient).all())


def test_settings_are_traced():
    z, z_prime = embeddings(0, dtype=jnp.float32)
    calls = []

    @jax.jit
    def loss(off_diagonal, eps):
        calls.append(off_diagonal)
        return losses.barlow_twins(z, z_prime, off_diagonal=off_diagonal, eps=eps)

    assert float(loss(0.1, 1e-5)) < float(loss(0.9, 1e-4))
    assert len(calls) == 1


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: losses.barlow_twins(jnp.ones(3), jnp.ones(3)), r"z must be a matrix .*\(n, d\)"),
        (lambda: losses.barlow_twins(jnp.ones((3, 2)), jnp.ones((4, 2))), "one shape"),
        (lambda: losses.barlow_twins(jnp.ones((0, 2)), jnp.ones((0, 2))), "z is empty"),
        (lambda: losses.barlow_twins(jnp.ones((3, 2)), jnp.full((3, 2), jnp.nan)), "z_prime .*NaN"),
        (
            lambda: losses.barlow_twins(jnp.ones((3, 2)), jnp.ones((3, 2)), off_diagonal=-1.0),
            "off_diagonal must be >= 0",
        ),
        (lambda: losses.barlow_twins(jnp.ones((3, 2)), jnp.ones((3, 2)), eps=-1.0), "eps must be"),
    ],
)
def test_rejects(call, message, unchecked):
    with pytest.raises(ValueError, match=message):
        call()
