"""Modes of kernels: against the printed formula, Section 4 and each other; and what goes wrong."""

import re
import subprocess
import sys
from functools import partial
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.linalg

from sslstep import data, gram, kernel_pca, linear
from sslstep.kernel_pca import _krylov
from sslstep.ntk import infinite

SOLVERS = ["krylov", "dense"]


def swap(v):
    half = len(v) // 2
    return np.concatenate([v[half:], v[:half]])


def reference(kernel):
    """All γ and c of P K c = 2n γ c by SciPy in float64: for γ > 0, (K P K, 2n K) c = γ c."""
    kernel = np.asarray(kernel, np.float64)
    values, vectors = scipy.linalg.eigh(kernel)
    factor = vectors * np.sqrt(np.maximum(values, 0))
    projected = factor.T @ swap(factor) / len(kernel)
    gammas, y = scipy.linalg.eigh((projected + projected.T) / 2)
    gammas, y = gammas[::-1], y[:, ::-1]
    with np.errstate(divide="ignore", invalid="ignore"):
        return gammas, swap(factor) @ y / (len(kernel) * gammas)


def printed(kernel):
    """γ as the paper prints it: Z of Eq. 23 between two inverse roots."""
    n = len(kernel) // 2
    xx, xy, yx, yy = kernel[:n, :n], kernel[:n, n:], kernel[n:, :n], kernel[n:, n:]
    z = np.block([[xy @ xx, xy @ xy], [yy @ xx, yy @ xy]]) / (2 * n)
    root = np.linalg.inv(scipy.linalg.sqrtm(kernel).real)
    assert np.allclose(yx, xy.T)
    return np.linalg.eigvalsh(root @ (z + z.T) @ root)[::-1]


def with_spectrum(seed, spectrum):
    size = len(spectrum)
    q, _ = np.linalg.qr(np.random.default_rng(seed).standard_normal((size, size)))
    kernel = (q * np.asarray(spectrum)) @ q.T
    return (kernel + kernel.T) / 2


def misalignment(kernel, coefficients, others):
    """1 - alignment of the embedded subspaces, K c, without cancellation."""
    a, b = (
        np.linalg.qr(np.asarray(kernel, float) @ np.asarray(c, float))[0]
        for c in (coefficients, others)
    )
    return np.linalg.norm(b - a @ (a.T @ b)) ** 2 / a.shape[1]


def photo_crops(n, crop):
    images = data.photos().images[:n]
    crops = data.random_crop_pairs(jax.random.key(0), images, crop)
    return jnp.asarray(jnp.concatenate(crops), jnp.float32) / 255


@pytest.mark.parametrize("solver", SOLVERS)
def test_equation_and_normalisation(dtype, solver):
    kernel = with_spectrum(0, np.geomspace(10, 1e-3, 60))
    modes = kernel_pca.contrastive_modes(jnp.asarray(kernel, dtype), 5, solver=solver)
    assert {a.dtype for a in modes[:3]} == {dtype}
    c = np.asarray(modes.coefficients, float)
    gammas = np.asarray(modes.eigenvalues, float)
    residual = swap(kernel @ c) - 60 * gammas * c
    measured = np.linalg.norm(residual, axis=0) / np.linalg.norm(c, axis=0) / 60
    eps = float(jnp.finfo(dtype).eps)
    tol = 1e-3 if dtype == jnp.float32 else 1e-6
    assert (measured <= tol * gammas + 4 * eps * gammas[0]).all()
    # What is reported is what is true, up to its own rounding.
    np.testing.assert_allclose(modes.residuals, measured, rtol=0.1, atol=4 * eps * gammas[0])
    np.testing.assert_allclose(c.T @ kernel @ c, np.eye(5), atol=1e3 * eps)
    assert (int(modes.iterations) == 0) == (solver == "dense")


@pytest.mark.parametrize("solver", SOLVERS)
def test_printed_formula(x64, solver):
    # Well-conditioned, so that the printed formula is accurate.
    kernel = with_spectrum(1, np.linspace(1, 2, 80))
    modes = kernel_pca.contrastive_modes(kernel, 10, solver=solver, tol=1e-8)
    np.testing.assert_allclose(modes.eigenvalues, printed(kernel)[:10], rtol=1e-11)


