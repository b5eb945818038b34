"""Figure of the experiment `depth`."""

from typing import Any

import numpy as np

from experiments.beyond.depth.claims import of_random
from experiments.beyond.depth.experiment import Config
from sslstep import plotting
from sslstep.experiment import Arrays


def plot(config: Config, arrays: Arrays) -> Any:
    """Draw eigenvalues for smallest and largest L, then step times and other modes against α."""
    fig, axes = plotting.subplots(2, 2, figsize=(6.8, 4.8))
    name = f"{config.scales[0]:g}"
    for ax, num in zip(axes[0], (config.layers[0], config.layers[-1]), strict=True):
        t, measured, curves = (
            arrays[f"{num}/{name}/{key}"] for key in ("t", "eigenvalues", "curves")
        )
        plotting.mode_curves(ax, t[::20], measured[::20], curves)
        ax.set(xlabel=r"effective time $t$", ylabel=r"eigenvalues of $C$")
        ax.set_title(rf"$L$ = {num}, $\alpha$ = {float(name):.2g}", fontsize=8)
    axes[0, 0].legend(loc="lower right")
    scales = arrays["scales"]
    for num, color, marker in zip(config.layers, plotting.CATEGORIES, "os^D", strict=False):
        here = [f"{num}/{scale:g}" for scale in config.scales]
        predicted = np.array([arrays[f"{each}/predicted"][0] for each in here])
        axes[1, 0].loglog(scales, predicted, **{**plotting.THEORY, "color": color})
        for ax, key in ((axes[1, 0], "step_times"), (axes[1, 1], "others")):
            found = of_random(config, arrays, num, key)
            ax.loglog(scales, found, marker, color=color, markersize=3, fillstyle="none")
            own = [np.ravel(arrays[f"{each}/{key}"])[0] for each in here]
            ax.loglog(scales, own, marker, color=color, markersize=4, label=f"$L$ = {num}")
        gammas = arrays["gammas"]
        power = 1 - gammas[1] / gammas[0] if num == 1 else 1.0
        middle = np.sqrt(own[0] * own[-1]) / np.sqrt(scales[0] * scales[-1]) ** power
        axes[1, 1].loglog(scales, middle * scales**power, **{**plotting.THEORY, "color": color})
    for ax in axes[1]:
        ax.set_xlabel(r"initial scale $\alpha$")
    axes[1, 0].set_ylabel("first step time")
    axes[1, 1].set_ylabel("other modes / first, learned")
    handles, labels = axes[1, 0].get_legend_handles_labels()
    title = "(C, D) full: balanced layers; hollow: random layers; dashed: theory"
    fig.legend(handles, labels, title=title, loc="outside lower center", ncols=len(labels))
    plotting.label_panels(list(axes.ravel()))
    return fig
