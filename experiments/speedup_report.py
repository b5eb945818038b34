"""What the study of speed-ups shows: ratios with their intervals, figures, a table, claims."""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import scipy.stats

from experiments._run import Arrays
from experiments._speedup_arms import ARMS
from sslstep import claims, plotting

if TYPE_CHECKING:
    from matplotlib.axes import Axes

TITLES = {
    "linear": "linear model",
    "mlp": "one hidden layer",
    "photos": "ResNet, photographs",
    "cifar10": "ResNet, CIFAR-10",
    "stl10": "ResNet, STL-10",
}
MARKERS = {"reference": "o", "obvious": "s", "remedy": "D", "combination": "^"}
COLORS = {
    "reference": "black",
    "obvious": plotting.CATEGORIES[1],
    "remedy": plotting.CATEGORIES[0],
    "combination": plotting.CATEGORIES[2],
}
DASHES: tuple[Any, ...] = ("-", "--", "-.", ":", (0, (5, 1)), (0, (1, 1)), (0, (3, 1, 1, 1)))
# An accuracy is reached a point below what Barlow Twins ends with: probes are no more exact.
ACCURACY_MARGIN = 0.01


class Ratio(NamedTuple):
    """How many times less an arm takes than Barlow Twins, from the same seeds.

    A geometric mean with its 95% interval (Student's, of logarithms), over the seeds in which both
    arrive; nan where they are fewer than two.
    """

    mean: float
    low: float
    high: float
    num: int


def ratio(plain: np.ndarray, arm: np.ndarray) -> Ratio:
    """Of one number for each seed, infinite where it does not arrive."""
    both = np.isfinite(plain) & np.isfinite(arm) & (arm > 0) & (plain > 0)
    logs = np.log(plain[both] / arm[both])
    num = len(logs)
    if num < 2:
        return Ratio(np.nan, np.nan, np.nan, num)
    half = scipy.stats.t.ppf(0.975, num - 1) * logs.std(ddof=1) / num**0.5
    mean, low, high = (float(np.exp(logs.mean() + part)) for part in (0, -half, half))
    return Ratio(mean, low, high, num)


def arms_of(config: Any, arrays: Arrays, case: str) -> list[str]:
    """Those that were trained on a problem, in order."""
    return [name for name in config.arms if f"{case}/{name}/times" in arrays]


def times_learned(arrays: Arrays, case: str, name: str) -> np.ndarray:
    """Of each seed and dimension; a run that broke off later has learned nothing."""
    whole = np.asarray(arrays[f"{case}/{name}/finite"], bool)
    return np.where(whole[:, None], arrays[f"{case}/{name}/times"], np.inf)


def final_accuracy(arrays: Arrays, case: str, name: str) -> np.ndarray:
    """Mean of the last two probes of each seed; nan where the run broke off."""
    return np.asarray(arrays[f"{case}/{name}/accuracy"])[:, -2:].mean(axis=1)


def times_to_accuracy(arrays: Arrays, case: str, name: str) -> np.ndarray:
    """When each seed's probe is as accurate as Barlow Twins' in the end, but for the margin.

    Counted from its worst: what a network has before it learns is lost first. Between two probes
    the accuracy is interpolated.
    """
    target = np.nanmean(final_accuracy(arrays, case, "plain")) - ACCURACY_MARGIN
    steps = np.asarray(arrays[f"{case}/{name}/record_steps"], float)
    out = []
    for curve in np.asarray(arrays[f"{case}/{name}/accuracy"]):
        if np.isnan(curve).any():
            out.append(np.inf)
            continue
        worst = int(np.argmin(curve))
        above = worst + np.flatnonzero(curve[worst:] >= target)
        if not above.size:
            out.append(np.inf)
        elif above[0] == worst:
            out.append(max(float(steps[worst]), 1.0))
        else:
            i = above[0]
            part = (target - curve[i - 1]) / (curve[i] - curve[i - 1])
            out.append(float(steps[i - 1] + part * (steps[i] - steps[i - 1])))
    return np.asarray(out)


def relative_cost(arrays: Arrays, case: str, name: str) -> float:
    """Seconds of a step over those of Barlow Twins': the median of ratios timed in turn."""
    pair = (arrays[f"{case}/{name}/seconds"], arrays[f"{case}/plain/seconds"])
    return float(np.median(pair[0] / pair[1]))


