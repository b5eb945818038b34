"""Figures of the experiment `fig8`."""

from typing import Any

from experiments.fig8.experiment import Config, supervised
from sslstep import plotting
from sslstep.experiment import Arrays


def plot(config: Config, arrays: Arrays) -> Any:
    """Draw both landscapes and the trajectories on them, in four panels."""
    fig, axes = plotting.subplots(2, 2, figsize=(5.5, 4.0))
    grid, t = arrays["grid"], arrays["t"]
    blue, red = plotting.CATEGORIES[:2]
    axes[0, 0].plot(grid, arrays["self_supervised_loss"], color=blue)
    axes[0, 0].plot([-1, 1], [0, 0], "o", color=blue, markersize=4)
    axes[0, 0].plot([0], [1], "o", mfc="white", color=blue, markersize=4)
    axes[0, 0].set(xlabel=r"rescaled singular value $\bar{s}_j$", ylabel=r"loss $\mathcal{L}_j$")
    axes[0, 0].set(title="self-supervised", ylim=(-0.1, 2.2))
    axes[0, 1].plot(grid + 0.6, supervised(grid + 0.6), color=red)
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