@pytest.mark.parametrize("solver", SOLVERS)
def test_linear_kernel_is_section_4(dtype, solver):
    """Clause (a): all nonzero eigenvalues of Γ. The kernel is singular: rank 12 of 50."""
    x, noise = jax.random.normal(jax.random.key(0), (2, 25, 12), dtype)
    x_prime = x + jnp.asarray(0.3, dtype) * noise
    both = jnp.concatenate([x, x_prime])
    gamma = linear.cross_correlation(x, x_prime)
    wanted = linear.modes(gamma)
    modes = kernel_pca.contrastive_modes(both @ both.T, 12, solver=solver)
    rtol = 1e-5 if dtype == jnp.float32 else 1e-11
    np.testing.assert_allclose(modes.eigenvalues, wanted.eigenvalues, rtol=rtol)
    # G = Φᵀ C are Γ's eigenvectors.
    features = both.T @ modes.coefficients
    overlap = jnp.abs(jnp.sum(features * wanted.eigenvectors, axis=0))
    np.testing.assert_allclose(overlap, 1, atol=1e3 * rtol)


def test_identical_views_give_the_kernels_own_modes(dtype):
    """Section 5.2: over X = X', γ are the eigenvalues of K(X, X)/n."""
    half = jnp.asarray(with_spectrum(2, np.geomspace(5, 0.01, 40)), dtype)
    kernel = jnp.tile(half, (2, 2))
    contrastive = kernel_pca.contrastive_modes(kernel, 6, solver="krylov")
    own = kernel_pca.principal_modes(half, 6, solver="krylov")
    rtol = 1e-5 if dtype == jnp.float32 else 1e-11
    np.testing.assert_allclose(contrastive.eigenvalues, own.eigenvalues, rtol=rtol)
    np.testing.assert_allclose(own.eigenvalues, np.geomspace(5, 0.01, 40)[:6] / 40, rtol=rtol)


@pytest.mark.parametrize("solver", SOLVERS)
def test_two_towers_have_a_symmetric_spectrum(x64, solver):
    a, b = (with_spectrum(seed, np.geomspace(3, 0.1, 30)) for seed in (3, 4))
    kernel = scipy.linalg.block_diag(a, b)
    modes = kernel_pca.contrastive_modes(kernel, 8, solver=solver)
    squares = np.sort(np.linalg.eigvals(b @ a).real)[::-1]
    np.testing.assert_allclose(modes.eigenvalues, np.sqrt(squares[:8]) / 60, rtol=1e-11)


@pytest.mark.parametrize("solver", SOLVERS)
def test_ties(dtype, solver):
    """K = 1 has n modes of 1/2n and n of -1/2n: any d of the former will do."""
    modes = kernel_pca.contrastive_modes(jnp.eye(40, dtype=dtype), 20, solver=solver)
    np.testing.assert_allclose(modes.eigenvalues, 1 / 40, rtol=1e-5)
    gram_matrix = modes.coefficients.T @ modes.coefficients
    np.testing.assert_allclose(gram_matrix, np.eye(20), atol=1e-5)


def test_clusters_are_found_whole(x64):
    """Eigenvalues that tie to 1e-12: the subspace agrees though no vector does."""
    spectrum = np.repeat([1.0, 0.1, 0.01, 1e-4], 15) * (1 + 1e-12 * np.arange(60))
    half = with_spectrum(5, spectrum)
    kernel = np.tile(half, (2, 2))
    modes = kernel_pca.contrastive_modes(kernel, 30, solver="krylov")
    np.testing.assert_allclose(modes.eigenvalues, np.repeat([1.0, 0.1], 15) / 60, rtol=1e-10)
    assert misalignment(kernel, modes.coefficients, reference(kernel)[1][:, :30]) < 1e-18


NETWORKS = {
    "one hidden layer": (infinite.mlp(1), 20),
    "CNN": (infinite.cnn(2), 8),
}


@pytest.mark.parametrize("name", NETWORKS)
def test_accuracy_on_images(name):
    """1e-5 in float32 and 1e-10 in float64, for eigenvalues and embedded subspace, d = 50.

    Or what rounding the kernel does: errors of up to eps |K| / 2 in N² entries, σ = eps |K| / √12,
    are a random matrix of norm 2 σ sqrt(N), and γ is an eigenvalue over N.
    """
    kernel_fn, crop = NETWORKS[name]
    crops = photo_crops(120, crop)
    with jax.enable_x64(True):
        kernel = np.asarray(gram.matrix(kernel_fn, crops.astype(jnp.float64)))
        gammas, coefficients = reference(kernel)
        # No cut within a cluster: the gap there decides what agreement of subspaces is possible.
        dim = 50 - int(np.argmax((gammas[:60] / gammas[1:61] - 1)[49:39:-1] > 3e-3))
        assert dim > 40
        double = kernel_pca.contrastive_modes(kernel, dim, solver="krylov")
    single = kernel_pca.contrastive_modes(jnp.asarray(kernel, jnp.float32), dim, solver="krylov")
    for modes, bound in ((single, 1e-5), (double, 1e-10)):
        eps = float(jnp.finfo(modes.eigenvalues.dtype).eps)
        rounded = 2 * eps * np.abs(kernel).max() / (12 * len(kernel)) ** 0.5
        np.testing.assert_allclose(modes.eigenvalues, gammas[:dim], rtol=bound, atol=rounded)
        assert misalignment(kernel, modes.coefficients, coefficients[:, :dim]) < bound


