"""Conversion of a run's metrics and records to a TensorBoard event file."""

import os
from pathlib import Path

import numpy as np

from sslstep import _check, _extras
from sslstep.train._lock import held
from sslstep.train._rows import read_run

# TensorBoard reads files with "tfevents" in their names; the ending distinguishes sslstep's file.
_NAME = "events.out.tfevents.0000000000.sslstep"


def write_tensorboard(
    folder: str | Path, log_dir: str | Path | None = None, *, num_modes: int = 16
) -> Path:
    r"""Write a run's metrics and records as a TensorBoard event file, without TensorFlow.

    The file has a scalar for each number in ``metrics.jsonl`` and ``records.jsonl`` (``loss``,
    ``grad_norm``, ``learned``), and one for each leading entry of a vector: ``correlation/01`` is
    the largest eigenvalue of C. Arrays of more axes are left out. The abscissa is the step. A run
    stores no times: every event has the time at which the run began.

    The run may be finished or still running. From the command line::

        python -m sslstep.train.tensorboard FOLDER

    A later call appends the new steps, and an open TensorBoard shows them. If anything else has
    changed, such as ``num_modes``, the call replaces the file, and TensorBoard must be restarted.
    Other files are left alone. The function needs tensorboardX, which
    ``pip install '.[tensorboard]'`` in a checkout installs.

    Args:
        folder: folder of the run, as given to :func:`fit` or :class:`Recorder`.
        log_dir: folder of the event file, created if it does not exist. None:
            ``folder/tensorboard``.
        num_modes: number of leading entries of each vector to write.

    Raises:
        FileNotFoundError: if the folder has no ``metrics.jsonl``.
        InUseError: if another process is writing this file.
        ModuleNotFoundError: if tensorboardX is not installed.
        ValueError: if ``num_modes`` is negative.

    Example:
        >>> import tempfile
        >>> from pathlib import Path
        >>> from sslstep import train
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     _ = Path(folder, "metrics.jsonl").write_text('{"step": 1, "loss": 2.5}\n')
        ...     train.write_tensorboard(folder).parent.name
        'tensorboard'
    """
    _extras.require("tensorboardX", by="write_tensorboard", extra="tensorboard")
    from tensorboardX.proto.event_pb2 import Event
    from tensorboardX.proto.summary_pb2 import Summary
    from tensorboardX.record_writer import RecordWriter

    _check.require_within("num_modes", num_modes, at_least=0)
    folder = Path(os.path.expanduser(folder))
    metrics, records = read_run(folder)
    # Sorted by step: a later call then appends to the earlier content.
    rows = sorted(_rows(metrics, num_modes) + _rows(records, num_modes), key=lambda row: row[0])
    settings = folder / "settings.json"
    began = settings.stat().st_mtime if settings.exists() else 0.0
    log_dir = folder / "tensorboard" if log_dir is None else Path(os.path.expanduser(log_dir))
    log_dir.mkdir(parents=True, exist_ok=True)
    path, draft = log_dir / _NAME, log_dir / ".sslstep.draft"
    with held(log_dir / ".sslstep.lock", f"{path}"):
        writer = RecordWriter(str(draft))
        try:
            writer.write(Event(wall_time=began, file_version="brain.Event:2").SerializeToString())
            for step, numbers in rows:
                values = [Summary.Value(tag=tag, simple_value=x) for tag, x in numbers.items()]
                event = Event(wall_time=began, step=step, summary=Summary(value=values))
                writer.write(event.SerializeToString())
            writer.close()
            _append_or_replace(draft, path)
        finally:
            writer.close()
            draft.unlink(missing_ok=True)
    return path


def _rows(table: dict[str, np.ndarray], num_modes: int) -> list[tuple[int, dict[str, float]]]:
    """Return the step of each row, and its numbers by tag: one for each leading vector entry."""
    columns = {}
    for name, values in table.items():
        if name == "step" or values.dtype.kind not in "fiub":
            continue
        if values.ndim == 1:
            columns[name] = values
        elif values.ndim == 2:
            for j, column in enumerate(values.T[:num_modes]):
                columns[f"{name}/{j + 1:02d}"] = column
    return [  # NaN stands for what a row lacks
        (int(step), {tag: float(c[row]) for tag, c in columns.items() if not np.isnan(c[row])})
        for row, step in enumerate(table.get("step", ()))
    ]


def _append_or_replace(draft: Path, path: Path) -> None:
    """Give `path` the content of `draft`: append if the old content is the beginning of the new.

    TensorBoard keeps the file open, and would not notice a replacement.
    """
    old, new = path.read_bytes() if path.exists() else b"", draft.read_bytes()
    if not old or not new.startswith(old):
        draft.replace(path)
        return
    with path.open("ab") as file:
        file.write(new[len(old) :])
