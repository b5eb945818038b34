"""Contrastive losses, SIGReg, LeJEPA and W-MSE against NumPy by their publications' formulas."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.integrate
import scipy.special
from jax.test_util import check_grads

from sslstep import kernel_pca, linear, losses


def embeddings(seed, n=12, d=4, num_views=2):
    rng = np.random.default_rng(seed)
    common = rng.normal(size=(n, d))
    return [common + rng.normal(size=(n, d)) + 0.5 for _ in range(num_views)]


def spectral_contrastive(z, w, negatives, radius):
    if radius is not None:
        z, w = (
            np.array([x if np.linalg.norm(x) < radius else radius * x / np.linalg.norm(x)
                      for x in view]) for view in (z, w)
        )  # fmt: skip
    n = len(z)
    if negatives == "others":
        apart = np.mean([(z[i] @ w[j]) ** 2 for i in range(n) for j in range(n) if i != j])
    else:
        both = np.concatenate([z, w])
        apart = np.mean([(a @ b) ** 2 for a in both for b in both])
    return (-2 * np.mean([a @ b for a, b in zip(z, w, strict=True)]) + apart) / (radius or 1) ** 2


def info_nce(z, w, temperature, normalise):
    if normalise:
        z, w = (v / np.linalg.norm(v, axis=1, keepdims=True) for v in (z, w))
    total = 0.0
    for i in range(len(z)):
        for a, b in ((z, w), (w, z)):
            scores = np.array([a[i] @ other for other in b]) / temperature
            total -= scores[i] - np.log(np.exp(scores - scores.max()).sum()) - scores.max()
    return total / (2 * len(z))


def statistic(z, direction, cut, num_points):
    """Epps and Pulley's of one projection, by the trapezoidal rule on -c...c."""
    t = np.linspace(-cut, cut, 2 * num_points - 1)
    phi = np.exp(1j * np.outer(t, z @ direction)).mean(axis=1)
    return len(z) * scipy.integrate.trapezoid(
        np.abs(phi - np.exp(-(t**2) / 2)) ** 2 * np.exp(-(t**2) / 2), t
    )


def w_mse(z, w, ridge):
    both = np.concatenate([z, w])
    cov = np.cov(both.T, bias=True)
    factor = np.linalg.cholesky(cov + ridge * np.trace(cov) / len(cov) * np.eye(len(cov)))
    a, b = (np.linalg.solve(factor, (v - both.mean(0)).T) for v in (z, w))
    return np.mean(np.sum((a - b) ** 2, axis=0))


CASES = {
    "spectral": [
        (losses.spectral_contrastive, spectral_contrastive, {"negatives": n, "radius": r})
        for n in ("others", "all") for r in (None, 1.5)
    ],
    "InfoNCE": [
        (losses.info_nce, info_nce, {"temperature": t, "normalise": n})
        for t in (0.07, 2.0) for n in (True, False)
    ],
    "W-MSE": [(losses.w_mse, w_mse, {"ridge": r}) for r in (0.0, 1e-3)],
}  # fmt: skip


@pytest.mark.parametrize("name", CASES)
def test_losses_are_their_definitions(x64, name):
    for ours, theirs, settings in CASES[name]:
        z, w = embeddings(0)
        np.testing.assert_allclose(ours(z, w, **settings), theirs(z, w, **settings), rtol=1e-12)
        # In float32 all is summed in float32, and so it is of embeddings in bfloat16.
        short = [jnp.asarray(view, jnp.bfloat16) for view in (z, w)]
        exact = theirs(*(np.asarray(view, np.float64) for view in short), **settings)
        found = ours(*short, **settings)
        assert found.dtype == jnp.float32
        np.testing.assert_allclose(found, exact, rtol=1e-4)
        gradient = jax.grad(lambda z, ours=ours, w=short[1], s=settings: ours(z, w, **s))(short[0])
        assert bool(jnp.isfinite(gradient).all())


def test_a_learned_temperature(x64):
    """CLIP learns the logarithm of 1/τ."""
    z, w = embeddings(1)
    found = jax.grad(lambda s: losses.info_nce(z, w, temperature=jnp.exp(-s)))(1.0)
    h = 1e-5
    up, down = (info_nce(z, w, np.exp(-1.0 - e), True) for e in (h, -h))
    np.testing.assert_allclose(found, (up - down) / (2 * h), rtol=1e-7)


