"""Figure of the experiment `vicreg_first`."""

from typing import Any

import numpy as np

from experiments.beyond.vicreg_first.experiment import MATRICES, Config
from sslstep import plotting
from sslstep.experiment import Arrays, panels

#: A marker for each ε, which distinguishes the curves without colour.
MARKERS = "osD^v<>P"
NAMES = {"sigma": r"$\Sigma$", "gamma": r"$\Gamma$", "pencil": "the pencil"}


def plot(config: Config, arrays: Arrays) -> Any:
    """Draw the first seed's overlaps with Σ's and Γ's modes against t, and all seeds' against ε."""
    fig, axes = plotting.subplots(1, 3, figsize=(7.2, 2.5))
    colors = plotting.mode_colors(len(config.eps))
    markers = [MARKERS[i % len(MARKERS)] for i in range(len(config.eps))]
    for ax, of in zip(axes, (0, 1), strict=False):
        for eps, color, marker in zip(config.eps, colors, markers, strict=True):
            own = {key: arrays[f"{eps:g}/{key}"][0] for key in ("t", "overlaps", "passes")}
            ax.plot(own["t"], own["overlaps"][of], color=color)
            there = np.interp(own["passes"], own["t"], own["overlaps"][of])
            label = rf"$\epsilon$ = {eps:g}"
            ax.plot(
                own["passes"], there, marker, color=color, mec="black", mew=0.5, markersize=5,
                linestyle="-", label=label,
            )  # fmt: skip
        ax.set(xscale="log", xlabel=panels.TIME.partition(" =")[0], ylim=(-0.03, 1.05))
        ax.set_ylabel(f"overlap with the first mode of {NAMES[MATRICES[of]]}")
    axes[1].legend(
        loc="upper left", fontsize=5.5, title=r"variance passes $\epsilon$ at", title_fontsize=5.5
    )
    ax = axes[2]
    for i, (name, marker, color) in enumerate(
        zip(MATRICES, "osD", plotting.CATEGORIES, strict=False)
    ):
        early, predicted = (
            np.stack([arrays[f"{eps:g}/{part}"][:, i] for eps in config.eps])
            for part in ("early", "predicted")
        )
        for values in early.T:
            ax.plot(config.eps, values, marker, color=color, markersize=3.5)
        ax.plot([], [], marker, color=color, markersize=3.5, label=f"{NAMES[name]}, trained")
        ax.plot(config.eps, predicted.mean(axis=1), **{**plotting.THEORY, "color": color})
    ax.plot([], [], **plotting.THEORY, label="growth matrix")
    ax.set(xscale="log", xlabel=r"$\epsilon$", ylim=(-0.03, 1.05))
    ax.set_ylabel(r"overlap while variance $\ll \epsilon$")
    ax.legend(loc="center left", fontsize=6)
    plotting.label_panels(axes)
    return fig
