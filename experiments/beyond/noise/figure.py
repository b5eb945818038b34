"""Figure of the experiment `noise`."""

from typing import Any

import numpy as np

from experiments.beyond.noise.claims import accuracy_at_count
from experiments.beyond.noise.experiment import Config, kept
from sslstep import plotting
from sslstep.experiment import Arrays


def plot(config: Config, arrays: Arrays) -> Any:
    """Draw C_jj, eigenvalues, the edge of the noise, and accuracies, for each number of pairs."""
    fig, axes = plotting.subplots(2, 2, figsize=(6.8, 5.0))
    (correlation, spectrum), (noise, accuracy) = axes
    j, numbers = np.arange(1, config.num_modes + 1), np.array(config.num_pairs)
    counts = np.maximum(kept(arrays["predicted_correlations"]), 1)
    for i, (num, color) in enumerate(zip(numbers, plotting.mode_colors(len(numbers)), strict=True)):
        for ax, name in ((correlation, "correlations"), (spectrum, "eigenvalues")):
            for one in arrays[name][:, i]:
                ax.plot(j, one, color=color, linewidth=0.7, alpha=0.6)
            ax.plot(j, arrays[f"predicted_{name}"][i], **{**plotting.THEORY, "color": color})
        label = f"$n$ = {num:,}"
        mean = arrays["accuracies"][:, i].mean(axis=0)
        accuracy.plot(arrays["dims"], 100 * mean, color=color, label=label)
        chosen = accuracy_at_count(arrays)[:, i].mean()
        accuracy.plot(counts[i], 100 * chosen, "o", color=color, markersize=5)
    correlation.axhline(0.5, color="0.6", linewidth=0.7, zorder=0)
    correlation.set(ylabel="$C_{jj}$ in the population", ylim=(-0.05, 1.15))
    population = np.maximum(arrays["gammas"][: config.num_modes], 0)
    spectrum.plot(j, population, color="0.5", linestyle=":", label="population")
    spectrum.set(yscale="log", ylabel=r"eigenvalues of $\Gamma$")
    spectrum.plot([], [], color="0.3", linewidth=0.7, label="samples, each seed")
    spectrum.plot([], [], **{**plotting.THEORY, "color": "0.3"}, label="predicted")
    spectrum.legend(fontsize=6)
    for ax in (correlation, spectrum, accuracy):
        ax.set(xscale="log", xlabel="dimension $j$" if ax is not accuracy else "dimensions probed")
    for one in arrays["edges"]:
        noise.loglog(numbers, one, "o", color=plotting.CATEGORIES[0], markersize=3)
    noise.loglog(numbers, arrays["predicted_edges"], **plotting.THEORY, label="predicted")
    noise.plot([], [], "o", color=plotting.CATEGORIES[0], markersize=3, label="each seed")
    noise.set(xlabel="pairs $n$", ylabel=r"largest eigenvalue of noise")
    noise.legend(fontsize=6)
    accuracy.plot([], [], "o", color="0.3", markersize=5, label="predicted $d$")
    accuracy.set_ylabel("accuracy of the probe (%)")
    accuracy.legend(fontsize=6)
    plotting.label_panels(list(axes.ravel()))
    return fig
