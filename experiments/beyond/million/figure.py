"""Figure of the experiment `million`."""

from typing import Any

import numpy as np

from experiments.beyond.million.experiment import Config
from sslstep import plotting
from sslstep.experiment import Arrays


def plot(config: Config, arrays: Arrays) -> Any:
    """Draw spectra with bounds, their relative widths and errors, step times, and accuracy."""
    fig, ((spectra, widths), (times, accuracy)) = plotting.subplots(2, 2, figsize=(6.8, 4.8))
    mode = np.arange(1, config.num_modes + 1)
    many, few, other = plotting.CATEGORIES[:3]
    label = f"{config.num_pairs:,} pairs"
    exact, lower, upper = (arrays[name] for name in ("exact_gammas", "check_lower", "check_upper"))
    spectra.fill_between(mode, arrays["lower"], arrays["upper"], color=many, alpha=0.4)
    middle = (arrays["lower"] + arrays["upper"]) / 2
    spectra.loglog(mode, middle, color=many, linewidth=1, label=label)
    spectra.loglog(
        mode, exact, "o", color=few, markersize=2.5, fillstyle="none",
        label=f"{config.num_exact:,} pairs, exact",
    )  # fmt: skip
    spectra.set_ylabel(r"$\gamma_j$")
    spectra.legend()
    widths.semilogy(
        mode, arrays["upper"] / arrays["lower"] - 1, color=many, label=f"{label}: bounds"
    )
    check = f"{config.num_exact:,} pairs"
    widths.semilogy(mode, upper / lower - 1, color=few, label=f"{check}: bounds")
    error = np.abs((lower + upper) / 2 / exact - 1)
    widths.semilogy(mode, error, ".", color=few, markersize=3, label=f"{check}: error")
    widths.axhline(config.tol, **plotting.THEORY)
    widths.annotate("wanted", (1, config.tol), (0, 2), textcoords="offset points", fontsize=7)
    widths.set_ylabel("relative to γ")
    widths.legend(loc="lower right")
    times.plot(mode, arrays["step_times"], "o", color=many, markersize=2.5)
    times.set(yscale="log", ylabel=r"step time $\tau_j$")
    accuracy.semilogx(
        arrays["dims"], arrays["correct"].mean(axis=1), "o-", color=many, markersize=3
    )
    for name, value, color in (
        ("probe on pixels", arrays["pixels_correct"].mean(), other),
        ("largest class", arrays["chance"], "grey"),
    ):
        accuracy.axhline(value, color=color, linestyle=":", label=name)
    accuracy.set(xlabel="modes in the embedding", ylabel="test accuracy")
    accuracy.legend(loc="center right")
    for ax in (spectra, widths, times):
        ax.set_xlabel("mode $j$")
    plotting.label_panels([spectra, widths, times, accuracy])
    return fig
