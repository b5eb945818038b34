"""Figure of the experiment `dose`."""

from typing import Any

import numpy as np

from experiments.beyond.dose.claims import BASELINES, THEORY, delays, scored, small
from experiments.beyond.dose.experiment import Config
from sslstep import plotting
from sslstep.experiment import Arrays
from sslstep.recipes import LABELS


def plot(config: Config, arrays: Arrays) -> Any:
    """Draw eigenvalues, delays against ln(1/r), and measured against predicted delays."""
    num = len(config.methods)
    fig, axes = plotting.subplots(num, 3, figsize=(7.2, 2.3 * num), squeeze=False)
    for row, method in zip(axes, config.methods, strict=True):
        _draw_eigenvalues(row[0], config, arrays, method)
        _draw_delays(row[1], config, arrays, method)
        _draw_errors(row[2], config, arrays, method)
        row[0].set_ylabel(f"{LABELS[method]}\neigenvalues of $C$")
    for ax, label in zip(
        axes[-1], ("effective time $t$", "$\\ln(1/r)$", "predicted delay"), strict=True
    ):
        ax.set_xlabel(label)
    for ax, title in zip(axes[0], (*2 * [f"seed {config.seeds[0]}"], "all seeds"), strict=True):
        ax.set_title(title, fontsize=8)
    plotting.label_panels(list(axes.ravel()))
    return fig


def _draw_eigenvalues(ax: Any, config: Config, arrays: Arrays, method: str) -> None:
    """Draw the eigenvalues from the smallest start, and faintly those from the largest."""
    shown = 2 * config.num_steps_compared
    ends = []
    for scale in (config.scales[0], config.scales[-1]):
        run = f"{method}/{config.seeds[0]}/{scale:g}"
        t, values = (arrays[f"{run}/{key}"] for key in ("record_t", "correlation"))
        plotting.eigenvalue_curves(ax, t, values[:, :shown])
        ends.append(t[-1])
    for line in ax.lines[:shown]:
        line.set_alpha(0.3)
    ax.set_xlim(0, max(ends))
    plotting.mode_key(ax, shown)


def _draw_delays(ax: Any, config: Config, arrays: Arrays, method: str) -> None:
    """Draw the delay of each step against ln(1/r), with both predictions."""
    run = f"{method}/{config.seeds[0]}"
    amounts = np.log(config.scales[0] / np.asarray(config.scales[1:]))
    near = small(config.scales)
    from_first, from_near = (delays(config, arrays, run, each) for each in (config.scales, near))
    count = len(near) - 1
    for k, color in enumerate(plotting.mode_colors(config.num_steps_compared)):
        measured = from_first["measured"][:, k]
        label = f"step {k + 1}" if np.isfinite(measured).any() else None
        ax.plot(amounts, measured, "o", markersize=3, color=color, label=label)
        ax.plot(amounts, from_first[THEORY[0]][:, k], **{**plotting.THEORY, "color": color})
        # The delay of the largest of the small starts, to which the others' are added.
        begin = measured[-count - 1] if len(amounts) > count else 0.0
        line = begin + np.concatenate([[0.0], from_near[THEORY[0]][:, k]])
        ax.plot(np.log(config.scales[0] / np.asarray(near)), line, "-", linewidth=1, color=color)
    ax.set_ylabel("delay of the step")
    if np.isfinite(from_first["measured"]).any():
        ax.legend(fontsize=6)


def _draw_errors(ax: Any, config: Config, arrays: Arrays, method: str) -> None:
    """Draw measured against predicted delays of all seeds, from the largest and small starts."""
    spans: list[np.ndarray] = []
    compared = (("from the largest", config.scales), ("small starts", small(config.scales)))
    for (which, scales), color, marker in zip(compared, plotting.CATEGORIES, "os", strict=False):
        found, scores = scored(config, arrays, method, scales)
        off = [2 ** np.mean([score[name] for score in scores]) for name in (THEORY[0], *BASELINES)]
        predicted, measured = (
            np.concatenate([np.ravel(one[key]) for one in found]) for key in (THEORY[0], "measured")
        )
        told = f"off by {off[0]:.2f}\n(steps alike {off[1]:.2f}, waits {off[2]:.2f})"
        if negative := int(np.sum(measured <= 0)):
            told = f"{negative} not positive, not shown"
        style: Any = {"color": color, "markersize": 3, "fillstyle": "none"}
        style["label"] = f"{which}: {told}"
        ax.loglog(predicted, measured, marker, **style)
        spans.append(measured[measured > 0])
    known = np.concatenate(spans)
    if len(known):
        span = np.array([known.min() / 1.5, 1.5 * known.max()])
        ax.plot(span, span, **plotting.THEORY)
        # Room for the legend above the points.
        ax.set_ylim(span[0], span[1] * (span[1] / span[0]) ** 0.5)
    ax.set_ylabel("measured delay")
    ax.legend(fontsize=5, loc="upper left")
