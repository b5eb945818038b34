r"""Gram matrices of any kernel function, in blocks.

A kernel function takes ``(x1, x2=None)`` to the matrix :math:`K(x_1, x_2)` of shape ``(n1, n2)``,
and to :math:`K(x_1, x_1)` without ``x2``: one of :mod:`sslstep.ntk.infinite`, one of
neural_tangents, or one's own. Compile it where it is not (``jax.jit(kernel_fn)``): it is called
with blocks of ``batch_size`` samples, all of one shape whatever n is, since the last ones are
filled up. Of a symmetric matrix only the blocks on and above the diagonal are computed, and the
result is symmetric to the last bit; one beside it, computed both ways, shows whether K is.

:func:`matrix` and :func:`operator` are for samples; :func:`pairs`, :func:`pairs_operator` and
:func:`test_train` for positive pairs, where :class:`TwoTowers` may stand for the kernel function.
"""

# ruff: noqa: PT028 (test_train is no test)

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal, NamedTuple

import jax.numpy as jnp
import numpy as np
from jax.typing import ArrayLike, DTypeLike
from jaxtyping import Array, Float, Real

from sslstep import _blocks, _check

__all__ = [
    "TwoTowers",
    "as_kernel_fn",
    "matrix",
    "operator",
    "pairs",
    "pairs_operator",
    "test_train",
]

KernelFn = Callable[..., Any]
"""From ``(x1, x2=None)`` to K(x1, x2), of shape ``(n1, n2)``."""


class TwoTowers(NamedTuple):
    r"""A model for each view, as in CLIP: :math:`K(x, x') = 0` between the views (Section 5.2).

    The views may then be of different kinds.

    Attributes:
        first: the kernel function of the model of x.
        second: the kernel function of the model of x'.
    """

    first: KernelFn
    second: KernelFn


def matrix(
    kernel_fn: KernelFn,
    x1: Real[ArrayLike, "n1 ..."],
    x2: Real[ArrayLike, "n2 ..."] | None = None,
    *,
    batch_size: int = 1000,
    dtype: DTypeLike | None = None,
    out: str | os.PathLike[str] | None = None,
    progress: bool | None = None,
) -> Float[Array, "n1 n2"] | Float[np.memmap, "n1 n2"]:
    r"""K(x1, x2), computed in blocks.

    Memory is that of the result and of a few blocks: the blocks are put in place as they come.

    Args:
        kernel_fn: the kernel function.
        x1: samples, shape ``(n1, ...)``.
        x2: samples, shape ``(n2, ...)``; None for K(x1, x1), at about half the cost.
        batch_size: samples in a block; need not divide n1 or n2.
        dtype: of the result, to which each block is rounded; that of the kernel if None. A float64
            kernel can so be kept in float32, and with ``out`` in float64 without x64 enabled.
        out: a new file to put the matrix in (NumPy's ``.npy`` format) instead of memory. It has
            this name only once it is complete.
        progress: whether to show a progress bar; None: on a terminal.

    Returns:
        K, shape ``(n1, n2)``; with ``out`` a read-only :class:`numpy.memmap`.

    Raises:
        ValueError: if there are no samples, the kernel function returns another shape, is not
            symmetric, or gives NaN or infinity, with the rows and columns it was found in.
        FileExistsError: if ``out`` exists.

    Example:
        >>> import jax.numpy as jnp
        >>> from sslstep import gram
        >>> def linear_kernel(x1, x2=None):
        ...     return x1 @ (x1 if x2 is None else x2).T
        >>> gram.matrix(linear_kernel, jnp.array([[1.0], [2.0], [3.0]]), batch_size=2)
        Array([[1., 2., 3.],
               [2., 4., 6.],
               [3., 6., 9.]], dtype=float32)
    """
    n1, n2 = _num("x1", x1), _num("x1", x1) if x2 is None else _num("x2", x2)
    return _matrix([_task(kernel_fn, x1, x2)], (n1, n2), batch_size, dtype, out, progress)


