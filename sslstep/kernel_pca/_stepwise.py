r"""A kernel machine from a start however small, under any loss."""

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
    r"""A kernel machine from a start however small: what :func:`flow` and descent come to.

    .. math:: F' = -\tilde K \, \frac{\partial L}{\partial F}

    While dimensions rest on a plateau the others grow by linear equations, which are solved in
    closed form along it: one step passes a plateau, whatever its length. So the cost does not grow
    with :math:`\ln(1 / \alpha)` but by a step for each 20 in it, where the integrator of
    :func:`flow` takes some steps for each time constant of the fastest mode. Between plateaus it is
    an exponential Rosenbrock method of order 3, and each dimension, however small, is followed to
    the same relative accuracy. Step times come with a relative error of some ``tol`` / 10.

    A loss that does not change when all embeddings are rotated is followed from any α that float64
    holds; of one that does, as VICReg or Barlow Twins with λ ≠ 1, what is below 1e-14 of the
    largest dimension is rounding. A kink, as VICReg's hinge, is passed in steps of 0.02 of the
    fastest time constant, with errors of that size.

    The computation is in float64 on the host's control, and not for `jit`; the kernel is decomposed
    once. Results have the finest type of ``kernel`` and ``initial``.

    Args:
        kernel: K̃ over all views of n samples, one view after the other, shape ``(N, N)``.
        loss_fn: from one array ``(n, d)`` for each view to a scalar, in JAX.
        initial: F(0), as rows in the kernel's order; of any size but exact zero.
        times: when to record, non-decreasing, from t ≥ 0, shape ``(T,)``.
        learning_rate: 0 for gradient flow, otherwise η of gradient descent, whose records are at
            the steps nearest to ``times``.
        num_views: V, with N = V n.
        tol: largest error of a step, relative to the length of each dimension.

    Returns:
        :class:`KernelDescent`: the loss and the coefficients g at each time; see its
        ``embeddings``, on training samples and on new points.

    Raises:
        ValueError: if shapes do not fit, the kernel is not symmetric, values are not finite, or
            ``times`` are negative or out of order.
        FloatingPointError: if the flow leaves the finite numbers, as descent that diverges.

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
    # Along what the kernel hardly moves W would be long and at rest: that part stays apart, so that
    # lengths of W are about those of what grows.
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
    """A with K̃ = A Aᵀ, and its pseudoinverse's transpose, on the range of K̃."""
    values, vectors = np.linalg.eigh(kernel)
    # Float32 entries, or sums computed in it, leave eigenvalues of rounding.
    kept = values > 1e-12 * values[-1]
    root = np.sqrt(values[kept])
    return vectors[:, kept] * root, vectors[:, kept] / root
