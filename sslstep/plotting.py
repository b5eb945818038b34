r"""The style of all figures, and drawing functions that figures share.

Experiment is solid; theory is dashed or dotted, and darker. The two can therefore be distinguished
without colour. Colours are safe for colour-blind readers: viridis for ordered modes, the palette of
Okabe and Ito for categories. matplotlib is imported when a function is called.
"""

import string
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from jax.typing import ArrayLike

from sslstep import _extras

_extras.require("matplotlib", by="sslstep.plotting", extra="plot")

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

__all__ = [
    "CATEGORIES",
    "THEORY",
    "eigenvalue_curves",
    "end_labels",
    "label_panels",
    "mode_colors",
    "mode_curves",
    "mode_key",
    "save",
    "style",
    "subplots",
    "time_marks",
]

#: Colour-blind safe colours for categories (Okabe and Ito, 2008): blue, vermilion, green, orange,
#: purple.
CATEGORIES = ("#0072B2", "#D55E00", "#009E73", "#E69F00", "#CC79A7")

#: Line style of theory: dashed and black, drawn over measured curves.
THEORY: dict[str, Any] = {"color": "black", "linestyle": (0, (4, 2)), "linewidth": 1.0}

# Viridis is used up to here. The colours of more modes than _MANY are spaced logarithmically.
_LIGHTEST, _MANY = 0.85, 24


@contextmanager
def style() -> Iterator[None]:
    """Apply the figure style within a ``with`` block: sizes for a printed column, embedded fonts.

    Example:
        >>> from sslstep import plotting
        >>> import matplotlib.pyplot as plt
        >>> with plotting.style():
        ...     fig, ax = plt.subplots()
    """
    import matplotlib as mpl

    settings: Any = {
        "font.size": 8,
        "axes.labelsize": 8,
        "axes.titlesize": 8,
        "xtick.labelsize": 7,
        "ytick.labelsize": 7,
        "legend.fontsize": 7,
        "legend.frameon": False,
        "lines.linewidth": 1.3,
        "axes.linewidth": 0.6,
        "axes.spines.top": False,
        "axes.spines.right": False,
        "figure.dpi": 150,
        "savefig.dpi": 300,
        "figure.constrained_layout.use": True,
        "pdf.fonttype": 42,  # fonts as text, not as outlines
        "mathtext.fontset": "dejavusans",
    }
    with mpl.rc_context(settings):
        yield


def subplots(rows: int = 1, columns: int = 1, **settings: Any) -> tuple["Figure", Any]:
    """Make a figure with a grid of panels by ``matplotlib.pyplot.subplots``.

    Args:
        rows: number of rows of panels.
        columns: number of columns of panels.
        **settings: further arguments of ``matplotlib.pyplot.subplots``.

    Returns:
        The figure, and its panel or array of panels.

    Example:
        >>> from sslstep import plotting
        >>> fig, (left, right) = plotting.subplots(1, 2, figsize=(6, 3))
    """
    import matplotlib.pyplot as plt

    return plt.subplots(rows, columns, **settings)


def mode_colors(num: int) -> np.ndarray:
    """Return colours for modes 1...num: viridis from dark to light, without its lightest end.

    Colours of more than 24 modes change with the logarithm of the number, because the first few
    modes would otherwise have one colour.

    Args:
        num: number of modes.

    Returns:
        RGBA values, shape ``(num, 4)``.

    Example:
        >>> from sslstep import plotting
        >>> plotting.mode_colors(10).shape
        (10, 4)
    """
    import matplotlib as mpl

    at = np.linspace(0, 1, num) if num <= _MANY else np.log(np.arange(1, num + 1)) / np.log(num)
    return mpl.colormaps["viridis"](_LIGHTEST * at)


def mode_key(axes: Any, num: int, *, label: str = "mode $j$") -> None:
    """Draw the key of :func:`mode_colors`: a narrow colour bar beside the axes, from 1 to num.

    Args:
        axes: panel, or list of panels, beside which the bar is drawn.
        num: number of modes.
        label: label of the bar.
    """
    import matplotlib as mpl
    import matplotlib.pyplot as plt

    colors = mpl.colors.ListedColormap(mode_colors(num))
    norm: Any = mpl.colors.BoundaryNorm(np.arange(num + 1) + 0.5, num)
    ticks = np.unique(np.linspace(1, num, min(num, 5)).round())
    if num > _MANY:
        colors = mpl.colors.ListedColormap(mpl.colormaps["viridis"](np.linspace(0, _LIGHTEST, 256)))
        norm = mpl.colors.LogNorm(1, num)
        ticks = np.unique(np.geomspace(1, num, 5).round())
    fig = np.ravel(np.asarray(axes, object))[0].figure
    bar = fig.colorbar(
        plt.cm.ScalarMappable(norm, colors), ax=axes, label=label, aspect=40, pad=0.01,
        ticks=ticks, format="%d",
    )  # fmt: skip
    bar.minorticks_off()
    bar.outline.set_visible(False)
    bar.ax.tick_params(which="both", length=0)