def ratios(config: Any, arrays: Arrays, case: str, name: str, *, to: str) -> tuple[Ratio, Ratio]:
    """Of steps and of seconds, to the target number of dimensions or to the accuracy."""
    both = []
    for each in ("plain", name):
        if to == "accuracy":
            both.append(times_to_accuracy(arrays, case, each))
        else:
            both.append(times_learned(arrays, case, each)[:, target(config, case) - 1])
    plain, arm = both
    return ratio(plain, arm), ratio(plain, arm * relative_cost(arrays, case, name))


def target(config: Any, case: str) -> int:
    """The number of dimensions that arms were tuned for."""
    number: int = getattr(config, case if case in ("linear", "mlp") else "resnet").target
    return number


def has_probe(arrays: Arrays, case: str) -> bool:
    """Whether probes were trained on a problem."""
    return bool(np.isfinite(arrays[f"{case}/plain/accuracy"]).any())


def cases_of(arrays: Arrays) -> list[str]:
    """The problems that were run, in order."""
    return list(dict.fromkeys(key.split("/")[0] for key in arrays))


def table(config: Any, arrays: Arrays) -> str:
    """All numbers, in Markdown."""
    parts = []
    for case in cases_of(arrays):
        k, d = target(config, case), arrays[f"{case}/plain/times"].shape[1]
        head = ["arm", "rate", "own", f"steps to 1, {k}, {d} dims", f"steps ratio to {k}"]
        head += ["cost of a step", "seconds ratio", "accuracy", "steps ratio to it", "seconds"]
        head += ["rank of h", "of z", "seeds"]
        rows = [head, ["---"] * len(head)]
        for name in arms_of(config, arrays, case):
            rows.append(_row(config, arrays, case, name, (1, k, d)))
        lines = ["| " + " | ".join(row) + " |" for row in rows]
        parts.append("\n".join([f"### {TITLES[case]}", "", *lines, ""]))
    return "\n".join(parts)


def _row(config: Any, arrays: Arrays, case: str, name: str, dims: Sequence[int]) -> list[str]:
    arm, prefix = ARMS[name], f"{case}/{name}"
    rate, own = arrays[f"{prefix}/chosen"]
    times = times_learned(arrays, case, name)
    whole = int(np.sum(arrays[f"{prefix}/finite"]))
    row = [arm.label, f"{rate:.3g}", f"{own:.3g}" if arm.own else ""]
    by_step, by_second = ratios(config, arrays, case, name, to="dimensions")
    if arm.measured is None:
        row += ["", ""]
    else:
        row += [" / ".join(_count(times[:, k - 1]) for k in dims), _interval(by_step)]
    row += [f"{relative_cost(arrays, case, name):.2f}"]
    row += ["" if arm.measured is None else _interval(by_second)]
    if has_probe(arrays, case):
        by_step, by_second = ratios(config, arrays, case, name, to="accuracy")
        row += [_spread(final_accuracy(arrays, case, name), 3), _interval(by_step)]
        row += [_interval(by_second)]
    else:
        row += ["", "", ""]
    row += [_spread(arrays[f"{prefix}/{rank}"], 1) for rank in ("rank_h", "rank_z")]
    return [*row, f"{whole} of {len(times)}"]


def _count(times: np.ndarray) -> str:
    """Geometric mean over the seeds that arrive, and how many do if not all."""
    there = times[np.isfinite(times)]
    if not len(there):
        return "never"
    mean = float(np.exp(np.log(np.maximum(there, 1)).mean()))
    return f"{mean:.0f}" + (f" ({len(there)} of {len(times)})" if len(there) < len(times) else "")


def _interval(value: Ratio) -> str:
    if not np.isfinite(value.mean):
        return "-"
    return f"{value.mean:.2f} [{value.low:.2f}, {value.high:.2f}]"


def _mean(values: Any) -> tuple[float, float]:
    """And standard deviation, of the seeds that there are; nan of fewer than two."""
    there = np.asarray(values)[np.isfinite(values)]
    return (there.mean(), there.std(ddof=1)) if len(there) > 1 else (np.nan, np.nan)


