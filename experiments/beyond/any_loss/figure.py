"""Figure of the experiment `any_loss`."""

from typing import Any

import numpy as np

from experiments.beyond.any_loss.claims import saddle_errors, step_errors
from experiments.beyond.any_loss.experiment import Config
from experiments.beyond.any_loss.losses import LOSSES
from sslstep import plotting
from sslstep.experiment import Arrays, panels


def plot(config: Config, arrays: Arrays) -> Any:
    """Draw eigenvalues and loss of the first seed for each loss, and errors of all seeds."""
    columns = 4
    blocks = -(-(len(config.losses) + 1) // columns)
    fig, axes = plotting.subplots(
        2 * blocks, columns, figsize=(7.2, 2.75 * blocks), height_ratios=[1.25, 1] * blocks
    )
    cells = axes.reshape(blocks, 2, columns).transpose(0, 2, 1).reshape(-1, 2)
    for i, name in enumerate(config.losses):
        upper, lower = cells[i]
        _plot_loss(upper, lower, name, arrays)
        if i % columns == 0:
            upper.set_ylabel(r"eigenvalues of $C$")
            lower.set_ylabel("loss")
    upper, lower = cells[len(config.losses)]
    for pair in cells[len(config.losses) + 1 :]:
        for ax in pair:
            ax.set_axis_off()
    _plot_errors(upper, config, arrays)
    lower.set_axis_off()
    lower.legend(*panels.legend_of(cells[0]), loc="center", fontsize=6)
    plotting.mode_key(lower, arrays[f"{name}/eigenvalues"].shape[-1])
    plotting.label_panels([*(pair[0] for pair in cells[: len(config.losses) + 1])])
    return fig


def _plot_loss(upper, lower, name, arrays) -> None:
    own = {
        key.partition("/")[2]: value[0]
        for key, value in arrays.items()
        if key.startswith(f"{name}/")
    }
    t = own["t"]
    plotting.mode_curves(
        upper, t, own["eigenvalues"], own["predicted_eigenvalues"], experiment="trained",
        theory="predicted",
    )  # fmt: skip
    upper.set_title(LOSSES[name].title, fontsize=6, loc="right")
    lower.plot(t, own["loss"], color=panels.BLUE, linewidth=1.8, label="trained")
    lower.plot(t, own["predicted_loss"], **plotting.THEORY, label="predicted")
    plotting.time_marks(lower, own["predicted_step_times"], label="predicted step times")
    for k, level in enumerate(own["levels"]):
        lower.axhline(
            level, color="0.6", linewidth=0.6, zorder=0,
            label="$k$ learned, at rest" if k == 0 else None,
        )  # fmt: skip
    for ax in (upper, lower):
        ax.set(xscale="log", xlim=(0.3 * own["step_times"][0], t[-1]))
        ax.tick_params(labelsize=6)
        ax.minorticks_off()
    upper.set_xticklabels([])
    lower.set_xlabel("$t$")


def _plot_errors(ax, config, arrays) -> None:
    """Draw the largest error of step times over dimensions, a point for each loss and seed."""
    rows = np.arange(len(config.losses))
    for y, name in enumerate(config.losses):
        saddle = np.nan_to_num(np.abs(saddle_errors(arrays, name))).max(axis=1)
        for values, marker, face, label in (
            (step_errors(arrays, name), "o", "black", "flow"),
            (saddle, "s", "white", "saddle to saddle"),
        ):
            ax.plot(
                100 * values, np.full(len(values), y), marker, color="black", mfc=face,
                markersize=3.5, label=label if y == 0 else None,
            )  # fmt: skip
    names = [LOSSES[name].title for name in config.losses]
    ax.set(xscale="log", yticks=rows, ylim=(len(rows) - 0.5, -2.2))
    ax.set_yticklabels(names, fontsize=5)
    ax.set_xlabel("error of step times (%)", fontsize=7)
    ax.tick_params(axis="x", labelsize=6)
    ax.legend(loc="upper left", fontsize=5, ncols=2, columnspacing=0.8, handletextpad=0.1)
