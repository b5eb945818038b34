r"""Masked images: the rank of a hidden representation grows in steps.

    make masked    or    python -m experiments run masked

The paper's conclusion suspects that models of masked images, from a small initialisation, increase
the rank of their hidden representation in steps. Here a linear encoder and a linear decoder predict
an image from its visible part. They learn the singular values of the cross-moment of image and
visible part, one at a time (Saxe et al., 2014). With whitened inputs, a mode of singular value σ
follows a logistic curve with the rate 4σ, like an eigenvalue of C with the rate 8γ.

The moments come from windows of the images, half of whose patches are hidden. (A): the learned
fraction of each singular value from an aligned start; solid: trained, dashed: predicted. (B):
eigenvalues of the hidden representation from a random start. (C, D): a network of patches, encoder
and decoder, with rectifiers, from small and from ordinary weights: eigenvalues of the covariance of
its hidden representation. Expected: closed forms within 1%; a first wait that grows as
ln(1 / α) / 2σ; from small weights, dimensions of the network that rise apart from each other.
"""

from dataclasses import dataclass
from functools import partial
from typing import Any

import flax.linen as linen
import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax.tree_util import Partial

from sslstep import data, dynamics, losses, nn, simulate, train
from sslstep.experiment import Arrays, Experiment, image_data, training
from sslstep.experiment._require import require
from sslstep.measure import spectrum


@dataclass(frozen=True)
class Config(image_data.Images):
    """Settings; each is one option of the command."""

    seeds: tuple[int, ...] = training.SEEDS
    """Seeds of images, masks and initial parameters."""
    num_images: int = 0
    """Number of images, chosen at random; 0 for all."""
    size: int = 8
    """Side of the windows in pixels."""
    patch: int = 2
    """Side of a patch in pixels."""
    fraction: float = 0.5
    """Probability that a patch is hidden."""
    dim: int = 8
    """Dimensions of the linear model's hidden representation, all of which are learned."""
    scales: tuple[float, ...] = (1e-2, 10**-2.5, 1e-3, 10**-3.5)
    """Initial scales α of the linear model's two layers."""
    width: int = 64
    """Number of units of each layer of the network."""
    init_scale: float = 0.25
    """α of the network: the factor of its initial weights."""
    learning_rate: float = 0.6
    """Learning rate of the network."""
    batch_size: int = 256
    """Number of images in a batch."""
    num_steps: int = 3000
    """Number of steps of the network's training."""
    num_records: int = 200
    """Largest number of measurements of the network's hidden representation."""
    num_probe: int = 1024
    """Number of images on which the hidden representation is measured."""


#: Starts of the network: its initial weights times `init_scale`, and times 1.
STARTS = ("small", "ordinary")


class PatchEncoder(linen.Module):
    """Hidden representation of an image from its patches, by two layers; shape ``(n, width)``."""

    patch: int
    width: int

    @linen.compact
    def __call__(self, x: Any, *, train: bool) -> Any:
        side = (self.patch, self.patch)
        tokens = linen.Conv(self.width, side, strides=side, use_bias=False, name="patches")(x)
        tokens = jax.nn.relu(tokens).reshape(len(x), -1)
        return linen.Dense(self.width, use_bias=False, name="hidden")(tokens)


def run(config: Config, runs: training.Store) -> Arrays:
    """Train and predict the linear model from every scale; train the network from both starts."""
    counts = {"seeds": 0, "size": 1, "patch": 1, "dim": 1, "width": 1, "batch_size": 2}
    require(
        config,
        at_least={**counts, "num_steps": 1, "num_records": 2, "num_probe": config.width + 1},
        positive=("scales", "init_scale", "learning_rate"),
        fraction=("fraction",),
    )
    if len(config.scales) < 2:
        raise ValueError(f"scales must be two or more, got {config.scales}.")
    seen, truth = _pairs(config, 0, 4096)
    arrays: Arrays = {"scales": np.asarray(config.scales)}
    with jax.enable_x64(True):
        arrays |= _linear(config, *(np.asarray(part, float) for part in (seen, truth)))
    for seed in config.seeds:
        for start in STARTS:
            found = _network(config, seed, start, runs)
            arrays |= {f"{start}/{seed}/{key}": value for key, value in found.items()}
    return arrays


def _masked(config: Config, keys: jax.Array, images: jax.Array) -> Any:
    crop = data.crop_views(config.size).first._replace(mean=(0.5,) * 3, std=(0.25,) * 3)
    return data.masked_view(keys, images, crop, patch=config.patch, fraction=config.fraction)


def _images(config: Config, seed: int) -> np.ndarray:
    key = jax.random.key(seed)
    number = config.num_images or None
    return image_data.choose(key, config.data, number, config.data_dir, view=config.size).images


def _pairs(config: Config, seed: int, num: int) -> tuple[np.ndarray, np.ndarray]:
    """Return the visible pixels, with zeros for hidden ones, and all pixels of `num` windows.

    Both have shape (num, pixels).
    """
    images = _images(config, seed)
    images = images[np.arange(num) % len(images)]
    keys = jax.random.split(jax.random.key(seed + 1000), num)
    seen, truth, _ = jax.jit(partial(_masked, config))(keys, images)
    return np.asarray(seen).reshape(num, -1), np.asarray(truth).reshape(num, -1)