def test_every_form_of_kernel_gives_the_same(tmp_path, x64):
    kernel = with_spectrum(6, np.geomspace(1, 1e-3, 80))
    np.save(tmp_path / "kernel.npy", kernel)
    on_device = jnp.asarray(kernel)
    wanted = kernel_pca.contrastive_modes(on_device, 4, solver="krylov")
    forms = [kernel, np.load(tmp_path / "kernel.npy", mmap_mode="r")]
    found = [kernel_pca.contrastive_modes(form, 4, solver="krylov") for form in forms]
    found += [
        kernel_pca.contrastive_modes(lambda v: on_device @ v, 4, num_pairs=40, solver=solver)
        for solver in ("krylov", "auto")
    ]
    for modes in found:
        np.testing.assert_allclose(modes.eigenvalues, wanted.eigenvalues, rtol=1e-12)
        same = jnp.abs(modes.coefficients), jnp.abs(wanted.coefficients)  # but for signs
        np.testing.assert_allclose(*same, atol=1e-9)


@pytest.mark.slow
def test_rows_over_devices():
    code = """
import jax, jax.numpy as jnp, numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec as P
from sslstep import kernel_pca
assert jax.device_count() == 4
x = jax.random.normal(jax.random.key(0), (64, 200))
kernel = x @ x.T
sharding = NamedSharding(Mesh(np.array(jax.devices()), ("rows",)), P("rows", None))
one = kernel_pca.contrastive_modes(kernel, 5, solver="krylov")
four = kernel_pca.contrastive_modes(jax.device_put(kernel, sharding), 5, solver="krylov")
assert len(four.coefficients.sharding.device_set) == 4, four.coefficients.sharding
print(float(jnp.abs(four.eigenvalues / one.eigenvalues - 1).max()) < 1e-5)
"""
    command = [sys.executable, "-c", code]
    flags = {"XLA_FLAGS": "--xla_force_host_platform_device_count=4", "JAX_PLATFORMS": "cpu"}
    root = Path(__file__).parents[2]
    result = subprocess.run(command, cwd=root, env=flags, capture_output=True, text=True)
    assert result.stdout.strip() == "True", result.stderr


def test_restarts_converge_too(x64):
    kernel = jnp.asarray(with_spectrum(7, np.geomspace(1, 1e-3, 200)))
    problem = _krylov.Problem(
        lambda v: kernel @ v, lambda v: jnp.roll(v, 100, axis=0), 200.0, kernel.dtype
    )
    start = jax.random.normal(jax.random.key(0), (200, 8), kernel.dtype)
    wanted = reference(kernel)[0][:4]
    products = []
    for max_blocks in (5, 30):
        limits = _krylov.Limits(4, 1e-8, 300, max_blocks)
        ritz, iterations = _krylov.solve(problem, start, kernel @ start, limits)
        np.testing.assert_allclose(ritz.eigenvalues[:4], wanted, rtol=1e-12)
        products.append(iterations)
    assert products[0] > products[1]  # it did restart


def test_the_first_block_does_not_matter(x64):
    kernel = with_spectrum(8, np.geomspace(1, 1e-4, 100))
    found = [
        kernel_pca.contrastive_modes(
            kernel, 5, key=jax.random.key(seed), block_size=width, solver="krylov"
        )
        for seed, width in ((1, 7), (2, 20))
    ]
    np.testing.assert_allclose(found[0].eigenvalues, found[1].eigenvalues, rtol=1e-11)
    assert misalignment(kernel, found[0].coefficients, found[1].coefficients) < 1e-12


