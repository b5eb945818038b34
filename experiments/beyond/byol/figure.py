"""Figure of the experiment `byol`."""

from typing import Any

import numpy as np

from experiments.beyond.byol.experiment import PREDICTORS, Config
from sslstep import plotting
from sslstep.experiment import Arrays


def plot(config: Config, arrays: Arrays) -> Any:
    """Draw step times against α, for both predictors."""
    import matplotlib.pyplot as plt

    fig, waits = plt.subplots(1, 2, figsize=(6.8, 2.6))
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
    plotting.label_panels(list(waits))
    return fig
