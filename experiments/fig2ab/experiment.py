r"""Figure 2 (A, B): a wide network of one hidden layer learns in steps that its NTK predicts.

    make fig2ab    or    python -m experiments run fig2ab

A ReLU network of width 2048 in PyTorch's parameterisation is trained on two random 20x20 crops of
each of 50 images, by 7000 steps of full-batch gradient descent (Appendix D.1). (A) Loss and (B)
eigenvalues of C, with predictions of the neural tangent kernel (NTK) at initialisation; (C) the
modes' amplitudes on a logarithmic scale; (D) the errors of the predicted step times.

Expected: ten modes are learned, the first at the predicted time. Later steps occur up to twice as
early as predicted, because the first steps move the weights, which enlarges the other modes. If
each step is predicted from the embeddings at the previous step, predictions by the initial kernel
are as accurate as the kernel is constant. Half a minute to one minute on two cores.

As printed ("weights are scaled upon initialization by α", 1e-4), nothing is learned. Preset
`literal` runs this reading, and `python -m experiments run mlp_readings` compares several readings.
Presets `cpu` (photographs) and `paper` (CIFAR-10 from --data-dir) scale the initial embeddings by α
instead of the weights. Preset `last_layer` scales the output layer only; its steps occur at the
predicted times.
"""

from dataclasses import dataclass
from functools import partial
from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from sslstep import data, dynamics, kernel_pca, linear, losses, nn, train
from sslstep.experiment import Arrays, Experiment, networks
from sslstep.experiment._loops import geometric_steps, progress
from sslstep.experiment._require import require
from sslstep.experiment.image_data import Crops, crop_pairs
from sslstep.measure import spectrum
from sslstep.ntk import infinite

Scaled = Literal["output", "all", "weights", "first", "last", "none"]
Pixels = Literal["standardised", "unit", "symmetric", "centred", "bytes"]
Biases = Literal["both", "hidden", "none"]
Correlation = Literal["mean", "sum"]


@dataclass(frozen=True)
class Shared(Crops):
    """Settings common to all readings of the text; each is one option of the command."""

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


_modes = partial(kernel_pca.contrastive_modes, solver="dense")


class Network(NamedTuple):
    """A network at initialisation and its data, in a basis of the samples' span."""

    model: nn.MLP
    params: Any
    x: jax.Array  # (2n, min(2n, m)): samples [X, X']
    offset: jax.Array  # (2n, d): subtracted from the outputs
    gain: float  # factor of the outputs after subtraction


def run(config: Config) -> Arrays:
    """Train, predict by finite and infinite-width kernels, and measure the kernel's change."""
    least = {"num_images": 1, "dim": 3, "num_records": 2, "num_steps": 1}
    require(config, at_least=least, positive=("init_scale", "learning_rate"))
    key_data, key_network, _ = jax.random.split(jax.random.key(config.seed), 3)
    x = samples(config, key_data)
    network = initial_network(config, key_network, x)
    kernel = finite_kernel(network)
    arrays, final = learn(config, network, kernel)
    with jax.enable_x64(True):
        limit = _modes(infinite_kernel(config, x), config.dim)
        aligned = kernel_pca.align(arrays["initial_embeddings"], limit)
        found = predict(config, limit, aligned.singular_values, 0.0)
        arrays |= {f"infinite_{name}": np.asarray(array) for name, array in found.items()}
    change = finite_kernel(network._replace(params=final)) - kernel
    arrays["kernel_change"] = np.linalg.norm(change) / np.linalg.norm(kernel)
    # The relative change of γ_j, to first order.
    c = arrays["coefficients"]
    arrays["gamma_changes"] = np.einsum("ij,ik,kj->j", c, change, c)
    return arrays


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


def learn(config: Config, network: Network, kernel: np.ndarray) -> tuple[Arrays, Any]:
    """Run gradient descent, predict it by the kernel; return arrays and final parameters."""
    model, gain = network.model, network.gain

    def embeddings(params, x, offset):
        return gain * (model.apply(params, x) - offset)

    def loss_fn(params, x, offset):
        z, z_prime = jnp.split(embeddings(params, x, offset), 2)
        return losses.simplified_barlow_twins(z, z_prime)

    def measure(params, x, offset):
        z = embeddings(params, x, offset)
        return loss_fn(params, x, offset), spectrum.correlation_eigenvalues(*jnp.split(z, 2)), z

    with progress(config.num_steps) as advance:
        descent = train.full_batch_descent(
            loss_fn,
            network.params,
            config.learning_rate,
            config.num_steps,
            args=(network.x, network.offset),
            record_at=np.r_[0, geometric_steps(config.num_steps, config.num_records)],
            measure=measure,
            on_record=advance,
        )
        jax.block_until_ready(descent)
    loss, eigenvalues, z = descent.records
    times = np.asarray(descent.times, np.float64)
    step_times = np.asarray(spectrum.step_times(descent.times, eigenvalues))
    with jax.enable_x64(True):
        modes = _modes(kernel, config.dim)
        embedded = jnp.asarray(np.asarray(z, np.float64))
        align = jax.jit(jax.vmap(lambda z: kernel_pca.align(z, modes).singular_values))
        values = np.abs(np.asarray(align(embedded)))
        curves = predict(config, modes, values[0], times[:, None])
        more = _modes(kernel, min(2 * config.dim, config.num_images))
        images = embedded[-1].T @ more.coefficients
        arrays: Arrays = {
            "t": times,
            # Share of each mode, also beyond the first d, in the final embeddings.
            "mode_shares": more.eigenvalues * jnp.sum(images**2, axis=0),
            "loss": loss,
            "eigenvalues": eigenvalues,
            "step_times": step_times,
            "singular_values": values,
            "coefficients": modes.coefficients,
            "initial_embeddings": embedded[0],
            "updated_step_times": _updated(config, modes, times, step_times, values),
            **curves,
        }
    return {name: np.asarray(array) for name, array in arrays.items()}, descent.params


def predict(config: Config, modes: kernel_pca.KernelModes, start: Any, t: Any) -> Arrays:
    """Predict the eigenvalues of C at times t and the step times, both sorted; needs x64."""
    eta, gammas = config.learning_rate, modes.eigenvalues
    curves = linear.mode_eigenvalue(t, gammas, start, learning_rate=eta)
    return {
        "gammas": np.asarray(gammas),
        "predicted_singular_values": linear.singular_value(t, gammas, start, learning_rate=eta),
        "predicted_eigenvalues": -np.sort(-np.asarray(curves), axis=-1),
        "predicted_step_times": np.sort(dynamics.step_time(gammas, start, learning_rate=eta)),
    }


def _updated(config, modes, times, step_times, values) -> np.ndarray:
    """Predict each step time from the embeddings at the previous step, shape (d,)."""
    updated = np.full(config.dim, np.inf)
    for j, before in enumerate(np.r_[0.0, step_times[:-1]]):
        if np.isfinite(before):
            record = min(int(np.searchsorted(times, before)), len(times) - 1)
            later = predict(config, modes, values[record], 0.0)["predicted_step_times"]
            updated[j] = times[record] + later[j]
    return updated


PRESETS = {
    "cpu": Config(),
    "paper": Config(data="cifar10"),
    "literal": Config(data="cifar10", scaled="all"),
    "last_layer": Config(scaled="last", num_steps=24_000),
}

EXPERIMENT = Experiment(PRESETS, run, minutes=0.5, quick=())
