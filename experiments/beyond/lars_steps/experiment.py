r"""Step times under LARS, compared with gradient descent: they are not proportional to 1 / γ.

    make lars_steps    or    python -m experiments run lars_steps

The paper trains Barlow Twins and VICReg with LARS and plots against learning rate times step, but
its theory describes gradient descent. (A, B): a linear model with prescribed eigenvalues γ_j of Γ,
trained by gradient descent and by LARS from small initialisation; solid: measured, dashed:
predicted, for LARS by `dynamics.lars_steps`. (C): the step at which each mode is learned, against
γ_j, from two initial scales. (D): the ResNet of Figure 1 (C, D) under both optimisers.

Expected: gradient descent learns a mode after a number of steps proportional to 1 / γ_j times the
logarithm of the initial scale. Under LARS the waits from mode to mode become shorter, and the
initial scale shifts all modes by nearly equal numbers of steps. Let ρ be the length of a LARS step
relative to the length of the weights. The LARS prediction fails if γ_1 / γ_j is near 1 / ρ, because
LARS then oscillates in the learned modes. Claims about the ResNet need several seeds, such
as --seeds 0 1 2. Preset cpu: seconds for the linear model, and 2 to 4 minutes on two cores for each
ResNet, one of which is shared with other experiments.
"""

from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import tyro

from experiments.beyond.predicted_steps import experiment as predicted_steps
from sslstep import dynamics, linear, optim
from sslstep.experiment import Arrays, Experiment, curves, training
from sslstep.experiment._require import require, require_list
from sslstep.measure import spectrum
from sslstep.recipes import PAPER_SMALL_INIT, SMALL_INIT, BarlowTwins

LARS = replace(
    SMALL_INIT.barlow_twins,
    optimizer="lars",
    learning_rate=1.0,
    bias_learning_rate=0.01,
    momentum=0.9,
)


@dataclass(frozen=True)
class Config(training.Config):
    """Settings; each is one option of the command."""

    methods: tyro.conf.Suppress[tuple[Any, ...]] = ("barlow_twins",)
    """Methods of the ResNets; not an option."""
    num_modes: int = 8
    """Number of modes of the linear model, all of which are learned."""
    exponent: float = 1.5
    """Exponent x of the linear model's eigenvalues γ_j = j^-x."""
    scales: tuple[float, ...] = (1e-3, 1e-6)
    """Initial scales α of the linear model."""
    relative_rate: float = 2e-4
    """ρ, the length of a LARS step over the length of the weights: learning rate times trust."""
    learning_rate: float = 1e-2
    """Learning rate of the linear model's gradient descent."""
    sgd: BarlowTwins = SMALL_INIT.barlow_twins
    """The ResNet under gradient descent: the run of Figure 1 (C, D)."""
    lars: BarlowTwins = LARS
    """The ResNet under LARS, at a constant rate."""


RULES = ("sgd", "lars")


def run(config: Config, runs: training.Store) -> Arrays:
    """Train the linear model from each scale and the ResNet, by gradient descent and by LARS."""
    positive = ("relative_rate", "exponent", "scales", "learning_rate")
    require(config, at_least={"num_modes": 2}, positive=positive)
    require_list("scales", config.scales, least=2)
    training.require_valid(config, [(rule, getattr(config, rule)) for rule in RULES])
    gammas = np.arange(1, config.num_modes + 1) ** -config.exponent
    arrays: Arrays = {"gammas": gammas}
    for scale in config.scales:
        for rule, found in _linear_model(config, gammas, scale).items():
            arrays |= {f"{rule}/{scale:g}/{key}": value for key, value in found.items()}
    for seed in config.seeds:
        for rule in RULES:
            recipe = getattr(config, rule)
            run = training.fit(config, "barlow_twins", recipe, seed, runs, name=f"{rule}:").arrays
            middle = curves.count(recipe, run).rises.middle
            found = np.interp(middle, run["record_t"], run["step"])
            found[~np.isfinite(middle)] = np.inf
            arrays[f"resnet/{rule}/{seed}"] = found
    return arrays


def _linear_model(config: Config, gammas: np.ndarray, scale: float) -> dict[str, Arrays]:
    """Return measured and predicted curves and step times of both rules for one initial scale."""
    key, dim = jax.random.key(config.seeds[0]), len(gammas)
    with jax.enable_x64(True):
        matrix = jnp.diag(jnp.asarray(gammas))
        weights = linear.init_weights(key, dim, dim, scale, dtype=jnp.float64)
        modes = linear.modes(matrix)
        initial = linear.align(weights, modes).singular_values
        t = jnp.geomspace(1e-3, 3 * dynamics.step_time(gammas[-1], initial[-1]), 20_000)
        curves = np.asarray(linear.mode_eigenvalue(t[:, None], gammas[None], initial[None]))
        rate = {"trust_coefficient": config.relative_rate}
        lars = optim.lars(1.0, momentum=0.0, weight_decay=0.0, **rate)
        lars_at = dynamics.lars_steps(t, gammas, initial, config.relative_rate)
        sgd, sgd_at = optim.sgd(config.learning_rate), np.asarray(t) / config.learning_rate
        out = {}
        for rule, optimizer, at in (("sgd", sgd, sgd_at), ("lars", lars, np.asarray(lars_at))):
            half = np.asarray([np.interp(0.5, curve, at) for curve in curves.T])
            steps, measured = _descend(optimizer, weights, matrix, int(1.3 * half[-1]))
            out[rule] = {
                "step": steps,
                "measured": measured,
                "predicted": np.stack([np.interp(steps, at, curve) for curve in curves.T], axis=1),
                "half": np.asarray(spectrum.step_times(steps.astype(float), measured)),
                "half_predicted": half,
            }
        return out


def _descend(
    optimizer: optax.GradientTransformation, weights: Any, matrix: Any, num_steps: int
) -> tuple[np.ndarray, np.ndarray]:
    """Train a linear model by an optimiser; return about 2000 steps and eigenvalues of C there."""
    every = max(1, num_steps // 2000)

    def step(carry: Any, _: Any) -> Any:
        weights, state = carry
        gradient = jax.grad(linear.loss)(weights, matrix)
        updates, state = optimizer.update(gradient, state, weights)
        return (optax.apply_updates(weights, updates), state), None

    def stretch(carry: Any, _: Any) -> Any:
        carry, _ = jax.lax.scan(step, carry, length=every)
        c = carry[0] @ matrix @ carry[0].T
        return carry, jnp.linalg.eigvalsh((c + c.T) / 2)[::-1]

    run = jax.jit(partial(jax.lax.scan, stretch, length=max(2, num_steps // every)))
    _, eigenvalues = run((weights, optimizer.init(weights)))
    return every * np.arange(1, len(eigenvalues) + 1), np.asarray(eigenvalues)


PAPER = Config(
    **training.PAPER,
    seeds=(0,),
    sgd=predicted_steps.PAPER.barlow_twins,
    lars=replace(PAPER_SMALL_INIT.barlow_twins, dim=16),
)

EXPERIMENT = Experiment({"cpu": Config(), "paper": PAPER}, run, trains=True, minutes=12)
