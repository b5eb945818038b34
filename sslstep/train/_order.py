"""The order in which a run sees its images, a pure function of its key."""

import functools

import jax
import numpy as np
from jaxtyping import Array, Int, Key

from sslstep import _check


def batch_indices(
    key: Key[Array, ""], first_step: int, num_steps: int, batch_size: int, num_images: int
) -> Int[np.ndarray, "{num_steps} {batch_size}"]:
    """Return the indices of the images in the batch of each step.

    Each epoch draws a random permutation of all images and cuts it into batches. Images that do not
    fill a batch are left out of that epoch. Permutations come from NumPy's Philox generator on the
    host, seeded by the key and the epoch. The batch of a step therefore needs no earlier steps, and
    is the same on every host.

    Args:
        key: the run's random key, the field ``key`` of :class:`TrainState`.
        first_step: first step, counted from 0.
        num_steps: number of steps.
        batch_size: number of images in a batch, over all devices.
        num_images: number of images in the data.

    Returns:
        Indices in ``[0, num_images)``, shape ``(num_steps, batch_size)``, int32.

    Raises:
        ValueError: if ``batch_size`` is not within 1...``num_images``, or a number is negative.

    Example:
        >>> import jax
        >>> from sslstep import train
        >>> indices = train.batch_indices(jax.random.key(0), 0, 3, batch_size=4, num_images=12)
        >>> sorted(indices.ravel().tolist()) == list(range(12))
        True
    """
    _check.require_within("first_step", first_step, at_least=0)
    _check.require_within("num_steps", num_steps, at_least=0)
    _check.require_within("batch_size", batch_size, at_least=1)
    if batch_size > num_images:
        raise ValueError(f"batch_size = {batch_size} is larger than the data: {num_images} images.")
    words = np.asarray(jax.random.key_data(key)).ravel().tolist()
    per_epoch = num_images // batch_size
    epochs, places = np.divmod(np.arange(first_step, first_step + num_steps), per_epoch)
    out = np.empty((num_steps, batch_size), np.int32)
    for epoch in np.unique(epochs):
        order = _order(num_images, *words, int(epoch))[: per_epoch * batch_size]
        out[epochs == epoch] = order.reshape(per_epoch, batch_size)[places[epochs == epoch]]
    return out


# Keeps the permutations of the current and the next epoch, which are slow to draw.
@functools.lru_cache(maxsize=2)
def _order(num_images: int, *words: int) -> np.ndarray:
    """Permutation of all images in an epoch; read-only, because it is cached."""
    generator = np.random.Generator(np.random.Philox(np.random.SeedSequence(words)))
    order = generator.permutation(num_images).astype(np.int32)
    order.flags.writeable = False
    return order
