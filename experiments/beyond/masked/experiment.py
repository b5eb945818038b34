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

from experiments.beyond.masked import linear_model, windows
from experiments.beyond.masked.windows import Windows
from sslstep import losses, nn, train
from sslstep.experiment import Arrays, Experiment, image_data, training
from sslstep.experiment._require import require, require_list
from sslstep.measure import spectrum


@dataclass(frozen=True)
class Config(Windows):
    """Settings; each is one option of the command."""

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
        at_least={**counts, "num_steps": 1, "num_records": 3, "num_probe": config.width + 1},
        positive=("scales", "init_scale", "learning_rate"),
        fraction=("fraction",),
    )
    require_list("scales", config.scales, least=2)
    seen, truth = windows.pairs(config, 0, 4096)
    arrays: Arrays = {"scales": np.asarray(config.scales)}
    with jax.enable_x64(True):
        pixels = np.asarray(seen, float), np.asarray(truth, float)
        arrays |= linear_model.train(*pixels, config.dim, config.scales, config.seeds)
    for seed in config.seeds:
        for start in STARTS:
            found = _network(config, seed, start, runs)
            arrays |= {f"{start}/{seed}/{key}": value for key, value in found.items()}
    return arrays


def _network(config: Config, seed: int, start: str, runs: training.Store) -> Arrays:
    """Train the network; return the covariance's eigenvalues of its hidden representation."""
    decoder = nn.Projector(3 * config.size**2, (config.width,), batch_norm=False)
    network = nn.Encoder(PatchEncoder(config.patch, config.width), decoder)
    objective, optimizer = train.Reconstruction(network), optax.sgd(config.learning_rate)
    views = partial(windows.masked, config)
    step = train.make_step(objective, losses.reconstruction_error, optimizer, views)
    x = jnp.asarray(windows.pairs(config, seed, config.num_probe)[0]).reshape(
        -1, *2 * [config.size], 3
    )
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
    training.sign_unless_done(runs, folder, config.num_steps, __name__)
    found = train.fit(
        train.compile_step(step),
        state,
        windows.images(config, seed),
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


PAPER = Config(data="cifar10", size=16, patch=4, width=256, num_steps=40000)

EXPERIMENT = Experiment({"cpu": Config(), "paper": PAPER}, run, trains=True, minutes=8)