def _spread(values: Any, digits: int) -> str:
    mean, deviation = _mean(values)
    return f"{mean:.{digits}f} ± {deviation:.{digits}f}" if np.isfinite(mean) else "-"


def plot(config: Any, arrays: Arrays) -> dict[str, Any]:
    """The trade-off, arm by arm; and how dimensions are learned."""
    return {"figure": _trade_off(config, arrays), "learned": _learned(config, arrays)}


def _trade_off(config: Any, arrays: Arrays) -> Any:
    import matplotlib.pyplot as plt
    from matplotlib.lines import Line2D

    cases = cases_of(arrays)
    rows = [len(arms_of(config, arrays, case)) for case in cases]
    fig, axes = plt.subplots(
        len(cases),
        4,
        figsize=(7.4, 0.9 + 0.155 * sum(rows) + 0.35 * len(cases)),
        squeeze=False,
        gridspec_kw={"height_ratios": rows},
    )
    for case, line in zip(cases, axes, strict=True):
        names = arms_of(config, arrays, case)
        for ax in line:
            ax.set_yticks(range(len(names)), labels=[])
            ax.set_ylim(len(names) - 0.5, -0.5)
            ax.grid(axis="y", color="0.92", linewidth=0.5)
        line[0].set_yticks(range(len(names)), labels=[_label(name) for name in names], fontsize=6)
        title = f"{TITLES[case]}: k = {target(config, case)}"
        line[0].set_title(title, loc="left", fontsize=8)
        for y, name in enumerate(names):
            _arm(config, arrays, case, name, y, line)
        probed = has_probe(arrays, case)
        for ax in line[: 2 if probed else 1]:
            ax.axvline(1, color="0.3", linewidth=0.6, linestyle=":", zorder=0)
            _ratio_axis(ax)
        for ax in [] if probed else line[1:]:
            ax.set_axis_off()
        if probed:
            mean = _mean(final_accuracy(arrays, case, "plain"))[0]
            line[2].axvline(mean, color="0.3", linewidth=0.6, linestyle=":", zorder=0)
    labels = ("speed-up to k dims", "speed-up to accuracy", "final accuracy", "effective rank")
    for ax, label in zip(axes[-1], labels, strict=True):
        ax.set_xlabel(label)
    handles = [
        Line2D([], [], linestyle="", marker=marker, color=COLORS[kind], label=kind)
        for kind, marker in MARKERS.items()
    ]
    for label, face in (("by steps", "0.3"), ("by seconds", "white")):
        handles.append(
            Line2D([], [], linestyle="", marker="o", color="0.3", markerfacecolor=face, label=label)
        )
    fig.legend(handles=handles, loc="outside upper center", ncols=6, fontsize=6, markerscale=0.7)
    return fig


def _arm(config: Any, arrays: Arrays, case: str, name: str, y: int, line: Any) -> None:
    """One row of the panels of one problem."""
    arm = ARMS[name]
    color = COLORS[arm.kind]
    style: dict[str, Any] = {"fmt": MARKERS[arm.kind], "color": color, "markersize": 3.5}
    style |= {"elinewidth": 0.8, "capsize": 0}
    for ax, to in zip(line[:2], ("dimensions", "accuracy"), strict=True):
        if (to == "dimensions" and arm.measured is None) or (
            to == "accuracy" and not has_probe(arrays, case)
        ):
            continue
        pair = ratios(config, arrays, case, name, to=to)
        for value, shift, face in zip(pair, (-0.17, 0.17), (color, "white"), strict=True):
            if np.isfinite(value.mean):
                error = [[value.mean - value.low], [value.high - value.mean]]
                ax.errorbar(value.mean, y + shift, xerr=error, markerfacecolor=face, **style)
    if has_probe(arrays, case):
        for ax, values in (
            (line[2], final_accuracy(arrays, case, name)),
            (line[3], arrays[f"{case}/{name}/rank_h"]),
        ):
            mean, deviation = _mean(values)
            ax.errorbar(mean, y, xerr=deviation, **style)


