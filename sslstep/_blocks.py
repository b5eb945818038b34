"""Kernel matrices block by block: the work behind `sslstep.gram`."""

import contextlib
import inspect
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import ArrayLike, DTypeLike
from jaxtyping import Array

from sslstep import _check
from sslstep._linalg import matmul

Samples = Array | np.ndarray


def as_samples(x: ArrayLike) -> Samples:
    """An array; one in a memory-mapped file stays there, to be read block by block."""
    return x if isinstance(x, jax.Array | np.ndarray) else np.asarray(x)


@dataclass(frozen=True)
class Joined:
    """Two arrays of one shape and dtype, one after the other; what lies in files stays there."""

    first: np.ndarray
    second: np.ndarray

    @property
    def shape(self) -> tuple[int, ...]:
        """Of both together."""
        return (len(self.first) + len(self.second), *self.first.shape[1:])

    def __getitem__(self, index: np.ndarray) -> np.ndarray:
        """The samples at increasing indices."""
        num = len(self.first)
        later = index[index >= num] - num
        return np.concatenate([self.first[index[index < num]], self.second[later]])


def joined(x: ArrayLike, x_prime: ArrayLike) -> Samples | Joined:
    """Both views of all samples, one after the other."""
    first, second = as_samples(x), as_samples(x_prime)
    if isinstance(first, jax.Array) or isinstance(second, jax.Array):
        return jnp.concatenate([first, second])
    if first.dtype != second.dtype:
        return np.concatenate([first, second])
    return Joined(first, second)


def needs_both(kernel_fn: Callable[..., Any]) -> bool:
    """Whether its second argument has no default, and so may not be None."""
    try:
        parameters = list(inspect.signature(kernel_fn).parameters.values())[:2]
    except (TypeError, ValueError):  # some callables do not say
        return False
    kinds = (inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD)
    placed = [parameter for parameter in parameters if parameter.kind in kinds]
    return len(placed) == 2 and placed[1].default is inspect.Parameter.empty


class Task(NamedTuple):
    """A kernel matrix to compute, and where its first entry goes in the result."""

    kernel_fn: Callable[..., Any]
    x1: Samples | Joined
    x2: Samples | None = None
    row: int = 0
    column: int = 0


class Block(NamedTuple):
    """Part of the result. `mirrored`: its transpose belongs to the result as well."""

    values: Array
    row: int
    column: int
    mirrored: bool


def blocks(
    tasks: list[Task],
    batch_size: int,
    dtype: DTypeLike | None,
    progress: bool | None,
    *,
    both_ways: bool = True,
) -> Iterator[Block]:
    """Every block, rounded to `dtype`; of symmetric matrices those on and above the diagonal.

    Whether they are symmetric is seen from blocks on the diagonal and, if `both_ways`, from one
    beside it, which is computed the other way round as well.
    """
    from tqdm import tqdm  # here, so that importing costs no more than JAX

    _check.require_at_least("batch_size", batch_size, 1)
    total = sum(sum(1 for _ in _corners(task, batch_size)) for task in tasks)
    hidden = None if progress is None else not progress  # None: unless on a terminal
    with tqdm(total=total, desc="kernel", unit=" blocks", disable=hidden) as bar:
        for task in tasks:
            corner: Any = None
            for i, j in _corners(task, batch_size):
                values = _values(task, i, j, batch_size)
                yield _block(task, values, i, j, batch_size, dtype)
                if both_ways and task.x2 is None and i == 0:
                    if j == 0:
                        corner = values
                    elif j == batch_size and _check.is_concrete(values):
                        _require_transpose(values, _values(task, j, i, batch_size), corner)
                bar.update()


def _corners(task: Task, batch_size: int) -> Iterator[tuple[int, int]]:
    num_rows = task.x1.shape[0]
    num_columns = num_rows if task.x2 is None else task.x2.shape[0]
    for i in range(0, num_rows, batch_size):
        for j in range(i if task.x2 is None else 0, num_columns, batch_size):
            yield i, j


def _values(task: Task, i: int, j: int, batch_size: int) -> Any:
    """What the kernel function gives of a block, which may be longer than what is left there."""
    rows = _samples(task.x1, i, batch_size)
    x2 = task.x1 if task.x2 is None else task.x2
    columns = None if task.x2 is None and i == j else _samples(x2, j, batch_size)
    values = task.kernel_fn(rows, columns)
    wanted = (rows.shape[0], rows.shape[0] if columns is None else columns.shape[0])
    if _check.shape_of(values) != wanted:
        raise ValueError(
            f"kernel_fn must return a matrix of shape (n1, n2): wanted {wanted} of inputs of "
            f"shapes {rows.shape} and {rows.shape if columns is None else columns.shape}, got "
            f"{_check.shape_of(values)}."
        )
    return values


