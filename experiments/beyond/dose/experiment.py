r"""Dose and response: the last layer's scale delays each step of a ResNet by a predicted time.

    make dose    or    python -m experiments run dose

The ResNet of Figure 1 (C, D) is trained from several starts, which differ only by a factor of the
last layer. In theory a smaller last layer shrinks the embeddings and leaves the kernel of the
unlearned outputs unchanged. A factor r < 1 therefore delays the k-th step by ln(1 / r) / (4 γ_k),
without a fitted constant. 4 γ_k is the growth rate of the fastest unlearned mode on the plateau
before the step, by the empirical NTK of the unlearned outputs. If the kernel differs from plateau
to plateau, a dimension has another γ on each. The delay is then the time in which its growth,
summed over the plateaus, makes up for the factor r.

Panels (A, B): eigenvalues of C from the largest and from the smallest start. (C): the delay of each
step against ln(1 / r); dashed: predicted from the largest start, solid: predicted between the two
smallest starts. (D): measured against predicted delays. The legend of (D) also has the errors of
two baselines, each with the constant that is best in hindsight: equal delays of all steps, and
equal increases of all waits. Expected: delays between small starts agree with the prediction.
Delays from the ordinary last layer do not, because the layers before it contribute to the kernel
there. Preset cpu: four scales, three seeds, about 6 minutes on two cores.
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

from sslstep import kernel_pca, linear, nn, train
from sslstep.experiment import Arrays, Experiment, networks, training
from sslstep.experiment._require import require, require_descent, require_list
from sslstep.measure import spectrum
from sslstep.ntk import empirical
from sslstep.recipes import SMALL_INIT, BarlowTwins

#: Figure 5's recipe, with enough steps for the smallest start to learn a few dimensions.
SHORT = replace(SMALL_INIT.barlow_twins, num_steps=450)


@dataclass(frozen=True)
class Scaled(BarlowTwins):
    """Recipe of Barlow Twins with a scaled last layer."""

    output_scale: float = 1.0
    """Factor of the last layer's initial weights, in addition to α."""

    def objective(self, network: nn.Encoder) -> train.Objective:
        """Return the objective of a network whose last layer is scaled at initialisation."""
        return _Scaled(network, self.output_scale)


class _Scaled(train.JointEmbedding):
    """Objective of a network whose last layer is multiplied by `scale` at initialisation."""

    def __init__(self, network: nn.Encoder, scale: float) -> None:
        super().__init__(network)
        self.scale = scale

    def init(self, key: Any, x: Any, train: bool = False) -> Any:
        """Return the network's initial variables, with the last layer scaled."""
        found = super().init(key, x, train=train)
        where = "projector/output/kernel".__eq__
        return {**found, "params": nn.scale_init(found["params"], self.scale, where)}


@dataclass(frozen=True)
class Config(training.Config):
    """Settings; each is one option of the command."""

    methods: tyro.conf.Suppress[tuple[Any, ...]] = ("barlow_twins",)
    """Barlow Twins only, because the theory is for its loss. Not an option."""
    seeds: tuple[int, ...] = training.SEEDS
    """Seeds; each is one run from each scale. Claims are about means over seeds."""
    barlow_twins: BarlowTwins = SHORT
    """Recipe of training."""
    scales: tuple[float, ...] = (1.0, 2.0**-2, 2.0**-4, 2.0**-6)
    """Factors of the last layer, decreasing; delays are relative to the first."""
    num_steps_compared: int = 3
    """Number of steps, from the first on, whose delays are predicted."""
    num_pairs: int = 256
    """Number of pairs of the kernel, the first of the fixed pairs."""
    num_probe: int = 256
    """Number of fixed pairs, on which spectra are measured."""
    num_labelled: int = 0
    """0: no probes are trained."""
    num_snapshots: int = 60
    """Largest number of stored copies of the parameters; each plateau needs one."""


def run(config: Config, runs: training.Store) -> Arrays:
    """Train from every scale; return step times, and the kernel's eigenvalues on each plateau."""
    recipe = config.barlow_twins
    training.require_valid(config, [("barlow_twins", recipe)])
    require(config, at_least={"num_snapshots": 2, "num_steps_compared": 1}, positive=("scales",))
    training.require_pairs(config, "num_pairs", recipe.dim)
    require_list("scales", config.scales, least=2, order="decreasing")
    if config.num_steps_compared > recipe.dim:
        raise ValueError(
            f"num_steps_compared = {config.num_steps_compared} is above dim = {recipe.dim}."
        )
    require_descent(recipe)
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
    """Return γ_j (K, K) of the kernel on each plateau i (rows), for the unlearned dimensions j ≥ i.

    Entries with j < i are NaN, and so are plateaus that training did not reach the end of.
    """
    setup = training.prepare(config, recipe, seed)
    states = training.snapshots(trained.folder, setup.state)
    at = np.array([int(state.step) for state in states]) * recipe.learning_rate
    x = jnp.concatenate([setup.x[: config.num_pairs], setup.x_prime[: config.num_pairs]])
    # One network for all plateaus; networks with equal settings share compiled programs.
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
    """Return the growth rates of the unlearned dimensions, by the NTK of the unlearned outputs.

    `learned` is the number of learned dimensions, and `x` holds both views.
    """
    batch_stats = training.settled(network, state.params, state.batch_stats, x)
    z = training.evaluated(network, state.params, batch_stats, x).z
    _, vectors = jnp.linalg.eigh(linear.cross_correlation(*jnp.split(z, 2)))
    order = vectors[:, ::-1]
    unlearned = order.at[:, :learned].set(0.0)
    apply_fn = Partial(networks.embedding(network), batch_stats, directions=unlearned)
    kernel = empirical.ntk(apply_fn, state.params, x, kind="scalar")
    with jax.enable_x64(True):
        # The scalar kernel is a mean over all d outputs; the learned ones contribute 0.
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


PAPER = Config(
    data="cifar10",
    scales=tuple(2.0**-k for k in range(7)),
    barlow_twins=replace(SHORT, num_steps=2000),
    num_steps_compared=6,
)

EXPERIMENT = Experiment({"cpu": Config(), "paper": PAPER}, run, trains=True, minutes=6)
