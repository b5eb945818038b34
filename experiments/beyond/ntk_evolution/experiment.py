r"""The NTK of finite networks at initialisation, for growing widths, and after training.

    make ntk_evolution    or    python -m experiments run ntk_evolution

ReLU networks of one hidden layer, of widths 64 to 4096, are compared with the infinite-width limit
on pairs of crops. Each has a scalar NTK (Appendix D.5) and a trace NTK. At initialisation the
figure shows the distance of the NTK from the infinite-width kernel (A), the deviation of the
eigenvalues of its contrastive modes (B), and the misalignment of the subspace that it predicts (C).
The networks are then trained lazily and from small weights. The figure shows eigenvalues (D), the
movement of the kernel (E), and how well the initial, the final and the infinite-width NTK predict
the learned embeddings (F). Expected: the rates and constants of sslstep.ntk.fluctuations, without a
fit. One to three minutes on two cores.

Lazy training subtracts most of the initial output, which makes the initial embeddings
small (sslstep.nn.centred). The output weights then move the kernel by O(1 / width), and the hidden
weights move it by O(width^-3/4), because rectifiers switch. Training from small weights multiplies
all weights by α, with κ = α² width^1/2 fixed. The product of a unit's weights then has to grow to
order width^-1/2, and the kernel moves by O(1 / κ).
"""

from dataclasses import dataclass

import jax
import numpy as np
from tqdm import tqdm

from experiments.beyond.ntk_evolution.measures import Setting, of_width
from sslstep import nn
from sslstep.experiment import Arrays, Experiment, prediction
from sslstep.experiment._loops import stacked
from sslstep.experiment._require import require, require_widths
from sslstep.experiment.image_data import Crops, split_pairs
from sslstep.ntk import fluctuations, infinite


@dataclass(frozen=True)
class Config(Crops):
    """Settings; each is one option of the command."""

    num_images: int = 32
    """n, the number of positive pairs."""
    dim: int = 4
    """Embedding dimension d."""
    widths: tuple[int, ...] = (64, 128, 256, 512, 1024, 2048, 4096)
    """Numbers of hidden units, increasing."""
    fit_from: int = 512
    """Smallest width in claims on predictions and exponents; exponents are fitted to all too."""
    num_draws: int = 64
    """Networks of each width at initialisation."""
    num_lazy: int = 6
    """Networks of each width that are trained lazily."""
    num_small: int = 4
    """Networks of each width that are trained from small weights."""
    init_scale: float = 0.1
    """Scale of the initial embeddings in lazy training, relative to the plain network's."""
    small_scale: float = 0.5
    """κ = α² width^1/2, with α the scale of small weights."""
    step_size: float = 0.2
    """4 η γ_1 in lazy training, with learning rate η and largest eigenvalue γ_1; stable below 1."""
    small_step_size: float = 0.04
    """4 η γ_1 from small weights; smaller, because the kernel grows by about 1 / κ."""
    num_units: int = 8192
    """Hidden units drawn for the averages of theory."""
    num_modes: int = 10
    """Number of eigenvalues shown."""
    memory_gib: float = 2.0
    """Largest memory for the NTK, in GiB."""


def run(config: Config) -> Arrays:
    """Draw networks of every width, train some lazily and some from small weights; add theory."""
    twice = ("num_images", "num_draws", "num_lazy", "num_small", "num_units")
    require(
        config,
        at_least={"dim": 1, "num_modes": config.dim, **dict.fromkeys(twice, 2)},
        positive=("small_scale", "memory_gib"),
        at_most_one=("init_scale", "step_size", "small_step_size"),
    )
    require_widths(config.widths, config.fit_from)
    most = max(config.num_lazy, config.num_small)
    if config.num_draws < most:
        raise ValueError(f"num_draws = {config.num_draws}, but {most} of them are to be trained.")
    if config.num_modes >= config.num_images:
        raise ValueError(
            f"num_modes = {config.num_modes} must be below num_images = {config.num_images}."
        )
    key_data, key_networks, key_units = jax.random.split(jax.random.key(config.seed), 3)
    # The held-out pair is not used.
    x, _ = split_pairs(key_data, config.data, config.num_images, 1, config.data_dir, config.crop)
    kernel = infinite.mlp(1)(x)
    limit = prediction.limit(kernel, kernel[:1], config.dim, config.step_size)
    cov = fluctuations.covariance(x)
    setting = Setting(config, x, nn.span_basis(x), cov, limit)
    order = fluctuations.first_order(cov, config.dim, key_units, config.num_units)
    arrays: Arrays = {
        "widths": np.asarray(config.widths),
        "gammas": limit.gamma_modes.eigenvalues[: config.num_modes],
        "distance_rate": fluctuations.distance(cov, config.dim),
        **{f"rate_{name}": value for name, value in order._asdict().items()},
    }
    per_width = config.num_draws + config.num_lazy + config.num_small
    keys = jax.random.split(key_networks, len(config.widths))
    with tqdm(total=len(config.widths) * per_width, unit=" networks", disable=None) as bar:
        arrays |= stacked(
            stacked(of_width(setting, width, key, bar.update))
            for width, key in zip(config.widths, keys, strict=True)
        )
    return {name: np.asarray(array) for name, array in arrays.items()}


PAPER = Config(
    data="cifar10",
    num_images=128,
    dim=10,
    widths=tuple(2**k for k in range(6, 17)),
    num_modes=20,
    memory_gib=40.0,
)

EXPERIMENT = Experiment({"cpu": Config(), "paper": PAPER}, run, minutes=3)
