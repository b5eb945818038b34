"""Images chosen at random, as every experiment on images starts from."""

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
    images, labels, label_names = data.load(name, split, data_dir=data_dir)
    if num is not None and num > len(images):
        raise ValueError(f"{called} = {num}, but {name} has {len(images)} images.")
    chosen = np.asarray(jax.random.permutation(key, len(images))[:num])
    return data.Dataset(images[chosen], labels[chosen], label_names)
