"""Figure of the experiment `two_towers`."""

from typing import Any

import numpy as np

from experiments.beyond.two_towers.experiment import Config
from sslstep import plotting
from sslstep.experiment import Arrays, panels


def plot(config: Config, arrays: Arrays) -> Any:
    """Draw loss and eigenvalues of the first pair of networks, and retrieval ranks of all pairs."""
    fig, (loss, eigenvalues, ranks) = plotting.subplots(
        3, 1, figsize=(4.0, 6.2), height_ratios=(2.2, 3, 2.2)
    )
    t, blue = arrays["t"][0], plotting.CATEGORIES[0]
    measured, predicted = arrays["trained_curves"][0], arrays["predicted_curves"][0]
    loss.plot(t, ((1 - measured) ** 2).sum(1), color=blue, linewidth=2.2, label="trained")
    loss.plot(t, ((1 - predicted) ** 2).sum(1), **plotting.THEORY, label="predicted")
    loss.set(ylabel=r"loss $\mathcal{L}$")
    loss.legend(loc="upper right")
    t, measured, predicted = t[1:], measured[1:], predicted[1:]
    plotting.mode_curves(
        eigenvalues, t, measured, predicted, experiment="trained", theory="predicted"
    )
    eigenvalues.set(ylabel=r"eigenvalues of $C$", ylim=(-0.05, 1.15))
    left = 0.3 * arrays["predicted_step_times"][0, 0]
    for ax in (loss, eigenvalues):
        ax.set(xscale="log", xlim=(max(left, t[1]), t[-1]))
    eigenvalues.set_xlabel(panels.TIME)
    grid = np.linspace(0, 1, 201)
    below = {
        name: (arrays[f"{name}_ranks"].ravel()[None] <= grid[:, None]).mean(axis=1)
        for name in ("trained", "predicted", "untrained")
    }
    ranks.plot(grid, below["trained"], color=blue, linewidth=2.2, label="trained")
    ranks.plot(grid, below["predicted"], **plotting.THEORY, label="predicted")
    ranks.plot(grid, below["untrained"], ":", color="grey", label="before training")
    ranks.plot([0, 1], [0, 1], color="0.7", linewidth=0.6, zorder=0, label="chance")
    ranks.set(xlabel="rank of the other view, 0 best", ylabel="fraction of\nheld-out images")
    ranks.legend(loc="lower right")
    plotting.label_panels((loss, eigenvalues, ranks))
    return fig
