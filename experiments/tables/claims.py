"""Tables and claims of the experiment `tables`, beside the paper's values."""

from typing import Any

import numpy as np

from experiments.tables.experiment import PAPER_TABLE_2, Config
from sslstep import claims
from sslstep.experiment import Arrays, training
from sslstep.experiment.panels import markdown
from sslstep.measure import alignment
from sslstep.recipes import LABELS

# The paper's Table 1 by method: alignment with the final NTK's prediction, with its eigenvectors.
PAPER_TABLE_1 = {
    "barlow_twins": (0.615, 0.510),
    "simclr": (0.517, 0.450),
    "vicreg": (0.592, 0.481),
}

# Bars of Table 1: key, label, hatch.
BARS = (
    ("final NTK", "final NTK (Eq. 49)", "///"),
    ("top modes", "its leading eigenvectors", "..."),
    ("initial NTK", "initial NTK", "xx"),
    ("random", "random subspace", ""),
)


def values(config: Config, arrays: Arrays, start: str, key: str = "") -> np.ndarray:
    """Return the arrays `start/seed/key`, stacked over the seeds that have it.

    `start` is a method, or two methods joined by "/", which have the alignment of their embeddings.
    """
    names = [f"{start}/{seed}/{key}".removesuffix("/") for seed in config.seeds]
    return np.array([arrays[name] for name in names if name in arrays])


def _chance(config: Config, method: Any) -> float:
    """Return the alignment of random subspaces for a method."""
    return alignment.chance_level(config.recipes.of(method).dim, 2 * config.num_pairs)


def table(config: Config, arrays: Arrays) -> str:
    """Return Tables 1 and 2 in Markdown, with means and ranges over seeds."""
    methods = config.methods
    few = f"NTK, {config.num_along} pairs"
    kinds = [(f"{kind}, fewer pairs", f"final {kind} {few}") for kind in ("scalar", "trace")]
    predictions = [("final NTK", "final NTK"), *kinds]
    learned = [(f"{key}, learned", f"learned directions: {label}") for key, label in predictions]
    learned += [
        (f"{key}, gap outside", f"share of the gap in others: {label}")
        for key, label in predictions
    ]
    first = [["", *(LABELS[method] for method in methods)]]
    for k, (key, label) in enumerate([*(bar[:2] for bar in BARS), *kinds, *learned]):
        first.append([label, *(_cell(values(config, arrays, method, key)) for method in methods)])
        if k < 2:
            first.append(["*the paper's*", *(f"*{PAPER_TABLE_1[m][k]:.3f}*" for m in methods)])
    counts = (values(config, arrays, method, "learned") for method in methods)
    numbers = (", ".join(str(int(number)) for number in of_seeds) for of_seeds in counts)
    dims = [config.recipes.of(method).dim for method in methods]
    first.append(["learned, of d", *(f"{n} of {d}" for n, d in zip(numbers, dims, strict=True))])
    found = {pair: values(config, arrays, "/".join(pair)) for pair in PAPER_TABLE_2}
    pairs = {pair: alignments for pair, alignments in found.items() if len(alignments)}
    second = [
        ["", *(f"{LABELS[one]} and {LABELS[other]}" for one, other in pairs)],
        ["what they learned, against each other", *map(_cell, pairs.values())],
        ["*the paper's*", *(f"*{PAPER_TABLE_2[pair]:.3f}*" for pair in pairs)],
    ]
    about = (
        f"n = {config.num_pairs} pairs, seeds {', '.join(map(str, config.seeds))}: mean and range. "
        f"The paper's are of ResNet-50, d = 50, on STL-10."
    )
    parts = [f"### Table 1: alignment with the NTK\n\n{about}\n\n{markdown(first)}"]
    if pairs:
        parts.append(f"### Table 2: alignment of two methods\n\n{markdown(second)}")
    return "\n\n".join(parts) + "\n"


def _cell(of_seeds: np.ndarray) -> str:
    """Format the mean and range over seeds."""
    if not len(of_seeds):
        return "-"  # results of an older version
    mean = f"{of_seeds.mean():.3f}"
    return mean if len(of_seeds) == 1 else f"{mean} ({of_seeds.min():.3f} to {of_seeds.max():.3f})"


def finite_n(numbers: np.ndarray, values: np.ndarray) -> tuple[float, float]:
    r"""Extrapolate the alignment on held-out pairs to infinite n; return two numbers.

    The first is :math:`a_\infty` of the fit :math:`a_n = a_\infty - c n^{-1/2}`, by least squares
    on the larger half of the numbers n. The second is the fraction of the gap from 1, at the
    largest n, that is due to finite n: :math:`(a_\infty - a_n) / (1 - a_n)`.
    """
    last = slice(min(len(numbers) // 2, len(numbers) - 2), None)
    limit = np.polyfit(numbers[last] ** -0.5, values[last], 1)[1]
    return float(limit), float((limit - values[-1]) / (1 - values[-1]))


def check(config: Config, arrays: Arrays, times: int = 10) -> list[claims.Claim]:
    """Claims on Tables 1 and 2, on other predictions, and on the effect of finite n.

    Alignments should be `times` their value for random subspaces.
    """
    out: list[claims.Claim] = []

    def at_least(what: str, where: str, expected: float, measured: Any) -> None:
        out.append(claims.over_seeds(what, where, ">=", expected=expected, measured=list(measured)))

    for method in config.methods:
        name, chance = LABELS[method], _chance(config, method)
        found = {key: values(config, arrays, method, key) for key, *_ in BARS}
        learned, final = values(config, arrays, method, "final NTK, learned"), found["final NTK"]
        of_paper = PAPER_TABLE_1[method]
        for key, what, value in (
            ("final NTK", "the prediction of the final NTK", of_paper[0]),
            ("top modes", "the final NTK's leading eigenvectors", of_paper[1]),
        ):
            text = (
                f"{name}: alignment with {what} is {times} times chance, {chance:.3f} (the paper: "
            )
            at_least(f"{text}{value}, ResNet-50, d = 50)", "Table 1", times * chance, found[key])
        at_least(
            f"{name}: the final NTK predicts better than the initial one, difference",
            "App. E",
            0.0,
            final - found["initial NTK"],
        )
        at_least(
            f"{name}: and better than its own leading eigenvectors (the paper: by "
            f"{of_paper[0] - of_paper[1]:.3f}), difference",
            "Table 1",
            0.0,
            final - found["top modes"],
        )
        at_least(
            f"{name}: the learned directions, by as many predicted ones, are predicted better "
            f"than all {config.recipes.of(method).dim}, difference",
            "beyond the paper",
            0.0,
            learned - final,
        )
        runs = [training.run_of(arrays, f"{method}/{seed}") for seed in config.seeds]
        if len(runs[0]["numbers"]) == 1:
            continue  # there is no trend
        at_least(
            f"{name}: finite n accounts for most of the gap from 1, by the trend of held-out "
            f"pairs up to n = {runs[0]['numbers'][-1]}; share",
            "App. E",
            0.5,
            [finite_n(one["numbers"], one["held out"])[1] for one in runs],
        )
        because = "predictions from few pairs and from many have the same alignment"
        out[-1] = out[-1].known_to_fail(because)
    for (one, other), value in PAPER_TABLE_2.items():
        alignments = values(config, arrays, f"{one}/{other}")
        if len(alignments):
            chance = max(_chance(config, one), _chance(config, other))
            text = f"{LABELS[one]} and {LABELS[other]}: alignment of what they learned is {times}"
            text += f" times chance, {chance:.3f} (the paper: {value})"
            at_least(text, "Table 2", times * chance, alignments)
    return out
