"""Figures of the experiment `fig5`."""

from typing import Any

from experiments.fig5.experiment import Config
from sslstep import plotting
from sslstep.experiment import Arrays, curves, training
from sslstep.recipes import LABELS


def plot(config: Config, arrays: Arrays) -> Any:
    """Draw loss and eigenvalues of z and h in a row for each method, for the first seed."""
    rows = len(config.methods)
    fig, axes = plotting.subplots(rows, 3, figsize=(6.8, 0.4 + 1.65 * rows), squeeze=False)
    for method, (ax_loss, ax_modes, ax_hidden) in zip(config.methods, axes, strict=True):
        recipe = config.recipes.of(method)
        one = training.run_of(arrays, f"{method}/{config.seeds[0]}")
        t, eigenvalues = one["record_t"], one[recipe.measured]
        ax_loss.plot(one["t"], one["loss"], color="0.3", linewidth=0.6, label="training loss")
        curves.plateaus(ax_loss, recipe)
        counted = curves.count(recipe, one)
        plotting.eigenvalue_curves(ax_modes, t, eigenvalues)
        plotting.eigenvalue_curves(ax_hidden, t, one["hidden"][:, : 2 * recipe.dim])
        for ax in (ax_loss, ax_modes, ax_hidden):
            ax.set(xscale="log", xlim=(t[1], t[-1]))
            curves.step_marks(ax, counted)
        which = "$C$" if recipe.measured == "correlation" else "$z$"
        ax_loss.set_ylabel(f"{LABELS[method]}{curves.seed_shown(config.seeds)}\nloss")
        ax_modes.set_ylabel(f"eigenvalues ({which})")
        ax_hidden.set_ylabel("eigenvalues ($h$)")
    for ax in axes[-1]:
        ax.set_xlabel(r"effective time $t$")
    handles, labels = axes[0, 0].get_legend_handles_labels()
    fig.legend(handles, labels, loc="outside upper center", ncols=len(labels))
    key = "eigenvalue, from the largest"
    plotting.mode_key(list(axes[:, 1]), eigenvalues.shape[1], label=key)
    plotting.mode_key(list(axes[:, 2]), 2 * recipe.dim, label=key)
    plotting.label_panels(list(axes.ravel()))
    return fig
