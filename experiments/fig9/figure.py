"""Figures of the experiment `fig9`."""

from typing import Any

import numpy as np

from experiments.fig9.claims import NAMES, along
from experiments.fig9.experiment import Config
from sslstep import plotting
from sslstep.experiment import Arrays

COLORS = dict(zip(NAMES, ["black", *plotting.CATEGORIES], strict=True))


def plot(config: Config, arrays: Arrays) -> Any:
    """Draw landscapes with descent on them, and the speed-ups on the linear model."""
    return {"figure": _landscapes(arrays), "speedups": _speedups(config, arrays)}


def _landscapes(arrays: Arrays) -> Any:
    """Draw the landscapes and gradient descent on them."""
    fig, axes = plotting.subplots(2, 5, figsize=(7.4, 3.6), sharey="row", sharex="row")
    grid, columns = arrays["grid"], ["plain", "sharpened", "smoothed", "quartic", "preconditioned"]
    for ax, name in zip(axes[0], columns, strict=True):
        if name != "plain":
            ax.plot(grid, arrays["plain/loss"], color="0.75", linewidth=1.0)
        ax.plot(grid, arrays[f"{name}/loss"], color=COLORS[name])
        ax.set(title=name, xlabel=r"$\bar{s}_j$", ylim=(-0.1, 2.4), xlim=(-1.6, 1.6))
    hinged = axes[0, 3]
    hinged.plot(grid, arrays["hinge/loss"], "--", color=COLORS["hinge"])
    hinged.set_title("")
    hinged.set_title("quartic, hinge", loc="right")
    top = float(np.interp(0, grid, arrays["preconditioned/loss"]))
    axes[0, 4].annotate(f"{top:.1f} at 0", (0, 1.5), ha="center", va="top", fontsize=6)
    axes[0, 0].set_ylabel(r"loss $\mathcal{L}_j$")
    gammas, num = arrays["curves_gammas"], len(arrays["plain/curves"])
    for ax, name in zip(axes[1], columns, strict=True):
        closed, descent = arrays[f"{name}/curves"], arrays[f"{name}/descent"]
        every = max(1, num // 18)
        for j, color in enumerate(plotting.mode_colors(len(gammas))):
            ax.plot(closed[:, j], color=color, label=rf"$\gamma_j = {gammas[j]:g}$")
            at = np.arange(0, num, every)
            ax.plot(at, descent[::every, j], "x", color=color, markersize=2.5, mew=0.6)
        ax.set(xlabel="step", ylim=(-0.05, 1.15), xlim=(0, num))
    axes[1, 0].set_ylabel(r"$\bar{s}_j$")
    handles, labels = axes[1, 4].get_legend_handles_labels()
    for style, label in (("-", "closed form"), ("x", "gradient descent")):
        handles += axes[1, 4].plot([], [], style, color="0.4", markersize=3)
        labels.append(label)
    fig.legend(handles, labels, loc="outside lower center", ncols=len(labels))
    plotting.label_panels(axes.flat)
    return fig


def _speedups(config: Config, arrays: Arrays) -> Any:
    """Draw the steps at which modes are learned, and the ratios to plain descent."""
    fig, (steps_ax, ratio_ax) = plotting.subplots(1, 2, figsize=(7.0, 3.0))
    markers = dict(zip(NAMES, "os^DvP", strict=True))
    modes = np.arange(1, config.dim + 1)
    for i, name in enumerate(NAMES):
        key, color = f"{name}/{config.shown:g}", COLORS[name]
        beside = modes + 0.06 * (i - 2.5)
        settings = {"color": color, "markersize": 4, "label": name}
        steps_ax.plot(beside, arrays[f"{key}/steps"], markers[name], **settings)
        steps_ax.plot(beside, arrays[f"{key}/predicted"], "_", color=color, markersize=9)
        if name == "plain":
            continue
        plain, steps = (along(config, arrays, each, "steps") for each in ("plain", name))
        closed = along(config, arrays, name, "speedup")
        ratio_ax.plot(config.ratios, plain / steps, markers[name], color=color, markersize=4)
        ratio_ax.plot(config.ratios, closed, **{**plotting.THEORY, "color": color})
    steps_ax.plot([], [], "_", color="0.4", markersize=9, label="mode equation")
    steps_ax.set(xlabel="mode", ylabel="step at which it is learned", yscale="log", xticks=modes)
    steps_ax.legend(loc="upper left", ncols=2, fontsize=6)
    low, high = steps_ax.get_ylim()
    steps_ax.set_ylim(low, high * 12)
    ratio_ax.set(xlabel=r"$\gamma_1 / \gamma_d$", ylabel="plain steps over steps")
    ratio_ax.set(xscale="log", yscale="log", ylim=(1.5, 24))
    ratio_ax.set_yticks([2, 4, 8, 16], labels=["2", "4", "8", "16"])
    ratio_ax.set_yticks([], minor=True)
    ratio_ax.plot([], [], "o", color="0.4", markersize=4, label="trained")
    ratio_ax.plot([], [], **{**plotting.THEORY, "color": "0.4"}, label="closed form")
    ratio_ax.legend(loc="best", fontsize=6)
    plotting.label_panels([steps_ax, ratio_ax])
    return fig
