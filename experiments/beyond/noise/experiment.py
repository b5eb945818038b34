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

from experiments.beyond.noise import sampling
from sslstep import data, dynamics, linear
from sslstep.experiment import Arrays, Experiment, probes
from sslstep.experiment._loops import stacked
from sslstep.experiment._require import require
from sslstep.experiment.image_data import Images, choose


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


def run(config: Config) -> Arrays:
    """Measure and predict modes of each number of pairs; return arrays (seeds, numbers, ...)."""
    least = {"num_pairs": 1, "pool": 1, "num_modes": 2, "num_population": 2, "num_labelled": 2}
    require(config, at_least=least, positive=("init_scale",))
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
        pairs = _pairs(config, images, 0, config.num_population, bar)
        gamma, sigma, mean = sampling.moments(pairs)
        predicted = stacked(sampling.predicted(gamma, sigma, num, dim) for num in config.num_pairs)
        arrays: Arrays = {f"predicted_{name}": value for name, value in predicted.items()}
        arrays["gammas"] = np.linalg.eigvalsh(gamma)[::-1]
        arrays["stop"] = _stop(config, arrays)
        arrays["dims"], grid = probes.dims(dim, 10), jnp.geomspace(1e-6, 1.0, 19)
        sets = [_labelled(config, split, mean) for split in ("train", "test")]
        roots = [sampling.root(sigma + gamma), sampling.root(sigma - gamma)]

        def sample(seed: int, num: int) -> Arrays:
            pairs = _pairs(config, images, 1 + seed, num, bar)
            crops = [np.concatenate(each) - mean for each in zip(*pairs, strict=True)]
            found, vectors = sampling.measured(dim, crops, gamma)
            normal = sampling.gaussian(np.random.default_rng([seed, num]), roots, num)
            of_normal, _ = sampling.measured(dim, normal, gamma)
            (z, labels), (z_test, labels_test) = [(h @ vectors, labels) for h, labels in sets]
            embeddings = (jnp.asarray(part, jnp.float32) for part in (z, z_test))
            right = probes.correct_by_dim(arrays["dims"], *embeddings, labels, labels_test, grid)
            found |= {f"gaussian_{name}": value for name, value in of_normal.items()}
            return {**found, "accuracies": right.mean(axis=1)}

        samples = (stacked(sample(seed, num) for num in config.num_pairs) for seed in config.seeds)
        return arrays | stacked(samples)


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
    return 2 * probes.pooled(np.asarray(crops), config.pool).reshape(len(crops), -1) - 1


def _labelled(config: Config, split: str, mean: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return the centred features of labelled images of a split, and their labels."""
    crops, labels = probes.crops_and_labels(config, split, config.num_labelled, seed=0)
    return _features(config, crops) - mean, labels


PAPER = Config(data="cifar10", num_pairs=(200, 800, 3200, 12_800, 50_000))
SMALL = Config(
    num_pairs=(100, 400), crop=6, pool=1, num_modes=12, num_population=20_000, num_labelled=400
)

EXPERIMENT = Experiment({"cpu": Config(), "paper": PAPER, "small": SMALL}, run, minutes=4)
