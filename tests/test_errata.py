"""The errata that docs/errata.md derives: each right form holds, and each printed one fails.

Where the toolkit has no function for a quantity, the mathematics is checked by itself, in NumPy.
"""

import re
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import integrate, special

from sslstep import dynamics, kernel_pca, linear, simulate

pytestmark = pytest.mark.usefixtures("x64")

EPS = np.finfo(np.float64).eps
ROOT = Path(__file__).parents[1]

# Compiled whole, which is faster than operation by operation.
singular_value = jax.jit(linear.singular_value)
step_time = jax.jit(dynamics.step_time)
elements = jax.jit(linear.elements)
coupled_elements = jax.jit(linear.coupled_elements)
small_init = jax.jit(lambda weights, modes, t: linear.small_init_trajectory(weights, modes)(t))


def quartic(t: float | np.ndarray, p: float, q: float, initial: float) -> jax.Array:
    """Of s' = p s - q s³."""
    family = dynamics.quartic_family(p / 4, q / 4)
    return dynamics.singular_value(t, 1.0, initial, landscape=family)


def mode_basis(eigenvalues: np.ndarray) -> linear.Modes:
    """Modes of a diagonal Γ, so that W is A."""
    return linear.Modes(jnp.asarray(eigenvalues), jnp.eye(len(eigenvalues)))


def flow(
    eigenvalues: np.ndarray, initial: np.ndarray, end: float, atol: float = 1e-11
) -> tuple[np.ndarray, np.ndarray]:
    """Gradient flow (Eq. 6) of A from `initial`, at 101 times up to `end`: the truth, by SciPy."""
    shape, scale = initial.shape, np.abs(initial).max()

    def velocity(t: float, a: np.ndarray) -> np.ndarray:
        scaled = a.reshape(shape) * eigenvalues
        return (4 * (scaled - scaled @ a.reshape(shape).T @ scaled)).ravel()

    times = np.linspace(0, end, 101)
    run = integrate.solve_ivp(
        velocity, (0, end), initial.ravel(), "DOP853", times, rtol=1e-11, atol=atol * scale
    )
    return times, run.y.T.reshape(-1, *shape)


def well_conditioned(rng: np.random.Generator, rows: int, columns: int) -> np.ndarray:
    """A matrix of full rank with singular values between 1 and 2."""
    left, _, right = np.linalg.svd(rng.normal(size=(rows, columns)), full_matrices=False)
    return (left * np.linspace(2, 1, min(rows, columns))) @ right


def inverse_root(matrix: np.ndarray) -> np.ndarray:
    """The pseudoinverse's square root of a positive semidefinite matrix."""
    values, vectors = np.linalg.eigh(matrix)
    kept = values > len(matrix) * EPS * values[-1]
    return (vectors[:, kept] / np.sqrt(values[kept])) @ vectors[:, kept].T


