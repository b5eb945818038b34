"""Random keys of which each draws for one sample."""

import jax
import jax.numpy as jnp
from jaxtyping import Array

__all__ = ["of_samples"]

_COUNTER_BASED = "threefry2x32"


def of_samples(keys: Array) -> Array:
    """Keys whose draws under ``vmap`` are those that each key makes by itself.

    JAX's ``rbg`` and ``unsafe_rbg`` keys draw for a whole batch from its first key: what an image
    gets would depend on the images beside it, and thus on the number of devices. Such keys seed
    keys of the default kind, which are returned as they are; so is what is no typed key.
    """
    typed = jnp.issubdtype(keys.dtype, jax.dtypes.prng_key)
    if not typed or f"{jax.random.key_impl(keys)}" == _COUNTER_BASED:
        return keys
    words = jax.random.key_data(keys)
    seeded = jax.random.wrap_key_data(words[..., :2], impl=_COUNTER_BASED).reshape(-1)
    for rest in words[..., 2:].reshape(len(seeded), words.shape[-1] - 2).T:
        seeded = jax.vmap(jax.random.fold_in)(seeded, rest)
    return seeded.reshape(keys.shape)
