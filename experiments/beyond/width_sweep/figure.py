"""Figure of the experiment `width_sweep`."""

from typing import Any

import numpy as np

from experiments.beyond.width_sweep.experiment import PARAMETERIZATIONS, Config
from sslstep import plotting
from sslstep.experiment import Arrays, panels


def plot(config: Config, arrays: Arrays) -> Any:
    """Draw distances against width, the curves of two networks, and the closed form's error."""
    fig, axes = plotting.subplots(2, 3, figsize=(7.0, 4.4))
    top, bottom = axes.tolist()
    first = top[0]
    for ax in top[1:]:
        ax.sharey(first)
    titles = ("embeddings, relative", r"eigenvalues of $C$, largest", "step times, relative")
    for ax, title, measures in zip(top, titles, ((0, 1), (2,), (3,)), strict=True):
        _plot_distances(ax, config, arrays, measures)
        ax.set(xlabel="width", xscale="log", yscale="log")
        ax.set_title(title, fontsize=7, loc="right")
    low = 10 ** np.floor(np.log10(arrays["distances"].mean(axis=2).min()))
    first.set(ylabel="distance from prediction", ylim=(low, 1.2))
    first.plot([], [], "D", color="grey", markersize=4, label="training pairs")
    first.plot([], [], "D", color="grey", mfc="white", markersize=4, label="held-out pairs")
    for ax, name, width in ((bottom[0], "narrow", 0), (bottom[1], "wide", -1)):
        t, curves, predicted = (arrays[f"{name}_{x}"] for x in ("t", "curves", "predicted"))
        texts = {"experiment": "trained", "theory": "predicted"}
        plotting.mode_curves(ax, t[1:], curves[1:], predicted[1:], **texts)
        ax.set(xlabel="effective time $t$", ylabel=r"eigenvalues of $C$")
        if config.loss == "barlow_twins":
            ax.set(ylim=(-0.05, 1.35))
        else:
            ax.set(ylabel=r"eigenvalues of $C$ / predicted end")
        ax.set(xscale="log", xlim=(t[1], t[-1]), title=f"width {arrays['widths'][width]}")
    plotting.mode_key(bottom[:2], curves.shape[1])
    legend = panels.legend_of((first, top[2], bottom[0]))
    fig.legend(*legend, loc="outside lower center", ncols=4)
    if "closed_form" in arrays:
        _plot_closed_form(bottom[2], arrays)
    else:
        bottom.pop().set_axis_off()
    plotting.label_panels([*top, *bottom])
    return fig


def _plot_closed_form(ax, arrays) -> None:
    scales, measured, first_order = arrays["closed_form"].T
    ax.plot(scales, measured, "o", color=plotting.CATEGORIES[2], label="Eq. 42")
    ax.plot(scales, first_order, **plotting.THEORY, label="what it leaves out")
    ax.set(xscale="log", yscale="log", xlabel=r"init scale $\alpha$")
    ax.set(ylabel="distance from gradient flow")
    ax.set_title("closed form, infinite width", fontsize=7, loc="right")
    ax.legend(loc="lower right")


def _plot_distances(ax, config, arrays, measures) -> None:
    """Draw distances from the infinite-width prediction against width, and a line ∝ width^-1/2.

    `measures` are indices of the last axis of `distances`; index 1, the held-out pairs, is hollow.
    The line passes through the geometric mean of the distances at widths of at least `fit_from`.
    """
    widths = arrays["widths"]
    fitted = widths >= config.fit_from
    for p, name in enumerate(PARAMETERIZATIONS):
        color = plotting.CATEGORIES[p]
        for i in measures:
            style: Any = {"fmt": "os"[p], "color": color, "mfc": "white" if i == 1 else color}
            label = name if len(measures) == 1 else None
            beside = widths * (1 + 0.08 * p)
            panels.means(ax, beside, arrays["distances"][p, :, :, i], **style, label=label)
    left = 0.8 * widths[0]
    if not fitted.all():
        middle = (widths[~fitted][-1] * widths[fitted][0]) ** 0.5
        ax.axvspan(left, middle, color="0.92", linewidth=0, zorder=0, label="not fitted")
    ax.set_xlim(left, 1.3 * widths[-1])
    values = arrays["distances"][:, fitted][..., measures]
    x = widths[fitted].astype(float)
    middle = np.exp(np.log(values).mean()) * np.exp(np.log(x).mean()) ** 0.5
    label = r"$\propto$ width$^{-1/2}$" if len(measures) == 1 else None
    ax.plot(x, middle * x**-0.5, **plotting.THEORY, label=label, zorder=5)
