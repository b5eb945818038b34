"""What a run leaves on disk, and the settings that it was made with."""

import json
import math
import os
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array

from sslstep.simulate import DivergenceError
from sslstep.train._checkpoints import CheckpointError, Checkpoints
from sslstep.train._rows import JsonLines, as_arrays, changes_between, read_rows
from sslstep.train._step import TrainState

__all__ = ["RunFiles"]

# In run.json: the step at which a run began, and the norms of its parameters there, by their paths.
INITIAL = "initial "
INITIAL_STEP, INITIAL_NORM = f"{INITIAL}step", f"{INITIAL}norm of "
# To which norms on two devices, or by two versions of JAX, agree.
_NORM_TOLERANCE = 1e-3
_MOST_SHOWN = 5

_ADVICE = "Choose a smaller learning rate, a longer warm-up or another initial scale."


class RunFiles:
    """What one run writes; nothing, without a folder."""

    def __init__(self, folder: Path | None, keep: int) -> None:
        self.folder = folder
        self.metric_rows: list[dict[str, Any]] = []
        self.record_rows: list[dict[str, Any]] = []
        self._checkpoints: Checkpoints | None = None
        self._lines: dict[str, JsonLines] = {}
        self._seen: Mapping[str, Any] = {}
        if folder is not None:
            self._checkpoints = Checkpoints(folder / "checkpoints", keep)

    def require_same(self, settings: Mapping[str, Any], seen: Mapping[str, Any]) -> None:
        """Refuse a folder of another run: by the caller's settings, and by what a run sees."""
        if self.folder is not None:
            _require_json(settings)
            path = self.folder / "settings.json"
            if path.exists():
                _require_same(
                    self.folder, _read_settings(path), json.loads(json.dumps(dict(settings)))
                )
            path = self.folder / "run.json"
            if path.exists():
                # An earlier version wrote less of them.
                written = _read_settings(path)
                names = [name for name in seen if name in written]
                # A state from the middle of the run tells nothing of its start.
                if written.get(INITIAL_STEP) != seen[INITIAL_STEP]:
                    names = [name for name in names if not name.startswith(INITIAL)]
                old, new = ({name: values[name] for name in names} for values in (written, seen))
                _require_same(self.folder, old, new)

    def remember(self, settings: Mapping[str, Any], seen: Mapping[str, Any]) -> None:
        """Write the settings, once it is clear that the run goes on here.

        What a run sees follows with the first checkpoint: a run that was never saved binds nobody.
        """
        self._seen = seen
        if self.folder is not None:
            _write_settings(self.folder / "settings.json", settings)
            if self._checkpoints and self._checkpoints.steps():
                _write_settings(self.folder / "run.json", seen)

    def resume(self, state: TrainState) -> tuple[int, TrainState]:
        """The step to go on from, and its state."""
        found = self._checkpoints.latest(state) if self._checkpoints else None
        if self.folder is not None:
            if found is None and (self.folder / "run.json").exists():
                raise CheckpointError(
                    f"{self.folder} holds a run whose checkpoints are gone: it cannot go on, and "
                    f"would be overwritten. Name another folder, or remove this one."
                )
            if found is None and self._checkpoints:
                self._checkpoints.rehearse(state)
            # What was written after the checkpoint will be written again.
            for name, rows in (("metrics", self.metric_rows), ("records", self.record_rows)):
                path = self.folder / f"{name}.jsonl"
                self._lines[name] = JsonLines(path, found[0] if found else -1)
                rows += read_rows(path)
            if found:
                self._warn_of_gaps(int(state.step), found[0])
        return found or (int(state.step), state)

    def _warn_of_gaps(self, first: int, last: int) -> None:
        """Say of which steps that the run has done the metrics are gone."""
        there = {row["step"] for row in self.metric_rows}
        gone = [step for step in range(first + 1, last + 1) if step not in there]
        if gone:
            steps = f"steps {gone[0]} to {gone[-1]}" if gone[1:] else f"step {gone[0]}"
            some = "" if len(gone) == gone[-1] - gone[0] + 1 else "some of "
            warnings.warn(
                f"{self.folder}/metrics.jsonl lacks the metrics of {some}{steps}, which the run "
                f"has done: somebody has cut or changed it.",
                stacklevel=4,
            )

    def metrics(self, first: int, metrics: Any) -> dict[str, Any]:
        """Write the metrics of the steps that began at `first`; refuse those not finite."""
        columns = {name: np.asarray(values) for name, values in metrics._asdict().items()}
        rows = [
            {"step": first + i + 1} | {name: float(values[i]) for name, values in columns.items()}
            for i in range(len(columns["loss"]))
        ]
        good = [all(np.isfinite(value) for value in row.values()) for row in rows]
        whole = rows if all(good) else rows[: good.index(False)]
        self._write("metrics", self.metric_rows, whole)
        if not all(good):
            raise DivergenceError(self._diverged(rows[good.index(False)]))
        return rows[-1]

    def record(self, step: int, values: Any) -> dict[str, Any]:
        """Write one record."""
        arrays = as_arrays(values)
        broken = [name for name, array in arrays.items() if not np.isfinite(array).all()]
        if broken:
            raise DivergenceError(
                f"what was recorded after step {step} is not finite: {', '.join(broken)}. "
                f"{self._return_to()}"
            )
        row = {"step": step} | {name: array.tolist() for name, array in arrays.items()}
        before = self.record_rows[-1] if self.record_rows else row
        self._write("records", self.record_rows, [row])
        if changes := changes_between(before, row):
            warnings.warn(
                f"record returned other entries after step {step} than after step "
                f"{before['step']}: {', '.join(changes)}. All are kept; where one is missing, the "
                f"records have NaN.",
                stacklevel=4,
            )
        return row

    def failed_record(self, step: int) -> bool:
        """Whether a run that goes on has none of where it stands: then to measure it had failed."""
        return all(row["step"] != step for row in self.record_rows)

    def checkpoint(self, step: int, state: TrainState) -> None:
        """Write a checkpoint, after all lines up to it have reached the disk; none not finite."""
        # A step's metrics are of before its update, and tell nothing of one that overflows.
        network = {"params": state.params, "batch_stats": state.batch_stats}
        leaves = jax.tree_util.tree_leaves_with_path(network)
        if broken := [path for path, leaf in leaves if not _is_finite(leaf)]:
            first = jax.tree_util.keystr(broken[0], simple=True, separator="/")
            raise DivergenceError(
                f"training diverged at step {step}: its loss is finite, but not what it made of "
                f"{first} ({len(broken)} of {len(leaves)} arrays are not). {self._return_to()} "
                f"{_ADVICE}"
            )
        for lines in self._lines.values():
            lines.sync()
        if self._checkpoints and self.folder is not None:
            self._checkpoints.save(step, state)
            _write_settings(self.folder / "run.json", self._seen)

    def close(self) -> None:
        """Close what is open."""
        for lines in self._lines.values():
            lines.close()

    def _write(self, name: str, kept: list[dict[str, Any]], rows: list[dict[str, Any]]) -> None:
        kept += rows
        if name not in self._lines:
            return
        try:
            self._lines[name].write(rows)
        except OSError as error:
            raise OSError(
                error.errno,
                f"{name} could not be written to {self.folder} ({error.strerror}). "
                f"{self._return_to()}",
            ) from error

    def _diverged(self, row: Mapping[str, Any]) -> str:
        text = ", ".join(f"{name} = {value:.4g}" for name, value in row.items() if name != "step")
        last = self.metric_rows[-1] if self.metric_rows else None
        if last is None and row["step"] == 1:
            return (
                f"training diverged at step 1: {text}. No step was made before: look at the "
                f"images and views, at the initial scale and at the loss."
            )
        before = "It was the first step here."
        if last is not None:
            rest = ", ".join(f"{k} = {v:.6g}" for k, v in last.items() if k != "step")
            before = f"The last finite ones are those of step {last['step']}: {rest}."
        return (
            f"training diverged at step {row['step']}: {text}. {before} {self._return_to()} "
            f"{_ADVICE}"
        )

    def _return_to(self) -> str:
        steps = self._checkpoints.steps() if self._checkpoints else []
        if not steps:
            return "There is no checkpoint to return to."
        return f"The checkpoint to return to is that of step {steps[-1]}."


