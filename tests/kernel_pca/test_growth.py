"""Growth modes of any loss: against losses in NumPy, gradient flow and the modes known."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.linalg

from sslstep import kernel_pca, linear, losses

SIMPLE = losses.simplified_barlow_twins


def info_nce(z, z_prime, xp=jnp):
    """Without normalisation, both ways."""
    logits = z @ z_prime.T
    both = [logits, logits.T]
    return sum(xp.mean(xp.log(xp.exp(a).sum(1)) - xp.diagonal(a)) for a in both) / 2


def spectral(z, z_prime, xp=jnp):
    both = xp.concatenate([z, z_prime])
    return -2 * xp.mean((z * z_prime).sum(1)) + ((both.T @ both / len(both)) ** 2).sum()


def barlow(z, z_prime, off=1.0, symmetrise=False, batch_norm=None):
    if batch_norm is not None:
        z, z_prime = ((a - a.mean(0)) / np.sqrt(a.var(0) + batch_norm) for a in (z, z_prime))
    c = z.T @ z_prime / len(z)
    c = (c + c.T) / 2 if symmetrise else c
    one = np.eye(len(c))
    return ((c - one) ** 2 * (one + off * (1 - one))).sum()


def vicreg(z, z_prime, eps):
    total = 25 * ((z - z_prime) ** 2).mean()
    for a in (z, z_prime):
        cov = np.atleast_2d(np.cov(a.T))
        total += 25 / 2 * np.maximum(0, 1 - np.sqrt(np.diag(cov) + eps)).mean()
        total += (cov**2).sum() / len(cov) - (np.diag(cov) ** 2).mean()
    return total


#: As a user writes it, and in NumPy.
LOSSES = {
    "simplified Barlow Twins": (SIMPLE, partial(barlow, symmetrise=True)),
    "Barlow Twins": (
        partial(losses.barlow_twins, eps=0.3),
        partial(barlow, off=5e-3, batch_norm=0.3),
    ),
    "without batch norm": (
        partial(losses.barlow_twins, batch_norm=False, off_diagonal=0.3),
        partial(barlow, off=0.3),
    ),
    "spectral contrastive": (spectral, partial(spectral, xp=np)),
    "InfoNCE": (info_nce, partial(info_nce, xp=np)),
    "VICReg": (partial(losses.vicreg, eps=0.3), partial(vicreg, eps=0.3)),
    "weight decay of embeddings": (
        lambda a, b: SIMPLE(a, b) + 0.1 * ((a**2).mean() + (b**2).mean()),
        lambda a, b: barlow(a, b, symmetrise=True) + 0.1 * ((a**2).mean() + (b**2).mean()),
    ),
}


def samples(n, seed=0, num_views=2, features=3):
    rng = np.random.default_rng(seed)
    common = rng.standard_normal((n, features))
    return [common + 0.4 * rng.standard_normal((n, features)) for _ in range(num_views)]


def rbf(x):
    return np.exp(-((x[:, None] - x[None]) ** 2).sum(-1) / 2)


def reference(kernel, loss, dim, learned):
    """ρ by differences of a loss that is even, in float64."""
    size, h = len(kernel), 1e-3

    def at(*which):
        z = np.zeros((size, dim))
        z[:, : learned.shape[1]] = learned
        for i, amount in which:
            z[i, learned.shape[1]] += amount
        return loss(*np.split(z, 2))

    hessian = np.zeros((size, size))
    for i in range(size):
        for j in range(i + 1):
            difference = at((i, h), (j, h)) - at((i, h), (j, -h))
            hessian[i, j] = hessian[j, i] = difference / (2 * h**2)
    values, vectors = np.linalg.eigh(kernel)
    root = vectors * np.sqrt(np.maximum(values, 0))
    return np.linalg.eigvalsh(-root.T @ hessian @ root)[::-1]


@pytest.mark.parametrize("num_learned", [0, 1])
@pytest.mark.parametrize("name", LOSSES)
def test_rates_are_those_of_the_loss_in_numpy(x64, name, num_learned):
    ours, theirs = LOSSES[name]
    x = np.concatenate(samples(8))
    kernel, learned = rbf(x), x[:, :num_learned]
    wanted = reference(kernel, theirs, 3, learned)[:3]
    assert wanted[0] > 0
    embeddings = jnp.asarray(learned) if num_learned else None
    for solver in ("dense", "krylov") if name == "InfoNCE" else ("dense",):
        modes = kernel_pca.growth_modes(kernel, ours, 3, embeddings=embeddings, solver=solver)
        # The differences: h² of amplitude, and eps/h² of rounding.
        np.testing.assert_allclose(modes.eigenvalues, wanted, rtol=1e-4, atol=1e-6)
        c = modes.coefficients
        np.testing.assert_allclose(modes.images, kernel @ c, atol=1e-9)
        np.testing.assert_allclose(c.T @ kernel @ c, np.eye(3), atol=1e-9)


@pytest.mark.parametrize("name", ["InfoNCE", "VICReg"])
def test_the_first_rate_is_the_slope_of_gradient_flow(x64, name):
    loss, _ = LOSSES[name]
    x = np.concatenate(samples(20, seed=1))
    kernel = rbf(x)
    modes = kernel_pca.growth_modes(kernel, loss, 2)
    rate, second = np.asarray(modes.eigenvalues)
    # As long as the second has fallen behind to 1e-4 of the first, which is still small.
    start = 1e-30 * np.random.default_rng(2).standard_normal((40, 2))
    times = np.log(1e4) / (rate - second) * np.array([1.0, 1.2])
    assert times[-1] * rate < np.log(1e26)
    z = kernel_pca.flow(kernel, loss, start, times)
    sizes = np.linalg.norm(z, axis=(1, 2))
    np.testing.assert_allclose(np.log(sizes[1] / sizes[0]) / np.diff(times), rate, rtol=1e-3)


def test_a_warning_counts_dimensions_that_can_still_be_learned():
    """Two of three, one of two features is left to learn; of a loss that they do not count."""
    x = np.concatenate(samples(20, features=2))
    with pytest.warns(UserWarning, match="only 1 of the top 2 .* 1 dimension.* do not grow"):
        kernel_pca.growth_modes(x @ x.T, spectral, 3, embeddings=2 * x[:, :1])


def test_contrastive_modes_are_a_special_case(dtype):
    kernel = jnp.asarray(rbf(np.concatenate(samples(400, seed=3))), dtype)
    found = kernel_pca.growth_modes(kernel, SIMPLE, 6)
    gammas = kernel_pca.contrastive_modes(kernel, 6).eigenvalues
    rtol = 1e-5 if dtype == jnp.float32 else 1e-10
    np.testing.assert_allclose(found.eigenvalues, 4 * gammas, rtol=rtol)
    assert found.iterations > 0
    assert found.coefficients.dtype == dtype


@pytest.mark.parametrize("centre", [False, True])
@pytest.mark.parametrize("num_views", [2, 3])
def test_views(x64, num_views, centre):
    """Γ of V views, from the definition; by kernel modes, and from a loss that sees all views."""
    views = [view + 0.5 for view in samples(15, num_views=num_views)]
    used = [view - view.mean(0) if centre else view for view in views]
    n, pairs = 15, num_views * (num_views - 1)
    gamma = sum(
        np.outer(a[i], b[i])
        for a in used for b in used if a is not b for i in range(n)
    ) / (n * pairs)  # fmt: skip
    sigma = sum(a.T @ a for a in used) / (n * num_views)
    np.testing.assert_allclose(linear.cross_correlation(*views, centre=centre), gamma, atol=1e-14)
    np.testing.assert_allclose(linear.second_moment(*views, centre=centre), sigma, atol=1e-14)
    wanted = np.linalg.eigvalsh(gamma)[::-1]

    def loss(*z):
        return jnp.sum((linear.cross_correlation(*z, centre=centre) - jnp.eye(3)) ** 2)

    x = np.concatenate(views)
    for solver in ("dense", "krylov"):
        options = {"num_views": num_views, "solver": solver}
        modes = kernel_pca.contrastive_modes(x @ x.T, 3, centre=centre, **options)
        np.testing.assert_allclose(modes.eigenvalues, wanted, rtol=1e-10)
        np.testing.assert_allclose(
            kernel_pca.embed_training(modes), kernel_pca.embed(modes, x @ x.T), atol=1e-9
        )
        rates = kernel_pca.growth_modes(x @ x.T, loss, 3, **options).eigenvalues
        np.testing.assert_allclose(rates, 4 * wanted, rtol=1e-10)


def test_every_form_of_kernel(x64, tmp_path):
    kernel = rbf(np.concatenate(samples(30)))
    np.save(tmp_path / "kernel.npy", kernel)
    for form, options in (
        (np.load(tmp_path / "kernel.npy", mmap_mode="r"), {}),
        (lambda v: jnp.asarray(kernel) @ v, {"num_pairs": 30, "dtype": jnp.float64}),
    ):
        rates = kernel_pca.growth_modes(form, info_nce, 3, solver="krylov", **options).eigenvalues
        wanted = kernel_pca.growth_modes(kernel, info_nce, 3, solver="dense").eigenvalues
        np.testing.assert_allclose(rates, wanted, rtol=1e-9)


def test_within_jit_and_its_derivative(x64):
    kernel = jnp.asarray(rbf(np.concatenate(samples(10))))

    def first(scale):
        return kernel_pca.growth_modes(scale * kernel, info_nce, 1).eigenvalues[0]

    value, slope = jax.jit(jax.value_and_grad(first))(1.0)
    np.testing.assert_allclose([value, slope], kernel_pca.growth_modes(kernel, info_nce, 1)[0][0])


def test_linear_growth_modes_are_the_kernels(x64):
    views = samples(12, features=5)
    x = np.concatenate(views)
    loss = partial(losses.vicreg, eps=0.3)
    for learned in (None, x[:, :1]):
        found = linear.growth_modes(loss, views, 3, embeddings=learned)
        wanted = kernel_pca.growth_modes(x @ x.T, loss, 3, embeddings=learned)
        np.testing.assert_allclose(found.eigenvalues, wanted.eigenvalues, rtol=1e-10)
        along = np.abs(np.sum(np.asarray(found.eigenvectors) * (x.T @ wanted.coefficients), axis=0))
        np.testing.assert_allclose(along, 1, rtol=1e-10)


BAD = {
    "odd": (lambda z, w: jnp.sum(z) + jnp.sum(z * w), "loss_fn.*not even"),
    "odd, without slope": (lambda z, w: jnp.sum(z**3) - jnp.sum(z * w), "loss_fn.*not even"),
    "dimensions together": (lambda z, w: -jnp.sum(z.sum(1) * w.sum(1)), "loss_fn.*not even"),
    "dimensions apart": (
        lambda z, w: -jnp.sum(z * w * jnp.arange(1.0, 3.0)[None, :]),
        "loss_fn.*all dimensions alike",
    ),
    "order": (lambda z, w: -jnp.sum(z[1:] * w[:-1]), "loss_fn.*order of the samples"),
    "kink": (lambda z, w: jnp.sum(jnp.abs(z)), "loss_fn is not twice differentiable at zero"),
    "NaN": (lambda z, w: -jnp.std(z, axis=0).sum(), "loss_fn or its derivatives are not finite"),
    "normalised": (losses.simclr, "loss_fn does not depend on the length.*embeddings="),
    "no scalar": (lambda z, w: (z * w).sum(0), "loss_fn must return a real number"),
}  # fmt: skip


@pytest.mark.parametrize("name", BAD)
def test_bad_losses_are_named(name):
    loss, message = BAD[name]
    with pytest.raises(ValueError, match=message):
        kernel_pca.growth_modes(jnp.eye(12), loss, 2)


@pytest.mark.parametrize(
    "loss",
    [
        lambda z: jnp.sum(z**2),
        lambda z, w: -float(jnp.sum(z * w)),
        lambda z, w: np.asarray(z).sum(),
    ],
)
def test_losses_that_jax_cannot_trace_are_named(loss):
    with pytest.raises(TypeError, match="loss_fn must be a JAX function of 2 views"):
        kernel_pca.growth_modes(jnp.eye(12), loss, 2)


def test_a_normalised_loss_grows_from_what_is_learned(x64):
    x = np.concatenate(samples(10))
    modes = kernel_pca.growth_modes(rbf(x), losses.simclr, 2, embeddings=x[:, :1])
    assert np.isfinite(modes.eigenvalues).all()
    assert modes.eigenvalues[0] > 0


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"embeddings": np.ones((12, 2))}, r"embeddings must have shape \(12, k\) with k below"),
        ({"embeddings": np.full((12, 1), np.nan)}, "embeddings.*NaN"),
        ({"num_views": 5}, "num_views = 5"),
        ({"num_views": 0}, "num_views must be >= 1"),
    ],
)
def test_bad_arguments(unchecked, options, message):
    with pytest.raises(ValueError, match=message):
        kernel_pca.growth_modes(jnp.eye(12), SIMPLE, 2, **options)


def test_pencil_modes(dtype):
    rng = np.random.default_rng(5)
    a, b = rng.standard_normal((2, 6, 6))
    gamma, sigma = a + a.T, b @ b.T
    values, vectors = scipy.linalg.eigh(gamma, sigma)
    found = linear.pencil_modes(jnp.asarray(gamma, dtype), jnp.asarray(sigma, dtype), 4)
    eps = float(jnp.finfo(dtype).eps) * np.linalg.cond(sigma)
    np.testing.assert_allclose(
        found.eigenvalues, values[::-1][:4], atol=10 * eps * abs(values).max()
    )
    turn = np.asarray(found.eigenvectors).T @ sigma @ vectors[:, ::-1][:, :4]
    np.testing.assert_allclose(np.abs(turn), np.eye(4), atol=100 * eps)


def test_pencils_of_a_singular_matrix(x64):
    x, x_prime = samples(4, features=6)
    gamma, sigma = linear.cross_correlation(x, x_prime), linear.second_moment(x, x_prime)
    basis = np.linalg.svd(np.concatenate([x, x_prime]))[2][:3].T
    for matrices in ((basis @ basis.T @ gamma @ basis @ basis.T, basis @ basis.T),):
        found = linear.pencil_modes(*matrices, 3)
        wanted = np.linalg.eigvalsh(basis.T @ gamma @ basis)[::-1]
        np.testing.assert_allclose(found.eigenvalues, wanted, rtol=1e-10)
    with pytest.raises(ValueError, match="between 1 and 3, the rank of sigma_matrix"):
        linear.pencil_modes(gamma, basis @ basis.T, 4)
    with pytest.raises(ValueError, match="sigma_matrix must be positive semidefinite"):
        linear.pencil_modes(gamma, -np.asarray(sigma), 1)
