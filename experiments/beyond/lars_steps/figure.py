"""Figure of the experiment `lars_steps`."""

from typing import Any

import numpy as np

from experiments.beyond.lars_steps.experiment import RULES, Config
from sslstep import plotting
from sslstep.experiment import Arrays


def plot(config: Config, arrays: Arrays) -> Any:
    """Draw eigenvalues under both rules, step times against γ, and step times of the ResNets."""
    import matplotlib.pyplot as plt

    fig, axes = plt.subplots(2, 2, figsize=(6.8, 4.6))
    names = {"sgd": "gradient descent", "lars": "LARS"}
    first = f"{config.scales[0]:g}"
    for ax, rule in zip(axes[0], RULES, strict=True):
        step, measured, predicted = (
            arrays[f"{rule}/{first}/{key}"] for key in ("step", "measured", "predicted")
        )
        plotting.mode_curves(ax, step, measured, predicted)
        ax.set_xlabel(f"step of {names[rule]}")
        ax.set_ylabel(r"eigenvalues of $C$")
        ax.set_ylim(0, 1.15)
        ax.set_title(rf"linear model, $\alpha$ = {first}")
    axes[0, 1].legend(loc="upper left")
    plotting.mode_key(list(axes[0]), measured.shape[1])
    ax = axes[1, 0]
    markers = {"sgd": "o", "lars": "s"}
    for rule, color in zip(RULES, plotting.CATEGORIES, strict=False):
        for i, scale in enumerate(config.scales):
            key = f"{rule}/{scale:g}"
            ax.loglog(
                arrays["gammas"],
                arrays[f"{key}/half"],
                markers[rule],
                color=color,
                markersize=4,
                fillstyle="full" if i == 0 else "none",
                label=rf"{names[rule]}, $\alpha$ = {scale:g}",
            )
            predicted = arrays[f"{key}/half_predicted"]
            ax.loglog(arrays["gammas"], predicted, **plotting.THEORY)
    ax.set_xlabel(r"$\gamma_j$")
    ax.set_ylabel("step at which learned")
    ax.set_ylim(bottom=ax.get_ylim()[0] / 10)
    ax.legend(loc="lower left", fontsize=6)
    ax = axes[1, 1]
    for rule, color in zip(RULES, plotting.CATEGORIES, strict=False):
        for seed in config.seeds:
            found = arrays[f"resnet/{rule}/{seed}"]
            found = found[np.isfinite(found)]
            label = f"ResNet, {names[rule]}" if seed == config.seeds[0] else None
            ax.plot(
                np.arange(1, len(found) + 1),
                found,
                markers[rule] + "-",
                color=color,
                markersize=4,
                label=label,
            )
    ax.set_yscale("log")
    ax.set_xlabel("dimension")
    ax.set_ylabel("step at which learned")
    ax.legend()
    plotting.label_panels(list(axes.ravel()))
    return fig
