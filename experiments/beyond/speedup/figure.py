"""Figures of the experiment `speedup`."""

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import numpy as np

from experiments.beyond.speedup.claims import Case, cases_of, mean_and_deviation
from sslstep import plotting
from sslstep.experiment import Arrays

if TYPE_CHECKING:
    from matplotlib.axes import Axes

MARKERS = {"reference": "o", "obvious": "s", "remedy": "D", "combination": "^"}
COLORS = {
    "reference": "black",
    "obvious": plotting.CATEGORIES[1],
    "remedy": plotting.CATEGORIES[0],
    "combination": plotting.CATEGORIES[2],
}
LABELS = {
    "dimensions": "speed-up to {k} dimensions",
    "accuracy": "speed-up to an accuracy of {accuracy:.0%}",
    "final accuracy": "final accuracy of the probe",
    "rank": "effective rank of $h$",
}
DASHES: tuple[Any, ...] = ("-", "--", "-.", ":", (0, (5, 1)), (0, (1, 1)), (0, (3, 1, 1, 1)))


def plot(config: Any, arrays: Arrays) -> dict[str, Any]:
    """Draw the speed-ups of all arms, the dimensions learned, and the results of probes."""
    cases = cases_of(config, arrays)
    figures = {
        "figure": _arms([(case, case.goal) for case in cases], columns=min(2, len(cases))),
    }
    counted = [case for case in cases if case.goal == "dimensions"]
    if counted:
        figures["learned"] = _learned(counted)
    probed = [case for case in cases if case.probed]
    if probed:
        shown = [(case, column) for column in ("final accuracy", "rank") for case in probed]
        shown += [(case, "accuracy") for case in counted if case.times_accuracy]
        figures["accuracy"] = _arms(shown, columns=len(probed))
        figures["curves"] = _curves(probed)
    return figures


