r"""Gram matrices of any kernel function, computed in blocks.

A kernel function maps ``(x1, x2)`` to the matrix :math:`K(x_1, x_2)` of shape ``(n1, n2)``, and
``x1`` alone to :math:`K(x_1, x_1)`. It may come from :mod:`sslstep.ntk.infinite`, from
neural_tangents, or from the user. Compile a function that is not compiled with
``jax.jit(kernel_fn)``. It is called with blocks of ``batch_size`` samples; the last block is padded
to this size, so that all blocks have one shape. For a symmetric matrix, only blocks on and above
the diagonal are computed, and the result is symmetric to the last bit. One block below the diagonal
is computed as well, to check that the kernel function is symmetric.

:func:`matrix` and :func:`operator` take samples. :func:`pairs`, :func:`pairs_operator` and
:func:`to_pairs` take positive pairs, and accept a :class:`TwoTowers` as the kernel function.
"""

import contextlib
import os
import tempfile
import threading
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh, NamedSharding
from jax.sharding import PartitionSpec as P
from jax.typing import ArrayLike, DTypeLike
from jaxtyping import Array, Float, Real

from sslstep import _check, _terminal, _xla
from sslstep._linalg import matmul

__all__ = [
    "TwoTowers",
    "as_kernel_fn",
    "matrix",
    "operator",
    "pairs",
    "pairs_operator",
    "to_pairs",
]

KernelFn = Callable[..., Any]
"""A function of ``(x1, x2=None)`` that returns K(x1, x2), shape ``(n1, n2)``."""

_Samples = Array | np.ndarray


class TwoTowers(NamedTuple):
    r"""Kernel functions of two models, one for each view, as in CLIP (Section 5.2).

    The kernel between points of different views is zero. The views may have different shapes.

    Attributes:
        first: the kernel function of the model of x.
        second: the kernel function of the model of x'.
    """

    first: KernelFn
    second: KernelFn


@dataclass(frozen=True)
class Views:
    """Concatenation of arrays of one shape; memory-mapped files are read lazily."""

    arrays: Sequence[_Samples]

    @property
    def shape(self) -> tuple[int, ...]:
        """Shape of the concatenated array."""
        return (len(self.arrays) * len(self.arrays[0]), *self.arrays[0].shape[1:])

    def __getitem__(self, index: np.ndarray) -> Any:
        """Return the samples at these indices, in the common dtype; read each array forwards."""
        order = np.argsort(index, kind="stable")
        starts = len(self.arrays[0]) * np.arange(len(self.arrays))
        parts = np.split(index[order], np.searchsorted(index[order], starts[1:]))
        known = zip(self.arrays, parts, starts, strict=True)
        join = jnp.concatenate if isinstance(self.arrays[0], jax.Array) else np.concatenate
        joined = join([array[part - start] for array, part, start in known])
        return joined if (index[1:] >= index[:-1]).all() else joined[np.argsort(order)]


class _Task(NamedTuple):
    """A kernel matrix to compute, and the row and column of its first entry in the result."""

    kernel_fn: Callable[..., Any]
    x1: _Samples | Views
    x2: _Samples | None = None
    row: int = 0
    column: int = 0

    @property
    def others(self) -> _Samples | Views:
        """The samples of the columns."""
        return self.x1 if self.x2 is None else self.x2


