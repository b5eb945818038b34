"""What the experiments on ResNets count in their spectra, and how they draw them."""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import scipy.special
import scipy.stats

from sslstep import plotting
from sslstep.experiment._record import Arrays
from sslstep.measure import steps
from sslstep.recipes import Recipe

if TYPE_CHECKING:
    from matplotlib.axes import Axes

FAINT: dict[str, Any] = {**plotting.THEORY, "color": "0.7", "linewidth": 0.5, "zorder": 0}


class Counted(NamedTuple):
    """The steps of one run."""

    plateaus: np.ndarray  # what each eigenvalue is about once it is learned
    rises: steps.Rises
    learned: int
    alone: int


def count(recipe: Recipe, run: Arrays, high: float = 0.7) -> Counted:
    """Which dimensions of the embedding rise, and when: from 0.1 of their plateau to `high`.

    By default not to 0.9, the library's: eigenvalues that are learned still differ by a fifth.
    """
    t, eigenvalues = run["record_t"], run[recipe.measured]
    plateaus = recipe.plateaus(eigenvalues)
    rises = steps.Rises(
        *(np.asarray(part) for part in steps.rises(t, eigenvalues, plateaus, high=high))
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


def timing(recipe: Recipe, run: Arrays, level: np.ndarray) -> steps.Significance:
    """Whether something that was recorded too grows when dimensions are learned.

    Rises are read off every second record and the level off the others: what the network's noise
    adds to both at one record is no common timing. NaN where no dimension is learned alone between
    two others, or the level stays what it is: no timing was seen.
    """
    later = run["record_t"] > 0
    ours = {key: run[key][later][::2] for key in ("record_t", recipe.measured)}
    t, level = run["record_t"][later][1::2], level[later][1::2]
    if np.ptp(level) == 0:
        return steps.Significance(np.nan, 1.0)
    rises = steps.Rises(*(np.log(part) for part in count(recipe, ours).rises))
    return steps.timing_test(rises, np.log(t), level)


def hidden_volume(recipe: Recipe, run: Arrays) -> np.ndarray:
    """log det of the hidden representations' covariance, of twice as many dimensions as z has.

    A dimension that is learned adds to it, however small it is beside the largest.
    """
    leading = run["hidden"][:, : 2 * recipe.dim]
    # What is rounding has no rate of growth of its own.
    volume: np.ndarray = np.log(np.maximum(leading, 1e-10 * leading.max())).sum(axis=1)
    return volume


def entropy_rank(eigenvalues: np.ndarray) -> np.ndarray:
    """The exponential of the entropy of their shares of their sum, shape (T,): it knows no scale.

    Of eigenvalues: `spectrum.effective_rank` is of the embeddings' singular values.
    """
    positive = np.maximum(eigenvalues, 0)
    shares = positive / positive.sum(axis=1)[:, None]
    found: np.ndarray = np.exp(-np.sum(scipy.special.xlogy(shares, shares), axis=1))
    return found


def rank_correlation(a: np.ndarray, b: np.ndarray) -> float:
    """Spearman's; 0 where one of the two is constant."""
    if np.ptp(a) == 0 or np.ptp(b) == 0:
        return 0.0
    return float(scipy.stats.spearmanr(a, b).statistic)


def resting_loss_errors(recipe: Recipe, run: Arrays, counted: Counted) -> list[float]:
    """How far the training loss, its median over each pause, is from where theory has it rest."""
    levels = recipe.resting_losses()
    if levels is None:
        return []
    out = []
    for k, start, stop in steps.pauses(counted.rises):
        there = run["loss"][(run["t"] > start) & (run["t"] < stop)]
        if len(there):
            out.append(float(np.median(there) - levels[k]))
    return out


def resting_eigenvalue_errors(recipe: Recipe, run: Arrays, counted: Counted) -> list[float]:
    """How far the learned eigenvalues' mean, midway through a pause, is from theory; relative."""
    out = []
    for k, start, stop in steps.pauses(counted.rises):
        record = int(np.argmin(np.abs(run["record_t"] - (start + stop) / 2)))
        mean = float(np.mean(run[recipe.measured][record, :k]))
        out.append(mean / float(counted.plateaus[k - 1]) - 1)
    return out


def plateaus(ax: "Axes", recipe: Recipe) -> None:
    """Where theory has the loss rest, and with how many dimensions learned, where there is room."""
    levels = recipe.resting_losses()
    if levels is None:
        return
    apart, last = 0.07 * np.ptp(levels), np.inf
    for k, level in enumerate(levels):
        if k % max(1, recipe.dim // 16) == 0:
            name = "theory: loss with $k$ dimensions learned"
            ax.axhline(level, **FAINT, label=name if k == 0 else None)
            if last - level >= apart:
                ax.annotate(
                    f"$k={k}$" if k == 0 else f"{k}", (0.01, level), fontsize=5, color="0.4",
                    xycoords=("axes fraction", "data"), va="bottom",
                )  # fmt: skip
                last = level


def step_marks(ax: "Axes", counted: Counted) -> None:
    """When dimensions of the embedding are learned."""
    for j, time in enumerate(counted.rises.middle[np.isfinite(counted.rises.middle)]):
        name = "a dimension is learned" if j == 0 else None
        ax.axvline(float(time), color="0.5", linestyle=":", linewidth=0.6, zorder=0, label=name)