def _is_finite(leaf: Array) -> bool:
    return not jnp.issubdtype(leaf.dtype, jnp.inexact) or bool(np.isfinite(np.asarray(leaf)).all())


def _require_json(settings: Mapping[str, Any]) -> None:
    for name, value in settings.items():
        try:
            json.dumps(value)
        except (TypeError, ValueError) as error:
            raise TypeError(
                f"settings[{name!r}] must be something that JSON can hold, such as a number, a "
                f"string or a list: {error}."
            ) from error


def _require_same(folder: Path, old: Mapping[str, Any], new: Mapping[str, Any]) -> None:
    """Refuse other settings than those that were written in a folder, both as JSON has them."""
    # Initial norms last: there are many, and another key changes them too.
    ordered = sorted(old.keys() | new.keys(), key=lambda name: (name.startswith(INITIAL), name))
    names = [name for name in ordered if not _same(name, old.get(name), new.get(name))]
    if names:
        shown = names if len(names) <= _MOST_SHOWN else names[: _MOST_SHOWN - 1]
        changes = ", ".join(f"{name} = {old.get(name)!r}, now {new.get(name)!r}" for name in shown)
        if len(shown) < len(names):
            changes += f", and {len(names) - len(shown)} more"
        raise ValueError(
            f"{folder} holds a run of other settings ({changes}): name another folder, or "
            f"remove this one."
        )


def _same(name: str, old: Any, new: Any) -> bool:
    if name.startswith(INITIAL_NORM) and isinstance(old, float) and isinstance(new, float):
        return math.isclose(old, new, rel_tol=_NORM_TOLERANCE)
    return bool(old == new)


def _read_settings(path: Path) -> dict[str, Any]:
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except ValueError:  # not JSON, or no text at all
        found = None
    if not isinstance(found, dict):
        raise ValueError(
            f"{path} cannot be read: it is empty or broken, so nobody can tell whether this is the "
            f"run that {path.parent} holds. Remove that file if you know it is, or name another "
            f"folder."
        )
    return found


def _write_settings(path: Path, settings: Mapping[str, Any]) -> None:
    """Write them as JSON, in one step; those that are there already are the same."""
    if path.exists():
        return
    draft = path.with_suffix(".tmp")
    try:
        with draft.open("w", encoding="utf-8") as file:
            file.write(json.dumps(dict(settings), indent=1, sort_keys=True) + "\n")
            file.flush()
            os.fsync(file.fileno())  # a power cut must not leave an empty file of this name
        draft.replace(path)
    except OSError as error:
        draft.unlink(missing_ok=True)
        raise OSError(error.errno, f"{path} could not be written ({error.strerror})") from error