def test_sigreg_along_random_directions(x64):
    views, key = embeddings(2, num_views=3), jax.random.key(3)
    directions = np.asarray(jax.random.normal(key, (4, 8), jnp.float64))
    directions = directions / np.linalg.norm(directions, axis=0)
    wanted = np.mean([[statistic(z, a, 3.0, 17) for a in directions.T] for z in views])
    np.testing.assert_allclose(losses.sigreg(*views, key=key, num_slices=8), wanted, rtol=1e-12)
    mean = np.mean(views, axis=0)
    spread = np.mean([(z - mean) ** 2 for z in views])
    found = losses.lejepa(*views, key=key, num_slices=8, sigreg_weight=0.3)
    np.testing.assert_allclose(found, 0.7 * spread + 0.3 * wanted, rtol=1e-12)
    short = [jnp.asarray(view, jnp.bfloat16) for view in views]
    exact = losses.lejepa(*(view.astype(jnp.float64) for view in short), key=None)
    np.testing.assert_allclose(losses.lejepa(*short, key=None), exact, rtol=1e-4)


@pytest.mark.parametrize("dim", [1, 2, 3, 8])
def test_sigreg_over_all_directions(x64, dim):
    """Against the mean over many, each with its own opposite axes, and a whole circle of them."""
    (z,) = embeddings(4, n=10, d=dim, num_views=1)
    if dim == 1:
        directions, error = np.ones((1, 1)), 1e-12
    elif dim == 2:
        angles = 2 * np.pi * np.arange(200) / 200
        directions, error = np.stack([np.cos(angles), np.sin(angles)], axis=1), 1e-8
    else:
        directions = np.random.default_rng(5).standard_normal((4000, dim))
        directions /= np.linalg.norm(directions, axis=1, keepdims=True)
        error = None
    values = np.array([statistic(z, a, 3.0, 17) for a in directions])
    atol = 4 * values.std() / np.sqrt(len(values)) if error is None else error * values.mean()
    np.testing.assert_allclose(losses.sigreg(z), values.mean(), atol=atol)
    rotation = np.linalg.qr(np.random.default_rng(6).standard_normal((dim, dim)))[0]
    np.testing.assert_allclose(losses.sigreg(z @ rotation), losses.sigreg(z), rtol=1e-7)


@pytest.mark.parametrize("cut", [1.0, 3.0, 5.0])
@pytest.mark.parametrize("dim", [1, 3, 64])
def test_the_mean_over_directions_of_distant_embeddings(x64, dim, cut):
    """Of two at z and -z it is a sum of Bessel functions, to a distance of 40 · 3 / c."""
    t = np.linspace(0, cut, 17)
    weights = np.full(17, 2 * cut / 16)
    weights[[0, -1]] /= 2
    weights *= np.exp(-(t**2) / 2)
    for distance in np.linspace(0, 39.9 * 3 / cut, 12):
        z = np.zeros((2, dim))
        z[:, 0] = distance / 2 * np.array([1, -1])
        far, near = (scipy.special.hyp0f1(dim / 2, -((t * a) ** 2) / 4)
                     for a in (distance, distance / 2))  # fmt: skip
        normal = np.exp(-(t**2) / 2)
        wanted = 2 * np.sum(weights * ((1 + far) / 2 - 2 * near * normal + normal**2))
        found = losses.sigreg(z, cut=cut)
        # In |z|² the series' rounding is that of 150 terms of sum 2.5, and of numbers up to 2.5.
        np.testing.assert_allclose(found, wanted, atol=2e-11)


@pytest.mark.parametrize("dim", [256, 2048, 8192])
def test_the_mean_over_directions_in_many_dimensions(x64, dim):
    """Of two at z and -z, up to 5 √d apart, by the density of a component of a unit vector."""
    t = np.linspace(0, 3, 17)
    weights = np.full(17, 6 / 16) * np.exp(-(t**2) / 2)
    weights[[0, -1]] /= 2
    normal = np.exp(-(t**2) / 2)
    component = np.linspace(-1, 1, 200_001) * min(1, 12 / dim**0.5)
    density = (1 - component**2) ** ((dim - 3) / 2)
    density /= density.sum()
    for distance in np.array([0.5, 2**0.5, 3, 5]) * dim**0.5:
        z = np.zeros((2, dim))
        z[:, 0] = distance / 2 * np.array([1, -1])
        far, near = (np.cos(np.outer(t, a * component)) @ density for a in (distance, distance / 2))
        wanted = 2 * np.sum(weights * ((1 + far) / 2 - 2 * near * normal + normal**2))
        np.testing.assert_allclose(losses.sigreg(z), wanted, atol=2e-11)


