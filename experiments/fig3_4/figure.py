"""Figures of the experiment `fig3_4`."""

from typing import Any

import numpy as np

from experiments.fig3_4.claims import LEVEL, _one_mode, spectra
from experiments.fig3_4.experiment import Config
from sslstep import plotting
from sslstep.experiment import Arrays, curves
from sslstep.measure import steps
from sslstep.recipes import LABELS

GAP = "widest gap of a spectrum with two bands"


def plot(config: Config, arrays: Arrays) -> Any:
    """Draw Figures 3 and 4 of the first seed."""
    return {"figure": _traces(config, arrays), "histograms": _histograms(config, arrays)}


def _traces(config: Config, arrays: Arrays) -> Any:
    """Draw Figure 3: eigenvalues against effective time, for each method."""
    columns = len(config.methods)
    fig, axes = plotting.subplots(1, columns, figsize=(0.4 + 2.2 * columns, 2.5), squeeze=False)
    for method, ax in zip(config.methods, axes[0], strict=True):
        t, eigenvalues = spectra(config, method, config.seeds[0], arrays)
        plotting.eigenvalue_curves(ax, t, eigenvalues)
        low, high = np.array([_gap(row) for row in eigenvalues[1:]]).T
        ax.fill_between(t[1:], low, high, color="0.85", linewidth=0, zorder=0, label=GAP)
        ax.set(xscale="log", xlim=(t[1], t[-1]), xlabel=r"effective time $t$")
        ax.set_title(LABELS[method] + curves.seed_shown(config.seeds), fontsize=8)
    axes[0, 0].set_ylabel("eigenvalues of embeddings")
    fig.legend(*axes[0, 0].get_legend_handles_labels(), loc="outside lower center")
    plotting.mode_key(list(axes[0]), eigenvalues.shape[1], label="eigenvalue, from the largest")
    plotting.label_panels(list(axes[0]))
    return fig


def _histograms(config: Config, arrays: Arrays) -> Any:
    """Draw Figure 4: histograms of eigenvalues at five times, for each method."""
    from matplotlib.ticker import MaxNLocator

    columns, rows = len(config.methods), 5
    fig, axes = plotting.subplots(
        rows, columns, figsize=(0.4 + 2.2 * columns, 4.8), squeeze=False, sharex="col"
    )
    for column, method in enumerate(config.methods):
        t, eigenvalues = spectra(config, method, config.seeds[0], arrays)
        top = float(eigenvalues.max())
        least = max(1e-9 * top, float(eigenvalues[eigenvalues > 0].min()))
        edges = np.geomspace(least, top, 41)
        later = [np.argmin(np.abs(np.log(t[1:] / at))) for at in np.geomspace(t[1], t[-1], rows)]
        for ax, i in zip(axes[:, column], [0, *(1 + int(k) for k in later[1:])], strict=True):
            ax.hist(eigenvalues[i], edges, color=plotting.CATEGORIES[0])
            ax.axvspan(*_gap(eigenvalues[i]), color="0.85", linewidth=0, zorder=0, label=GAP)
            ax.set_xscale("log")
            ax.yaxis.set_major_locator(MaxNLocator(3, integer=True))
            told = f"$t$ = {t[i]:.3g}, $p$ = {_one_mode(eigenvalues[i]):.1g}"
            if off := int(np.sum(eigenvalues[i] < least)):
                note = f"{off} not positive"
                ax.margins(y=0.35)  # room for it above the bars
                ax.annotate(note, (0.01, 0.85), xycoords="axes fraction", fontsize=6)
            ax.set_title(told, loc="right", fontsize=7, pad=2)
        title = LABELS[method] + curves.seed_shown(config.seeds)
        axes[0, column].set_title(title, loc="left", fontsize=8)
        axes[-1, column].set_xlabel("eigenvalue")
    axes[rows // 2, 0].set_ylabel("number of eigenvalues")
    fig.legend(*axes[-1, 0].get_legend_handles_labels(), loc="outside lower center")
    return fig


def _gap(row: np.ndarray) -> tuple[float, float]:
    """Return the ends of a spectrum's widest gap; NaN if a single band is not rejected."""
    if _one_mode(row) >= LEVEL:
        return np.nan, np.nan
    gap = steps.widest_gap(row)
    return gap.threshold / gap.ratio**0.5, gap.threshold * gap.ratio**0.5