def _ratio_axis(ax: "Axes") -> None:
    """Logarithmic, with ticks at powers of two or four."""
    ax.set_xscale("log")
    low, high = ax.get_xlim()
    low, high = max(min(low, 0.8), 0.1), min(max(high, 2.5), 300)
    base = 2 if high / low < 64 else 4
    powers = [float(base) ** k for k in range(-4, 9) if low <= float(base) ** k <= high]
    ax.set_xlim(low, high)
    ax.set_xticks(powers, labels=[f"{p:g}" if p >= 1 else f"1/{1 / p:g}" for p in powers])
    ax.set_xticks([], minor=True)


def _learned(config: Any, arrays: Arrays) -> Any:
    """How many dimensions are learned along training, the median over seeds."""
    import matplotlib.pyplot as plt

    cases, kinds = cases_of(arrays), ("obvious", "remedy", "combination")
    fig, axes = plt.subplots(
        len(cases), 3, figsize=(7.2, 1.3 + 1.6 * len(cases)), squeeze=False, sharey="row"
    )
    for case, line in zip(cases, axes, strict=True):
        for ax, kind in zip(line, kinds, strict=True):
            shown = [
                name
                for name in arms_of(config, arrays, case)
                if ARMS[name].measured is not None and ARMS[name].kind in ("reference", kind)
            ]
            colors = ["black", "0.5", *plotting.CATEGORIES]
            for name, color, dash in zip(shown, colors, DASHES, strict=False):
                times = np.sort(np.median(times_learned(arrays, case, name), axis=0))
                there = np.maximum(times[np.isfinite(times)], 1)
                counts = np.arange(1, len(there) + 1)
                ax.step(
                    there, counts, where="post", color=color, ls=dash, lw=1.1, label=_label(name)
                )
                ax.plot(there[-1:], counts[-1:], ".", color=color, markersize=3)
            ax.set_xscale("log")
        line[0].set_ylabel(f"{TITLES[case]}\ndimensions learned", fontsize=7)
    for ax in axes[-1]:
        ax.set_xlabel("step")
    plotting.label_panels(list(axes.ravel()))
    for ax in axes[-1]:
        ax.legend(
            loc="upper center", bbox_to_anchor=(0.5, -0.35), ncols=1, fontsize=6, handlelength=3
        )
    return fig


def check(config: Any, arrays: Arrays) -> list[claims.Claim]:
    """What the best remedy is worth on each problem, and at what accuracy."""
    out: list[claims.Claim] = []
    for case in cases_of(arrays):
        remedies = [
            name
            for name in arms_of(config, arrays, case)
            if ARMS[name].kind in ("remedy", "combination")
        ]
        if not remedies:
            continue
        fair = [name for name in remedies if _as_accurate(arrays, case, name)]
        place = "App. G"
        best = max(remedies, key=lambda name: _lower(config, arrays, case, name, "dimensions"))
        out.append(
            claims.above(
                f"{TITLES[case]}: the best remedy ({_label(best)}) against tuned Barlow Twins, "
                f"steps to {target(config, case)} dimensions, lower end of the 95% interval",
                place,
                expected=2.0,
                measured=_lower(config, arrays, case, best, "dimensions"),
            )
        )
        if not has_probe(arrays, case):
            continue
        for to, what in (
            ("dimensions", f"steps to {target(config, case)} dimensions"),
            ("accuracy", "steps to its accuracy"),
        ):
            named = max(fair, key=lambda name: _lower(config, arrays, case, name, to), default=None)
            out.append(
                claims.above(
                    f"{TITLES[case]}: the best of the {len(fair)} remedies that end as accurate "
                    f"({_label(named) if named else 'none'}), {what}, lower end of the interval",
                    place,
                    expected=2.0,
                    measured=_lower(config, arrays, case, named, to) if named else 0.0,
                )
            )
    return out


def _label(name: str) -> str:
    return ARMS[name].label


def _lower(config: Any, arrays: Arrays, case: str, name: str, to: str) -> float:
    """Of the ratio of steps; 0 if an arm does not arrive from every seed."""
    found = ratios(config, arrays, case, name, to=to)[0]
    return found.low if found.num == len(config.seeds) else 0.0


def _as_accurate(arrays: Arrays, case: str, name: str) -> bool:
    """Whether the final accuracy is Barlow Twins', to a point, or above."""
    if not has_probe(arrays, case):
        return True
    means = [float(np.mean(final_accuracy(arrays, case, each))) for each in (name, "plain")]
    return means[0] >= means[1] - ACCURACY_MARGIN
