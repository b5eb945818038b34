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


def pooled(images: np.ndarray, side: int) -> np.ndarray:
    """Average bytes of images over squares of a given side; return values in 0...1 as rows."""
    n, height, width, channels = images.shape
    squares = images.reshape(n, height // side, side, width // side, side, channels)
    return (squares.mean((2, 4), dtype=np.float32) / 255).reshape(n, -1)


def held_out(config: Any) -> tuple[np.ndarray, np.ndarray]:
    """Return central crops of at most `num_test` labelled test images, and their labels.

    `config` has the fields of :class:`sslstep.experiment.image_data.Crops` and `num_test`.
    """
    test = labelled(config.data, "test", config.data_dir, config.crop)
    # Shuffled, because test images may be sorted by label.
    few = np.random.default_rng(config.seed).permutation(len(test.images))[: config.num_test]
    return central(test.images[few], config.crop), test.labels[few]


@partial(jax.jit, static_argnames="num_classes")
def correct(z, z_test, labels, labels_test, penalties, *, num_classes: int) -> jax.Array:
    """Return which test samples a ridge probe classifies right, shape (n_test,).

    The penalty minimises the leave-one-out error. `penalties` are relative to the total variance of
    the features.
    """
    targets = jax.nn.one_hot(labels, num_classes)
    penalties = jnp.var(z, axis=0).sum() * penalties
    best = penalties[jnp.argmin(probe.loo_error(z, targets, penalties))]
    predictions = probe.predict(probe.ridge(z, targets, best), z_test)
    return jnp.argmax(predictions, axis=1) == labels_test
