r"""Training of a kernel machine, from any start and on any loss.

A model that is linear in the features of a kernel, such as a wide network, has the embeddings F of
the training samples and f(x) of any other point. Gradient flow moves F by :math:`-\tilde K \,
\partial L / \partial F`, and f(x) by :math:`-k(x)^\top \partial L / \partial F`. Closed forms for
small starts are tested against it.
"""

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import ArrayLike
from jaxtyping import Array, Float, Real

from sslstep import _check, _flow, _stepwise
from sslstep._linalg import matmul
from sslstep._second_variation import value
from sslstep.simulate import DivergenceError, record_steps


class KernelDescent(NamedTuple):
    r"""A recorded training run of a kernel machine.

    Attributes:
        times: effective time t = learning rate × step of each record, shape ``(T,)``.
        loss: loss of the training samples at each record, shape ``(T,)``.
        coefficients: g with :math:`f(x, t) = f(x, 0) + g(t)^\top k(x)`, shape ``(T, N, d)``.
    """

    times: Float[Array, " T"]
    loss: Float[Array, " T"]
    coefficients: Float[Array, "T N d"]

    def embeddings(
        self, k_test_train: Float[ArrayLike, "n_test N"], initial: Float[ArrayLike, "n_test d"]
    ) -> Float[Array, "T n_test d"]:
        """Return the embeddings f(x, t) of points at each record, shape ``(T, n_test, d)``.

        ``k_test_train`` is the kernel between the points and the training samples, and ``initial``
        holds the initial embeddings f(x, 0) of the points.
        """
        k, g, initial = _check.as_floats(k_test_train, self.coefficients, initial)
        return initial[None] + jax.vmap(partial(matmul, k))(g)


def gradient_descent(
    kernel: Real[ArrayLike, "N N"],
    loss_fn: Callable[..., Any],
    initial: Float[ArrayLike, "N d"],
    learning_rate: Real[ArrayLike, ""],
    num_steps: int,
    record_every: int = 1,
    *,
    record_at: Sequence[int] | np.ndarray | None = None,
    num_views: int = 2,
) -> KernelDescent:
    r"""Full-batch gradient descent of a kernel machine, exact from any start.

    .. math:: g \leftarrow g - \eta \, \frac{\partial L}{\partial F}(F_0 + \tilde K g)

    Each step takes one product with the kernel, and all steps are compiled as one loop. A singular
    kernel cannot change a part of :math:`F_0`; this part stays constant, and counts in the loss.

    Args:
        kernel: K̃ over all views of n samples, one view after the other, shape ``(N, N)``.
        loss_fn: a JAX function from one array ``(n, d)`` for each view to a scalar, such as
            :func:`sslstep.losses.simplified_barlow_twins`. Each new function is compiled.
        initial: :math:`F_0`, the initial embeddings, rows in the kernel's order, shape ``(N, d)``.
        learning_rate: η > 0; may be traced.
        num_steps: number of steps.
        record_every: record steps 0, ``record_every``, ... ``num_steps``; must divide
            ``num_steps``.
        record_at: record these steps instead, increasing, within 0...num_steps.
        num_views: V, with N = V n.

    Raises:
        ValueError: if shapes do not fit, the kernel is not symmetric, values are not finite, or an
            argument is out of range.
        sslstep.simulate.DivergenceError: if the run diverges.

    Example:
        >>> import jax, jax.numpy as jnp
        >>> from sslstep import kernel_pca, losses
        >>> x = jax.random.normal(jax.random.key(0), (20, 4))
        >>> kernel, start = x @ x.T, 1e-2 * x[:, :2]
        >>> run = kernel_pca.gradient_descent(
        ...     kernel, losses.simplified_barlow_twins, start, 0.05, 400, record_every=200
        ... )
        >>> [round(float(loss), 2) for loss in run.loss]
        [2.0, 0.91, 0.0]
        >>> run.embeddings(kernel, start).shape
        (3, 20, 2)
    """
    kernel, initial = _prepare(kernel, initial, num_views)
    _check.require_scalar("learning_rate", learning_rate, above=0.0)
    steps = record_steps(num_steps, record_every, record_at)
    learning_rate = jnp.asarray(learning_rate, initial.dtype)
    counts = jnp.asarray(np.diff(steps, prepend=0))
    coefficients, loss = _descend(kernel, initial, learning_rate, counts, loss_fn, num_views)
    if _check.is_concrete(loss) and not np.isfinite(np.asarray(loss)).all():
        bad = int(np.argmin(np.isfinite(np.asarray(loss))))
        raise DivergenceError(
            f"gradient descent diverged: the loss is no longer finite at step {steps[bad]}. The "
            f"learning rate is {float(learning_rate):.3g}: take a smaller one."
        )
    times = learning_rate * jnp.asarray(steps, initial.dtype)
    return KernelDescent(times, loss, coefficients)


