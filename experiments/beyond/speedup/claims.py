"""Ratios of training times with intervals, table and claims of the experiment `speedup`.

An arm is one way of training, from `contenders.ARMS`; a case is one problem with its images.
"""

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
import scipy.stats

from experiments.beyond.speedup.contenders import ARMS
from experiments.beyond.speedup.tuning import learned, levels_of
from sslstep import claims, optim
from sslstep.experiment import Arrays

TITLES = {
    "linear": "linear model",
    "mlp": "one hidden layer",
    "photos": "ResNet, photographs",
    "cifar10": "ResNet, CIFAR-10",
    "stl10": "ResNet, STL-10",
}


class Ratio(NamedTuple):
    """The ratio of another arm's steps or seconds to an arm's, over common seeds.

    `mean` is the geometric mean over the `num` seeds from which both arms reach the target; `low`
    and `high` bound its 95% interval (Student's, of logarithms). NaN with fewer than two seeds.
    """

    mean: float
    low: float
    high: float
    num: int


def ratio(plain: np.ndarray, arm: np.ndarray, *, error: float = 0.0) -> Ratio:
    """Return the ratio of `plain` to `arm`: a time for each seed, `inf` if the target is missed.

    `error` is the half width of an error interval of the logarithm that all seeds share.
    """
    both = np.isfinite(plain) & np.isfinite(arm) & (arm > 0) & (plain > 0)
    logs = np.log(plain[both] / arm[both])
    num = len(logs)
    if num < 2:
        return Ratio(np.nan, np.nan, np.nan, num)
    half = np.hypot(scipy.stats.t.ppf(0.975, num - 1) * logs.std(ddof=1) / num**0.5, error)
    mean, low, high = (float(np.exp(logs.mean() + part)) for part in (0, -half, half))
    return Ratio(mean, low, high, num)


def arms_of(config: Any, arrays: Arrays, case: str) -> list[str]:
    """Return the names of the arms trained on a case, in the order of the settings."""
    return [name for name in config.arms if f"{case}/{name}/times" in arrays]


def times_learned(arrays: Arrays, case: str, name: str) -> np.ndarray:
    """Return the steps at which k = 1...d dimensions are learned, shape (seeds, d).

    A time is `inf` if the dimension is lost again by the end, or if the run diverges.
    """
    whole = np.asarray(arrays[f"{case}/{name}/finite"], bool)
    times = np.asarray(arrays[f"{case}/{name}/times"])
    levels = levels_of(ARMS[name], times.shape[1])
    last = learned(np.asarray(arrays[f"{case}/{name}/eigenvalues"])[:, -1], levels)
    return np.where(whole[:, None] & last, times, np.inf)


def final_accuracy(arrays: Arrays, case: str, name: str) -> np.ndarray:
    """Return the mean accuracy of each seed's last two probes; NaN if the run diverged."""
    return np.asarray(arrays[f"{case}/{name}/accuracy"])[:, -2:].mean(axis=1)


def accuracy_margin(arrays: Arrays, case: str) -> float:
    """Return the standard deviation over seeds of Barlow Twins' final accuracy, used as margin."""
    return mean_and_deviation(final_accuracy(arrays, case, "plain"))[1]


def probes_tell(arrays: Arrays, case: str) -> bool:
    """Return whether training by Barlow Twins raises accuracy by more than two standard errors."""
    if not has_probe(arrays, case):
        return False
    gained = final_accuracy(arrays, case, "plain") - arrays[f"{case}/plain/accuracy"][:, 0]
    mean, deviation = mean_and_deviation(gained)
    return bool(mean > 2 * deviation / len(gained) ** 0.5)


def times_to_accuracy(arrays: Arrays, case: str, name: str) -> np.ndarray:
    """Return the step from which each seed's accuracy stays at Barlow Twins' final accuracy.

    The accuracy may be lower by `accuracy_margin`; `inf` if it is never reached for good.
    """
    target = mean_and_deviation(final_accuracy(arrays, case, "plain"))[0] - accuracy_margin(
        arrays, case
    )
    steps = np.asarray(arrays[f"{case}/{name}/record_steps"], float)
    out = []
    for curve in np.asarray(arrays[f"{case}/{name}/accuracy"]):
        below = np.flatnonzero(~(curve >= target))  # nan is below
        first = below[-1] + 1 if below.size else 0
        out.append(max(steps[first], 1.0) if first < len(steps) else np.inf)
    return np.asarray(out)


