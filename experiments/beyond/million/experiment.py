r"""A million views: modes of infinite-width self-supervised learning, with certified γ.

    make million    or    python -m experiments run million

The data are 500,000 pairs of random crops. Their kernel for an infinitely wide network with one
hidden layer has 10^12 entries. `kernel_pca.approximate_modes` computes at most 2,048 of its columns
and finds 64 modes, with a lower and an upper bound of each γ. A check compares them with the exact
solution for the first 20,000 pairs. (A) The spectrum with its bounds, and the exact spectrum of
fewer pairs. (B) The relative distance of the bounds, and the error of γ in the check. (C) The time
at which each mode is learned. (D) The test accuracy of a linear probe on the first modes. Expected:
the bounds of every γ differ by at most 1%.

Presets: `cpu` uses the embedded photographs, or another --data; `paper` uses CIFAR-10 from the
folder --data-dir; `small` uses 2,000 pairs and takes seconds. Kernels are in float32.
"""

import resource
import sys
import time
from dataclasses import dataclass
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np

from experiments.beyond.million import crops
from sslstep import dynamics, gram, kernel_pca, linear
from sslstep.experiment import Arrays, Experiment, log, probes
from sslstep.experiment._require import require
from sslstep.experiment.image_data import Images, choose
from sslstep.ntk import infinite


@dataclass(frozen=True)
class Config(Images):
    """Settings; each is one option of the command."""

    num_images: int | None = None
    """Images that crops are drawn from; all if not given."""
    num_pairs: int = 500_000
    """n, the number of positive pairs: each image has as many as another, or one more."""
    num_exact: int = 20_000
    """Pairs of the check, the first ones."""
    num_test: int = 2000
    """Test images, at most; of each the crop in the middle."""
    crop: int = 28
    """Side of a crop, in pixels."""
    pool: int = 7
    """Crops are averaged over squares of this side, in pixels; 1 keeps them."""
    num_modes: int = 64
    """Modes that are found."""
    rank: int = 2048
    """Columns of the kernel, at most."""
    tol: float = 0.01
    """How far the bounds of a γ may be apart, relative to it."""
    init_scale: float = 0.01
    """Initial scale α, of the step times."""
    seed: int = 0
    """Seed of the choice of images, the crops and the columns."""


KERNEL_FN = jax.jit(infinite.mlp(depth=1, activation="gelu"))


def run(config: Config) -> Arrays:
    """Compute approximate modes of all pairs and of the check, with step times and accuracies."""
    least = {"num_test": 1, "pool": 1, "num_modes": 2, "num_exact": 1}
    require(config, at_least=least, positive=("init_scale", "tol"))
    if config.crop % config.pool:
        raise ValueError(f"crop = {config.crop} is not a multiple of pool = {config.pool}.")
    if not config.num_modes <= config.num_exact <= config.num_pairs:
        raise ValueError(
            f"num_exact = {config.num_exact} must lie between num_modes = {config.num_modes} and "
            f"num_pairs = {config.num_pairs}."
        )
    key_images, key_crops, key_columns = jax.random.split(jax.random.key(config.seed), 3)
    source = config.data, config.num_images, config.data_dir
    images, labels, _ = choose(key_images, *source, view=config.crop, with_labels=True)
    shape = config.num_pairs, config.crop, config.pool
    x, x_prime, standardised = crops.pairs(key_crops, images, *shape)
    own = standardised(probes.central(images, config.crop))
    crops_test, labels_test = probes.crops_and_labels(config, "test", config.num_test, config.seed)
    x_test = standardised(crops_test)
    labelled = labels, labels_test, jnp.geomspace(1e-6, 1.0, 19)
    columns = partial(
        kernel_pca.approximate_modes, KERNEL_FN, dim=config.num_modes, tol=config.tol,
        key=key_columns,
    )  # fmt: skip
    arrays = _check(config, columns, *(view[: config.num_exact] for view in (x, x_prime)))
    start, start_cpu = time.perf_counter(), time.process_time()
    found = columns(x, x_prime, rank=min(config.rank, 2 * len(x)))
    arrays |= _summary("", found) | {
        "seconds": time.perf_counter() - start,
        "cpu_seconds": time.process_time() - start_cpu,
        "peak_bytes": _peak_bytes(),
        "num_images": len(images),
    }
    log.info(
        "%d of %d modes certified, from %d columns in %.0f s (%.0f s of CPU), at most %.1f GiB",
        found.certified.sum(), config.num_modes, len(found.pivots), arrays["seconds"],
        arrays["cpu_seconds"], arrays["peak_bytes"] / 2**30,
    )  # fmt: skip
    pivots = np.concatenate([x, x_prime])[np.asarray(found.pivots)]
    scale = np.asarray(kernel_pca.final_singular_values(found.modes))
    embeddings = [
        scale * np.asarray(gram.matrix(KERNEL_FN, x, pivots, batch_size=2000) @ found.coefficients)
        for x in (own, x_test)
    ]
    initial = linear.initial_singular_values(config.init_scale, config.num_modes)
    arrays["step_times"] = dynamics.step_time(found.eigenvalues, initial)
    arrays["dims"] = probes.dims(config.num_modes, 10)
    arrays["correct"] = probes.correct_by_dim(arrays["dims"], *embeddings, *labelled)
    arrays["pixels_correct"] = probes.correct(own, x_test, *labelled)
    arrays["chance"] = np.bincount(labels_test).max() / len(labels_test)
    return {name: np.asarray(array) for name, array in arrays.items()}


def _check(config, columns, x, x_prime) -> Arrays:
    """Return the exact γ of few pairs, the approximation's bounds, and the modes' alignment."""
    exact = kernel_pca.contrastive_modes(gram.pairs(KERNEL_FN, x, x_prime), config.num_modes)
    found = columns(x, x_prime, rank=min(config.rank, 2 * len(x)))
    # Inner products of approximate and exact modes of norm 1 in the kernel's feature space.
    overlaps = np.asarray(found.coefficients).T @ np.asarray(exact.images)[found.pivots]
    return _summary("check_", found) | {
        "exact_gammas": exact.eigenvalues,
        "check_alignment": (overlaps**2).sum() / config.num_modes,
    }


def _summary(name: str, found: kernel_pca.ApproximateModes) -> Arrays:
    return {
        f"{name}lower": found.lower,
        f"{name}upper": found.upper,
        f"{name}columns": len(found.pivots),
        f"{name}trace_left": found.trace_left,
    }


def _peak_bytes() -> int:
    unit = 1 if sys.platform == "darwin" else 1024
    return unit * resource.getrusage(resource.RUSAGE_SELF).ru_maxrss


SMALL = Config(
    num_images=200, num_pairs=2000, num_exact=600, num_test=200, num_modes=8, rank=300, tol=0.05
)
PRESETS = {"cpu": Config(), "paper": Config(data="cifar10"), "small": SMALL}

EXPERIMENT = Experiment(PRESETS, run, minutes=20, alone=True)
