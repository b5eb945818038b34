r"""Predictions for infinitely wide networks: gradient descent of their kernel, and closed forms.

Experiments that compare finite networks with the infinite-width limit share this module. It also
holds their distances, resting losses and claims on exponents of the width.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from sslstep import claims, dynamics, kernel_pca, linear, losses, simulate
from sslstep.measure import power_law, spectrum

#: Names of the four distances that `distances` returns, in order.
MEASURES = ("embeddings of training pairs", "embeddings of held-out pairs", "curves", "step times")
NUM_RECORDS = 200
#: Tolerance of an exponent of the width: half the distance between theory's -1/2, -3/4 and -1.
EXPONENT_MARGIN = 0.125


class Limit(NamedTuple):
    r"""An infinitely wide network on n pairs ``[X, X']``, as a linear model on kernel features.

    Attributes:
        kernel: K̃, the kernel between all 2n training samples, shape ``(2n, 2n)``.
        features: Φ, features of the samples with :math:`\Phi \Phi^\top = \tilde K`, shape
            ``(2n, 2n)``.
        inverse: transposed pseudo-inverse of Φ, shape ``(2n, 2n)``.
        gamma_modes: all modes of Γ, the cross-correlation of the features of X and X'.
        modes: the first d contrastive modes of the kernel.
        k_test_train: K between held-out and training samples, shape ``(n_test, 2n)``.
        learning_rate: η.
    """

    kernel: jax.Array
    features: jax.Array
    inverse: jax.Array
    gamma_modes: linear.Modes
    modes: kernel_pca.KernelModes
    k_test_train: jax.Array
    learning_rate: jax.Array


class Outcome(NamedTuple):
    """A run's results: final embeddings of training and held-out samples, curves, step times.

    `train` has the shape (2n, d), `test` (n_test, d), `curves`, the eigenvalues of C, (T, d), and
    `step_times` (d,).
    """

    train: np.ndarray
    test: np.ndarray
    curves: np.ndarray
    step_times: np.ndarray


def features_of(kernel, dtype) -> tuple[jax.Array, jax.Array, linear.Modes]:
    """Return a kernel's features, their transposed pseudo-inverse, and the modes of Γ.

    `dtype` is the precision in which the kernel was computed; it sets the cutoff of small
    eigenvalues, which identical views produce. :class:`Limit` defines the three results.
    """
    values, vectors = jnp.linalg.eigh(kernel)
    positive = values > len(values) * jnp.finfo(dtype).eps * values[-1]
    root = jnp.sqrt(jnp.where(positive, values, 1))
    features = vectors * jnp.where(positive, root, 0)
    inverse = vectors * jnp.where(positive, 1 / root, 0)
    return features, inverse, linear.modes(linear.cross_correlation(*jnp.split(features, 2)))


def limit(kernel, k_test_train, dim: int, step_size: float) -> Limit:
    """Return the limit of networks with d = ``dim`` outputs and a learning rate η.

    ``kernel`` is K̃ (2n, 2n), ``k_test_train`` is K (n_test, 2n), and ``step_size`` is 4 η γ_1 with
    the largest eigenvalue γ_1 of the contrastive modes.
    """
    modes = kernel_pca.contrastive_modes(kernel, dim, solver="dense")
    features, inverse, gamma_modes = features_of(kernel, kernel.dtype)
    learning_rate = step_size / (4 * modes.eigenvalues[0])
    return Limit(kernel, features, inverse, gamma_modes, modes, k_test_train, learning_rate)


def record_at(limit: Limit, initial) -> np.ndarray:
    """Return 201 equidistant steps to record, from 0 to about 1.6 times the last step time."""
    start, eta = kernel_pca.align(initial, limit.modes).singular_values, limit.learning_rate
    last = dynamics.step_time(limit.modes.eigenvalues, start, learning_rate=eta).max()
    every = max(1, int(np.ceil(1.6 * float(last / eta) / NUM_RECORDS)))
    return every * np.arange(NUM_RECORDS + 1)


def outcome(z, z_test, curves, times) -> Outcome:
    """Measure step times of eigenvalue curves; return them, embeddings and curves in float64.

    `times` (T,) are the effective times of `curves` (T, d).
    """
    step_times = spectrum.step_times(times, curves)
    return Outcome(*(np.asarray(a, float) for a in (z, z_test, curves, step_times)))


def kernel_descent(
    limit: Limit, initial, initial_test, times, loss_fn=losses.simplified_barlow_twins
) -> Outcome:
    """Run gradient descent of the kernel from given initial embeddings; return its outcome.

    `initial` are the embeddings of the training samples (2n, d), `initial_test` those of held-out
    samples (n_test, d), and `times` the effective times of the records.
    """
    at = np.rint(np.asarray(times / limit.learning_rate)).astype(int)
    run = descent(limit, initial, at, loss_fn)
    z = run.embeddings(limit.kernel, initial)
    curves = jax.vmap(lambda z: spectrum.correlation_eigenvalues(*jnp.split(z, 2)))(z)
    last = run._replace(coefficients=run.coefficients[-1:])
    z_test = last.embeddings(limit.k_test_train, initial_test)[0]
    return outcome(z[-1], z_test, curves, run.times)


def descent(
    limit: Limit, initial, record_at, loss_fn=losses.simplified_barlow_twins
) -> kernel_pca.KernelDescent:
    """Run gradient descent of the kernel on a loss; record some steps."""
    num_steps = int(record_at[-1])
    return kernel_pca.gradient_descent(
        limit.kernel, loss_fn, initial, limit.learning_rate, num_steps, record_at=record_at
    )


def relative_to(level: np.ndarray, found: Outcome, times) -> Outcome:
    """Divide each eigenvalue curve by its level, and compute step times of the result.

    This is for losses whose eigenvalues do not rise to 1.
    """
    return outcome(found.train, found.test, found.curves / level, times)


def closed_form_error(limit: Limit, initial) -> tuple[float, float]:
    """Return the relative error of Eqs. 40 and 42 at the end of gradient flow, in two ways.

    Both numbers are distances between embeddings of the training pairs, relative to the exact
    embeddings. The first is measured, the second computed to first order.
    """
    gammas, vectors = limit.gamma_modes
    weights = initial.T @ limit.inverse
    start = linear.align(weights, limit.gamma_modes).singular_values
    times = jnp.array([0.0, 1.6]) * dynamics.step_time(gammas[: len(start)], start).max()
    exact = simulate.gradient_flow(weights, limit.gamma_modes, times).coefficients[-1]
    closed = linear.small_init_trajectory(weights, limit.gamma_modes)(times[-1]) @ vectors
    first_order = left_out(weights, limit.gamma_modes, times[-1])
    # Map coefficients of the modes to embeddings of the training pairs.
    images = limit.features @ vectors
    norms = [float(jnp.linalg.norm(images @ a.T)) for a in (closed - exact, first_order, exact)]
    return norms[0] / norms[2], norms[1] / norms[2]


def left_out(weights, modes: linear.Modes, times) -> jax.Array:
    """Return what Result 4.6 leaves out of A(t), to first order, shape (..., d, m)."""
    rotation, start = linear.align(weights, modes)
    upper = jnp.triu(rotation.T @ weights @ modes.eigenvectors)
    upper = jnp.fill_diagonal(upper, start, inplace=False)  # equal up to rounding
    found = linear.coupled_elements(times, modes.eigenvalues, upper)
    return jnp.where(jnp.eye(upper.shape[0], upper.shape[1]) > 0, 0, found)


def distance_to_aligned(weights, modes: linear.Modes, times) -> tuple[float, float]:
    """Return sup_t |W(t) - W*(t)| of Result 4.6 over some times, and its numerical floor.

    W(t) is gradient flow, and W* the trajectory of the aligned start. The floor is the distance of
    gradient flow from the aligned start.
    """
    aligned = linear.small_init_trajectory(weights, modes)

    def distance(initial: jax.Array) -> float:
        run = simulate.gradient_flow(initial, modes, times)
        apart = run.coefficients - aligned(times) @ modes.eigenvectors
        return float(jnp.linalg.norm(apart, axis=(1, 2)).max())

    return distance(weights), distance(aligned(0.0))


def distances(a: Outcome, b: Outcome, span: float) -> list[float]:
    """Return the four distances named by MEASURES, of outcome a from outcome b.

    Embeddings: relative distance in Frobenius norm. Curves: largest distance over times and modes.
    Step times: root mean square of relative differences, over modes not learned at the start; a
    step time beyond the time `span` counts as `span`.
    """
    waits = (a.step_times > 0) & (b.step_times > 0)
    steps = np.minimum(a.step_times, span)[waits] / np.minimum(b.step_times, span)[waits] - 1
    embeddings = zip(a[:2], b[:2], strict=True)
    return [
        *(float(np.linalg.norm(z - y) / np.linalg.norm(y)) for z, y in embeddings),
        float(np.abs(a.curves - b.curves).max()),
        float(np.sqrt(np.mean(steps**2))) if waits.any() else np.nan,
    ]


def plateaus(step_times: np.ndarray, gammas: np.ndarray) -> list[tuple[int, float]]:
    """Return the number of learned modes and a time for each plateau between well-separated steps.

    Mode j rises with the time constant 1 / 8γ_j. Steps j and j + 1 are well separated if they are
    more than five times the sum of their time constants apart. The time divides the interval
    between them in proportion to the time constants.
    """
    tau, width = step_times, 1 / (8 * gammas)
    found = []
    for j in range(len(tau) - 1):
        both = width[j] + width[j + 1]
        if np.isfinite(tau[j + 1]) and tau[j + 1] - tau[j] > 5 * both:
            found.append((j + 1, float(tau[j] + (tau[j + 1] - tau[j]) * width[j] / both)))
    return found


def resting_claim(
    where: str, t, loss, step_times, gammas, *, end: float = np.nan, tolerance: float
) -> claims.Claim:
    """Return the claim that the loss rests at whole numbers: at the start and between steps.

    Steps that are too close for a plateau do not count. `end` is the loss at the end of a run that
    has learned all modes, and counts if it is given.
    """
    between = plateaus(step_times, gammas)
    apart = [float(np.interp(middle, t, loss)) - (len(gammas) - k) for k, middle in between]
    apart += [float(loss[0]) - len(gammas), *([end] if np.isfinite(end) else [])]
    return claims.below(
        f"the loss rests at whole numbers: largest distance over {len(apart)} plateaus",
        where,
        measured=float(np.abs(apart).max()),
        tolerance=tolerance,
    )


def exponent_claims(
    what: str,
    where: str,
    widths: np.ndarray,
    distances: np.ndarray,
    *,
    fit_from: int,
    expected: float,
    tolerance: float = EXPONENT_MARGIN,
) -> list[claims.Claim]:
    """Return claims that distances, shape (widths, seeds), scale as the width to `expected`.

    The first claim fits widths of at least `fit_from`, because theory gives the exponent of the
    leading term for wide networks. The second claim fits all widths, if there are smaller widths.
    """
    starts = sorted({widths[widths >= fit_from][0], widths[0]}, reverse=True)
    return [
        claims.over_seeds(
            f"{what}: exponent of the width from {start} to {widths[-1]}",
            where,
            "=",
            expected=expected,
            measured=power_law.fit(
                widths[widths >= start], distances[widths >= start]
            ).exponents.tolist(),
            tolerance=tolerance,
        )
        for start in starts
    ]
