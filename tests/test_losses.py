"""Losses against the same written in NumPy and in PyTorch, and their gradients."""

from functools import partial

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


@pytest.mark.parametrize(
    "settings",
    [(0.0, True, True), (5e-3, True, False), (1.0, False, True), (0.3, False, False)],
)
def test_barlow_twins_is_its_definition(x64, settings):
    names = ("off_diagonal", "batch_norm", "symmetrise")
    for seed in range(3):
        z, z_prime = embeddings(seed)
        ours = losses.barlow_twins(z, z_prime, **dict(zip(names, settings, strict=True)))
        expected = barlow_twins(np.asarray(z), np.asarray(z_prime), *settings)
        np.testing.assert_allclose(ours, expected, rtol=1e-13)


@pytest.mark.parametrize("settings", [{}, SIMPLIFIED, {"off_diagonal": 0.3}])
def test_gradients_of_barlow_twins(x64, settings):
    def loss(z, z_prime):
        return losses.barlow_twins(z, z_prime, **settings)

    check_grads(jax.jit(loss), embeddings(1), order=2, modes=["rev"])


def test_simplified_loss_of_a_linear_model(dtype):
    x, x_prime = embeddings(0, n=20, d=6, dtype=dtype)
    weights = linear.init_weights(jax.random.key(0), 3, 6, 0.5, dtype)
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


def test_settings_are_traced():
    z, z_prime = embeddings(0, dtype=jnp.float32)
    calls = []

    @jax.jit
    def loss(off_diagonal, eps):
        calls.append(off_diagonal)
        return losses.barlow_twins(z, z_prime, off_diagonal=off_diagonal, eps=eps)

    assert float(loss(0.1, 1e-5)) < float(loss(0.9, 1e-4))
    assert len(calls) == 1


def vicreg_terms(z, z_prime, eps=1e-4):
    """Element by element."""
    (n, d), variance, covariance = z.shape, 0.0, 0.0
    for view in (z, z_prime):
        centred = view - view.mean(0)
        for i in range(d):
            for j in range(d):
                cov = centred[:, i] @ centred[:, j] / (n - 1)
                if i == j:
                    variance += max(0.0, 1 - np.sqrt(cov + eps)) / d / 2
                else:
                    covariance += cov**2 / d
    return ((z - z_prime) ** 2).mean(), variance, covariance


@pytest.mark.parametrize("scale", [1e-3, 0.4, 30.0])
def test_vicreg_is_its_definition(x64, scale):
    for seed in range(3):
        z, z_prime = (scale * view for view in embeddings(seed))
        expected = vicreg_terms(np.asarray(z), np.asarray(z_prime))
        np.testing.assert_allclose(losses.vicreg_terms(z, z_prime), expected, rtol=1e-12)
        weights = {"invariance": 3.0, "variance": 5.0, "covariance": 7.0}
        np.testing.assert_allclose(
            losses.vicreg(z, z_prime, **weights), np.dot([3, 5, 7], expected), rtol=1e-12
        )


def simclr(z, z_prime, temperature):
    """Sample by sample."""
    both = np.concatenate([z, z_prime])
    both = both / np.linalg.norm(both, axis=1, keepdims=True)
    n, total = len(z), 0.0
    for i, anchor in enumerate(both):
        similar = both @ anchor / temperature
        negatives = [similar[k] for k in range(2 * n) if k not in (i, (i + n) % (2 * n))]
        assert len(negatives) == 2 * n - 2
        positive = similar[(i + n) % (2 * n)]
        total += np.logaddexp.reduce([positive, *negatives]) - positive
    return total / (2 * n)


@pytest.mark.parametrize("temperature", [0.01, 0.1, 2.0])
def test_simclr_is_its_definition(x64, temperature):
    for seed in range(3):
        z, z_prime = embeddings(seed)
        expected = simclr(np.asarray(z), np.asarray(z_prime), temperature)
        ours = losses.simclr(z, z_prime, temperature=temperature)
        np.testing.assert_allclose(ours, expected, rtol=1e-12)
        # Directions only.
        np.testing.assert_allclose(
            losses.simclr(7 * z, z_prime / 3, temperature=temperature), expected, rtol=1e-12
        )


def torch_losses():
    """The three losses in PyTorch's own operations."""
    torch = pytest.importorskip("torch")

    def off_diagonal(c):
        d = len(c)
        return c.flatten()[:-1].view(d - 1, d + 1)[:, 1:].flatten()

    def barlow_twins(z, z_prime):
        norm = torch.nn.BatchNorm1d(z.shape[1], affine=False).to(z.dtype)
        c = norm(z).T @ norm(z_prime) / len(z)
        on = (torch.diagonal(c) - 1).pow(2).sum()
        return on + 5e-3 * off_diagonal(c).pow(2).sum()

    def vicreg(z, z_prime):
        loss = 25 * torch.nn.functional.mse_loss(z, z_prime)
        for view in (z, z_prime):
            deviation = torch.sqrt(view.var(dim=0) + 1e-4)
            loss = loss + 25 * torch.relu(1 - deviation).mean() / 2
            cov = (view - view.mean(0)).T @ (view - view.mean(0)) / (len(view) - 1)
            loss = loss + off_diagonal(cov).pow(2).sum() / view.shape[1]
        return loss

    def simclr(z, z_prime):
        both = torch.nn.functional.normalize(torch.cat([z, z_prime]), dim=1)
        logits = both @ both.T / 0.1
        logits.fill_diagonal_(-torch.inf)
        labels = torch.arange(2 * len(z)).roll(len(z))
        return torch.nn.functional.cross_entropy(logits, labels)

    return {"barlow_twins": barlow_twins, "vicreg": vicreg, "simclr": simclr}


