r"""Tables 1 and 2: alignment of learned embeddings with predictions of the NTK (Appendix E).

    make tables    or    python -m experiments run tables

Networks trained with Barlow Twins, SimCLR and VICReg embed n pairs of views in d dimensions. The
embeddings span a subspace of functions on the 2n images. The normalised subspace alignment compares
two subspaces; it is 1 for equal spans and d / 2n by chance. Table 1 compares the embeddings with
the embeddings that Eq. 49 predicts from the network's own empirical NTK after training, and with
the leading eigenvectors of this NTK. Table 2 compares the embeddings of two methods. Batch norm's
statistics are held at those of the pairs.

Beyond the paper, the experiment compares the k learned directions with the first k predicted
directions. It uses the initial NTK, the NTKs along training, and the trace NTK, and measures the
movement of the kernel. It also predicts held-out pairs from increasing numbers of pairs, which
shows how much of the gap from 1 is due to finite n. Panels: (A) Table 1; (B) alignment with the
prediction by the NTK at time t; (C) movement of the kernel; (D) alignment on held-out pairs.
table.md holds both tables with the paper's values. Preset cpu: the runs of Figure 5 (d = 16, small
networks), three seeds, and 40 s more for each method and seed. Preset paper: Appendix E (ResNet-50,
d = 50, STL-10), on a GPU.
"""

from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from experiments.fig5 import experiment as fig5
from experiments.tables import alignments
from sslstep.experiment import Arrays, Experiment, curves, networks, training
from sslstep.experiment._require import require
from sslstep.measure.alignment import subspace_alignment
from sslstep.ntk import empirical
from sslstep.recipes import PAPER_TABLES, Method, Recipe

# The paper's Table 2: alignment of the embeddings of two methods.
PAPER_TABLE_2: dict[tuple[Method, Method], float] = {
    ("barlow_twins", "simclr"): 0.504,
    ("barlow_twins", "vicreg"): 0.504,
    ("simclr", "vicreg"): 0.405,
}


@dataclass(frozen=True)
class Config(fig5.Config):
    """Settings; each is one option of the command."""

    num_pairs: int = 1000
    """n, the number of pairs of Tables 1 and 2; the first of the fixed pairs."""
    num_held_out: int = 256
    """Number of pairs whose embeddings are predicted from other pairs; the last fixed pairs."""
    num_along: int = 256
    """Number of pairs of the NTKs along training and of the trace NTKs."""
    memory_gib: float = 3.0
    """Largest memory for the NTK, in GiB."""


def run(config: Config, runs: training.Store) -> Arrays:
    """Train, or read, all runs; compute each run's alignments and the alignments of Table 2."""
    training.require_valid(config, [(m, config.recipes.of(m)) for m in config.methods])
    dim = max(config.recipes.of(method).dim for method in config.methods)
    for name in ("num_pairs", "num_held_out", "num_along"):
        training.require_pairs(config, name, dim)
    rest = config.num_probe - config.num_held_out
    if rest < 2 * dim:
        raise ValueError(
            f"num_held_out = {config.num_held_out} leaves {rest} of num_probe = "
            f"{config.num_probe} pairs to predict from: at least 2 dim = {2 * dim} are needed."
        )
    require(config, at_least={"num_snapshots": 2}, positive=("memory_gib",))
    arrays: Arrays = {}
    for seed in config.seeds:
        embeddings: dict[Method, np.ndarray] = {}
        for method in config.methods:
            recipe = config.recipes.of(method)
            trained = training.fit(config, method, recipe, seed, runs, name="alignment:")
            learned = curves.count(recipe, trained.arrays).learned
            with jax.enable_x64(True):
                found = _of_run(config, recipe, seed, trained, learned)
            embeddings[method] = found.pop("embeddings")
            arrays |= {f"{method}/{seed}/{key}": value for key, value in found.items()}
        for one, other in PAPER_TABLE_2:
            if {one, other} <= set(config.methods):
                with jax.enable_x64(True):
                    value = subspace_alignment(embeddings[one], embeddings[other])
                arrays[f"{one}/{other}/{seed}"] = value
    return {name: np.asarray(array) for name, array in arrays.items()}


def _of_run(
    config: Config, recipe: Recipe, seed: int, trained: training.Trained, learned: int
) -> Arrays:
    """Compute the embeddings and all alignments of one run with `learned` dimensions; needs x64."""
    with jax.enable_x64(False):
        setup = training.prepare(config, recipe, seed)
        states = training.snapshots(trained.folder, setup.state)
    steps, final = [int(state.step) for state in states], states[-1]
    n, m = config.num_pairs, config.num_along
    kernel, z = _kernel(config, setup, final, n)
    initial, _ = _kernel(config, setup, states[0], n)
    random = np.random.default_rng(seed).normal(size=z.shape)
    found = {
        "embeddings": z,
        "learned": np.asarray(learned),
        **alignments.of_learned(
            "final NTK", z, alignments.predicted_by(kernel, recipe.dim), learned
        ),
        "top modes": subspace_alignment(z, np.linalg.eigh(kernel)[1][:, -recipe.dim :]),
        "initial NTK": alignments.of_kernel(z, initial),
        "random": subspace_alignment(z, random),
    }

    # NTKs along training and both kinds of NTK, on the first num_along pairs.
    few, z_few = _kernel(config, setup, final, m)
    along, cosines = [], []
    for state in states:
        of_state = few if state is final else _kernel(config, setup, state, m)[0]
        along.append(alignments.of_kernel(z_few, of_state))
        norms = np.linalg.norm(of_state) * np.linalg.norm(few)
        cosines.append(np.vdot(of_state, few) / norms)
    trace, _ = _kernel(config, setup, final, m, "trace")
    for kind, few_kernel in (("scalar", few), ("trace", trace)):
        predicted = alignments.predicted_by(few_kernel, recipe.dim)
        found |= alignments.of_learned(f"{kind}, fewer pairs", z_few, predicted, learned)
    found["snapshot_t"] = np.concatenate([[0.0], trained.arrays["t"]])[steps]
    found["along"], found["cosine"] = np.array(along), np.array(cosines)
    every = _kernel(config, setup, final, config.num_probe)
    return found | alignments.held_out(*every, config.num_held_out)


def _kernel(
    config: Config, setup: training.Setup, state: Any, num: int, kind: Any = "scalar"
) -> tuple[np.ndarray, np.ndarray]:
    """Return the NTK (2 num, 2 num) and the embeddings (2 num, d) on the first pairs, in float64.

    Batch norm's statistics are those of the pairs.
    """
    limit = int(config.memory_gib * 2**30)
    with jax.enable_x64(False):
        x = jnp.concatenate([setup.x[:num], setup.x_prime[:num]])
        apply_fn = networks.settled_embedding(setup.parts.model, state, x)
        kernel = empirical.ntk(apply_fn, state.params, x, kind=kind, memory_limit=limit)
        z = jnp.concatenate([apply_fn(state.params, part) for part in jnp.array_split(x, 8)])
    return np.asarray(kernel, float), np.asarray(z, float)


PAPER = Config(
    **training.PAPER, seeds=(0,), recipes=PAPER_TABLES, num_held_out=1024, memory_gib=40.0
)

EXPERIMENT = Experiment({"cpu": Config(), "paper": PAPER}, run, trains=True, minutes=11)
