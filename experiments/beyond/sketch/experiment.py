r"""Modes of a ResNet's own NTK at the size of a data set, from random features.

    make sketch    or    python -m experiments run sketch

`ntk.empirical.sketch` adds each sample's gradients into p buckets with random signs. The inner
products of these features have the NTK as their mean, and the modes of their cross-correlation
approximate the network's contrastive modes in O(n p^2) instead of O(n^3). To first order the
relative error of a γ has the standard deviation (2/p)^1/2, whatever the network. (A) Error of γ
against p, from some keys, beside the exact NTK of fewer pairs; dashed: this prediction. (B)
Alignment of the modes' embeddings with the exact ones, beside chance. (C) γ of all pairs from two
keys, and exact γ of the fewer pairs. The network is the ResNet of Figure 5 at initialisation, its
batch norms held at the statistics of the first pairs.

Presets: `cpu` uses the embedded photographs, or another --data; `paper` uses CIFAR-10 from the
folder --data-dir; `small` uses 200 pairs.
"""

import time
from dataclasses import dataclass, replace

import jax
import jax.numpy as jnp
import numpy as np

from sslstep import kernel_pca, linear
from sslstep.experiment import Arrays, Experiment, log, networks, training
from sslstep.experiment._require import require
from sslstep.experiment.image_data import Images
from sslstep.measure import alignment
from sslstep.ntk import empirical
from sslstep.recipes import SMALL_INIT


@dataclass(frozen=True)
class Config(Images):
    """Settings; each is one option of the command."""

    num_pairs: int = 50_000
    """n, the number of positive pairs: each image has as many as another, or one more."""
    num_exact: int = 2000
    """Pairs whose exact NTK is the reference, the first ones."""
    features: tuple[int, ...] = (256, 512, 1024, 2048, 4096)
    """p, the numbers of random features; the last is used for all pairs. With fewer than 16 for
    each mode the error is not of first order."""
    num_keys: int = 16
    """Independent sketches of the reference for each p."""
    num_modes: int = 16
    """Modes that are compared, the leading ones."""
    seed: int = 0
    """Seed of images, views, the network and the sketches."""


def run(config: Config) -> Arrays:
    """Compare sketches with the exact NTK of some pairs; find the modes of all pairs."""
    require(config, at_least={"num_modes": 2, "num_keys": 2, "num_exact": 2 * config.num_modes})
    if len(config.features) < 2 or min(config.features) < 2 * config.num_modes:
        raise ValueError(
            f"features must hold two numbers or more, each at least 2 num_modes = "
            f"{2 * config.num_modes}, got {config.features}."
        )
    if config.num_exact > config.num_pairs:
        raise ValueError(
            f"num_exact = {config.num_exact} must be at most num_pairs = {config.num_pairs}."
        )
    setup = training.prepare(
        training.Config(config.data, config.data_dir, num_probe=config.num_pairs),
        replace(SMALL_INIT.barlow_twins, batch_size=1),
        config.seed,
    )
    params = setup.state.params
    views = np.asarray(setup.x), np.asarray(setup.x_prime)
    few = np.concatenate([view[: config.num_exact] for view in views])
    model = networks.settled_embedding(setup.parts.model, setup.state, jnp.asarray(few[:1024]))
    key_few, key_all = jax.random.split(jax.random.key(config.seed))

    def features(x: np.ndarray, dim: int, key: jax.Array) -> jax.Array:
        return empirical.sketch(model, params, x, dim, key=key, batch_size=256)

    kernel = np.asarray(empirical.ntk(model, params, few), float)
    with jax.enable_x64(True):
        exact = kernel_pca.contrastive_modes(kernel, config.num_modes)
        z = np.asarray(kernel_pca.embed_training(exact))
    errors = np.empty((len(config.features), config.num_keys, config.num_modes))
    aligned = np.empty(errors.shape[:2])
    for i, dim in enumerate(config.features):
        for j in range(config.num_keys):
            phi = features(few, dim, jax.random.fold_in(key_few, i * config.num_keys + j))
            modes = _modes(phi, config.num_modes)
            errors[i, j] = np.asarray(modes.eigenvalues) / np.asarray(exact.eigenvalues) - 1
            with jax.enable_x64(True):
                found = np.asarray(phi, float) @ np.asarray(modes.eigenvectors, float)
                aligned[i, j] = alignment.subspace_alignment(found, z)
    start = time.perf_counter()
    gammas = [
        _modes(features(np.concatenate(views), config.features[-1], key), config.num_modes)
        for key in jax.random.split(key_all)
    ]
    seconds = (time.perf_counter() - start) / 2
    log.info(
        "modes of %d pairs from %d features: %.0f s", config.num_pairs, config.features[-1], seconds
    )
    return {
        "exact_gammas": np.asarray(exact.eigenvalues),
        "errors": errors,
        "alignment": aligned,
        "gammas": np.stack([each.eigenvalues for each in gammas]),
        "seconds": np.asarray(seconds),
    }


def _modes(features: jax.Array, num: int) -> linear.Modes:
    """Return the first `num` modes of Γ of features (2n, p), those of one view after the other."""
    return linear.modes(linear.cross_correlation(*jnp.split(features, 2)), num)


EXPERIMENT = Experiment(
    {
        "cpu": Config(),
        "paper": Config(data="cifar10"),
        "small": Config(
            num_pairs=200, num_exact=64, features=(64, 256), num_keys=4, num_modes=4
        ),
    },
    run,
    minutes=15,
)  # fmt: skip
