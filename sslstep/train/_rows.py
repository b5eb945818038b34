"""Files with one JSON object a line, and their conversion to arrays."""

import json
import os
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jax.numpy as jnp
import numpy as np

from sslstep import _atomic


class JsonLines:
    """A file with one JSON object a line, each with a ``step``, that survives a crash.

    Each line goes to the operating system at once: a killed process loses none.
    """

    def __init__(self, path: Path, last_step: int) -> None:
        """Open for appending, and remove the lines of steps after `last_step`.

        Earlier lines stay as they are. Unreadable lines between them stay too.
        """
        content = path.read_bytes() if path.exists() else b""
        lines = content.splitlines(keepends=True)
        rows = [_row(line) for line in lines]
        stay = [row is not None and row["step"] <= last_step for row in rows]
        num = len(stay) - stay[::-1].index(True) if True in stay else 0
        kept = b"".join(
            line
            for line, row, early in zip(lines[:num], rows, stay, strict=False)
            if early or row is None
        )
        if kept and not kept.endswith(b"\n"):
            kept += b"\n"
        if not content.startswith(kept):  # removed lines lie between lines that stay
            _atomic.write(path, lambda file: file.write(kept))
        # Unbuffered: closing the file must not retry a write that failed on a full disk.
        self._file = path.open("ab", buffering=0)
        if path.stat().st_size > len(kept):
            self._file.truncate(len(kept))

    def write(self, rows: list[dict[str, Any]]) -> None:
        """Append a line for each row, and hand the lines to the operating system."""
        left = b"".join(json.dumps(row, allow_nan=False).encode() + b"\n" for row in rows)
        while left:
            left = left[self._file.write(left) :]

    def sync(self) -> None:
        """Wait until all lines are on the disk itself."""
        os.fsync(self._file.fileno())

    def close(self) -> None:
        """Close the file."""
        self._file.close()


def _row(line: bytes) -> dict[str, Any] | None:
    """Parse a line; return None if it is not a JSON object with an integer ``step``."""
    try:
        row = json.loads(line)
        return row if isinstance(row["step"], int) else None
    except (ValueError, KeyError, TypeError):
        return None


def read_run(folder: str | Path) -> tuple[dict[str, np.ndarray], dict[str, np.ndarray]]:
    r"""Read the metrics and the records of a run, finished or still running.

    Args:
        folder: folder of the run, as given to :func:`fit` or :class:`Recorder`.

    Returns:
        ``(metrics, records)``: two dictionaries of arrays, with one row for each step in
        ``metrics.jsonl`` and in ``records.jsonl``. The entry ``step`` counts the steps done. A row
        of records was measured after that step, a row of metrics during it. Floating-point numbers
        are float64. NaN fills entries that a row lacks and the ends of shorter entries. An entry
        whose number of axes changes, or that is not numeric, is an array of objects. Lines of one
        step are one row, in which the last value of each name counts. Unreadable lines are skipped
        with a warning.

    Raises:
        FileNotFoundError: if the folder has no ``metrics.jsonl``.

    Example:
        >>> import tempfile
        >>> from pathlib import Path
        >>> from sslstep import train
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     _ = Path(folder, "metrics.jsonl").write_text('{"step": 1, "loss": 2.5}\n')
        ...     train.read_run(folder)[0]["loss"]
        array([2.5])
    """
    folder = Path(os.path.expanduser(folder))
    if not (folder / "metrics.jsonl").is_file():
        raise FileNotFoundError(
            f"{folder} has no run of train.fit or train.Recorder: there is no metrics.jsonl."
        )
    metrics, records = read_rows(folder / "metrics.jsonl"), read_rows(folder / "records.jsonl")
    return columns(metrics), columns(records)


def read_rows(path: Path) -> list[dict[str, Any]]:
    """Read the rows of a file, sorted by step; return an empty list if there is no file.

    Lines of one step are one row, in which the last value of each name counts. Unreadable lines are
    skipped with a warning.
    """
    lines = path.read_bytes().splitlines() if path.exists() else []
    rows = [_row(line) for line in lines]
    damaged = [n for n, row in enumerate(rows, start=1) if row is None and lines[n - 1].strip()]
    # No warning for the last line: another process may be writing it.
    if damaged := [n for n in damaged if n < len(lines)]:
        warnings.warn(
            f"{path} has lines that cannot be read, which are passed over: {len(damaged)}, the "
            f"first of them line {damaged[0]}.",
            stacklevel=3,
        )
    by_step: dict[int, dict[str, Any]] = {}
    for row in rows:
        if row is not None:
            by_step.setdefault(row["step"], {}).update(row)
    return [by_step[step] for step in sorted(by_step)]


def columns(rows: list[dict[str, Any]]) -> dict[str, np.ndarray]:
    """Convert rows to one array for each key, padded with NaN where values are missing."""
    names = dict.fromkeys(name for row in rows for name in row)
    return {name: _column([row.get(name) for row in rows]) for name in names}


def _column(values: list[Any]) -> np.ndarray:
    arrays = [None if value is None else np.asarray(value) for value in values]
    present = [array for array in arrays if array is not None]
    if len({array.shape for array in present}) == 1 and len(present) == len(arrays):
        return np.asarray(values)
    kinds = {(array.ndim, array.dtype.kind in "fiub") for array in present}
    if len(kinds) > 1 or not all(numbers for _, numbers in kinds):  # no numeric array fits
        found = np.empty(len(values), object)
        for row, array in enumerate(arrays):
            found[row] = array
        return found
    shape = np.max([array.shape for array in present], axis=0)
    found = np.full((len(values), *shape.astype(int)), np.nan)
    for row, array in enumerate(arrays):
        if array is not None:
            where: Any = (row, *map(slice, array.shape))
            found[where] = array
    return found


def changes_between(before: Mapping[str, Any], row: Mapping[str, Any]) -> list[str]:
    """Describe the entries of a record that are new, missing or of another shape than before."""
    found = []
    for name in dict.fromkeys((*before, *row)):
        old, new = (np.shape(each[name]) if name in each else None for each in (before, row))
        if old != new:
            told = "missing" if new is None else f"of shape {new}"
            found.append(f"{name} is {'new' if old is None else told}")
    return found


def as_arrays(values: Any) -> dict[str, np.ndarray]:
    """Convert the dictionary that `record` returned to arrays; raise if an entry is not numeric."""
    if not isinstance(values, Mapping):
        raise TypeError(
            f"record must return a dictionary of arrays or numbers, got {values!r:.80}."
        )
    arrays = {}
    for name, value in values.items():
        if not isinstance(name, str):
            raise TypeError(f"record must name its entries by strings, got {name!r}.")
        if name == "step":
            raise ValueError(
                'record returned an entry "step", but this name is reserved for the number of the '
                "step: choose another name."
            )
        try:
            array = np.asarray(value)
            real = array.dtype == bool or jnp.issubdtype(array.dtype, np.floating)
            real = real or jnp.issubdtype(array.dtype, np.integer)
        except (TypeError, ValueError):  # lists of unequal lengths, random keys
            real = False
        if not real:
            raise TypeError(
                f"record must return arrays or numbers, of real type, got {name} = {value!r:.80}."
            )
        arrays[name] = array
    return arrays
