"""Features of `any_loss` and `vicreg_first`: the leading principal components of pairs of crops."""

from dataclasses import dataclass

import jax
import jax.numpy as jnp
import numpy as np

from sslstep import data
from sslstep.experiment.image_data import Crops, crop_pairs


@dataclass(frozen=True)
class Components(Crops):
    """Settings of the features; each is one option of the command."""

    num_images: int = 200
    """n, the number of positive pairs."""
    components: int = 8
    """m, the number of features: the crops' leading principal components."""


def features(config: Components, key: jax.Array, light: float = 0.0) -> list[np.ndarray]:
    """Return the crops' leading principal components for both views, each (n, m).

    Their mean squared length is 1. `light` is the standard deviation, over views, of a brightness
    slope from left to right that is drawn independently for each view.
    """
    *keys, own = jax.random.split(key, 3)
    pairs = crop_pairs(keys, config.data, config.num_images, config.data_dir, config.crop)
    crops = np.asarray(data.flatten(jnp.concatenate(pairs), dtype="float64", standardise=True))
    crops = crops - crops.mean(axis=0)
    slope = np.linspace(-(3**0.5), 3**0.5, config.crop)  # of mean square 1
    slope = np.broadcast_to(slope[None, :, None], (config.crop, config.crop, 3)).ravel()
    crops = crops + light * np.asarray(jax.random.normal(own, (len(crops), 1))) * slope
    leading = np.linalg.svd(crops, full_matrices=False)[2][: config.components]
    x = crops @ leading.T
    return np.split(x / np.sqrt(np.mean(np.sum(x**2, axis=1))), 2)
