"""Images chosen at random, as every experiment on images starts from."""

from functools import lru_cache

import jax
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


@lru_cache(maxsize=1)
def _load(name: str, split: str, data_dir: str | None) -> data.Dataset:
    """Runs from other seeds choose from the same images."""
    return data.load(name, split, data_dir=data_dir)
