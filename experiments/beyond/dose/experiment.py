r"""Dose and response: the last layer's scale delays each step of a ResNet by a predicted time.

    make dose    or    python -m experiments run dose

A ResNet is trained with three losses from several starts, which differ only by a factor of the last
layer. The losses have an expansion at embeddings of length 0, and do not change if the embeddings
rotate: simplified Barlow Twins, the spectral contrastive loss and InfoNCE without normalisation. In
theory a smaller last layer shrinks the embeddings and leaves the kernel of the unlearned outputs
unchanged. A factor r < 1 therefore delays the k-th step by ln(1 / r) / ρ_k, without a fitted
constant. ρ_k is the growth rate of the fastest unlearned mode on the plateau before the step, by
the loss's second derivative and the empirical NTK of the unlearned outputs (4 γ_k for Barlow
Twins). If the kernel differs from plateau to plateau, a dimension has another rate on each. The
delay is then the time in which its growth, summed over the plateaus, makes up for the factor r.

One row for each loss. Left: eigenvalues of C from the smallest start, and faintly from the largest.
Middle: the delay of each step against ln(1 / r); dashed: predicted from the largest start, solid:
predicted between small starts, whose factors are at most 1/16. Right: measured against predicted
delays. The legend also has the errors of two baselines, each with the constant that is best in
hindsight: equal delays of all steps, and equal increases of all waits. Expected: delays between
small starts agree with the prediction. Delays from the ordinary last layer do not, because the
layers before it contribute to the kernel there. Preset cpu: seven scales, three seeds.
"""

import itertools
from dataclasses import dataclass, replace
from typing import Any, Literal

import numpy as np

from experiments.beyond.dose.rates import growth_rates
from experiments.beyond.dose.recipes import InfoNCE, Scaled, ScaledBarlowTwins, Spectral
from sslstep.experiment import Arrays, Experiment, training
from sslstep.experiment._require import require, require_descent, require_list
from sslstep.measure import spectrum

Loss = Literal["barlow_twins", "spectral", "info_nce"]

#: Settings with enough steps for each start to learn the dimensions that are compared.
BARLOW_TWINS = ScaledBarlowTwins(init_scale=0.3, num_steps=350)
SPECTRAL = Spectral(init_scale=0.3, num_steps=350)
INFO_NCE = InfoNCE(init_scale=0.3, learning_rate=0.02, num_steps=480)


@dataclass(frozen=True)
class Config(training.Config):
    """Settings; each is one option of the command."""

    methods: tuple[Loss, ...] = ("barlow_twins", "spectral", "info_nce")  # type: ignore[assignment]
    """Losses to train with."""
    seeds: tuple[int, ...] = training.SEEDS
    """Seeds; each is one run from each scale. Claims are about means over seeds."""
    barlow_twins: ScaledBarlowTwins = BARLOW_TWINS
    """Recipe of Barlow Twins: Figure 5's."""
    spectral: Spectral = SPECTRAL
    """Recipe of the spectral contrastive loss."""
    info_nce: InfoNCE = INFO_NCE
    """Recipe of InfoNCE without normalisation."""
    scales: tuple[float, ...] = tuple(2.0**-k for k in range(7))
    """Factors of the last layer, decreasing; delays are relative to the first."""
    num_steps_compared: int = 3
    """Number of steps, from the first on, whose delays are predicted."""
    num_pairs: int = 256
    """Number of pairs of the kernel, the first of the fixed pairs."""
    num_probe: int = 256
    """Number of fixed pairs, on which spectra are measured."""
    num_labelled: int = 0
    """0: no probes are trained."""
    num_records: int = 1000
    """Largest number of records: at each step of preset cpu, because a delay may be a few steps."""
    num_snapshots: int = 60
    """Largest number of stored copies of the parameters; each plateau needs one."""


def run(config: Config, runs: training.Store) -> Arrays:
    """Train, or read, a network for each loss, factor of the last layer, and seed.

    Return the factors and, for each network, the arrays of `_train`, with the keys
    "method/seed/factor/array".
    """
    recipes: list[tuple[str, Scaled]] = [(name, getattr(config, name)) for name in config.methods]
    training.require_valid(config, list(recipes))
    require(config, at_least={"num_snapshots": 2, "num_steps_compared": 1}, positive=("scales",))
    require_list("scales", config.scales, least=2, order="decreasing")
    for _, recipe in recipes:
        training.require_pairs(config, "num_pairs", recipe.dim)
        if config.num_steps_compared > recipe.dim:
            raise ValueError(
                f"num_steps_compared = {config.num_steps_compared} is above dim = {recipe.dim}."
            )
        require_descent(recipe)
    arrays: Arrays = {"scales": np.asarray(config.scales)}
    for method, recipe in recipes:
        for scale, seed in itertools.product(config.scales, config.seeds):
            found = _train(config, method, recipe, seed, scale, runs)
            arrays |= {f"{method}/{seed}/{scale:g}/{key}": value for key, value in found.items()}
    return arrays


def _train(
    config: Config, method: str, recipe: Scaled, seed: int, scale: float, runs: training.Store
) -> Arrays:
    """Train from one scale; return the eigenvalues of C, step times and growth rates."""
    # Delays grow with ln(1 / r).
    share, most = (1 + np.log(config.scales[0] / each) for each in (scale, config.scales[-1]))
    num_steps = int(np.ceil(share / most * recipe.num_steps))
    recipe = replace(recipe, output_scale=scale, num_steps=num_steps)
    trained = training.fit(
        config, method, recipe, seed, runs, name=f"last layer times {scale:.3g}:"
    )
    t, eigenvalues = trained.arrays["record_t"], trained.arrays["correlation"]
    times = np.asarray(spectrum.step_times(t, eigenvalues))
    return {
        "record_t": t,
        "correlation": eigenvalues,
        "step_times": times,
        "rates": growth_rates(config, recipe, seed, trained, times),
    }


def _longer(recipe: Any) -> Any:
    return replace(recipe, num_steps=5 * recipe.num_steps)


PAPER = Config(
    data="cifar10",
    barlow_twins=_longer(BARLOW_TWINS),
    spectral=_longer(SPECTRAL),
    info_nce=_longer(INFO_NCE),
    num_steps_compared=6,
)

EXPERIMENT = Experiment({"cpu": Config(), "paper": PAPER}, run, trains=True, minutes=26)
