r"""Claims: statements of the paper compared with measured values.

A :class:`Claim` holds a statement, its source, the predicted value, the measured value and the
tolerance. Experiments write their claims to ``claims.json``; ``make claims`` prints all of them.
Training amplifies rounding errors to the size of the variation between seeds. A claim about trained
networks is therefore made :func:`over_seeds`, and may remain undecided.
"""

import json
import math
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Literal, NamedTuple

import numpy as np

from sslstep import _atomic

__all__ = ["Claim", "above", "below", "close", "count", "load", "over_seeds", "save", "table"]


class Claim(NamedTuple):
    """A statement and the values that support or contradict it.

    Attributes:
        statement: the claim, as a sentence.
        where: equation, figure or section of the paper; or "beyond the paper".
        expected: predicted value.
        measured: measured value; the mean if there are several seeds.
        tolerance: largest admitted difference between ``measured`` and ``expected``.
        holds: whether the claim holds; None if the seeds leave it undecided.
        relation: which differences count: ``"="``, both above and below ``expected``; ``"<="``,
            only above; ``">="``, only below; ``""`` in older files, which did not store it.
        interval: confidence interval of the mean over seeds; None for a single value.
        seeds: value of each seed; empty for a single value.
        known_failure: why the claim is known not to hold; empty if it is expected to hold.
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
    known_failure: str = ""

    def known_to_fail(self, because: str) -> "Claim":
        """Return a copy of the claim that declares it as known not to hold.

        The claim itself stays as it is. The copy has the same :attr:`verdict`. Its :attr:`changed`
        is True if it holds in spite of the declaration.

        Args:
            because: the reason, as the end of a sentence.

        Example:
            >>> from sslstep import claims
            >>> claim = claims.above("ten modes are learned", "-", expected=10, measured=9)
            >>> claim = claim.known_to_fail("the tenth mode takes longer than the run")
            >>> claim.verdict, claim.changed
            ('NO', False)
        """
        return self._replace(known_failure=because)

    @property
    def changed(self) -> bool:
        """Whether the claim fails without a declaration, or holds in spite of one."""
        return self.holds is not None and self.holds == bool(self.known_failure)

    @property
    def declared(self) -> str:
        """The declaration as a sentence; empty without one."""
        return self.known_failure and f"does not hold, because {self.known_failure}"

    @property
    def verdict(self) -> Literal["yes", "NO", "undecided"]:
        """Outcome as printed in tables."""
        return "undecided" if self.holds is None else "yes" if self.holds else "NO"

    @property
    def spread(self) -> str:
        """Number of seeds and interval of the mean, as text; empty if there is no interval."""
        if self.interval is None:
            return ""
        if len(self.seeds) == 1:
            return "one seed, which decides nothing"
        low, high = self.interval
        return f"{len(self.seeds)} seeds: mean within {low:.4g} to {high:.4g}"


def close(
    statement: str, where: str, *, expected: float, measured: float, tolerance: float = 0.0
) -> Claim:
    """Make the claim that ``measured`` is within ``tolerance`` of ``expected``.

    Args:
        statement: the claim, as a sentence.
        where: equation, figure or section of the paper; or "beyond the paper".
        expected: predicted value.
        measured: measured value; NaN and infinity never hold.
        tolerance: largest admitted absolute difference.

    Example:
        >>> from sslstep import claims
        >>> claims.close("pi is 3.14", "-", expected=3.14, measured=3.1416, tolerance=0.01).holds
        True
    """
    return _claim(statement, where, expected, measured, tolerance, "=")


def below(
    statement: str, where: str, *, expected: float = 0.0, measured: float, tolerance: float = 0.0
) -> Claim:
    """Make the claim that ``measured``, such as an error, is at most ``expected + tolerance``.

    Args:
        statement: the claim, as a sentence.
        where: equation, figure or section of the paper; or "beyond the paper".
        expected: ideal value, usually zero.
        measured: measured value; NaN and infinity never hold.
        tolerance: largest admitted excess.

    Example:
        >>> from sslstep import claims
        >>> claims.below("the error vanishes", "-", measured=1e-7, tolerance=1e-6).holds
        True
    """
    return _claim(statement, where, expected, measured, tolerance, "<=")


def above(
    statement: str, where: str, *, expected: float, measured: float, tolerance: float = 0.0
) -> Claim:
    """Make the claim that ``measured`` is at least ``expected - tolerance``.

    Args:
        statement: the claim, as a sentence.
        where: equation, figure or section of the paper; or "beyond the paper".
        expected: predicted value.
        measured: measured value; NaN and infinity never hold.
        tolerance: largest admitted shortfall.

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
    r"""Make a claim about the mean over seeds, decided by its confidence interval.

    The interval of the mean of n seeds is Student's,

    .. math:: \bar x \pm t_{n-1,\,(1 + c)/2}\, \hat\sigma / \sqrt n .

    The claim holds if every point of the interval satisfies the relation, fails if no point does,
    and is undecided otherwise. A larger spread therefore never makes a claim hold, and a single
    seed decides nothing.

    Args:
        statement: the claim, as a sentence.
        where: equation, figure or section of the paper; or "beyond the paper".
        relation: ``"="`` for a mean within ``tolerance`` of ``expected``, ``"<="`` for one of at
            most ``expected + tolerance``, ``">="`` for one of at least ``expected - tolerance``.
        expected: predicted value.
        measured: one value for each seed; the claim fails if any is NaN or infinite.
        tolerance: largest admitted difference of the mean.
        confidence: level c of the two-sided interval.

    Raises:
        ValueError: if ``measured`` is empty, or if ``confidence`` is not between 0 and 1.

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
        raise ValueError("measured is empty: give one value for each seed.")
    if not 0 < confidence < 1:
        raise ValueError(f"confidence must lie between 0 and 1, got {confidence}.")
    mean = float(np.mean(values))
    single = _claim(statement, where, expected, mean, tolerance, relation)
    if not np.isfinite(values).all():
        return single._replace(seeds=values)
    import scipy.stats  # late: loading takes half a second

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
    """Write claims to a JSON file, which is replaced atomically.

    Args:
        path: path of the file.
        claims: the claims, in order.

    Example:
        >>> import pathlib, tempfile
        >>> from sslstep import claims
        >>> path = pathlib.Path(tempfile.mkdtemp()) / "claims.json"
        >>> claims.save(path, [claims.below("it vanishes", "-", measured=0.0, tolerance=1.0)])
        >>> claims.load(path)[0].statement
        'it vanishes'
    """
    # JSON has no NaN or infinity: they are stored as strings, which `load` converts back.
    rows = [{k: _plain(v) for k, v in claim._asdict().items()} for claim in claims]
    text = json.dumps(rows, indent=1, ensure_ascii=False, allow_nan=False)
    _atomic.write_utf8(Path(path), f"{text}\n")


def load(path: str | Path) -> list[Claim]:
    """Read claims that :func:`save` wrote.

    Args:
        path: path of the file.

    Raises:
        ValueError: if the file is not JSON or not a list of claims.
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
    """Format claims as a plain text table, group by group, with a count at the end.

    Args:
        groups: pairs of a title, such as a run's name, and the claims under it.

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
            lines += ["        " + text for text in (claim.spread, claim.declared) if text]
        every += claims
    return "\n".join([*lines, count(every)])


def count(claims: Sequence[Claim]) -> str:
    """Count the claims that hold and the undecided claims, in a sentence.

    Args:
        claims: any claims.

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
