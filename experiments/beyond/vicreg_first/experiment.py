r"""VICReg's first direction: the first mode of Σ, not of Γ, until the variance exceeds ε.

    make vicreg_first    or    python -m experiments run vicreg_first

Small weights of a linear model under VICReg grow by the matrix [(μ/√ε) Σ - 2λ Δ] / d. Σ is the
covariance of single views, and Δ the second moment of the difference of two views. At the published
ε = 1e-4 the factor of Σ is fifty times that of Δ. A direction then grows in proportion to its
variance over views, whether or not the views share it. Here each view has a brightness slope of its
own from left to right. This light is the first mode of Σ, and the views do not share it.

Panels A and B: the overlap (squared cosine) of the first learned direction with the first mode of Σ
and of Γ, against t, for ε from 1e-6 to 0.5. Panel C: the overlaps with these two modes and with
that of the pencil (Γv = μΣv) while the variance is far below ε, against ε; dashed: predicted by the
first mode of the growth matrix. Expected: for small ε the light comes first, until the variance
exceeds ε. For ε of order one Γ's mode grows from the beginning.
"""

from dataclasses import dataclass
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
from tqdm import tqdm

from experiments.beyond.any_loss.features import Components, features
from sslstep import linear, losses, train
from sslstep.experiment import Arrays, Experiment
from sslstep.experiment._loops import geometric_steps, stacked
from sslstep.experiment._require import require, require_list

#: The published weight λ of invariance and μ of variance.
WEIGHT = 25.0
MATRICES = ("sigma", "gamma", "pencil")
#: Up to this ε the factor of Σ in the growth matrix is at least 50 times that of Δ.
SMALL = 1e-4


@dataclass(frozen=True)
class Config(Components):
    """Settings; each is one option of the command."""

    dim: int = 3
    """Embedding dimension d."""
    light: float = 1.0
    """Standard deviation of the views' brightness slopes, relative to that of pixels."""
    eps: tuple[float, ...] = (1e-6, 1e-5, 1e-4, 1e-3, 1e-2, 1e-1, 0.5)
    """ε of the hinge on the standard deviation, increasing; the hinge is zero from ε = 1 on."""
    init_scale: float = 1e-6
    """α: standard deviation of the initial weights."""
    end: float = 1.0
    """Effective time at which training ends; multiplied by 30 √ε if that is more than 1."""
    num_seeds: int = 3
    """Number of seeds; each chooses images, crops and weights."""
    num_records: int = 200
    """Number of records of a run, evenly spaced in log t."""


def run(config: Config) -> Arrays:
    """Train at each ε from each seed; return overlaps of the weights and of the growth matrix."""
    least = {"num_images": 4, "components": 2, "dim": 1, "num_seeds": 1, "num_records": 2}
    require(config, at_least=least, positive=("eps", "end"), at_most_one=("init_scale",))
    require_list("eps", config.eps, order="increasing")
    rows: list[Arrays] = []
    with jax.enable_x64(True), tqdm(total=config.num_seeds * len(config.eps), disable=None) as bar:
        for seed in range(config.seed, config.seed + config.num_seeds):
            key, key_weights = jax.random.split(jax.random.key(seed))
            views = features(config, key, light=config.light)
            firsts = first_modes(views)
            weights = linear.init_weights(
                key_weights, config.dim, config.components, config.init_scale, dtype=float
            ).T
            rows.append({})
            for eps in config.eps:
                found = _train(config, views, weights, firsts, eps)
                rows[-1] |= {f"{eps:g}/{name}": value for name, value in found.items()}
                bar.update()
    return stacked(rows)


def first_modes(views: list[np.ndarray]) -> np.ndarray:
    """Return the first modes of Σ, Γ and the pencil as columns of length 1, shape (m, 3)."""
    gamma = linear.cross_correlation(*views, centre=True)
    sigma = linear.second_moment(*views, centre=True)
    found = (linear.modes(sigma, 1), linear.modes(gamma, 1), linear.pencil_modes(gamma, sigma, 1))
    vectors = np.hstack([np.asarray(modes.eigenvectors) for modes in found])
    return vectors / np.linalg.norm(vectors, axis=0)


def growth_matrix(views: list[np.ndarray], eps: float, dim: int) -> np.ndarray:
    """Return the matrix by which small weights grow, [(μ/√ε) Σ - 2λ Δ] / d, shape (m, m)."""
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
    # The rate must be stable later too, when the variance is near 1 and rates are μ / d.
    eta = 0.1 / max(rates[-1], WEIGHT / config.dim)
    end = config.end * max(1.0, 30 * eps**0.5)
    num_steps = int(end / eta)

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
        record_at=geometric_steps(num_steps, config.num_records),
        measure=measure,
    )
    overlaps, along, variance = (np.asarray(part) for part in done.records)
    times = np.geomspace(eta, end, config.num_records)
    # The last record at which the variance is at most a hundredth of ε.
    early = max(int(np.searchsorted(variance, 0.01 * eps)) - 1, 0)
    passed = np.append(done.times[variance > eps], np.inf)
    return {
        "t": times,
        "overlaps": np.stack([np.interp(times, done.times, row) for row in overlaps.T]),
        "passes": float(passed[0]),
        "early": overlaps[early],
        "along": along[early],
        "end": overlaps[-1],
        "predicted": (direction @ firsts) ** 2,
    }


EXPERIMENT = Experiment({"cpu": Config(), "paper": Config(data="cifar10")}, run, minutes=2)