def operator(
    kernel_fn: KernelFn,
    x: Real[ArrayLike, "n ..."],
    *,
    batch_size: int = 1000,
    progress: bool | None = None,
) -> Callable[[Real[ArrayLike, "n b"]], Float[Array, "n b"]]:
    r"""v → K(x, x) v without K ever being in memory.

    Each product computes the blocks anew, in :math:`O(\mathrm{batch\_size}^2 + n b)` memory.

    Args:
        kernel_fn: the kernel function.
        x: samples, shape ``(n, ...)``.
        batch_size: as in :func:`matrix`.
        progress: as in :func:`matrix`; a bar for each product.

    Returns:
        A function from v, of shape ``(n, b)``, to K v of the same shape and dtype, to which the
        blocks are rounded before they are multiplied. It raises as :func:`matrix` does, and if v
        does not fit or is not finite.

    Raises:
        ValueError: if there are no samples.

    Example:
        >>> import jax.numpy as jnp
        >>> from sslstep import gram
        >>> def linear_kernel(x1, x2=None):
        ...     return x1 @ (x1 if x2 is None else x2).T
        >>> gram.operator(linear_kernel, jnp.array([[1.0], [2.0], [3.0]]))(jnp.ones((3, 1))).T
        Array([[ 6., 12., 18.]], dtype=float32)
    """
    return _operator([_task(kernel_fn, x)], _num("x", x), batch_size, progress)


def pairs(
    kernel_fn: KernelFn | TwoTowers,
    x: Real[ArrayLike, "n ..."],
    x_prime: Real[ArrayLike, "n ..."],
    *,
    batch_size: int = 1000,
    dtype: DTypeLike | None = None,
    out: str | os.PathLike[str] | None = None,
    progress: bool | None = None,
) -> Float[Array, "m m"] | Float[np.memmap, "m m"]:
    r"""The kernel over both views of n positive pairs (Eq. 22).

    .. math:: \tilde K = \begin{pmatrix} K(X, X) & K(X, X') \\ K(X', X) & K(X', X') \end{pmatrix}

    Args:
        kernel_fn: the kernel function; with :class:`TwoTowers` the off-diagonal blocks are zero.
        x: one view, shape ``(n, ...)``; memory-mapped arrays of one dtype are read block by block.
        x_prime: the other, in the same order.
        batch_size: as in :func:`matrix`.
        dtype: as in :func:`matrix`.
        out: as in :func:`matrix`.
        progress: as in :func:`matrix`.

    Returns:
        K̃, shape ``(2n, 2n)``; with ``out`` a read-only :class:`numpy.memmap`.

    Raises:
        ValueError: as :func:`matrix`, or if the views do not fit together.
        FileExistsError: if ``out`` exists.

    Example:
        >>> import jax.numpy as jnp
        >>> from sslstep import gram
        >>> def linear_kernel(x1, x2=None):
        ...     return x1 @ (x1 if x2 is None else x2).T
        >>> x, x_prime = jnp.array([[1.0]]), jnp.array([[2.0]])
        >>> gram.pairs(linear_kernel, x, x_prime)
        Array([[1., 2.],
               [2., 4.]], dtype=float32)
        >>> gram.pairs(gram.TwoTowers(linear_kernel, linear_kernel), x, x_prime)
        Array([[1., 0.],
               [0., 4.]], dtype=float32)
    """
    tasks, size = _pair_tasks(kernel_fn, x, x_prime)
    return _matrix(tasks, (size, size), batch_size, dtype, out, progress)


def pairs_operator(
    kernel_fn: KernelFn | TwoTowers,
    x: Real[ArrayLike, "n ..."],
    x_prime: Real[ArrayLike, "n ..."],
    *,
    batch_size: int = 1000,
    progress: bool | None = None,
) -> Callable[[Real[ArrayLike, "m b"]], Float[Array, "m b"]]:
    r"""v → K̃ v without K̃ ever being in memory: :func:`operator` of :func:`pairs`.

    Args:
        kernel_fn: the kernel function, or :class:`TwoTowers`.
        x: one view, shape ``(n, ...)``.
        x_prime: the other, in the same order.
        batch_size: as in :func:`matrix`.
        progress: as in :func:`operator`.

    Returns:
        A function from v, of shape ``(2n, b)``, to K̃ v, as that of :func:`operator`.

    Raises:
        ValueError: if there are no samples, or the views do not fit together.

    Example:
        >>> import jax.numpy as jnp
        >>> from sslstep import gram
        >>> def linear_kernel(x1, x2=None):
        ...     return x1 @ (x1 if x2 is None else x2).T
        >>> multiply = gram.pairs_operator(linear_kernel, jnp.array([[1.0]]), jnp.array([[2.0]]))
        >>> multiply(jnp.eye(2))
        Array([[1., 2.],
               [2., 4.]], dtype=float32)
    """
    tasks, size = _pair_tasks(kernel_fn, x, x_prime)
    return _operator(tasks, size, batch_size, progress)


