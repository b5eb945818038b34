r"""Figure 8: self-supervised learning breaks a symmetry, and supervised learning does not.

    make fig8    or    python -m experiments run fig8

The figure has four panels. The modewise loss of Barlow Twins (A) has a maximum at the origin and
two minima. The modewise loss of supervised learning in the kernel regime (B) is a parabola with a
nonzero slope at the origin. From a small start, a self-supervised mode waits and then rises in a
step (C); a supervised mode grows at once (D). Curves are closed forms; crosses are numerical
integrals of the gradient flow. The experiment takes seconds.
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
    """Return the loss of a mode as a function of its rescaled singular value s (Eq. 50)."""
    return dynamics.plain().value(s**2)


def supervised(c):
    """Return the loss of a mode as a function of its rescaled coefficient c (Eq. 50)."""
    return (1 - c) ** 2


def _rescaled_singular_value(t, gammas, initial):
    """Return a mode's rescaled singular value at times t, in closed form."""
    return dynamics.singular_value(gammas * t, 1.0, initial)


KINDS: Any = {
    False: (self_supervised, _rescaled_singular_value),
    True: (supervised, dynamics.supervised_trajectory),
}
"""Loss and closed-form trajectory of self-supervised (False) and supervised (True) learning."""


def _integrate(loss, gammas, initial, t):
    """Integrate s' = -γ dL/ds for all modes from one start, by diffrax; return s(t), (T, modes)."""

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
