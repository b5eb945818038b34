"""Settings of the experiment `infinite_width`."""

from dataclasses import dataclass

import numpy as np

from sslstep.experiment import probes
from sslstep.experiment.image_data import Crops


@dataclass(frozen=True)
class Config(Crops):
    """Settings; each is one option of the command."""

    cnn_images: int = 300
    """Number of pairs for the CNN's kernel, which is far more expensive; the first of the n."""
    num_test: int = 2000
    """Largest number of test images; the central crop of each is used."""
    pool: int = 2
    """Crops are averaged over squares of this side, in pixels; 1 keeps them."""
    depth: int = 1
    """Hidden layers of the MLP."""
    cnn_depth: int = 3
    """3x3 convolutions of the CNN, each with stride 2, before its features are flattened."""
    num_modes: int = 64
    """Number of modes of each kernel; largest number of dimensions probed."""
    dim: int = 8
    """Embedding dimension d of the trained networks, and of panel D."""
    width: int = 1024
    """Width of the trained networks."""
    laziness: tuple[float, ...] = (1.0, 10.0)
    """Factors a on the output of the trained networks, ascending; empty for no training."""
    num_seeds: int = 3
    """Networks trained for each factor; with one, claims about them stay undecided."""
    init_scale: float = 0.01
    """α, scale of the initial embeddings relative to those of the network as drawn."""
    step_size: float = 0.5
    """Learning rate, relative to the largest stable one."""
    num_records: int = 60
    """Records along training, logarithmically spaced."""
    penalty: float = 0.1
    """Ridge penalty μ of panel D; a dimension contributes once its variance is about μ."""


def dims(config: Config) -> np.ndarray:
    """Return the numbers of dimensions that are probed."""
    return np.unique(np.r_[probes.dims(config.num_modes, 13), config.dim])
