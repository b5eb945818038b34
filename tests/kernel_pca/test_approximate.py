"""Modes of a low-rank factor: their bounds, what they cost, and what they are good for."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from sslstep import gram, kernel_pca, losses


@jax.jit
def linear_kernel(x1, x2=None):
    return jnp.matmul(x1, (x1 if x2 is None else x2).T, precision="highest")


@jax.jit
def gaussian_kernel(x1, x2=None):
    x2 = x1 if x2 is None else x2
    squares = jnp.sum(x1**2, axis=1)[:, None] + jnp.sum(x2**2, axis=1)[None, :]
    return jnp.exp(-(squares - 2 * x1 @ x2.T) / 18)


def gaussian_pairs(num, seed=0):
    rng = np.random.default_rng(seed)
    x = rng.normal(size=(num, 5)).astype(np.float32)
    return x, (x + 0.2 * rng.normal(size=x.shape)).astype(np.float32)


def exact(features):
    """γ of the linear kernel: eigenvalues of Γ, in float64."""
    first, second = np.split(features.astype(np.float64), 2)
    gamma = first.T @ second / len(features)
    return np.linalg.eigvalsh(gamma + gamma.T)[::-1]


SCALES = {
    "slow decay": np.arange(1, 151) ** -0.5,
    "fast decay": np.arange(1, 151) ** -1.5,
    "clusters": np.repeat([1, 0.5, 0.25, 0.12, 0.06], 30),
    "rank 20": np.where(np.arange(1, 151) <= 20, 1 / np.arange(1, 151), 0),
}


@pytest.mark.parametrize("spectrum", SCALES)
def test_bounds_hold(spectrum):
    """In 9 problems of each kind, with confidence 0.99."""
    missed, certified = 0, []
    for seed in range(9):
        rng = np.random.default_rng(seed)
        signal, noise = rng.normal(size=(300, 150)), rng.choice([0.1, 0.5, 1.0])
        views = [signal + noise * rng.normal(size=signal.shape) for _ in range(2)]
        features = (np.concatenate(views) * SCALES[spectrum]).astype(np.float32)
        found = kernel_pca.approximate_modes(
            linear_kernel, *np.split(features, 2), 6,
            rank=(20, 60, 100)[seed % 3], tol=0.05, key=jax.random.key(seed),
        )  # fmt: skip
        gammas = exact(features)[:6]
        rounding = 1e-5 * gammas[0]
        missed += bool(np.any(found.lower > gammas + rounding))
        missed += bool(np.any(found.upper < gammas - rounding))
        certified.append(found.certified)
    assert missed == 0
    # It certifies what decays, and says no where half of the trace is left.
    share = np.mean(certified)
    assert share == 1 if spectrum == "rank 20" else share > 0.8 if "fast" in spectrum else share < 1


def test_certified_modes_are_the_exact_ones():
    x, x_prime = gaussian_pairs(600)
    found = kernel_pca.approximate_modes(gaussian_kernel, x, x_prime, 8, rank=400, tol=0.01)
    assert found.certified.all()
    assert found.trace_left < 0.01
    modes = kernel_pca.contrastive_modes(gram.pairs(gaussian_kernel, x, x_prime), 8)
    ratio = np.asarray(found.lower / modes.eigenvalues)
    assert np.all((ratio > 0.99) & (ratio < 1 + 1e-5))
    assert np.all(found.upper >= modes.eigenvalues * (1 - 1e-5))
    assert np.all(np.abs(found.modes.eigenvalues - modes.eigenvalues) <= found.modes.residuals)
    # What the residuals add brings them nearer.
    plain, corrected = (
        np.abs(np.asarray(each / modes.eigenvalues) - 1).max()
        for each in (found.modes.eigenvalues, found.eigenvalues)
    )
    assert corrected < plain
    # On new points, in the subspace that both span.
    new = gaussian_pairs(50, seed=1)[0]
    pivots = np.concatenate([x, x_prime])[found.pivots]
    ours = kernel_pca.embed(found.modes, gaussian_kernel(new, pivots))
    theirs = kernel_pca.embed(modes, gram.to_pairs(gaussian_kernel, new, x, x_prime))
    left, right = (np.linalg.qr(np.asarray(z))[0] for z in (ours, theirs))
    assert np.linalg.svd(left.T @ right, compute_uv=False).min() > 0.99


def test_the_factor_takes_its_columns_and_the_diagonal():
    """As entries of the kernel: (k + 1) N, what the pivots are chosen by, and k N / 2 for bounds.

    The bounds of both factors, of k / 2 and of k columns, need entries. They are computed in blocks
    on and above the diagonal, 8 by 8, which are 36 / 32 of the entries there.
    """
    entries = []

    def counted(x1, x2=None):
        entries.append(len(x1) * len(x1 if x2 is None else x2))
        return gaussian_kernel(x1, x2)

    x, x_prime = gaussian_pairs(3000)
    found = kernel_pca.approximate_modes(counted, x, x_prime, 4, rank=128, tol=1e-9)
    size, rank = 6000, len(found.pivots)
    assert rank == 128
    # Traced once for the diagonal, whose N entries are not seen here.
    columns = [num for num in entries if num % 3000 == 0]
    assert sum(columns) == rank * size
    choosing = 256**2 * len(columns)
    bounds = 36 / 32 * (rank / 2 + rank) * size / 2
    assert sum(entries) <= rank * size + size + choosing + bounds


def test_a_kernel_of_lower_rank_than_the_number_of_modes():
    """As those of `contrastive_modes`, the other modes have γ = 0. The views are float64 here."""
    rng = np.random.default_rng(0)
    x = rng.normal(size=(40, 3))
    x_prime = x + 0.1 * rng.normal(size=x.shape)
    found = kernel_pca.approximate_modes(linear_kernel, x, x_prime, 5, rank=20)
    wanted = np.append(exact(np.concatenate([x, x_prime])), [0, 0])
    np.testing.assert_allclose(found.modes.eigenvalues, wanted, rtol=1e-5, atol=1e-6)
    assert np.all((found.lower <= wanted + 1e-6) & (found.upper >= wanted - 1e-6))
    np.testing.assert_array_equal(found.certified, [True, True, True, False, False])
    assert found.coefficients.shape == (3, 5)
    np.testing.assert_array_equal(found.coefficients[:, 3:], 0)
    # An eigenvalue of Γ is negative: those of the modes beyond the rank are larger.
    flipped = x * [1, -1, 1]
    found = kernel_pca.approximate_modes(linear_kernel, x, flipped, 3, rank=20)
    wanted = np.append(exact(np.concatenate([x, flipped]))[:2], 0)
    np.testing.assert_allclose(found.modes.eigenvalues, wanted, rtol=1e-5, atol=1e-6)
    assert np.all((found.lower <= wanted + 1e-6) & (found.upper >= wanted - 1e-6))
    np.testing.assert_array_equal(found.coefficients[:, 2], 0)
    zero = kernel_pca.approximate_modes(linear_kernel, 0 * x, 0 * x, 2, rank=20)
    np.testing.assert_array_equal(zero.upper, [0, 0])
    assert zero.coefficients.shape == (0, 2)


def test_bounds_scale_with_the_kernel():
    """By 4^-40 the squares of entries are no numbers of float32."""
    x, x_prime = gaussian_pairs(150)
    found, small = (
        kernel_pca.approximate_modes(
            lambda a, b, s=scale: s * gaussian_kernel(a, b), x, x_prime, 3, rank=20
        )
        for scale in (1.0, 4.0**-40)
    )
    for name in ("lower", "upper", "certified"):
        one, other = getattr(found, name), getattr(small, name)
        np.testing.assert_array_equal(other, one if name == "certified" else one * 4.0**-40)
    np.testing.assert_array_equal(small.coefficients, found.coefficients * 2.0**40)
    np.testing.assert_array_equal(small.modes.images, found.modes.images * 2.0**-40)


def test_growth_modes_hold_within_their_bounds():
    x, x_prime = gaussian_pairs(400)
    loss_fn = losses.simplified_barlow_twins
    approximate = kernel_pca.approximate_growth_modes(
        gaussian_kernel, (x, x_prime), loss_fn, 5, rank=400, tol=0.02
    )
    assert approximate.certified.all()
    kernel = gram.pairs(gaussian_kernel, x, x_prime)
    exact_rates = np.asarray(kernel_pca.growth_modes(kernel, loss_fn, 5).eigenvalues)
    assert np.all(approximate.lower <= exact_rates * (1 + 1e-5))
    assert np.all(approximate.upper >= exact_rates * (1 - 1e-5))
    # From what is learned, where H is no exchange of views.
    learned = kernel_pca.embed_training(kernel_pca.contrastive_modes(kernel, 1)) * 0.8
    after = kernel_pca.approximate_growth_modes(
        gaussian_kernel, (x, x_prime), losses.spectral_contrastive, 3,
        embeddings=learned, rank=400, tol=0.05,
    )  # fmt: skip
    wanted = kernel_pca.growth_modes(
        kernel, losses.spectral_contrastive, 3, embeddings=learned, tol=1e-4
    ).eigenvalues
    assert after.certified.all()
    assert np.all(after.lower <= wanted * (1 + 1e-4))
    assert np.all(after.upper >= wanted * (1 - 1e-4))


class KilledError(Exception):
    """As by a signal."""


def test_a_killed_run_continues_with_the_same_bits(tmp_path):
    x, x_prime = gaussian_pairs(300)
    calls = []

    def mortal(x1, x2=None):
        calls.append(None)
        if len(calls) == 7:
            raise KilledError
        return gaussian_kernel(x1, x2)

    def solve(kernel_fn=gaussian_kernel, folder=None, tol=1e-9):
        return kernel_pca.approximate_modes(
            kernel_fn, x, x_prime, 3, rank=128, tol=tol, folder=folder
        )

    whole, folder = solve(), tmp_path / "state"
    with pytest.raises(KilledError):
        solve(mortal, folder)
    assert len(list(folder.glob("columns-*.npy"))) >= 1
    before = len(calls)
    resumed = solve(lambda a, b=None: calls.append(None) or gaussian_kernel(a, b), folder)
    assert len(calls) > before
    for one, other in zip(jax.tree.leaves(whole), jax.tree.leaves(resumed), strict=True):
        np.testing.assert_array_equal(one, other)
    with pytest.raises(ValueError, match="holds the columns of a call with other data"):
        solve(folder=folder, tol=1e-3)
    x, x_prime = gaussian_pairs(300, seed=1)  # the kernel's diagonal is the same, 1
    with pytest.raises(ValueError, match="holds the columns of a call with other data"):
        solve(folder=folder)


def test_memory_mapped_views_and_keys(tmp_path):
    x, x_prime = gaussian_pairs(300)
    np.save(tmp_path / "x.npy", x)
    np.save(tmp_path / "x_prime.npy", x_prime)
    files = (np.load(tmp_path / f"{name}.npy", mmap_mode="r") for name in ("x", "x_prime"))
    mapped = kernel_pca.approximate_modes(gaussian_kernel, *files, 3, rank=64)
    plain = kernel_pca.approximate_modes(gaussian_kernel, x, x_prime, 3, rank=64)
    np.testing.assert_array_equal(mapped.pivots, plain.pivots)
    np.testing.assert_array_equal(mapped.lower, plain.lower)
    other = kernel_pca.approximate_modes(
        gaussian_kernel, x, x_prime, 3, rank=64, key=jax.random.key(1)
    )
    assert not np.array_equal(other.pivots, plain.pivots)


def test_float64(x64):
    x, x_prime = (view.astype(np.float64) for view in gaussian_pairs(200))
    found = kernel_pca.approximate_modes(gaussian_kernel, x, x_prime, 3, rank=400, tol=1e-5)
    assert found.certified.all()
    modes = kernel_pca.contrastive_modes(gram.pairs(gaussian_kernel, x, x_prime), 3)
    np.testing.assert_allclose(found.lower, modes.eigenvalues, rtol=1e-6)


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"dim": 0}, "dim must be between 1 and n = 20"),
        ({"rank": 1}, r"rank must be between dim = 2 and 2n = 40, got 1"),
        ({"rank": 41}, r"rank must be between dim = 2 and 2n = 40, got 41"),
        ({"tol": 0.0}, "tol must be > 0"),
        ({"confidence": 1.0}, "confidence must be between 0 and 1, got 1.0"),
        (
            {"x": np.ones((19, 5), np.float32)},
            r"views of the same samples, got shapes \(19, 5\) and \(20, 5\)",
        ),
        ({"kernel_fn": lambda a, b: -gaussian_kernel(a, b)}, "kernel_fn must be finite and >= 0"),
        ({"kernel_fn": lambda a, b: jnp.nan * gaussian_kernel(a, b)}, "kernel_fn must be finite"),
    ],
)
def test_bad_input(changed, message):
    x, x_prime = gaussian_pairs(20)
    given = {"kernel_fn": gaussian_kernel, "x": x, "x_prime": x_prime, "dim": 2, "rank": 10}
    with pytest.raises(ValueError, match=message):
        kernel_pca.approximate_modes(**(given | changed))
