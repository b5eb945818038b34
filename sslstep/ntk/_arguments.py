"""Arguments that the functions of empirical kernels share."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import ArrayLike, DTypeLike
from jaxtyping import Array, PyTree

from sslstep import _check


def samples(name: str, value: ArrayLike) -> Array:
    shape = _check.shape_of(value)
    if not shape or 0 in shape:
        raise ValueError(
            f"{name} must hold samples, shape (n, ...) with n >= 1, got shape {shape}."
        )
    _check.require_finite(name, value)
    return jnp.asarray(value)


def require_floating(params: PyTree) -> None:
    leaves = jax.tree_util.tree_leaves_with_path(params)
    if not leaves:
        raise ValueError("params holds no arrays.")
    for path, leaf in leaves:
        if not jnp.issubdtype(jnp.result_type(leaf), jnp.floating):
            raise ValueError(
                f"params must hold floating-point arrays: params{jax.tree_util.keystr(path)} has "
                f"dtype {jnp.result_type(leaf)}. Bind what is no parameter to apply_fn."
            )


def output_dim(apply_fn, params, x: Array) -> int:
    shape = jax.eval_shape(apply_fn, params, x[:1]).shape
    if len(shape) != 2 or shape[0] != 1:
        raise ValueError(
            f"apply_fn must return embeddings of shape (n, d): for one sample of shape "
            f"{x.shape[1:]} it returned shape {shape}."
        )
    return shape[1]


def blocks(x: Array, batch_size: int) -> Array:
    """Samples in blocks of one size, the last filled up with copies of the last sample."""
    num = -(-len(x) // batch_size)
    filler = jnp.broadcast_to(x[-1:], (num * batch_size - len(x), *x.shape[1:]))
    return jnp.concatenate([x, filler]).reshape(num, batch_size, *x.shape[1:])


def accumulator(dtype: DTypeLike | None, params: PyTree) -> np.dtype:
    """As asked, or the widest dtype of the parameters; at least float32."""
    widest = max((jnp.result_type(leaf) for leaf in jax.tree.leaves(params)), key=_bits)
    if dtype is None:
        return np.dtype(widest if _bits(widest) >= 32 else np.float32)
    if not jnp.issubdtype(dtype, jnp.floating) or _bits(dtype) < 32:
        raise ValueError(f"dtype must be float32 or float64, got {jnp.dtype(dtype)}.")
    _check.require_available(dtype)
    return np.dtype(dtype)


def _bits(dtype: DTypeLike) -> int:
    return int(jnp.finfo(dtype).bits)


def require_count(name: str, value: Any) -> None:
    """Check for a whole number of at least 1."""
    if isinstance(value, bool) or not isinstance(value, int | np.integer):
        raise ValueError(f"{name} must be a whole number, got {value!r}.")
    _check.require_at_least(name, value, 1)
