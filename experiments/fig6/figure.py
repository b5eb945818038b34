"""Figures of the experiment `fig6`."""

from typing import Any

import numpy as np

from experiments.fig6.experiment import Config
from sslstep import plotting
from sslstep.experiment import Arrays


def plot(config: Config, arrays: Arrays) -> Any:
    """Draw the elements of A in three panels: on, above and below the diagonal."""
    t, dim, size = arrays["t"], config.dim, config.num_features
    blue, red, green = plotting.CATEGORIES[:3]
    panels = [
        (red, [(j, j) for j in range(dim)], r"$|s_j(t)|$"),
        (blue, [(j, k) for j in range(dim) for k in range(j + 1, size)], r"$|a_{jk}(t)|$, $j<k$"),
        (green, [(j, k) for j in range(dim) for k in range(j)], r"$|a_{jk}(t)|$, $j>k$"),
    ]
    fig, axes = plotting.subplots(1, 3, figsize=(7.0, 3.0), sharey=True)
    dotted = {"color": "black", "linestyle": ":", "linewidth": 1.4}
    early = {**dotted, "color": "0.65"}
    sizes = np.abs(np.diagonal(arrays["full"], 0, 1, 2))
    learned = t[np.argmax(sizes > 0.9 * sizes[-1], axis=0)]
    axes[0].set(ylim=(config.init_scale * 1e-6, 20), yscale="log")
    for ax, (color, pairs, title) in zip(axes, panels, strict=True):
        for j, k in pairs:
            ax.semilogy(t, np.abs(arrays["full"][:, j, k]), color=color, alpha=0.9, linewidth=2)
            if j <= k:
                ax.semilogy(t, np.abs(arrays["paper"][:, j, k]), **plotting.THEORY)
            if j != k and max(j, k) < dim:
                second = np.abs(arrays["coupled"][:, j, k])
                valid = t >= learned[min(j, k)]
                ax.semilogy(t[~valid], second[~valid], **early)
                ax.semilogy(t[valid], second[valid], **dotted)
        names = [f"$s_{j + 1}$" if j == k else f"$a_{{{j + 1}{k + 1}}}$" for j, k in pairs]
        ends = np.array([abs(arrays["full"][-1, j, k]) for j, k in pairs])
        plotting.end_labels(ax, t[-1], ends, names)
        ax.set(xlabel=r"time $t$", title=title)
    axes[0].set_ylabel("size of the element")
    axes[1].plot([], [], color="grey", linewidth=2, label="full dynamics (Eq. 45)")
    axes[1].plot([], [], **plotting.THEORY, label="Eqs. 47, 48")
    axes[1].plot([], [], **dotted, label="with the second stage")
    axes[1].plot([], [], **early, label="the same before it is valid:\nneither mode is learned")
    axes[1].legend(loc="lower right", fontsize=6)
    plotting.label_panels(axes)
    return fig
