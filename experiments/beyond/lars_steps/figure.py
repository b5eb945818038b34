"""Figure of the experiment `lars_steps`."""

from typing import Any

import numpy as np

from experiments.beyond.lars_steps.experiment import RULES, Config
from sslstep import plotting
from sslstep.experiment import Arrays


def plot(config: Config, arrays: Arrays) -> Any:
    """Draw eigenvalues under both rules, step times against γ, and step times of the ResNets."""
    fig, axes = plotting.subplots(2, 2, figsize=(6.8, 4.6))
    names = {"sgd": "gradient descent", "lars": "LARS"}
    first = f"{config.scales[0]:g}"
    for ax, rule in zip(axes[0], RULES, strict=True):
        step, measured, predicted = (
            arrays[f"{rule}/{first}/{key}"] for key in ("step", "measured", "predicted")
        )
        plotting.mode_curves(ax, step, measured, predicted)
        ax.set(xlabel=f"step of {names[rule]}", ylabel=r"eigenvalues of $C$", ylim=(0, 1.15))
        ax.set(title=rf"linear model, $\alpha$ = {first}")
    axes[0, 1].legend(loc="upper left")
    plotting.mode_key(list(axes[0]), measured.shape[1])
    (by_gamma, by_dim), gammas = axes[1], arrays["gammas"]
    for rule, color, marker in zip(RULES, plotting.CATEGORIES, "os", strict=False):
        style: Any = {"color": color, "markersize": 4}
        for scale in config.scales:
            key, fill = f"{rule}/{scale:g}", "full" if scale == config.scales[0] else "none"
            own = {**style, "fillstyle": fill, "label": rf"{names[rule]}, $\alpha$ = {scale:g}"}
            by_gamma.loglog(gammas, arrays[f"{key}/half"], marker, **own)
            by_gamma.loglog(gammas, arrays[f"{key}/half_predicted"], **plotting.THEORY)
        for seed in config.seeds:
            found = arrays[f"resnet/{rule}/{seed}"]
            found = found[np.isfinite(found)]
            label = f"ResNet, {names[rule]}" if seed == config.seeds[0] else None
            by_dim.plot(np.arange(1, len(found) + 1), found, f"{marker}-", **style, label=label)
    by_gamma.set(xlabel=r"$\gamma_j$", ylabel="step at which learned")
    by_gamma.set(ylim=(by_gamma.get_ylim()[0] / 10, None))
    by_gamma.legend(loc="lower left", fontsize=6)
    by_dim.set(yscale="log", xlabel="dimension", ylabel="step at which learned")
    by_dim.legend()
    plotting.label_panels(list(axes.ravel()))
    return fig