def cost(arrays: Arrays, case: str, name: str) -> tuple[float, float]:
    """Return the duration of an arm's step over that of Barlow Twins, and its error.

    The ratio is a geometric mean over rounds. The error is the half width of the logarithm's 95%
    interval.
    """
    logs = np.log(arrays[f"{case}/{name}/seconds"] / arrays[f"{case}/plain/seconds"])
    error = scipy.stats.t.ppf(0.975, len(logs) - 1) * logs.std(ddof=1) / len(logs) ** 0.5
    return float(np.exp(logs.mean())), float(error) if name != "plain" else 0.0


def times_to(config: Any, arrays: Arrays, case: str, name: str, to: str) -> np.ndarray:
    """Return each seed's steps to the target dimensions, or to the accuracy (`to`)."""
    if to == "accuracy":
        return times_to_accuracy(arrays, case, name)
    return times_learned(arrays, case, name)[:, target(config, case) - 1]


def ratios(
    config: Any, arrays: Arrays, case: str, name: str, *, to: str, over: str = "plain"
) -> tuple[Ratio, Ratio]:
    """Return the ratios of steps and of seconds of the arm `over` to those of the arm `name`.

    If the arm `over` misses the target, its last step counts as its time; the ratio is then a lower
    bound.
    """
    first = times_to(config, arrays, case, over, to)
    first = np.minimum(first, arrays[f"{case}/{over}/record_steps"][-1])
    second = times_to(config, arrays, case, name, to)
    times, error = cost(arrays, case, name)
    return ratio(first, second), ratio(first, second * times, error=error)


def target(config: Any, case: str) -> int:
    """Return the number of dimensions for which the arms of a case were tuned."""
    number: int = getattr(config, case if case in ("linear", "mlp") else "resnet").target
    return number


def has_probe(arrays: Arrays, case: str) -> bool:
    """Return whether probes were trained on a case."""
    return bool(np.isfinite(arrays[f"{case}/plain/accuracy"]).any())


def cases_of(arrays: Arrays) -> list[str]:
    """Return the names of the cases in the arrays, in order."""
    return list(dict.fromkeys(key.split("/")[0] for key in arrays))


def table(config: Any, arrays: Arrays) -> str:
    """Return tables of all arms, one for each case, in Markdown."""
    parts = []
    for case in cases_of(arrays):
        k, d = target(config, case), arrays[f"{case}/plain/times"].shape[1]
        dims = list(dict.fromkeys((1, k, d)))
        probed, tells = has_probe(arrays, case), probes_tell(arrays, case)
        head = ["arm", "rate", "own", f"steps to {', '.join(map(str, dims))} dimensions"]
        head += [f"steps ratio to {k}", "cost of a step", f"seconds to {k}", "seconds ratio"]
        head += ["final accuracy", "rank of h"] if probed else []
        head += ["rank of z"]
        head += ["steps to accuracy", "steps ratio", "seconds ratio"] if tells else []
        rows = [head, ["---"] * len(head)]
        for name in arms_of(config, arrays, case):
            rows.append(_row(config, arrays, case, name, dims, probed, tells))
        lines = ["| " + " | ".join(row) + " |" for row in rows]
        parts.append("\n".join([f"### {TITLES[case]}", "", *lines, ""]))
    return "\n".join(parts)


def _row(
    config: Any,
    arrays: Arrays,
    case: str,
    name: str,
    dims: Sequence[int],
    probed: bool,
    tells: bool,
) -> list[str]:
    """Return the cells of an arm's row in the table of a case."""
    arm, prefix = ARMS[name], f"{case}/{name}"
    rate, own = arrays[f"{prefix}/chosen"]
    times = times_learned(arrays, case, name)
    seeds = len(times)
    label = arm.label if arrays[f"{prefix}/lasts"] else f"{arm.label} (nothing lasted in tuning)"
    row = [label, f"{rate:.3g}", f"{own:.3g}" if arm.own else ""]
    if arm.measured is None:
        row += ["", "", f"{cost(arrays, case, name)[0]:.2f}", "", ""]
    else:
        k = target(config, case)
        by_step, by_second = ratios(config, arrays, case, name, to="dimensions")
        seconds = times[:, k - 1] * np.median(arrays[f"{prefix}/seconds"])
        row += [" / ".join(_count(times[:, k - 1]) for k in dims), _interval(by_step, seeds)]
        row += [f"{cost(arrays, case, name)[0]:.2f}", _count(seconds, 3)]
        row += [_interval(by_second, seeds)]
    if probed:
        row += [_spread(final_accuracy(arrays, case, name), 3)]
        row += [_spread(arrays[f"{prefix}/rank_h"], 1)]
    row += [_spread(arrays[f"{prefix}/rank_z"], 1)]
    if tells:
        by_step, by_second = ratios(config, arrays, case, name, to="accuracy")
        row += [_count(times_to_accuracy(arrays, case, name)), _interval(by_step, seeds)]
        row += [_interval(by_second, seeds)]
    return row


