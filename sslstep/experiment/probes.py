"""Linear probes of embeddings, and held-out images for them."""

from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from sslstep.experiment.image_data import labelled
from sslstep.measure import probe


def central(images: np.ndarray, side: int) -> np.ndarray:
    """Return the central squares of a given side of images (n, height, width, channels)."""
    top, left = ((size - side) // 2 for size in images.shape[1:3])
    return images[:, top : top + side, left : left + side]


def pooled(images: np.ndarray, side: int, dtype: Any = np.float32) -> np.ndarray:
    """Average bytes of images over squares of a given side; return values in 0...1."""
    n, height, width, channels = images.shape
    squares = images.reshape(n, height // side, side, width // side, side, channels)
    return np.asarray(squares.mean((2, 4), dtype=dtype) / 255)


def crops_and_labels(config: Any, split: str, num: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Return central crops of at most `num` labelled images of a split, and their labels.

    `config` has the settings `data`, `data_dir` and `crop`.
    """
    found = labelled(config.data, split, config.data_dir, config.crop)
    # Shuffled, because images may be sorted by label.
    few = np.random.default_rng(seed).permutation(len(found.images))[:num]
    return central(found.images[few], config.crop), found.labels[few]


def dims(most: int, num: int) -> np.ndarray:
    """Return at most `num` numbers of dimensions from 1 to `most`, geometrically spaced."""
    return np.unique(np.geomspace(1, most, num).round().astype(int))


def correct(z, z_test, labels, labels_test, penalties) -> jax.Array:
    """Return which test samples a ridge probe classifies right, shape (n_test,).

    The penalty minimises the leave-one-out error. `penalties` are relative to the total variance of
    the features.
    """
    num_classes = int(max(labels.max(), labels_test.max())) + 1
    return _correct(z, z_test, labels, labels_test, penalties, num_classes)


def correct_by_dim(dims: np.ndarray, z, z_test, *labels_and_penalties) -> np.ndarray:
    """Return what :func:`correct` returns for the first d dimensions, for each d of `dims`."""
    kept = np.arange(z.shape[1]) < dims[:, None]  # zeros keep one shape for all d
    return np.stack([correct(z * row, z_test * row, *labels_and_penalties) for row in kept])


@partial(jax.jit, static_argnames="num_classes")
def _correct(z, z_test, labels, labels_test, penalties, num_classes: int) -> jax.Array:
    """Return what :func:`correct` returns."""
    targets = jax.nn.one_hot(labels, num_classes)
    penalties = jnp.var(z, axis=0).sum() * penalties
    best = penalties[jnp.argmin(probe.loo_error(z, targets, penalties))]
    predictions = probe.predict(probe.ridge(z, targets, best), z_test)
    return jnp.argmax(predictions, axis=1) == labels_test
