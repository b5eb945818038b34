r"""Training of a kernel machine from very small starts, under any loss."""

from collections.abc import Callable
from typing import Any

import jax.numpy as jnp
import numpy as np
from jax.typing import ArrayLike
from jaxtyping import Float, Real

from sslstep import _check, _stepwise
from sslstep.kernel_pca._machine import KernelDescent, prepare

__all__ = ["stepwise_flow"]


def stepwise_flow(
    kernel: Real[ArrayLike, "N N"],
    loss_fn: Callable[..., Any],
    initial: Float[ArrayLike, "N d"],
    times: Float[ArrayLike, " T"],
    *,
    learning_rate: float = 0.0,
    num_views: int = 2,
    tol: float = 1e-3,
) -> KernelDescent:
    r"""Train a kernel machine by gradient flow or descent, efficiently from very small starts.

    .. math:: F' = -\tilde K \, \frac{\partial L}{\partial F}

    F holds the embeddings of all views as rows, and α denotes the size of F(0). While the learned
    dimensions rest on a plateau, the others obey linear equations, which are solved in closed form:
    one step passes most of a plateau. The number of steps grows by one for each 20 that
    :math:`\ln(1 / \alpha)` grows by, while :func:`flow` takes several steps for each time constant
    of the fastest mode. Between plateaus an exponential Rosenbrock method of order 3 follows each
    dimension, of any size, to the same relative accuracy. Step times have a relative error of about
    ``tol`` / 10.

    If the loss is invariant under rotations of all embeddings, α may be as small as float64 allows.
    If it is not, as for VICReg or for Barlow Twins with λ ≠ 1, dimensions below 1e-14 of the
    largest are rounding. At a kink of the loss, such as VICReg's hinge, steps are 0.02 of the
    fastest time constant, and errors are of this relative size. Gradient descent takes single,
    exact steps there.

    The computation is in float64 and decomposes the kernel once. It is controlled by the host, so
    it cannot be traced by `jit`. Results have the wider dtype of ``kernel`` and ``initial``.

    Args:
        kernel: K̃ over all views of n samples, one view after the other, shape ``(N, N)``.
        loss_fn: a JAX function from one array ``(n, d)`` for each view to a scalar.
        initial: F(0), as rows in the kernel's order, shape ``(N, d)``; not exactly zero.
        times: times ≥ 0 at which to record, non-decreasing, shape ``(T,)``.
        learning_rate: 0 for gradient flow, otherwise η of gradient descent; each of ``times`` is
            then rounded to the nearest step.
        num_views: V, with N = V n.
        tol: largest error of a step, relative to the length of each dimension.

    Returns:
        :class:`KernelDescent`: the loss and the coefficients g at each time. Its method
        ``embeddings`` evaluates training samples and new points.

    Raises:
        ValueError: if shapes do not fit, the kernel is not symmetric, values are not finite, or
            ``times`` are negative or out of order.
        FloatingPointError: if values become infinite or NaN, as when descent diverges.

    Example:
        >>> import jax, jax.numpy as jnp
        >>> from sslstep import kernel_pca, linear, losses
        >>> x = jax.random.normal(jax.random.key(0), (20, 4))
        >>> kernel, start = x @ x.T, 1e-15 * x[:, :2]
        >>> run = kernel_pca.stepwise_flow(
        ...     kernel, losses.simplified_barlow_twins, start, jnp.array([0.0, 300.0])
        ... )
        >>> run.loss.round(3) + 0.0
        Array([2., 0.], dtype=float32)
        >>> z = run.embeddings(kernel, start)[-1]
        >>> linear.cross_correlation(*jnp.split(z, 2)).round(3) + 0.0
        Array([[1., 0.],
               [0., 1.]], dtype=float32)
    """
    given, start = prepare(kernel, initial, num_views)
    _check.require_vector("times", times, "(T,)")
    _check.require_at_least("times", times, 0.0)
    _check.require_increasing("times", times, strict=False)
    _check.require_scalar("learning_rate", learning_rate, at_least=0.0)
    _check.require_scalar("tol", tol, above=0.0)
    times = np.asarray(times, np.float64)
    if learning_rate:
        times = np.round(times / learning_rate) * learning_rate
    factor, inverse = factorised(np.asarray(given, np.float64))
    z = np.asarray(start, np.float64)
    # In directions that the kernel hardly moves W would be long and constant. This part of z is
    # kept apart, so that the length of W is that of the growing part.
    length = np.linalg.norm(factor, axis=0)
    weights = np.where((length > 1e-2 * length.max())[:, None], inverse.T @ z, 0)
    records, loss = _stepwise.follow(
        loss_fn,
        num_views,
        factor,
        z - factor @ weights,
        weights,
        times,
        float(learning_rate),
        float(tol),
    )
    coefficients = np.einsum("nr,trd->tnd", inverse, records - weights)
    return KernelDescent(*(jnp.asarray(a, start.dtype) for a in (times, loss, coefficients)))


def factorised(kernel: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return A (N, r) with K̃ = A Aᵀ, and the transpose of its pseudoinverse, for K̃ of rank r."""
    values, vectors = np.linalg.eigh(kernel)
    # Leaves out eigenvalues that are rounding of a singular K̃.
    kept = values > 1e-12 * values[-1]
    root = np.sqrt(values[kept])
    return vectors[:, kept] * root, vectors[:, kept] / root
