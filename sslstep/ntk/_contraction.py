"""Inner products of per-sample gradients, layer by layer, in the cheaper of two orders.

For a layer with P positions, fan-in K and fan-out C, and for samples i and j,

    sum_kc G_i[k, c] G_j[k, c] = sum_pq (rows_i[p] . rows_j[q]) (cotangents_i[p] . cotangents_j[q]).

The left side costs 2 P K C operations a sample, which form the gradients, and 2 K C for each pair.
The right side forms no gradients and costs 2 P^2 (K + C) for each pair.
"""

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array

from sslstep.ntk._program import Captured
from sslstep.ntk._sites import Site

# Cost of multiplying and summing an entry of the two position-by-position matrices, in units of an
# operation of a matrix product.
_ENTRY = 60
# Rows of a symmetric matrix computed at a time, each from the diagonal on.
_STRIP = 128


def contract(
    sites: Sequence[Site],
    first: Captured,
    second: Captured | None,
    *,
    full: bool,
    dtype: Any,
    workspace: int,
) -> Array:
    """Inner products of the gradients of two blocks of samples, summed over all parameters.

    With `second` None the kernel is that of the first block with itself, and entries below the
    diagonal are undefined. With `full` the result has shape (n1, D, n2, D), one entry for each pair
    of directions; otherwise equal directions are summed, and the shape is (n1, 1, n2, 1). Layers
    are computed one after the other to save memory; layers of equal shapes compile once.
    """
    arrays = (*first.cotangents, *first.gradients)
    n1, num = arrays[0].shape[0], arrays[0].shape[1] if full else 1
    n2 = n1 if second is None else jax.tree.leaves(second)[0].shape[0]
    total = jnp.zeros((n1, num, n2, num), dtype)
    for number, site in enumerate(sites):
        blocks = [
            None if block is None else (block.inputs[number], block.cotangents[number])
            for block in (first, second)
        ]
        total = _add_site(total, *blocks, site=site, full=full, workspace=workspace)
    if any(leaf.size for leaf in first.gradients):
        right = None if second is None else second.gradients
        total = _add_others(total, first.gradients, right, full=full)
    return total


@partial(jax.jit, static_argnames=("site", "full", "workspace"))
def _add_site(total, first, second, *, site: Site, full: bool, workspace: int) -> Array:
    def prepare(block):
        x, cotangents = block
        cotangents = site.columns(cotangents)
        if not full:  # directions are summed like channels
            cotangents = jnp.moveaxis(cotangents, 2, 3)
            cotangents = cotangents.reshape(*cotangents.shape[:3], -1)[:, :, None]
        return x, cotangents

    n1, num, n2, _ = total.shape
    pairs = _Pairs(n1, n2, second is None)
    left = prepare(first)
    right = None if second is None else prepare(second)
    by_gradients, by_positions = operations(site, pairs, num, left[1].shape[-1])
    way = _by_positions if by_positions < by_gradients else _by_gradients
    return total + way(site, left, right, pairs, total.dtype, workspace)


@partial(jax.jit, static_argnames="full")
def _add_others(total, first, second, *, full: bool) -> Array:
    def join(leaves):
        joined = jnp.concatenate([leaf.astype(total.dtype) for leaf in leaves], axis=2)
        return joined if full else joined.reshape(len(joined), 1, -1)

    n1, _, n2, _ = total.shape
    left = join(first)
    right = left if second is None else join(second)
    return total + _Pairs(n1, n2, second is None).fill(left, right, _inner, total.dtype)


class _Pairs:
    """The pairs of samples of two blocks, in strips: rows of the first block and their columns.

    If the kernel is symmetric, a strip has only the columns from its first row on.
    """

    def __init__(self, n1: int, n2: int, symmetric: bool) -> None:
        self.n1, self.n2 = n1, n2
        self.num_samples = n1 if symmetric else n1 + n2
        size = _STRIP if symmetric else n1
        # First row, one past the last row, and first column of each strip.
        self.strips = [
            (start, min(start + size, n1), start if symmetric else 0)
            for start in range(0, n1, size)
        ]
        self.num = sum((stop - start) * (n2 - begin) for start, stop, begin in self.strips)

    def fill(self, left: Any, right: Any, product: Callable[..., Array], dtype: Any) -> Array:
        """Compute the strips by `product(rows of left, rows of right, dtype)` and join them."""

        def cut(tree, start, stop):
            return jax.tree.map(lambda leaf: leaf[start:stop], tree)

        rows = []
        for start, stop, begin in self.strips:
            values = product(cut(left, start, stop), cut(right, begin, self.n2), dtype)
            rows.append(jnp.pad(values, ((0, 0), (0, 0), (begin, 0), (0, 0))))
        return jnp.concatenate(rows)


def _inner(left: Array, right: Array, dtype: Any) -> Array:
    """Inner products over the last axis: (n1, F, E) and (n2, F, E) to (n1, F, n2, F)."""
    (n1, f, _), n2 = left.shape, len(right)
    a, b = (value.reshape(-1, value.shape[-1]) for value in (left, right))
    return jnp.matmul(a, b.T, **_exact(dtype)).reshape(n1, f, n2, f)


