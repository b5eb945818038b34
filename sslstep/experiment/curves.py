"""Statistics of a ResNet's spectra along training, and lines for its figures.

A run is a dictionary of the arrays of :class:`sslstep.experiment.training.Trained`.
"""

from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import scipy.special
import scipy.stats

from sslstep import claims, plotting
from sslstep.experiment._record import Arrays
from sslstep.measure import steps
from sslstep.recipes import Recipe

if TYPE_CHECKING:
    from matplotlib.axes import Axes

FAINT: dict[str, Any] = {**plotting.THEORY, "color": "0.7", "linewidth": 0.5, "zorder": 0}


class Counted(NamedTuple):
    """Steps of one run: plateaus, rises, and the numbers of dimensions learned and isolated."""

    plateaus: np.ndarray  # plateau of each eigenvalue, shape (d,)
    rises: steps.Rises
    learned: int
    alone: int


def count(recipe: Recipe, run: Arrays, high: float = 0.7) -> Counted:
    """Find the rise of each dimension, from 0.1 to `high` of its plateau, and count rises.

    `high` is below the default 0.9 of `steps.rises`, because learned eigenvalues of a ResNet differ
    from their plateau by up to a fifth.
    """
    t, eigenvalues = run["record_t"], run[recipe.measured]
    plateaus = recipe.plateaus(eigenvalues)
    rises = steps.Rises(
        *(np.asarray(part) for part in steps.rises(t, eigenvalues, plateaus, high=high))
    )
    learned, alone = np.isfinite(rises.middle), steps.isolated(rises)
    return Counted(plateaus, rises, int(learned.sum()), int(alone.sum()))


def seed_shown(seeds: Sequence[int]) -> str:
    """Return the suffix of a title that names the first of several seeds; "" for one seed."""
    return f", seed {seeds[0]}" if len(seeds) > 1 else ""


def learned_along(recipe: Recipe, run: Arrays) -> np.ndarray:
    """Return the number of dimensions learned by each record, shape (T,)."""
    middle = count(recipe, run).rises.middle
    found: np.ndarray = (run["record_t"][:, None] >= middle[None, :]).sum(axis=1)
    return found


def timing(recipe: Recipe, run: Arrays, level: np.ndarray) -> steps.Significance:
    """Test whether a recorded quantity, shape (T,), grows when dimensions are learned.

    Rises come from every second record and the quantity from the other records, so that the two do
    not share noise. The statistic is NaN and the p-value 1 if the quantity is constant, or if no
    dimension rises alone between two other rises.
    """
    later = run["record_t"] > 0
    ours = {key: run[key][later][::2] for key in ("record_t", recipe.measured)}
    t, level = run["record_t"][later][1::2], level[later][1::2]
    if np.ptp(level) == 0:
        return steps.Significance(np.nan, 1.0)
    rises = steps.Rises(*(np.log(part) for part in count(recipe, ours).rises))
    return steps.timing_test(rises, np.log(t), level)


def hidden_volume(recipe: Recipe, run: Arrays) -> np.ndarray:
    """Return the log det of the hidden covariance's 2 d leading eigenvalues at each record, (T,).

    d is the dimension of the embedding. A newly learned dimension increases the log det even if its
    eigenvalue is small compared with the largest.
    """
    leading = run["hidden"][:, : 2 * recipe.dim]
    # Clip rounding errors, which would add noise to the log.
    volume: np.ndarray = np.log(np.maximum(leading, 1e-10 * leading.max())).sum(axis=1)
    return volume


def entropy_rank(eigenvalues: np.ndarray) -> np.ndarray:
    """Return the exponential of the entropy of eigenvalues (T, d), normalised to sum 1, shape (T,).

    `spectrum.effective_rank` uses the singular values of embeddings instead of eigenvalues.
    """
    positive = np.maximum(eigenvalues, 0)
    shares = positive / positive.sum(axis=1)[:, None]
    found: np.ndarray = np.exp(-np.sum(scipy.special.xlogy(shares, shares), axis=1))
    return found


def rank_correlation(a: np.ndarray, b: np.ndarray) -> float:
    """Return Spearman's rank correlation of two series; 0 if one of them is constant."""
    if np.ptp(a) == 0 or np.ptp(b) == 0:
        return 0.0
    return float(scipy.stats.spearmanr(a, b).statistic)


def resting_loss_errors(recipe: Recipe, run: Arrays, counted: Counted) -> list[float]:
    """Return the median training loss minus theory's resting loss, for each pause with records."""
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
    """Return the relative error of the mean learned eigenvalue midway through each pause."""
    out = []
    for k, start, stop in steps.pauses(counted.rises):
        record = int(np.argmin(np.abs(run["record_t"] - (start + stop) / 2)))
        mean = float(np.mean(run[recipe.measured][record, :k]))
        out.append(mean / float(counted.plateaus[k - 1]) - 1)
    return out


def alone_claim(
    name: str, where: str, runs: Sequence[Counted], learned: Sequence[int], high: float = 0.7
) -> claims.Claim:
    """Return the claim that half of the learned dimensions rise alone, up to `high`."""
    return claims.over_seeds(
        f"{name}: the fraction of them that rises alone, from 0.1 to {high:g} of its plateau while "
        f"no other does",
        where,
        ">=",
        expected=0.5,
        measured=[one.alone / max(number, 1) for one, number in zip(runs, learned, strict=True)],
    )


def spread_claim(what: str, where: str, of_seed: Iterable[steps.Rises]) -> claims.Claim:
    """Return the claim that dimensions rise one after the other; it fails without rises."""
    spreads = [steps.spread(rises) for rises in of_seed]
    return claims.over_seeds(
        f"{what}: the spread of step times over how long rises take, its decimal logarithm "
        f"(simultaneous growth: 0)",
        where,
        ">=",
        measured=[np.log10(spread) if spread else -np.inf for spread in spreads],
    )


def plateaus(ax: "Axes", recipe: Recipe) -> None:
    """Draw theory's resting losses as horizontal lines, labelled by k where there is room."""
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
    """Draw a vertical line at the time at which each dimension of the embedding is learned."""
    for j, time in enumerate(counted.rises.middle[np.isfinite(counted.rises.middle)]):
        name = "a dimension is learned" if j == 0 else None
        ax.axvline(float(time), color="0.5", linestyle=":", linewidth=0.6, zorder=0, label=name)
