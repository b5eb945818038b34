"""Figure of the experiment `dose`."""

from typing import Any

import numpy as np

from experiments.beyond.dose.claims import BASELINES, THEORY, delays, factors
from experiments.beyond.dose.experiment import Config
from sslstep import plotting
from sslstep.experiment import Arrays, curves

SHOWN = (THEORY[0], "measured")


def plot(config: Config, arrays: Arrays) -> Any:
    """Draw eigenvalues from two starts, delays against ln(1/r), and measured against predicted."""
    fig, axes = plotting.subplots(2, 2, figsize=(6.8, 5.0))
    seed, num = config.seeds[0], config.num_steps_compared
    colors = plotting.mode_colors(num)
    for ax, scale in zip(axes[0], (config.scales[0], config.scales[-1]), strict=True):
        t, values = (arrays[f"{seed}/{scale:g}/{key}"] for key in ("record_t", "correlation"))
        plotting.eigenvalue_curves(ax, t, values[:, : 2 * num])
        ax.set_title(f"last layer times {scale:.3g}{curves.seed_shown(config.seeds)}", fontsize=8)
        ax.set(xlabel=r"effective time $t$", ylabel="eigenvalues of $C$")
    plotting.mode_key(axes[0, 1], 2 * num)
    for k, color in enumerate(colors):
        one = delays(config, arrays, seed, config.scales)
        amounts = np.log(config.scales[0] / np.asarray(config.scales[1:]))
        axes[1, 0].plot(amounts, one["measured"][:, k], "o", color=color, label=f"step {k + 1}")
        axes[1, 0].plot(amounts, one[THEORY[0]][:, k], **{**plotting.THEORY, "color": color})
        # From the second smallest start, whose kernel is close to that of the smallest.
        near = delays(config, arrays, seed, config.scales[-2:])[THEORY[0]][-1, k]
        start = one["measured"][-2, k] if len(amounts) > 1 else 0.0
        ends = amounts[-1] - np.log(config.scales[-2] / config.scales[-1]), amounts[-1]
        axes[1, 0].plot(ends, [start, start + near], "-", color=color)
    axes[1, 0].set(xlabel="ln(1 / r), from the largest start", ylabel="delay of the step")
    axes[1, 0].set_title(f"predicted: dashed, solid{curves.seed_shown(config.seeds)}", fontsize=8)
    axes[1, 0].legend()
    ax = axes[1, 1]
    compared = (("largest start", config.scales), ("two smallest", config.scales[-2:]))
    spans: list[np.ndarray] = []
    for (which, scales), color in zip(compared, plotting.CATEGORIES, strict=False):
        found = [delays(config, arrays, each, scales) for each in config.seeds]
        scores = [factors(one, np.log(scales[0] / np.asarray(scales[1:]))) for one in found]
        off = [2 ** np.mean([score[name] for score in scores]) for name in (THEORY[0], *BASELINES)]
        label = f"{which}: off by {off[0]:.2f}; steps alike {off[1]:.2f}, waits alike {off[2]:.2f}"
        parts = (np.concatenate([np.ravel(one[key]) for one in found]) for key in SHOWN)
        predicted, measured = parts
        style: Any = {"color": color, "markersize": 4, "fillstyle": "none", "label": label}
        ax.loglog(predicted, measured, "o", **style)
        spans.append(measured[measured > 0])
    known = np.concatenate(spans)
    if len(known):
        span = [known.min() / 1.5, 1.5 * known.max()]
        ax.plot(span, span, **plotting.THEORY)
    ax.set(xlabel="predicted delay", ylabel="measured delay, all seeds")
    ax.legend(fontsize=5)
    plotting.label_panels(list(axes.ravel()))
    return fig