def _linear(config: Config, seen: np.ndarray, truth: np.ndarray) -> Arrays:
    """Return the singular values, and step times and curves from aligned and random layers.

    The inputs are whitened. Step times from aligned layers are those of the learned singular
    values, predicted and measured. From random layers they are those of the eigenvalues of the
    hidden representation.
    """
    values, vectors = np.linalg.eigh(seen.T @ seen / len(seen))
    kept = values > 1e-6 * values[-1]
    whitened = seen @ (vectors[:, kept] / np.sqrt(values[kept]))
    moment = jnp.asarray(truth.T @ whitened / len(seen))
    left, sigmas, right = jnp.linalg.svd(moment, full_matrices=False)
    dim = config.dim
    left, right, top = left[:, :dim], right[:dim], sigmas[:dim]
    arrays: Arrays = {"sigmas": np.asarray(sigmas)}
    for scale in config.scales:
        # λ = u / σ is logistic with the rate 4 σ: a mode of γ = σ / 2.
        u = scale**2 * jnp.linspace(1.0, 0.7, dim)
        start = jnp.sqrt(2 * u) / top
        predicted = dynamics.step_time(top / 2, start)
        layers = (left * jnp.sqrt(u), jnp.sqrt(u)[:, None] * right)
        t = jnp.linspace(0.0, 1.2 * predicted[-1], 4000)
        out, inner = simulate.flow(Partial(_velocity, moment), layers, t, rtol=1e-8)
        learned = jnp.einsum("pk,tpj,tjq,kq->tk", left, out, inner, right) / top
        found = {"predicted": predicted, "step_times": spectrum.step_times(t, learned)}
        if scale == config.scales[-1]:
            curves = dynamics.mode_eigenvalue(t[::20, None], top / 2, start)
            found |= {"t": t[::20], "learned": learned[::20], "curves": curves}
        arrays |= {f"linear/{scale:g}/{key}": np.asarray(value) for key, value in found.items()}
        for seed in config.seeds:
            keys = jax.random.split(jax.random.key(seed))
            shapes = ((moment.shape[0], dim), (dim, moment.shape[1]))
            layers = tuple(
                scale * max(shape) ** -0.5 * jax.random.normal(key, shape)
                for key, shape in zip(keys, shapes, strict=True)
            )
            t = jnp.linspace(0.0, 2 * predicted[-1], 4000)
            _, inner = simulate.flow(Partial(_velocity, moment), layers, t, rtol=1e-6)
            # Eigenvalues of the hidden representation, because inputs are white. They end at σ.
            spectra = jnp.linalg.eigvalsh(inner @ inner.swapaxes(1, 2))[:, ::-1]
            times = spectrum.step_times(t, spectra / top)
            arrays[f"linear/{scale:g}/random/{seed}"] = np.asarray(times)
            if scale == config.scales[-1] and seed == config.seeds[0]:
                arrays |= {"linear/t": np.asarray(t[::20]), "linear/hidden": spectra[::20]}
    return {name: np.asarray(array) for name, array in arrays.items()}


def _velocity(moment: jax.Array, layers: tuple[jax.Array, jax.Array]) -> Any:
    """Return minus the gradient of the expected |x - W₂ W₁ x̃|² for white x̃.

    `moment` is E x x̃ᵀ, and `layers` are (W₂, W₁).
    """

    def loss(layers: Any) -> jax.Array:
        product = layers[0] @ layers[1]
        return jnp.sum(product**2) - 2 * jnp.sum(product * moment)

    return jax.tree.map(jnp.negative, jax.grad(loss)(layers))


def _network(config: Config, seed: int, start: str, runs: training.Store) -> Arrays:
    """Train the network; return the covariance's eigenvalues of its hidden representation."""
    decoder = nn.Projector(3 * config.size**2, (config.width,), batch_norm=False)
    network = nn.Encoder(PatchEncoder(config.patch, config.width), decoder)
    objective, optimizer = train.Reconstruction(network), optax.sgd(config.learning_rate)
    views = partial(_masked, config)
    step = train.make_step(objective, losses.reconstruction_error, optimizer, views)
    x = jnp.asarray(_pairs(config, seed, config.num_probe)[0]).reshape(-1, *2 * [config.size], 3)
    scale = config.init_scale if start == "small" else 1.0
    state = train.init_state(jax.random.key(seed), objective, optimizer, x, init_scale=scale)

    @jax.jit
    def hidden(params: Any) -> jax.Array:
        h, _ = network.apply({"params": params}, x, train=False)
        return spectrum.covariance_eigenvalues(h)

    others = ("seeds", "data_dir", "dim", "scales")
    given = {key: value for key, value in vars(config).items() if key not in others}
    source = image_data.identity(config.data, config.size)
    settings = {**given, "data": source, "start": start, "seed": seed}
    folder = runs.place(f"masked-{source}-{start}-seed{seed}", settings, __name__)
    runs.sign(folder, __name__)
    found = train.fit(
        train.compile_step(step),
        state,
        _images(config, seed),
        num_steps=config.num_steps,
        batch_size=config.batch_size,
        folder=folder,
        record=lambda state: {"hidden": hidden(state.params)},
        record_at=training.record_steps(config.num_steps, config.num_records),
        settings=settings,
        progress=f"masked, {start}, seed {seed}",
    )
    return {
        "record_t": config.learning_rate * found.records["step"],
        "hidden": found.records["hidden"],
        "loss": found.metrics["loss"],
    }


EXPERIMENT = Experiment(
    {
        "cpu": Config(),
        "paper": Config(data="cifar10", size=16, patch=4, width=256, num_steps=40000),
    },
    run,
    trains=True,
    minutes=8,
)
