r"""A measured number held against the paper's statement.

A :class:`Claim` is one statement, where the paper makes it, the value it predicts, the value a run
measured, and how far apart they may be. Experiments make claims and write them to ``claims.json``;
``make claims`` prints them all. Training a network amplifies rounding until it is as good as
another seed: a claim about trained networks is made :func:`over_seeds`, and may stay undecided.
"""

import json
import math
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Literal, NamedTuple

import numpy as np

__all__ = ["Claim", "above", "below", "close", "count", "load", "over_seeds", "save", "table"]


class Claim(NamedTuple):
    """One statement with its evidence.

    Attributes:
        statement: what is claimed, in a sentence.
        where: the equation, figure or section it comes from; or "beyond the paper".
        expected: the predicted value.
        measured: the measured value; over several seeds, their mean.
        tolerance: how far ``measured`` may lie from ``expected``, on the side or sides that count.
        holds: whether it does; None if the seeds leave it undecided.
        relation: on which side the measured value must lie: ``"="``, both within the tolerance;
            ``"<="``, at most so far above the expected one; ``">="``, at most so far below; ``""``
            in files of before it was written down.
        interval: the confidence interval of the mean over seeds; None for a single number.
        seeds: the value of each seed; empty for a single number.
    """

    statement: str
    where: str
    expected: float
    measured: float
    tolerance: float
    holds: bool | None
    relation: Literal["=", "<=", ">=", ""] = ""
    interval: tuple[float, float] | None = None
    seeds: tuple[float, ...] = ()

    @property
    def verdict(self) -> Literal["yes", "NO", "undecided"]:
        """The outcome as tables print it."""
        return "undecided" if self.holds is None else "yes" if self.holds else "NO"

    @property
    def spread(self) -> str:
        """The interval over seeds, in words; empty for a single number."""
        if self.interval is None:
            return ""
        if len(self.seeds) == 1:
            return "one seed, which decides nothing"
        low, high = self.interval
        return f"{len(self.seeds)} seeds: mean within {low:.4g} to {high:.4g}"


def close(
    statement: str, where: str, *, expected: float, measured: float, tolerance: float
) -> Claim:
    """The measured value lies within ``tolerance`` (absolute) of the expected one.

    Args:
        statement: what is claimed, in a sentence.
        where: the equation, figure or section it comes from; or "beyond the paper".
        expected: the predicted value.
        measured: the measured value; NaN or infinity never hold.
        tolerance: how far they may be apart.

    Returns:
        The claim, and whether it holds.

    Example:
        >>> from sslstep import claims
        >>> claims.close("pi is 3.14", "-", expected=3.14, measured=3.1416, tolerance=0.01).holds
        True
    """
    return _claim(statement, where, expected, measured, tolerance, "=")


def below(
    statement: str, where: str, *, expected: float = 0.0, measured: float, tolerance: float
) -> Claim:
    """The measured value exceeds the expected one by ``tolerance`` at most.

    For errors and residuals: ``expected`` is what they would be at best, usually zero. The rest is
    as in :func:`close`.

    Example:
        >>> from sslstep import claims
        >>> claims.below("the error vanishes", "-", measured=1e-7, tolerance=1e-6).holds
        True
    """
    return _claim(statement, where, expected, measured, tolerance, "<=")


def above(
    statement: str, where: str, *, expected: float, measured: float, tolerance: float = 0.0
) -> Claim:
    """The measured value falls short of the expected one by ``tolerance`` at most.

    Arguments are those of :func:`close`.

    Example:
        >>> from sslstep import claims
        >>> claims.above("ten modes are learned", "-", expected=10, measured=9).holds
        False
    """
    return _claim(statement, where, expected, measured, tolerance, ">=")


def over_seeds(
    statement: str,
    where: str,
    relation: Literal["=", "<=", ">="],
    *,
    expected: float = 0.0,
    measured: Sequence[float],
    tolerance: float = 0.0,
    confidence: float = 0.95,
) -> Claim:
    r"""The mean over seeds lies within ``tolerance`` of the expected value, with confidence.

    Student's interval of the mean of n seeds,

    .. math:: \bar x \pm t_{n-1,\,(1 + c)/2}\, \hat\sigma / \sqrt n ,

    decides. The claim holds if the whole interval satisfies the relation, does not hold if no point
    of it does, and is undecided otherwise. So a larger spread never makes a claim hold, and one
    seed decides nothing.

    Args:
        statement: what is claimed, in a sentence.
        where: the equation, figure or section it comes from; or "beyond the paper".
        relation: ``"="``, ``"<="`` or ``">="``, as in :class:`Claim`.
        expected: the predicted value.
        measured: one value of each seed; the claim does not hold if one is NaN or infinite.
        tolerance: how far the mean may lie from the expected value.
        confidence: c, of the two-sided interval.

    Returns:
        The claim, with its interval and the seeds' values.

    Raises:
        ValueError: if there is no value, or the confidence is not between 0 and 1.

    Example:
        >>> from sslstep import claims
        >>> few = claims.over_seeds("ten rise", "-", ">=", expected=10, measured=[10, 14, 11])
        >>> few.verdict, [round(end, 2) for end in few.interval]
        ('undecided', [6.5, 16.84])
        >>> claims.over_seeds("ten rise", "-", ">=", expected=10, measured=[12, 13, 12]).verdict
        'yes'
    """
    values = tuple(float(value) for value in measured)
    if not values:
        raise ValueError("measured holds no value: wanted one of each seed.")
    if not 0 < confidence < 1:
        raise ValueError(f"confidence must lie between 0 and 1, got {confidence}.")
    mean = float(np.mean(values))
    single = _claim(statement, where, expected, mean, tolerance, relation)
    if not np.isfinite(values).all():
        return single._replace(seeds=values)
    import scipy.stats  # here, as it takes half a second to load

    half = math.inf
    if len(values) > 1:
        error = float(np.std(values, ddof=1)) / len(values) ** 0.5
        half = float(scipy.stats.t.ppf((1 + confidence) / 2, len(values) - 1)) * error
    ends = mean - half, mean + half
    least, most = expected - tolerance, expected + tolerance
    inside = (relation == "<=" or ends[0] >= least) and (relation == ">=" or ends[1] <= most)
    outside = (relation != "<=" and ends[1] < least) or (relation != ">=" and ends[0] > most)
    holds = True if inside else False if outside else None
    return single._replace(holds=holds, interval=ends, seeds=values)


