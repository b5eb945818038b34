r"""Two different networks on two views of different kinds, the multimodal case (Section 5.2).

    make two_towers    or    python -m experiments run two_towers

One network (tower) sees the left half of an image; the other tower, deeper and narrower, sees the
right half. Alternatively, one tower sees colours at a low resolution and the other greyscale edges.
Both are trained together on the simplified Barlow Twins loss of the cross-correlation C between
their embeddings. The kernel between the two views is zero, K_XX' = 0, so the eigenvalues of K_Γ
come in pairs ±γ. The theory of one network holds otherwise unchanged. The figure shows the
loss (A), the eigenvalues of C (B), and the retrieval of held-out images across the views (C),
measured and predicted by gradient descent of the infinite-width kernel. Expected: step times agree
within the fluctuations of the networks' kernels, and retrieval is as good as predicted. Half a
minute to two minutes on two cores.
"""

from dataclasses import dataclass
from functools import partial
from typing import Literal

import jax
import jax.numpy as jnp
import numpy as np
from tqdm import tqdm

from sslstep import gram, nn
from sslstep.experiment import Arrays, Experiment, networks, prediction
from sslstep.experiment._loops import stacked
from sslstep.experiment._require import require
from sslstep.experiment.image_data import Images, choose
from sslstep.measure import alignment
from sslstep.ntk import fluctuations, infinite


@dataclass(frozen=True)
class Config(Images):
    """Settings; each is one option of the command."""

    views: Literal["halves", "colour_edges"] = "halves"
    """halves: left and right half; colour_edges: colours at half resolution and grey gradients."""
    num_images: int = 200
    """n, the number of training images."""
    num_test: int = 100
    """Number of held-out images."""
    dim: int = 4
    """Embedding dimension d."""
    widths: tuple[int, int] = (2048, 1024)
    """Hidden units in each layer, for each tower."""
    depths: tuple[int, int] = (1, 2)
    """Number of hidden layers, for each tower."""
    num_seeds: int = 4
    """Number of independent pairs of networks."""
    init_scale: float = 0.1
    """α, scale of the initial embeddings relative to the plain networks'."""
    step_size: float = 0.2
    """4 η γ_1, with learning rate η and largest eigenvalue γ_1 of K_Γ; stable below 1."""
    seed: int = 0
    """Seed of the choice of images and of the networks."""


def run(config: Config) -> Arrays:
    """Predict by the infinite-width kernel, train several pairs of networks, and compare."""
    least = dict.fromkeys(("num_images", "num_test", "dim", "widths", "depths"), 1)
    # One seed gives no standard error.
    require(config, at_least={**least, "num_seeds": 2}, at_most_one=("init_scale", "step_size"))
    key_data, key_networks = jax.random.split(jax.random.key(config.seed))
    views = two_views(config, key_data)  # of each tower: training, held-out
    kernels = gram.TwoTowers(*(infinite.mlp(depth) for depth in config.depths))
    x, x_prime = (training for training, _ in views)
    kernel = gram.pairs(kernels, x, x_prime, progress=False)
    held_out = [
        gram.to_pairs(kernels, views[0][1], x, x_prime, view=0, progress=False),
        gram.to_pairs(kernels, views[1][1], x, x_prime, view=1, progress=False),
    ]
    limit = prediction.limit(kernel, jnp.concatenate(held_out), config.dim, config.step_size)
    models = list(map(partial(nn.MLP, config.dim), config.widths, config.depths))
    bases = [nn.span_basis(*view) for view in views]

    def apply_fn(params, x):
        """Return the embeddings of [X, X'], each view by its tower."""
        towers = zip(models, params, x, strict=True)
        z, z_prime = (model.apply(p, view) for model, p, view in towers)
        return jnp.concatenate([jnp.asarray(z), jnp.asarray(z_prime)])

    functions = networks.functions(apply_fn)
    results: list[Arrays] = []
    for key in tqdm(jax.random.split(key_networks, config.num_seeds), disable=None):
        towers = []
        for k, model, basis, view in zip(jax.random.split(key), models, bases, views, strict=True):
            drawn = model.init(k, view[0][:1])
            towers.append(nn.change_basis(model, basis, drawn, *view))
        params, *inputs = zip(*towers, strict=True)  # parameters, training, held-out: of each tower
        made = networks.compared(functions, params, inputs, config.init_scale, limit)
        each: Arrays = {"t": made.times, "distances": made.distances}
        each["fluctuations"] = fluctuations.mode_deviation(
            apply_fn, params, inputs[0], limit.modes.coefficients
        )
        for name, outcome in (("trained", made.trained), ("predicted", made.predicted)):
            each[f"{name}_curves"] = outcome.curves
            each[f"{name}_step_times"] = outcome.step_times
            each[f"{name}_correlation"] = _correlation(outcome.test)
            each[f"{name}_ranks"] = alignment.retrieval_ranks(*np.split(outcome.test, 2))
        each["untrained_ranks"] = alignment.retrieval_ranks(*jnp.split(made.initial[1], 2))
        results.append(each)
    return {**stacked(results), "gammas": np.asarray(limit.gamma_modes.eigenvalues)}


def two_views(config: Config, key: jax.Array) -> list[tuple[jax.Array, jax.Array]]:
    """Return training and held-out samples of each view, standardised by the training samples."""
    num, called = config.num_images + config.num_test, "num_images + num_test"
    images = choose(key, config.data, num, config.data_dir, called=called).images
    pixels = jnp.asarray(images, float) / 255
    split = halves if config.views == "halves" else colour_edges
    return [_standardised(view, config.num_images) for view in split(pixels)]


def halves(pixels: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Return the left and the right halves of images (n, h, w, c)."""
    middle = pixels.shape[2] // 2
    return pixels[:, :, :middle], pixels[:, :, middle:]


def colour_edges(pixels: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Return means of 2 x 2 pixels minus their brightness, and sizes of brightness gradients."""
    n, height, width, channels = pixels.shape
    blocks = pixels.reshape(n, height // 2, 2, width // 2, 2, channels).mean(axis=(2, 4))
    colours = blocks - blocks.mean(axis=-1, keepdims=True)
    grey = pixels.mean(axis=-1)
    down = grey[:, 1:, :-1] - grey[:, :-1, :-1]
    across = grey[:, :-1, 1:] - grey[:, :-1, :-1]
    return colours, jnp.hypot(down, across)[..., None]


def _standardised(view: jax.Array, num: int) -> tuple[jax.Array, jax.Array]:
    """Flatten a view; standardise it by its first `num` samples' channels; split it there."""
    axes = (0, 1, 2)
    mean = view[:num].mean(axes, keepdims=True)
    flat = ((view - mean) / view[:num].std(axes, keepdims=True)).reshape(len(view), -1)
    return flat[:num], flat[num:]


def _correlation(z_test: np.ndarray) -> float:
    """Return the two towers' uncentred correlation on held-out images, mean over dimensions."""
    z, z_prime = np.split(z_test, 2)
    return float(np.mean(np.sum(z * z_prime, 0) / np.sqrt(np.sum(z**2, 0) * np.sum(z_prime**2, 0))))


PAPER = Config(data="cifar10", num_images=1000, num_test=500)

EXPERIMENT = Experiment({"cpu": Config(), "paper": PAPER}, run, minutes=0.8)
