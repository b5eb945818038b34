r"""Figure 8: self-supervised learning breaks a symmetry, and supervised learning does not.

    make fig8    or    python -m experiments run fig8

The figure has four panels. The modewise loss of Barlow Twins (A) has a maximum at the origin and
two minima. The modewise loss of supervised learning in the kernel regime (B) is a parabola with a
nonzero slope at the origin. From a small start, a self-supervised mode waits and then rises in a
step (C); a supervised mode grows at once (D). Curves are closed forms; crosses are numerical
integrals of the gradient flow. The experiment takes seconds.
"""

from dataclasses import dataclass
from functools import partial
from typing import Literal

import jax
import jax.numpy as jnp
import numpy as np
from jax.tree_util import Partial

from sslstep import dynamics, simulate
from sslstep.experiment import Arrays, Experiment
from sslstep.experiment._require import require, require_list


@dataclass(frozen=True)
class Config:
    """Settings; each is one option of the command."""

    eigenvalues: tuple[float, ...] = (1.0, 0.5, 0.25, 0.125)
    """Eigenvalues γ of the modes drawn."""
    initial: float = 1e-3
    """Start of each trajectory in the rescaled coordinate, between 0, the origin, and 1, the
    minimum."""
    t_max: float = 25.0
    """End of the time axis, in units of effective time."""
    num_times: int = 1001
    """Points on the time axis."""
    dtype: Literal["float32", "float64"] = "float64"
    """Floating-point type of all computations."""


def run(config: Config) -> Arrays:
    """Compute landscapes and trajectories, both in closed form and by numerical integration."""
    positive = ("t_max", "eigenvalues")
    require(config, at_least={"num_times": 2}, positive=positive, fraction=("initial",))
    require_list("eigenvalues", config.eigenvalues)
    dtype = jnp.dtype(config.dtype)
    gammas = jnp.asarray(config.eigenvalues, dtype)
    t = jnp.linspace(0, config.t_max, config.num_times, dtype=dtype)
    grid = jnp.linspace(-1.6, 1.6, 401, dtype=dtype)
    start = jnp.asarray(config.initial, dtype)
    signs = {"self_supervised": start, "self_supervised_negative": -start, "supervised": start}
    arrays, rtol = {"t": t, "grid": grid, "gammas": gammas}, 1e2 * float(jnp.finfo(dtype).eps)
    for name, initial in signs.items():
        if name == "supervised":
            loss = supervised
            arrays[name] = dynamics.supervised_trajectory(t[:, None], gammas[None, :], initial)
        else:
            loss = self_supervised
            arrays[name] = dynamics.singular_value(gammas * t[:, None], 1.0, initial)
        arrays[f"{name}_loss"] = loss(grid)
        velocity, begin = Partial(partial(_velocity, loss), gammas), jnp.full_like(gammas, initial)
        arrays[f"{name}_integrated"] = simulate.flow(velocity, begin, t, rtol=rtol)
    return {name: np.asarray(array) for name, array in arrays.items()}


def self_supervised(s):
    """Return the loss of a mode as a function of its rescaled singular value s (Eq. 50)."""
    return dynamics.plain().value(s**2)


def supervised(c):
    """Return the loss of a mode as a function of its rescaled coefficient c (Eq. 50)."""
    return (1 - c) ** 2


def _velocity(loss, gammas, s):
    """Return s' = -γ dL/ds of all modes."""
    return -gammas * jax.grad(lambda s: loss(s).sum())(s)


EXPERIMENT = Experiment({"cpu": Config(), "paper": Config()}, run, minutes=0.1, quick=())
