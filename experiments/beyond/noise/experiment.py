r"""Signal and noise: which of the dimensions learned from n pairs are those of the population.

    make noise    or    python -m experiments run noise

A linear model learns the modes of the cross-correlation Γ of its n pairs of crops. The population
is all crops of all images, and pairs are drawn from it independently. `linear.sampled_modes`
predicts, from the population's Γ and second moments Σ, the eigenvalues of the sample's Γ, the
population's C_jj of each learned dimension, and the edge of the noise. It assumes Gaussian data.
Gaussian pairs with the crops' Γ and Σ are the control.

(A) C_jj in the population against j; it is 1 in the sample. (B) Eigenvalues of Γ. (C) The largest
eigenvalue of Γ if views of different samples are paired, so that Γ is noise. (D) Accuracy of a
linear probe against the number of dimensions; marked: the number d of dimensions with a predicted
C_jj of at least 1/2. If C_jj falls with j, training to the step time of dimension d learns these
dimensions and no more.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from tqdm import tqdm

from sslstep import data, dynamics, linear
from sslstep.experiment import Arrays, Experiment, probes
from sslstep.experiment._require import require
from sslstep.experiment.image_data import Images, choose, labelled


@dataclass(frozen=True)
class Config(Images):
    """Settings; each is one option of the command."""

    num_pairs: tuple[int, ...] = (200, 800, 3200, 12_800)
    """n, numbers of positive pairs."""
    crop: int = 16
    """Side of a crop, in pixels."""
    pool: int = 2
    """Crops are averaged over squares of this side, in pixels; 1 keeps them."""
    num_modes: int = 64
    """Number of modes."""
    num_population: int = 400_000
    """Number of pairs from which the population's moments are computed."""
    num_labelled: int = 4000
    """Largest number of labelled images in each split, for the probe."""
    init_scale: float = 1e-3
    """α, the initial scale of step times."""
    seeds: tuple[int, ...] = (0, 1, 2)
    """Seeds of the pairs."""


#: Number of pairs that are in memory at once.
CHUNK = 8000
#: Number of ways in which views of different samples are paired, for the mean edge of the noise.
SHIFTS = 8