def _claim(statement, where, expected, measured, tolerance, relation) -> Claim:
    above = measured - expected
    excess = {"=": abs(above), "<=": above, ">=": -above}[relation]
    # A NaN or an infinite measurement never holds.
    holds = math.isfinite(measured) and excess <= tolerance
    numbers = float(expected), float(measured), float(tolerance)
    return Claim(statement, where, *numbers, bool(holds), relation)


def save(path: str | Path, claims: Sequence[Claim]) -> None:
    """Write claims as JSON, replacing the file in one step.

    Args:
        path: of the file.
        claims: in the order they should be read.

    Example:
        >>> import pathlib, tempfile
        >>> from sslstep import claims
        >>> path = pathlib.Path(tempfile.mkdtemp()) / "claims.json"
        >>> claims.save(path, [claims.below("it vanishes", "-", measured=0.0, tolerance=1.0)])
        >>> claims.load(path)[0].statement
        'it vanishes'
    """
    path = Path(path)
    draft = path.with_suffix(".tmp")
    # JSON has no NaN or infinity; as strings they survive and `load` turns them back.
    rows = [{k: _plain(v) for k, v in claim._asdict().items()} for claim in claims]
    draft.write_text(
        json.dumps(rows, indent=1, ensure_ascii=False, allow_nan=False) + "\n", encoding="utf-8"
    )
    draft.replace(path)


def load(path: str | Path) -> list[Claim]:
    """Read what :func:`save` wrote.

    Args:
        path: of the file.

    Returns:
        The claims.

    Raises:
        ValueError: if the file is not a list of claims; the message names it.

    Example:
        See :func:`save`.
    """
    try:
        rows = json.loads(Path(path).read_text(encoding="utf-8"))
        for row in rows:
            row.update({key: float(row[key]) for key in ("expected", "measured", "tolerance")})
            row["seeds"] = tuple(map(float, row.get("seeds", ())))
            if row.get("interval") is not None:
                low, high = row["interval"]
                row["interval"] = float(low), float(high)
        return [Claim(**row) for row in rows]
    except (TypeError, ValueError, KeyError, AttributeError) as error:
        raise ValueError(f"{path} does not hold claims: {error}") from error


def table(groups: Iterable[tuple[str, Sequence[Claim]]]) -> str:
    """All claims as a plain text table, one group below the other, with a count at the end.

    Args:
        groups: pairs of a title, such as the run's name, and its claims.

    Returns:
        The table, as lines of text.

    Example:
        >>> from sslstep import claims
        >>> claim = claims.below("the error vanishes", "Eq. 10", measured=2e-8, tolerance=1e-6)
        >>> print(claims.table([("a run", [claim])]))
        a run
                         measured      expected  tolerance  where
          yes               2e-08 <=          0      1e-06  Eq. 10
                the error vanishes
        1 of 1 claims hold.
    """
    lines: list[str] = []
    every: list[Claim] = []
    for title, claims in groups:
        lines += [title, f"  {'':13}{'measured':>10}    {'expected':>10} {'tolerance':>10}  where"]
        for claim in claims:
            numbers = f"{claim.measured:>10.4g} {claim.relation:>2} {claim.expected:>10.4g} "
            numbers += f"{claim.tolerance:>10.3g}"
            lines.append(f"  {claim.verdict:13}{numbers}  {claim.where}")
            lines.append(f"        {claim.statement}")
            if claim.spread:
                lines.append("        " + claim.spread)
        every += claims
    return "\n".join([*lines, count(every)])


def count(claims: Sequence[Claim]) -> str:
    """How many hold, and how many are undecided, in a sentence.

    Args:
        claims: of any runs.

    Returns:
        The sentence.

    Example:
        >>> from sslstep import claims
        >>> claims.count([claims.over_seeds("one seed decides nothing", "-", "<=", measured=[1.0])])
        '0 of 1 claims hold, 1 undecided.'
    """
    undecided = sum(claim.holds is None for claim in claims)
    held = f"{sum(claim.holds is True for claim in claims)} of {len(claims)} claims hold"
    return f"{held}, {undecided} undecided." if undecided else f"{held}."


def _plain(value):
    if isinstance(value, tuple):
        return [_plain(part) for part in value]
    return str(value) if isinstance(value, float) and not math.isfinite(value) else value
