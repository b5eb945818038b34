r"""Dose and response: the last layer's scale delays each step of a ResNet by a predicted time.

    make dose    or    python -m experiments run dose

The ResNet of Figure 1 (C, D) from several starts, which differ by a factor of the last layer alone.
That factor leaves the kernel of what is not learned as it is, and makes the embeddings smaller. So
a start that is smaller by the factor r delays the k-th step by ln(1 / r) / (4 γ_k), with nothing to
fit: γ_k is the largest eigenvalue left of the empirical NTK of the outputs not learned yet, on the
plateau before that step. Where the kernel changes from plateau to plateau the dormant dimension has
another γ on each, and the delay is the one at which its growth makes up for r along all of them.

Panels (A, B): eigenvalues of C from the largest start and the smallest. (C): the delay of each step
against ln(1 / r); dashed: predicted from the largest start, solid: between the two smallest. (D):
measured against predicted delays, with two other accounts, each with one constant,
the best in hindsight: every step is delayed alike, or every wait is longer alike. Expected: delays
between small starts are as predicted. From the ordinary last layer they are not, as the layers
before it have a part in the kernel there. Preset cpu: four scales, three seeds, about 6 minutes on
two cores.
"""

import dataclasses
import itertools
from dataclasses import dataclass, replace
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import tyro
from jax.tree_util import Partial

from experiments.beyond.predicted_steps import experiment as predicted_steps
from sslstep import kernel_pca, linear, nn, train
from sslstep.experiment import Arrays, Experiment, training
from sslstep.experiment._require import require
from sslstep.measure import spectrum
from sslstep.ntk import empirical
from sslstep.recipes import SMALL_INIT, BarlowTwins

#: Figure 5's, for as long as the smallest start takes to learn a few dimensions.
SHORT = replace(SMALL_INIT.barlow_twins, num_steps=450)


@dataclass(frozen=True)
class Scaled(BarlowTwins):
    """Barlow Twins with a last layer of another size."""

    output_scale: float = 1.0
    """By which the last layer's initial weights are multiplied, beside α."""

    def objective(self, network: nn.Encoder) -> train.Objective:
        """The network, whose start is another."""
        return _Scaled(network, self.output_scale)


class _Scaled(train.JointEmbedding):
    """A network whose last layer starts at another scale."""

    def __init__(self, network: nn.Encoder, scale: float) -> None:
        super().__init__(network)
        self.scale = scale

    def init(self, key: Any, x: Any, train: bool = False) -> Any:
        """Those of the network, but for the last layer."""
        found = super().init(key, x, train=train)
        where = "projector/output/kernel".__eq__
        return {**found, "params": nn.scale_init(found["params"], self.scale, where)}


@dataclass(frozen=True)
class Config(training.Config):
    """Settings; each is one option of the command."""

    methods: tyro.conf.Suppress[tuple[Any, ...]] = ("barlow_twins",)
    """Only Barlow Twins: the theory is of its loss. No option."""
    seeds: tuple[int, ...] = training.SEEDS
    """One run of each from each scale: a claim about trained networks is over seeds."""
    barlow_twins: BarlowTwins = SHORT
    """How it is trained."""
    scales: tuple[float, ...] = (1.0, 2.0**-2, 2.0**-4, 2.0**-6)
    """Of the last layer, decreasing; delays are from the first."""
    num_steps_compared: int = 3
    """Of how many dimensions, the first to be learned, the delay is predicted."""
    num_pairs: int = 256
    """Pairs of the kernel; the first of the fixed ones."""
    num_probe: int = 256
    """Pairs on which spectra are measured, the same throughout."""
    num_labelled: int = 0
    """No probes."""
    num_snapshots: int = 60
    """How many times a copy of the parameters is kept, at most: each plateau needs one."""


