"""Pairs of random crops for the experiment `million`: of each image as many, or one more."""

from collections.abc import Callable

import jax
import numpy as np

from sslstep import data
from sslstep.experiment import probes


def pairs(
    key: jax.Array, images: np.ndarray, num: int, side: int, pool: int
) -> tuple[np.ndarray, np.ndarray, Callable[[np.ndarray], np.ndarray]]:
    """Draw `num` pairs of crops of a given side, averaged over squares, and standardised.

    Each view has the shape (num, features); `pool` is the side of the squares. The third result is
    a function from other crops to their features, with the channel means and deviations of the
    first view.
    """
    size = side // pool
    views = [np.empty((num, size, size, images.shape[-1]), np.float32) for _ in range(2)]
    for i, each in enumerate(jax.random.split(key, -(-num // len(images)))):
        rows = slice(i * len(images), min((i + 1) * len(images), num))
        drawn = data.random_crop_pairs(each, images, side)
        for view, crops in zip(views, drawn, strict=True):
            view[rows] = probes.pooled(np.asarray(crops), pool)[: rows.stop - rows.start]
    channels = views[0].reshape(-1, images.shape[-1])
    mean, std = channels.mean(axis=0, dtype=np.float64), channels.std(axis=0, dtype=np.float64)
    for view in views:
        for start in range(0, num, 10_000):
            part = view[start : start + 10_000]
            part[:] = (part - mean) / std

    def standardised(crops: np.ndarray) -> np.ndarray:
        own = (probes.pooled(crops, pool) - mean) / std
        return own.astype(np.float32).reshape(len(crops), -1)

    x, x_prime = (view.reshape(num, -1) for view in views)
    return x, x_prime, standardised
