r"""Figure 8: self-supervised learning breaks a symmetry, supervised learning does not.

    make fig8    or    python -m experiments.symmetry_breaking

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

from experiments._require import require
from experiments._run import Arrays, Experiment, command
from sslstep import claims, landscape, plotting
from sslstep.measure import spectrum

#: Around the origin, out of which escape is timed.
RADIUS = 0.1


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
        supervised = name == "supervised"
        loss = landscape.supervised if supervised else landscape.self_supervised
        closed = (
            landscape.supervised_trajectory if supervised else landscape.self_supervised_trajectory
        )
        arrays[f"{name}_loss"] = loss(grid)
        arrays[name] = closed(t[:, None], gammas[None, :], initial)
        field = _supervised_field if supervised else _self_supervised_field
        arrays[f"{name}_integrated"] = _integrate(field, gammas, initial, t)
    return {name: np.asarray(array) for name, array in arrays.items()}


def _self_supervised_field(t, s, gammas):
    """s' = -γ dL/ds, by automatic differentiation of the landscape."""
    return -gammas * jax.grad(lambda s: landscape.self_supervised(s).sum())(s)


def _supervised_field(t, c, gammas):
    return -gammas * jax.grad(lambda c: landscape.supervised(c).sum())(c)


def _integrate(field, gammas, initial, t):
    """All modes from one start, by diffrax."""
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


def _slope(t: np.ndarray, values: np.ndarray, among: np.ndarray) -> float:
    """Of a line through the log of values, among some of the times.

    NaN where these are fewer than two, as of a short t_max: then a claim about it does not hold.
    """
    if among.sum() < 2:
        return float("nan")
    return float(np.polyfit(t[among], np.log(values[among]), 1)[0])


def check(config: Config, arrays: Arrays) -> list[claims.Claim]:
    """What Appendix F says, as it should read (see docs/errata.md)."""
    t, gammas = arrays["t"], arrays["gammas"]
    eps = float(np.finfo(arrays["t"].dtype).eps)
    worst = max(
        float(np.abs(arrays[name] - arrays[f"{name}_integrated"]).max())
        for name in ("self_supervised", "self_supervised_negative", "supervised")
    )
    curves = arrays["self_supervised"]
    escaped = np.asarray(spectrum.step_times(t, curves, RADIUS))
    escaped = np.where(np.isfinite(escaped), escaped, np.nan)
    predicted = np.asarray(landscape.escape_time(gammas, config.initial, RADIUS))
    begins_inside = config.initial < RADIUS
    # The rate of the last approach, where 1 - s is between 1e-2 and 1e-3.
    first, j = 1 - curves[:, 0], 0
    tail = (first < 1e-2) & (first > 1e-3)
    settling = -1 / _slope(t, first, tail)
    grown = arrays["self_supervised_integrated"][:, 0]
    early = _slope(t, grown, (grown > 0) & (grown < 1e-2))
    velocity = (arrays["supervised_integrated"][1, -1] - config.initial) / float(t[1])
    return [
        claims.below(
            "the closed-form trajectories solve s' = -γ dL/ds (with a minus sign)",
            "Eq. 51, corrected",
            measured=worst,
            # Both are accurate to rounding relative to 1, the solver to 100 eps a step.
            tolerance=1e4 * eps,
        ),
        claims.close(
            "a small start ends in the minimum of its own sign: +1 from above 0, -1 from below",
            "Fig. 8A, C",
            expected=2.0,
            measured=float(
                arrays["self_supervised_integrated"][-1, 0]
                - arrays["self_supervised_negative_integrated"][-1, 0]
            ),
            tolerance=1e-3,
        ),
        claims.close(
            "from the origin, a maximum, growth is exponential at rate 4γ: measured rate over γ",
            "Fig. 8A, C",
            expected=4.0,
            measured=float(early / gammas[j]),
            # The cubic term slows growth by a fraction s^2 at most, 1e-4 here.
            tolerance=4e-3,
        ),
        claims.close(
            "the supervised landscape slopes at the origin, so growth starts at once: velocity "
            "over γ",
            "Fig. 8B, D",
            expected=2.0,
            measured=float(velocity / gammas[-1]),
            # The mean velocity of the first interval is less by a fraction γ dt, dt = 0.025.
            tolerance=2.0 * float(gammas[-1] * t[1]) + 2 * config.initial,
        ),
        claims.below(
            "escape to radius 0.1 takes log(0.1/|s(0)|)/4γ: relative error over the modes",
            "fn. 23, corrected",
            measured=(
                float(np.abs(escaped / predicted - 1).max()) if begins_inside else float("nan")
            ),
            # The cubic term adds -log(1 - r^2) / 2 to log(r/|s(0)|), r = 0.1; twice that.
            tolerance=float(0.01 / np.log(RADIUS / config.initial)) if begins_inside else 0.0,
        ),
        claims.close(
            f"the last approach has time constant 1/8γ (γ = {float(gammas[j]):g})",
            "App. F, corrected",
            expected=float(landscape.settling_time(gammas[j])),
            measured=float(settling),
            # The quadratic term slows it by a fraction 3/2 (1 - s), at most 1e-2 there.
            tolerance=0.015 * float(landscape.settling_time(gammas[j])),
        ),
    ]


def plot(config: Config, arrays: Arrays) -> Any:
    """The four panels."""
    import matplotlib.pyplot as plt

    fig, axes = plt.subplots(2, 2, figsize=(5.5, 4.0))
    grid, t = arrays["grid"], arrays["t"]
    blue, red = plotting.CATEGORIES[:2]
    axes[0, 0].plot(grid, arrays["self_supervised_loss"], color=blue)
    axes[0, 0].plot([-1, 1], [0, 0], "o", color=blue, markersize=4)
    axes[0, 0].plot([0], [1], "o", mfc="white", color=blue, markersize=4)
    axes[0, 0].set(xlabel=r"rescaled singular value $\bar{s}_j$", ylabel=r"loss $\mathcal{L}_j$")
    axes[0, 0].set(title="self-supervised", ylim=(-0.1, 2.2))
    axes[0, 1].plot(grid + 0.6, landscape.supervised(jnp.asarray(grid + 0.6)), color=red)
    axes[0, 1].plot([1], [0], "o", color=red, markersize=4)
    axes[0, 1].set(xlabel=r"rescaled coefficient $\bar{c}_j$", ylabel=r"loss $\mathcal{L}_j$")
    axes[0, 1].set(title="supervised", ylim=(-0.1, 2.2))
    gammas, every = arrays["gammas"], max(1, len(t) // 25)
    names = [("self_supervised", r"$\bar{s}_j(t)$"), ("supervised", r"$\bar{c}_j(t)$")]
    for ax, (name, label) in zip(axes[1], names, strict=True):
        for j, color in enumerate(plotting.mode_colors(len(gammas))):
            text = rf"$\gamma_j = {gammas[j]:g}$"
            ax.plot(t, arrays[name][:, j], color=color, label=text)
            ax.plot(t[::every], arrays[f"{name}_integrated"][::every, j], "x", color=color, ms=3)
        ax.plot([], [], "x", color="grey", ms=3, label="integrated")
        ax.set(xlabel=r"time $t$", ylabel=label, ylim=(-0.05, 1.1))
    axes[1, 1].legend(loc="lower right")
    plotting.label_panels(axes.flat)
    return fig


EXPERIMENT = Experiment(
    "symmetry_breaking", __doc__ or "", {"cpu": Config(), "paper": Config()}, run, plot, check
)

if __name__ == "__main__":
    command(EXPERIMENT)
