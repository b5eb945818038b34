r"""BYOL and SimSiam: how long a linear network waits for a step.

    make byol    or    python -m experiments run byol

The paper did not immediately see steps with BYOL (footnote 16). In a linear network with a linear
predictor and targets that follow at once, the wait depends on the predictor's start: from one as
small as the network it grows as 1 / α, where other losses have ln(1 / α), and from one of order one
the logarithm returns.

Step times against α with a predictor that is as small (A) and one of order one (B). Dashed:
`dynamics.self_distillation`; full: trained from an aligned start; hollow: the first dimension from
random starts. Expected: closed forms within 1%, the exponent -1 and the predicted slope. Preset
cpu: half a minute.
"""

from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.tree_util import Partial

from sslstep import dynamics, simulate
from sslstep.experiment import Arrays, Experiment, training
from sslstep.experiment._require import require
from sslstep.measure import spectrum

#: Predictors of the linear network.
PREDICTORS = ("small", "order one")


@dataclass(frozen=True)
class Config:
    """Settings; each is one option of the command."""

    seeds: tuple[int, ...] = training.SEEDS
    """Seeds of the random starts."""
    gammas: tuple[float, ...] = (1.0, 0.7, 0.45, 0.3)
    """Eigenvalues γ_j of the linear model's Γ; as many dimensions."""
    variance: float = 1.2
    """σ of each, the second moment of the views."""
    scales: tuple[float, ...] = (1e-2, 10**-2.5, 1e-3, 10**-3.5)
    """Initial scales α of the linear network."""
    predictor: float = 0.2
    """Initial singular values of the predictor of order one."""


def run(config: Config) -> Arrays:
    """Linear networks with both predictors from every scale."""
    require(config, positive=("gammas", "variance", "scales", "predictor"))
    if len(config.scales) < 2:
        raise ValueError(f"scales must be two or more, got {config.scales}.")
    if max(config.gammas) <= config.variance * config.predictor:
        raise ValueError(
            f"predictor = {config.predictor} must be below the largest of gammas over variance = "
            f"{config.variance}: nothing is learned from a larger one."
        )
    arrays: Arrays = {"gammas": np.asarray(config.gammas), "scales": np.asarray(config.scales)}
    with jax.enable_x64(True):
        for predictor in PREDICTORS:
            for scale in config.scales:
                for key, value in _linear(config, predictor, scale).items():
                    arrays[f"{predictor}/{scale:g}/{key}"] = value
    return arrays


def _linear(config: Config, predictor: str, scale: float) -> Arrays:
    """Step times from an aligned start, predicted and measured, and the first from random ones."""
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
    """Minus the gradient of the expected error, of which none goes through the targets."""
    gamma, sigma = moments

    def loss(weights: Any) -> jax.Array:
        w, p = weights
        target = jax.lax.stop_gradient(w)
        # Both views' |p w x - w x'|², but for a constant.
        return 2 * jnp.trace(p @ w @ sigma @ w.T @ p.T) - 4 * jnp.trace(p @ w @ gamma @ target.T)

    return jax.tree.map(jnp.negative, jax.grad(loss)(weights))


def _times(
    config: Config, w: jax.Array, p: jax.Array, until: jax.Array, rest: jax.Array
) -> np.ndarray:
    """When eigenvalues of C, in the order of Γ's modes, pass half of where they rest."""
    gamma = jnp.diag(jnp.asarray(config.gammas))
    moments = (gamma, config.variance * jnp.eye(len(gamma)))
    t = jnp.linspace(0.0, until, 20_000)
    ws, _ = simulate.flow(Partial(_velocity, moments), (w, p), t, rtol=1e-8)
    values = jnp.linalg.eigvalsh(ws @ gamma @ ws.swapaxes(1, 2))[:, ::-1]
    return np.asarray(spectrum.step_times(t, values / rest))


EXPERIMENT = Experiment(
    {"cpu": Config(), "paper": Config()},
    run,
    minutes=0.5,
)
