r"""Figure 8: self-supervised learning breaks a symmetry, supervised learning does not.

    make fig8    or    python -m experiments run fig8

Four panels. The modewise loss of Barlow Twins (A) has a maximum at the origin and two minima; that
of supervised learning in the kernel regime (B) is a parabola that slopes at the origin. From a
small start the first waits, then steps (C); the second grows from the first moment (D).
Trajectories are closed forms; crosses are the same equations integrated numerically. Takes seconds.
"""

from dataclasses import dataclass
from typing import Any, Literal

import diffrax
import jax
import jax.numpy as jnp
import numpy as np

from sslstep import dynamics
from sslstep.experiment import Arrays, Experiment
from sslstep.experiment._require import require


@dataclass(frozen=True)
class Config:
    """Settings; each is one option of the command."""

    eigenvalues: tuple[float, ...] = (1.0, 0.5, 0.25, 0.125)
    """γ of the modes drawn."""
    initial: float = 1e-3
    """Start of each trajectory, in the rescaled coordinate: between the origin and the minimum,
    0 and 1."""
    t_max: float = 25.0
    """End of the time axis, in units of effective time."""
    num_times: int = 1001
    """Points on the time axis."""
    dtype: Literal["float32", "float64"] = "float64"
    """Floating-point type of all computations."""


def run(config: Config) -> Arrays:
    """Landscapes, closed-form trajectories, and the same by integrating the gradients."""
    require(
        config,
        at_least={"num_times": 2},
        positive=("t_max", "eigenvalues"),
        fraction=("initial",),
    )
    if not config.eigenvalues:
        raise ValueError("eigenvalues must be one or more, got none.")
    dtype = jnp.dtype(config.dtype)
    gammas = jnp.asarray(config.eigenvalues, dtype)
    t = jnp.linspace(0, config.t_max, config.num_times, dtype=dtype)
    grid = jnp.linspace(-1.6, 1.6, 401, dtype=dtype)
    start = jnp.asarray(config.initial, dtype)
    signs = {"self_supervised": start, "self_supervised_negative": -start, "supervised": start}
    arrays = {"t": t, "grid": grid, "gammas": gammas}
    for name, initial in signs.items():
        loss, closed = KINDS[name == "supervised"]
        arrays[f"{name}_loss"] = loss(grid)
        arrays[name] = closed(t[:, None], gammas[None, :], initial)
        arrays[f"{name}_integrated"] = _integrate(loss, gammas, initial, t)
    return {name: np.asarray(array) for name, array in arrays.items()}


def self_supervised(s):
    """The loss of a mode in its rescaled singular value (Eq. 50)."""
    return dynamics.plain().value(s**2)


def supervised(c):
    """The loss of a mode in its rescaled coefficient (Eq. 50)."""
    return (1 - c) ** 2


def _rescaled_singular_value(t, gammas, initial):
    return dynamics.singular_value(gammas * t, 1.0, initial)


KINDS: Any = {
    False: (self_supervised, _rescaled_singular_value),
    True: (supervised, dynamics.supervised_trajectory),
}
"""Of supervised learning or not, the loss and the closed form of its descent."""


def _integrate(loss, gammas, initial, t):
    """All modes from one start, by diffrax: s' = -γ dL/ds, by automatic differentiation."""

    def field(t, s, gammas):
        return -gammas * jax.grad(lambda s: loss(s).sum())(s)

    tolerance = 1e2 * float(jnp.finfo(t.dtype).eps)
    return diffrax.diffeqsolve(
        diffrax.ODETerm(field),
        diffrax.Tsit5(),
        t0=t[0],
        t1=t[-1],
        dt0=jnp.asarray(1e-3, t.dtype),
        y0=jnp.full_like(gammas, initial),
        args=gammas,
        saveat=diffrax.SaveAt(ts=t),
        stepsize_controller=diffrax.PIDController(rtol=tolerance, atol=tolerance * 1e-3),
        max_steps=100_000,
    ).ys


EXPERIMENT = Experiment({"cpu": Config(), "paper": Config()}, run, minutes=0.1, quick=())
