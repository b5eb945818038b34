"""The figure, drawn from the arrays of a run."""

from typing import Any

import numpy as np

from experiments.beyond.dose.claims import BASELINES, THEORY, delays, factors
from experiments.beyond.dose.experiment import Config
from sslstep import plotting
from sslstep.experiment import Arrays, curves


def plot(config: Config, arrays: Arrays) -> Any:
    """Eigenvalues from two starts, delays against the dose, and measured against predicted."""
    import matplotlib.pyplot as plt

    fig, axes = plt.subplots(2, 2, figsize=(6.8, 5.0))
    seed, num = config.seeds[0], config.num_steps_compared
    colors = plotting.mode_colors(num)
    for ax, scale in zip(axes[0], (config.scales[0], config.scales[-1]), strict=True):
        t, values = (arrays[f"{seed}/{scale:g}/{key}"] for key in ("record_t", "correlation"))
        plotting.eigenvalue_curves(ax, t, values[:, : 2 * num])
        ax.set_title(f"last layer times {scale:.3g}{curves.seed_shown(config.seeds)}", fontsize=8)
        ax.set_xlabel(r"effective time $t$")
        ax.set_ylabel("eigenvalues of $C$")
    plotting.mode_key(axes[0, 1], 2 * num)
    amounts = np.log(config.scales[0] / np.asarray(config.scales[1:]))
    found = {each: delays(config, arrays, each) for each in config.seeds}
    for k, color in enumerate(colors):
        one = found[seed]
        axes[1, 0].plot(amounts, one["measured"][:, k], "o", color=color, label=f"step {k + 1}")
        axes[1, 0].plot(amounts, one[THEORY[0]][:, k], **{**plotting.THEORY, "color": color})
    axes[1, 0].set_xlabel("ln(1 / r)")
    axes[1, 0].set_ylabel("delay of the step")
    axes[1, 0].set_title("dashed: predicted" + curves.seed_shown(config.seeds), fontsize=8)
    axes[1, 0].legend()
    ax = axes[1, 1]
    scores = [factors(one, amounts) for one in found.values()]
    for name, color, marker in zip(THEORY, plotting.CATEGORIES, "os", strict=False):
        predicted, measured = (
            np.concatenate([np.ravel(one[key]) for one in found.values()])
            for key in (name, "measured")
        )
        off = 2 ** np.mean([score[name] for score in scores])
        ax.loglog(
            predicted, measured, marker, color=color, markersize=4, fillstyle="none",
            label=f"{name}: off by {off:.2f}",
        )  # fmt: skip
    for name in BASELINES:
        off = 2 ** np.mean([score[name] for score in scores])
        ax.plot([], [], " ", label=f"{name}: off by {off:.2f}")
    known = measured[measured > 0]
    if len(known):
        span = [known.min() / 1.5, 1.5 * known.max()]
        ax.plot(span, span, **plotting.THEORY)
    ax.set_xlabel("predicted delay")
    ax.set_ylabel("measured delay, all seeds")
    ax.legend()
    plotting.label_panels(list(axes.ravel()))
    return fig
