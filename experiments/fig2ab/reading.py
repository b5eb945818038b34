"""A reading of Appendix D.1: settings, samples, and a network of one hidden layer with its kernels.

The text leaves open which parameters α scales, the scale of pixels, and the biases.
"""

from dataclasses import dataclass
from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from sslstep import data, nn
from sslstep.experiment import networks
from sslstep.experiment.image_data import Crops, crop_pairs
from sslstep.ntk import infinite

Scaled = Literal["output", "all", "weights", "first", "last", "none"]
Pixels = Literal["standardised", "unit", "symmetric", "centred", "bytes"]
Biases = Literal["both", "hidden", "none"]
Correlation = Literal["mean", "sum"]


@dataclass(frozen=True)
class Shared(Crops):
    """Settings of every reading of Appendix D.1; each is one option of the command."""

    num_images: int = 50
    """n, the number of positive pairs."""
    dim: int = 10
    """Embedding dimension d."""
    width: int = 2048
    """Width of the hidden layer."""
    init_scale: float = 1e-4
    """α, the scale of the initial parameters or embeddings."""
    learning_rate: float = 1e-4
    """η of gradient descent."""
    num_steps: int = 7000
    """Steps of gradient descent."""
    dtype: Literal["float32", "float64"] = "float32"
    """Floating-point type of the training; kernels are in float64."""


@dataclass(frozen=True)
class Config(Shared):
    """Settings; each is one option of the command."""

    pixels: Pixels = "standardised"
    """Channels standardised; or pixels in [0, 1], in [-1, 1], [0, 1] minus the mean, in 0...255."""
    biases: Biases = "both"
    """Layers with biases."""
    scaled: Scaled = "output"
    """Quantity that α multiplies: embeddings; all parameters; weights only; one layer; nothing."""
    correlation: Correlation = "mean"
    """C as the mean over the pairs (Eq. 2), or as their sum."""
    num_records: int = 600
    """Records along the run, logarithmically spaced."""

    @property
    def gain(self) -> float:
        """The factor of the embeddings that turns the mean over n pairs in C into a sum, or 1."""
        return float(self.num_images) ** 0.5 if self.correlation == "sum" else 1.0


class Network(NamedTuple):
    """A network at initialisation and its data, in a basis of the samples' span."""

    model: nn.MLP
    params: Any
    x: jax.Array  # (2n, min(2n, m)): samples [X, X']
    offset: jax.Array  # (2n, d): subtracted from the outputs
    gain: float  # factor of the outputs after subtraction


def samples(config: Config, key: jax.Array) -> np.ndarray:
    """Return the features [X, X'] of two crops of each image, shape (2n, m), float64."""
    keys, num = jax.random.split(key), config.num_images
    crops = jnp.concatenate(crop_pairs(keys, config.data, num, config.data_dir, config.crop))
    with jax.enable_x64(True):
        standardise = config.pixels == "standardised"
        x = np.asarray(data.flatten(crops, dtype=jnp.float64, standardise=standardise))
    if config.pixels == "symmetric":
        return 2 * x - 1
    if config.pixels == "centred":
        return x - x.mean(axis=0)
    return 255 * x if config.pixels == "bytes" else x


def initial_network(config: Config, key: jax.Array, x: np.ndarray) -> Network:
    """Draw a network, express it and its samples x in a basis of their span, and scale it by α.

    The setting `scaled` selects the parameters that α scales, or the outputs.
    """
    model = nn.MLP(
        config.dim,
        config.width,
        parameterization="standard",
        bias_std=None if config.biases == "none" else "fan_in",
        output_bias=config.biases == "both",
        dtype=jnp.dtype(config.dtype),
    )
    params = model.init(key, jnp.asarray(x[:1], config.dtype))
    with jax.enable_x64(True):
        params, rotated = nn.change_basis(model, nn.span_basis(x), params, x)
    wheres: dict[str, Any] = {
        "all": lambda path: True,
        "weights": lambda path: path.endswith("kernel"),
        "first": lambda path: "hidden" in path,
        "last": lambda path: "output" in path,
    }
    if config.scaled in wheres:  # "output" acts by the offset below
        params = nn.scale_init(params, config.init_scale, wheres[config.scaled])
    rest = 1 - config.init_scale if config.scaled == "output" else 0.0
    outputs: Any = model.apply(params, rotated)
    return Network(model, params, rotated, rest * outputs, config.gain)


def finite_kernel(network: Network) -> np.ndarray:
    """Return the trace NTK of a network on its samples, (2n, 2n), float64, times gain²."""
    kernel = networks.exact_ntk(network.model, network.params, network.x, kind="trace")
    return network.gain**2 * kernel


def infinite_kernel(config: Config, x: np.ndarray) -> np.ndarray:
    """Return the NTK's leading term in the width, for the config's reading; needs x64."""
    options: Any = {"parameterization": "standard", "bias_std": "fan_in"}
    if config.biases == "none":
        options["bias_std"] = None
    if config.scaled == "weights" and config.biases != "none":
        options["weight_std"] = config.init_scale / 3**0.5
        options["bias_std"] = 1 / (3 * x.shape[1]) ** 0.5
    outer = infinite.mlp(1, config.width, kernel="nngp", **options)(x)
    # Part of the output weights, the sum over units of h(x) h(x'); then part of the first layer.
    by_last = config.width * outer / options.get("weight_std", 3**-0.5) ** 2
    by_first = infinite.mlp(1, config.width, **options)(x) - by_last
    scale = config.init_scale
    of_hidden = scale if config.scaled in ("all", "first") else 1.0
    of_output = scale if config.scaled in ("all", "last") else 1.0
    if config.scaled == "weights" and config.biases == "none":
        of_hidden = of_output = scale
    bias = 1.0 if config.biases == "both" else 0.0
    kernel = of_hidden**2 * by_last + of_output**2 * by_first + bias
    return config.gain**2 * np.asarray(kernel)