def kernel_matrices(
    x: np.ndarray, x_prime: np.ndarray
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """K̃ of Eq. 22, Z of Eq. 37 from its definition, and Γ of Eq. 4."""
    both = np.concatenate([x, x_prime])
    gamma = np.asarray(linear.cross_correlation(x, x_prime))
    return both @ both.T, both @ gamma @ both.T, gamma


def random_subspace(rng: np.random.Generator, dim: int, size: int) -> np.ndarray:
    """An orthonormal basis, as rows, of a uniformly random subspace."""
    sample = rng.normal(size=(dim, size))
    return np.linalg.solve(np.linalg.cholesky(sample @ sample.T), sample)


def subspace_alignment(p: np.ndarray, p_prime: np.ndarray) -> float:
    """The a(P, P') of Appendix E."""
    return float(np.sum((p @ p_prime.T) ** 2) / len(p))


# --- Sections 2 and 3 -----------------------------------------------------------------------------


def test_section_2_quartic_losses_need_matrices_that_commute() -> None:
    # Tr[w A w'] + Tr[(w B w')^2], whose gradient is 2 w A + 4 (w B w') w B, by SciPy.
    a, angle = np.diag([-2.0, -1.0]), 0.6
    turn = np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
    alone = np.array([1.0, 0.4])
    times = np.linspace(0, 12, 61)
    start = np.array([1e-3, 0.0])  # aligned with A's lowest eigenvalue

    def path(b: np.ndarray) -> np.ndarray:
        def velocity(t: float, w: np.ndarray) -> np.ndarray:
            return -2 * w @ a - 4 * (w @ b @ w) * (w @ b)

        return integrate.solve_ivp(
            velocity, (0, 12), start, "DOP853", times, rtol=1e-11, atol=1e-14
        ).y.T

    commuting = path(np.diag(alone))
    expected = np.asarray(quartic(times, 4.0, 4.0, start[0]))  # p = -2a, q = 4b^2
    np.testing.assert_allclose(commuting[:, 0], expected, rtol=1e-9)
    np.testing.assert_array_equal(commuting[:, 1], 0)
    b = turn @ np.diag(alone) @ turn.T
    w = path(b)
    assert np.linalg.norm(a @ b - b @ a) > 0.1
    # It turns, and comes to rest at a generalised eigenvector.
    cosines = w[:, 0] / np.linalg.norm(w, axis=1)
    assert cosines[0] == 1
    assert cosines[-1] < 0.98
    at_rest = w[-1] @ a + 2 * (w[-1] @ b @ w[-1]) * (w[-1] @ b)
    assert np.abs(at_rest).max() < 1e-8
    # A quartic equation of one mode has it elsewhere, whichever coefficient of B one takes.
    for q in (b[0, 0], alone[0], alone[1]):
        single = float(quartic(12.0, 4.0, 4 * q**2, start[0]))
        assert abs(single / np.linalg.norm(w[-1]) - 1) > 0.01


def test_section_2_simclr_has_no_expansion_about_the_origin() -> None:
    rng = np.random.default_rng(0)
    views = rng.normal(size=(2, 6, 4))

    def loss(weights: np.ndarray, temperature: float = 0.2) -> float:
        z = np.concatenate([view @ weights.T for view in views])
        z /= np.linalg.norm(z, axis=1, keepdims=True)
        similar = z @ z.T / temperature
        np.fill_diagonal(similar, -np.inf)
        positive = np.roll(np.arange(12), 6)
        return float(np.mean(special.logsumexp(similar, axis=1) - similar[range(12), positive]))

    one, other = rng.normal(size=(2, 3, 4))
    for scale in (1.0, 1e-3, 1e-12):
        assert loss(scale * one) == pytest.approx(loss(one), rel=1e-12)
    assert abs(loss(one) - loss(other)) > 0.1  # two limits at the origin

    def slope(scale: float) -> float:
        h = 1e-4 * scale  # along the other, which is not the radius
        return (loss(scale * one + h * other) - loss(scale * one - h * other)) / (2 * h)

    assert abs(slope(1.0)) > 0.01
    assert slope(1e-3) == pytest.approx(1e3 * slope(1.0), rel=1e-6)  # not linear in W


@pytest.mark.parametrize(("dim", "positive"), [(3, 4), (2, 3), (4, 4)])
def test_section_2_index_of_the_saddles(dim: int, positive: int) -> None:
    gammas = np.concatenate([np.linspace(2.0, 0.5, positive), [-0.4, -1.1]])

    def loss(weights: jax.Array) -> jax.Array:
        return jnp.sum((weights @ jnp.diag(gammas) @ weights.T - jnp.eye(dim)) ** 2)

    indices = []
    for k in range(dim + 1):
        saddle = np.zeros((dim, len(gammas)))
        saddle[range(k), range(k)] = gammas[:k] ** -0.5
        assert np.abs(jax.grad(loss)(jnp.asarray(saddle))).max() < 100 * EPS
        hessian = np.asarray(jax.hessian(loss)(jnp.asarray(saddle))).reshape(saddle.size, -1)
        # What falls, falls by 4 γ >= 2; rounding is of the order of 1e-14.
        indices.append(int((np.linalg.eigvalsh(hessian) < -1e-8).sum()))
    assert indices == [(dim - k) * (positive - k) for k in range(dim + 1)]
    if (dim, positive) == (3, 4):
        assert indices == [12, 6, 2, 0]
    assert set(np.diff(indices)) != {-1}  # as printed


def test_section_3_model_takes_one_sample() -> None:
    rng = np.random.default_rng(0)
    x, x_prime = rng.normal(size=(2, 5, 4))  # rows x_i, as in Appendix B.2
    weights = rng.normal(size=(3, 4))
    pairs = [(weights @ a, weights @ b) for a, b in zip(x, x_prime, strict=True)]
    c = sum(np.outer(f, g) + np.outer(g, f) for f, g in pairs) / 10  # Eq. 2
    gamma = (x.T @ x_prime + x_prime.T @ x) / 10
    np.testing.assert_allclose(c, weights @ gamma @ weights.T, atol=100 * EPS)  # Eq. 4
    with pytest.raises(ValueError, match="matmul"):
        weights @ x


# --- Section 4 ------------------------------------------------------------------------------------


def test_definition_4_4_full_rank_does_not_make_qr_unique() -> None:
    matrix = np.array([[0.0, 1.0, 0.0], [0.0, 0.0, 1.0]])
    assert np.linalg.matrix_rank(matrix) == 2  # full rank, a <= b: unique, as printed
    aligned = []
    for q in (np.eye(2), np.array([[0.0, 1.0], [1.0, 0.0]])):
        r = q.T @ matrix
        np.testing.assert_array_equal(q @ r, matrix)
        np.testing.assert_array_equal(np.tril(r, -1), 0)
        assert (np.diagonal(r) >= 0).all()
        aligned.append(q @ np.diag(np.diagonal(r)))
    # Two factorisations, and two alignments: Definition 4.5 would not be one either.
    assert np.abs(aligned[0] - aligned[1]).max() == 1
    # With independent first columns: whatever Q, the Gram matrix fixes R, as Cholesky does.
    good = np.array([[1.0, 2.0, 0.0], [3.0, 1.0, 1.0]])
    r = np.linalg.cholesky(good[:, :2].T @ good[:, :2]).T
    found = linear.align(good, mode_basis(np.array([3.0, 2.0, 1.0]))).singular_values
    np.testing.assert_allclose(found, np.diagonal(r), rtol=100 * EPS)


def test_result_4_6_projects_on_the_transpose() -> None:
    rng = np.random.default_rng(0)
    gamma = linear.cross_correlation(*well_conditioned(rng, 10, 4).reshape(2, 5, 4))
    modes = linear.modes(gamma)
    top = np.asarray(modes.eigenvectors[:, :2]).T  # the paper's Γ^(<=d), (d, m)
    weights = rng.normal(size=(2, 4))
    with pytest.raises(ValueError, match="matmul"):
        weights @ top
    r = np.linalg.qr(weights @ top.T)[1]
    aligned = linear.align(weights, modes)
    np.testing.assert_allclose(aligned.singular_values, np.abs(np.diagonal(r)), rtol=100 * EPS)


def test_equation_41_transposes_inside_the_alignment() -> None:
    # d = m, where the printed product exists.
    rng = np.random.default_rng(1)
    gamma = linear.cross_correlation(*well_conditioned(rng, 12, 3).reshape(2, 6, 3))
    modes = linear.modes(gamma)
    weights, top = rng.normal(size=(3, 3)), np.asarray(modes.eigenvectors).T

    def transformation(matrix: np.ndarray) -> np.ndarray:
        q, r = np.linalg.qr(matrix)
        return q @ np.diag(np.diagonal(r))  # signs cancel between Q and R

    rotation, values = linear.align(weights, modes)
    right = np.asarray(rotation) * np.asarray(values)  # Q times a diagonal: columns scaled
    np.testing.assert_allclose(transformation(weights @ top.T), right, atol=100 * EPS)
    printed = transformation(weights @ top).T
    assert np.linalg.norm(printed - right) > 0.3 * np.linalg.norm(right)


def test_equation_19_projects_on_gram_schmidt_vectors() -> None:
    gammas = np.array([1.0, 0.4, 0.15, -0.2])
    weights = 1e-7 * np.array([[1.0, 0.8, 0.6, 0.3], [0.5, -0.3, 1.0, -0.8], [0.2, 0.9, 0.7, 0.5]])
    u = weights[:, :3].T  # u_j = W v_j
    gram_schmidt = np.asarray(linear.align(weights, mode_basis(gammas)).singular_values)
    # As printed, u'u / |u|^2 is the number 1.
    scalar = [abs(1 - j) * np.linalg.norm(u[j]) for j in range(3)]
    outer = []
    for j in range(3):
        projectors = sum((np.outer(v, v) / (v @ v) for v in u[:j]), np.zeros((3, 3)))
        outer.append(np.linalg.norm((np.eye(3) - projectors) @ u[j]))
    np.testing.assert_allclose(outer[:2], gram_schmidt[:2], rtol=100 * EPS)
    assert scalar[1] == 0  # the printed form fails from j = 2,
    assert abs(scalar[2] / gram_schmidt[2] - 1) > 0.3
    assert abs(outer[2] / gram_schmidt[2] - 1) > 0.2  # the outer products of raw u_k from j = 3.

    # What the dynamics say: lambda_j is one half when Eq. 10 from s_j(0) has it so.
    def mode_at_half_rise(j: int, start: float) -> float:
        _, a = flow(gammas, weights, float(step_time(gammas[j], start)))
        return float(np.linalg.eigvalsh(a[-1] * gammas @ a[-1].T)[::-1][j])

    # Relative corrections of s_j(0) are of order alpha^0.6 = 6e-5, those of lambda half of that.
    assert mode_at_half_rise(1, gram_schmidt[1]) == pytest.approx(0.5, abs=1e-3)
    assert mode_at_half_rise(2, gram_schmidt[2]) == pytest.approx(0.5, abs=1e-3)
    assert abs(mode_at_half_rise(2, float(scalar[2])) - 0.5) > 0.1
    assert abs(mode_at_half_rise(2, float(outer[2])) - 0.5) > 0.1


# --- Result 4.6 and Appendix C --------------------------------------------------------------------


def test_appendix_c_aligns_in_the_eigenbasis() -> None:
    gammas, alpha = np.array([1.0, 0.4, -0.2]), 1e-7
    angle = 1.0
    vectors = np.eye(3)
    vectors[:2, :2] = [[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]]
    weights = alpha * np.array([[1.0, 0.9, 0.3], [0.3, 1.2, -0.5]])
    modes = linear.Modes(jnp.asarray(gammas), jnp.asarray(vectors))
    right = float(linear.align(weights, modes).singular_values[1])
    # As printed, A(W(0)): the alignment of the raw coordinates.
    printed = float(abs(np.linalg.qr(weights)[1][1, 1]))
    assert abs(printed / right - 1) > 0.1
    for start, tolerance, far in ((right, 1e-3, 0.0), (printed, 1.0, 0.05)):
        _, a = flow(gammas, weights @ vectors, float(step_time(gammas[1], start)))
        value = np.linalg.eigvalsh(a[-1] * gammas @ a[-1].T)[0]
        assert far <= abs(value - 0.5) < tolerance


RATIOS = [1.5, 2.0, 3.0, 5.0]


def pair(ratio: float, alpha: float) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Two modes until both are learned: by Eq. 48, by its completion, and in truth."""
    gammas, start = np.array([1.0, 1 / ratio, -0.1]), np.array([[1.0, 0.7, 0.0], [0.0, 1.3, 0.0]])
    end = 1.6 * float(linear.critical_time(gammas[1], 1.3 * alpha))
    times, true = flow(gammas, alpha * start, end)
    printed = np.asarray(elements(times, gammas, alpha * start))
    return printed, np.asarray(coupled_elements(times, gammas, alpha * start)), true


@pytest.mark.parametrize("ratio", RATIOS)
def test_equation_48_second_stage(ratio: float) -> None:
    alpha = 1e-8
    printed, coupled, true = pair(ratio, alpha)
    factor = np.sqrt(np.pi) * special.gamma((ratio + 1) / 2) / special.gamma(ratio / 2)
    # What first order leaves out, relative to it, is of order alpha^(1 - 1/r), its factor < 1.
    tolerance = 2 * alpha ** (1 - 1 / ratio)
    size = printed[-1, 0, 1]
    assert true[-1, 0, 1] / size == pytest.approx(factor, rel=tolerance)
    assert true[-1, 1, 0] / true[-1, 0, 1] == pytest.approx(-np.sqrt(1 / ratio), rel=tolerance)
    for place in ((slice(None), 0, 1), (slice(None), 1, 0)):
        np.testing.assert_allclose(coupled[place], true[place], atol=tolerance * size)
    # Eq. 48 has neither.
    assert factor > 1.3
    assert (printed[:, 1, 0] == 0).all()
    assert abs(true[-1, 1, 0]) > size


@pytest.mark.parametrize("ratio", RATIOS)
def test_equation_48_second_stage_in_closed_form(ratio: float) -> None:
    # The pair of equations in v = sqrt(lambda), solved numerically...
    def slope(v: float, y: np.ndarray) -> list[float]:
        return [-(y[1] + v * y[0]) / (1 - v**2), -ratio * (y[0] + v * y[1]) / (1 - v**2)]

    v = np.linspace(0, 0.99, 34)
    a, b = integrate.solve_ivp(slope, (0, 0.99), [1, 0], "DOP853", v, rtol=1e-12, atol=1e-12).y
    # ...by elementary functions and an integral...
    fading = (1 - v**2) ** ((ratio - 1) / 2)
    limit = np.sqrt(np.pi) * special.gamma((ratio + 1) / 2) / special.gamma(ratio / 2)
    g = limit * special.betainc(0.5, (ratio - 1) / 2, v**2)
    np.testing.assert_allclose(a, fading + v * g, atol=1e-10)
    np.testing.assert_allclose(b, -(v * fading + g), atol=1e-10)
    # ...and as Gauss's hypergeometric function, with its derivative.
    lower, upper = (1 - ratio) / 2, -0.5
    f = special.hyp2f1(lower, upper, 0.5, v**2)
    f_prime = 2 * lower * upper * special.hyp2f1(lower + 1, upper + 1, 1.5, v**2)
    np.testing.assert_allclose(a, f, atol=1e-10)
    np.testing.assert_allclose(b, -v * (f + 2 * (1 - v**2) * f_prime), atol=1e-10)
    assert special.hyp2f1(lower, upper, 0.5, 1.0) == pytest.approx(limit, rel=1e-12)


def test_equation_48_holds_behind_the_last_mode() -> None:
    # d = 1: nothing lies between, and there is no row to answer.
    gammas, start = np.array([1.0, 0.5, 0.3, -0.4]), 1e-8 * np.array([[1.0, 0.7, -1.1, 0.9]])
    times, true = flow(gammas, start, 1.6 * float(linear.critical_time(1.0, 1e-8)))
    printed = np.asarray(elements(times, gammas, start))
    # C_11 includes the squares of these elements, of order alpha^(2 (1 - 0.5)) = 1e-8; the
    # integrator's absolute error is 1e-11 of the initial size in a step.
    np.testing.assert_allclose(true, printed, rtol=1e-6, atol=1e-6 * 1e-8)


@pytest.mark.parametrize("last", [-1.0, -0.8, -0.3])
def test_equation_48_behind_the_last_mode_of_later_rows(last: float) -> None:
    # γ_1 = 1 and γ_2 = 1/2 are learned; k = 3 is behind, and what is tested is a_23.
    gammas = np.array([1.0, 0.5, last])
    start = np.array([[1.0, 0.7, 1.2], [0.0, 1.3, 0.8]])

    def found(alpha: float) -> tuple[float, float, float]:
        initial = alpha * start
        end = 1.6 * np.log(1 / (gammas[1] * initial[1, 1] ** 2)) / (8 * gammas[1])
        # a_23 shrinks to 1e-13 of the start.
        true = flow(gammas, initial, end, atol=1e-17)[1][-1, 1, 2]
        printed = initial * (np.sqrt(gammas[:2]) * np.diagonal(initial))[:, None] ** (
            -gammas / gammas[:2, None]
        )
        r, kappa = gammas[0] / gammas[1], -gammas[2] / gammas[1]
        betas = special.beta(0.5, (r - 1) / 2) - special.beta((1 + kappa) / 2, (r - 1) / 2)
        fed = -np.sqrt(gammas[1]) * printed[0, 1] * printed[0, 2] * (r - 1) / 2 * betas
        return true, printed[1, 2], fed

    for alpha in (1e-4, 1e-6):
        true, printed, fed = found(alpha)
        # What first order leaves out, relative to either term, is of order alpha^(1 - 1/2).
        assert abs(true - printed - fed) < 2 * alpha**0.5 * max(abs(printed), abs(fed))
        # Eq. 48 alone is off by alpha^((1 - 1/2) (1 + γ_3 / γ_2)), small or large.
        order = alpha ** ((1 - 0.5) * (1 + last / 0.5))
        assert 0.3 < abs(true / printed - 1) / order < 3
    assert (abs(true / printed - 1) < 0.1) == (-last < gammas[1])


def test_equation_48_what_first_order_leaves_out() -> None:
    def deviations(gammas: np.ndarray, alpha: float) -> tuple[float, float]:
        start = alpha * np.array([[1.0, 0.7, 1.2], [0.0, 1.3, 0.8]])
        end = 1.3 * float(linear.critical_time(gammas[1], start[1, 1]))
        times, true = flow(gammas, start, end)
        final, theory = true[-1], np.asarray(coupled_elements(times, gammas, start))[-1]
        return abs(final[0, 1] / theory[0, 1] - 1), abs(final[0, 2] / theory[0, 2] - 1)

    for gammas in (np.array([1.0, 0.5, 0.25]), np.array([1.0, 0.6, 0.15])):
        large, small = deviations(gammas, 1e-6), deviations(gammas, 1e-8)
        measured = np.log(np.divide(large, small)) / np.log(100)
        direct = 1 - gammas[1] / gammas[0]
        through = direct * (1 - gammas[2] / gammas[1])  # by way of mode 2, from C_12 a_23
        # The next order is smaller by alpha^0.2 or more: over two decades 0.01 of the exponent.
        np.testing.assert_allclose(measured, [direct, through], atol=0.02)


@pytest.mark.parametrize("eigenvalues", [(1.0, 0.7, 0.2), (1.0, 0.3, 0.18)])
def test_result_4_6_converges_at_a_rate(eigenvalues: tuple[float, ...]) -> None:
    gammas, modes = np.array(eigenvalues), mode_basis(np.array(eigenvalues))
    weights = np.array([[0.9, -0.4, 1.1], [0.6, 1.2, 0.5]])

    def distances(alpha: float, end: float | None = None) -> np.ndarray:
        start = linear.align(alpha * weights, modes).singular_values
        last = 1.5 * float(linear.critical_time(gammas[1], start[1])) if end is None else end
        times, true = flow(gammas, alpha * weights, last)
        theory = np.asarray(small_init(alpha * weights, modes, times))
        return np.linalg.norm(true - theory, axis=(1, 2))

    beta = float(linear.alignment_exponent(gammas, 2))
    measured = np.log(distances(1e-8).max() / distances(1e-10).max()) / np.log(100)
    # Other elements are smaller by alpha^0.3 or more and add in squares. Corrections to the largest
    # are of relative order alpha^0.3, 0.4% at 1e-8: less than 0.001 of the exponent.
    assert measured == pytest.approx(beta, abs=0.005)
    # At any one time both trajectories vanish, at the rate alpha: "for all t" means the supremum.
    ratio = distances(1e-8, end=1.0)[-1] / distances(1e-10, end=1.0)[-1]
    assert np.log(ratio) / np.log(100) == pytest.approx(1, abs=1e-3)


# --- Section 5 and Appendix B ---------------------------------------------------------------------


@pytest.mark.parametrize("seed", range(3))
def test_section_5_1_root_of_a_degenerate_kernel(seed: int) -> None:
    n, m = 6, 4  # 2n > m: the kernel matrix is singular
    x, x_prime = well_conditioned(np.random.default_rng(seed), 2 * n, m).reshape(2, n, m)
    kernel, z, gamma = kernel_matrices(x, x_prime)
    inverse = np.linalg.pinv(kernel, rcond=1e-10, hermitian=True)
    values, vectors = np.linalg.eigh(inverse)
    kept = values > 1e-10

    def power(exponent: float) -> np.ndarray:
        """Of the pseudo-inverse, on its range: elsewhere a negative one does not exist."""
        return (vectors[:, kept] * values[kept] ** exponent) @ vectors[:, kept].T

    def nonzero(root: np.ndarray) -> np.ndarray:
        found = np.linalg.eigvalsh(root @ z @ root)
        return np.sort(found[np.argsort(np.abs(found))[-m:]])

    assert kept.sum() == m
    expected = np.linalg.eigvalsh(gamma)
    np.testing.assert_allclose(nonzero(power(0.5)), expected, atol=1e3 * EPS)
    # As printed it is K~^(1/2).
    np.testing.assert_allclose(power(-0.5) @ power(-0.5), kernel, atol=1e3 * EPS)
    assert np.abs(nonzero(power(-0.5)) - expected).max() > 0.3 * np.abs(expected).max()


@pytest.mark.parametrize("seed", range(3))
def test_section_5_2_identical_views_divide_by_the_number_of_samples(seed: int) -> None:
    n = 6
    x = well_conditioned(np.random.default_rng(seed), n, 9)
    kernel, z, gamma = kernel_matrices(x, x)
    root = inverse_root(kernel)
    k_gamma = root @ z @ root
    # Conditioning: eigenvalues of K~ lie in [2, 8] or are zero.
    np.testing.assert_allclose(k_gamma, kernel / (2 * n), atol=1e3 * EPS)
    assert np.linalg.norm(k_gamma - kernel) > 10 * np.linalg.norm(k_gamma)
    expected = np.linalg.eigvalsh(x @ x.T) / n
    np.testing.assert_allclose(np.linalg.eigvalsh(k_gamma)[n:], expected, rtol=1e3 * EPS)
    np.testing.assert_allclose(np.linalg.eigvalsh(gamma)[-n:], expected, rtol=1e3 * EPS)


@pytest.mark.parametrize("seed", range(3))
def test_equation_37_lower_left_block(seed: int) -> None:
    n = 5
    x, x_prime = np.random.default_rng(seed).normal(size=(2, n, 7))
    kernel, z, _ = kernel_matrices(x, x_prime)
    block, size = z[n:, :n], np.linalg.norm(z[n:, :n])
    second = x_prime @ x.T @ x_prime @ x.T
    right = (x_prime @ x_prime.T @ x @ x.T + second) / (2 * n)
    printed = (x_prime @ x.T @ x @ x.T + second) / (2 * n)
    assert np.linalg.norm(block - right) < 100 * EPS * np.linalg.norm(kernel) ** 2
    assert np.linalg.norm(block - printed) > 0.3 * size
    # Eq. 23 has it right, and all four blocks are one product with the halves swapped.
    swapped = np.roll(kernel, n, axis=0)
    np.testing.assert_allclose(z, kernel @ swapped / (2 * n), atol=1e4 * EPS * size)


def test_appendix_b_1_gradient_of_the_penalised_loss() -> None:
    rng, epsilon = np.random.default_rng(0), 0.3
    gammas = np.array([3.0, 2.0, 1.0, -1.0])
    gamma = np.diag(gammas)

    def penalised(weights: jax.Array) -> jax.Array:
        return linear.loss(weights, gamma) + epsilon * jnp.sum(weights**2)

    gradient = jax.grad(penalised)
    w = rng.normal(size=(2, 4))
    descent = (np.eye(2) - w @ gamma @ w.T) @ w @ gamma
    found = np.asarray(gradient(jnp.asarray(w)))
    right = -4 * (descent - epsilon / 2 * w)
    np.testing.assert_allclose(found, right, atol=100 * EPS * np.linalg.norm(right))
    # Eq. 28 is not the gradient to any factor: the two are not parallel.
    printed = descent - epsilon * w
    cosine = np.sum(printed * found) / np.linalg.norm(printed) / np.linalg.norm(found)
    assert 1 - abs(cosine) > 1e-4

    # Its stationary points, Eq. 31, need epsilon / 2.
    def stationary(eps: float) -> jax.Array:
        return jnp.asarray(np.eye(2, 4) * (np.sqrt(gammas[:2] - eps) / gammas[:2])[:, None])

    assert np.abs(gradient(stationary(epsilon / 2))).max() < 100 * EPS
    assert np.abs(gradient(stationary(epsilon))).max() > 0.3
    # Without epsilon (Eq. 27) the minimum keeps the loss of a penalty of 1, whatever epsilon is.
    kept = float(linear.loss(stationary(0.5), gamma))
    assert kept == pytest.approx(np.sum((0.5 / gammas[:2]) ** 2))


def test_appendix_b_1_takes_distinct_modes_out_of_all() -> None:
    gammas = np.array([3.0, 2.0, 1.0, -1.0])
    gamma, modes = np.diag(gammas), mode_basis(gammas)
    # Mode 3, outside of {1...d}, gives a solution too, of larger norm.
    other = np.zeros((2, 4))
    other[0, 0], other[1, 2] = 3**-0.5, 1.0
    top = np.asarray(linear.top_spectral(modes, 2))
    for weights in (other, top):
        assert float(linear.loss(weights, gamma)) < 100 * EPS
        assert np.abs(jax.grad(linear.loss)(jnp.asarray(weights), jnp.asarray(gamma))).max() < 1e-13
    assert np.sum(other**2) == pytest.approx(1 / 3 + 1)
    assert np.sum(top**2) == pytest.approx(1 / 3 + 1 / 2)
    # The same mode twice would have a smaller norm than either, but is no solution: its loss is 2.
    twice = np.zeros((2, 4))
    twice[:, 0] = 3**-0.5
    assert np.sum(twice**2) < np.sum(top**2)
    assert float(linear.loss(twice, gamma)) == pytest.approx(2)


@pytest.mark.parametrize("seed", range(3))
def test_appendix_b_2_vectors_lie_in_the_range(seed: int) -> None:
    n, m = 6, 4  # 2n > m: the kernel matrix is singular
    x, x_prime = well_conditioned(np.random.default_rng(seed), 2 * n, m).reshape(2, n, m)
    kernel, z, gamma = kernel_matrices(x, x_prime)
    values, vectors = np.linalg.eigh(kernel)
    null, span = vectors[:, : 2 * n - m], vectors[:, 2 * n - m :]
    assert np.abs(values[: 2 * n - m]).max() < 1e3 * EPS < 0.5 < values[2 * n - m]
    gammas, g = np.linalg.eigh(gamma)
    root = inverse_root(kernel)
    b = root @ np.concatenate([x, x_prime]) @ g
    np.testing.assert_allclose(np.linalg.norm(span.T @ b, axis=0), 1, rtol=1e3 * EPS)
    assert np.abs(null.T @ b).max() < 1e3 * EPS  # the cokernel holds nothing of them
    np.testing.assert_allclose(root @ z @ root @ b, b * gammas, atol=1e3 * EPS)


# --- Appendices E, F and G ------------------------------------------------------------------------


def test_appendix_e_alignment_is_at_most_one() -> None:
    rng = np.random.default_rng(0)
    for dim in (2, 5, 20):
        p = random_subspace(rng, dim, 40)
        rotated = np.linalg.qr(rng.normal(size=(dim, dim)))[0] @ p  # the same subspace
        assert subspace_alignment(p, rotated) == pytest.approx(1, abs=100 * EPS)
        assert subspace_alignment(p, random_subspace(rng, dim, 40)) < 1 < dim


@pytest.mark.parametrize(("n", "dim", "draws"), [(1000, 50, 10), (40, 10, 400)])
def test_appendix_e_chance_is_dim_over_samples(n: int, dim: int, draws: int) -> None:
    rng = np.random.default_rng(0)

    def agrees(values: list[float], expected: float) -> bool:
        return abs(np.mean(values) - expected) < 4 * np.std(values, ddof=1) / np.sqrt(draws)

    # By rotation invariance one of the two may be held fixed.
    fixed = np.eye(dim, 2 * n)
    chance = [subspace_alignment(fixed, random_subspace(rng, dim, 2 * n)) for _ in range(draws)]
    assert agrees(chance, dim / (2 * n))
    # As printed, d^2 / 2n, it is 1.25 for both of these, more than the maximum.
    assert dim**2 / (2 * n) == 1.25
    assert max(chance) < 0.5
    # f(x_i) = f(x'_i): rows (v, v) / sqrt 2.
    halves = [random_subspace(rng, dim, n) / np.sqrt(2) for _ in range(draws)]
    fixed = np.tile(np.eye(dim, n) / np.sqrt(2), 2)
    invariant = [subspace_alignment(fixed, np.tile(half, 2)) for half in halves]
    assert agrees(invariant, dim / n)


@pytest.mark.parametrize("gamma", [0.5, 3.0])
def test_equation_51_descends_at_the_rate_of_the_eigenvalue(gamma: float) -> None:
    def rescaled(t: jax.Array) -> jax.Array:
        return jnp.sqrt(gamma) * linear.singular_value(t, gamma, 0.01)

    s, rate = jax.jit(jax.value_and_grad(rescaled))(1.0 / gamma)
    slope = float(jax.grad(lambda s: dynamics.plain().value(s**2))(s))
    assert 0.2 < float(s) < 0.9  # on the way, where neither vanishes
    assert float(rate) == pytest.approx(-gamma * slope, rel=1e-12)
    assert float(rate) * slope < 0  # the printed plus sign would climb
    assert abs(float(rate) / -slope - 1) > 0.4  # and its sign alone would not do


@pytest.mark.parametrize("gamma", [0.5, 3.0])
def test_appendix_f_settles_in_an_eighth(gamma: float) -> None:
    times = np.array([2.0, 3.0]) / gamma
    rest = 1 - np.asarray(singular_value(gamma * times, 1.0, 0.1))
    assert 1e-10 < rest[1] < rest[0] < 1e-4
    time_constant = (times[1] - times[0]) / np.log(rest[0] / rest[1])
    # The next order of the approach, 3/2 rest, and rounding, eps / rest, are below 1e-4.
    assert time_constant == pytest.approx(1 / (8 * gamma), rel=1e-4)
    assert float(dynamics.settling_time(gamma)) == 1 / (8 * gamma)
    assert (1 / (4 * gamma)) / time_constant > 1.9


def test_footnote_23_has_a_plus_sign() -> None:
    gamma, start, radius = 2.0, 1e-7, 1e-2
    escape = float(dynamics.critical_time(gamma, start / gamma**0.5, level=radius**2))
    reached = float(singular_value(gamma * escape, 1.0, start))  # in the rescaled coordinate
    # The cubic term bends the growth by s^2 / 2.
    assert reached == pytest.approx(radius, rel=radius**2)
    assert escape == pytest.approx(np.log(radius / start) / (4 * gamma), rel=1e-12)
    printed = -np.log(radius / start) / (4 * gamma)
    assert printed < 0 < escape


def test_appendix_g_unsquared_norm_couples_the_modes() -> None:
    # Singular values of an aligned model, in the rescaled coordinate: C = diag(s^2).
    def sharpened(s: jax.Array, power: float) -> jax.Array:
        return jnp.sum((jnp.abs(s) - 1) ** 2) ** power

    def smoothed(s: jax.Array, power: float) -> jax.Array:
        return jnp.sum((jnp.minimum(s**2, 1) - 1) ** 2) ** power

    # The force on the first mode, while the second moves:
    here, there = jnp.array([0.7, 0.2, 0.4]), jnp.array([0.7, 0.6, 0.4])
    for loss in (sharpened, smoothed):
        force = jax.jit(jax.grad(loss))
        assert force(here, 1.0)[0] == force(there, 1.0)[0]
        assert abs(force(here, 0.5)[0] / force(there, 0.5)[0] - 1) > 0.1
    force = jax.jit(jax.grad(sharpened))
    # The squared loss pushes every small mode from the origin with force 2, the other with d^-1/2.
    for dim in (4, 100):
        near = jnp.full(dim, 1e-9)
        np.testing.assert_allclose(force(near, 1.0), -2, rtol=1e-8)
        np.testing.assert_allclose(force(near, 0.5), -(dim**-0.5), rtol=1e-8)
    # Near the minimum its force does not vanish, so that a finite step never settles.
    end = 1 - 1e-9 * jnp.arange(1.0, 4.0)
    assert np.linalg.norm(force(end, 1.0)) < 1e-8
    assert np.linalg.norm(force(end, 0.5)) == pytest.approx(1, rel=1e-6)


# --- Remarks --------------------------------------------------------------------------------------


def test_equation_18_sets_in_after_a_quarter_of_the_printed_time() -> None:
    gammas, dim = np.array([1.0, 0.6, 0.4]), 2
    printed = 1 / (gammas[dim - 1] - gammas[dim])
    # So small that Eq. 17 is exact to rounding: nothing saturates.
    times, a = flow(gammas, np.full((2, 3), 1e-30), printed)
    behind = np.linalg.norm(a[:, :, dim], axis=1) / np.linalg.norm(a[:, :, dim - 1], axis=1)
    assert times[25] == printed / 4
    # 1e-8: the integrator's local error, 1e-11, over some hundred steps.
    np.testing.assert_allclose(behind[25], np.exp(-1), rtol=1e-8)
    np.testing.assert_allclose(behind[100], np.exp(-4), rtol=1e-8)


@pytest.mark.parametrize("seed", range(3))
def test_equation_21_is_a_root_mean_square(seed: int) -> None:
    alpha, dim, features, draws = 0.01, 10, 15, 4000
    rng = np.random.default_rng(seed)
    basis = np.linalg.qr(rng.normal(size=(features, features)))[0]
    modes = linear.Modes(jnp.arange(features, 0.0, -1.0), jnp.asarray(basis))
    weights = jnp.asarray(alpha * rng.normal(size=(draws, dim, features)))
    values = np.asarray(jax.jit(jax.vmap(linear.align, (0, None)))(weights, modes).singular_values)
    predicted = np.asarray(linear.initial_singular_values(alpha, dim))
    # s_j^2 / alpha^2 is chi-squared with k = d - j + 1 degrees of freedom: mean k, variance 2k.
    degrees = np.arange(dim, 0, -1)
    standard_error = alpha**2 * np.sqrt(2 * degrees / draws)
    assert (np.abs((values**2).mean(axis=0) - predicted**2) < 4 * standard_error).all()
    # The last, a half-normal variable: mean sqrt(2/pi), standard deviation sqrt(1 - 2/pi).
    last = values[:, -1] / alpha
    mean, spread = np.sqrt(2 / np.pi), np.sqrt(1 - 2 / np.pi)
    assert abs(last.mean() - mean) < 4 * spread / np.sqrt(draws)
    # Median z with density f(z) = 0.636: standard error 1 / (2 f sqrt(n)).
    median = special.ndtri(0.75)
    density = 2 * np.exp(-(median**2) / 2) / np.sqrt(2 * np.pi)
    assert abs(np.median(last) - median) < 4 / (2 * density * np.sqrt(draws))
    # Taken for a mean or a median, the printed 1 is far off, by some 20 standard errors.
    assert 1 - last.mean() > 15 * spread / np.sqrt(draws)
    assert 1 - np.median(last) > 0.25


def test_equation_47_keeps_a_quarter_of_the_time() -> None:
    gamma, start = 0.7, 1e-3

    def printed(t: np.ndarray | float) -> np.ndarray:
        growth = np.exp(2 * gamma * t) - 1
        return np.exp(gamma * t) / np.sqrt(start**-2 + growth * gamma)

    times = np.linspace(0, 20, 101)
    right = np.asarray(singular_value(times / 4, gamma, start))
    np.testing.assert_allclose(right, printed(times), rtol=1e3 * EPS)
    # Its own equation is Eq. 45, without the 4 of Eq. 12. Central difference: h^2 and eps / h.
    h, s = 1e-5, printed(9.0)
    rate = (printed(9.0 + h) - printed(9.0 - h)) / (2 * h)
    assert rate == pytest.approx((1 - gamma * s**2) * gamma * s, rel=1e-8)
    # Read in Section 4's time it would be late by a factor of four.
    assert printed(times[20]) < 0.1 * right[80]


@pytest.mark.parametrize("gamma", [1.0, 4.0])
def test_appendix_g_3_limit_of_the_learning_rate(gamma: float) -> None:
    def settles(learning_rate: float) -> bool:
        s = 0.9 / np.sqrt(gamma)
        for _ in range(2000):
            s += 4 * learning_rate * (1 - gamma * s**2) * gamma * s
            if abs(s) > 100:
                return False
        return abs(gamma * s**2 - 1) < 1e-6

    limit = float(dynamics.max_learning_rate(jnp.array([gamma, 1e-6 * gamma])))
    assert limit == 1 / (4 * gamma)
    # The slope at the minimum is 1 - 8 eta gamma = -0.98 and -1.02.
    assert settles(0.99 * limit)
    assert not settles(1.01 * limit)
    # The 1/4 of the text is right for its gamma of 1 alone.
    assert settles(0.99 / 4) == (gamma == 1)


# --- Departures -----------------------------------------------------------------------------------


def dense_descent(
    weights: np.ndarray, gamma: np.ndarray, learning_rate: float, num_steps: int
) -> np.ndarray:
    """Gradient descent in the original coordinates, in the precision of the weights."""
    identity = np.eye(len(weights), dtype=weights.dtype)
    with np.errstate(over="ignore", invalid="ignore"):
        for _ in range(num_steps):
            weights = weights - 4 * learning_rate * (
                (weights @ gamma @ weights.T - identity) @ weights @ gamma
            )
    return weights


def test_departure_rounding_errors_count_as_zero() -> None:
    # Rank one: the second eigenvalue is a rounding error, which Definition 4.2 would divide by.
    x = np.outer(np.linspace(1, 2, 7), np.array([0.1, 0.7, -0.3, 0.9]))
    gamma = linear.cross_correlation(x, x)
    modes = linear.modes(gamma)._replace(eigenvalues=jnp.array([3.0, 1e-16, 0.0, 0.0]))
    with pytest.warns(UserWarning, match="only 1 of the top 2"):
        weights = np.asarray(linear.top_spectral(modes, 2))
    np.testing.assert_array_equal(weights[1], 0)
    literal = np.asarray(modes.eigenvectors[:, 1]) * 1e-16**-0.5
    assert np.linalg.norm(literal) > 1e7


def test_departure_eigenbasis_is_sounder_in_single_precision() -> None:
    rng = np.random.default_rng(0)
    vectors = np.linalg.qr(rng.normal(size=(6, 6)))[0]
    gamma = (vectors * np.array([8.0, 1.0, 0.5, 0.2, 0.1, -0.3])) @ vectors.T
    gamma = ((gamma + gamma.T) / 2).astype(np.float32)
    weights = (1e-11 * rng.normal(size=(2, 6))).astype(np.float32)
    start = linear.align(weights, linear.modes(gamma)).singular_values[1]
    time = step_time(1.0, start, learning_rate=0.005)
    steps = round(float(time) / 0.005)
    run = simulate.gradient_descent(weights, gamma, 0.005, steps, record_every=steps)
    dense = dense_descent(weights, gamma, 0.005, steps)
    second = np.linalg.eigvalsh(dense @ gamma @ dense.T)[0]
    # Single precision leaves relative errors of 1e-5 or so in 1e3 steps' growth factors.
    assert float(run.eigenvalues[-1, 1]) == pytest.approx(0.5, abs=0.01)
    assert abs(second - 0.5) > 0.1  # where the first mode's rounding has replaced the second


def test_departure_equation_10_without_growing_exponentials() -> None:
    gamma, start = np.float32(3.0), np.float32(1e-6)
    times = np.array([1.0, 3.0, 5.0, 1e6], np.float32)
    with np.errstate(over="ignore", invalid="ignore"):
        growth = np.exp(4 * gamma * times)
        printed = growth / np.sqrt(start**-2 + (np.exp(8 * gamma * times) - 1) * gamma)
    right = np.asarray(singular_value(times, gamma, start))
    assert right.dtype == printed.dtype == np.float32
    # The relative error of e^x is eps x, with x up to 72 where the printed form is finite.
    np.testing.assert_allclose(right[:2], printed[:2], rtol=100 * np.finfo(np.float32).eps)
    np.testing.assert_allclose(right[2:], 3**-0.5, rtol=1e-6)
    assert np.isnan(printed[3])
    assert printed[2] == 0  # finite over infinite


def test_departure_limit_of_the_learning_rate() -> None:
    gammas, learning_rate, dim = np.array([1.0, 0.6, 0.3, -0.2]), 0.2, 2

    def step(weights: jax.Array) -> jax.Array:
        return weights - learning_rate * jax.grad(linear.loss)(weights, jnp.diag(gammas))

    def slopes(weights: jax.Array) -> np.ndarray:
        jacobian = jax.jacobian(step)(weights).reshape(weights.size, weights.size)
        return np.sort(np.linalg.eigvalsh(np.asarray(jacobian)))

    # At the top spectral solution: pairs j <= k of learned modes, and directions that stay.
    top = linear.top_spectral(mode_basis(gammas), dim)
    pairs = [1 - 4 * learning_rate * (gammas[j] + gammas[k]) for j, k in ((0, 0), (0, 1), (1, 1))]
    np.testing.assert_allclose(slopes(top), np.sort(pairs + [1.0] * 5), atol=100 * EPS)
    # At zero: every direction by itself.
    expected = np.sort(np.repeat(1 + 4 * learning_rate * gammas, dim))
    np.testing.assert_allclose(slopes(jnp.zeros((dim, 4))), expected, atol=100 * EPS)
    assert float(dynamics.max_learning_rate(gammas)) == 0.25
    assert float(dynamics.max_learning_rate(gammas * np.array([1, 1, 1, 20]))) == 1 / 8
    # Above the second bound, here 1/6, descent still ends well if all d modes are learned in time,
    # and diverges if there are fewer than d to learn.
    few = np.diag([1.0, -3.0])
    start = np.array([[1e-3, 2e-3], [2e-3, -1e-3]])
    assert float(linear.loss(dense_descent(start[:1], few, 0.18, 1000), few)) < 1e-20
    assert not np.isfinite(dense_descent(start, few, 0.18, 1000)).any()


def test_departure_beyond_the_limit_descent_settles_elsewhere() -> None:
    gammas, learning_rate = np.array([1.0, 0.5]), 0.3
    assert learning_rate > float(dynamics.max_learning_rate(gammas))
    w = dense_descent(np.array([[1e-3, 2e-3]]), np.diag(gammas), learning_rate, 5000)
    assert float(linear.loss(w, np.diag(gammas))) < 1e-20  # learned, but not the top mode:
    assert abs(w[0, 1]) > 0.5
    # the largest slope there, 1 - 8 eta |W Γ² Wᵀ|, lies within the unit circle.
    assert 4 * learning_rate * float((w * gammas**2 @ w.T)[0, 0]) < 1


def test_departure_derivatives_at_ties() -> None:
    tied, direction = np.diag([2.0, 2.0, 1.0]), np.zeros((3, 3))
    direction[0, 1] = direction[1, 0] = direction[0, 2] = direction[2, 0] = 1.0

    def projector(gamma: jax.Array) -> jax.Array:
        leading = linear.modes(gamma, num=2).eigenvectors
        return leading @ leading.T

    def inverse(gamma: jax.Array) -> jax.Array:
        modes = linear.modes(gamma)
        return modes.eigenvectors @ jnp.diag(1 / modes.eigenvalues) @ modes.eigenvectors.T

    def derivative(function) -> np.ndarray:
        return np.asarray(jax.jvp(function, (jnp.asarray(tied),), (jnp.asarray(direction),))[1])

    # The projector on both tied modes: first-order perturbation, 1 / (2 - 1) towards the third.
    expected = np.zeros((3, 3))
    expected[0, 2] = expected[2, 0] = 1
    np.testing.assert_allclose(derivative(projector), expected, atol=100 * EPS)
    # Not so where eigenvalues and eigenvectors of tied modes go together: one element is lost.
    missing = -np.linalg.inv(tied) @ direction @ np.linalg.inv(tied) - derivative(inverse)
    np.testing.assert_allclose(missing[0, 1], -0.25, atol=100 * EPS)
    missing[0, 1] = missing[1, 0] = 0
    np.testing.assert_allclose(missing, 0, atol=100 * EPS)


def test_departure_kernel_modes_without_an_inverse_root() -> None:
    rng = np.random.default_rng(0)
    x = rng.normal(size=(60, 4))
    views = [x, x + 0.3 * rng.normal(size=(60, 4))]
    samples = np.concatenate(views) @ np.diag([30.0, 1.0, 0.3, 0.1])
    distances = ((samples[:, None] - samples[None]) ** 2).sum(-1)
    kernel = 1 + np.exp(-distances / 50)  # one large eigenvalue, as kernels of images have
    xx, xy, yy = kernel[:60, :60], kernel[:60, 60:], kernel[60:, 60:]
    z = np.block([[xy @ xx, xy @ xy], [yy @ xx, yy @ xy]]) / 120
    swap = np.roll(np.eye(120), 60, axis=0)
    np.testing.assert_allclose(z + z.T, kernel @ swap @ kernel / 120, rtol=1e-12)
    reference = np.asarray(kernel_pca.contrastive_modes(kernel, 20).eigenvalues)

    def error(dtype: type) -> float:
        values, vectors = np.linalg.eigh(kernel.astype(dtype))
        root = vectors * np.where(values > 0, np.abs(values) ** -0.5, 0) @ vectors.T
        gammas = np.linalg.eigvalsh(root @ (z + z.T).astype(dtype) @ root)[::-1][:20]
        return float(np.abs(gammas / reference - 1).max())

    single = kernel_pca.contrastive_modes(kernel.astype(np.float32), 20).eigenvalues
    assert float(np.abs(np.asarray(single) / reference - 1).max()) < 1e-4
    assert error(np.float64) < 1e-4
    assert error(np.float32) > 1


# --- The page -------------------------------------------------------------------------------------


def test_errata_page_names_every_test() -> None:
    page = (ROOT / "docs" / "errata.md").read_text(encoding="utf-8")
    here = Path(__file__).read_text(encoding="utf-8")
    defined = set(re.findall(r"^def (test_\w+)", here, re.MULTILINE))
    assert set(re.findall(r"`(test_\w+)`", page)) == defined - {"test_errata_page_names_every_test"}
