"""The problems of `speedup`: a linear model, a network of one hidden layer, two of a ResNet."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import linen

from sslstep import data, nn, train
from sslstep.experiment import training
from sslstep.recipes import STANDARD_INIT, BarlowTwins

Name = Literal["linear", "mlp", "resnet", "standard"]


@dataclass(frozen=True)
class Search:
    """Initial learning rates of the search, equally many for each arm; the best is refined."""

    descent: tuple[float, ...]
    """Learning rates of gradient descent on Barlow Twins, preconditioned or not."""
    spectral: tuple[float, ...]
    """Learning rates of gradient descent on functions of C's eigenvalues."""
    momentum: tuple[float, ...]
    """Learning rates of gradient descent with momentum 0.9."""
    vicreg: tuple[float, ...]
    """Learning rates of gradient descent on VICReg."""
    adam: tuple[float, ...]
    """Learning rates of Adam."""
    lars: tuple[float, ...]
    """Learning rates of LARS."""


@dataclass(frozen=True)
class Problem:
    """Settings of every problem."""

    search: Search
    """Learning rates to search."""
    dim: int = 8
    """Embedding dimension d."""
    target: int = 6
    """The number of learned dimensions to which arms are tuned."""
    init_scale: float = 0.3
    """α, by which every initial parameter is multiplied."""
    batch_size: int = 64
    """Pairs in a batch."""
    num_steps: int = 1000
    """Number of steps of the compared runs; tuning runs take at most as many."""

    @property
    def recipe(self) -> BarlowTwins:
        """Recipe of the projector, the views and the loss of Barlow Twins."""
        return BarlowTwins(dim=self.dim, hidden=(), batch_size=self.batch_size)

    @property
    def accuracy(self) -> float | None:
        """Accuracy of the probe to which arms are tuned; None if they are tuned to `target`."""
        return None

    @property
    def averaged(self) -> int:
        """Number of successive probes whose mean accuracy is compared with a wanted one."""
        return 1


@dataclass(frozen=True)
class Linear(Problem):
    """A linear model on features whose cross-correlation Γ has prescribed eigenvalues."""

    ratio: float = 100.0
    """γ_1 / γ_d; the eigenvalues between are geometrically spaced."""
    negative: float = 0.1
    """Size of the one negative eigenvalue, relative to γ_d."""


@dataclass(frozen=True)
class MLP(Problem):
    """A network of one hidden layer on the pixels of crops."""

    width: int = 256
    """Width of the hidden layer."""


@dataclass(frozen=True)
class ResNet(Problem):
    """A ResNet on crops, smaller than in the other experiments."""

    hidden: tuple[int, ...] = (128,)
    """Widths of the projector's hidden layers."""

    @property
    def recipe(self) -> BarlowTwins:
        """Recipe of the projector, the views and the loss of Barlow Twins."""
        return replace(super().recipe, hidden=self.hidden)


@dataclass(frozen=True)
class Standard(ResNet):
    """A ResNet from its ordinary initialisation, with the publication's views and loss."""

    accuracy: float = 0.3
    """Accuracy of the probe to which arms are tuned and compared, in place of `target`."""
    averaged: int = 3
    """Number of successive probes whose mean accuracy is compared with `accuracy`."""

    @property
    def recipe(self) -> BarlowTwins:
        """Recipe of the projector, the views and the loss of Barlow Twins."""
        return replace(
            STANDARD_INIT.barlow_twins,
            views="publication",
            dim=self.dim,
            hidden=self.hidden,
            batch_size=self.batch_size,
        )


class Instance(NamedTuple):
    """Initial state, images and fixed pairs of a problem for one seed."""

    state: train.TrainState  # without optimiser state
    images: np.ndarray
    x: jax.Array  # fixed pairs, on which embeddings are measured
    x_prime: jax.Array


class Built(NamedTuple):
    """A problem ready to train: network, views, instances by seed, and probe accuracy."""

    network: Any
    views_fn: Callable[..., tuple[jax.Array, jax.Array]]
    instance: Callable[[int], Instance]  # of a seed
    accuracy: Callable[[train.TrainState], dict[str, Any]]  # of a probe; {} if there is none


class _LinearModel(linen.Module):
    """A linear map from features to embeddings, without bias."""

    dim: int

    @linen.compact
    def __call__(self, x: Any, *, train: bool) -> nn.Outputs:
        """Return the input as hidden representation h, and its linear embedding z."""
        weights = linen.initializers.normal(x.shape[-1] ** -0.5)
        return nn.Outputs(x, linen.Dense(self.dim, use_bias=False, kernel_init=weights)(x))


class _HiddenLayer(linen.Module):
    """A hidden layer of rectifiers on the pixels of images."""

    width: int

    @linen.compact
    def __call__(self, x: Any, *, train: bool) -> jax.Array:
        """Return the hidden layer of images in [0, 1], shifted and scaled to variance near 1."""
        pixels = 4 * (x.reshape(len(x), -1) - 0.5)
        return jax.nn.relu(linen.Dense(self.width)(pixels))


def build(problem: Problem, images: training.Config) -> Built:
    """Build a problem; `images` are the settings of its images, if it has any."""
    if isinstance(problem, Linear):
        return _build_linear(problem)
    recipe = problem.recipe
    if isinstance(problem, MLP):
        network = nn.Encoder(_HiddenLayer(problem.width), recipe.head())
    else:
        network = training.network(images, recipe)
    views_fn = partial(data.two_views, views=recipe.make_views(images.size))

    def instance(seed: int) -> Instance:
        chosen, _, x, x_prime, key = training.samples(images, views_fn, seed)
        return Instance(_initial(key, network, x, problem.init_scale), chosen, x, x_prime)

    return Built(network, views_fn, instance, training.accuracy_of(images, recipe, network))


def _build_linear(problem: Linear) -> Built:
    """Build the linear model: sample i of m has the one nonzero feature √(m |γ_i|)."""
    network = _LinearModel(problem.dim)
    learned = np.geomspace(1, 1 / problem.ratio, problem.dim)
    beyond = [learned[-1] * learned[1], -problem.negative * learned[-1]]
    gammas = np.concatenate([learned, beyond])
    x = np.diag(np.sqrt(len(gammas) * np.abs(gammas)))
    pairs = np.stack([x, x * np.sign(gammas)], axis=1).astype(np.float32)

    def views(_: Any, pairs: jax.Array) -> tuple[jax.Array, jax.Array]:
        return pairs[:, 0], pairs[:, 1]

    def instance(seed: int) -> Instance:
        first, second = views(None, jnp.asarray(pairs))
        state = _initial(jax.random.key(seed), network, first, problem.init_scale)
        return Instance(state, pairs, first, second)

    return Built(network, views, instance, lambda state: {})


def _initial(key: jax.Array, network: Any, x: jax.Array, scale: float) -> train.TrainState:
    """Return the initial state of a network, without optimiser state."""
    return train.init_state(key, network, optax.identity(), x, init_scale=scale)