@pytest.mark.parametrize("modes_of", [kernel_pca.contrastive_modes, kernel_pca.principal_modes])
def test_derivatives_where_the_kernel_is_singular_and_its_tangent_is_not(x64, modes_of):
    """Against differences; of the second view, features that the first lacks: P K̃ is nilpotent."""
    x, x_prime, other = np.random.default_rng(24).standard_normal((3, 12, 5))
    x[:, 3], x_prime[:, 4] = 0, 0
    features = np.concatenate([x, x_prime])
    kernel, tangent = features @ features.T, np.concatenate([other, other**2])
    kernel, tangent = jnp.asarray(kernel), jnp.asarray(tangent @ tangent.T)

    def functions(kernel):  # without the modes' signs
        modes = modes_of(kernel, 2, solver="dense")
        return jnp.concatenate([modes.eigenvalues[None], modes.coefficients**2])

    step = 1e-5  # forward: K̃ may not become indefinite; errors of second order are taken off
    at = [functions(kernel + k * step * tangent) for k in range(3)]
    wanted = (4 * at[1] - 3 * at[0] - at[2]) / (2 * step)
    _, found = jax.jvp(functions, (kernel,), (tangent,))
    np.testing.assert_allclose(found, wanted, atol=1e-6 * float(jnp.abs(wanted).max()))
    # dγ = γ cᵀ dK̃ c
    modes = modes_of(kernel, 2, solver="dense")
    gradient = jax.grad(lambda kernel: modes_of(kernel, 2, solver="dense").eigenvalues[1])(kernel)
    c = modes.coefficients[:, 1]
    np.testing.assert_allclose(gradient, modes.eigenvalues[1] * jnp.outer(c, c), atol=1e-12)


@pytest.mark.parametrize("modes_of", [kernel_pca.contrastive_modes, kernel_pca.principal_modes])
@pytest.mark.parametrize("exponent", [-90, 110])
def test_a_kernel_of_any_size(modes_of, exponent):
    """float32 holds neither the squares of such entries nor those of products with them."""
    kernel = jnp.asarray(with_spectrum(22, np.geomspace(1, 1e-2, 20)), jnp.float32)
    found, wanted = (
        modes_of(given, 3, solver="krylov") for given in (kernel * 2.0**exponent, kernel)
    )
    np.testing.assert_array_equal(found.eigenvalues, wanted.eigenvalues * 2.0**exponent)
    np.testing.assert_array_equal(found.residuals, wanted.residuals * 2.0**exponent)
    np.testing.assert_array_equal(found.coefficients, wanted.coefficients * 2.0 ** (-exponent / 2))


@pytest.mark.parametrize("solver", SOLVERS)
def test_few_positive_modes(x64, solver):
    """Rank 3: two modes are positive, one negative, and the rest do not exist."""
    x, x_prime = jnp.eye(3)[None], jnp.diag(jnp.array([1.0, 1.0, -1.0]))[None]
    both = jnp.concatenate([x, x_prime], axis=1)[0]
    both = jnp.concatenate([both, jnp.zeros((4, 3))])[jnp.array([0, 1, 2, 6, 7, 3, 4, 5, 8, 9])]
    with pytest.warns(UserWarning, match="only 2 of the top 5 eigenvalues are positive"):
        modes = kernel_pca.contrastive_modes(both @ both.T, 5, solver=solver)
    np.testing.assert_allclose(modes.eigenvalues[:2], 0.2, rtol=1e-12)
    assert (np.asarray(modes.eigenvalues[2:]) <= 1e-12).all()
    np.testing.assert_allclose(kernel_pca.final_singular_values(modes)[2:], 0)
    assert np.isfinite(np.asarray(modes.coefficients)).all()


def test_dense_takes_no_mode_from_the_rounding_of_a_float32_kernel():
    """Rank 8; the rounded entries alone would give it modes of γ about 1e-8, with huge c."""
    features = np.random.default_rng(0).standard_normal((200, 8))
    kernel = features @ features.T
    gammas = reference(kernel)[0]
    positive = int((gammas > 1e-10).sum())
    assert positive < 8
    with pytest.warns(UserWarning, match=f"only {positive} of the top 12 eigenvalues"):
        modes = kernel_pca.contrastive_modes(jnp.asarray(kernel, jnp.float32), 12, solver="dense")
    np.testing.assert_allclose(modes.eigenvalues[:positive], gammas[:positive], rtol=1e-5)
    np.testing.assert_array_equal(modes.eigenvalues[positive:], 0)
    np.testing.assert_array_equal(modes.coefficients[:, positive:], 0)
    own = kernel_pca.principal_modes(jnp.asarray(kernel, jnp.float32), 12, solver="dense")
    assert int((own.eigenvalues > 0).sum()) == 8


