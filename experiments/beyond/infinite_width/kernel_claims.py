"""The statements of Section 5 that the infinite-width run tests: measurements and claims."""

import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import ArrayLike

from sslstep import claims, dynamics, gram, kernel_pca, linear, losses, simulate
from sslstep.experiment import Arrays
from sslstep.measure import spectrum

#: Pairs on which the printed formulas are tested, and on which they are in float32.
FEW, MANY = 40, 500

#: Embedding dimensions, of the kernel's claims and of the linear model's.
DIM, LINEAR_DIM = 5, 3

EPS = float(np.finfo(np.float64).eps)

#: C is rounded in sums, of a size that rounding multiplies by 1e3 at most.
ROUNDING = (DIM * 1e3 * EPS) ** 2


def measure(key: jax.Array, kernel_fn: gram.KernelFn, x, x_prime, x_test) -> Arrays:
    """Everything that `check` looks at besides the run itself; in float64."""
    few, few_prime, test = x[:FEW], x_prime[:FEW], x_test[:FEW]
    flat = [a.reshape(len(a), -1) for a in (few, few_prime, test)]
    kernel = gram.pairs(kernel_fn, few, few_prime)
    k_test = gram.to_pairs(kernel_fn, test, few, few_prime)
    keys = jax.random.split(key)
    arrays = _same_eigenvalues(*flat[:2])
    arrays |= _same_embeddings(kernel, k_test)
    arrays |= _least_norm(keys[0], kernel)
    arrays |= _trained_linear_model(keys[1], *flat)
    arrays |= _special_cases(kernel_fn, few, few_prime)
    # Pixels that are not centred, two deviations above zero, as the paper's are.
    return arrays | _in_float32(gram.pairs(kernel_fn, x[:MANY] + 2, x_prime[:MANY] + 2))


def printed(kernel: ArrayLike) -> tuple[np.ndarray, np.ndarray, float]:
    """K_Γ by Eqs. 22 and 23 as they stand, the inverse root in it, and the condition number."""
    kernel = np.asarray(kernel)
    n = len(kernel) // 2
    a, b, c = kernel[:n, :n], kernel[:n, n:], kernel[n:, n:]
    half = np.block([[b @ a, b @ b], [c @ a, c @ b]]) / (2 * n)
    values, vectors = np.linalg.eigh(kernel)
    kept = values > len(kernel) * np.finfo(kernel.dtype).eps * values[-1]
    inverse_root = vectors[:, kept] * values[kept] ** -0.5 @ vectors[:, kept].T
    condition = float(values[-1] / values[kept][0])
    return inverse_root @ (half + half.T) @ inverse_root, inverse_root, condition