def run(config: Config) -> Arrays:
    """Measure and predict modes of each number of pairs; return arrays (seeds, numbers, ...)."""
    require(
        config,
        at_least={
            "num_pairs": 1,
            "pool": 1,
            "num_modes": 2,
            "num_population": 2,
            "num_labelled": 2,
        },
        positive=("init_scale",),
    )
    if config.crop % config.pool:
        raise ValueError(f"crop = {config.crop} is not a multiple of pool = {config.pool}.")
    dim, features = config.num_modes, 3 * (config.crop // config.pool) ** 2
    if dim > min(*config.num_pairs, features):
        raise ValueError(
            f"num_modes = {dim} must be at most the number of features, {features}, and each of "
            f"num_pairs = {config.num_pairs}."
        )
    images = choose(jax.random.key(0), config.data, None, config.data_dir, view=config.crop).images
    total = len(config.seeds) * sum(config.num_pairs) + config.num_population
    with tqdm(total=total, unit=" pairs", unit_scale=True, disable=None) as bar:
        gamma, sigma, mean = _moments(_pairs(config, images, 0, config.num_population, bar))
        arrays: dict[str, Any] = {"gammas": np.linalg.eigvalsh(gamma)[::-1]}
        for num in config.num_pairs:
            found = linear.sampled_modes(gamma, sigma, num, dim)
            noise = linear.sampled_modes(0 * gamma, sigma, num, 1)
            for part, value in (*found._asdict().items(), ("edges", noise.eigenvalues[0])):
                arrays.setdefault(f"predicted_{part}", []).append(value)
        arrays = {name: np.asarray(value) for name, value in arrays.items()}
        arrays["stop"] = _stop(config, arrays)
        arrays["dims"] = np.unique(np.geomspace(1, dim, 10).round().astype(int))
        sets = [_labelled(config, split, mean) for split in ("train", "test")]
        roots = [_root(sigma + gamma), _root(sigma - gamma)]
        samples: dict[str, list[Any]] = {}
        for seed in config.seeds:
            for num in config.num_pairs:
                pairs = _pairs(config, images, 1 + seed, num, bar)
                crops = [np.concatenate(each) - mean for each in zip(*pairs, strict=True)]
                normal = _gaussian(np.random.default_rng([seed, num]), roots, num)
                own, vectors = _sample(dim, crops, gamma)
                for name, value in (
                    *own.items(),
                    *((f"gaussian_{n}", v) for n, v in _sample(dim, normal, gamma)[0].items()),
                    ("accuracies", _accuracies(arrays["dims"], vectors, sets)),
                ):
                    samples.setdefault(name, []).append(value)
    shape = (len(config.seeds), len(config.num_pairs))
    return arrays | {
        name: np.reshape(values, (*shape, *np.shape(values[0]))) for name, values in samples.items()
    }


def kept(correlations: np.ndarray) -> np.ndarray:
    """Count the dimensions whose C_jj is at least 1/2, over the last axis."""
    found: np.ndarray = (correlations >= 0.5).sum(axis=-1)
    return found


def _stop(config: Config, arrays: Arrays) -> np.ndarray:
    """Return the step time of dimension d, the number with a predicted C_jj of at least 1/2."""
    counts = np.maximum(kept(arrays["predicted_correlations"]), 1)
    start = linear.initial_singular_values(config.init_scale, config.num_modes)
    times = dynamics.step_time(arrays["predicted_eigenvalues"], start[None, :])
    found: np.ndarray = np.take_along_axis(np.asarray(times), counts[:, None] - 1, axis=1)[:, 0]
    return found


def _pairs(
    config: Config, images: np.ndarray, seed: int, num: int, bar: Any
) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Yield `num` independent pairs of crops: two random crops of a random image."""
    key = jax.random.fold_in(jax.random.key(seed), num)
    for start in range(0, num, CHUNK):
        key, key_images, key_crops = jax.random.split(key, 3)
        rows = jax.random.choice(key_images, len(images), (CHUNK,))
        crops = data.random_crop_pairs(key_crops, images[np.asarray(rows)], config.crop)
        count = min(CHUNK, num - start)
        x, x_prime = (_features(config, crop[:count]) for crop in crops)
        yield x, x_prime
        bar.update(count)


def _features(config: Config, crops: Any) -> np.ndarray:
    """Return averages of pixel values, in -1...1, as rows, float32."""
    return 2 * probes.pooled(np.asarray(crops), config.pool) - 1


def _moments(
    pairs: Iterator[tuple[np.ndarray, np.ndarray]],
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return Γ and Σ about the pairs' mean, and the mean."""
    parts = [
        (
            len(x) * np.asarray(linear.cross_correlation(x, x_prime), np.float64),
            len(x) * np.asarray(linear.second_moment(x, x_prime), np.float64),
            (x.sum(axis=0, dtype=np.float64) + x_prime.sum(axis=0, dtype=np.float64)) / 2,
            len(x),
        )
        for x, x_prime in pairs
    ]
    gamma, sigma, total, count = (sum(part) for part in zip(*parts, strict=True))
    mean = total / count
    return gamma / count - np.outer(mean, mean), sigma / count - np.outer(mean, mean), mean


def _root(covariance: np.ndarray) -> np.ndarray:
    values, vectors = np.linalg.eigh(covariance)
    found: np.ndarray = vectors * np.sqrt(np.maximum(values, 0))
    return found.astype(np.float32)


def _gaussian(
    rng: np.random.Generator, roots: list[np.ndarray], num: int
) -> tuple[np.ndarray, np.ndarray]:
    """Return Gaussian pairs; `roots` are those of the covariances Σ ± Γ of (x ± x') / √2."""
    u, v = (rng.standard_normal((num, len(root)), np.float32) @ root.T for root in roots)
    return (u + v) / 2**0.5, (u - v) / 2**0.5


def _sample(dim: int, pair: Any, gamma: np.ndarray) -> tuple[Arrays, np.ndarray]:
    """Return eigenvalues, population C_jj and the noise's edge of one sample.

    The second result is the modes, scaled as they are when learned, as columns.
    """
    x, x_prime = pair
    top, vectors = (a[..., ::-1][..., :dim] for a in np.linalg.eigh(_cross(x, x_prime)))
    edges = [
        np.linalg.eigvalsh(_cross(x, np.roll(x_prime, shift, axis=0)))[-1]
        for shift in range(1, 1 + SHIFTS)
    ]
    found = {
        "eigenvalues": top,
        "correlations": np.einsum("aj,ab,bj->j", vectors, gamma, vectors) / top,
        "edges": np.mean(edges),
    }
    return found, vectors / np.sqrt(top)


def _accuracies(dims: np.ndarray, vectors: np.ndarray, sets: Any) -> np.ndarray:
    """Return the test accuracy of a linear probe on the leading learned dimensions."""
    (h, labels), (h_test, labels_test) = sets
    accuracies = []
    for d in dims:
        few = np.arange(vectors.shape[1]) < d  # zeros keep one shape for all d
        right = probes.correct(
            *(jnp.asarray(each @ vectors * few, jnp.float32) for each in (h, h_test)),
            labels,
            labels_test,
            jnp.geomspace(1e-6, 1.0, 19),
            num_classes=int(labels.max()) + 1,
        )
        accuracies.append(float(right.mean()))
    return np.array(accuracies)


def _cross(x: np.ndarray, x_prime: np.ndarray) -> np.ndarray:
    with jax.enable_x64(True):
        return np.asarray(linear.cross_correlation(x, x_prime))


def _labelled(config: Config, split: str, mean: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    found = labelled(config.data, split, config.data_dir, config.crop)
    few = np.random.default_rng(0).permutation(len(found.images))[: config.num_labelled]
    images = probes.central(np.asarray(found.images)[few], config.crop)
    return _features(config, images) - mean, np.asarray(found.labels)[few]


EXPERIMENT = Experiment(
    {
        "cpu": Config(),
        "paper": Config(data="cifar10", num_pairs=(200, 800, 3200, 12_800, 50_000)),
        "small": Config(num_pairs=(100, 400), crop=6, pool=1, num_modes=12, num_population=20_000,
                        num_labelled=400),
    },
    run,
    minutes=4,
)  # fmt: skip
