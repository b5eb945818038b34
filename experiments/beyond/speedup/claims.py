"""Ratios of training times with intervals, table and claims of the experiment `speedup`.

An arm is one way of training, from `contenders.ARMS`; a case is one problem with its images.
"""

from typing import Any, Literal, NamedTuple

import numpy as np
import scipy.stats

from experiments.beyond.speedup.contenders import ARMS, Arm
from experiments.beyond.speedup.tuning import learned, levels_of, time_to_accuracy
from sslstep import claims, optim
from sslstep.experiment import Arrays, training
from sslstep.experiment.panels import markdown

TITLES = {
    "linear": "linear model",
    "mlp": "one hidden layer",
    "photos": "ResNet, photographs",
    "cifar10": "ResNet, CIFAR-10",
    "stl10": "ResNet, STL-10",
    "standard": "ResNet, ordinary initialisation",
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
    if len(logs) < 2:
        return Ratio(np.nan, np.nan, np.nan, len(logs))
    half = np.hypot(_half_width(logs), error)
    mean, low, high = (float(np.exp(logs.mean() + part)) for part in (0, -half, half))
    return Ratio(mean, low, high, len(logs))


def _half_width(values: np.ndarray) -> float:
    """Return the half width of Student's 95% interval of the mean."""
    factor = scipy.stats.t.ppf(0.975, len(values) - 1)
    return float(factor * values.std(ddof=1) / len(values) ** 0.5)


def mean_and_deviation(values: Any) -> tuple[float, float]:
    """Return mean and standard deviation of the finite values; NaN for fewer than two."""
    there = np.asarray(values)[np.isfinite(values)]
    if len(there) < 2:
        return np.nan, np.nan
    return float(there.mean()), float(there.std(ddof=1))


class Case:
    """The results of one case, with measures of each of its arms.

    Attributes:
        title: name in figures and tables.
        target: the number of dimensions for which arms were tuned.
        arrays: arrays of the case, by arm and name.
        arms: the arms trained on the case by name, in the order of the settings.
    """

    def __init__(self, config: Any, arrays: Arrays, name: str) -> None:
        self.problem = getattr(config, name if hasattr(config, name) else "resnet")
        self.title, self.target, self.seeds = TITLES[name], int(self.problem.target), config.seeds
        self.arrays = training.run_of(arrays, name)
        trained = [arm for arm in config.arms if f"{arm}/times" in self.arrays]
        self.arms: dict[str, Arm] = {arm: ARMS[arm] for arm in trained}

    def learned(self, arm: str) -> np.ndarray:
        """Return the steps at which k = 1...d dimensions are learned, shape (seeds, d).

        A time is `inf` if the dimension is lost again by the end, or if the run diverges.
        """
        whole = np.asarray(self.arrays[f"{arm}/finite"], bool)
        times = self.arrays[f"{arm}/times"]
        last = learned(
            self.arrays[f"{arm}/eigenvalues"][:, -1], levels_of(ARMS[arm], times.shape[1])
        )
        return np.where(whole[:, None] & last, times, np.inf)

    @property
    def goal(self) -> Literal["dimensions", "accuracy"]:
        """What arms were tuned to: a number of dimensions, or an accuracy."""
        return "dimensions" if self.problem.accuracy is None else "accuracy"

    @property
    def accuracy(self) -> float:
        """The accuracy to which times are taken.

        It is the given goal, or Barlow Twins' mean final accuracy less its standard deviation over
        seeds.
        """
        if self.problem.accuracy is not None:
            return float(self.problem.accuracy)
        mean, deviation = mean_and_deviation(self.final_accuracy("plain"))
        return mean - deviation

    @property
    def wanted(self) -> str:
        """The goal in words."""
        if self.goal == "accuracy":
            return f"an accuracy of {self.accuracy:.0%}"
        return f"{self.target} dimensions"

    @property
    def probed(self) -> bool:
        """Whether probes were trained."""
        return bool(np.isfinite(self.arrays["plain/accuracy"]).any())

    def final_accuracy(self, arm: str) -> np.ndarray:
        """Return the mean accuracy of each seed's last probes; NaN if the run diverged.

        They are as many as the goal is compared with, two at least.
        """
        num = max(2, self.problem.averaged)
        found: np.ndarray = self.arrays[f"{arm}/accuracy"][:, -num:].mean(axis=1)
        return found

    @property
    def times_accuracy(self) -> bool:
        """Whether times to an accuracy mean anything.

        They do if it is the goal, or if training by Barlow Twins raises accuracy by more than two
        standard errors.
        """
        if not self.probed or self.goal == "accuracy":
            return self.probed
        gained = self.final_accuracy("plain") - self.arrays["plain/accuracy"][:, 0]
        mean, deviation = mean_and_deviation(gained)
        return bool(mean > 2 * deviation / len(gained) ** 0.5)

    def times_to_accuracy(self, arm: str) -> np.ndarray:
        """Return the step from which each seed's accuracy stays at `accuracy`; `inf` if never."""
        steps, curves = self.arrays[f"{arm}/record_steps"], self.arrays[f"{arm}/accuracy"]
        of = self.accuracy, self.problem.averaged
        return np.asarray([time_to_accuracy(steps, curve, *of) for curve in curves])

    def cost(self, arm: str) -> tuple[float, float]:
        """Return the duration of an arm's step over that of Barlow Twins, and its error.

        The ratio is a geometric mean over rounds. The error is the half width of the logarithm's
        95% interval.
        """
        logs = np.log(self.arrays[f"{arm}/seconds"] / self.arrays["plain/seconds"])
        return float(np.exp(logs.mean())), _half_width(logs) if arm != "plain" else 0.0

    def times_to(self, to: str, arm: str) -> np.ndarray:
        """Return each seed's steps to the target dimensions, or to the accuracy (`to`)."""
        if to == "accuracy":
            return self.times_to_accuracy(arm)
        return self.learned(arm)[:, self.target - 1]

    def ratios(self, to: str, arm: str, *, over: str = "plain") -> tuple[Ratio, Ratio]:
        """Return the ratios of steps and of seconds of the arm `over` to those of an arm.

        If the arm `over` misses the target, its last step counts as its time; the ratio is then a
        lower bound.
        """
        first = np.minimum(self.times_to(to, over), self.arrays[f"{over}/record_steps"][-1])
        second = self.times_to(to, arm)
        times, error = self.cost(arm)
        return ratio(first, second), ratio(first, second * times, error=error)

    def lower(self, arm: str, over: str) -> float:
        """Return the lower end of the ratio of steps; 0 if some seed has no ratio."""
        found = self.ratios(self.goal, arm, over=over)[0]
        return found.low if found.num == len(self.seeds) else 0.0

    def tuned(self, arm: str) -> float:
        """Return the tuning score of an arm's chosen setting; `inf` if no setting lasted."""
        rows, chosen = self.arrays[f"{arm}/trials"], self.arrays[f"{arm}/chosen"]
        found = rows[(rows[:, :2] == chosen).all(axis=1), 2].min()
        return float(found) if self.arrays[f"{arm}/lasts"] else np.inf


def cases_of(config: Any, arrays: Arrays) -> list[Case]:
    """Return the cases in the arrays, in order."""
    return [Case(config, arrays, name) for name in dict.fromkeys(k.split("/")[0] for k in arrays)]


def table(config: Any, arrays: Arrays) -> str:
    """Return tables of all arms, one for each case, in Markdown."""
    parts = []
    for case in cases_of(config, arrays):
        k, d = case.target, case.arrays["plain/times"].shape[1]
        dims = list(dict.fromkeys((1, k, d)))
        head = ["arm", "rate", "own", "cost of a step"]
        if case.goal == "dimensions":
            head += [f"steps to {', '.join(map(str, dims))} dimensions", f"steps ratio to {k}"]
            head += [f"seconds to {k}", "seconds ratio"]
        head += ["final accuracy", "rank of h"] if case.probed else []
        head += ["rank of z"]
        if case.times_accuracy:
            head += [f"steps to {case.accuracy:.0%}", "steps ratio", "seconds ratio"]
        rows = markdown([head, *(_row(case, name, dims) for name in case.arms)])
        parts.append(f"### {case.title}\n\n{rows}\n")
    return "\n".join(parts)


def _row(case: Case, name: str, dims: list[int]) -> list[str]:
    """Return the cells of an arm's row in the table of a case."""
    arm, arrays = case.arms[name], training.run_of(case.arrays, name)
    rate, own = arrays["chosen"]
    label = arm.label if arrays["lasts"] else f"{arm.label} (nothing lasted in tuning)"
    row = [label, f"{rate:.3g}", f"{own:.3g}" if arm.own else "", f"{case.cost(name)[0]:.2f}"]
    if case.goal == "dimensions" and arm.measured is None:
        row += ["", "", "", ""]
    elif case.goal == "dimensions":
        times = case.learned(name)
        by_step, by_second = (_interval(each, case) for each in case.ratios("dimensions", name))
        seconds = _count(times[:, case.target - 1] * np.median(arrays["seconds"]), 3)
        row += [" / ".join(_count(times[:, k - 1]) for k in dims), by_step, seconds, by_second]
    if case.probed:
        row += [_spread(case.final_accuracy(name), 3), _spread(arrays["rank_h"], 1)]
    row += [_spread(arrays["rank_z"], 1)]
    if case.times_accuracy:
        ratios = (_interval(each, case) for each in case.ratios("accuracy", name))
        row += [_count(case.times_to_accuracy(name)), *ratios]
    return row


def _count(times: np.ndarray, digits: int = 0) -> str:
    """Format the geometric mean of the finite times, and their number if some are infinite."""
    there = times[np.isfinite(times)]
    if not len(there):
        return "never"
    mean = float(np.exp(np.log(np.maximum(there, 1e-9)).mean()))
    text = f"{mean:.{digits}g}" if digits else f"{mean:.0f}"
    return text + (f" ({len(there)} of {len(times)})" if len(there) < len(times) else "")


def _interval(value: Ratio, case: Case) -> str:
    """Format a ratio with its interval, and its number of seeds if some lack it."""
    if not np.isfinite(value.mean):
        return "-"
    some = f" ({value.num} of {len(case.seeds)})" if value.num < len(case.seeds) else ""
    return f"{value.mean:.2f} [{value.low:.2f}, {value.high:.2f}]{some}"


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
    for case in cases_of(config, arrays):
        remedies = [
            name
            for name, arm in case.arms.items()
            if arm.kind in ("remedy", "combination") and arm.optimizer is optim.sgd
        ]
        obvious = [n for n, arm in case.arms.items() if arm.kind == "obvious" and arm.measured]
        if not remedies:
            continue
        best = min(remedies, key=case.tuned)
        what = f"{case.title}: {ARMS[best].label}, the remedy that is fastest in tuning,"
        out.append(
            claims.above(
                f"{what} against tuned Barlow Twins, steps to {case.wanted}: lower end of the 95% "
                f"interval of the ratio (at least 2 is wanted)",
                "App. G",
                expected=2.0,
                measured=case.lower(best, "plain"),
            )
        )
        if obvious:
            rival = min(obvious, key=case.tuned)
            out.append(
                claims.above(
                    f"{what} against {ARMS[rival].label}, the fastest of what is obvious: the same",
                    "beyond the paper",
                    expected=1.0,
                    measured=case.lower(best, rival),
                )
            )
        if case.probed:
            differences = case.final_accuracy(best) - case.final_accuracy("plain")
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