@pytest.mark.parametrize("name", ["barlow_twins", "vicreg", "simclr"])
@pytest.mark.parametrize("scale", [0.02, 1.0, 20.0])
def test_values_and_gradients_as_in_pytorch(name, scale):
    """Float32 against PyTorch in float64: 1e-6 of the value and of the gradient's norm."""
    torch = pytest.importorskip("torch")
    for seed in range(3):
        views = [scale * view for view in embeddings(seed, n=64, d=16, dtype=jnp.float32)]
        value, gradients = jax.value_and_grad(getattr(losses, name), argnums=(0, 1))(*views)
        theirs = [
            torch.tensor(np.asarray(view), dtype=torch.float64, requires_grad=True)
            for view in views
        ]
        expected = torch_losses()[name](*theirs)
        expected.backward()
        np.testing.assert_allclose(value, expected.item(), rtol=1e-6)
        for ours, tensor in zip(gradients, theirs, strict=True):
            wanted = tensor.grad.numpy()
            assert np.linalg.norm(ours - wanted) <= 1e-6 * np.linalg.norm(wanted)


ALL = {"barlow_twins": losses.barlow_twins, "vicreg": losses.vicreg, "simclr": losses.simclr}


@pytest.mark.parametrize("loss", ALL.values(), ids=ALL)
def test_half_precision_is_accumulated_in_float32(loss):
    halves = [view.astype(jnp.bfloat16) for view in embeddings(0, n=512, d=8, dtype=jnp.float32)]
    singles = [view.astype(jnp.float32) for view in halves]
    value, gradients = jax.value_and_grad(loss, argnums=(0, 1))(*halves)
    expected, wanted = jax.value_and_grad(loss, argnums=(0, 1))(*singles)
    assert value.dtype == jnp.float32
    assert float(value) == float(expected)
    for ours, theirs in zip(gradients, wanted, strict=True):
        assert ours.dtype == jnp.bfloat16
        np.testing.assert_array_equal(ours, theirs.astype(jnp.bfloat16))


@pytest.mark.parametrize(
    ("loss", "scale"), [(losses.vicreg, 0.3), (partial(losses.simclr, temperature=1.0), 2.0)]
)
def test_gradients(x64, loss, scale):
    check_grads(
        jax.jit(loss), tuple(scale * view for view in embeddings(1)), order=2, modes=["rev"]
    )


@pytest.mark.parametrize("loss", ALL.values(), ids=ALL)
def test_collapsed_embeddings_have_finite_gradients(dtype, loss):
    value_and_gradients = jax.jit(jax.value_and_grad(loss, argnums=(0, 1)))
    for value in (0.0, 1.0, 1e-8):
        z = jnp.full((6, 3), value, dtype)
        for result in jax.tree.leaves(value_and_gradients(z, z)):
            assert bool(jnp.isfinite(result).all())


def test_simclr_at_a_small_temperature():
    """exp(1 / 0.001) overflows; the loss does not."""
    z, z_prime = embeddings(0, dtype=jnp.float32)
    value, gradient = jax.value_and_grad(losses.simclr)(z, z_prime, temperature=1e-3)
    assert bool(jnp.isfinite(value))
    assert bool(jnp.isfinite(gradient).all())


@pytest.mark.parametrize("loss", [losses.barlow_twins, losses.vicreg])
@pytest.mark.parametrize("value", [0.1, 1000.1, 123456.7])
def test_a_constant_dimension_has_no_variance(loss, value):
    """Whatever the constant: the mean of equal numbers is rounded."""
    for n in (48, 256, 1000):
        z = np.random.default_rng(n).normal(size=(n, 2)).astype(np.float32)
        z[:, 1] = 0
        wanted = loss(z, z)
        z[:, 1] = value
        np.testing.assert_allclose(loss(z, z), wanted, rtol=1e-5)


def test_the_least_loss_of_a_batch_smaller_than_the_embedding(x64):
    """C of n samples has rank n, or 2n symmetrised: the loss is at least d - n, or d - 2n."""
    for n, d in ((4, 12), (6, 12)):
        z, z_prime = embeddings(0, n=n, d=d)
        plain = SIMPLIFIED | {"symmetrise": False}
        scale = np.sqrt(n)
        best = losses.barlow_twins(*2 * (scale * jnp.eye(n, d),), **plain)
        np.testing.assert_allclose(best, d - n, rtol=1e-12)
        assert float(losses.barlow_twins(z, z_prime, **plain)) >= d - n
        assert float(losses.barlow_twins(z, z_prime, **SIMPLIFIED)) >= d - 2 * n


