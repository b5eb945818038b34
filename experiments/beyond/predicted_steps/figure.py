"""Figure of the experiment `predicted_steps`."""

from typing import Any

import numpy as np

from experiments.beyond.predicted_steps.claims import _later, _waits, best_constant
from experiments.beyond.predicted_steps.experiment import OUTPUTS, Config
from sslstep import plotting
from sslstep.experiment import Arrays, curves

COLORS = (*plotting.CATEGORIES[:2], "0.6")


def plot(config: Config, arrays: Arrays) -> Any:
    """Draw predicted against measured step times, next waits, and the kernel's eigenvalues."""
    fig, (ax_all, ax_next, ax_modes) = plotting.subplots(1, 3, figsize=(7.0, 2.5))
    seed = config.seeds[0]
    measured, times = arrays[f"{seed}/measured"], arrays[f"{seed}/snapshot_t"]
    learned = np.isfinite(measured)
    chosen = np.unique(np.linspace(0, len(times) - 2, 4).round().astype(int))
    markers = "osD^"  # of snapshots, and of predictions
    predicted = arrays[f"{seed}/unlearned/predicted"]
    for i, color, marker in zip(chosen, plotting.mode_colors(len(chosen)), markers, strict=False):
        # Leave out dimensions that were learned before the snapshot.
        shown = learned & (measured > times[i]) & np.isfinite(predicted[i])
        label = f"from t = {times[i]:.2g}"
        ax_all.loglog(
            measured[shown], predicted[i][shown], marker, color=color, markersize=4, label=label
        )
    if learned.any():
        span = [measured[learned].min() / 2, 2 * measured[learned].max()]
        ax_all.plot(span, span, **plotting.THEORY)
    ax_all.set(xlabel="measured step time", ylabel="predicted step time")
    ax_all.legend()
    every = {which: [_waits(arrays, other, which) for other in config.seeds] for which in OUTPUTS}
    constant = best_constant([_later(waits) for waits in every["unlearned"]])
    looks: list[tuple[str, str, float | None]]
    looks = [(f"NTK of {which} outputs", which, None) for which in OUTPUTS]
    looks += [(f"always {constant:.2g}", "unlearned", constant)]
    for (name, which, wait), color, marker in zip(looks, COLORS, markers, strict=False):
        for k, waits in enumerate(every[which]):
            predicted = waits.predicted if wait is None else np.full(len(waits.at), wait)
            # Show waits only if prediction and measurement are within the run.
            both = np.isfinite(predicted) & np.isfinite(waits.measured)
            ratio = np.full(len(waits.at), np.nan)
            np.divide(predicted, waits.measured, out=ratio, where=both)
            style: Any = {"markersize": 4, "color": color, "label": None if k else name}
            shown_at = np.maximum(waits.at, waits.at[1] / 3)
            ax_next.loglog(shown_at, ratio, marker + "-", **style)
    ax_next.axhline(1.0, **plotting.THEORY)
    ax_next.set(xlabel="from the network at $t$ (leftmost: 0)")
    ax_next.set(ylabel="next wait, predicted / measured", ylim=(ax_next.get_ylim()[0] / 10, None))
    ax_next.legend(loc="lower left")
    gammas = arrays[f"{seed}/all/gammas"]
    for j, color in enumerate(plotting.mode_colors(gammas.shape[1])):
        ax_modes.plot(np.maximum(times, times[1] / 3), gammas[:, j], ".-", color=color)
    ax_modes.set(xscale="log", yscale="log", xlabel="effective time $t$ (leftmost: 0)")
    plotting.mode_key(ax_modes, gammas.shape[1])
    ax_modes.set_ylabel(r"eigenvalues $\gamma_j$ of the NTK")
    shown = curves.seed_shown(config.seeds).removeprefix(", ")
    for ax, which in ((ax_all, shown), (ax_next, "all seeds" if shown else ""), (ax_modes, shown)):
        ax.set_title(which, fontsize=8)
    plotting.label_panels([ax_all, ax_next, ax_modes])
    return fig
