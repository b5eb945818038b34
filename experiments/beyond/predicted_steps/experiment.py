r"""Step times predicted by a network's own NTK along training, compared with measured ones.

    make predicted_steps    or    python -m experiments run predicted_steps

The paper omits theory curves from its ResNets' figures, because predictions from the initial NTK
are poor. At a dozen snapshots of the run of Figure 1 (C, D) the empirical NTK (Appendix D.5) of the
fixed pairs is computed, with batch norm's statistics held at those of the pairs. Gradient descent
of this kernel is then followed from the embeddings at the snapshot to the end of the run.

Panel (A): predicted against measured step times of all dimensions, from the initial network and
from later ones. Panel (B): predicted over measured wait for the next dimension, for three
predictions: the kernel of all outputs, the kernel of the directions not yet learned, and the
constant wait that is best in hindsight. Panel (C): eigenvalues of the kernel of all outputs. Preset
cpu, three seeds: two to five minutes on two cores beyond the shared runs.
"""

from dataclasses import dataclass, replace
from typing import Any, Literal

import jax
import jax.numpy as jnp
import numpy as np
import tyro
from jax.tree_util import Partial

from sslstep import dynamics, kernel_pca, linear, simulate
from sslstep.experiment import Arrays, Experiment, curves, networks, prediction, training
from sslstep.experiment._loops import stacked
from sslstep.experiment._require import require, require_descent
from sslstep.measure import spectrum
from sslstep.ntk import empirical
from sslstep.recipes import PAPER_SMALL_INIT, SMALL_INIT, BarlowTwins


@dataclass(frozen=True)
class Config(training.Config):
    """Settings; each is one option of the command."""

    methods: tyro.conf.Suppress[tuple[Any, ...]] = ("barlow_twins",)
    """Only Barlow Twins, whose loss the theory describes; not an option."""
    seeds: tuple[int, ...] = training.SEEDS
    """Seeds, with one run for each; claims about trained networks are about means over seeds."""
    barlow_twins: BarlowTwins = SMALL_INIT.barlow_twins
    """Recipe of the training."""
    num_pairs: int = 256
    """Number of pairs of the kernel; the first of the fixed pairs."""
    kernel: Literal["scalar", "trace"] = "scalar"
    """scalar: NTK of the mean output (Appendix D.5); trace: mean over outputs, d times slower."""
    memory_gib: float = 3.0
    """Largest memory for the NTK, in GiB."""


# Outputs of the kernel: all, or only the directions that are not learned yet.
OUTPUTS = ("all", "unlearned")


def run(config: Config, runs: training.Store) -> Arrays:
    """Train, or read, each seed's run; measure its step times, and predict them at each snapshot.

    Predictions use the snapshot's NTK of all outputs, and its NTK of directions not yet learned.
    """
    recipe = config.barlow_twins
    training.require_valid(config, [("barlow_twins", recipe)])
    require_descent(recipe)
    if recipe.off_diagonal != 1 or recipe.batch_norm or not recipe.symmetrise:
        raise ValueError(
            "the theory is of Eq. 1: off_diagonal must be 1, without batch_norm, with symmetrise."
        )
    require(config, at_least={"num_snapshots": 2}, positive=("memory_gib",))
    training.require_pairs(config, "num_pairs", recipe.dim)
    arrays: Arrays = {}
    for seed in config.seeds:
        trained = training.fit(config, "barlow_twins", recipe, seed, runs, name="predicted steps:")
        setup = training.prepare(config, recipe, seed)
        states = training.snapshots(trained.folder, setup.state)
        t = trained.arrays["t"]
        times = np.concatenate([[0.0], t])[[int(state.step) for state in states]]
        arrays |= {
            f"{seed}/snapshot_t": times,
            f"{seed}/measured": curves.count(recipe, trained.arrays).rises.middle,
            f"{seed}/record_t": trained.arrays["record_t"],
        }
        x = jnp.concatenate([setup.x[: config.num_pairs], setup.x_prime[: config.num_pairs]])
        found = stacked(
            _predict(config, setup.parts.model, state, x, t[-1] - time)
            for state, time in zip(states, times, strict=True)
        )
        for which in OUTPUTS:
            arrays[f"{seed}/{which}/gammas"] = found[f"{which}/gammas"]
            arrays[f"{seed}/{which}/predicted"] = times[:, None] + found[f"{which}/waits"]
    return arrays


def _predict(config: Config, model: Any, state: Any, x: jax.Array, span: float) -> Arrays:
    """Return a network's NTK eigenvalues and predicted waits (d,) for each choice in OUTPUTS."""
    embed = networks.settled_embedding(model, state, x)
    limit = int(config.memory_gib * 2**30)
    initial = embed(state.params, x)
    values, vectors = jnp.linalg.eigh(linear.cross_correlation(*jnp.split(initial, 2)))
    # Eigenvectors of C with eigenvalues below 1/2; all directions if none is below.
    every, unlearned = jnp.eye(len(values)), vectors * (values < 0.5)[None, :]
    unlearned = unlearned if bool((values < 0.5).any()) else every
    out: Arrays = {}
    for which, directions in zip(OUTPUTS, (every, unlearned), strict=True):
        bound = Partial(embed, directions=directions)
        kernel = empirical.ntk(bound, state.params, x, kind=config.kernel, memory_limit=limit)
        # The NTK is a mean over d outputs; outputs left out contribute 0.
        number = float(jnp.sum(directions**2))
        gammas, waits = _follow(config, kernel * (len(values) / number), initial, span)
        out |= {f"{which}/gammas": gammas, f"{which}/waits": waits}
    return out


def _follow(
    config: Config, kernel: jax.Array, initial: jax.Array, span: float
) -> tuple[np.ndarray, np.ndarray]:
    """Return a kernel's eigenvalues γ_j and the waits for its modes; `inf` beyond a time span."""
    recipe = config.barlow_twins
    with jax.enable_x64(True):
        kernel, initial = (jnp.asarray(np.asarray(a), jnp.float64) for a in (kernel, initial))
        gammas = kernel_pca.contrastive_modes(kernel, recipe.dim, solver="dense").eigenvalues
        _, inverse, modes = prediction.features_of(kernel, jnp.float32)
        rate = min(recipe.learning_rate, 0.5 * float(dynamics.max_learning_rate(modes.eigenvalues)))
        # In Γ's eigenbasis: kernel_pca.gradient_descent would multiply by the kernel in each step.
        every = max(1, int(span / rate) // 1000)
        num_steps = every * max(1, int(np.ceil(span / rate / every)))
        descent = simulate.gradient_descent(initial.T @ inverse, modes, rate, num_steps, every)
        waits = spectrum.step_times(descent.times, descent.eigenvalues)
    return np.asarray(gammas), np.asarray(waits)


PAPER = Config(
    **training.PAPER,
    seeds=(0,),
    # Appendix D.2 with changes that the theory requires: plain gradient descent, symmetrised C, and
    # few enough dimensions for a batch.
    barlow_twins=replace(
        PAPER_SMALL_INIT.barlow_twins,
        dim=16,
        optimizer="sgd",
        bias_learning_rate=None,
        momentum=0.0,
        weight_decay=0.0,
        schedule="constant",
        warmup_steps=0,
        symmetrise=True,
    ),
    num_pairs=1024,
    memory_gib=40.0,
)

EXPERIMENT = Experiment({"cpu": Config(), "paper": PAPER}, run, trains=True, minutes=12)
