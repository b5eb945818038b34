r"""What VICReg learns first: the modes of Σ, not of Γ, until its variance passes ε.

    make vicreg_first    or    python -m experiments run vicreg_first

Near zero a linear model under VICReg grows by [(μ/√ε) Σ - 2λ Δ] / d, with Σ the covariance of
single views and Δ the second moment of the views' difference. At the published ε = 1e-4 the first
term is fifty times the second: a direction grows by how much views vary in it, shared or not. Here
each view of a crop is lit from the left or the right by itself. The light is Σ's first mode, and
views do not share it. Panels A and B: overlap of the first learned direction with the first mode of
each, Σ and Γ, against t, for ε from 1e-6 to 0.5. Panel C: the overlaps while the
variance is far below ε, against ε, with the pencil's too (Γv = μΣv); dashed: the growth matrix's
first mode. Expected: the light comes first for small ε, until the variance passes ε; for ε of order
one Γ's mode grows from the beginning.
"""

from dataclasses import dataclass
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from tqdm import tqdm

from experiments.beyond.any_loss.experiment import features
from sslstep import linear, losses, train
from sslstep.experiment import Arrays, Experiment
from sslstep.experiment._require import require
from sslstep.experiment.image_data import Crops

#: Weights of invariance and variance as published.
WEIGHT = 25.0
MATRICES = ("sigma", "gamma", "pencil")
#: Up to here the growth matrix is Σ, by 50 to 1 and more.
SMALL = 1e-4


@dataclass(frozen=True)
class Config(Crops):
    """Settings; each is one option of the command."""

    num_images: int = 200
    """n, the number of positive pairs."""
    components: int = 8
    """Principal components of crops that the model sees: its features m."""
    dim: int = 3
    """Embedding dimension d."""
    light: float = 1.0
    """Deviation of each view's own slope of brightness, in that of pixels."""
    eps: tuple[float, ...] = (1e-6, 1e-5, 1e-4, 1e-3, 1e-2, 1e-1, 0.5)
    """ε of the hinge on the standard deviation, increasing; at 1 the hinge is off."""
    init_scale: float = 1e-6
    """α: standard deviation of the initial weights."""
    end: float = 1.0
    """Effective time at which training ends; later by 30 √ε, if that is more than 1."""
    num_seeds: int = 3
    """Choices of images, crops and weights."""
    num_records: int = 200
    """Records of a run, evenly in log t."""


def run(config: Config) -> Arrays:
    """Overlaps along training from each ε by each seed, and those of the growth matrix."""
    require(
        config,
        at_least={"num_images": 4, "components": 2, "dim": 1, "num_seeds": 1, "num_records": 2},
        positive=("eps", "end"),
        at_most_one=("init_scale",),
    )
    if list(config.eps) != sorted(set(config.eps)):
        raise ValueError(f"eps must increase, got {config.eps}.")
    rows: dict[str, list[Any]] = {}
    with jax.enable_x64(True), tqdm(total=config.num_seeds * len(config.eps), disable=None) as bar:
        for seed in range(config.seed, config.seed + config.num_seeds):
            key, key_weights = jax.random.split(jax.random.key(seed))
            views = features(config, key, light=config.light)
            firsts = first_modes(views)
            weights = linear.init_weights(
                key_weights, config.dim, config.components, config.init_scale, dtype=float
            ).T
            for eps in config.eps:
                for name, value in _train(config, views, weights, firsts, eps).items():
                    rows.setdefault(f"{eps:g}/{name}", []).append(value)
                bar.update()
    return {name: np.asarray(values) for name, values in rows.items()}


def first_modes(views: list[np.ndarray]) -> np.ndarray:
    """Of Σ, Γ and the pencil, of length 1, as columns."""
    gamma = linear.cross_correlation(*views, centre=True)
    sigma = linear.second_moment(*views, centre=True)
    found = (linear.modes(sigma, 1), linear.modes(gamma, 1), linear.pencil_modes(gamma, sigma, 1))
    vectors = np.hstack([np.asarray(modes.eigenvectors) for modes in found])
    return vectors / np.linalg.norm(vectors, axis=0)


def growth_matrix(views: list[np.ndarray], eps: float, dim: int) -> np.ndarray:
    """What small weights grow by."""
    difference = views[0] - views[1]
    size = len(difference)
    sigma = np.asarray(linear.second_moment(*views, centre=True)) * size / (size - 1)
    delta = difference.T @ difference / size
    matrix: np.ndarray = WEIGHT * (sigma / eps**0.5 - 2 * delta) / dim
    return matrix


def _train(config, views, weights, firsts, eps) -> Arrays:
    matrix = growth_matrix(views, eps, config.dim)
    rates, directions = np.linalg.eigh(matrix)
    direction = directions[:, -1]
    loss = partial(losses.vicreg, eps=eps)
    # Descent sees what is learned later too, whose rates are those of a variance of 1.
    eta = 0.1 / max(rates[-1], WEIGHT / config.dim)
    end = config.end * max(1.0, 30 * eps**0.5)
    num_steps = int(end / eta)
    at = np.unique(np.geomspace(1, num_steps, config.num_records).astype(int))

    def loss_of(w, x, x_prime, firsts, direction):
        return loss(x @ w, x_prime @ w)

    def measure(w, x, x_prime, firsts, direction):
        first = jnp.linalg.svd(w, full_matrices=False)[0][:, 0]
        variances = (jnp.var(x @ w, axis=0, ddof=1) + jnp.var(x_prime @ w, axis=0, ddof=1)) / 2
        return (first @ firsts) ** 2, (first @ direction) ** 2, variances.max()

    done = train.full_batch_descent(
        loss_of,
        weights,
        eta,
        num_steps,
        args=(*views, firsts, direction),
        record_at=at,
        measure=measure,
    )
    overlaps, along, variance = (np.asarray(part) for part in done.records)
    times = np.geomspace(eta, end, config.num_records)
    # While the variance is below ε: the last record at which it is a hundredth of it.
    early = max(int(np.searchsorted(variance, 0.01 * eps)) - 1, 0)
    return {
        "t": times,
        "overlaps": np.stack([np.interp(times, done.times, row) for row in overlaps.T]),
        "passes": float(done.times[int(np.argmax(variance > eps))]),
        "early": overlaps[early],
        "along": along[early],
        "end": overlaps[-1],
        "predicted": (direction @ firsts) ** 2,
    }


EXPERIMENT = Experiment(
    {"cpu": Config(), "paper": Config(data="cifar10")},
    run,
    minutes=2,
)
