"""What the experiments on ResNets count in their spectra, and how they draw them."""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import scipy.stats

from experiments._recipes import Recipe
from experiments._run import Arrays
from sslstep import plotting
from sslstep.measure import steps

if TYPE_CHECKING:
    from matplotlib.axes import Axes

FAINT: dict[str, Any] = {**plotting.THEORY, "color": "0.7", "linewidth": 0.5, "zorder": 0}


class Counted(NamedTuple):
    """The steps of one run."""

    plateaus: np.ndarray  # what each eigenvalue is about once it is learned
    rises: steps.Rises
    learned: int
    alone: int


def count(recipe: Recipe, run: Arrays) -> Counted:
    """Which dimensions of the embedding rise, and when: from 0.1 to 0.7 of their plateau.

    Not to 0.9, as eigenvalues that are learned still differ by a fifth.
    """
    t, eigenvalues = run["record_t"], run[recipe.measured]
    plateaus = recipe.plateaus(eigenvalues)
    rises = steps.Rises(
        *(np.asarray(part) for part in steps.rises(t, eigenvalues, plateaus, high=0.7))
    )
    learned, alone = np.isfinite(rises.middle), steps.isolated(rises)
    return Counted(plateaus, rises, int(learned.sum()), int(alone.sum()))


def seed_shown(seeds: Sequence[int]) -> str:
    """Which seed a figure shows of several, to be set after a title."""
    return f", seed {seeds[0]}" if len(seeds) > 1 else ""


def learned_along(recipe: Recipe, run: Arrays) -> np.ndarray:
    """How many dimensions have been learned by each record."""
    middle = count(recipe, run).rises.middle
    found: np.ndarray = (run["record_t"][:, None] >= middle[None, :]).sum(axis=1)
    return found


def simultaneity(counted: Counted) -> steps.Significance:
    """The test of simultaneous growth; nothing is rejected where fewer than two rose.

    Dimensions that start near their plateau have no rise.
    """
    begin, middle, end = counted.rises
    rose = np.isfinite(end) & (end > begin)
    if rose.sum() < 2:
        return steps.Significance(0.0, 1.0)
    return steps.simultaneity_test(steps.Rises(begin[rose], middle[rose], end[rose]))


def coincidence(recipe: Recipe, run: Arrays, num: int = 60) -> steps.Significance:
    """Whether embeddings and hidden representations grow at the same times, per unit of log t."""
    t = run["record_t"]
    places = np.linspace(np.log(t[1]), np.log(t[-1]), num + 1)
    rates = []
    for name in ("covariance", "hidden"):
        leading = run[name][1:, : 2 * recipe.dim]
        # What is rounding has no rate of growth of its own.
        clipped = np.maximum(leading, 1e-10 * leading.max())
        rates.append(steps.growth_rate(np.log(t[1:]), clipped, places))
    if min(np.ptp(rate) for rate in rates) == 0:
        return steps.Significance(0.0, 1.0)
    return steps.coincidence_test(*rates)


def rank_correlation(a: np.ndarray, b: np.ndarray) -> float:
    """Spearman's; 0 where one of the two is constant."""
    if np.ptp(a) == 0 or np.ptp(b) == 0:
        return 0.0
    return float(scipy.stats.spearmanr(a, b).statistic)


def gaps(rises: steps.Rises) -> list[tuple[int, float, float]]:
    """Between rises, while none is under way: how many are learned, from when, and until when."""
    learned = np.isfinite(rises.middle)
    order = np.argsort(rises.begin[learned])
    begin, end = rises.begin[learned][order], rises.end[learned][order]
    done = np.maximum.accumulate(end)
    pairs = enumerate(zip(done[:-1], begin[1:], strict=True), start=1)
    return [(k, float(a), float(b)) for k, (a, b) in pairs if a < b]


def resting_loss_errors(recipe: Recipe, run: Arrays, counted: Counted) -> list[float]:
    """How far the training loss, its median over each gap, is from where theory has it rest."""
    levels = recipe.resting_losses()
    if levels is None:
        return []
    out = []
    for k, start, stop in gaps(counted.rises):
        there = run["loss"][(run["t"] > start) & (run["t"] < stop)]
        if len(there):
            out.append(float(np.median(there) - levels[k]))
    return out


def resting_eigenvalue_errors(recipe: Recipe, run: Arrays, counted: Counted) -> list[float]:
    """How far the learned eigenvalues' mean, midway through each gap, is from theory; relative."""
    out = []
    for k, start, stop in gaps(counted.rises):
        record = int(np.argmin(np.abs(run["record_t"] - (start + stop) / 2)))
        mean = float(np.mean(run[recipe.measured][record, :k]))
        out.append(mean / float(counted.plateaus[k - 1]) - 1)
    return out


def plateaus(ax: "Axes", recipe: Recipe) -> None:
    """Where theory has the loss rest."""
    levels = recipe.resting_losses()
    for k, level in enumerate(() if levels is None else levels):
        if k % max(1, recipe.dim // 16) == 0:
            ax.axhline(level, **FAINT, label="theory" if k == 0 else None)


def eigenvalue_curves(ax: "Axes", t: np.ndarray, eigenvalues: np.ndarray) -> None:
    """One curve for each, on a logarithmic scale of at most eight decades."""
    for j, color in enumerate(plotting.mode_colors(eigenvalues.shape[1])):
        curve = np.where(eigenvalues[:, j] > 0, eigenvalues[:, j], np.nan)
        ax.plot(t, curve, color=color, linewidth=0.8)
    ax.set_yscale("log")
    top, least = float(eigenvalues.max()), float(eigenvalues[eigenvalues > 0].min())
    ends = eigenvalues[[0, -1]]
    low = max(float(ends[ends > 0].min(initial=top)), 1e-8 * top, least)
    ax.set_ylim(low / 2, 3 * top)


def step_marks(ax: "Axes", counted: Counted) -> None:
    """When dimensions of the embedding are learned."""
    for time in counted.rises.middle[np.isfinite(counted.rises.middle)]:
        ax.axvline(float(time), color="0.5", linestyle=":", linewidth=0.6, zorder=0)
