"""Panels of figures on stepwise learning: loss, eigenvalues, errors of step times."""

from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from sslstep import plotting
from sslstep.experiment._record import Arrays

if TYPE_CHECKING:
    from matplotlib.axes import Axes

#: The label of the time axis.
TIME = r"effective time $t$ = learning rate $\times$ step"
BLUE = plotting.CATEGORIES[0]


def loss(ax: "Axes", arrays: Arrays, *, experiment: str, theory: str) -> None:
    """Draw the loss, which falls from d by one at each step, and mark the predicted step times.

    `experiment` is the label of the loss, `theory` the label of the predicted times.
    """
    plotting.time_marks(ax, arrays["predicted_step_times"], label=theory)
    ax.plot(arrays["t"], arrays["loss"], color=BLUE, linewidth=1.8, label=experiment)
    dim = arrays["eigenvalues"].shape[1]
    ax.set(ylabel=r"loss $\mathcal{L}$", yticks=range(0, dim + 1, 2), ylim=(-0.2, None))
    ax.legend(loc="lower left", frameon=True, framealpha=1, edgecolor="none")


def eigenvalues(ax: "Axes", arrays: Arrays, *, experiment: str, theory: str) -> None:
    """Draw measured and predicted eigenvalues of C, and number each mode at its predicted rise.

    `experiment` labels the measured curves, `theory` the predicted curves. No legend is drawn.
    """
    measured, predicted = arrays["eigenvalues"], arrays["predicted_eigenvalues"]
    plotting.mode_curves(ax, arrays["t"], measured, predicted, experiment=experiment, theory=theory)
    ax.set(ylabel=r"eigenvalues of $C$", ylim=(-0.05, 1.15))
    for j, time in enumerate(arrays["predicted_step_times"], start=1):
        if time < arrays["t"][-1]:
            ax.annotate(
                f"{j}", (time, 1), xycoords=("data", "axes fraction"), fontsize=6, ha="center"
            )


def step_time_errors(
    ax: "Axes", arrays: Arrays, kinds: Sequence[tuple[str, str, float, str, str]]
) -> None:
    """Draw the relative errors of predicted step times, in percent, for each learned mode.

    Each kind of prediction is the name of its array, marker, marker size, face color and label.
    """
    times = arrays["step_times"]
    modes, measured = np.arange(1, len(times) + 1), np.where(np.isfinite(times), times, np.nan)
    for name, marker, size, face, label in kinds:
        deviation = 100 * (arrays[name] / measured - 1)
        ax.plot(modes, deviation, marker, color=BLUE, mfc=face, markersize=size, label=label)
    ax.axhline(0, color="0.5", linewidth=0.6, zorder=0)
    ax.set(xlabel=r"mode $j$", ylabel="predicted $-$ measured\nstep time (%)", xticks=modes)


def means(ax: "Axes", x: Any, values: np.ndarray, *, rms: bool = False, **style: Any) -> None:
    """Draw the mean, or the root mean square, of values (T, draws) at x (T,), with standard errors.

    `style` is that of the points.
    """
    power = 2 if rms else 1
    mean = (values**power).mean(axis=1)
    error = (values**power).std(axis=1, ddof=1) / values.shape[1] ** 0.5
    if rms:
        mean, error = mean**0.5, error / (2 * mean**0.5)
    ax.errorbar(x, mean, error, markersize=4, linewidth=0.8, **style)


def make_room(ax: "Axes", *, above: float = 0.0, below: float = 0.0) -> None:
    """Extend the y axis for a legend, by fractions `above` and `below` of its length."""
    scale = ax.yaxis.get_transform()
    low, high = scale.transform(np.array(ax.get_ylim()))
    ends = np.array([low - below * (high - low), high + above * (high - low)])
    ax.set_ylim(*scale.inverted().transform(ends))


def legend_of(axes: Iterable["Axes"]) -> tuple[list[Any], list[str]]:
    """Return handles and labels for a legend of several panels, each label once.

    Markers stand in place of error bars.
    """
    found = {}
    for ax in axes:
        for handle, label in zip(*ax.get_legend_handles_labels(), strict=True):
            found[label] = getattr(handle, "lines", [handle])[0]
    return list(found.values()), list(found)


def markdown(rows: Sequence[Sequence[str]]) -> str:
    """Return a table in Markdown; the first row is its head."""
    ruled = [rows[0], ["---"] * len(rows[0]), *rows[1:]]
    return "\n".join("| " + " | ".join(row) + " |" for row in ruled)