def test_dense_knows_a_float64_kernel_without_x64():
    """NumPy's, whose entries were not rounded to the float32 of the results."""
    basis = np.linalg.qr(np.random.default_rng(0).normal(size=(8, 8)))[0]
    kernel = basis * np.array([1, 1e-8, 0, 0, 0, 0, 0, 0]) @ basis.T
    kernel = (kernel + kernel.T) / 2
    own = kernel_pca.principal_modes(kernel, 2, solver="dense")
    assert own.eigenvalues.dtype == jnp.float32
    np.testing.assert_allclose(own.eigenvalues, [1 / 8, 1e-8 / 8], rtol=1e-5)


def test_dense_keeps_small_modes_of_a_float64_kernel(x64):
    kernel = with_spectrum(13, [1.0, 1e-11, *np.zeros(18)])
    own = kernel_pca.principal_modes(kernel, 3, solver="dense")
    np.testing.assert_allclose(own.eigenvalues * 20, [1.0, 1e-11, 0.0], rtol=1e-3)


@pytest.mark.filterwarnings("error::RuntimeWarning")
@pytest.mark.parametrize("solver", SOLVERS)
def test_zero_kernel_has_no_modes(solver):
    with pytest.warns(UserWarning, match="only 0 of the top 3 eigenvalues"):
        modes = kernel_pca.contrastive_modes(jnp.zeros((20, 20)), 3, solver=solver)
    for array in modes[:3]:
        np.testing.assert_array_equal(array, 0)
    np.testing.assert_array_equal(kernel_pca.embed(modes, jnp.ones((2, 20))), 0)


GOOD = with_spectrum(11, np.geomspace(1, 1e-2, 20))


def spoiled(row, column, value):
    kernel = GOOD.copy()
    kernel[row, column] = value
    return kernel


@pytest.mark.parametrize("solver", SOLVERS)
@pytest.mark.parametrize(
    ("kernel", "dim", "message"),
    [
        (GOOD[:, :19], 2, r"kernel must be square, got shape \(20, 19\)"),
        (GOOD[:19, :19], 2, r"over n pairs, of shape \(2n, 2n\), got \(19, 19\)"),
        (GOOD[0], 2, r"kernel must be a matrix"),
        (np.zeros((0, 0)), 2, r"kernel is empty"),
        (GOOD, 11, r"dim must be between 1 and n = 10, got 11: over n pairs"),
        (GOOD, 0, r"dim must be between 1 and n = 10, got 0"),
        (spoiled(3, 4, 0.5), 2, r"kernel must be symmetric"),
        (spoiled(3, 3, np.nan), 2, r"NaN or infin"),
        (GOOD - 0.1 * np.eye(20), 2, r"not positive semidefinite: its most negative Ritz value"),
    ],
)
def test_bad_kernels(x64, unchecked, solver, kernel, dim, message):
    with pytest.raises(ValueError, match=message):
        kernel_pca.contrastive_modes(kernel, dim, solver=solver)


def test_indefinite_kernels_are_named_with_their_values(x64):
    spectrum = np.geomspace(1, 1e-2, 20)
    spectrum[7] = -0.3
    with pytest.raises(ValueError, match="not positive semidefinite") as caught:
        kernel_pca.contrastive_modes(with_spectrum(12, spectrum), 3, solver="krylov")
    smallest, largest = re.findall(r"is (-?[\d.]+), its largest ([\d.]+)\.", str(caught.value))[0]
    # Ritz values lie between the extreme eigenvalues.
    assert -0.3 <= float(smallest) < -0.01
    assert 0.1 < float(largest) <= 1


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"solver": "cg"}, "solver must be one of 'auto', 'krylov', 'dense', got 'cg'"),
        ({"block_size": 2}, "block_size must be >= 3, got 2"),
        ({"tol": 0.0}, "tol must be > 0"),
        ({"max_iterations": 1}, "max_iterations must be >= 3"),
        ({"num_pairs": 9}, r"kernel must be of shape \(18, 18\), as num_pairs says"),
        ({"dtype": jnp.float32}, "dtype is for a kernel given as a function"),
    ],
)
def test_bad_options(x64, unchecked, options, message):
    with pytest.raises(ValueError, match=message):
        kernel_pca.contrastive_modes(GOOD, 2, **options)