def test_train(
    kernel_fn: KernelFn | TwoTowers,
    x_test: Real[ArrayLike, "n_test ..."],
    x: Real[ArrayLike, "n ..."],
    x_prime: Real[ArrayLike, "n ..."],
    *,
    view: Literal[0, 1] | None = None,
    batch_size: int = 1000,
    dtype: DTypeLike | None = None,
    out: str | os.PathLike[str] | None = None,
    progress: bool | None = None,
) -> Float[Array, "n_test m"] | Float[np.memmap, "n_test m"]:
    r"""The kernel between new points and both views of the training pairs.

    .. math:: k(x) = \left[ K(x, X), K(x, X') \right]

    Args:
        kernel_fn: the kernel function, or :class:`TwoTowers`.
        x_test: new points, shape ``(n_test, ...)``.
        x: one view of the training pairs, shape ``(n, ...)``.
        x_prime: the other, in the same order.
        view: with :class:`TwoTowers`, which of the views the new points are: 0 for x, 1 for x'.
            Their kernel with the other view is zero.
        batch_size: as in :func:`matrix`.
        dtype: as in :func:`matrix`.
        out: as in :func:`matrix`.
        progress: as in :func:`matrix`.

    Returns:
        One row k(x) for each new point, shape ``(n_test, 2n)``; with ``out`` a read-only
        :class:`numpy.memmap`.

    Raises:
        ValueError: as :func:`pairs`, or if ``view`` is missing, or given without two towers.
        FileExistsError: if ``out`` exists.

    Example:
        >>> import jax.numpy as jnp
        >>> from sslstep import gram
        >>> def linear_kernel(x1, x2=None):
        ...     return x1 @ (x1 if x2 is None else x2).T
        >>> x, x_prime = jnp.array([[1.0]]), jnp.array([[2.0]])
        >>> gram.test_train(linear_kernel, jnp.array([[3.0]]), x, x_prime)
        Array([[3., 6.]], dtype=float32)
    """
    num_test, num = _num("x_test", x_test), _num_pairs(x, x_prime)
    if isinstance(kernel_fn, TwoTowers):
        if view not in (0, 1):
            raise ValueError(f"with two towers, view must be 0 (x) or 1 (x_prime), got {view!r}.")
        tasks = [_task(kernel_fn[view], x_test, (x, x_prime)[view], column=view * num)]
    else:
        if view is not None:
            raise ValueError(f"view is for TwoTowers: one kernel serves both, got view = {view!r}.")
        tasks = [
            _task(kernel_fn, x_test, x),
            _task(kernel_fn, x_test, x_prime, column=num),
        ]
    return _matrix(tasks, (num_test, 2 * num), batch_size, dtype, out, progress)


test_train.__test__ = False  # type: ignore[attr-defined]  # so that pytest does not run it


