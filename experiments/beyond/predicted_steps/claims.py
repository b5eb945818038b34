"""Claims of the experiment `predicted_steps`."""

from typing import Any, NamedTuple

import numpy as np

from experiments.beyond.predicted_steps.experiment import OUTPUTS, Config
from sslstep import claims
from sslstep.experiment import Arrays


class _Waits(NamedTuple):
    """Waits for the next dimension at each snapshot of a run, predicted and measured.

    `at` is the time of the snapshot and `left` the time from it to the end of the run. A wait is
    `inf` if no dimension is learned in the time left.
    """

    at: np.ndarray
    left: np.ndarray
    predicted: np.ndarray
    measured: np.ndarray


def _waits(arrays: Arrays, seed: int, which: str) -> _Waits:
    """Return the waits of a run by the kernel of outputs `which`, without the last snapshot."""
    at = arrays[f"{seed}/snapshot_t"]
    rows = [arrays[f"{seed}/measured"]] * len(at), arrays[f"{seed}/{which}/predicted"]
    measured, predicted = (
        np.array([np.min(row[row > t], initial=np.inf) for row, t in zip(part, at, strict=True)])
        for part in rows
    )
    left = arrays[f"{seed}/record_t"][-1] - at
    found = _Waits(at, left, predicted - at, measured - at)
    return _Waits(*(part[left > 0] for part in found))


def _most(predicted: Any, waits: _Waits) -> np.ndarray:
    """Return |log(predicted / measured)|; `inf` if only one of the two is within the time left.

    Snapshots are left out if neither is within the time left.
    """
    predicted = np.broadcast_to(predicted, waits.measured.shape)
    came = np.isfinite(waits.measured)
    errors = np.full(len(came), np.inf)
    errors[came] = np.abs(np.log(predicted[came] / waits.measured[came]))
    return errors[came | (predicted <= waits.left)]


def _least(waits: _Waits) -> np.ndarray:
    """Return lower bounds of |log(predicted / measured)|: waits are cut at the time left."""
    predicted, measured = (np.minimum(part, waits.left) for part in waits[2:])
    return np.abs(np.log(predicted / measured))


def _later(waits: _Waits) -> _Waits:
    """Return the waits of the later half of the snapshots."""
    return _Waits(*(part[len(waits.at) // 2 :] for part in waits))


def _factor(errors: np.ndarray) -> float:
    """Return exp of the median of logarithmic errors; NaN without errors."""
    return float(np.exp(np.median(errors))) if len(errors) else float("nan")


def best_constant(every: list[_Waits]) -> float:
    """Return the constant predicted wait of least error: median over snapshots, mean over runs."""
    measured = np.concatenate([waits.measured for waits in every])
    measured = measured[np.isfinite(measured)]
    if not len(measured):
        return float("nan")
    # Try waits beyond every time left: they are right if no dimension is learned.
    longest = 1.01 * max(measured.max(), *(waits.left.max(initial=0) for waits in every))
    tried = np.concatenate([measured, np.geomspace(measured.min(), longest, 500)])
    known = [waits for waits in every if np.isfinite(waits.measured).any()]
    scores = [np.mean([np.log(_factor(_most(wait, waits))) for waits in known]) for wait in tried]
    return float(tried[np.argmin(scores)])


def check(config: Config, arrays: Arrays) -> list[claims.Claim]:
    """Claims on predictions of the initial NTK, of later NTKs, and of a constant wait."""
    initial, growth = [], []
    for seed in config.seeds:
        measured, predicted = arrays[f"{seed}/measured"], arrays[f"{seed}/all/predicted"][0]
        end = arrays[f"{seed}/record_t"][-1]
        there = np.isfinite(measured) | (predicted <= end)
        # Times beyond the end of the run count as the end, which gives a lower bound.
        ratios = np.minimum(predicted, end)[there] / np.minimum(measured, end)[there]
        initial.append(_factor(np.abs(np.log(ratios))))
        gammas = arrays[f"{seed}/all/gammas"]
        growth.append(float(np.log2(np.median(gammas[-1] / gammas[0]))))
    every, unlearned = (
        [_later(_waits(arrays, seed, which)) for seed in config.seeds] for which in OUTPUTS
    )
    constant = best_constant(unlearned)
    by_kernel = [_factor(_most(waits.predicted, waits)) for waits in unlearned]
    by_constant = [_factor(_most(constant, waits)) for waits in unlearned]
    return [
        claims.over_seeds(
            "step times predicted by the initial NTK are poor: off by a factor of at least 1.5 in "
            "the median, which is two to the power",
            "Section 6",
            ">=",
            expected=float(np.log2(1.5)),
            measured=np.log2(initial).tolist(),
        ),
        claims.over_seeds(
            "the wait for the next dimension by the NTK of the moment, of the outputs not learned "
            "yet, in the later half of the snapshots: off by a factor of at most 2 in the median, "
            "which is two to the power",
            "beyond the paper",
            "<=",
            expected=1.0,
            measured=np.log2(by_kernel).tolist(),
        ),
        claims.over_seeds(
            f"and by less than one constant wait is, the best in hindsight, {constant:.2g} (off by "
            f"{np.mean(by_constant):.2f}): factor over factor, as a power of two",
            "beyond the paper",
            "<=",
            measured=(np.log2(by_kernel) - np.log2(by_constant)).tolist(),
        ),
        claims.over_seeds(
            "by the NTK of all outputs alike: off by more, a factor of at least 2, which is two to "
            "the power",
            "beyond the paper",
            ">=",
            expected=1.0,
            measured=np.log2([_factor(_least(waits)) for waits in every]).tolist(),
        ),
        claims.over_seeds(
            "why: the kernel grows while it learns; how many times its eigenvalues double from the "
            "start to the end, median over modes",
            "beyond the paper",
            ">=",
            expected=1.0,
            measured=growth,
        ),
    ]