def operations(site: Site, pairs: _Pairs, num: int, fan_out: int) -> tuple[int, int]:
    """Return the numbers of operations in the two orders: by gradients, and by positions.

    `num` is the number of samples, and `fan_out` is channels times summed directions.
    """
    product = 2 * site.groups * site.fan_in * fan_out * num
    by_gradients = (pairs.num_samples * site.positions + pairs.num * num) * product
    entries = site.groups * site.positions**2
    by_positions = entries * (2 * site.fan_in + num**2 * (2 * fan_out + _ENTRY))
    return by_gradients, pairs.num * by_positions


def _by_positions(site, first, second, pairs: _Pairs, dtype, workspace: int) -> Array:
    """Right side: products of inputs times products of cotangents, summed over positions."""

    def prepare(block):
        x, cotangents = block
        rows = site.rows(x)
        return _at_least(rows, dtype), _at_least(cotangents, dtype)

    def product(left, right, dtype):
        rows_right, columns_right = right
        num = columns_right.shape[2]

        def of_group(rows, columns, rows_right, columns_right):
            a = jnp.einsum("pk,jqk->pjq", rows, rows_right, **_exact(dtype))
            b = jnp.einsum("fpc,jhqc->fpjhq", columns, columns_right, **_exact(dtype))
            return jnp.sum(a[None, :, :, None] * b, axis=(1, 4))

        def of_sample(one):
            return _of_groups(of_group, *one, rows_right, columns_right, axes=(0, 0, 1, 1)).sum(0)

        entries = site.groups * site.positions**2 * len(rows_right) * (1 + num**2)
        size = max(1, workspace // (entries * jnp.dtype(dtype).itemsize))
        return lax.map(of_sample, left, batch_size=min(size, len(left[0])))

    left = prepare(first)
    return pairs.fill(left, left if second is None else prepare(second), product, dtype)


def _by_gradients(site, first, second, pairs: _Pairs, dtype, workspace: int) -> Array:
    """Left side: gradients and their products, for as many channels at a time as memory holds."""
    num, fan_out = first[1].shape[2], first[1].shape[-1]
    entries = pairs.num_samples * num * site.groups * site.fan_in * fan_out
    # Gradients are held twice, in two orders of axes.
    parts = _divisor(fan_out, 2 * entries * jnp.dtype(dtype).itemsize / workspace)
    patches = site.groups * site.positions * site.fan_in * jnp.dtype(dtype).itemsize
    size = max(1, workspace // (8 * patches))  # patches, reordered patches and their sources

    def split(block):
        x, cotangents = block
        shape = (*cotangents.shape[:-1], parts, fan_out // parts)
        return x, jnp.moveaxis(cotangents.reshape(shape), -2, 0)

    def of_group(rows, columns):
        columns = jnp.moveaxis(columns, 0, 1).reshape(len(rows), -1)  # all directions
        return jnp.matmul(columns.T, rows, **_exact(dtype)).reshape(num, -1)

    def gradients(x, cotangents):
        def of_sample(one):
            x, columns = one
            rows = _at_least(site.rows(x[None])[0], dtype)
            value = _of_groups(of_group, rows, _at_least(columns, dtype), axes=(0, 0))
            return jnp.moveaxis(value, 0, 1).reshape(num, -1)

        return lax.map(of_sample, (x, cotangents), batch_size=min(size, len(x)))

    x1, parts1 = split(first)
    x2, parts2 = (None, None) if second is None else split(second)

    def add(total, part):
        left = gradients(x1, part[0])
        right = left if x2 is None else gradients(x2, part[1])
        return total + pairs.fill(left, right, _inner, dtype), None

    shape = (pairs.n1, num, pairs.n2, num)
    return lax.scan(add, jnp.zeros(shape, dtype), (parts1, parts2))[0]


def _of_groups(function: Callable[..., Array], *arrays: Array, axes: tuple[int, ...]) -> Array:
    """Apply the function to each group and stack the results; `axes` are the arrays' group axes.

    A single group is not mapped: XLA would copy the results of products with an axis of length 1.
    """
    if arrays[0].shape[axes[0]] > 1:
        return jax.vmap(function, in_axes=axes)(*arrays)
    return function(*(jnp.squeeze(a, axis) for a, axis in zip(arrays, axes, strict=True)))[None]


def _exact(dtype: Any) -> dict[str, Any]:
    return {"precision": "highest", "preferred_element_type": dtype}


def _at_least(value: Array, dtype: Any) -> Array:
    """Convert to `dtype` if it is float64; half precision is multiplied as is and summed wider."""
    return value.astype(dtype) if jnp.finfo(dtype).bits == 64 else value


def _divisor(number: int, at_least: float) -> int:
    """Smallest divisor of `number` that is at least `at_least`, or `number` itself."""
    return next((d for d in range(1, number) if number % d == 0 and d >= at_least), number)
