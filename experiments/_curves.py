"""What the experiments on ResNets count in their spectra, and how they draw them."""

from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import scipy.stats

from experiments._recipes import BarlowTwins, Recipe, VICReg
from experiments._run import Arrays
from sslstep import landscape, plotting
from sslstep.measure import steps

if TYPE_CHECKING:
    from matplotlib.axes import Axes

FAINT: dict[str, Any] = {**plotting.THEORY, "color": "0.7", "linewidth": 0.5, "zorder": 0}


class Counted(NamedTuple):
    """The steps of one run."""

    plateau: float  # what a learned eigenvalue is about
    rises: steps.Rises
    learned: int
    alone: int


def count(recipe: Recipe, run: Arrays) -> Counted:
    """Which dimensions of the embedding rise, and when.

    Barlow Twins' eigenvalues rise to 1. Those of other losses have no level known beforehand: there
    it is the median of the eigenvalues above the widest gap at the end.
    """
    t, eigenvalues = run["record_t"], run[recipe.measured]
    plateau = 1.0
    if recipe.measured == "covariance":
        gap = steps.widest_gap(eigenvalues[-1])
        plateau = float(np.median(eigenvalues[-1][: gap.learned]))
    rises = steps.Rises(*(np.asarray(part) for part in steps.rises(t, eigenvalues, plateau)))
    learned, alone = np.isfinite(rises.middle), steps.isolated(rises)
    return Counted(plateau, rises, int(learned.sum()), int(alone.sum()))


def simultaneity(counted: Counted) -> steps.Significance:
    """The test of simultaneous growth; nothing is rejected where fewer than two rose."""
    if np.isfinite(counted.rises.end).sum() < 2:
        return steps.Significance(0.0, 1.0)
    return steps.simultaneity_test(counted.rises)


def coincidence(run: Arrays, num: int = 60) -> steps.Significance:
    """Whether embeddings and hidden representations grow at the same times, per unit of log t."""
    t = run["record_t"]
    places = np.linspace(np.log(t[1]), np.log(t[-1]), num + 1)
    # Dimensions that are rounding only have no rate of growth.
    embeddings, hidden = (
        np.maximum(run[name][1:], 1e-12 * run[name][1:].max(axis=1, keepdims=True))
        for name in ("covariance", "hidden")
    )
    return steps.coincidence_test(
        steps.growth_rate(np.log(t[1:]), embeddings, places),
        steps.growth_rate(np.log(t[1:]), hidden, places),
    )


def rank_correlation(a: np.ndarray, b: np.ndarray) -> float:
    """Spearman's; 0 where one of the two is constant."""
    if np.ptp(a) == 0 or np.ptp(b) == 0:
        return 0.0
    return float(scipy.stats.spearmanr(a, b).statistic)


def amid_plateaus(t: np.ndarray, rises: steps.Rises) -> np.ndarray:
    """Records halfway between one rise and the next, where none is under way."""
    learned = np.isfinite(rises.middle)
    order = np.argsort(rises.begin[learned])
    begin, end = rises.begin[learned][order], rises.end[learned][order]
    done = np.maximum.accumulate(end)
    gaps = [(a, b) for a, b in zip(done[:-1], begin[1:], strict=True) if a < b]
    return np.asarray([int(np.argmin(np.abs(t - (a + b) / 2))) for a, b in gaps], int)


def simplified_loss(eigenvalues: np.ndarray) -> np.ndarray:
    """Barlow Twins with λ = 1 on the fixed pairs: the sum of (1 - λ_j)²."""
    return np.sum((1 - eigenvalues) ** 2, axis=-1)


def resting_losses(recipe: Recipe) -> tuple[str, np.ndarray] | None:
    """Where the loss rests while k = 0...d dimensions are learned, and what to call it.

    Barlow Twins with λ = 1: d - k (Eq. 14). VICReg: :func:`sslstep.landscape.vicreg_plateau`.
    SimCLR has no such levels.
    """
    k = np.arange(recipe.dim + 1)
    if isinstance(recipe, BarlowTwins) and recipe.off_diagonal == 1 and not recipe.batch_norm:
        return "theory: $d - k$", recipe.dim - k
    if isinstance(recipe, VICReg):
        weights = {"variance": recipe.variance, "covariance": recipe.covariance}
        return "theory", np.asarray(landscape.vicreg_plateau(k, recipe.dim, **weights).loss)
    return None


def plateaus(ax: "Axes", recipe: Recipe) -> None:
    """Where theory has the loss rest."""
    found = resting_losses(recipe)
    if found is None:
        return
    name, levels = found
    for k, level in enumerate(levels):
        if k % max(1, recipe.dim // 16) == 0:
            ax.axhline(level, **FAINT, label=name if k == 0 else None)


def eigenvalue_curves(ax: "Axes", t: np.ndarray, eigenvalues: np.ndarray) -> None:
    """One curve for each, on a logarithmic scale of at most eight decades."""
    for j, color in enumerate(plotting.mode_colors(eigenvalues.shape[1])):
        curve = np.where(eigenvalues[:, j] > 0, eigenvalues[:, j], np.nan)
        ax.plot(t, curve, color=color, linewidth=0.8)
    ax.set_yscale("log")
    top = float(eigenvalues.max())
    ax.set_ylim(max(float(eigenvalues[-1].min()), 1e-7 * top, 1e-300) / 2, 3 * top)


def step_marks(ax: "Axes", counted: Counted) -> None:
    """When dimensions of the embedding are learned."""
    for time in counted.rises.middle[np.isfinite(counted.rises.middle)]:
        ax.axvline(float(time), color="0.5", linestyle=":", linewidth=0.6, zorder=0)
