"""Figures of the experiment `fig7`."""

from itertools import cycle
from typing import Any

import numpy as np

from experiments.fig7.claims import of_seed_runs
from experiments.fig7.experiment import SETS, Config
from sslstep import plotting
from sslstep.experiment import Arrays, curves
from sslstep.recipes import LABELS

UNTRAINED: dict[str, Any] = {"linestyle": "--", "linewidth": 0.7}
CHANCE: dict[str, Any] = {"color": "0.5", "linestyle": ":", "linewidth": 0.7}


def plot(config: Config, arrays: Arrays) -> Any:
    """Draw accuracy against the step and against learned dimensions, for each method."""
    from matplotlib.ticker import MaxNLocator

    columns = len(config.methods)
    fig, axes = plotting.subplots(
        2, columns, figsize=(0.4 + 2.2 * columns, 3.9), squeeze=False, sharey=True
    )
    styles = {"small": "-", "standard": (0, (1, 1))}
    for column, method in enumerate(config.methods):
        ax, ax_dims = axes[:, column]
        for name, color in zip(SETS, plotting.CATEGORIES, strict=False):
            of_seed = of_seed_runs(config, name, method, arrays)
            step = of_seed[0]["step"]
            along = 100 * np.stack([one["accuracy"] for one in of_seed])
            line = {"color": color, "linestyle": styles[name], "label": f"{name} initialisation"}
            ax.plot(step, along.mean(axis=0), **line)
            ax.fill_between(step, along.min(axis=0), along.max(axis=0), color=color, alpha=0.2)
            untrained = f"untrained, {name}"
            ax.axhline(along[:, 0].mean(), color=color, **UNTRAINED, label=untrained)
            if name == "small":
                ax_dims.axhline(along[:, 0].mean(), color=color, **UNTRAINED)
        recipe = config.small.of(method)
        of_seed, seeds = of_seed_runs(config, "small", method, arrays), []
        for seed, one, marker in zip(config.seeds, of_seed, cycle("os^Dv"), strict=False):
            learned = curves.learned_along(recipe, one)
            dims = np.unique(learned)
            means = [100 * one["accuracy"][learned == k].mean() for k in dims]
            thin: Any = {"color": plotting.CATEGORIES[0], "markersize": 3, "linewidth": 0.8}
            seeds += ax_dims.plot(dims, means, f"{marker}-", **thin, label=f"seed {seed}")
        for each in (ax, ax_dims):
            each.axhline(100 * float(arrays["chance"]), **CHANCE, label="most frequent label")
        ax.set_xscale("symlog", linthresh=10)
        ax.set_xlim(left=0)
        ax.set_title(LABELS[method], fontsize=8)
        ax.set_xlabel("step")
        ax_dims.xaxis.set_major_locator(MaxNLocator(integer=True))
        ax_dims.set_xlabel("dimensions learned")
    for row in axes:
        row[0].set_ylabel("probe accuracy (%)")
    axes[1, 0].legend(handles=seeds, loc="lower center", bbox_to_anchor=(0.5, 0.05), ncols=2)
    fig.legend(*axes[0, 0].get_legend_handles_labels(), loc="outside lower center", ncols=3)
    plotting.label_panels(list(axes.ravel()))
    return fig
