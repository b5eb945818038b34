r"""A measured number held against what the paper says.

A :class:`Claim` is one statement, where the paper makes it, the value it predicts, the value a run
measured, and how far apart they may be. Experiments make claims and write them to ``claims.json``;
``make claims`` prints them all.
"""

import json
import math
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Literal, NamedTuple

__all__ = ["Claim", "above", "below", "close", "load", "save", "table"]


class Claim(NamedTuple):
    """One statement with its evidence.

    Attributes:
        statement: what is claimed, in a sentence.
        where: the equation, figure or section it comes from; or "beyond the paper".
        expected: the predicted value.
        measured: the measured value.
        tolerance: how far ``measured`` may lie from ``expected``, on the side or sides that count.
        holds: whether it does.
        relation: on which side the measured value must lie: ``"="``, both within the tolerance;
            ``"<="``, at most so far above the expected one; ``">="``, at most so far below; ``""``
            in files of before it was written down.
    """

    statement: str
    where: str
    expected: float
    measured: float
    tolerance: float
    holds: bool
    relation: Literal["=", "<=", ">=", ""] = ""


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
    draft.write_text(json.dumps(rows, indent=1, ensure_ascii=False, allow_nan=False) + "\n")
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
        rows = json.loads(Path(path).read_text())
        for row in rows:
            row.update({key: float(row[key]) for key in ("expected", "measured", "tolerance")})
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
    lines, held, total = [], 0, 0
    for title, claims in groups:
        lines += [title, f"  {'':13}{'measured':>10}    {'expected':>10} {'tolerance':>10}  where"]
        for claim in claims:
            numbers = f"{claim.measured:>10.4g} {claim.relation:>2} {claim.expected:>10.4g} "
            numbers += f"{claim.tolerance:>10.3g}"
            lines.append(f"  {'yes' if claim.holds else 'NO':13}{numbers}  {claim.where}")
            lines.append(f"        {claim.statement}")
            held, total = held + claim.holds, total + 1
    lines.append(f"{held} of {total} claims hold.")
    return "\n".join(lines)


def _plain(value):
    return str(value) if isinstance(value, float) and not math.isfinite(value) else value
