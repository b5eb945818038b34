"""Figure of the experiment `infinite_width`."""

from typing import Any

import numpy as np

from experiments.beyond.infinite_width.claims import network_step_times
from experiments.beyond.infinite_width.config import Config, dims
from sslstep import plotting
from sslstep.experiment import Arrays, panels
from sslstep.measure import probe


def plot(config: Config, arrays: Arrays) -> Any:
    """Draw spectra, step times, and accuracies against dimension d and time t."""
    fig, ((spectra, times), (by_dim, by_time)) = plotting.subplots(2, 2, figsize=(7.0, 5.4))
    blue, _, green, *_ = plotting.CATEGORIES
    j = np.arange(1, config.num_modes + 1)
    for name, color, marker in (("mlp", blue, "o"), ("cnn", green, "s")):
        label = name.upper()
        style: Any = {"color": color, "markersize": 2.2, "linewidth": 0.8}
        spectra.loglog(j, arrays[f"{name}_gammas"], f"{marker}-", **style, label=label)
        spectra.loglog(j, arrays[f"{name}_principal_gammas"], ":", **style)
    spectra.plot([], [], ":", color="0.4", linewidth=0.8, label=r"of $\tilde K / 2n$")
    spectra.set(xlabel="mode $j$", ylabel=r"eigenvalue $\gamma_j$ of $K_\Gamma$")
    spectra.legend(loc="lower left")
    _plot_times(config, arrays, times)
    _plot_by_dim(config, arrays, by_dim)
    _plot_by_time(config, arrays, by_time)
    plotting.label_panels((spectra, times, by_dim, by_time))
    return fig


_LAZY: tuple[dict[str, Any], ...] = (
    {"color": plotting.CATEGORIES[1], "marker": "D"},
    {"color": plotting.CATEGORIES[0], "marker": "o"},
    {"color": plotting.CATEGORIES[4], "marker": "v"},
)


def _plot_times(config, arrays, ax) -> None:
    """Draw measured and predicted step times of each mode."""
    from matplotlib.ticker import LogLocator, NullFormatter

    if not config.laziness:
        j = np.arange(1, config.num_modes + 1)
        ax.loglog(j, arrays["mlp_step_times"], **plotting.THEORY, label="MLP")
        ax.loglog(j, arrays["cnn_step_times"], color=plotting.CATEGORIES[2], label="CNN")
    else:
        j = np.arange(1, config.dim + 1)
        for laziness, style in zip(config.laziness, _LAZY, strict=False):
            measured = network_step_times(arrays, laziness).mean(axis=0)
            label = f"network, $a = {laziness:g}$"
            ax.semilogy(j, measured, **style, linestyle="none", markersize=4, label=label)
        expected = arrays["predicted_step_times"].mean(axis=0)
        ax.semilogy(j, expected, **plotting.THEORY, label="infinite width")
        ax.set_xticks(j)
        ax.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
        ax.yaxis.set_major_formatter("{x:g}")
        ax.yaxis.set_minor_formatter(NullFormatter())
    ax.set(xlabel="mode $j$", ylabel=r"step time $\tau_j$ (learning rate $\times$ steps)")
    ax.legend(loc="lower right")


def _plot_by_dim(config, arrays, ax) -> None:
    """Draw probe accuracies against the number of dimensions."""
    d, (_, _, green, orange, _) = dims(config), plotting.CATEGORIES
    unequal = config.cnn_images != config.num_images
    for name, color, size in (
        ("mlp", "black", config.num_images),
        ("cnn", green, config.cnn_images),
    ):
        n = f", $n = {size}$" if unequal else ""
        dashed: Any = {**plotting.THEORY, "color": color, "label": f"{name.upper()}, SSL{n}"}
        ax.plot(d, _percent(arrays[f"{name}_correct"]), **dashed)
        dotted: Any = {"linestyle": ":", "linewidth": 1.0, "color": color}
        dotted["label"] = f"{name.upper()}, kernel PCA{n}"
        ax.plot(d, _percent(arrays[f"{name}_principal_correct"]), **dotted)
    random = _percent(arrays["random_correct"].mean(axis=0))
    ax.plot(d, random, color=orange, label="untrained network")
    for laziness, look in zip(config.laziness, _LAZY, strict=False):
        measured = float(arrays[f"network_{laziness:g}_correct"].mean())
        error = 100 * float(probe.standard_error(measured, int(arrays["num_test"])))
        label = f"network, $a = {laziness:g}$"
        ax.errorbar(
            [config.dim], [100 * measured], error, **look, markersize=4, label=label, zorder=5
        )
    chance = 100 * float(arrays["chance"])
    ax.axhline(chance, color="0.6", linewidth=0.7, zorder=0)
    ax.annotate("chance", (1, chance), va="bottom", fontsize=6, color="0.4")
    ax.set(xscale="log", xlabel="dimensions $d$ probed", ylabel="test accuracy (%)")
    ax.set(ylim=(0.6 * chance, None))
    ax.legend(loc="lower right", fontsize=6, labelspacing=0.25, frameon=True, edgecolor="none")


def _percent(correct: np.ndarray) -> np.ndarray:
    """Return the accuracy in percent from correctness of test samples in the last axis."""
    return 100 * correct.mean(axis=-1)


def _plot_by_time(config, arrays, ax) -> None:
    """Draw probe accuracies along training; hide the panel if no networks were trained."""
    if not config.laziness:
        ax.set_axis_off()
        return
    t = arrays["t"]
    tau = arrays["predicted_step_times"].mean(axis=0)
    plotting.time_marks(ax, tau, label=r"predicted $\tau_j$")
    for laziness, look in zip(config.laziness, _LAZY, strict=False):
        accuracy = 100 * arrays[f"network_{laziness:g}_accuracy"].mean(axis=0)
        ax.plot(t, accuracy, color=look["color"], label=f"network, $a = {laziness:g}$")
    expected = 100 * arrays["predicted_kernel_accuracy"].mean(axis=0)
    ax.plot(t, expected, **plotting.THEORY, label="infinite width")
    ax.set(xscale="log", xlim=(0.3 * tau[0], t[-1]), xlabel=panels.TIME, ylabel="test accuracy (%)")
    ax.legend(loc="upper left", frameon=True, framealpha=1, edgecolor="none")
