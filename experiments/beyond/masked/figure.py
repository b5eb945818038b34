"""Figure of the experiment `masked`."""

from typing import Any

from experiments.beyond.masked.experiment import Config
from sslstep import plotting
from sslstep.experiment import Arrays, curves


def plot(config: Config, arrays: Arrays) -> Any:
    """Draw learned singular values from an aligned start, and eigenvalues from a random start."""
    import matplotlib.pyplot as plt

    fig, axes = plt.subplots(1, 2, figsize=(6.8, 2.6))
    aligned, random = axes
    here = f"linear/{config.scales[-1]:g}"
    t, learned, predicted = (arrays[f"{here}/{key}"] for key in ("t", "learned", "curves"))
    plotting.mode_curves(aligned, t, learned, predicted)
    aligned.set_ylabel("what a mode has learned")
    aligned.set_title("linear, aligned", fontsize=8)
    aligned.legend(loc="lower right")
    plotting.eigenvalue_curves(random, arrays["linear/t"], arrays["linear/hidden"])
    random.set_ylabel("eigenvalues ($h$)")
    random.set_yscale("log")
    random.set_title(f"linear, random{curves.seed_shown(config.seeds)}", fontsize=8)
    for ax in axes:
        ax.set_xlabel(r"effective time $t$")
    plotting.label_panels(list(axes))
    return fig
