"""Claims of the experiment `dose`."""

from collections.abc import Sequence

import numpy as np

from experiments.beyond.dose.experiment import Config
from sslstep import claims
from sslstep.experiment import Arrays
from sslstep.recipes import LABELS

#: Predictions of delays: two by theory, and two baselines, each with its best constant.
THEORY = ("the kernel of each plateau", "the kernel of one plateau")
BASELINES = ("every step is delayed alike", "every wait is longer alike")


#: Largest factor of a small start, relative to the largest start.
SMALL = 1 / 16


def small(scales: Sequence[float]) -> Sequence[float]:
    """Return the factors of the small starts, or the last two factors if fewer are small."""
    found = [scale for scale in scales if scale <= SMALL * scales[0]]
    return found if len(found) > 1 else scales[-2:]


def delays(
    config: Config, arrays: Arrays, run: str, scales: Sequence[float]
) -> dict[str, np.ndarray]:
    """Return measured delays (S - 1, K) relative to the first of S starts, and predicted ones.

    `run` names loss and seed, such as `spectral/0`. The delay is NaN if one of the two starts has
    not learned the dimension. The growth rate is the mean over the two starts; in theory both have
    the same rate.
    """
    first = f"{run}/{scales[0]:g}"
    num = config.num_steps_compared
    out: dict[str, list[np.ndarray]] = {name: [] for name in ("measured", *THEORY)}
    for scale in scales[1:]:
        here = f"{run}/{scale:g}"
        late, early = (arrays[f"{each}/step_times"][:num] for each in (here, first))
        both = np.isfinite(late) & np.isfinite(early)
        delay = np.full(num, np.nan)
        delay[both] = late[both] - early[both]
        amount = np.log(scales[0] / scale)
        rates = (arrays[f"{first}/rates"] + arrays[f"{here}/rates"]) / 2
        out["measured"].append(delay)
        out[THEORY[0]].append(np.where(both, _along(amount, rates), np.nan))
        out[THEORY[1]].append(np.where(both, amount / np.diag(rates), np.nan))
    return {name: np.stack(rows) for name, rows in out.items()}


def _along(amount: float, rates: np.ndarray) -> np.ndarray:
    """Return the delays (K,) for a start smaller by exp(-amount), from ρ (K, K) on each plateau.

    Plateau i lasts longer by Δ_{i+1} - Δ_i, the difference of the delays of the steps at its two
    ends, with Δ_0 = 0. The additional growth of dimension k over all plateaus before its step is
    Σ_i ρ_k^(i) (Δ_{i+1} - Δ_i). It must equal `amount`.
    """
    found: list[float] = []
    for k in range(len(rates)):
        longer = np.diff([0.0, *found])
        grown = np.sum(rates[:k, k] * longer)
        found.append(float(sum(longer) + (amount - grown) / rates[k, k]))
    return np.array(found)


def factors(found: dict[str, np.ndarray], amounts: np.ndarray) -> dict[str, float]:
    """Return the error of each prediction for one seed: the mean of |log2(predicted / measured)|.

    `found` holds the delays (S - 1, K) of :func:`delays`, and `amounts` the S - 1 logarithms of
    the ratio of the first scale to the others.
    """
    measured = found["measured"]
    shapes = dict(
        zip(
            BASELINES,
            (
                np.broadcast_to(amounts[:, None], measured.shape),
                amounts[:, None] * np.arange(1, measured.shape[1] + 1),
            ),
            strict=True,
        )
    )
    out = {name: _off(found[name], measured) for name in THEORY}
    for name, shape in shapes.items():
        ratios = (measured / shape)[np.isfinite(measured) & (measured > 0)]
        # The best constant makes one error zero, because the mean of absolute values is minimal.
        out[name] = min((_off(c * shape, measured) for c in ratios), default=np.nan)
    return out


def _off(predicted: np.ndarray, measured: np.ndarray) -> float:
    """Return the mean of |log2(predicted / measured)|; infinite if a delay is not positive.

    Delays whose measured value is not finite are left out.
    """
    there = np.isfinite(measured)
    good = (measured[there] > 0) & (predicted[there] > 0)
    errors = np.full(int(there.sum()), np.inf)
    errors[good] = np.abs(np.log2(predicted[there][good] / measured[there][good]))
    return float(np.mean(errors)) if len(errors) else np.nan


#: Reason for the declared failures: the ordinary last layer does not meet the theory's premise.
OTHER_KERNEL = (
    "the kernel of the ordinary last layer is another: half of its γ_1 and more comes from the "
    "layers before, whose part is the last layer's scale squared"
)

#: Reasons why the delays of all steps between small starts are not predicted, by method and data.
NOT_IN_ORDER = {
    ("spectral", "photos"): "on one seed the third step comes earlier from 1/32 than from 1/16"
}


def check(config: Config, arrays: Arrays) -> list[claims.Claim]:
    """Claims on delays from the ordinary last layer (known to fail), and between small ones."""
    out = []
    for method in config.methods:
        label = f"{LABELS[method]}, from the largest start"
        found = _compared(config, arrays, method, label, config.scales)
        out += [claim.known_to_fail(OTHER_KERNEL) for claim in found]
        label = f"{LABELS[method]}, between small starts"
        first, *others = _compared(config, arrays, method, label, small(config.scales))
        because = NOT_IN_ORDER.get((method, config.data), "")
        out += [first, *(claim.known_to_fail(because) for claim in others)]
    return out


def scored(
    config: Config, arrays: Arrays, method: str, scales: Sequence[float]
) -> tuple[list[dict[str, np.ndarray]], list[dict[str, float]]]:
    """Return :func:`delays` and :func:`factors` of each seed."""
    found = [delays(config, arrays, f"{method}/{seed}", scales) for seed in config.seeds]
    amounts = np.log(scales[0] / np.asarray(scales[1:]))
    return found, [factors(one, amounts) for one in found]


def _compared(
    config: Config, arrays: Arrays, method: str, which: str, scales: Sequence[float]
) -> list[claims.Claim]:
    """Return the claims on the first delay, on all delays, and on the comparison with baselines."""
    found, scores = scored(config, arrays, method, scales)
    last = [(one["measured"][-1], one[THEORY[0]][-1]) for one in found]
    out = [
        claims.over_seeds(
            f"{which}: the delay of the first step over ln(1/r) / ρ_1",
            "Eq. 16",
            "=",
            expected=1.0,
            measured=[measured[0] / predicted[0] for measured, predicted in last],
            tolerance=0.15,
        )
    ]
    out += [
        claims.over_seeds(
            f"{which}: delays of the steps by {name}, of at most {config.num_steps_compared} that "
            f"both starts take: off by a factor of at most 1.25 in the mean, which is two to the "
            f"power",
            "Section 4, beyond the paper",
            "<=",
            expected=float(np.log2(1.25)),
            measured=[score[name] for score in scores],
        )
        for name in THEORY
    ]
    out += [
        claims.over_seeds(
            f"{which}: by {theory} they are closer than if {name}, with the best constant in "
            f"hindsight: factor over factor, as a power of two",
            "beyond the paper",
            "<=",
            measured=[score[theory] - score[name] for score in scores],
        )
        for theory in THEORY
        for name in BASELINES
    ]
    return out
