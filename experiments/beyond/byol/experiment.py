r"""BYOL and SimSiam: the time that they wait before a step, and whether a ResNet learns in steps.

    make byol    or    python -m experiments run byol

The paper did not immediately see steps with BYOL (footnote 16). Here the network and the predictor
are linear, and the targets are the current embeddings. The wait depends on the predictor's initial
size. If predictor and network start at the scale α, the wait grows as 1 / α, where other losses
have ln(1 / α). If the predictor starts at order one, the wait is logarithmic again.

Panels (A, B) show step times against α, for a predictor as small as the network (A) and one of
order one (B). Dashed: `dynamics.self_distillation`; filled: trained from an aligned start; hollow:
the first dimension from random starts. Panels (C to F) show eigenvalues of the ResNet of Figure 5,
with predictors of order one: under Barlow Twins; under SimSiam's loss without normalisation and
with a linear predictor, which is the loss of the theory; and under SimSiam and BYOL as published,
whose losses normalise embeddings and have no growth rates at zero. Expected: closed forms within 1
percent, the exponent -1 in (A), the predicted slope in (B), steps in (D), fewer or none in (E, F).
"""

from dataclasses import dataclass, replace
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import tyro

from experiments.beyond.byol import linear_model
from sslstep.experiment import Arrays, Experiment, training
from sslstep.experiment._require import require, require_list
from sslstep.recipes import (
    PAPER_SMALL_INIT,
    SMALL_INIT,
    STL10_IMAGES,
    BarlowTwins,
    SelfDistillation,
)

#: Settings of the ResNet under the loss of the theory, and under the publications' losses.
PLAIN = SelfDistillation(
    init_scale=0.3, learning_rate=0.05, momentum=0.0, num_steps=400, predictor=(), normalise=False
)
SIMSIAM = SelfDistillation(init_scale=0.3, learning_rate=0.001, momentum=0.0, num_steps=1000)
BYOL = replace(SIMSIAM, decay=0.99)
#: Settings of a ResNet-50, with the widths of SimSiam's predictor.
LARGE: dict[str, Any] = {
    "dim": 128,
    "hidden": (2048,),
    "views": "publication",
    "weight_decay": 1e-4,
    "init_scale": 0.087,
    "num_steps": 320 * (STL10_IMAGES // 256),
}
#: Names of the ResNets' recipes, and titles.
METHODS = {
    "barlow_twins": "Barlow Twins",
    "plain": "SimSiam, not normalised",
    "simsiam": "SimSiam",
    "byol": "BYOL",
}

#: Initial size of the linear predictor: as small as the network, or of order one.
PREDICTORS = ("small", "order one")


@dataclass(frozen=True)
class Config(training.Config):
    """Settings; each is one option of the command."""

    methods: tyro.conf.Suppress[tuple[Any, ...]] = tuple(METHODS)
    """Methods of the ResNets; not an option."""
    seeds: tuple[int, ...] = training.SEEDS
    """Seeds of the ResNets and of the linear networks' random starts."""
    gammas: tuple[float, ...] = (1.0, 0.7, 0.45, 0.3)
    """Eigenvalues γ_j of the linear model's Γ; as many dimensions."""
    variance: float = 1.2
    """σ, the eigenvalue of the views' second moment Σ for every mode."""
    scales: tuple[float, ...] = (1e-2, 10**-2.5, 1e-3, 10**-3.5)
    """Initial scales α of the linear network."""
    predictor: float = 0.2
    """Initial singular values of the predictor of order one."""
    barlow_twins: BarlowTwins = SMALL_INIT.barlow_twins
    """The ResNet under Barlow Twins: the run of Figure 1 (C, D)."""
    plain: SelfDistillation = PLAIN
    """The ResNet under SimSiam's loss without normalisation, with a linear predictor."""
    simsiam: SelfDistillation = SIMSIAM
    """The ResNet under SimSiam."""
    byol: SelfDistillation = BYOL
    """The ResNet under BYOL."""


def run(config: Config, runs: training.Store) -> Arrays:
    """Predict and train linear networks with both predictors, and train the ResNets."""
    require(config, positive=("gammas", "variance", "scales", "predictor"))
    require_list("scales", config.scales, least=2)
    if max(config.gammas) <= config.variance * config.predictor:
        raise ValueError(
            f"predictor = {config.predictor} must be below the largest of gammas over variance = "
            f"{config.variance}: nothing is learned from a larger one."
        )
    recipes: list[Any] = [(method, getattr(config, method)) for method in config.methods]
    training.require_valid(config, recipes)
    arrays: Arrays = {"gammas": np.asarray(config.gammas), "scales": np.asarray(config.scales)}
    with jax.enable_x64(True):
        moments = jnp.asarray(config.gammas), config.variance
        for name, size in zip(PREDICTORS, (None, config.predictor), strict=True):
            for scale in config.scales:
                found = linear_model.step_times(*moments, scale, size, config.seeds)
                arrays |= {f"{name}/{scale:g}/{key}": value for key, value in found.items()}
    # The runs under Barlow Twins are Figure 5's, which have probes.
    without = replace(config, num_labelled=0, num_snapshots=0)
    for seed in config.seeds:
        for method, recipe in recipes:
            shared = config if method == "barlow_twins" else without
            loss = "simsiam" if method == "plain" else method
            found = training.fit(shared, loss, recipe, seed, runs, name="small init:").arrays
            arrays |= {f"{method}/{seed}/{key}": value for key, value in found.items()}
    return arrays


PAPER = Config(
    **training.PAPER,
    seeds=(0,),
    barlow_twins=PAPER_SMALL_INIT.barlow_twins,
    plain=replace(PLAIN, **LARGE),
    simsiam=replace(SIMSIAM, **LARGE, predictor=(512,)),
    byol=replace(BYOL, **LARGE, predictor=(512,), decay=0.996),
)

EXPERIMENT = Experiment({"cpu": Config(), "paper": PAPER}, run, trains=True, minutes=9)
