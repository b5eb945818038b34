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
from jax.tree_util import Partial

from sslstep import dynamics, simulate
from sslstep.experiment import Arrays, Experiment, training
from sslstep.experiment._require import require
from sslstep.measure import spectrum
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
    if len(config.scales) < 2:
        raise ValueError(f"scales must be two or more, got {config.scales}.")
    if max(config.gammas) <= config.variance * config.predictor:
        raise ValueError(
            f"predictor = {config.predictor} must be below the largest of gammas over variance = "
            f"{config.variance}: nothing is learned from a larger one."
        )
    recipes: list[Any] = [(method, getattr(config, method)) for method in config.methods]
    training.require_valid(config, recipes)
    arrays: Arrays = {"gammas": np.asarray(config.gammas), "scales": np.asarray(config.scales)}
    with jax.enable_x64(True):
        for predictor in PREDICTORS:
            for scale in config.scales:
                for key, value in _linear(config, predictor, scale).items():
                    arrays[f"{predictor}/{scale:g}/{key}"] = value
    # The runs under Barlow Twins are Figure 5's, which have probes.
    without = replace(config, num_labelled=0, num_snapshots=0)
    for seed in config.seeds:
        for method, recipe in recipes:
            shared = config if method == "barlow_twins" else without
            name: Any = "simsiam" if method == "plain" else method
            found = training.fit(shared, name, recipe, seed, runs, name="small init:").arrays
            arrays |= {f"{method}/{seed}/{key}": value for key, value in found.items()}
    return arrays


def _linear(config: Config, predictor: str, scale: float) -> Arrays:
    """Return predicted and measured step times from an aligned start, each (d,).

    `random` holds the first step time from a random start for each seed.
    """
    gammas = jnp.asarray(config.gammas)
    dim = len(gammas)
    start = scale * jnp.linspace(1.0, 0.7, dim)  # unequal, as random ones are
    small = predictor == "small"
    p = start if small else jnp.full(dim, config.predictor)
    gap = p**2 - start**2
    landscape = dynamics.self_distillation(gammas, config.variance, gap)
    rest = landscape.rest
    predicted = dynamics.step_time(gammas, start, landscape=landscape, level=rest / 2)
    measured = _times(config, jnp.diag(start), jnp.diag(p), 1.05 * predicted.max(), rest)
    random = []
    for seed in config.seeds:
        keys = jax.random.split(jax.random.key(seed))
        w, q = (scale * dim**-0.5 * jax.random.normal(key, (dim, dim)) for key in keys)
        q = q if small else config.predictor * jnp.eye(dim)
        random.append(_times(config, w, q, 20 * predicted[0], rest)[0])
    return {
        "predicted": np.asarray(predicted),
        "step_times": measured,
        "random": np.asarray(random),
    }


def _velocity(moments: tuple[jax.Array, jax.Array], weights: Any) -> Any:
    """Return minus the gradient of the expected error, with constant targets.

    `moments` are Γ and Σ; `weights` are those of the network, W, and of the predictor, P.
    """
    gamma, sigma = moments

    def loss(weights: Any) -> jax.Array:
        w, p = weights
        target = jax.lax.stop_gradient(w)
        # The sum of |P W x - W x'|² and |P W x' - W x|², without its constant term.
        return 2 * jnp.trace(p @ w @ sigma @ w.T @ p.T) - 4 * jnp.trace(p @ w @ gamma @ target.T)

    return jax.tree.map(jnp.negative, jax.grad(loss)(weights))


def _times(
    config: Config, w: jax.Array, p: jax.Array, until: jax.Array, rest: jax.Array
) -> np.ndarray:
    """Integrate the flow until `until`; return the times at which eigenvalues of C reach rest / 2.

    Eigenvalues and `rest`, their final values, are in descending order, shape (d,).
    """
    gamma = jnp.diag(jnp.asarray(config.gammas))
    moments = (gamma, config.variance * jnp.eye(len(gamma)))
    t = jnp.linspace(0.0, until, 20_000)
    ws, _ = simulate.flow(Partial(_velocity, moments), (w, p), t, rtol=1e-8)
    values = jnp.linalg.eigvalsh(ws @ gamma @ ws.swapaxes(1, 2))[:, ::-1]
    return np.asarray(spectrum.step_times(t, values / rest))


EXPERIMENT = Experiment(
    {
        "cpu": Config(),
        "paper": Config(
            **training.PAPER,
            seeds=(0,),
            barlow_twins=PAPER_SMALL_INIT.barlow_twins,
            plain=replace(PLAIN, **LARGE),
            simsiam=replace(SIMSIAM, **LARGE, predictor=(512,)),
            byol=replace(BYOL, **LARGE, predictor=(512,), decay=0.996),
        ),
    },
    run,
    trains=True,
    minutes=9,
)
