"""What a run leaves on disk: lines of JSON, and the settings that it was made with."""

import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

__all__ = ["columns", "read_rows", "read_run"]


class JsonLines:
    """A file of one JSON object a line, each with its step, that survives a crash.

    Lines are handed to the operating system as they come: a killed process loses none of them.
    """

    def __init__(self, path: Path, last_step: int) -> None:
        """Open for appending, after cutting off torn lines and those of steps after `last_step`."""
        kept = 0
        for line in _whole_lines(path):
            if json.loads(line)["step"] > last_step:
                break
            kept += len(line)
        # Unbuffered: what a full disk has refused must not be tried again by closing the file.
        self._file = path.open("ab", buffering=0)
        if path.stat().st_size > kept:
            self._file.truncate(kept)

    def write(self, rows: list[dict[str, Any]]) -> None:
        """Append, and hand over to the operating system."""
        left = b"".join(json.dumps(row, allow_nan=False).encode() + b"\n" for row in rows)
        while left:
            left = left[self._file.write(left) :]

    def sync(self) -> None:
        """Wait until all lines are on the disk itself."""
        os.fsync(self._file.fileno())

    def close(self) -> None:
        """Close the file."""
        self._file.close()


def _whole_lines(path: Path) -> list[bytes]:
    """Lines up to the first that is not whole: what a crash or a full disk has cut."""
    lines = []
    for line in path.read_bytes().splitlines(keepends=True) if path.exists() else []:
        try:
            if not line.endswith(b"\n") or not isinstance(json.loads(line)["step"], int):
                break
        except (ValueError, KeyError, TypeError):
            break
        lines.append(line)
    return lines


def read_run(folder: str | Path) -> tuple[dict[str, np.ndarray], dict[str, np.ndarray]]:
    r"""Read the metrics and the records of a run, finished or not, even while it runs.

    Args:
        folder: as given to :func:`fit`.

    Returns:
        ``(metrics, records)``, each a dictionary of arrays with one row for each line of
        ``metrics.jsonl`` and ``records.jsonl``: ``step``, and what was measured after that many
        steps (metrics: by the step that made it so many). Numbers are float64.

    Raises:
        FileNotFoundError: if the folder has no run.

    Example:
        >>> import tempfile
        >>> from pathlib import Path
        >>> from sslstep import train
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     _ = Path(folder, "metrics.jsonl").write_text('{"step": 1, "loss": 2.5}\n')
        ...     train.read_run(folder)[0]["loss"]
        array([2.5])
    """
    folder = Path(folder)
    if not (folder / "metrics.jsonl").is_file():
        raise FileNotFoundError(f"{folder} has no run of train.fit: there is no metrics.jsonl.")
    return columns(read_rows(folder / "metrics.jsonl")), columns(
        read_rows(folder / "records.jsonl")
    )


def read_rows(path: Path) -> list[dict[str, Any]]:
    """The whole lines of a file; none if there is no file."""
    return [json.loads(line) for line in _whole_lines(path)]


def columns(rows: list[dict[str, Any]]) -> dict[str, np.ndarray]:
    """Rows of equal keys, as one array for each key."""
    return {name: np.asarray([row[name] for row in rows]) for name in (rows[0] if rows else ())}


def require_same_settings(path: Path, settings: Mapping[str, Any]) -> None:
    """Write the settings if there are none yet; refuse to go on with others."""
    text = json.dumps(dict(settings), indent=1, sort_keys=True) + "\n"
    if not path.exists():
        draft = path.with_suffix(".tmp")
        draft.write_text(text)
        draft.replace(path)
        return
    old, new = json.loads(path.read_text()), json.loads(text)
    names = [name for name in sorted(old.keys() | new.keys()) if old.get(name) != new.get(name)]
    if names:
        changes = ", ".join(f"{name} = {old.get(name)!r}, now {new.get(name)!r}" for name in names)
        raise ValueError(
            f"{path.parent} holds a run of other settings ({changes}): name another folder, or "
            f"remove this one."
        )
