"""Layers that are linear in a parameter array: convolutions and matrix products."""

import itertools
import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import jax.numpy as jnp
from jax import lax
from jaxtyping import Array

from sslstep._convolutions import channels_last

# Number of positions up to which a convolution is faster as a matrix product.
_FEW_POSITIONS = 4


@dataclass(frozen=True, eq=False)
class Site:
    """A layer that is linear in a parameter, reshaped to (groups, fan_in, fan_out).

    Sites with equal `key` are equal.

    `rows` converts inputs of the layer, samples first, to (samples, groups, positions, fan_in).
    `columns` converts outputs (samples, D, *y.shape) to (samples, groups, D, positions, fan_out).
    """

    operands: tuple[int, int]  # indices of the layer's input and the parameter in the equation
    groups: int
    positions: int
    fan_in: int
    fan_out: int
    x: Any  # shape and dtype of the layer's input for one sample
    y: Any  # those of its output
    rows: Callable[[Array], Array]
    columns: Callable[[Array], Array]
    apply: Callable[[Array, Array], Array] | None  # a faster way to evaluate the layer
    key: tuple[Any, ...]  # operation, settings, shapes and dtypes, which determine the fields above

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Site) and self.key == other.key

    def __hash__(self) -> int:
        return hash(self.key)


def dot_site(equation: Any, x: int, weights: int) -> Site | None:
    """Site of a dot_general; None if samples and parameter share batch dimensions."""
    contracting, batch = equation.params["dimension_numbers"]
    if any(batch):
        return None
    shape, y = equation.invars[x].aval.shape, equation.outvars[0].aval
    contracted = tuple(contracting[x])
    free = tuple(axis for axis in range(len(shape)) if axis not in contracted)
    positions = math.prod(shape[axis] for axis in free)
    fan_in = math.prod(shape[axis] for axis in contracted)
    fan_out = y.size // positions

    def rows(value: Array) -> Array:
        order = (0, *(axis + 1 for axis in free + contracted))
        return value.transpose(order).reshape(len(value), 1, positions, fan_in)

    def columns(value: Array) -> Array:
        if x == 1:  # the parameter's own axes come first
            value = value.reshape(*value.shape[:2], fan_out, positions).swapaxes(2, 3)
        return value.reshape(len(value), 1, value.shape[1], positions, fan_out)

    return _site(equation, (x, weights), (1, positions, fan_in, fan_out), rows, columns)


def conv_site(equation: Any, x: int, weights: int) -> Site | None:
    """Site of a conv_general_dilated; None if the parameter is not its kernel."""
    settings = equation.params
    if x != 0 or settings["batch_group_count"] != 1:
        return None
    numbers, groups = settings["dimension_numbers"], settings["feature_group_count"]
    shape, y = equation.invars[0].aval.shape, equation.outvars[0].aval
    kernel = equation.invars[1].aval.shape
    window = tuple(kernel[axis] for axis in numbers.rhs_spec[2:])
    spatial = tuple(y.shape[axis] for axis in numbers.out_spec[2:])
    batch, channels = (shape[axis] for axis in numbers.lhs_spec[:2])
    positions = batch * math.prod(spatial)
    fan_in = math.prod(window) * channels // groups
    fan_out = y.shape[numbers.out_spec[1]] // groups
    dilations = zip(settings["padding"], settings["lhs_dilation"], strict=True)
    padding = [(0, 0, 0), *((low, high, by - 1) for (low, high), by in dilations), (0, 0, 0)]
    strides, spread = settings["window_strides"], settings["rhs_dilation"]

    def patches(value: Array) -> Array:
        num = len(value)
        value = value.transpose(0, *(axis + 1 for axis in channels_last(numbers.lhs_spec)))
        value = value.reshape(num * batch, *value.shape[2:])
        value = lax.pad(value, jnp.zeros((), value.dtype), padding)
        seen = []
        for offset in itertools.product(*(range(size) for size in window)):
            start = [o * by for o, by in zip(offset, spread, strict=True)]
            steps = zip(start, spatial, strides, strict=True)
            stop = [first + (size - 1) * by + 1 for first, size, by in steps]
            whole = (len(value), *stop, channels)
            seen.append(lax.slice(value, (0, *start, 0), whole, (1, *strides, 1)))
        stacked = jnp.stack(seen, axis=-2)
        return stacked.reshape(num, positions, len(seen), groups, channels // groups)

    def rows(value: Array) -> Array:
        return patches(value).transpose(0, 3, 1, 2, 4).reshape(-1, groups, positions, fan_in)

    def columns(value: Array) -> Array:
        value = value.transpose(0, 1, *(axis + 2 for axis in channels_last(numbers.out_spec)))
        value = value.reshape(*value.shape[:2], positions, groups, fan_out)
        return value.transpose(0, 3, 1, 2, 4)

    few = groups == 1 and (math.prod(window) == 1 or positions <= _FEW_POSITIONS)

    def apply(value: Array, kernel: Array) -> Array:
        order = (*numbers.rhs_spec[2:], numbers.rhs_spec[1], numbers.rhs_spec[0])
        kernel = kernel.transpose(order).reshape(fan_in, fan_out)
        dtype, precision = y.dtype, settings["precision"]
        product = jnp.matmul(
            rows(value[None])[0, 0], kernel, precision=precision, preferred_element_type=dtype
        )
        product = product.reshape(batch, *spatial, fan_out)
        order = channels_last(numbers.out_spec)
        return product.transpose([order.index(axis) for axis in range(len(order))])

    sizes = (groups, positions, fan_in, fan_out)
    return _site(equation, (0, 1), sizes, rows, columns, apply if few else None)


def _site(
    equation: Any,
    operands: tuple[int, int],
    sizes: tuple[int, int, int, int],
    rows: Callable[[Array], Array],
    columns: Callable[[Array], Array],
    apply: Callable[[Array, Array], Array] | None = None,
) -> Site:
    x, y = equation.invars[operands[0]].aval, equation.outvars[0].aval
    shapes = tuple(str(var.aval) for var in (*equation.invars, equation.outvars[0]))
    key = (equation.primitive.name, operands, str(equation.params), shapes)
    return Site(operands, *sizes, x, y, rows, columns, apply, key)