def test_where_eigenvalues_settle_in_small_batches(x64):
    """Aligned Gaussian views: E[loss] of C = λ S is least at λ = n / (n + d + 1), not at 1."""
    n, d, draws = 16, 40, 2000
    z = np.random.default_rng(0).normal(size=(draws, n, d))
    s = np.swapaxes(z, 1, 2) @ z / n
    first, second = np.trace(s, axis1=1, axis2=2), np.sum(s**2, axis=(1, 2))
    best = first.mean() / second.mean()  # of d - 2 λ tr S + λ² |S|²
    error = best * np.std(first / first.mean() - second / second.mean()) / np.sqrt(draws)
    assert abs(best - n / (n + d + 1)) < 4 * error


@pytest.mark.parametrize("loss", [losses.barlow_twins, losses.vicreg])
def test_constant_dimensions_want_an_epsilon(x64, loss):
    z, z_prime = embeddings(0)
    z = z.at[:, 1].set(0.5)
    gradient = jax.grad(loss)
    assert np.isfinite(np.asarray(gradient(z, z_prime))).all()
    assert np.isnan(np.asarray(gradient(z, z_prime, eps=0.0))).any()


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: losses.vicreg(jnp.ones((3, 2)), jnp.ones((3, 2)), eps=-1.0), "eps must be >= 0"),
        (lambda: losses.barlow_twins(jnp.ones(3), jnp.ones(3)), r"z must be a matrix .*\(n, d\)"),
        (lambda: losses.barlow_twins(jnp.ones((3, 2)), jnp.ones((4, 2))), "one shape"),
        (lambda: losses.barlow_twins(jnp.ones((0, 2)), jnp.ones((0, 2))), "z is empty"),
        (lambda: losses.barlow_twins(jnp.ones((3, 2)), jnp.full((3, 2), jnp.nan)), "z_prime .*NaN"),
        (
            lambda: losses.barlow_twins(jnp.ones((3, 2)), jnp.ones((3, 2)), off_diagonal=-1.0),
            "off_diagonal must be >= 0",
        ),
        (lambda: losses.barlow_twins(jnp.ones((3, 2)), jnp.ones((3, 2)), eps=-1.0), "eps must be"),
        (lambda: losses.vicreg(jnp.ones((3, 2)), jnp.ones((3, 3))), "one shape"),
        (
            lambda: losses.vicreg(jnp.ones((3, 2)), jnp.ones((3, 2)), variance=-1.0),
            "variance must be >= 0",
        ),
        (lambda: losses.simclr(jnp.ones((3, 2)), jnp.ones((3, 2)), temperature=0.0), "temperature"),
        (lambda: losses.simclr(jnp.full((3, 2), jnp.inf), jnp.ones((3, 2))), "z .*infinite"),
    ],
)
def test_rejects(call, message, unchecked):
    with pytest.raises(ValueError, match=message):
        call()


@pytest.mark.parametrize(
    "loss",
    [
        losses.barlow_twins,
        partial(losses.barlow_twins, batch_norm=False),
        losses.simplified_barlow_twins,
        losses.simclr,
        losses.vicreg,
        losses.vicreg_terms,
        partial(losses.spectral_barlow_twins, transform=lambda x: x),
        losses.sharpened_barlow_twins,
        losses.smoothed_barlow_twins,
        losses.hinge_barlow_twins,
        losses.quartic_barlow_twins,
    ],
)
def test_a_batch_of_one_is_refused(loss):
    """Barlow Twins gave d and SimCLR 0, with no gradient."""
    z, z_prime = embeddings(0, n=1, d=3, dtype=jnp.float32)
    for call in (loss, jax.jit(loss), jax.grad(lambda *views: sum(jax.tree.leaves(loss(*views))))):
        with pytest.raises(ValueError, match=r"batch of at least 2 samples, .* got shape \(1, 3\)"):
            call(z, z_prime)


@pytest.mark.parametrize(
    ("loss", "name"),
    [
        (losses.barlow_twins, "off_diagonal"),
        (losses.barlow_twins, "eps"),
        (losses.simclr, "temperature"),
        (losses.vicreg, "invariance"),
        (losses.vicreg, "variance"),
        (losses.vicreg, "covariance"),
        (losses.vicreg, "eps"),
        (losses.sharpened_barlow_twins, "softening"),
        (losses.smoothed_barlow_twins, "leak"),
        (losses.hinge_barlow_twins, "width"),
    ],
)
def test_settings_are_numbers(loss, name, unchecked):
    """An array, such as one temperature for each column, would broadcast into another loss."""
    z, z_prime = embeddings(0, dtype=jnp.float32)
    for array in (jnp.full(24, 0.5), jnp.full(1, 0.5), [0.5, 0.5]):
        with pytest.raises(ValueError, match=f"{name} must be a number, got shape"):
            loss(z, z_prime, **{name: array})