def rootwise(kernel: ArrayLike) -> tuple[np.ndarray, np.ndarray]:
    """The same without an inverse, K̃^{1/2} P K̃^{1/2} / 2n, and the root."""
    values, vectors = np.linalg.eigh(np.asarray(kernel))
    root = vectors * np.sqrt(np.maximum(values, 0)) @ vectors.T
    return root @ np.roll(root, len(root) // 2, axis=0) / len(root), root


def _same_eigenvalues(x, x_prime) -> Arrays:
    """Proposition 5.1 (a): Γ's spectrum against that of K_Γ, printed and ours, linear kernel."""
    both = jnp.concatenate([x, x_prime])
    kernel = both @ both.T
    gammas = np.linalg.eigvalsh(linear.cross_correlation(x, x_prime))[::-1]
    matrix, _, condition = printed(kernel)
    theirs = np.linalg.eigvalsh(matrix)[::-1]
    ours = kernel_pca.contrastive_modes(kernel, len(x), solver="dense").eigenvalues
    krylov = kernel_pca.contrastive_modes(kernel, DIM, solver="krylov").eigenvalues
    # Zeros of the one that has more of them.
    size = max(len(gammas), len(theirs))
    padded = [np.sort(np.r_[a, np.zeros(size - len(a))])[::-1] for a in (gammas, theirs)]
    return {
        "a_printed": np.abs(padded[1] - padded[0]).max() / gammas[0],
        "a_condition": condition,
        "a_ours": np.abs(ours - padded[0][: len(x)]).max() / gammas[0],
        "a_krylov": np.abs(krylov / gammas[:DIM] - 1).max(),
    }


def _same_embeddings(kernel, k_test) -> Arrays:
    """Proposition 5.1 (b): Eq. 24 as printed against `embed`, up to U."""
    matrix, inverse_root, condition = printed(kernel)
    gammas, b = (a[..., ::-1] for a in np.linalg.eigh(matrix))
    theirs = (np.asarray(k_test) @ inverse_root @ b[:, :DIM]) * gammas[:DIM] ** -0.5
    modes = kernel_pca.contrastive_modes(kernel, DIM, solver="dense")
    ours = kernel_pca.learned_kernel(modes, k_test)
    krylov = kernel_pca.contrastive_modes(kernel, DIM, solver="krylov")
    z, z_prime = jnp.split(kernel_pca.embed_training(krylov), 2)
    return {
        "b_distance": np.linalg.norm(theirs @ theirs.T - ours) / np.linalg.norm(ours),
        "b_condition": condition * gammas[0] / (gammas[DIM - 1] - gammas[DIM]),
        "b_loss": losses.simplified_barlow_twins(z, z_prime),
    }


def _least_norm(key, kernel) -> Arrays:
    """Proposition 5.1 (c): the top spectral solution, changed by ε and brought back to zero loss.

    In the coordinates A of K_Γ's eigenvectors C = A Λ Aᵀ and the RKHS norm is |A|_F.
    """
    matrix, root = rootwise(kernel)
    gammas, b = (jnp.asarray(a[..., ::-1]) for a in np.linalg.eigh(matrix))
    images = jnp.asarray(root) @ b
    scales = np.r_[1e-4, 1e-3, 1e-2, np.geomspace(0.03, 30.0, 97)]
    top = jnp.eye(DIM, len(gammas)) * jnp.abs(gammas[None, :]) ** -0.5
    keys = jax.random.split(key, len(scales))
    keys = keys.at[:3].set(keys[0])  # one direction, for the order in ε
    ratios, worst = [], 0.0
    for scale, k in zip(scales, keys, strict=True):
        change = jax.random.normal(k, top.shape)
        # Mostly along modes of positive γ: others leave no solution to be brought back to.
        other = top + scale * jnp.where(gammas[None, :] > 0, change, 0.1 * change)
        values, vectors = jnp.linalg.eigh(other * gammas[None, :] @ other.T)
        if values[0] > 1e-6 * values[-1]:
            other = (vectors * values**-0.5) @ vectors.T @ other
            worst = max(
                worst, float(losses.simplified_barlow_twins(*jnp.split(images @ other.T, 2)))
            )
            ratios.append(float(jnp.linalg.norm(other) / jnp.linalg.norm(top)) - 1)
    return {"c_excess": np.asarray(ratios), "c_loss": worst}


def _trained_linear_model(key, x, x_prime, x_test) -> Arrays:
    """Eqs. 40 and 42 with a linear kernel against gradient descent on the weights."""
    gamma_modes = linear.modes(linear.cross_correlation(x, x_prime))
    beta = float(linear.alignment_exponent(gamma_modes.eigenvalues, LINEAR_DIM))
    init_scale = 10.0 ** -min(3 / beta, 100.0)
    eta = 0.1 * dynamics.max_learning_rate(gamma_modes.eigenvalues)
    weights = linear.init_weights(key, LINEAR_DIM, x.shape[1], init_scale)
    both = jnp.concatenate([x, x_prime])
    modes = kernel_pca.contrastive_modes(both @ both.T, LINEAR_DIM, solver="dense")
    rotation, start = kernel_pca.align(both @ weights.T, modes)
    times = dynamics.step_time(modes.eigenvalues, start, learning_rate=eta)
    num_steps = int((times.max() + 2 / modes.eigenvalues[-1]) / eta)
    at = np.unique(np.linspace(1, num_steps, 1000).astype(int))
    run = simulate.gradient_descent(
        weights, gamma_modes, eta, num_steps, record_at=at, keep_weights=True
    )
    t = run.times[:, None]
    curves = linear.mode_eigenvalue(t, modes.eigenvalues, start, learning_rate=eta)
    measured = spectrum.step_times(run.times, run.eigenvalues)
    # New points at the middle between the last two steps, and at the end.
    middle = int(np.searchsorted(run.times, np.sort(times)[-2:].mean()))
    trained = jnp.einsum("tdk,mk->tdm", run.coefficients[jnp.array([middle, -1])], gamma_modes[1])
    trained = jnp.einsum("nm,tdm->tnd", x_test, trained)
    values = linear.singular_value(
        run.times[jnp.array([middle, -1])][:, None], modes.eigenvalues, start, learning_rate=eta
    )
    predicted = kernel_pca.embed(modes, x_test @ both.T, values, rotation)
    norms = jnp.linalg.norm(predicted, axis=(1, 2))
    leading = float(jnp.max(start * modes.eigenvalues**0.5))  # its square is λ_j(0)
    return {
        "linear_init_scale": init_scale,
        "linear_misaligned": leading**beta,  # Result 4.6
        "linear_rate": 4 * eta * modes.eigenvalues[0],
        "linear_growth": -2 * np.log(leading),
        "linear_step_times": np.abs(np.sort(times) / measured - 1).max(),
        "linear_curves": np.abs(np.sort(curves)[:, ::-1] - run.eigenvalues).max(),
        "linear_embeddings": jnp.linalg.norm(trained - predicted, axis=(1, 2)) / norms,
    }


def _special_cases(kernel_fn, x, x_prime) -> Arrays:
    """Section 5.2: equal views, and two towers, where K_XX' = 0."""
    n = len(x)
    same = np.asarray(gram.pairs(kernel_fn, x, x))
    matrix, _ = rootwise(same)
    gammas = kernel_pca.contrastive_modes(same, DIM, solver="dense").eigenvalues
    towers = gram.TwoTowers(kernel_fn, gram.as_kernel_fn(_linear_kernel))
    kernel = np.asarray(gram.pairs(towers, x, x_prime))
    products = np.linalg.eigvals(kernel[:n, :n] @ kernel[n:, n:])
    expected = np.sqrt(np.sort(products.real)[::-1][:DIM]) / (2 * n)
    modes = kernel_pca.contrastive_modes(kernel, DIM, solver="dense")
    spectrum_ = np.linalg.eigvalsh(rootwise(kernel)[0])
    return {
        "equal_matrix": np.linalg.norm(matrix - same / (2 * n)) / np.linalg.norm(matrix),
        "equal_ratio": float(np.linalg.eigvalsh(same)[-1] / gammas[0]),
        "towers_gammas": np.abs(modes.eigenvalues / expected - 1).max(),
        "towers_symmetric": np.abs(spectrum_ + spectrum_[::-1]).max() / spectrum_[-1],
        "towers_loss": losses.simplified_barlow_twins(
            *jnp.split(kernel_pca.embed_training(modes), 2)
        ),
        "num_few": n,
    }


def _linear_kernel(x1, x2=None):
    x1, x2 = (a.reshape(len(a), -1) for a in (x1, x1 if x2 is None else x2))
    return x1 @ x2.T


def _in_float32(kernel) -> Arrays:
    """Leading eigenvalues in float32, by the printed formula and by ours, over the right ones."""
    dim = min(50, len(kernel) // 4)
    right = np.asarray(kernel_pca.contrastive_modes(kernel, dim).eigenvalues)
    single = np.asarray(kernel, np.float32)
    theirs = np.linalg.eigvalsh(printed(single)[0])[::-1][:dim]
    ours = np.asarray(kernel_pca.contrastive_modes(single, dim).eigenvalues)
    ratios = {"single_printed": theirs / right, "single_ours": ours / right}
    return {**ratios, "single_range": right[0] / right[-1]}


def check(arrays: Arrays) -> list[claims.Claim]:
    """The claims of what `measure` returned."""
    return [
        *_check_proposition(arrays),
        *_check_linear(arrays),
        *_check_cases(arrays),
        *_check_single(arrays),
    ]


def _check_proposition(arrays) -> list[claims.Claim]:
    size, excess = 2 * int(arrays["num_few"]), arrays["c_excess"]
    return [
        claims.below(
            "K_Γ as printed has the eigenvalues of Γ (linear kernel), all of them: largest "
            "difference over γ_1",
            "Prop. 5.1 (a), Eq. 23",
            measured=float(arrays["a_printed"]),
            # Its factors K̃^-1/2 amplify the rounding of Z, of order K̃^2, by the condition number.
            tolerance=float(size * EPS * arrays["a_condition"]),
        ),
        claims.below(
            "so has P K̃ / 2n, dense, all n positive ones: largest difference over γ_1",
            "Prop. 5.1 (a)",
            measured=float(arrays["a_ours"]),
            tolerance=size * 100 * EPS,
        ),
        claims.below(
            f"and the leading {DIM} of them by products with K̃ only: largest relative error",
            "Prop. 5.1 (a)",
            measured=float(arrays["a_krylov"]),
            tolerance=1e-10,  # the square of the residuals' tolerance, with a margin
        ),
        claims.below(
            "Eq. 24 as printed and `embed` give test points one kernel f(x)^T f(x'): relative "
            "distance",
            "Prop. 5.1 (b), Eq. 24",
            measured=float(arrays["b_distance"]),
            tolerance=float(size * EPS * arrays["b_condition"]),
        ),
        claims.below(
            "C = I on the training pairs: the loss of the predicted embeddings",
            "Prop. 5.1 (b), Eq. 49",
            measured=float(arrays["b_loss"]),
            tolerance=(DIM * 1e-6) ** 2,  # the residuals' tolerance in each element of C
        ),
        claims.below(
            f"{len(excess)} other embeddings constructed have zero loss too: the largest",
            "Prop. 5.1 (c), Eq. 25",
            measured=float(arrays["c_loss"]),
            tolerance=ROUNDING,
        ),
        claims.above(
            "and none of them has a smaller RKHS norm: least excess, relative",
            "Prop. 5.1 (c), Eq. 25",
            expected=0.0,
            measured=float(excess.min()),
            tolerance=100 * EPS,
        ),
        claims.close(
            "at a distance ε from the top spectral solution the excess is of order ε^2: exponent",
            "Prop. 5.1 (c), Eq. 25",
            expected=2.0,
            measured=float(np.log10(excess[1] / excess[0])),
            tolerance=0.03,  # the third order, of relative size 10 ε at ε = 1e-3, with a margin
        ),
    ]


def _check_linear(arrays) -> list[claims.Claim]:
    rate, misaligned = float(arrays["linear_rate"]), 10 * float(arrays["linear_misaligned"])
    middle, end = map(float, arrays["linear_embeddings"])
    what = f"of a linear model trained from α = {float(arrays['linear_init_scale']):.0e}"
    return [
        claims.below(
            f"step times {what}, by its kernel alone: largest relative error",
            "Eqs. 40 and 42",
            measured=float(arrays["linear_step_times"]),
            # A step's shape is off by about the growth in one step of descent, out of all of it.
            tolerance=4 * rate / float(arrays["linear_growth"]),
        ),
        claims.below(
            f"eigenvalue curves {what}: largest error",
            "Eqs. 40 and 42",
            measured=float(arrays["linear_curves"]),
            tolerance=rate,
        ),
        claims.below(
            f"embeddings of new points, with U, {what}, before its last step: relative distance",
            "Eqs. 40 and 42",
            measured=middle,
            tolerance=misaligned + rate,
        ),
        claims.below(
            "and at the end: of the order of Result 4.6's α^β",
            "Eqs. 40 and 42",
            measured=end,
            tolerance=misaligned,
        ),
    ]


def _check_cases(arrays) -> list[claims.Claim]:
    size = 2 * int(arrays["num_few"])
    return [
        claims.below(
            "X = X': K_Γ = K̃ / 2n: relative distance of the matrices",
            "Section 5.2, corrected",
            measured=float(arrays["equal_matrix"]),
            tolerance=size * 100 * EPS,
        ),
        claims.close(
            "where the paper prints K_Γ = K̃: ratio of their largest eigenvalues, 2n",
            "Section 5.2, erratum",
            expected=size,
            measured=float(arrays["equal_ratio"]),
            tolerance=size**2 * 100 * EPS,
        ),
        claims.below(
            "K_XX' = 0: γ_j are the singular values of K_XX^1/2 K_X'X'^1/2 / 2n: relative error",
            "Section 5.2, two towers",
            measured=float(arrays["towers_gammas"]),
            tolerance=1e-10,
        ),
        claims.below(
            "K_XX' = 0: every -γ is an eigenvalue too: largest difference over γ_1",
            "Section 5.2, two towers",
            measured=float(arrays["towers_symmetric"]),
            tolerance=size * 100 * EPS,
        ),
        claims.below(
            "K_XX' = 0: the solution is not vacuous: loss of the predicted embeddings",
            "Section 5.2, two towers",
            measured=float(arrays["towers_loss"]),
            tolerance=ROUNDING,
        ),
    ]


def _check_single(arrays) -> list[claims.Claim]:
    theirs, ours = (np.abs(arrays[name] - 1) for name in ("single_printed", "single_ours"))
    return [
        claims.below(
            f"float32, the {len(ours)} leading γ_j by products with K̃: largest relative error",
            "beyond the paper",
            measured=float(ours.max()),
            # Rounding the kernel, in units of its largest eigenvalue; and the residuals' tolerance
            # squared.
            tolerance=float(np.finfo(np.float32).eps * arrays["single_range"] + 1e-6),
        ),
        claims.above(
            "float32, K_Γ as printed: its largest relative error, over ours",
            "beyond the paper",
            expected=100.0,
            measured=float(theirs.max() / ours.max()),
        ),
    ]
