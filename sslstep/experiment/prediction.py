r"""What infinitely wide networks do: gradient descent of their kernel, exact or in closed form.

Shared by the experiments that hold networks against it, with what they make of the difference.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from sslstep import claims, dynamics, kernel_pca, linear, losses, simulate
from sslstep.measure import power_law, spectrum

#: What `distances` returns, in this order.
MEASURES = ("embeddings of training pairs", "embeddings of held-out pairs", "curves", "step times")
NUM_RECORDS = 200
#: How far an exponent of the width may be from theory's -1/2, -3/4 or -1: half of what these differ
#: by.
EXPONENT_MARGIN = 0.125


class Limit(NamedTuple):
    r"""Infinitely wide networks on n pairs, as a linear model on features of their kernel.

    Attributes:
        kernel: K̃ over ``[X, X']``, shape ``(2n, 2n)``.
        features: Φ of ``[X, X']``, with :math:`\Phi \Phi^\top = \tilde K`, shape ``(2n, 2n)``.
        inverse: pseudo-inverse of Φ, transposed.
        gamma_modes: all modes of the features' Γ.
        modes: the kernel's first d.
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
    """What is compared: embeddings at the end (N, d), eigenvalues of C (T, d), step times (d,)."""

    train: np.ndarray
    test: np.ndarray
    curves: np.ndarray
    step_times: np.ndarray


def features_of(kernel, dtype) -> tuple[jax.Array, jax.Array, linear.Modes]:
    """Features and their inverse, as in :class:`Limit`, of a kernel computed in `dtype`; Γ's modes.

    Two views may be the same image; what they share has no inverse and needs none.
    """
    values, vectors = jnp.linalg.eigh(kernel)
    positive = values > len(values) * jnp.finfo(dtype).eps * values[-1]
    root = jnp.sqrt(jnp.where(positive, values, 1))
    features = vectors * jnp.where(positive, root, 0)
    inverse = vectors * jnp.where(positive, 1 / root, 0)
    return features, inverse, linear.modes(linear.cross_correlation(*jnp.split(features, 2)))


def limit(kernel, k_test_train, dim: int, step_size: float) -> Limit:
    """From the kernel over training samples and held-out ones; ``step_size`` is 4 η γ_1."""
    modes = kernel_pca.contrastive_modes(kernel, dim, solver="dense")
    features, inverse, gamma_modes = features_of(kernel, kernel.dtype)
    learning_rate = step_size / (4 * modes.eigenvalues[0])
    return Limit(kernel, features, inverse, gamma_modes, modes, k_test_train, learning_rate)


def record_at(limit: Limit, initial) -> np.ndarray:
    """Steps at equal distances, 1.6 times as many as the last mode is predicted to need."""
    start, eta = kernel_pca.align(initial, limit.modes).singular_values, limit.learning_rate
    last = dynamics.step_time(limit.modes.eigenvalues, start, learning_rate=eta).max()
    every = max(1, int(np.ceil(1.6 * float(last / eta) / NUM_RECORDS)))
    return every * np.arange(NUM_RECORDS + 1)


def outcome(z, z_test, curves, times) -> Outcome:
    """As NumPy arrays, with the step times."""
    step_times = spectrum.step_times(times, curves)
    return Outcome(*(np.asarray(a, float) for a in (z, z_test, curves, step_times)))


def kernel_descent(limit: Limit, initial, initial_test, times) -> Outcome:
    """Gradient descent of the kernel itself, exact for any initial embeddings.

    On held-out points: the initial embeddings, and what the gradients add through the kernel.
    """
    at = np.rint(np.asarray(times / limit.learning_rate)).astype(int)
    run = descent(limit, initial, at)
    z = run.embeddings(limit.kernel, initial)
    curves = jax.vmap(lambda z: spectrum.correlation_eigenvalues(*jnp.split(z, 2)))(z)
    last = run._replace(coefficients=run.coefficients[-1:])
    z_test = last.embeddings(limit.k_test_train, initial_test)[0]
    return outcome(z[-1], z_test, curves, run.times)


def descent(limit: Limit, initial, record_at) -> kernel_pca.KernelDescent:
    """The same, at some steps."""
    loss_fn, num_steps = losses.simplified_barlow_twins, int(record_at[-1])
    return kernel_pca.gradient_descent(
        limit.kernel, loss_fn, initial, limit.learning_rate, num_steps, record_at=record_at
    )


def closed_form_error(limit: Limit, initial) -> tuple[float, float]:
    """How far Eqs. 40 and 42 end from gradient flow of the kernel: measured, and to first order.

    Relative, for the embeddings of training pairs, as the first of MEASURES.
    """
    gammas, vectors = limit.gamma_modes
    weights = initial.T @ limit.inverse
    rotation, start = linear.align(weights, limit.gamma_modes)
    times = jnp.array([0.0, 1.6]) * dynamics.step_time(gammas[: len(start)], start).max()
    exact = simulate.gradient_flow(weights, limit.gamma_modes, times).coefficients[-1]
    closed = linear.small_init_trajectory(weights, limit.gamma_modes)(times[-1]) @ vectors
    upper = jnp.triu(rotation.T @ weights @ vectors)
    upper = jnp.fill_diagonal(upper, start, inplace=False)  # rounding aside, the same
    left_out = linear.coupled_elements(times[-1], gammas, upper)
    left_out = jnp.fill_diagonal(left_out, 0, inplace=False)
    # The embeddings of the training pairs have these coordinates.
    images = limit.features @ vectors
    norms = [float(jnp.linalg.norm(images @ a.T)) for a in (closed - exact, left_out, exact)]
    return norms[0] / norms[2], norms[1] / norms[2]


def distances(a: Outcome, b: Outcome, span: float) -> list[float]:
    """The four MEASURES of a from b. A step not taken in the time span counts as taken at its end.

    Embeddings relative in Frobenius norm; curves by the largest distance over times and modes; step
    times by the root mean square of their relative differences, over modes that start unlearned.
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
    """Between steps that are far enough apart: how many modes are learned, and the moment.

    A step is a rise of time constant 1 / 8γ_j. The moment is as many of them after the one step as
    it is before the next, counted in those of each; far enough are more than five.
    """
    tau, width = step_times, 1 / (8 * gammas)
    found = []
    for j in range(len(tau) - 1):
        both = width[j] + width[j + 1]
        if np.isfinite(tau[j + 1]) and tau[j + 1] - tau[j] > 5 * both:
            found.append((j + 1, float(tau[j] + (tau[j + 1] - tau[j]) * width[j] / both)))
    return found


def resting_losses(
    t: np.ndarray, loss: np.ndarray, step_times: np.ndarray, gammas: np.ndarray
) -> list[tuple[float, int]]:
    """The loss at the start and between steps that are far apart, and the number it should be."""
    dim = len(step_times)
    between = [
        (float(np.interp(middle, t, loss)), dim - learned)
        for learned, middle in plateaus(step_times, gammas)
    ]
    return [(float(loss[0]), dim), *between]


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
    """Claims that distances, shape (widths, seeds), are the width to the power `expected`.

    One claim is about the widths of at least `fit_from`, as theory's exponents are those of its
    leading term for wide networks. The other one is about all widths.
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