class _Block(NamedTuple):
    """A block of the result; with `mirrored` its transpose is a block of the result as well."""

    values: Array
    row: int
    column: int
    mirrored: bool


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
    r"""Compute the kernel matrix K(x1, x2) in blocks.

    It needs memory for the result and a few blocks.

    Args:
        kernel_fn: a function of ``(x1, x2=None)`` that returns K(x1, x2).
        x1: samples, shape ``(n1, ...)``.
        x2: samples, shape ``(n2, ...)``; None for K(x1, x1), at about half the cost.
        batch_size: number of samples in a block; need not divide n1 or n2.
        dtype: dtype of the result, to which each block is rounded; None: the kernel's dtype. With
            ``out``, float64 does not need x64 enabled.
        out: a new file for the matrix (NumPy's ``.npy`` format), instead of memory. The file gets
            this name when it is complete.
        progress: whether to show a progress bar; None: on a terminal.

    Returns:
        K, shape ``(n1, n2)``; with ``out`` a read-only :class:`numpy.memmap`.

    Raises:
        ValueError: if there are no samples, or if the kernel function returns another shape, an
            asymmetric matrix for K(x1, x1), or NaN or infinity, whose rows and columns are named.
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
    devices: Sequence[jax.Device] | None = None,
    progress: bool | None = None,
) -> Callable[[Real[ArrayLike, "n b"]], Float[Array, "n b"]]:
    r"""Return the function v → K(x, x) v, which never stores K as a whole.

    Each product computes the blocks of K again. It needs :math:`O(\mathrm{batch\_size}^2 + n b)`
    memory.

    With ``devices`` the blocks are dealt to several devices, of one process or of all processes of
    ``jax.distributed``. Between devices only v and the products travel, n b numbers each. Every
    process must make the same call with the same arguments, and call the returned function as often
    as the others, with blocks of one shape; v is that of the first process. An error in one process
    is raised in all.

    Args:
        kernel_fn: a function of ``(x1, x2=None)`` that returns K(x1, x2).
        x: samples, shape ``(n, ...)``.
        batch_size: number of samples in a block; need not divide n. A GPU needs larger blocks than
            a CPU, such as 8192, to be busy.
        devices: devices to which blocks are dealt, with a thread for each device of this process.
            They are of this process alone, or some of each process. JAX arrays of samples are
            copied to each device once; of NumPy arrays each block is. None: JAX's default device.
        progress: whether to show a progress bar for each product, of the first device's share;
            None: on a terminal.

    Returns:
        A function from v, shape ``(n, b)``, to K v in the shape and dtype of v. Blocks are rounded
        to this dtype before they are multiplied. The function raises ValueError if v does not have
        shape ``(n, b)`` or is not finite, or in the cases in which :func:`matrix` rejects the
        kernel function; with ``devices`` also if v is traced.

    Raises:
        ValueError: if there are no samples, or ``devices`` are not as described.

    Example:
        >>> import jax.numpy as jnp
        >>> from sslstep import gram
        >>> def linear_kernel(x1, x2=None):
        ...     return x1 @ (x1 if x2 is None else x2).T
        >>> gram.operator(linear_kernel, jnp.array([[1.0], [2.0], [3.0]]))(jnp.ones((3, 1))).T
        Array([[ 6., 12., 18.]], dtype=float32)
    """
    _num("x", x)
    return _Operator([_task(kernel_fn, x)], batch_size, devices, progress)


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
        kernel_fn: a function of ``(x1, x2=None)`` that returns K(x1, x2), or a :class:`TwoTowers`,
            for which the off-diagonal blocks of K̃ are zero.
        x: the first view X of each sample, shape ``(n, ...)``. Memory-mapped arrays of one dtype
            are read block by block.
        x_prime: the second view X' of each sample, in the same order, shape ``(n, ...)``.
        batch_size: number of samples in a block; need not divide 2n.
        dtype: dtype of the result; None: the kernel's dtype. See :func:`matrix`.
        out: a new ``.npy`` file for the matrix, instead of memory.
        progress: whether to show a progress bar; None: on a terminal.

    Returns:
        K̃, shape ``(2n, 2n)``; with ``out`` a read-only :class:`numpy.memmap`.

    Raises:
        ValueError: if the views differ in number or (except with two towers) in shape, or in the
            cases in which :func:`matrix` raises it.
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
    tasks, size = _pair_tasks(kernel_fn, x, x_prime), 2 * _num("x", x)
    return _matrix(tasks, (size, size), batch_size, dtype, out, progress)


def pairs_operator(
    kernel_fn: KernelFn | TwoTowers,
    x: Real[ArrayLike, "n ..."],
    x_prime: Real[ArrayLike, "n ..."],
    *,
    batch_size: int = 1000,
    devices: Sequence[jax.Device] | None = None,
    progress: bool | None = None,
) -> Callable[[Real[ArrayLike, "m b"]], Float[Array, "m b"]]:
    r"""Return the function v → K̃ v, with K̃ of :func:`pairs`, which never stores K̃ as a whole.

    Each product computes the blocks of K̃ again: see :func:`operator`.

    Args:
        kernel_fn: a function of ``(x1, x2=None)`` that returns K(x1, x2), or a :class:`TwoTowers`.
        x: the first view of each sample, shape ``(n, ...)``.
        x_prime: the second view of each sample, in the same order, shape ``(n, ...)``.
        batch_size: number of samples in a block; need not divide 2n.
        devices: devices to which blocks are dealt, also those of several processes; None: JAX's
            default device.
        progress: whether to show a progress bar for each product; None: on a terminal.

    Returns:
        A function from v, shape ``(2n, b)``, to K̃ v in the shape and dtype of v. It raises
        ValueError in the cases in which the function of :func:`operator` does.

    Raises:
        ValueError: if there are no samples, if the views differ in number or (except with two
            towers) in shape, or if :func:`operator` rejects ``devices``.

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
    return _Operator(_pair_tasks(kernel_fn, x, x_prime), batch_size, devices, progress)