def _block(
    task: Task, given: Any, i: int, j: int, batch_size: int, dtype: DTypeLike | None
) -> Block:
    symmetric = task.x2 is None
    diagonal = symmetric and i == j
    x2 = task.x1 if task.x2 is None else task.x2
    height = min(batch_size, task.x1.shape[0] - i)
    width = min(batch_size, x2.shape[0] - j)
    dtype = given.dtype if dtype is None else dtype
    concrete = _check.is_concrete(given)
    with jax.enable_x64(True) if concrete else contextlib.nullcontext():
        values = _cut(given, height=height, width=width, diagonal=diagonal, dtype=dtype)
        finite = not concrete or bool(jnp.isfinite(values).all())
        if diagonal and finite:  # only one of its halves is used
            _check.require_symmetric("the kernel of a block of samples", given, _TRANSPOSE)
    row, column = task.row + i, task.column + j
    if not finite:
        raise ValueError(
            f"the kernel holds NaN or infinity, in {jnp.dtype(dtype)}, within rows {row} to "
            f"{row + height - 1} and columns {column} to {column + width - 1}."
        )
    return Block(values, row, column, mirrored=symmetric and not diagonal)


_TRANSPOSE = " kernel_fn(a, b) must be the transpose of kernel_fn(b, a)."


def _require_transpose(values: Any, others: Any, corner: Any) -> None:
    with jax.enable_x64(True):
        name = "the kernel between two blocks of samples"
        _check.require_transpose(name, values, others, _TRANSPOSE, beside=corner)


def _samples(x: Samples | Joined, start: int, batch_size: int) -> Samples:
    """A block of samples; the last one is filled up, so that all have one shape."""
    num = x.shape[0]
    return x[np.minimum(np.arange(start, start + min(batch_size, num)), num - 1)]


@partial(jax.jit, static_argnames=("height", "width", "diagonal", "dtype"))
def _cut(values, *, height, width, diagonal, dtype):
    values = values[:height, :width].astype(dtype)
    return jnp.triu(values) + jnp.triu(values, 1).T if diagonal else values


def assemble(
    tasks: list[Task],
    shape: tuple[int, int],
    batch_size: int,
    dtype: DTypeLike | None,
    progress: bool | None,
) -> Array:
    """The matrix as an array, in which every block is put in place."""
    if dtype is not None:
        _check.require_available(dtype, otherwise=", or a file: out")
    result = None
    for block in blocks(tasks, batch_size, dtype, progress):
        if result is None:
            dtype = jax.dtypes.canonicalize_dtype(block.values.dtype)
            result = jnp.zeros(shape, dtype)
        values = block.values.astype(dtype)
        result = _place(result, values, block.row, block.column)
        if block.mirrored:
            result = _place(result, values.T, block.column, block.row)
    assert result is not None  # there is at least one block
    return result


@partial(jax.jit, donate_argnums=0)
def _place(result, values, row, column):
    return jax.lax.dynamic_update_slice(result, values, (row, column))


def write(
    path: Path,
    tasks: list[Task],
    shape: tuple[int, int],
    batch_size: int,
    dtype: DTypeLike | None,
    progress: bool | None,
) -> np.memmap:
    """The matrix in a file, which gets its name only when it is complete."""
    _require_new(path)
    # In a folder of its own, so that it gets the permissions of any new file.
    with tempfile.TemporaryDirectory(dir=path.parent, prefix=f".{path.name}.") as folder:
        draft, result = Path(folder) / path.name, None
        for block in blocks(tasks, batch_size, dtype, progress):
            values = np.asarray(block.values)
            if values.dtype.kind == "V":  # such as bfloat16, of which NumPy would write only bits
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
        _require_new(path)  # it may have appeared in the meantime
        draft.rename(path)
    return np.load(path, mmap_mode="r")


def _require_new(path: Path) -> None:
    if path.exists():
        raise FileExistsError(f"out = {path} exists already: remove it or name another file.")


def multiply(
    tasks: list[Task], v: Array, batch_size: int, progress: bool | None, first: Iterator[bool]
) -> Array:
    """The matrix times v, each block used where it stands and where it is mirrored.

    `first` yields True for the first product with a matrix, which looks at its symmetry.
    """
    total, both_ways = jnp.zeros_like(v), next(first, False)
    for block in blocks(tasks, batch_size, v.dtype, progress, both_ways=both_ways):
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
