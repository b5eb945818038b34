"""Figure of the experiment `ntk_evolution`."""

from typing import Any

import numpy as np

from experiments.beyond.ntk_evolution.experiment import Config
from sslstep import plotting
from sslstep.experiment import Arrays, panels
from sslstep.ntk import fluctuations

THEORIES: tuple[dict[str, Any], ...] = (plotting.THEORY, {**plotting.THEORY, "linestyle": ":"})


def plot(config: Config, arrays: Arrays) -> Any:
    """Draw three rates at initialisation, and eigenvalues, movement, predictions after training."""
    from matplotlib.ticker import LogLocator

    fig, axes = plotting.subplots(2, 3, figsize=(7.2, 5.0))
    (distance, gamma, angle), (spectra, movement, learned) = axes
    widths = arrays["widths"]
    for ax in (distance, gamma, angle, movement, learned):
        ax.set(xscale="log", yscale="log", xlabel="width", xlim=(0.7 * widths[0], 1.4 * widths[-1]))
        ax.set_xticks(widths[:: max(1, len(widths) // 3)])
        ax.xaxis.set_major_formatter("{x:.0f}")
        ax.minorticks_off()
    rates = (
        (distance, "distance", arrays["distance_rate"], -0.5),
        (gamma, "deviation", arrays["rate_gamma"] ** 0.5, -0.5),
        (angle, "misalignment", arrays["rate_misalignment"], -1.0),
    )
    for ax, name, rate, power in rates:
        _plot_rate(ax, arrays, name, rate, power)
        ax.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
        ax.yaxis.set_major_formatter("{x:g}")
    distance.set(ylabel=r"$\|\Theta-K\|_F\,/\,\|K\|_F$, rms", title="kernel at initialisation")
    gamma.set(ylabel=r"$\gamma_j(\Theta)\,/\,\gamma_j(K)-1$, rms")
    gamma.set(title=f"its first {config.dim} eigenvalues")
    angle.set(ylabel="misalignment $1-a$, mean", title="embedding it predicts")
    distance.legend(loc="lower left")
    _plot_spectra(spectra, arrays)
    _plot_movement(movement, arrays)
    _plot_learned(learned, arrays)
    plotting.label_panels(axes.flat)
    return fig


def _plot_rate(ax, arrays, name, rates, power) -> None:
    """Draw a deviation of both kinds of NTK against the width, with theory."""
    widths = arrays["widths"].astype(float)
    # Theory gives the mean square of distances and deviations, and the mean of misalignments.
    rms = name != "misalignment"
    for k, kind in enumerate(fluctuations.KINDS):
        color = plotting.CATEGORIES[k]
        style: Any = {"color": color, "mfc": "white" if k else color, "fmt": "os"[k]}
        beside = widths * (1 + 0.05 * k)
        panels.means(ax, beside, arrays[name][..., k], rms=rms, **style, label=f"{kind} NTK")
        ax.plot(widths, rates[k] * widths**power, **THEORIES[k], label=f"{kind}, theory", zorder=0)


def _plot_spectra(ax, arrays) -> None:
    """Draw eigenvalues of NTKs before and after training."""
    blue, red, *_ = plotting.CATEGORIES
    j = np.arange(1, len(arrays["gammas"]) + 1)
    unit = arrays["gammas"][0]
    narrow, wide = arrays["initial_gammas"][[0, -1], :, 1].mean(axis=1) / unit
    low, high = arrays["widths"][[0, -1]]
    looks = (
        (arrays["small_gammas"][-1].mean(0) / unit, "^", red, red, 4, f"small, trained, {high}"),
        (narrow, "s", blue, "white", 5, f"initial, {low}"),
        (wide, "o", blue, blue, 2.5, f"initial, {high}"),
        (arrays["lazy_gammas"][-1].mean(0) / unit, "x", "0.3", "0.3", 6, f"lazy, trained, {high}"),
    )
    for values, marker, color, face, size, label in looks:
        ax.plot(j, values, marker, color=color, mfc=face, markersize=size, label=label)
    ax.plot(j, arrays["gammas"] / unit, **plotting.THEORY, label="infinite width")
    ax.set(yscale="log", xlabel="mode $j$", title="eigenvalues, trace NTK")
    ax.set(ylabel=r"$\gamma_j\,/\,\gamma_1(K)$", xticks=j[1::2])
    panels.make_room(ax, above=0.75)
    ax.legend(loc="upper right", fontsize=6, labelspacing=0.25)


def _plot_movement(ax, arrays) -> None:
    """Draw the kernel's movement in training against the width."""
    blue, red, green, orange, _ = plotting.CATEGORIES
    lazy = arrays["lazy_movement"]
    looks = (
        (arrays["small_movement"], "^", red, red, "small weights"),
        (lazy[..., 2], "o", blue, blue, "lazy"),
        (lazy[..., 0], "s", green, "white", "its part by hidden weights"),
        (lazy[..., 1], "v", orange, "white", "its part by output weights"),
    )
    theory = arrays["lazy_theory"][..., 0].mean(axis=1) ** 0.5
    _plot_series(ax, arrays, looks, theory, "theory, hidden weights", rms=True)
    ax.set(ylabel=r"$\|\Theta_T-\Theta_0\|_F\,/\,\|\Theta_0\|_F$, rms", title="training moves it")
    panels.make_room(ax, above=0.55)
    ax.legend(loc="upper right", fontsize=6, labelspacing=0.25)


def _plot_learned(ax, arrays) -> None:
    """Draw misalignments of learned and predicted embeddings against the width."""
    blue, red, *_ = plotting.CATEGORIES
    small, lazy = (arrays[f"{name}_misalignment"] for name in ("small", "lazy"))
    looks = (
        (small[..., 0], "v", red, "white", "small, initial NTK"),
        (small[..., 1], "^", red, red, "small, final NTK"),
        (lazy[..., 0], "o", blue, "white", "lazy, initial NTK"),
        (lazy[..., 2], "x", blue, blue, "lazy, infinite width"),
    )
    floor = arrays["lazy_floor"].mean(axis=1)
    _plot_series(ax, arrays, looks, floor, "theory, lazy: descent of $K$", rms=False)
    ax.set(ylabel="misalignment $1-a$, mean", title="learned and predicted")
    panels.make_room(ax, below=0.75)
    ax.legend(loc="lower left", fontsize=6, labelspacing=0.25)


def _plot_series(ax, arrays, looks, theory, label, *, rms: bool) -> None:
    """Draw means against the width, a series for each look, and a line of theory."""
    widths = arrays["widths"].astype(float)
    for values, marker, color, face, name in looks:
        panels.means(ax, widths, values, rms=rms, fmt=marker, color=color, mfc=face, label=name)
    ax.plot(widths, theory, **plotting.THEORY, label=label)
