"""Convolution and pooling of images (n, height, width, channels).

The formulation depends on the shapes and on the platform for which XLA compiles. On CPUs XLA's
convolution is slow for 1x1 kernels and for few output positions. There a convolution is written as
matrix products, and pooling as elementwise operations. Both can be differentiated in forward and
reverse mode, to any order.

For weight gradients XLA transposes an operand in memory. If XLA fused this transposition with the
operand's computation, it would compute the operand a second time, column by column. The axes of the
products and the barriers around convolutions prevent this fusion.
"""

import jax.numpy as jnp
import numpy as np
from jax import Array, lax
from jax.typing import DTypeLike

# Largest number of output positions at which one product for each pixel of the kernel is faster.
_FEW_POSITIONS = 4


def conv(x: Array, kernel: Array, stride: int = 1, padding: int = 0) -> Array:
    """Cross-correlate x (n, h, w, channels in) with a kernel (k, k, channels in, channels out)."""

    def plain(x, kernel):
        return _convolution(x, kernel, stride, padding)

    size = kernel.shape[0]
    rows, columns = ((length + 2 * padding - size) // stride + 1 for length in x.shape[1:3])
    if size == 1 and padding == 0:

        def on_cpu(x, kernel):
            return _matmul(x[:, ::stride, ::stride], kernel[0, 0])

    elif 0 < rows * columns <= _FEW_POSITIONS:

        def on_cpu(x, kernel):
            return _by_pixel(x, kernel, stride, padding, rows, columns)

    else:

        def on_cpu(x, kernel):
            return lax.optimization_barrier(plain(lax.optimization_barrier(x), kernel))

    return lax.platform_dependent(x, kernel, cpu=on_cpu, default=plain)


def _convolution(x: Array, kernel: Array, stride: int, padding: int) -> Array:
    return lax.conv_general_dilated(
        x,
        kernel,
        window_strides=(stride, stride),
        padding=((padding, padding), (padding, padding)),
        dimension_numbers=("NHWC", "HWIO", "NHWC"),
    )


def _by_pixel(x: Array, kernel: Array, stride: int, padding: int, rows: int, columns: int) -> Array:
    """Convolve by one matrix product for each pixel of the kernel, over the pixels it covers."""
    size = kernel.shape[0]
    vertical = [_seen(i, x.shape[1], stride, padding, rows) for i in range(size)]
    horizontal = [_seen(j, x.shape[2], stride, padding, columns) for j in range(size)]
    dtype = x.dtype if x.dtype.itemsize >= 4 else jnp.float32
    out = jnp.zeros((x.shape[0], rows, columns, kernel.shape[3]), dtype)
    for i, (top, bottom) in enumerate(vertical):
        for j, (left, right) in enumerate(horizontal):
            if top >= bottom or left >= right:
                continue
            # Output pixel a sees image pixel a * stride + i - padding.
            first, past = top * stride + i - padding, (bottom - 1) * stride + i - padding + 1
            start, end = left * stride + j - padding, (right - 1) * stride + j - padding + 1
            seen = x[:, first:past:stride, start:end:stride]
            part = _matmul(seen, kernel[i, j], dtype)
            margins = ((0, 0), (top, rows - bottom), (left, columns - right), (0, 0))
            out = out + jnp.pad(part, margins)
    return out.astype(x.dtype)


def _matmul(x: Array, kernel: Array, dtype: DTypeLike | None = None) -> Array:
    """Multiply each pixel's channels by a matrix, with all pixels on one axis.

    The weight gradient is then a sum over one axis.
    """
    rows = x.reshape(-1, x.shape[-1])
    return jnp.matmul(rows, kernel, preferred_element_type=dtype).reshape(*x.shape[:-1], -1)


def _seen(offset: int, length: int, stride: int, padding: int, outputs: int) -> tuple[int, int]:
    """Range of the outputs for which the kernel's pixel at `offset` covers no padding."""
    first = max(0, -((offset - padding) // stride))
    return first, min(outputs, (length - 1 - offset + padding) // stride + 1)


def max_pool(x: Array) -> Array:
    """Take the maximum over 3x3 windows of x (n, h, w, c), at stride 2 and padding 1.

    Of equal entries the first in row-major order gets the gradient, as in PyTorch.
    """
    return lax.platform_dependent(x, cpu=_max_of_shifts, default=_max_of_windows)


def _max_of_windows(x: Array) -> Array:
    low = np.asarray(-np.inf, x.dtype)  # a constant: JAX differentiates no traced initial value
    window, strides = (1, 3, 3, 1), (1, 2, 2, 1)
    return lax.reduce_window(x, low, lax.max, window, strides, ((0, 0), (1, 1), (1, 1), (0, 0)))


def _max_of_shifts(x: Array) -> Array:
    """Compute max_pool as the running maximum of nine slices."""
    n, height, width, channels = x.shape
    rows, columns = (height - 1) // 2 + 1, (width - 1) // 2 + 1
    low = jnp.asarray(-jnp.inf, x.dtype)
    # Padding: one pixel at the top and left; at the other end, the pixels the last window needs.
    ends = ((1, 2 * rows - height), (1, 2 * columns - width))
    padded = lax.pad(x, low, ((0, 0, 0), (*ends[0], 0), (*ends[1], 0), (0, 0, 0)))
    largest = None
    for i in range(3):
        for j in range(3):
            limits = (n, i + 2 * rows - 1, j + 2 * columns - 1, channels)
            shift = lax.slice(padded, (0, i, j, 0), limits, (1, 2, 2, 1))
            if largest is None:
                largest = shift
                continue
            replaced = (shift > largest) | jnp.isnan(shift)
            largest = jnp.where(replaced, shift, largest)
    assert largest is not None
    return largest
