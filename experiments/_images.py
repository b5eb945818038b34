"""Images chosen at random, and pairs of their crops, from which experiments on images start."""

from collections.abc import Sequence
from functools import lru_cache

import jax
import jax.numpy as jnp
import numpy as np

from sslstep import data


def choose(
    key: jax.Array,
    name: str,
    num: int | None,
    data_dir: str | None,
    *,
    called: str = "num_images",
) -> data.Dataset:
    """`num` images of a data set (None: all), shuffled; `called` names the number in the error."""
    split = "unlabelled" if name == "stl10" else "train"
    images, labels, label_names = _load(name, split, data_dir)
    if num is not None and num > len(images):
        raise ValueError(f"{called} = {num}, but {name} has {len(images)} images.")
    chosen = np.asarray(jax.random.permutation(key, len(images))[:num])
    return data.Dataset(images[chosen], labels[chosen], label_names)


def crop_pairs(
    keys: Sequence[jax.Array] | jax.Array,
    name: str,
    num: int,
    data_dir: str | None,
    size: int,
    *,
    called: str = "num_images",
) -> tuple[jax.Array, jax.Array]:
    """Two random crops of each of `num` images, bytes; keys: of the choice and of the crops."""
    key_images, key_crops = keys
    images = choose(key_images, name, num, data_dir, called=called).images
    return data.random_crop_pairs(key_crops, images, size)


def split_pairs(
    key: jax.Array, name: str, num: int, num_test: int, data_dir: str | None, size: int
) -> tuple[jax.Array, jax.Array]:
    """Features of training pairs and of held-out ones, X above X' in each: (2 num, m), float64.

    Of other images, but standardised by the constants of the training images.
    """
    called = "num_images + num_test"
    crops = crop_pairs(jax.random.split(key), name, num + num_test, data_dir, size, called=called)
    first = jnp.concatenate([view[:num] for view in crops])
    rest = jnp.concatenate([view[num:] for view in crops])
    pixels = np.asarray(first) / 255
    constants = {"mean": pixels.mean((0, 1, 2)), "std": pixels.std((0, 1, 2))}
    x, x_test = (
        data.flatten(images, dtype="float64", standardise=True, **constants)
        for images in (first, rest)
    )
    return x, x_test


@lru_cache(maxsize=1)
def _load(name: str, split: str, data_dir: str | None) -> data.Dataset:
    """Runs from other seeds choose from the same images."""
    return data.load(name, split, data_dir=data_dir)