def _arms(shown: list[tuple[Case, str]], columns: int) -> Any:
    """Draw a panel for each pair of case and quantity in `shown`, with a row for each arm."""
    rows = -(-len(shown) // columns)
    most = max(len(case.arms) for case, _ in shown)
    size = 7.2, 0.5 + rows * (0.6 + 0.16 * most)
    fig, axes = plotting.subplots(rows, columns, figsize=size, squeeze=False)
    for ax in axes.flat[len(shown) :]:
        ax.set_axis_off()
    for i, ((case, column), ax) in enumerate(zip(shown, axes.flat, strict=False)):
        same = i % columns and list(case.arms) == list(shown[i - 1][0].arms)
        labels = [] if same else [arm.label for arm in case.arms.values()]
        ax.set_yticks(range(len(case.arms)), labels=labels)
        ax.grid(axis="y", color="0.92", linewidth=0.5)
        for y, name in enumerate(case.arms):
            _arm(case, name, y, column, ax)
        if column in ("dimensions", "accuracy"):
            ax.axvline(1, color="0.3", linewidth=0.6, linestyle=":", zorder=0)
            _ratio_axis(ax)
        elif column == "final accuracy":
            plain = mean_and_deviation(case.final_accuracy("plain"))[0]
            ax.axvline(plain, color="0.3", linewidth=0.6, linestyle=":", zorder=0)
        ax.set(
            title=case.title, xlabel=LABELS[column].format(k=case.target, accuracy=case.accuracy)
        )
        ax.set_ylim(len(case.arms) - 0.5, -0.5)
    style: dict[str, Any] = {"linestyle": "", "marker": "o", "color": "0.3"}
    kinds: set[str] = {arm.kind for case, _ in shown for arm in case.arms.values()}
    looks = [(k, {"marker": m, "color": COLORS[k]}) for k, m in MARKERS.items() if k in kinds]
    if any(column in ("dimensions", "accuracy") for _, column in shown):
        looks += [("by steps", {}), ("by seconds", {"markerfacecolor": "white"})]
    handles = [axes[0, 0].plot([], [], **style | own, label=label)[0] for label, own in looks]
    fig.legend(handles=handles, loc="outside upper center", ncols=len(handles), markerscale=0.7)
    plotting.label_panels(axes.flat[: len(shown)])
    return fig


def _arm(case: Case, name: str, y: int, column: str, ax: "Axes") -> None:
    """Draw one arm's row of a panel."""
    arm = case.arms[name]
    color = COLORS[arm.kind]
    style: dict[str, Any] = {"fmt": MARKERS[arm.kind], "color": color, "markersize": 3.5}
    style |= {"elinewidth": 0.8, "capsize": 0}
    if column == "dimensions" and arm.measured is None:
        return
    if column in ("final accuracy", "rank"):
        ranks = case.arrays[f"{name}/rank_h"]
        values = case.final_accuracy(name) if column == "final accuracy" else ranks
        mean, deviation = mean_and_deviation(values)
        ax.errorbar(mean, y, xerr=deviation, **style)
        return
    pair = case.ratios(column, name)
    for value, shift, face in zip(pair, (-0.17, 0.17), (color, "white"), strict=True):
        if np.isfinite(value.mean):
            error = [[value.mean - value.low], [value.high - value.mean]]
            own: dict[str, Any] = {"markerfacecolor": face, **style}
            own["alpha"] = 1.0 if value.num == len(case.seeds) else 0.35
            ax.errorbar(value.mean, y + shift, xerr=error, **own)


def _ratio_axis(ax: "Axes") -> None:
    """Make the x axis logarithmic, with ticks at powers of two or four."""
    ax.set_xscale("log")
    low, high = ax.get_xlim()
    low, high = max(min(low, 0.8), 0.1), min(max(high, 2.5), 300)
    base = 2 if high / low < 64 else 4
    powers = [float(base) ** k for k in range(-4, 9) if low <= float(base) ** k <= high]
    ax.set_xlim(low, high)
    ax.set_xticks(powers, labels=[f"{p:g}" if p >= 1 else f"1/{1 / p:g}" for p in powers])
    ax.set_xticks([], minor=True)


def _learned(cases: list[Case]) -> Any:
    """Draw the number of learned dimensions along training, at median times over seeds."""

    def draw(case: Case, name: str, ax: "Axes", style: dict[str, Any]) -> None:
        if case.arms[name].measured is None:
            return
        times = np.sort(np.median(case.learned(name), axis=0))
        there = np.maximum(times[np.isfinite(times)], 1)
        counts = np.arange(1, len(there) + 1)
        ax.step(there, counts, where="post", **style)
        ax.plot(there[-1:], counts[-1:], ".", color=style["color"], markersize=3)

    return _along_training(cases, draw, "dimensions learned")


def _curves(cases: list[Case]) -> Any:
    """Draw the probe's accuracy along training, mean over seeds; dotted: the goal."""

    def draw(case: Case, name: str, ax: "Axes", style: dict[str, Any]) -> None:
        steps = np.maximum(case.arrays[f"{name}/record_steps"], 1)
        ax.plot(steps, case.arrays[f"{name}/accuracy"].mean(axis=0), **style)
        ax.axhline(case.accuracy, color="0.3", linewidth=0.6, linestyle=":", zorder=0)

    return _along_training(cases, draw, "accuracy")


def _along_training(cases: list[Case], draw: Callable[..., None], label: str) -> Any:
    """Draw a row for each case, with a panel for each kind of arms, and an arm by `draw`."""
    size = 7.2, 1.3 + 1.6 * len(cases)
    there = {arm.kind for case in cases for arm in case.arms.values()} - {"reference"}
    kinds = [kind for kind in MARKERS if kind in there]
    across = max(len(kinds), 1)
    fig, axes = plotting.subplots(len(cases), across, figsize=size, squeeze=False, sharey="row")
    for case, line in zip(cases, axes, strict=True):
        for ax, kind in zip(line, kinds or ["reference"], strict=True):
            first, others = (
                [name for name, arm in case.arms.items() if arm.kind == wanted]
                for wanted in ("reference", kind)
            )
            shown = list(dict.fromkeys([*first, *others]))
            colors = [*("black", "0.5")[: len(first)], *plotting.CATEGORIES]
            for name, color, dash in zip(shown, colors, DASHES, strict=False):
                style = {"color": color, "ls": dash, "lw": 1.1, "label": case.arms[name].label}
                draw(case, name, ax, style)
            ax.set_xscale("log")
        line[0].set_ylabel(f"{case.title}\n{label}", fontsize=7)
    plotting.label_panels(list(axes.ravel()))
    for ax in axes[-1]:
        ax.set_xlabel("step")
        below: dict[str, Any] = {"loc": "upper center", "bbox_to_anchor": (0.5, -0.35)}
        ax.legend(**below, fontsize=6, handlelength=3)
    return fig
