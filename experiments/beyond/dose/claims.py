"""The claims, and the numbers that they compare."""

from collections.abc import Sequence

import numpy as np

from experiments.beyond.dose.experiment import Config
from sslstep import claims
from sslstep.experiment import Arrays

#: Accounts of delays: two predictions, and two shapes that are given their best constant.
THEORY = ("the kernel of each plateau", "the kernel of one plateau")
BASELINES = ("every step is delayed alike", "every wait is longer alike")


def delays(
    config: Config, arrays: Arrays, seed: int, scales: Sequence[float]
) -> dict[str, np.ndarray]:
    """Measured delays (S - 1, K) from the first of these S starts, and what THEORY says of them.

    NaN where a step has not come from one of the two starts. γ is the mean over the two: the theory
    has them the same.
    """
    first = f"{seed}/{scales[0]:g}"
    num = config.num_steps_compared
    out: dict[str, list[np.ndarray]] = {name: [] for name in ("measured", *THEORY)}
    for scale in scales[1:]:
        here = f"{seed}/{scale:g}"
        late, early = (arrays[f"{each}/step_times"][:num] for each in (here, first))
        both = np.isfinite(late) & np.isfinite(early)
        delay = np.full(num, np.nan)
        delay[both] = late[both] - early[both]
        amount = np.log(scales[0] / scale)
        gammas = (arrays[f"{first}/gammas"] + arrays[f"{here}/gammas"]) / 2
        out["measured"].append(delay)
        out[THEORY[0]].append(np.where(both, _along(amount, gammas), np.nan))
        out[THEORY[1]].append(np.where(both, amount / (4 * np.diag(gammas)), np.nan))
    return {name: np.stack(rows) for name, rows in out.items()}


def _along(amount: float, gammas: np.ndarray) -> np.ndarray:
    """Delays at which growth on all plateaus makes up for a start smaller by exp(-amount).

    A dimension that is dormant while others are learned has grown by Σ 4 γ_k^(i) (Δ_{i+1} - Δ_i)
    more, with Δ_0 = 0: plateau i lasts longer by the difference of the delays around it.
    """
    found: list[float] = []
    for k in range(len(gammas)):
        longer = np.diff([0.0, *found])
        grown = 4 * np.sum(gammas[:k, k] * longer)
        found.append(float(sum(longer) + (amount - grown) / (4 * gammas[k, k])))
    return np.array(found)


def factors(found: dict[str, np.ndarray], amounts: np.ndarray) -> dict[str, float]:
    """How far each account is off, one seed: the mean of |log2(predicted / measured)|."""
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
        # In hindsight: where a sum of absolute values is least, one of them is zero.
        out[name] = min((_off(c * shape, measured) for c in ratios), default=np.nan)
    return out


def _off(predicted: np.ndarray, measured: np.ndarray) -> float:
    """The mean size; a delay that is not positive, or predicted so, is infinitely far off."""
    there = np.isfinite(measured)
    good = (measured[there] > 0) & (predicted[there] > 0)
    errors = np.full(int(there.sum()), np.inf)
    errors[good] = np.abs(np.log2(predicted[there][good] / measured[there][good]))
    return float(np.mean(errors)) if len(errors) else np.nan


#: Why nothing is predicted from the ordinary last layer: the premise is not met.
OTHER_KERNEL = (
    "the kernel of the ordinary last layer is another: half of its γ_1 and more comes from the "
    "layers before, whose part is the last layer's scale squared"
)


def check(config: Config, arrays: Arrays) -> list[claims.Claim]:
    """Delays from the ordinary last layer, and those between the two smallest ones."""
    out = _compared(config, arrays, "from the largest start", config.scales)
    out = [claim.known_to_fail(OTHER_KERNEL) for claim in out]
    return out + _compared(config, arrays, "between the two smallest starts", config.scales[-2:])


def _compared(
    config: Config, arrays: Arrays, which: str, scales: Sequence[float]
) -> list[claims.Claim]:
    """The first step's delay, those of the others, and whether other accounts do as well."""
    found = [delays(config, arrays, seed, scales) for seed in config.seeds]
    scores = [factors(one, np.log(scales[0] / np.asarray(scales[1:]))) for one in found]
    last = [(one["measured"][-1], one[THEORY[0]][-1]) for one in found]
    out = [
        claims.over_seeds(
            f"{which}: the delay of the first step over ln(1/r) / (4 γ_1)",
            "Eq. 16",
            "=",
            expected=1.0,
            measured=[measured[0] / predicted[0] for measured, predicted in last],
            tolerance=0.15,
        )
    ]
    out += [
        claims.over_seeds(
            f"{which}: delays of the first {config.num_steps_compared} steps by {name}: off by a "
            f"factor of at most 1.25 in the mean, which is two to the power",
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
