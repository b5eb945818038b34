"""In which order a run sees its images: a pure function of its key."""

import functools

import jax
import numpy as np
from jaxtyping import Array, Int, Key

from sslstep import _check

__all__ = ["batch_indices"]


def batch_indices(
    key: Key[Array, ""], first_step: int, num_steps: int, batch_size: int, num_images: int
) -> Int[np.ndarray, "{num_steps} {batch_size}"]:
    """Which images each of a run's steps sees.

    An epoch is a random permutation of all images, cut into batches; what is left over waits for
    another epoch. Permutations come from NumPy's Philox generator on the host, so any step's batch
    is known without those before it, on every host alike.

    Args:
        key: the run's key, as in :class:`TrainState`.
        first_step: the first of them.
        num_steps: how many.
        batch_size: images in a batch, over all devices.
        num_images: how many there are.

    Returns:
        Indices in ``[0, num_images)``, shape ``(num_steps, batch_size)``, int32.

    Raises:
        ValueError: if a batch is larger than the data, or a number is negative.

    Example:
        >>> import jax
        >>> from sslstep import train
        >>> indices = train.batch_indices(jax.random.key(0), 0, 3, batch_size=4, num_images=12)
        >>> sorted(indices.ravel().tolist()) == list(range(12))
        True
    """
    _check.require_at_least("first_step", first_step, 0)
    _check.require_at_least("num_steps", num_steps, 0)
    _check.require_at_least("batch_size", batch_size, 1)
    if batch_size > num_images:
        raise ValueError(f"batch_size = {batch_size} is larger than the data: {num_images} images.")
    words = np.asarray(jax.random.key_data(key)).ravel().tolist()
    per_epoch = num_images // batch_size
    steps = np.arange(first_step, first_step + num_steps)
    out = np.empty((num_steps, batch_size), np.int32)
    for epoch in np.unique(steps // per_epoch):
        order = _order(num_images, *words, int(epoch))
        inside = steps // per_epoch == epoch
        out[inside] = order[: per_epoch * batch_size].reshape(per_epoch, batch_size)[
            steps[inside] % per_epoch
        ]
    return out


# The epoch that a run is in, and the one that it enters: a permutation takes long to draw.
@functools.lru_cache(maxsize=2)
def _order(num_images: int, *words: int) -> np.ndarray:
    """Of all images in an epoch; read alone, as it is kept."""
    generator = np.random.Generator(np.random.Philox(np.random.SeedSequence(words)))
    order = generator.permutation(num_images).astype(np.int32)
    order.flags.writeable = False
    return order
