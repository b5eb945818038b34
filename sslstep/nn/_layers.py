"""Layers of the networks, with PyTorch's initialisation."""

import math

import jax
import jax.numpy as jnp
from flax import linen
from jax import Array, lax
from jax.typing import DTypeLike

from sslstep.nn import _conv


def parameter_dtype(dtype: DTypeLike) -> jnp.dtype:
    """Dtype of parameters, statistics and outputs: the given dtype, float32 at least."""
    return jnp.dtype(dtype) if jnp.finfo(dtype).bits >= 32 else jnp.dtype("float32")


def with_bias(out: Array, bias: Array, dtype: DTypeLike) -> Array:
    """Add a bias, shape (m,), to out, shape (n, m), and round to a dtype once.

    The sum is in float32 at least, because the gradient by the bias is summed over n in its dtype.
    """
    dtype_of_sum = parameter_dtype(dtype)
    return (out.astype(dtype_of_sum) + bias.astype(dtype_of_sum)[None]).astype(dtype)


class Conv(linen.Module):
    """A k x k convolution without bias; weights are drawn from N(0, 2 / (k² · features))."""

    features: int
    size: int
    stride: int
    padding: int
    dtype: DTypeLike

    @linen.compact
    def __call__(self, x):
        shape = (self.size, self.size, x.shape[-1], self.features)
        std = math.sqrt(2 / (self.size**2 * self.features))

        def normal(key, shape, dtype):
            # XLA:CPU takes seconds to compile a draw of four axes; a flat one has the same numbers.
            return std * jax.random.normal(key, (math.prod(shape),), dtype).reshape(shape)

        kernel = self.param("kernel", normal, shape, parameter_dtype(self.dtype))
        return _conv.conv(x, kernel.astype(self.dtype), self.stride, self.padding)


class Linear(linen.Module):
    """A dense layer; weights and biases are drawn from U(±1 / sqrt(fan_in))."""

    features: int
    use_bias: bool
    dtype: DTypeLike

    @linen.compact
    def __call__(self, h):
        bound = 1 / math.sqrt(h.shape[-1])

        def uniform(key, shape, dtype):
            return jax.random.uniform(key, shape, dtype, -bound, bound)

        dtype = parameter_dtype(self.dtype)
        kernel = self.param("kernel", uniform, (h.shape[-1], self.features), dtype)
        out = jnp.matmul(h, kernel.astype(self.dtype))
        if not self.use_bias:
            return out
        bias = self.param("bias", uniform, (self.features,), dtype)
        return with_bias(out, bias, self.dtype)


class BatchNorm(linen.Module):
    """Batch normalisation of each feature on the last axis, over all other axes.

    ``axis_name`` is the axis of a ``jax.pmap`` over whose devices the statistics are averaged, as
    in flax's ``BatchNorm``; the trainer sets it. Under ``jax.jit`` it is not needed.

    As in PyTorch, each batch moves the running mean and the running unbiased variance by a tenth of
    the difference to its own value. They do not change if "batch_stats" is not mutable.
    """

    train: bool
    dtype: DTypeLike
    zero_scale: bool = False
    use_bias: bool = True
    axis_name: str | None = None

    @linen.compact
    def __call__(self, x):
        dtype, shape = parameter_dtype(self.dtype), (x.shape[-1],)
        running_mean = self.variable("batch_stats", "mean", jnp.zeros, shape, dtype)
        running_var = self.variable("batch_stats", "var", jnp.ones, shape, dtype)
        start = linen.initializers.zeros if self.zero_scale else linen.initializers.ones
        scale = self.param("scale", start, shape, dtype)
        bias = self.param("bias", linen.initializers.zeros, shape, dtype) if self.use_bias else None
        x = x.astype(dtype)
        if self.train:
            axis_name = None if self.is_initializing() else self.axis_name
            mean, var, count = _moments(x, axis_name)
            if self.is_mutable_collection("batch_stats") and not self.is_initializing():
                unbiased = var * (count / max(count - 1, 1))
                running_mean.value = 0.9 * running_mean.value + 0.1 * lax.stop_gradient(mean)
                running_var.value = 0.9 * running_var.value + 0.1 * lax.stop_gradient(unbiased)
        else:
            mean, var = running_mean.value, running_var.value
        broadcast = (None,) * (x.ndim - 1)
        y = (x - mean[broadcast]) * (lax.rsqrt(var + 1e-5) * scale)[broadcast]
        if bias is not None:
            y = y + bias[broadcast]
        return y.astype(self.dtype)


def _moments(x: Array, axis_name: str | None) -> tuple[Array, Array, int]:
    """Mean and biased variance over all devices and all axes but the last, and number of values."""
    axes, count = tuple(range(x.ndim - 1)), math.prod(x.shape[:-1])
    if axis_name is None:
        mean = jnp.mean(x, axes, keepdims=True)
        return mean.reshape(-1), jnp.mean((x - mean) ** 2, axes), count
    mean = lax.pmean(jnp.mean(x, axes, keepdims=True), axis_name)
    var = lax.pmean(jnp.mean((x - mean) ** 2, axes), axis_name)
    return mean.reshape(-1), var, count * lax.axis_size(axis_name)
