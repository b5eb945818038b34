"""Figure of the experiment `masked`."""

from typing import Any

from experiments.beyond.masked.claims import rises_of
from experiments.beyond.masked.experiment import STARTS, Config
from sslstep import plotting
from sslstep.experiment import Arrays, curves


def plot(config: Config, arrays: Arrays) -> Any:
    """Draw the linear model from an aligned and a random start, and the network from both."""
    fig, axes = plotting.subplots(2, 2, figsize=(6.8, 4.8))
    aligned, random = axes[0]
    here = f"linear/{config.scales[-1]:g}"
    t, learned, predicted = (arrays[f"{here}/{key}"] for key in ("t", "learned", "curves"))
    plotting.mode_curves(aligned, t, learned, predicted)
    aligned.set_ylabel("what a mode has learned")
    aligned.set_title("linear, aligned", fontsize=8)
    aligned.set_ylim(top=1.3)
    aligned.legend(loc="upper center", ncols=2)
    plotting.eigenvalue_curves(random, arrays["linear/t"], arrays["linear/hidden"])
    random.set_ylabel("eigenvalues ($h$)")
    random.set_yscale("log")
    random.set_title(f"linear, random{curves.seed_shown(config.seeds)}", fontsize=8)
    seed, shown = config.seeds[0], 2 * config.dim
    for ax, start in zip(axes[1], STARTS, strict=True):
        t, hidden = (arrays[f"{start}/{seed}/{key}"] for key in ("record_t", "hidden"))
        plotting.eigenvalue_curves(ax, t, hidden[:, :shown])
        for time in rises_of(arrays, start, seed).middle[:shown]:
            if 0 < time < t[-1]:
                ax.axvline(float(time), color="0.5", linestyle=":", linewidth=0.6, zorder=0)
        ax.set(xscale="log", yscale="log", xlim=(t[1], t[-1]), ylabel="eigenvalues ($h$)")
        ax.set_title(f"network, {start} start{curves.seed_shown(config.seeds)}", fontsize=8)
    for ax in axes.ravel():
        ax.set_xlabel(r"effective time $t$")
    plotting.mode_key(list(axes[1]), shown, label="eigenvalue, from the largest")
    plotting.label_panels(list(axes.ravel()))
    return fig