def flow(
    kernel: Real[ArrayLike, "N N"],
    loss_fn: Callable[..., Any],
    initial: Float[ArrayLike, "N d"],
    times: Float[ArrayLike, " T"],
    *,
    num_views: int = 2,
    rtol: float | None = None,
    atol: float | None = None,
    max_steps: int | None = 1_000_000,
) -> Float[Array, "T N d"]:
    r"""Gradient flow of a kernel machine, :math:`dF/dt = -\tilde K \, \partial L / \partial F`.

    F holds the embeddings of all N views as rows, and L is the loss of F. The flow starts from any
    embeddings at t = 0 and is integrated adaptively, by diffrax's Tsit5;
    :func:`gradient_flow_ssl` is its closed form in the limit of small initial embeddings. Each
    evaluation costs one product with the kernel. The number of evaluations grows with the time span
    over the time constant of the fastest mode. A loss with kinks, such as VICReg's hinge, takes
    many more, unless ``rtol`` is larger.

    Args:
        kernel: K̃ over all views of n samples, one view after the other, shape ``(N, N)``.
        loss_fn: function of one array ``(n, d)`` for each view, which returns a scalar.
        initial: F at t = 0, the initial embeddings, rows in the kernel's order, shape ``(N, d)``.
        times: times at which to record, not negative and non-decreasing, shape ``(T,)``.
        num_views: V, with N = V n.
        rtol: relative tolerance of a step. Default: ``0.01 * sqrt(eps)`` of the dtype.
        atol: absolute tolerance. Default: ``rtol`` times the root mean square of ``initial``.
        max_steps: largest number of the integrator's steps; None sets no limit.

    Returns:
        The embeddings at each time, shape ``(T, N, d)``.

    Raises:
        ValueError: in the cases of :func:`gradient_descent`, or if ``times`` are out of order.
        RuntimeError: if the integrator does not reach the last time in ``max_steps`` steps.

    Example:
        >>> import jax, jax.numpy as jnp
        >>> from sslstep import kernel_pca, linear, losses
        >>> x = jax.random.normal(jax.random.key(0), (20, 4))
        >>> z = kernel_pca.flow(
        ...     x @ x.T, losses.simplified_barlow_twins, 0.1 * x[:, :2], jnp.array([0.0, 20.0])
        ... )
        >>> bool(jnp.allclose(z[0], 0.1 * x[:, :2]))
        True
        >>> linear.cross_correlation(*jnp.split(z[-1], 2)).round(3) + 0.0
        Array([[1., 0.],
               [0., 1.]], dtype=float32)
    """
    kernel, initial = _prepare(kernel, initial, num_views)
    times = _flow.recorded_times("times", times, initial.dtype)
    relative = _flow.default_rtol(initial.dtype) if rtol is None else rtol
    largest = jnp.abs(initial).max()
    unit = jnp.where(largest > 0, largest, 1)  # squares of small numbers underflow
    scale = unit * jnp.where(largest > 0, jnp.sqrt(jnp.mean((initial / unit) ** 2)), 1)
    absolute = relative * scale if atol is None else atol
    settings: Any = {"rtol": relative, "atol": absolute, "max_steps": max_steps}
    args = loss_fn, num_views, kernel
    found: Array = _flow.integrate(_velocity, initial, times, args, **settings)
    return found


def _prepare(kernel: ArrayLike, initial: ArrayLike, num_views: int) -> tuple[Array, Array]:
    _check.require_symmetric("kernel", kernel)
    size = _check.shape_of(kernel)[0]
    _check.require_within("num_views", num_views, at_least=1)
    what = ", a row for each row of the kernel"
    _check.require_matrix("initial", initial, f"({size}, d)", what, rows=size)
    if size % num_views:
        raise ValueError(
            f"kernel must be over n samples in num_views = {num_views} views, got {size} rows."
        )
    _check.require_finite("initial", initial)
    kernel, initial = _check.as_floats(kernel, initial)
    return kernel, initial


def _velocity(t: ArrayLike, z: Array, args: tuple[Callable[..., Any], int, Array]) -> Array:
    loss_fn, num_views, kernel = args
    return -matmul(kernel, jax.grad(partial(value, loss_fn, num_views))(z))


@partial(jax.jit, static_argnames=("loss_fn", "num_views"))
def _descend(kernel, initial, learning_rate, counts, loss_fn, num_views):
    """g and the loss at each record; `counts` are the steps before each."""
    loss = partial(value, loss_fn, num_views)

    def step(_, g):
        return g - learning_rate * jax.grad(loss)(initial + matmul(kernel, g))

    def advance(g, count):
        g = jax.lax.fori_loop(0, count, step, g)
        return g, (g, loss(initial + matmul(kernel, g)))

    return jax.lax.scan(advance, jnp.zeros_like(initial), counts)[1]


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
        ValueError: if shapes do not fit, the kernel is not symmetric, values are not finite, or an
            argument is out of range.
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
    given, start = _prepare(kernel, initial, num_views)
    _flow.recorded_times("times", times, start.dtype)
    _check.require_scalar("learning_rate", learning_rate, at_least=0.0)
    _check.require_scalar("tol", tol, above=0.0)
    times = np.asarray(times, np.float64)
    if learning_rate:
        times = np.round(times / learning_rate) * learning_rate
    factor, inverse = factorised(np.asarray(given, np.float64))
    if not factor.size:
        raise ValueError("kernel must have a positive eigenvalue: nothing moves.")
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