def _count(times: np.ndarray, digits: int = 0) -> str:
    """Format the geometric mean of the finite times, and their number if some are infinite."""
    there = times[np.isfinite(times)]
    if not len(there):
        return "never"
    mean = float(np.exp(np.log(np.maximum(there, 1e-9)).mean()))
    text = f"{mean:.{digits}g}" if digits else f"{mean:.0f}"
    return text + (f" ({len(there)} of {len(times)})" if len(there) < len(times) else "")


def _interval(value: Ratio, seeds: int) -> str:
    """Format a ratio with its interval, and its number of seeds if some lack it."""
    if not np.isfinite(value.mean):
        return "-"
    some = f" ({value.num} of {seeds})" if value.num < seeds else ""
    return f"{value.mean:.2f} [{value.low:.2f}, {value.high:.2f}]{some}"


def mean_and_deviation(values: Any) -> tuple[float, float]:
    """Return mean and standard deviation of the finite values; NaN for fewer than two."""
    there = np.asarray(values)[np.isfinite(values)]
    if len(there) < 2:
        return np.nan, np.nan
    return float(there.mean()), float(there.std(ddof=1))


def _spread(values: Any, digits: int) -> str:
    """Format mean ± standard deviation over seeds."""
    mean, deviation = mean_and_deviation(values)
    return f"{mean:.{digits}f} ± {deviation:.{digits}f}" if np.isfinite(mean) else "-"


def check(config: Any, arrays: Arrays) -> list[claims.Claim]:
    """Claims that compare the fastest remedy with Barlow Twins and the fastest obvious arm.

    Both are chosen by their times on the tuning seeds and measured on the other seeds. Combinations
    with momentum do not count as remedies, because momentum is an obvious arm.
    """
    out: list[claims.Claim] = []
    for case in cases_of(arrays):
        names = arms_of(config, arrays, case)
        remedies = [name for name in names if ARMS[name].kind in ("remedy", "combination")]
        remedies = [name for name in remedies if ARMS[name].optimizer is optim.sgd]
        obvious = [name for name in names if ARMS[name].kind == "obvious" and ARMS[name].measured]
        if not remedies:
            continue
        best = min(remedies, key=lambda name: _tuned(arrays, case, name))
        what = f"{TITLES[case]}: {label_of(best)}, the remedy that is fastest in tuning,"
        k = target(config, case)
        out.append(
            claims.above(
                f"{what} against tuned Barlow Twins, steps to {k} dimensions: lower end of the 95% "
                f"interval of the ratio (at least 2 is wanted)",
                "App. G",
                expected=2.0,
                measured=_lower(config, arrays, case, best, "plain"),
            )
        )
        if obvious:
            rival = min(obvious, key=lambda name: _tuned(arrays, case, name))
            out.append(
                claims.above(
                    f"{what} against {label_of(rival)}, the fastest of what is obvious: the same",
                    "beyond the paper",
                    expected=1.0,
                    measured=_lower(config, arrays, case, best, rival),
                )
            )
        if has_probe(arrays, case):
            differences = final_accuracy(arrays, case, best) - final_accuracy(arrays, case, "plain")
            out.append(_as_accurate(what, differences))
    return out


def _as_accurate(what: str, differences: np.ndarray) -> claims.Claim:
    """Claim that the final accuracy is at most one point below Barlow Twins', mean over seeds."""
    return claims.over_seeds(
        f"{what} ends as accurate as Barlow Twins: difference of probes",
        "App. G",
        ">=",
        measured=differences.tolist(),
        tolerance=0.01,
    )


def label_of(name: str) -> str:
    """Return the label of an arm."""
    return ARMS[name].label


def _tuned(arrays: Arrays, case: str, name: str) -> float:
    """Return the tuning score of an arm's chosen setting; `inf` if no setting lasted."""
    rows, chosen = arrays[f"{case}/{name}/trials"], arrays[f"{case}/{name}/chosen"]
    found = rows[(rows[:, :2] == chosen).all(axis=1), 2].min()
    return float(found) if arrays[f"{case}/{name}/lasts"] else np.inf


def _lower(config: Any, arrays: Arrays, case: str, name: str, over: str) -> float:
    """Return the lower end of the ratio of steps; 0 if some seed has no ratio."""
    found = ratios(config, arrays, case, name, to="dimensions", over=over)[0]
    return found.low if found.num == len(config.seeds) else 0.0
