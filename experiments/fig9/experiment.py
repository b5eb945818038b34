r"""Figure 9: losses and gradients for faster self-supervised learning, and their speed-ups.

    make fig9    or    python -m experiments run fig9

The first figure shows the modewise losses of plain Barlow Twins and Appendix G (A to D) and the
modewise loss that corresponds to preconditioned gradients (E). It also shows gradient descent on
each loss (F to J), at a fixed fraction of the largest stable learning rate of the loss. A linear
model is then trained with each loss, by gradient descent on embeddings of pairs, from a small
random start. The second figure shows the step at which each mode is learned (A), and the ratio of
plain Barlow Twins' steps to the steps with each loss, for all modes (B). Both are compared with
closed forms of the mode equations. Half a minute to one minute.
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Literal

import jax
import jax.numpy as jnp
import numpy as np

from experiments.fig9 import linear_model
from sslstep import dynamics, linear, losses, optim
from sslstep.experiment import Arrays, Experiment
from sslstep.experiment._require import require, require_list


@dataclass(frozen=True)
class Config:
    """Settings; each is one option of the command."""

    ratios: tuple[float, ...] = (10.0, 30.0, 100.0, 300.0)
    """Ratios γ_1 / γ_d of the trained linear models."""
    shown: float = 100.0
    """Ratio for which the step of each mode is drawn."""
    dim: int = 3
    """Embedding dimension d; the eigenvalues fall geometrically from γ_1 = 1 to γ_d."""
    negative: float = 0.3
    """Size of Γ's most negative eigenvalue, relative to γ_d."""
    init_scale: float = 1e-4
    """α, scale of the initial weights."""
    softening: float = 1e-3
    """δ of the sharpened loss."""
    leak: float = 0.1
    """ε of the smoothed loss."""
    width: float = 0.2
    """w of the hinge loss."""
    alpha: float = 0.1
    """α of the preconditioner, relative to the largest eigenvalue."""
    rate: float = 0.2
    """Learning rate relative to the largest stable one of each loss."""
    curves: tuple[float, ...] = (1.0, 0.5, 0.25, 0.125)
    """Eigenvalues γ of the modes drawn in (F) to (J)."""
    curves_initial: float = 1e-3
    """Start of the modes drawn in (F) to (J), in the rescaled coordinate."""
    seed: int = 0
    """Seed of the initial weights."""
    dtype: Literal["float32", "float64"] = "float64"
    """Floating-point type of all computations."""


def landscapes(config: Config) -> dict[str, dynamics.Landscape]:
    """Return the landscapes of one mode by name; preconditioned: of every mode but the first."""
    return {
        "plain": dynamics.plain(),
        "sharpened": dynamics.sharpened(config.softening),
        "smoothed": dynamics.smoothed(config.leak),
        "quartic": dynamics.fourth_power(),
        "hinge": dynamics.hinge(config.width),
        "preconditioned": dynamics.preconditioned(dynamics.plain(), config.alpha),
    }


def batch_losses(config: Config) -> dict[str, Callable[..., jax.Array]]:
    """Return the losses by name, as functions of the embeddings of two views."""
    simplified = losses.simplified_barlow_twins
    return {
        "plain": simplified,
        "sharpened": partial(
            losses.sharpened_barlow_twins, softening=config.softening, batch_norm=False
        ),
        "smoothed": partial(losses.smoothed_barlow_twins, leak=config.leak, batch_norm=False),
        "quartic": partial(losses.quartic_barlow_twins, batch_norm=False),
        "hinge": partial(losses.hinge_barlow_twins, width=config.width, batch_norm=False),
        "preconditioned": optim.preconditioned(simplified, alpha=config.alpha),
    }


def run(config: Config) -> Arrays:
    """Compute landscapes and curves; train linear models with each loss and predict their steps."""
    positive = ("curves", "curves_initial", "init_scale", "leak", "rate")
    require(config, at_least={"dim": 2, "negative": 0}, positive=positive)
    require_list("curves", config.curves)
    if config.shown not in config.ratios or min(config.ratios) <= 1:
        raise ValueError(
            f"shown must be one of ratios, all of which exceed 1, got {config.shown} and "
            f"{config.ratios}."
        )
    dtype = jnp.dtype(config.dtype)
    grid = jnp.linspace(-1.6, 1.6, 401, dtype=dtype)
    arrays: Arrays = {"grid": grid, "curves_gammas": jnp.asarray(config.curves, dtype)}
    for name, loss in landscapes(config).items():
        found = {"loss": loss.value(grid**2), **_curves(config, loss, arrays["curves_gammas"])}
        arrays |= {f"{name}/{key}": value for key, value in found.items()}
    trainings = {name: linear_model.trainer(loss) for name, loss in batch_losses(config).items()}
    for ratio in config.ratios:
        # d learned modes, a smaller one, and a negative one.
        gammas = jnp.geomspace(1, 1 / ratio, config.dim, dtype=dtype)
        beyond = gammas[-1] * jnp.stack([gammas[1], jnp.asarray(-config.negative, dtype)])
        eigenvalues = jnp.concatenate([gammas, beyond])
        key, shape = jax.random.key(config.seed), (config.dim, len(eigenvalues))
        weights = linear.init_weights(key, *shape, config.init_scale, dtype=dtype)
        modes = linear.Modes(eigenvalues, jnp.eye(len(eigenvalues), dtype=dtype))
        start = linear.align(weights, modes).singular_values
        for name, loss in landscapes(config).items():
            limit = dynamics.max_learning_rate(eigenvalues, landscape=loss)
            predicted = dynamics.step_time(gammas, start, landscape=loss)
            if name == "preconditioned":
                predicted = linear_model.coupled_times(predicted, gammas, start, config.alpha)
            rate = config.rate * limit
            most = jnp.ceil(2 * predicted[-1] / rate).astype(int) + 100
            steps, final = trainings[name](weights, eigenvalues, rate, most)
            speedup = dynamics.speedup(eigenvalues, gammas[-1], start[-1], landscape=loss)
            found = {"steps": steps, "final": final, "limit": limit, "speedup": speedup}
            found["predicted"] = predicted / rate
            arrays |= {f"{name}/{ratio:g}/{key}": value for key, value in found.items()}
    return {name: np.asarray(array) for name, array in arrays.items()}


def _curves(config: Config, loss: dynamics.Landscape, gammas: jax.Array) -> dict[str, jax.Array]:
    r"""Return rescaled singular values :math:`\bar s` (steps, modes) on a loss, and the rate.

    `curves` is gradient flow in closed form at the time of each step, `descent` gradient descent.
    """
    rate = config.rate * dynamics.max_learning_rate(gammas, landscape=loss)
    last = dynamics.step_time(gammas[-1], config.curves_initial / gammas[-1] ** 0.5)
    num = int(1.2 * last / (config.rate * dynamics.max_learning_rate(gammas)))
    t = jnp.arange(num + 1, dtype=gammas.dtype)[:, None] * rate * gammas[None, :]
    closed = dynamics.singular_value(t, 1.0, config.curves_initial, landscape=loss)

    def step(s: jax.Array, _: None) -> tuple[jax.Array, jax.Array]:
        return s + 2 * rate * gammas * s * loss.force(s**2), s

    start = jnp.full_like(gammas, config.curves_initial)
    _, descent = jax.jit(partial(jax.lax.scan, step, length=num + 1))(start)
    return {"curves": closed, "descent": descent, "rate": rate}


EXPERIMENT = Experiment({"cpu": Config(), "paper": Config()}, run, minutes=0.6, quick=())
