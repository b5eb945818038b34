"""Figures of the experiment `speedup`."""

from typing import TYPE_CHECKING, Any

import numpy as np

from experiments.beyond.speedup.claims import (
    TITLES,
    arms_of,
    cases_of,
    final_accuracy,
    has_probe,
    label_of,
    mean_and_deviation,
    probes_tell,
    ratios,
    target,
    times_learned,
)
from experiments.beyond.speedup.contenders import ARMS
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
    "accuracy": "speed-up to Barlow Twins' final accuracy",
    "final accuracy": "final accuracy of the probe",
    "rank": "effective rank of $h$",
}
DASHES: tuple[Any, ...] = ("-", "--", "-.", ":", (0, (5, 1)), (0, (1, 1)), (0, (3, 1, 1, 1)))


def plot(config: Any, arrays: Arrays) -> dict[str, Any]:
    """Draw the speed-ups of all arms, the dimensions learned, and the results of probes."""
    cases = cases_of(arrays)
    figures = {
        "figure": _arms(config, arrays, [(case, "dimensions") for case in cases], columns=2),
        "learned": _learned(config, arrays),
    }
    probed = [case for case in cases if has_probe(arrays, case)]
    if probed:
        shown = [(case, column) for column in ("final accuracy", "rank") for case in probed]
        shown += [(case, "accuracy") for case in probed if probes_tell(arrays, case)]
        figures["accuracy"] = _arms(config, arrays, shown, columns=len(probed))
    return figures


def _arms(config: Any, arrays: Arrays, shown: list[tuple[str, str]], columns: int) -> Any:
    """Draw a panel for each pair of case and quantity in `shown`, with a row for each arm."""
    import matplotlib.pyplot as plt
    from matplotlib.lines import Line2D

    rows = -(-len(shown) // columns)
    most = max(len(arms_of(config, arrays, case)) for case, _ in shown)
    fig, axes = plt.subplots(
        rows, columns, figsize=(7.2, 0.5 + rows * (0.6 + 0.16 * most)), squeeze=False
    )
    for ax in axes.flat[len(shown) :]:
        ax.set_axis_off()
    for i, ((case, column), ax) in enumerate(zip(shown, axes.flat, strict=False)):
        names = arms_of(config, arrays, case)
        same = i % columns and names == arms_of(config, arrays, shown[i - 1][0])
        labels = [] if same else [label_of(name) for name in names]
        ax.set_yticks(range(len(names)), labels=labels)
        ax.set_ylim(len(names) - 0.5, -0.5)
        ax.grid(axis="y", color="0.92", linewidth=0.5)
        for y, name in enumerate(names):
            _arm(config, arrays, case, name, y, column, ax)
        if column in ("dimensions", "accuracy"):
            ax.axvline(1, color="0.3", linewidth=0.6, linestyle=":", zorder=0)
            _ratio_axis(ax)
        elif column == "final accuracy":
            plain = mean_and_deviation(final_accuracy(arrays, case, "plain"))[0]
            ax.axvline(plain, color="0.3", linewidth=0.6, linestyle=":", zorder=0)
        ax.set_title(TITLES[case])
        ax.set_xlabel(LABELS[column].format(k=target(config, case)))
    handles = [
        Line2D([], [], linestyle="", marker=marker, color=COLORS[kind], label=kind)
        for kind, marker in MARKERS.items()
    ]
    if any(column in ("dimensions", "accuracy") for _, column in shown):
        for label, face in (("by steps", "0.3"), ("by seconds", "white")):
            style: Any = {"linestyle": "", "marker": "o", "color": "0.3", "markerfacecolor": face}
            handles.append(Line2D([], [], label=label, **style))
    fig.legend(handles=handles, loc="outside upper center", ncols=len(handles), markerscale=0.7)
    plotting.label_panels(axes.flat[: len(shown)])
    return fig


def _arm(
    config: Any, arrays: Arrays, case: str, name: str, y: int, column: str, ax: "Axes"
) -> None:
    """Draw one arm's row of a panel."""
    arm = ARMS[name]
    color = COLORS[arm.kind]
    style: dict[str, Any] = {"fmt": MARKERS[arm.kind], "color": color, "markersize": 3.5}
    style |= {"elinewidth": 0.8, "capsize": 0}
    if column == "dimensions" and arm.measured is None:
        return
    if column in ("final accuracy", "rank"):
        ranks = arrays[f"{case}/{name}/rank_h"]
        values = final_accuracy(arrays, case, name) if column == "final accuracy" else ranks
        mean, deviation = mean_and_deviation(values)
        ax.errorbar(mean, y, xerr=deviation, **style)
        return
    pair = ratios(config, arrays, case, name, to=column)
    for value, shift, face in zip(pair, (-0.17, 0.17), (color, "white"), strict=True):
        if np.isfinite(value.mean):
            error = [[value.mean - value.low], [value.high - value.mean]]
            faint = 1.0 if value.num == len(config.seeds) else 0.35
            ax.errorbar(
                value.mean, y + shift, xerr=error, markerfacecolor=face, alpha=faint, **style
            )


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


def _learned(config: Any, arrays: Arrays) -> Any:
    """Draw the number of learned dimensions along training, at median times over seeds."""
    import matplotlib.pyplot as plt

    cases, kinds = cases_of(arrays), ("obvious", "remedy", "combination")
    fig, axes = plt.subplots(
        len(cases), 3, figsize=(7.2, 1.3 + 1.6 * len(cases)), squeeze=False, sharey="row"
    )
    for case, line in zip(cases, axes, strict=True):
        for ax, kind in zip(line, kinds, strict=True):
            shown = [
                name
                for name in arms_of(config, arrays, case)
                if ARMS[name].measured is not None and ARMS[name].kind in ("reference", kind)
            ]
            colors = ["black", "0.5", *plotting.CATEGORIES]
            for name, color, dash in zip(shown, colors, DASHES, strict=False):
                times = np.sort(np.median(times_learned(arrays, case, name), axis=0))
                there = np.maximum(times[np.isfinite(times)], 1)
                counts = np.arange(1, len(there) + 1)
                ax.step(
                    there, counts, where="post", color=color, ls=dash, lw=1.1, label=label_of(name)
                )
                ax.plot(there[-1:], counts[-1:], ".", color=color, markersize=3)
            ax.set_xscale("log")
        line[0].set_ylabel(f"{TITLES[case]}\ndimensions learned", fontsize=7)
    for ax in axes[-1]:
        ax.set_xlabel("step")
    plotting.label_panels(list(axes.ravel()))
    for ax in axes[-1]:
        ax.legend(
            loc="upper center", bbox_to_anchor=(0.5, -0.35), ncols=1, fontsize=6, handlelength=3
        )
    return fig
