"""Predictions of `any_loss`: curves of training, the first growth rate, times by saddles alone.

All take a loss, the initial weights (m, d) and both views.
"""

import jax
import jax.numpy as jnp
import numpy as np

from experiments.beyond.any_loss.losses import eigenvalues, of_weights
from sslstep import kernel_pca, linear, losses, train
from sslstep.experiment import Arrays


def along(loss, weights, views, eta, times) -> Arrays:
    """Predict the eigenvalues of C and the loss at given times, by the closed form or the flow."""
    if loss.function is losses.simplified_barlow_twins:
        modes = linear.modes(linear.cross_correlation(*views), weights.shape[1])
        start = linear.align(weights.T, modes).singular_values
        found = linear.mode_eigenvalue(times[:, None], modes.eigenvalues, start, learning_rate=eta)
        closed = np.sort(np.asarray(found), axis=1)[:, ::-1]
        return {"eigenvalues": closed, "loss": np.sum((1 - closed) ** 2, axis=1)}
    both = np.concatenate(views)
    done = kernel_pca.stepwise_flow(
        both @ both.T,
        loss.predicted_by or loss.function,
        both @ weights,
        times,
        learning_rate=0.0 if loss.predicted_by else eta,
        tol=loss.tol,
    )
    z = done.embeddings(both @ both.T, both @ weights)
    curves = np.asarray(jax.vmap(lambda both: eigenvalues(*jnp.split(both, 2)))(z))
    kept = weights.shape[1] - int(loss.constant)
    return {"eigenvalues": curves[:, :kept], "loss": np.asarray(done.loss)}


def first_rate(loss, weights, views, scale) -> tuple[float, float]:
    """Return the first dimension's growth rate, measured and predicted.

    The measured rate is that of weights of size 1e-24 in one step of gradient descent.
    """
    first, dim = int(loss.constant), weights.shape[1]
    learned = np.ones((2 * len(views[0]), 1)) if loss.constant else None
    modes = linear.growth_modes(loss.function, views, dim - first, embeddings=learned, dim=dim)
    rate = float(modes.eigenvalues[0])
    eta, count = 0.1 / rate, int(40 / np.log1p(0.1))
    small = weights * np.where(np.arange(dim) < first, 1, 1e-24 / scale)
    descend, _, size = of_weights(loss.function, first)
    sizes = train.full_batch_descent(
        descend, small, eta, count, args=tuple(views), record_at=[count - 1, count], measure=size
    ).records
    return float(sizes[1] / sizes[0] - 1) / eta, rate


def by_saddles(loss, weights, views, eta, times) -> np.ndarray:
    """Predict step times from the growth rates at the saddles alone.

    Each dimension grows exponentially at the rate of the current plateau. It is learned when this
    growth brings its eigenvalue to the value at the next saddle.
    """
    both, dim = np.concatenate(views), weights.shape[1]
    gamma = np.asarray(linear.cross_correlation(*views, centre=True))
    t, found, saddle, sizes = 0.0, [], None, np.zeros(dim)
    for k in range(dim):
        modes = linear.growth_modes(loss.function, views, dim - k, embeddings=saddle, dim=dim)
        rates = np.log1p(eta * np.asarray(modes.eigenvalues)) / eta
        if k == 0:
            sizes = np.log(np.asarray(linear.align(weights.T, modes).singular_values))
        # The next saddle is the end of the flow of k + 1 dimensions, with the others exactly zero.
        start = both @ np.where(np.arange(dim) <= k, weights, 0)
        end = np.array([0, 10 * times[-1]])
        flow = kernel_pca.stepwise_flow(both @ both.T, loss.function, start, end)
        saddle = np.asarray(flow.embeddings(both @ both.T, start)[-1])[:, : k + 1]
        first = np.asarray(modes.eigenvectors)[:, 0]
        level = eigenvalues(*np.split(saddle, 2))[k]
        wait = (0.5 * np.log(level / (first @ gamma @ first)) - sizes[0]) / rates[0]
        t, sizes = t + wait, (sizes + rates * wait)[1:]
        found.append(t)
        u, s, _ = np.linalg.svd(saddle, full_matrices=False)
        saddle = u * s
    return np.asarray(found)
