"""Growth rates of the unlearned dimensions on each plateau, by the network's own NTK."""

import itertools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.tree_util import Partial

from experiments.beyond.dose.recipes import Scaled
from sslstep import kernel_pca, linear
from sslstep.experiment import networks, training
from sslstep.ntk import empirical


def growth_rates(
    config: Any, recipe: Scaled, seed: int, trained: training.Trained, times: np.ndarray
) -> np.ndarray:
    """Return the growth rates (K, K) on each plateau i (rows), for unlearned dimensions j ≥ i.

    Entries with j < i are NaN, and so are plateaus that training did not reach the end of.
    """
    setup = training.prepare(config, recipe, seed)
    states = training.snapshots(trained.folder, setup.state)
    at = np.array([int(state.step) for state in states]) * recipe.learning_rate
    x = jnp.concatenate([setup.x[: config.num_pairs], setup.x_prime[: config.num_pairs]])
    num = config.num_steps_compared
    found = np.full((num, num), np.nan)
    bounds = np.concatenate([[0.0], times[:num]])
    for i, (start, stop) in enumerate(itertools.pairwise(bounds)):
        if np.isfinite(stop):
            # At the start the kernel is known; later the plateau's middle is farthest from rises.
            middle = 0.0 if i == 0 else (start + stop) / 2
            state = states[int(np.argmin(np.abs(at - middle)))]
            rates = _unlearned(recipe, setup.parts, state, x, i)[: num - i]
            # A step of descent multiplies a mode by 1 + η ρ.
            found[i, i:] = np.log1p(recipe.learning_rate * rates) / recipe.learning_rate
    return found


def _unlearned(
    recipe: Scaled, parts: training.Parts, state: Any, x: jax.Array, learned: int
) -> np.ndarray:
    """Return the growth rates of the unlearned dimensions, by the NTK of the unlearned outputs.

    `learned` is the number of learned dimensions, and `x` holds both views.
    """
    embed = networks.settled_embedding(parts.model, state, x)
    z = embed(state.params, x)
    _, vectors = jnp.linalg.eigh(linear.cross_correlation(*jnp.split(z, 2)))
    order = vectors[:, ::-1]
    unlearned = order.at[:, :learned].set(0.0)
    bound = Partial(embed, directions=unlearned)
    kernel = empirical.ntk(bound, state.params, x, kind="scalar")
    with jax.enable_x64(True):
        # The scalar kernel is a mean over all d outputs; the learned ones contribute 0.
        kernel = jnp.asarray(np.asarray(kernel), jnp.float64) * recipe.dim / (recipe.dim - learned)
        embeddings = jnp.asarray(np.asarray(z @ order[:, :learned]), jnp.float64)
        modes = kernel_pca.growth_modes(
            kernel,
            parts.loss_fn,
            recipe.dim,
            embeddings=embeddings if learned else None,
        )
    return np.asarray(modes.eigenvalues)
