"""Hashable descriptions of infinitely wide networks, and kernels of convolutional ones."""

import math
import warnings
from typing import Any, NamedTuple

import jax.numpy as jnp
from jax import Array

from sslstep.ntk import _neural_tangents

ACTIVATIONS = ("erf", "gelu", "linear", "relu")


class Network(NamedTuple):
    """Static description of a network. Hashable, because it is the key of a compiled kernel."""

    layers: str  # "dense", "conv" or "residual"
    blocks: tuple[int, ...]  # number of hidden layers, or of residual blocks in each stage
    width: int | None
    parameterization: str
    activation: str
    bias: str | None  # None, "fixed" or "fan_in"
    output_bias: bool
    filter_size: int = 1
    strides: int = 1
    padding: str = "SAME"
    pool: str = "flatten"


class Scales(NamedTuple):
    """Scales of a network's parameters, which are traced."""

    weight_std: Array
    bias_std: Array  # 1 if there are no biases or if the fan-in sets their scale
    init_scale: Array


def kernel_matrix(
    network: Network, kernel: str, scales: Scales, x1: Array, x2: Array | None
) -> tuple[Array, Array, Array]:
    """Kernel matrix, its largest entry, and whether the exact kernel is nonzero."""
    weight_std, bias_std, alpha = scales
    degree = _degree(network, kernel)
    if degree is None:
        weight_std = alpha * weight_std
        bias_std = alpha * bias_std if network.bias == "fixed" else bias_std
    with warnings.catch_warnings():
        # neural_tangents warns that one of two branches must hold a weight layer; one does.
        warnings.filterwarnings("ignore", "`FanIn` layers assume independent inputs")
        matrix = _kernel_fn(network, weight_std, bias_std, x1.shape[1:])(x1, x2, kernel)
    if degree is not None:
        size = jnp.abs(matrix).max()
        return matrix * alpha**degree, size * alpha**degree, size > 0
    if kernel == "ntk" and network.parameterization == "ntk":
        # In neural_tangents α multiplies the parameter inside the network and squares in the NTK.
        # `init_scale` multiplies the initial parameter only: derivatives do not contain it.
        matrix = matrix / alpha**2
    nonzero = jnp.any(x1 != 0) & (True if x2 is None else jnp.any(x2 != 0))
    return matrix, jnp.abs(matrix).max(), nonzero


def output_constant(network: Network, scales: Scales, shape: tuple[int, ...]) -> Array:
    """Constant that the output bias adds to every entry of the NTK."""
    if not network.output_bias:
        return jnp.zeros_like(scales.bias_std)
    if network.parameterization == "standard":
        return jnp.ones_like(scales.bias_std)
    fan_in = _output_fan_in(network, shape)
    return scales.bias_std**2 if network.bias == "fixed" else scales.weight_std**2 / fan_in


def _degree(network: Network, kernel: str) -> int | None:
    """Degree d with K(α θ) = α^d K(θ) for all parameters θ; None if K is not homogeneous."""
    homogeneous = network.activation in ("linear", "relu") and network.layers != "residual"
    if network.bias is not None or not homogeneous:
        return None
    return 2 * sum(network.blocks) + (2 if kernel == "nngp" else 0)


def _kernel_fn(network: Network, weight_std: Array, bias_std: Array, shape: tuple[int, ...]) -> Any:
    stax = _neural_tangents.load_neural_tangents().stax
    width = network.width or 1  # None: the kernel does not depend on the width

    def settings(fan_in: int) -> dict[str, Any]:
        return {
            "W_std": weight_std,
            "b_std": bias_std_of(network, weight_std, bias_std, fan_in),
            "parameterization": network.parameterization,
        }

    def conv(channels: int, size: int = network.filter_size, strides: int = network.strides) -> Any:
        options = settings(size**2 * channels)
        return stax.Conv(width, (size, size), (strides, strides), network.padding, **options)

    def block(strides: int) -> Any:
        main = [activation(), conv(width, strides=strides), activation(), conv(width, strides=1)]
        shortcut = stax.Identity() if strides == 1 else conv(width, 1, strides)
        branches = stax.parallel(stax.serial(*main), shortcut)
        return stax.serial(stax.FanOut(2), branches, stax.FanInSum())

    activations = {"erf": stax.Erf, "gelu": stax.Gelu, "linear": stax.Identity, "relu": stax.Relu}
    activation = activations[network.activation]
    channels = [shape[-1]] + [width] * sum(network.blocks)
    body: list[Any] = []
    if network.layers == "conv":
        for fan_in in channels[:-1]:
            body += [conv(fan_in), activation()]
    else:
        body.append(conv(channels[0], strides=1))
        for stage, count in enumerate(network.blocks):
            body += [block(1 if stage == 0 or i else 2) for i in range(count)]
        body.append(activation())
    body.append(stax.Flatten() if network.pool == "flatten" else stax.GlobalAvgPool())
    output = settings(_output_fan_in(network, shape))
    if not network.output_bias:
        output["b_std"] = None
    return stax.serial(*body, stax.Dense(1, **output))[2]


def bias_std_of(network: Network, weight_std: Array, bias_std: Array, fan_in: int) -> Array | None:
    """Scale of the biases of a layer with this fan-in; None without biases."""
    if network.bias is None:
        return None
    return bias_std if network.bias == "fixed" else weight_std / fan_in**0.5


def _output_fan_in(network: Network, shape: tuple[int, ...]) -> int:
    width = network.width or 1
    if network.layers == "dense" or network.pool == "average":
        return width
    return width * math.prod(feature_map(network, shape))


def feature_map(network: Network, shape: tuple[int, ...]) -> tuple[int, int]:
    """Height and width of the last layer's features; zero or negative if the image is too small."""
    if network.layers == "conv":
        strides = [network.strides] * network.blocks[0]
    else:
        strides = [2] * (len(network.blocks) - 1)
    sizes = list(shape[:2])
    for stride in strides:
        if network.padding == "VALID":
            sizes = [size - network.filter_size + 1 for size in sizes]
        sizes = [-(-size // stride) for size in sizes]
    return sizes[0], sizes[1]
