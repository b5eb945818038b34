"""Windows of images, half of whose patches are hidden, for the experiment `masked`."""

from dataclasses import dataclass
from functools import partial
from typing import Any

import jax
import numpy as np

from sslstep import data
from sslstep.experiment import image_data, training


@dataclass(frozen=True)
class Windows(image_data.Images):
    """Settings of the windows; each is one option of the command."""

    seeds: tuple[int, ...] = training.SEEDS
    """Seeds of images, masks and initial parameters."""
    num_images: int = 0
    """Number of images, chosen at random; 0 for all."""
    size: int = 8
    """Side of the windows in pixels."""
    patch: int = 2
    """Side of a patch in pixels."""
    fraction: float = 0.5
    """Probability that a patch is hidden."""


def images(config: Windows, seed: int) -> np.ndarray:
    """Choose the images of a seed."""
    key, number = jax.random.key(seed), config.num_images or None
    return image_data.choose(key, config.data, number, config.data_dir, view=config.size).images


def masked(config: Windows, keys: jax.Array, images: jax.Array) -> Any:
    """Return a window of each image: what is visible, with zeros for the rest, all, and where."""
    crop = data.crop_views(config.size).first._replace(mean=(0.5,) * 3, std=(0.25,) * 3)
    return data.masked_view(keys, images, crop, patch=config.patch, fraction=config.fraction)


def pairs(config: Windows, seed: int, num: int) -> tuple[np.ndarray, np.ndarray]:
    """Return the visible pixels, with zeros for hidden ones, and all pixels of `num` windows.

    Both have shape (num, pixels).
    """
    chosen = images(config, seed)
    chosen = chosen[np.arange(num) % len(chosen)]
    keys = jax.random.split(jax.random.key(seed + 1000), num)
    seen, truth, _ = jax.jit(partial(masked, config))(keys, chosen)
    return np.asarray(seen).reshape(num, -1), np.asarray(truth).reshape(num, -1)
