"""Figure of the experiment `byol`."""

from typing import Any

import numpy as np

from experiments.beyond.byol.experiment import METHODS, PREDICTORS, Config
from sslstep import plotting
from sslstep.experiment import Arrays, curves, training


def plot(config: Config, arrays: Arrays) -> Any:
    """Draw step times against α for both predictors, and spectra of the ResNets."""
    import matplotlib.pyplot as plt

    fig = plt.figure(figsize=(6.8, 4.8))
    halves: Any = fig.subfigures(2, 1)
    waits, spectra = halves[0].subplots(1, 2), halves[1].subplots(1, 4)
    scales = arrays["scales"]
    for ax, predictor in zip(waits, PREDICTORS, strict=True):
        here = [f"{predictor}/{scale:g}" for scale in config.scales]
        predicted, measured, random = (
            np.stack([arrays[f"{each}/{key}"] for each in here])
            for key in ("predicted", "step_times", "random")
        )
        small = predictor == "small"
        for j, color in enumerate(plotting.mode_colors(predicted.shape[1])):
            label = "predicted" if j == 0 else None
            style = {**plotting.THEORY, "color": color, "label": label}
            ax.plot(scales, predicted[:, j], **style)
            label = "aligned, each mode" if j == 0 else None
            ax.plot(scales, measured[:, j], "o", color=color, markersize=4, label=label)
        ax.plot(scales, random[:, :1], "s", color="0.3", fillstyle="none", label="random, first")
        ax.plot(scales, random[:, 1:], "s", color="0.3", fillstyle="none")
        ax.set_xscale("log")
        ax.set_yscale("log" if small else "linear")
        ax.set_xlabel(r"initial scale $\alpha$")
        ax.set_ylabel("step time")
        ax.set_title(f"linear, predictor {'as small' if small else 'of order one'}", fontsize=8)
    waits[0].legend()
    plotting.mode_key(list(waits), predicted.shape[1])
    for ax, method in zip(spectra, config.methods, strict=True):
        recipe = getattr(config, method)
        one = training.run_of(arrays, f"{method}/{config.seeds[0]}")
        t, values = one["record_t"], one[recipe.measured]
        plotting.eigenvalue_curves(ax, t, values)
        curves.step_marks(ax, curves.count(recipe, one))
        ax.set(xscale="log", yscale="log", xlim=(t[1], t[-1]), xlabel=r"effective time $t$")
        ax.set_ylim(bottom=max(1e-6, ax.get_ylim()[0]))
        ax.set_title(METHODS[method].replace(", ", ",\n"), fontsize=6, loc="right")
        ax.set_ylabel("eigenvalues ($C$)" if method == "barlow_twins" else "eigenvalues ($z$)")
    plotting.mode_key(spectra[-1], config.simsiam.dim)
    plotting.label_panels([*waits, *spectra])
    return fig