def mode_curves(
    ax: "Axes",
    t: ArrayLike,
    measured: ArrayLike,
    predicted: ArrayLike,
    *,
    experiment: str = "experiment",
    theory: str = "theory",
) -> None:
    """Draw two curves for each mode: measured solid, predicted dashed, darker and on top.

    Args:
        ax: panel to draw in.
        t: effective times of T records, shape ``(T,)``.
        measured: measured values of d modes, shape ``(T, d)``.
        predicted: predicted values, shape ``(T, d)``.
        experiment: legend entry of the measured curves.
        theory: legend entry of the predicted curves.
    """
    measured, predicted = np.asarray(measured), np.asarray(predicted)
    for j, color in enumerate(mode_colors(measured.shape[1])):
        ax.plot(t, measured[:, j], color=color, linewidth=2.2, label=experiment if j == 0 else None)
        dark = (*0.4 * color[:3], 1.0)
        ax.plot(t, predicted[:, j], **{**THEORY, "color": dark}, label=theory if j == 0 else None)


def eigenvalue_curves(ax: "Axes", t: ArrayLike, eigenvalues: ArrayLike) -> None:
    """Draw one curve for each eigenvalue, on a logarithmic scale of about eight decades at most.

    Args:
        ax: panel to draw in.
        t: times of T records, shape ``(T,)``.
        eigenvalues: d eigenvalues of each record, shape ``(T, d)``. Values that are not positive
            are left out.
    """
    values = np.asarray(eigenvalues, float)
    for j, color in enumerate(mode_colors(values.shape[1])):
        curve = np.where(values[:, j] > 0, values[:, j], np.nan)
        ax.plot(t, curve, color=color, linewidth=0.8)
    ax.set_yscale("log")
    top, least = float(values.max()), float(values[values > 0].min(initial=np.inf))
    ends = values[[0, -1]]
    low = max(float(ends[ends > 0].min(initial=top)), 1e-8 * top, min(least, top))
    if low > 0:
        ax.set_ylim(low / 2, 3 * top)


def time_marks(ax: "Axes", times: ArrayLike, *, label: str) -> None:
    """Draw vertical dashed lines at predicted times, behind the curves.

    Args:
        ax: panel to draw in.
        times: predicted times, shape ``(d,)``; infinite times are left out.
        label: legend entry of the lines.
    """
    times = np.asarray(times)
    mark = {**THEORY, "linewidth": 0.7}
    for j, time in enumerate(times[np.isfinite(times)]):
        ax.axvline(float(time), **mark, zorder=0, label=label if j == 0 else None)


def end_labels(
    ax: "Axes", x: ArrayLike, values: ArrayLike, names: Sequence[str], *, gap: float = 6.0
) -> None:
    """Write the names of curves at their right ends, moved apart where they would overlap.

    Args:
        ax: panel to draw in, with its final scale and limits.
        x: abscissa of the curves' ends.
        values: ordinate of each curve's end.
        names: name of each curve, in the order of ``values``.
        gap: smallest vertical distance between two names, in points.
    """
    end, values = float(np.asarray(x)), np.asarray(values, float)
    heights = np.log10(values) if ax.get_yscale() == "log" else values
    low, high = np.log10(ax.get_ylim()) if ax.get_yscale() == "log" else ax.get_ylim()
    points = ax.get_window_extent().height * 72 / ax.figure.dpi / (high - low)
    bottom = -np.inf
    for i in np.argsort(values):
        height = max(heights[i] * points, bottom + gap)
        bottom = height
        ax.annotate(
            names[i],
            (end, values[i]),
            xytext=(3, height - heights[i] * points),
            textcoords="offset points",
            fontsize=6,
            va="center",
        )


def label_panels(axes: Iterable["Axes"]) -> None:
    """Write the letters A, B, C, ... above the top left corner of each panel.

    Args:
        axes: panels in reading order; panels after the 26th get no letter.
    """
    for letter, ax in zip(string.ascii_uppercase, axes, strict=False):
        ax.set_title(letter, loc="left", fontweight="bold", fontsize=9)


def save(fig: "Figure", folder: str | Path, name: str = "figure") -> list[Path]:
    """Write a figure as ``.png`` (300 dpi) and ``.pdf`` (vector), and close it.

    Args:
        fig: the figure.
        folder: existing folder to write to.
        name: name of the files without ending.
    """
    import matplotlib.pyplot as plt

    paths = [Path(folder) / f"{name}.{ending}" for ending in ("png", "pdf")]
    for path in paths:
        fig.savefig(path, bbox_inches="tight")
    plt.close(fig)
    return paths
