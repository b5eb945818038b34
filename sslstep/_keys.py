"""Random keys of samples, one key for each sample, and keys as words, for files and processes."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array

_COUNTER_BASED = "threefry2x32"


def is_key(leaf: Any) -> bool:
    """Whether a value is an array of typed random keys."""
    return jnp.issubdtype(getattr(leaf, "dtype", np.dtype(object)), jax.dtypes.prng_key)


def words(leaf: Any) -> Any:
    """Return the raw words of typed keys, and any other value unchanged."""
    return jax.random.key_data(leaf) if is_key(leaf) else leaf


def from_words(leaf: Any, like: Any) -> Any:
    """Undo :func:`words`: return typed keys of the kind of `like`, if that is typed keys."""
    return jax.random.wrap_key_data(leaf, impl=jax.random.key_impl(like)) if is_key(like) else leaf


def of_samples(keys: Array) -> Array:
    """Convert keys so that each sample's draws under ``vmap`` depend on its own key alone.

    Under ``vmap`` JAX's ``rbg`` and ``unsafe_rbg`` keys draw a whole batch from its first key. The
    draws of an image would depend on the batch, and therefore on the number of devices. Each such
    key is converted to a ``threefry2x32`` key that is seeded with it. ``threefry2x32`` keys and raw
    keys are returned unchanged.
    """
    if not is_key(keys) or f"{jax.random.key_impl(keys)}" == _COUNTER_BASED:
        return keys
    data = jax.random.key_data(keys)
    seeded = jax.random.wrap_key_data(data[..., :2], impl=_COUNTER_BASED).reshape(-1)
    for rest in data[..., 2:].reshape(len(seeded), data.shape[-1] - 2).T:
        seeded = jax.vmap(jax.random.fold_in)(seeded, rest)
    return seeded.reshape(keys.shape)