@pytest.mark.parametrize("form", [jnp.asarray, lambda kernel: lambda v: jnp.asarray(kernel) @ v])
@pytest.mark.parametrize(
    ("kernel", "message"),
    [
        (spoiled(3, 3, np.nan), r"NaN or infinity: 20 of 20 rows|NaN or infinity: 1 of 20 rows"),
        (np.triu(GOOD), "kernel must be symmetric: for random u and v"),
        (GOOD - 0.1 * np.eye(20), "not positive semidefinite"),
    ],
)
def test_bad_kernels_on_the_device_and_as_functions(x64, form, kernel, message):
    with pytest.raises(ValueError, match=message):
        kernel_pca.contrastive_modes(form(kernel), 2, num_pairs=10, solver="krylov")


@pytest.mark.parametrize("form", [np.asarray, jnp.asarray])
@pytest.mark.parametrize("solver", SOLVERS)
def test_whole_numbers(form, solver):
    kernel = form(np.diag([4, 1, 4, 1]))
    found = kernel_pca.contrastive_modes(kernel, 1, solver=solver).eigenvalues
    np.testing.assert_allclose(found, [1.0], rtol=1e-6)


def test_bad_functions(x64, unchecked):
    with pytest.raises(ValueError, match="needs num_pairs"):
        kernel_pca.contrastive_modes(lambda v: v, 2)
    with pytest.raises(ValueError, match=r"\(20, 20\) to one of the same shape, got \(20, 1\)"):
        kernel_pca.contrastive_modes(lambda v: v[:, :1], 2, num_pairs=10)
    with pytest.raises(ValueError, match="dense' needs the kernel as an array"):
        kernel_pca.contrastive_modes(lambda v: v, 2, num_pairs=10, solver="dense")
    with pytest.raises(ValueError, match="use solver='dense' there"):
        jax.jit(lambda k: kernel_pca.contrastive_modes(k, 2, solver="krylov"))(GOOD)
    with pytest.raises(ValueError, match="dim must be between 1 and N = 20, got 21"):
        kernel_pca.principal_modes(GOOD, 21)


def test_a_dtype_that_jax_does_not_allow():
    with pytest.raises(ValueError, match="dtype = float64 needs x64 enabled"):
        kernel_pca.contrastive_modes(lambda v: v, 2, num_pairs=10, dtype=jnp.float64)


def test_no_product_is_wider_than_a_block_where_rounding_is_not_amplified():
    """Otherwise the modes are computed again, in a basis of up to twice as many columns."""
    kernel = with_spectrum(15, np.geomspace(1, 1e-2, 600))
    single, widths = jnp.asarray(kernel, jnp.float32), []

    def multiply(v):
        widths.append(v.shape[1])
        return single @ v

    modes = kernel_pca.contrastive_modes(multiply, 8, num_pairs=300)
    assert widths == [16] * int(modes.iterations)
    np.testing.assert_allclose(modes.eigenvalues, reference(kernel)[0][:8], rtol=1e-5)


def test_not_converging_is_an_error():
    # Eigenvalues without a gap to speak of, and very few products.
    kernel = jnp.asarray(with_spectrum(13, np.linspace(1, 1.1, 520)), jnp.float32)
    message = r"modes have not converged after 4 products .* whose residual .* tol = 1.0e-03"
    function = partial(jnp.matmul, kernel)
    for call in (
        lambda: kernel_pca.contrastive_modes(kernel, 5, max_iterations=4, solver="krylov"),
        lambda: kernel_pca.contrastive_modes(function, 5, max_iterations=4, num_pairs=260),
    ):
        with pytest.raises(kernel_pca.ConvergenceError, match=message):
            call()
    # An array is decomposed instead.
    found = kernel_pca.contrastive_modes(kernel, 5, max_iterations=4)
    np.testing.assert_allclose(found.eigenvalues, reference(kernel)[0][:5], rtol=1e-5)
    assert found.iterations == 0


def rounded(kernel, dtype):
    """A kernel as it is given, and its exact γ and c; without directions that rounding made."""
    kernel = np.asarray((kernel + kernel.T) / 2, dtype)
    return kernel, *reference(kernel)


def gaussian(x, x_prime):
    both = np.concatenate([x, x_prime])
    return np.exp(-((both[:, None] - both[None]) ** 2).sum(-1) / 2)


def products(x, x_prime):
    both = np.concatenate([x, x_prime])
    return both @ both.T


def two_views(rng, n, p, noise=0.1):
    x = rng.normal(size=(n, p))
    return x, x + noise * rng.normal(size=(n, p))