def test_derivatives_of_sigreg(x64):
    """Where embeddings coincide too, as at zero: its second derivative there is known."""
    z = jnp.asarray(embeddings(7, n=6, d=3, num_views=1)[0])
    check_grads(jax.jit(losses.sigreg), (z,), order=2, modes=["fwd", "rev"])
    # With small u, (1/n) Σ exp(i t a·z) = 1 + i t m - t² s / 2: from the integrals over t.
    n, u = 6, np.random.default_rng(8).standard_normal((6, 1))
    t, h = np.linspace(0, 3, 17), 1e-4
    weights = np.full(17, 2 * 3 / 16)
    weights[[0, -1]] /= 2
    weights *= np.exp(-(t**2) / 2)
    mean, square = u.mean(), np.mean(u**2)
    normal = np.exp(-(t**2) / 2)
    wanted = n * np.sum(weights * t**2 * (mean**2 - (1 - normal) * square))
    found = (losses.sigreg(h * jnp.asarray(u)) - losses.sigreg(0 * jnp.asarray(u))) / h**2
    np.testing.assert_allclose(found, wanted, rtol=1e-5)


@pytest.mark.parametrize(
    ("loss", "factor"),
    [
        (losses.spectral_contrastive, lambda gamma, centred, sigma, n: 4 * gamma),
        (
            partial(losses.info_nce, normalise=False, temperature=0.5),
            lambda gamma, centred, sigma, n: 4 * centred,
        ),
    ],
)
def test_first_rates(x64, loss, factor):
    x, x_prime = embeddings(9, n=20)
    gamma = linear.cross_correlation(x, x_prime)
    centred = linear.cross_correlation(x, x_prime, centre=True)
    sigma = linear.second_moment(x, x_prime)
    wanted = np.linalg.eigvalsh(factor(gamma, centred, sigma, 20))[::-1][:2]
    found = linear.growth_modes(loss, (x, x_prime), 2).eigenvalues
    np.testing.assert_allclose(found, wanted, rtol=1e-10)


def test_lejepa_grows_by_its_signature(x64):
    """aΣ - b(Σ - Γ), Σ a covariance beyond what the mean adds: the modes that never start."""
    views = [v - v.mean(0) for v in embeddings(10, n=30, num_views=4)]
    weight, d, n = 0.3, 4, 30
    t = np.linspace(0, 3, 17)
    weights = np.full(17, 2 * 3 / 16)
    weights[[0, -1]] /= 2
    weights *= np.exp(-(t**2) / 2)
    sigma = linear.second_moment(*views)
    gamma = linear.cross_correlation(*views)
    # E_a (a·z)² = |z|² / d; SIGReg is a mean over views; a sample's spread is (1 - 1/V)(Σ - Γ).
    slope = n * np.sum(weights * t**2 * (1 - np.exp(-(t**2) / 2))) / d
    growth = 2 * weight * slope * sigma - 2 * (1 - weight) / d * 0.75 * (sigma - gamma)
    found = linear.growth_modes(
        partial(losses.lejepa, sigreg_weight=weight), views, 4, dim=d
    ).eigenvalues
    np.testing.assert_allclose(found, np.linalg.eigvalsh(growth)[::-1], rtol=1e-8)


def test_spectral_contrastive_ends_at_the_pencil(x64):
    x, x_prime = embeddings(11, n=40)
    both = np.concatenate([x, x_prime])
    loss = partial(losses.spectral_contrastive, negatives="all")
    start = 1e-4 * both @ np.random.default_rng(12).standard_normal((4, 2))
    run = kernel_pca.stepwise_flow(both @ both.T, loss, start, np.array([0.0, 300.0]))
    z = np.asarray(run.embeddings(both @ both.T, start))[-1]
    modes = linear.pencil_modes(
        linear.cross_correlation(x, x_prime), linear.second_moment(x, x_prime), 2
    )
    np.testing.assert_allclose(
        np.linalg.eigvalsh(z.T @ z / len(z))[::-1], modes.eigenvalues, rtol=1e-4
    )


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda z: losses.spectral_contrastive(z, z, negatives="none"), "negatives must be one of"),
        (lambda z: losses.spectral_contrastive(z, z, radius=0.0), "radius must be > 0"),
        (lambda z: losses.info_nce(z, z, temperature=0.0), "temperature must be > 0"),
        (lambda z: losses.sigreg(), "at least one view"),
        (lambda z: losses.sigreg(z, z[:2]), "one shape"),
        (lambda z: losses.sigreg(z, cut=0.0), "cut must be > 0"),
        (lambda z: losses.lejepa(z, z, sigreg_weight=2.0), "sigreg_weight must be <= 1"),
        (lambda z: losses.w_mse(z, z, ridge=-1.0), "ridge must be >= 0"),
    ],
)
def test_bad_arguments(unchecked, call, message):
    with pytest.raises(ValueError, match=message):
        call(np.ones((4, 2)) * np.arange(4.0)[:, None])
