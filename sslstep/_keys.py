"""Random keys of samples, one key for each sample."""

import jax
import jax.numpy as jnp
from jaxtyping import Array

_COUNTER_BASED = "threefry2x32"


def of_samples(keys: Array) -> Array:
    """Convert keys so that each sample's draws under ``vmap`` depend on its own key alone.

    Under ``vmap`` JAX's ``rbg`` and ``unsafe_rbg`` keys draw a whole batch from its first key. The
    draws of an image would depend on the batch, and therefore on the number of devices. Each such
    key is converted to a ``threefry2x32`` key that is seeded with it. ``threefry2x32`` keys and raw
    keys are returned unchanged.
    """
    typed = jnp.issubdtype(keys.dtype, jax.dtypes.prng_key)
    if not typed or f"{jax.random.key_impl(keys)}" == _COUNTER_BASED:
        return keys
    words = jax.random.key_data(keys)
    seeded = jax.random.wrap_key_data(words[..., :2], impl=_COUNTER_BASED).reshape(-1)
    for rest in words[..., 2:].reshape(len(seeded), words.shape[-1] - 2).T:
        seeded = jax.vmap(jax.random.fold_in)(seeded, rest)
    return seeded.reshape(keys.shape)