SCALES = 0.1 ** np.arange(12)
WIDTH = 1e-9
KERNELS = {
    "Gaussian, one dimension": lambda rng, n: gaussian(*two_views(rng, n, 1)),
    "Gaussian, three dimensions": lambda rng, n: gaussian(*two_views(rng, n, 3)),
    "scaled features": lambda rng, n: products(*(v * SCALES for v in two_views(rng, n, 12))),
    "low rank": lambda rng, n: products(*two_views(rng, n, max(1, n // 4))),
    "repeated": lambda rng, n: with_spectrum(rng, np.repeat([1.0, 0.1, 1e-3, 0.0], n)[: 2 * n]),
    "clustered": lambda rng, n: with_spectrum(
        rng, np.repeat([1.0, 0.1], n) * (1 + WIDTH * rng.random(2 * n))
    ),
    "unrelated views": lambda rng, n: products(*rng.normal(size=(2, n, max(1, 5 * n // 8)))),
    "duplicates": lambda rng, n: products(
        *(np.tile(v, (2, 1))[:n] for v in two_views(rng, -(-n // 2), n))
    ),
    "identical views": lambda rng, n: np.tile(products(*two_views(rng, n, 5))[:n, :n], (2, 2)),
    "two towers": lambda rng, n: scipy.linalg.block_diag(
        *(with_spectrum(rng, np.geomspace(1, 1e-3, n)) for _ in range(2))
    ),
}


@pytest.mark.filterwarnings("ignore:only")
@pytest.mark.parametrize("solver", ["auto", "krylov"])
@pytest.mark.parametrize("name", KERNELS)
def test_every_small_problem_is_solved(dtype, name, solver):
    """Many failed: in float64 those of fast decay, in float32 a quarter of all kinds.

    A kernel that is off by E has γ off by γ cᵀ E c to first order, and rounding is an E of some
    eps λ_1; where γ² is below eps (λ_1 / s)² it can be anything up to γ itself.
    """
    rng = np.random.default_rng(sorted(KERNELS).index(name))
    eps = float(jnp.finfo(dtype).eps)
    for n, dim in [(2, 2), (12, 12)] + 4 * [(60, 8)]:
        kernel, gammas, c = rounded(KERNELS[name](rng, n), dtype)
        largest = np.linalg.norm(kernel, 2)
        top = largest / (2 * n)
        known = gammas > np.sqrt(100 * eps) * top
        if solver == "krylov":  # others it may find or refuse
            dim = max(1, min(dim, int(known.sum())))
        modes = kernel_pca.contrastive_modes(kernel, dim, solver=solver)
        found = np.asarray(modes.eigenvalues, float)
        gammas, c, known = gammas[:dim], c[:, :dim], known[:dim]
        shift = 20 * eps * largest * gammas * np.linalg.norm(c, axis=0) ** 2
        # Two eigendecompositions, each as good as _linalg.solver_error, in both.
        computed = 4 * (8 + 4 * (2 * n) ** 0.5) * eps * top
        if name == "clustered" and eps < WIDTH:
            # A cluster of relative width w leaves Krylov's basis directions of length w, which are
            # orthogonal to eps / w only; γ is off by the square.
            computed += 4 * (eps / WIDTH) ** 2 * top
        assert (np.abs(found - gammas) < shift + computed)[known].all()
        assert (found[~known] < 2 * np.sqrt(100 * eps) * top).all()
        tol = 1e-3 if dtype == jnp.float32 else 1e-6
        assert (np.asarray(modes.residuals) <= tol * np.abs(found) + 100 * eps * top).all()


@pytest.mark.parametrize("solver", ["auto", "krylov"])
def test_fast_decay_beyond_small_problems(x64, solver):
    """A kernel of numerical rank 20 over 1200 samples."""
    kernel = gaussian(*two_views(np.random.default_rng(0), 600, 1, 0.05))
    modes = kernel_pca.contrastive_modes(kernel, 8, solver=solver)
    np.testing.assert_allclose(modes.eigenvalues, reference(kernel)[0][:8], rtol=1e-9)
    assert int(modes.iterations) > 0
    function = partial(jnp.matmul, jnp.asarray(kernel))
    found = kernel_pca.contrastive_modes(function, 8, num_pairs=600, solver=solver)
    np.testing.assert_allclose(found.eigenvalues, modes.eigenvalues, rtol=1e-9)


@pytest.mark.filterwarnings("ignore:only")
@pytest.mark.parametrize("solver", SOLVERS)
def test_rounding_is_told_from_indefiniteness(solver):
    """A float32 kernel of low rank has λ_min / λ_max of -4e-8, and 13 of 90 were refused."""
    for seed in range(4):
        features = np.random.default_rng(seed).normal(size=(80, 50)).astype(np.float32)
        kernel = jnp.asarray(features @ features.T)
        found = kernel_pca.contrastive_modes(kernel, 10, solver=solver).eigenvalues
        np.testing.assert_allclose(found, reference(kernel)[0][:10], rtol=1e-4)


def test_kernels_that_are_hardly_indefinite_are_refused():
    """‖K̃‖_F is about 3 λ_1: rounding explains some 7e-6 of λ_1."""
    features = np.random.default_rng(0).normal(size=(80, 50))
    values, vectors = np.linalg.eigh(features @ features.T)
    for smallest in (1e-3, 1e-4, 3e-5):
        values[0] = -smallest * values[-1]
        kernel = (vectors * values) @ vectors.T
        with pytest.raises(ValueError, match="not positive semidefinite"):
            kernel_pca.contrastive_modes(jnp.asarray(kernel + kernel.T, jnp.float32) / 2, 10)


def test_the_solver_is_chosen():
    """Dense where nothing else would do, and where it is quick."""
    small = jnp.asarray(GOOD, jnp.float32)
    large = jnp.asarray(with_spectrum(14, np.geomspace(1, 1e-3, 520)), jnp.float32)
    assert kernel_pca.contrastive_modes(small, 2).iterations == 0
    assert kernel_pca.contrastive_modes(partial(jnp.matmul, small), 2, num_pairs=10).iterations == 1
    assert kernel_pca.contrastive_modes(large, 2).iterations > 2
    assert kernel_pca.principal_modes(large.astype(jnp.bfloat16), 2).iterations == 0
    traced = jax.jit(lambda kernel: kernel_pca.contrastive_modes(kernel, 2).eigenvalues)(small)
    np.testing.assert_allclose(traced, reference(GOOD)[0][:2], rtol=1e-5)


def test_modes_that_rounding_hides_are_not_positive():
    """All that float32 resolves is in the basis soon, and no number of products adds to it."""
    kernel = jnp.asarray(with_spectrum(13, np.geomspace(1, 1e-9, 100)), jnp.float32)
    with pytest.warns(UserWarning, match="of the top 50 eigenvalues are positive beyond rounding"):
        modes = kernel_pca.contrastive_modes(kernel, 50, max_iterations=1000, solver="krylov")
    assert modes.iterations < 50
    assert 20 < (np.asarray(modes.eigenvalues) > 0).sum() < 50
    np.testing.assert_allclose(modes.eigenvalues[:5], reference(kernel)[0][:5], rtol=1e-3)


@pytest.mark.parametrize("solver", SOLVERS)
def test_modes_beyond_the_rank_come_before_negative_ones(solver):
    x = np.random.default_rng(5).normal(size=(40, 3))
    gammas = np.linalg.eigvalsh(x[:20].T @ x[20:] + x[20:].T @ x[:20])[::-1] / 40
    assert (gammas > 0).tolist() == [True, True, False]
    with pytest.warns(UserWarning, match="only 2 of the top 6 eigenvalues"):
        modes = kernel_pca.contrastive_modes(x @ x.T, 6, solver=solver)
    np.testing.assert_allclose(modes.eigenvalues, [*gammas[:2], 0, 0, 0, 0], rtol=1e-3)


@pytest.mark.parametrize("short", [jnp.float16, jnp.bfloat16])
def test_half_precision_is_for_the_dense_solver(short):
    """Of a kernel rounded so, the iteration used to find zeros."""
    x = np.random.default_rng(0).normal(size=(60, 20))
    kernel = x @ x.T / 20
    exact = kernel_pca.contrastive_modes(kernel.astype(np.float32), 3, solver="dense")
    rounded = jnp.asarray(kernel, short)
    found = kernel_pca.contrastive_modes(rounded, 3, solver="dense")
    error = 8 * float(jnp.finfo(short).eps)
    np.testing.assert_allclose(found.eigenvalues, exact.eigenvalues, rtol=error)
    for array in (rounded, np.asarray(rounded)):
        with pytest.raises(ValueError, match="'krylov' does not converge in"):
            kernel_pca.contrastive_modes(array, 3, solver="krylov")
    assert exact.iterations.dtype == jnp.int32
