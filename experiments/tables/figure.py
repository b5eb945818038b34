"""Figures of the experiment `tables`."""

from typing import Any

import numpy as np

from experiments.tables import claims
from experiments.tables.experiment import Config
from sslstep import plotting
from sslstep.experiment import Arrays, training
from sslstep.recipes import LABELS


def plot(config: Config, arrays: Arrays) -> Any:
    """Draw Table 1 as bars, alignment and kernel along training, and held-out pairs."""
    fig, axes = plotting.subplots(2, 2, figsize=(6.8, 4.8))
    (ax_bars, ax_along), (ax_moved, ax_held) = axes
    width = 0.8 / len(claims.BARS)
    for k, (key, label, hatch) in enumerate(claims.BARS):
        values = [claims.values(config, arrays, method, key) for method in config.methods]
        at = np.arange(len(values)) + (k - (len(claims.BARS) - 1) / 2) * width
        ax_bars.bar(
            at, np.mean(values, axis=1), width, label=label, hatch=hatch,
            color=f"{0.95 - 0.2 * k}", edgecolor="0.2", linewidth=0.6,
        )  # fmt: skip
        dots = ax_bars.plot(at, values, "o", color="black", markersize=2)
        dots[0].set_label("of one seed" if k == 0 and len(config.seeds) > 1 else None)
        if k < 2:
            of_paper = [claims.PAPER_TABLE_1[method][k] for method in config.methods]
            name = "the paper's (ResNet-50, $d = 50$)" if k == 0 else None
            ax_bars.plot(at, of_paper, "kD", markersize=3.5, markerfacecolor="w", label=name)
    ax_bars.set_xticks(range(len(config.methods)), [LABELS[m] for m in config.methods])
    ax_bars.set(ylim=(0, 1), ylabel="subspace alignment")
    ax_bars.legend(loc="lower center", bbox_to_anchor=(0.5, 1.08), ncols=2, fontsize=6)
    styles = ("o-", "s--", "D:")
    for method, color, style in zip(config.methods, plotting.CATEGORIES, styles, strict=False):
        for seed in config.seeds:
            one = training.run_of(arrays, f"{method}/{seed}")
            name = LABELS[method] if seed == config.seeds[0] else None
            settings = {"color": color, "markersize": 3, "linewidth": 1, "label": name}
            t = np.maximum(one["snapshot_t"], one["snapshot_t"][1] / 3)
            ax_along.semilogx(t, one["along"], style, **settings)
            ax_moved.semilogx(t, one["cosine"], style, **settings)
            ax_held.semilogx(one["numbers"], one["held out"], style, base=2, **settings)
    for ax in (ax_along, ax_moved):
        ax.set(xlabel="effective time $t$ (leftmost: 0)", ylim=(0, 1.05))
    ax_along.set_ylabel("alignment by the NTK of $t$")
    ax_moved.set_ylabel("cosine of NTK($t$) and final NTK")
    ax_held.set(xlabel="pairs $n$ that predict", ylabel="alignment on held-out pairs")
    ax_held.set(ylim=(0, 1.05))
    numbers = arrays[f"{config.methods[0]}/{config.seeds[0]}/numbers"]
    ax_held.set_xticks(numbers, [str(n) for n in numbers], minor=False)
    ax_held.minorticks_off()
    ax_along.legend(loc="upper left", fontsize=7)
    panels = [ax_bars, ax_along, ax_moved, ax_held]
    if len(numbers) == 1:  # there is no trend
        panels.pop().remove()
    plotting.label_panels(panels)
    return fig