def as_kernel_fn(kernel_fn: KernelFn, kernel: Literal["nngp", "ntk"] = "ntk") -> KernelFn:
    r"""A kernel function that returns an array, from one that may return several kernels.

    Every function of this module does it with ``kernel="ntk"``; so a ``kernel_fn`` of
    neural_tangents needs it only for the NNGP kernel.

    Args:
        kernel_fn: the kernel function, of ``(x1, x2=None)`` or, where x2 has no default, of two
            sets of points; its result may have an attribute ``ntk`` or ``nngp``.
        kernel: which of them is meant.

    Returns:
        A function of ``(x1, x2=None)`` that returns an array.

    Raises:
        ValueError: if ``kernel_fn`` is not a function, or ``kernel`` is unknown.
        TypeError: from the function, if ``kernel_fn`` returns no array of floats or no NNGP kernel.

    Example:
        >>> import jax.numpy as jnp
        >>> from types import SimpleNamespace
        >>> from sslstep import gram
        >>> def both(x1, x2=None):
        ...     return SimpleNamespace(ntk=x1 @ x1.T, nngp=2 * x1 @ x1.T)
        >>> x = jnp.ones((1, 3))
        >>> gram.as_kernel_fn(both)(x), gram.as_kernel_fn(both, "nngp")(x)
        (Array([[3.]], dtype=float32), Array([[6.]], dtype=float32))
    """
    if isinstance(kernel_fn, TwoTowers) or not callable(kernel_fn):
        raise ValueError(
            f"kernel_fn must be one function of (x1, x2=None), got a {type(kernel_fn).__name__}."
        )
    _check.require_one_of("kernel", kernel, ("nngp", "ntk"))
    needs_both = _blocks.needs_both(kernel_fn)

    def array_kernel_fn(x1: ArrayLike, x2: ArrayLike | None = None) -> Any:
        result = kernel_fn(x1, x1 if x2 is None and needs_both else x2)
        array: Any = getattr(result, kernel, result if kernel == "ntk" else None)
        if not hasattr(array, "shape"):
            wanted = "an array" if kernel == "ntk" else "kernels, among them nngp"
            raise TypeError(f"kernel_fn must return {wanted}, got a {type(result).__name__}.")
        if not jnp.issubdtype(array.dtype, jnp.floating):
            raise TypeError(f"kernel_fn must return floats, got {array.dtype}: are x integers?")
        return array

    return array_kernel_fn


def _matrix(
    tasks: list[_blocks.Task],
    shape: tuple[int, int],
    batch_size: int,
    dtype: DTypeLike | None,
    out: str | os.PathLike[str] | None,
    progress: bool | None,
) -> Array | np.memmap:
    if dtype is not None:
        dtype = jnp.dtype(dtype)
        if not jnp.issubdtype(dtype, jnp.floating):
            raise ValueError(f"dtype must be a floating type, got {dtype}.")
    if out is not None:
        return _blocks.write(Path(out), tasks, shape, batch_size, dtype, progress)
    return _blocks.assemble(tasks, shape, batch_size, dtype, progress)


def _operator(tasks: list[_blocks.Task], size: int, batch_size: int, progress: bool | None) -> Any:
    first = iter([True])  # the first product looks at symmetry

    def multiply(v: Real[ArrayLike, "n b"]) -> Float[Array, "n b"]:
        if _check.require_matrix("v", v, f"({size}, b)")[0] != size:
            raise ValueError(f"v must have shape ({size}, b), got {_check.shape_of(v)}.")
        _check.require_finite("v", v)
        return _blocks.multiply(tasks, _check.as_float("v", v), batch_size, progress, first)

    return multiply


def _pair_tasks(
    kernel_fn: KernelFn | TwoTowers, x: ArrayLike, x_prime: ArrayLike
) -> tuple[list[_blocks.Task], int]:
    if not isinstance(kernel_fn, TwoTowers):
        kernel_fn = as_kernel_fn(kernel_fn)
    num = _num_pairs(x, x_prime)
    if isinstance(kernel_fn, TwoTowers):
        first, second = kernel_fn
        return [_task(first, x), _task(second, x_prime, row=num, column=num)], 2 * num
    if _check.shape_of(x) != _check.shape_of(x_prime):
        raise ValueError(
            f"x and x_prime must have one shape, got {_check.shape_of(x)} and "
            f"{_check.shape_of(x_prime)}: views of different kinds need TwoTowers."
        )
    return [_blocks.Task(kernel_fn, _blocks.joined(x, x_prime))], 2 * num


def _task(
    kernel_fn: KernelFn, x1: ArrayLike, x2: ArrayLike | None = None, row: int = 0, column: int = 0
) -> _blocks.Task:
    x2 = None if x2 is None else _blocks.as_samples(x2)
    return _blocks.Task(as_kernel_fn(kernel_fn), _blocks.as_samples(x1), x2, row, column)


def _num(name: str, x: ArrayLike) -> int:
    shape = _check.shape_of(x)
    if len(shape) < 1 or 0 in shape:
        raise ValueError(f"{name} must hold samples, shape (n, ...), got shape {shape}.")
    return shape[0]


def _num_pairs(x: ArrayLike, x_prime: ArrayLike) -> int:
    num, num_prime = _num("x", x), _num("x_prime", x_prime)
    if num != num_prime:
        raise ValueError(
            f"x and x_prime hold the two views of the same samples: got {num} and {num_prime}."
        )
    return num