def run(config: Config, runs: training.Store) -> Arrays:
    """Step times from every scale, and the kernel's eigenvalues on each plateau between them."""
    recipe = config.barlow_twins
    training.require_valid(config, [("barlow_twins", recipe)])
    require(config, at_least={"num_snapshots": 2, "num_steps_compared": 1}, positive=("scales",))
    training.require_pairs(config, "num_pairs", recipe.dim)
    if len(config.scales) < 2 or list(config.scales) != sorted(set(config.scales), reverse=True):
        raise ValueError(f"scales must be two or more, decreasing, got {config.scales}.")
    if config.num_steps_compared > recipe.dim:
        raise ValueError(
            f"num_steps_compared = {config.num_steps_compared} is above dim = {recipe.dim}."
        )
    if (recipe.optimizer, recipe.momentum, recipe.schedule) != ("sgd", 0, "constant"):
        raise ValueError("the theory is of gradient descent: no momentum and no schedule.")
    arrays: Arrays = {"scales": np.asarray(config.scales)}
    for seed in config.seeds:
        for scale in config.scales:
            scaled = Scaled(**dataclasses.asdict(recipe), output_scale=scale)
            # Delays grow with ln(1 / r).
            share, most = (
                1 + np.log(config.scales[0] / each) for each in (scale, config.scales[-1])
            )
            scaled = replace(scaled, num_steps=int(np.ceil(share / most * recipe.num_steps)))
            name = f"last layer times {scale:.3g}:"
            trained = training.fit(config, "barlow_twins", scaled, seed, runs, name=name)
            t, eigenvalues = trained.arrays["record_t"], trained.arrays["correlation"]
            times = np.asarray(spectrum.step_times(t, eigenvalues))
            arrays |= {
                f"{seed}/{scale:g}/{key}": value
                for key, value in {
                    "record_t": t,
                    "correlation": eigenvalues,
                    "step_times": times,
                    "gammas": _gammas(config, scaled, seed, trained, times),
                }.items()
            }
    return arrays


def _gammas(
    config: Config, recipe: Scaled, seed: int, trained: training.Trained, times: np.ndarray
) -> np.ndarray:
    """γ_j (K, K) of the kernel on each plateau i, of what is not learned there: NaN for j < i."""
    setup = training.prepare(config, recipe, seed)
    states = training.snapshots(trained.folder, setup.state)
    at = np.array([int(state.step) for state in states]) * recipe.learning_rate
    x = jnp.concatenate([setup.x[: config.num_pairs], setup.x_prime[: config.num_pairs]])
    # Compared by its settings, not by what it is, so that its programs are compiled once.
    network = training.network(config, recipe)
    num = config.num_steps_compared
    found = np.full((num, num), np.nan)
    bounds = np.concatenate([[0.0], times[:num]])
    for i, (start, stop) in enumerate(itertools.pairwise(bounds)):
        if np.isfinite(stop):
            # At the start the kernel is known; later the plateau's middle is farthest from rises.
            middle = 0.0 if i == 0 else (start + stop) / 2
            state = states[int(np.argmin(np.abs(at - middle)))]
            rates = _rates(config, recipe, network, state, x, i)[: num - i]
            # A step of descent multiplies a mode by 1 + 4 η γ.
            found[i, i:] = np.log1p(recipe.learning_rate * rates) / (4 * recipe.learning_rate)
    return found


def _rates(
    config: Config, recipe: Scaled, network: nn.Encoder, state: Any, x: jax.Array, learned: int
) -> np.ndarray:
    """Growth rates of what is not learned, under the kernel of the outputs that are not."""
    batch_stats = training.settled(network, state.params, state.batch_stats, x)
    z = training.evaluated(network, state.params, batch_stats, x).z
    _, vectors = jnp.linalg.eigh(linear.cross_correlation(*jnp.split(z, 2)))
    order = vectors[:, ::-1]
    unlearned = order.at[:, :learned].set(0.0)
    apply_fn = Partial(predicted_steps.along_directions(network), unlearned, batch_stats)
    kernel = empirical.ntk(apply_fn, state.params, x, kind="scalar")
    with jax.enable_x64(True):
        # A mean over all d outputs, of which those left out are 0.
        kernel = jnp.asarray(np.asarray(kernel), jnp.float64) * recipe.dim / (recipe.dim - learned)
        embeddings = jnp.asarray(np.asarray(z @ order[:, :learned]), jnp.float64)
        modes = kernel_pca.growth_modes(
            kernel,
            recipe.loss_fn(),
            recipe.dim,
            embeddings=embeddings if learned else None,
            solver="dense",
        )
    return np.asarray(modes.eigenvalues)


EXPERIMENT = Experiment(
    {
        "cpu": Config(),
        "paper": Config(
            data="cifar10",
            scales=tuple(2.0**-k for k in range(7)),
            barlow_twins=replace(SHORT, num_steps=2000),
            num_steps_compared=6,
        ),
    },
    run,
    trains=True,
    minutes=6,
)