def to_pairs(
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
        kernel_fn: a function of ``(x1, x2=None)`` that returns K(x1, x2), or a :class:`TwoTowers`.
        x_test: new points, shape ``(n_test, ...)``.
        x: the first view X of the training pairs, shape ``(n, ...)``.
        x_prime: the second view X', in the same order, shape ``(n, ...)``.
        view: for :class:`TwoTowers` only, the view to which the new points belong: 0 for x, 1 for
            x'. Their kernel with the other view is zero.
        batch_size: number of samples in a block; need not divide n_test or n.
        dtype: dtype of the result; None: the kernel's dtype. See :func:`matrix`.
        out: a new ``.npy`` file for the matrix, instead of memory.
        progress: whether to show a progress bar; None: on a terminal.

    Returns:
        One row k(x) for each new point, shape ``(n_test, 2n)``; with ``out`` a read-only
        :class:`numpy.memmap`.

    Raises:
        ValueError: if the views differ in number, if ``view`` is missing with two towers or given
            without them, or in the cases in which :func:`matrix` raises it.
        FileExistsError: if ``out`` exists.

    Example:
        >>> import jax.numpy as jnp
        >>> from sslstep import gram
        >>> def linear_kernel(x1, x2=None):
        ...     return x1 @ (x1 if x2 is None else x2).T
        >>> x, x_prime = jnp.array([[1.0]]), jnp.array([[2.0]])
        >>> gram.to_pairs(linear_kernel, jnp.array([[3.0]]), x, x_prime)
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
        tasks = [_task(kernel_fn, x_test, x), _task(kernel_fn, x_test, x_prime, column=num)]
    return _matrix(tasks, (num_test, 2 * num), batch_size, dtype, out, progress)


def as_kernel_fn(kernel_fn: KernelFn, kernel: Literal["nngp", "ntk"] = "ntk") -> KernelFn:
    r"""Convert a kernel function whose result holds several kernels to one that returns an array.

    The other functions of this module apply this conversion with ``kernel="ntk"``. A ``kernel_fn``
    of neural_tangents therefore needs it only for the NNGP kernel.

    Args:
        kernel_fn: a function of ``(x1, x2=None)``, or of ``(x1, x2)`` without a default. Its result
            is an array, or an object with the attribute ``ntk`` or ``nngp``.
        kernel: the attribute to return, ``"ntk"`` or ``"nngp"``.

    Returns:
        A function of ``(x1, x2=None)`` that returns an array. It raises TypeError if ``kernel_fn``
        does not return floating-point numbers, or has no NNGP kernel when that is asked for.

    Raises:
        ValueError: if ``kernel_fn`` is not a function, or ``kernel`` is unknown.

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
    both = not _check.takes(kernel_fn, None)

    def array_kernel_fn(x1: ArrayLike, x2: ArrayLike | None = None) -> Any:
        result = kernel_fn(x1, x1 if x2 is None and both else x2)
        array: Any = getattr(result, kernel, result if kernel == "ntk" else None)
        if not hasattr(array, "shape"):
            wanted = "an array" if kernel == "ntk" else "kernels, among them nngp"
            raise TypeError(f"kernel_fn must return {wanted}, got a {type(result).__name__}.")
        if not jnp.issubdtype(array.dtype, jnp.floating):
            raise TypeError(f"kernel_fn must return floats, got {array.dtype}: are x integers?")
        return array

    return array_kernel_fn


def _matrix(
    tasks: list[_Task],
    shape: tuple[int, int],
    batch_size: int,
    dtype: DTypeLike | None,
    out: str | os.PathLike[str] | None,
    progress: bool | None,
) -> Array | np.memmap:
    """Compute a matrix block by block, as an array or in a file."""
    if dtype is not None:
        dtype = jnp.dtype(dtype)
        if not jnp.issubdtype(dtype, jnp.floating):
            raise ValueError(f"dtype must be a floating type, got {dtype}.")
        if out is None:
            _check.require_available(dtype, otherwise=", or a file: out")
    blocks = _blocks(_places(tasks, batch_size), batch_size, dtype, progress)
    if out is not None:
        return _write(Path(out).expanduser(), shape, blocks)
    result = None
    for values, *place in blocks:
        if result is None:
            result = jnp.zeros(shape, jax.dtypes.canonicalize_dtype(values.dtype))
        result = _place(result, values.astype(result.dtype), *place)
    assert result is not None  # there is at least one block
    return result


class _Operator:
    """The function v → K v, whose blocks are computed anew for each product.

    Blocks are computed one by one, and only sums over devices are compiled with `shard_map`. One
    program over all blocks would have to trace the kernel function: it could neither compute in
    float64 without x64 nor read samples from files, and no error would name its rows.

    `shared` is true if the devices are of several processes, which then multiply together.
    """

    def __init__(
        self,
        tasks: list[_Task],
        batch_size: int,
        devices: Sequence[jax.Device] | None,
        progress: bool | None,
    ) -> None:
        self._tasks, self.size = tasks, sum(task.x1.shape[0] for task in tasks)
        self._batch_size, self._progress = batch_size, progress
        self._first = iter([True])  # the first product looks at symmetry
        self._devices, self.shared = list(devices or []), False
        if devices is not None:
            processes = {device.process_index for device in self._devices}
            own = jax.process_index()
            if processes not in ({own}, set(range(jax.process_count()))):
                raise ValueError(
                    f"devices must be of this process, {own}, or some of each of the "
                    f"{jax.process_count()} processes, got {self._devices!r}."
                )
            self.shared = len(processes) > 1
            # The device whose v counts, and whose progress is shown.
            self._source = [d.process_index for d in self._devices].index(min(processes))
            self._own = [
                (index, device, [_on(device, task) for task in tasks])
                for index, device in enumerate(self._devices)
                if device.process_index == own
            ]

    def __call__(self, v: Real[ArrayLike, "n b"]) -> Float[Array, "n b"]:
        _check.require_matrix("v", v, f"({self.size}, b)", rows=self.size)
        with self._together():
            _check.require_finite("v", v)
            v, both_ways = _check.as_float("v", v), next(self._first, False)
        if not self._devices:
            places = _places(self._tasks, self._batch_size)
            return _multiply(places, v, self._batch_size, self._progress, both_ways)
        if not _check.is_concrete(v):
            raise ValueError("v must be known, and not traced, for an operator with devices.")
        return self._on_devices(v, both_ways)

    def probe(self, v: Float[Array, "n b"]) -> Float[np.ndarray, "n b"]:
        """Return K v in the first rows, of each tower, and NaN in the others; without others."""
        size = self._batch_size
        places = [place for place in _places(self._tasks, size) if place[1] == 0]
        product = np.asarray(_multiply(places, v, size, self._progress, both_ways=False))
        known = np.full_like(product, np.nan)
        for task in self._tasks:
            rows = slice(task.row, task.row + size)
            known[rows] = product[rows]
        return known

    def _on_devices(self, v: Array, both_ways: bool) -> Array:
        mesh = Mesh(np.asarray(self._devices), ("devices",))
        zeros = jnp.zeros_like(v)
        given = [
            jax.device_put(v if index == self._source else zeros, device)
            for index, device, _ in self._own
        ]
        copies = {copy.device: copy.data for copy in _sum(mesh, given).addressable_shards}
        stop = threading.Event()

        @_xla.for_threads
        def share(index: int, device: jax.Device, tasks: list[_Task]) -> Array:
            places = _places(tasks, self._batch_size)[index :: len(self._devices)]
            settings = self._batch_size, self._progress if index == self._source else False
            try:
                with jax.default_device(device):
                    return _multiply(places, copies[device], *settings, both_ways, stop)
            except BaseException:
                stop.set()
                raise

        with self._together(), ThreadPoolExecutor(len(self._own)) as pool:
            # One device needs no thread, where fewer of JAX's settings hold.
            each = map if len(self._own) == 1 else pool.map
            try:
                totals = list(each(share, *zip(*self._own, strict=True)))
            finally:
                stop.set()
        return _sum(mesh, totals).addressable_data(0)

    def _together(self) -> contextlib.AbstractContextManager[None]:
        """Raise an error of one process in all of them."""
        if not self.shared:
            return contextlib.nullcontext()
        from sslstep.train._peers import Peers  # here, because it imports the trainer's packages

        return Peers().together()


def _on(device: jax.Device, task: _Task) -> _Task:
    """Copy the samples of a symmetric matrix to a device, unless they are on the host."""
    on_device = isinstance(task.x1, jax.Array)
    return task._replace(x1=jax.device_put(task.x1, device)) if on_device else task


def _sum(mesh: Mesh, parts: list[Array]) -> Array:
    """Sum one array of each device of the mesh; `parts` are those of this process's devices."""
    shape, rows = (mesh.size, *parts[0].shape), NamedSharding(mesh, P("devices"))
    parts = [part[None] for part in parts]
    return _psum(mesh, jax.make_array_from_single_device_arrays(shape, rows, parts))


@partial(jax.jit, static_argnums=0, donate_argnums=1)
def _psum(mesh, stacked):
    def total(own):
        return jax.lax.psum(own[0], "devices")

    return jax.shard_map(total, mesh=mesh, in_specs=P("devices"), out_specs=P())(stacked)


def _pair_tasks(kernel_fn: KernelFn | TwoTowers, x: ArrayLike, x_prime: ArrayLike) -> list[_Task]:
    """Return the symmetric matrices of which K̃ consists."""
    if isinstance(kernel_fn, TwoTowers):
        num = _num_pairs(x, x_prime)
        second = _task(kernel_fn.second, x_prime, row=num, column=num)
        return [_task(kernel_fn.first, x), second]
    kernel_fn = as_kernel_fn(kernel_fn)
    _num_pairs(x, x_prime)
    hint = ": views of different kinds need TwoTowers"
    _check.require_one_shape("x and x_prime", x, x_prime, hint)
    views = as_samples(x), as_samples(x_prime)
    on_device = any(isinstance(view, jax.Array) for view in views)
    return [_Task(kernel_fn, jnp.concatenate(views) if on_device else Views(views))]


def _task(
    kernel_fn: KernelFn, x1: ArrayLike, x2: ArrayLike | None = None, row: int = 0, column: int = 0
) -> _Task:
    x2 = None if x2 is None else as_samples(x2)
    return _Task(as_kernel_fn(kernel_fn), as_samples(x1), x2, row, column)


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


def as_samples(x: ArrayLike) -> _Samples:
    """Convert to an array; memory-mapped arrays are returned as they are, without reading them."""
    return x if isinstance(x, jax.Array | np.ndarray) else np.asarray(x)


def _blocks(
    places: list[tuple[_Task, int, int]],
    batch_size: int,
    dtype: DTypeLike | None,
    progress: bool | None,
    *,
    both_ways: bool = True,
) -> Iterator[_Block]:
    """Yield the blocks at these places, rounded to `dtype`.

    Raise ValueError if a block on the diagonal is not symmetric. With `both_ways`, also compute
    block (1, 0) where block (0, 1) is computed, and raise if it is not its transpose.
    """
    corner: Any = None
    settings: Any = {"total": len(places), "desc": "kernel", "unit": " blocks"}
    with _terminal.progress_bar(progress, **settings) as bar:
        for task, i, j in places:
            values = _values(task, i, j, batch_size)
            yield _block(task, values, i, j, batch_size, dtype)
            if both_ways and task.x2 is None and i == 0:
                if j == 0:
                    corner = task, values
                elif j == batch_size and _check.is_concrete(values):
                    if corner is None or corner[0] is not task:  # another device has it
                        corner = task, _values(task, 0, 0, batch_size)
                    name = "the kernel between two blocks of samples"
                    below = _values(task, j, i, batch_size)
                    with jax.enable_x64(True):
                        _check.require_transpose(name, values, below, _TRANSPOSE, beside=corner[1])
            bar.update()


def _places(tasks: list[_Task], batch_size: int) -> list[tuple[_Task, int, int]]:
    """Return the tasks and first entries of all blocks; of symmetric matrices the upper half."""
    _check.require_within("batch_size", batch_size, at_least=1)
    found = []
    for task in tasks:
        for i in range(0, task.x1.shape[0], batch_size):
            first = i if task.x2 is None else 0
            found += [(task, i, j) for j in range(first, task.others.shape[0], batch_size)]
    return found


def _values(task: _Task, i: int, j: int, batch_size: int) -> Any:
    """Evaluate the kernel function on a padded block and check the shape of its result."""
    rows = _samples(task.x1, i, batch_size)
    columns = None if task.x2 is None and i == j else _samples(task.others, j, batch_size)
    values = task.kernel_fn(rows, columns)
    others = rows if columns is None else columns
    wanted = (rows.shape[0], others.shape[0])
    if _check.shape_of(values) != wanted:
        raise ValueError(
            f"kernel_fn must return a matrix of shape (n1, n2): wanted {wanted} of inputs of "
            f"shapes {rows.shape} and {others.shape}, got {_check.shape_of(values)}."
        )
    return values


def _block(
    task: _Task, given: Any, i: int, j: int, batch_size: int, dtype: DTypeLike | None
) -> _Block:
    symmetric = task.x2 is None
    diagonal = symmetric and i == j
    height = min(batch_size, task.x1.shape[0] - i)
    width = min(batch_size, task.others.shape[0] - j)
    dtype = given.dtype if dtype is None else dtype
    concrete = _check.is_concrete(given)
    with jax.enable_x64(True) if concrete else contextlib.nullcontext():
        values, finite = _cut(given, height=height, width=width, diagonal=diagonal, dtype=dtype)
        finite = not concrete or bool(finite)
        if diagonal and finite:  # only the upper triangle is used
            _check.require_symmetric("the kernel of a block of samples", given, _TRANSPOSE)
    row, column = task.row + i, task.column + j
    if not finite:
        raise ValueError(
            f"the kernel holds NaN or infinity, in {jnp.dtype(dtype)}, within rows {row} to "
            f"{row + height - 1} and columns {column} to {column + width - 1}."
        )
    return _Block(values, row, column, mirrored=symmetric and not diagonal)


_TRANSPOSE = " kernel_fn(a, b) must be the transpose of kernel_fn(b, a)."


def _samples(x: _Samples | Views, start: int, batch_size: int) -> _Samples:
    """Return a block of samples; repeat the last sample so that all blocks have one shape."""
    num = x.shape[0]
    size = min(batch_size, num)
    if isinstance(x, jax.Array):
        return _rows(x, start, size)
    return x[np.minimum(np.arange(start, start + size), num - 1)]


@partial(jax.jit, static_argnames="size")
def _rows(x, start, size):
    return jnp.take(x, start + jnp.arange(size), axis=0, mode="clip")


@partial(jax.jit, static_argnames=("height", "width", "diagonal", "dtype"))
def _cut(values, *, height, width, diagonal, dtype):
    values = values[:height, :width].astype(dtype)
    values = jnp.triu(values) + jnp.triu(values, 1).T if diagonal else values
    return values, jnp.isfinite(values).all()


@partial(jax.jit, donate_argnums=0, static_argnames="mirrored")
def _place(result, values, row, column, mirrored):
    result = jax.lax.dynamic_update_slice(result, values, (row, column))
    return jax.lax.dynamic_update_slice(result, values.T, (column, row)) if mirrored else result


def _write(path: Path, shape: tuple[int, int], blocks: Iterable[_Block]) -> np.memmap:
    """Write the blocks of a matrix to a temporary file, rename it to `path`, and map it."""
    _require_new(path)
    # In a temporary folder: a temporary file would have more restrictive permissions.
    with tempfile.TemporaryDirectory(dir=path.parent, prefix=f".{path.name}.") as folder:
        draft, result = Path(folder) / path.name, None
        for block in blocks:
            values = np.asarray(block.values)
            if values.dtype.kind == "V":  # such as bfloat16: NumPy would not record the dtype
                raise ValueError(
                    f"out is a file of NumPy's, which knows no {values.dtype}: give another dtype."
                )
            if result is None:
                result = np.lib.format.open_memmap(draft, "w+", values.dtype, shape)
            rows = slice(block.row, block.row + values.shape[0])
            columns = slice(block.column, block.column + values.shape[1])
            result[rows, columns] = values
            if block.mirrored:
                result[columns, rows] = values.T
        assert result is not None
        result.flush()
        _require_new(path)  # another process may have created it
        draft.rename(path)
    return np.load(path, mmap_mode="r")


def _require_new(path: Path) -> None:
    if path.exists():
        raise FileExistsError(f"out = {path} exists already: remove it or name another file.")


def _multiply(
    places: list[tuple[_Task, int, int]],
    v: Array,
    batch_size: int,
    progress: bool | None,
    both_ways: bool,
    stop: threading.Event | None = None,
) -> Array:
    """Return the blocks times v; a mirrored block is multiplied once more as its transpose."""
    total = jnp.zeros_like(v)
    for block in _blocks(places, batch_size, v.dtype, progress, both_ways=both_ways):
        if stop is not None and stop.is_set():
            break
        total = _add_product(total, block.values, v, block.row, block.column)
        if block.mirrored:
            total = _add_product(total, block.values.T, v, block.column, block.row)
    return total


@partial(jax.jit, donate_argnums=0)
def _add_product(total, values, v, row, column):
    height, width = values.shape
    product = matmul(values, jax.lax.dynamic_slice_in_dim(v, column, width))
    product += jax.lax.dynamic_slice_in_dim(total, row, height)
    return jax.lax.dynamic_update_slice_in_dim(total, product, row, 0)
