"""The figure, drawn from the arrays of a run."""

from typing import Any

import numpy as np

from experiments.beyond.sketch.claims import error_of_keys
from experiments.beyond.sketch.experiment import Config
from sslstep import plotting
from sslstep.experiment import Arrays
from sslstep.measure import alignment


def plot(config: Config, arrays: Arrays) -> Any:
    """Draw the error of γ and the alignment against p, and the spectra."""
    fig, (error, aligned, spectra) = plotting.subplots(1, 3, figsize=(7.0, 2.5))
    features, mode = np.array(config.features), np.arange(1, config.num_modes + 1)
    many, few = plotting.CATEGORIES[:2]
    error.loglog(features, error_of_keys(arrays), "o", color=few, markersize=2.5)
    error.loglog(features, (2 / features) ** 0.5, **plotting.THEORY, label=r"$(2/p)^{1/2}$")
    error.set_ylabel(r"rms relative error of $\gamma_j$")
    error.legend()
    aligned.semilogx(features, arrays["alignment"], "o", color=few, markersize=2.5)
    chance = alignment.chance_level(config.num_modes, 2 * config.num_exact)
    aligned.axhline(chance, color="grey", linestyle=":", label="chance")
    aligned.set(ylim=(0, 1.02), ylabel="alignment with exact modes")
    aligned.legend(loc="center right")
    for ax in (error, aligned):
        ax.set_xlabel("features $p$")
        ax.set_xticks(features, [str(p) for p in features])
        ax.minorticks_off()
    error.set_yticks([0.02, 0.05, 0.1, 0.2], ["0.02", "0.05", "0.1", "0.2"])
    for gammas, style, key in zip(arrays["gammas"], ("-", "--"), (1, 2), strict=True):
        label = f"{config.num_pairs:,} pairs, key {key}"
        spectra.loglog(mode, gammas, style, color=many, linewidth=1, label=label)
    label = f"{config.num_exact:,} pairs, exact"
    spectra.loglog(
        mode, arrays["exact_gammas"], "o", color=few, markersize=3, fillstyle="none", label=label
    )
    spectra.set(xlabel="mode $j$", ylabel=r"$\gamma_j$")
    spectra.legend(fontsize=6)
    plotting.label_panels([error, aligned, spectra])
    return fig
