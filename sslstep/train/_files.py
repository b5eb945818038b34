"""Files of a run: metrics, records and checkpoints."""

import contextlib
import os
import warnings
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array

from sslstep.simulate import DivergenceError
from sslstep.train._checkpoints import CheckpointError, Checkpoints
from sslstep.train._identity import Identity
from sslstep.train._lock import held
from sslstep.train._rows import JsonLines, as_arrays, changes_between, read_rows
from sslstep.train._step import TrainState

_ADVICE = "Choose a smaller learning rate, a longer warm-up or another initial scale."


@contextlib.contextmanager
def opened(folder: str | Path | None, keep: int, identity: Identity | None) -> Iterator["RunFiles"]:
    """Create and lock the folder of a run, and yield its :class:`RunFiles`."""
    with contextlib.ExitStack() as stack:
        path = None if folder is None else Path(os.path.expanduser(folder))
        if path is not None:
            path.mkdir(parents=True, exist_ok=True)
            stack.enter_context(held(path / "lock", f"the run in {path}"))
        files = RunFiles(path, keep, identity)
        stack.callback(files.close)
        yield files


class RunFiles:
    """Writer of one run's metrics, records and checkpoints; only in memory without a folder."""

    def __init__(self, folder: Path | None, keep: int, identity: Identity | None) -> None:
        self.metric_rows: list[dict[str, Any]] = []
        self.record_rows: list[dict[str, Any]] = []
        self._folder, self._identity = folder, identity
        self._checkpoints = Checkpoints(folder / "checkpoints", keep) if folder else None
        self._lines: dict[str, JsonLines] = {}

    def resume(self, state: TrainState) -> tuple[int, TrainState]:
        """Return the step and state of the last checkpoint, or the given state if there is none.

        Raise ValueError if the folder holds another run.
        """
        found = None
        if self._folder and self._checkpoints and self._identity:
            self._identity.require_same(self._folder)
            found = self._checkpoints.latest(state)
            if found is None and (self._folder / "run.json").exists():
                raise CheckpointError(
                    f"{self._folder} holds a run whose checkpoints are gone: it cannot go on, and "
                    f"would be overwritten. Name another folder, or remove this one."
                )
            if found is None:
                self._checkpoints.rehearse(state)
            # Lines of steps after the checkpoint are removed: these steps run again.
            for name, rows in (("metrics", self.metric_rows), ("records", self.record_rows)):
                path = self._folder / f"{name}.jsonl"
                self._lines[name] = JsonLines(path, found[0] if found else -1)
                rows += read_rows(path)
            if found:
                self._warn_of_gaps(int(state.step), found[0])
        return found or (int(state.step), state)

    def remember(self) -> None:
        """Write the run's settings and description to the folder, once the call is accepted."""
        if self._folder and self._checkpoints and self._identity:
            self._identity.write(self._folder, saved=bool(self._checkpoints.steps()))

    def _warn_of_gaps(self, first: int, last: int) -> None:
        """Warn if the metrics of steps that the run has done are missing from the file."""
        there = {row["step"] for row in self.metric_rows}
        gone = [step for step in range(first + 1, last + 1) if step not in there]
        if gone:
            steps = f"steps {gone[0]} to {gone[-1]}" if gone[1:] else f"step {gone[0]}"
            some = "" if len(gone) == gone[-1] - gone[0] + 1 else "some of "
            warnings.warn(
                f"{self._folder}/metrics.jsonl lacks the metrics of {some}{steps}, which the run "
                f"has done: somebody has cut or changed it.",
                stacklevel=4,
            )

    def metrics(self, first: int, metrics: Any) -> dict[str, Any]:
        """Write the metrics of one dispatch and return the last row.

        `first` counts the steps before the dispatch. Raise DivergenceError at a row that is not
        finite, after writing the rows before it.
        """
        named = {"loss": metrics.loss, "grad_norm": metrics.grad_norm, **metrics.own}
        columns = {name: np.asarray(values) for name, values in named.items()}
        rows = [
            {"step": first + i + 1} | {name: float(values[i]) for name, values in columns.items()}
            for i in range(len(columns["loss"]))
        ]
        broken = [i for i, row in enumerate(rows) if not np.isfinite([*row.values()]).all()]
        self._write("metrics", self.metric_rows, rows[: broken[0]] if broken else rows)
        if broken:
            raise DivergenceError(self._diverged(rows[broken[0]]))
        return rows[-1]

    def record(self, step: int, values: Any) -> dict[str, Any]:
        """Write the record after `step` steps; raise DivergenceError if it is not finite."""
        arrays = as_arrays(values)
        broken = [name for name, array in arrays.items() if not np.isfinite(array).all()]
        if broken:
            raise DivergenceError(
                f"the record after step {step} is not finite: {', '.join(broken)}. "
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
        """Whether the record of a step is missing, because recording failed in an earlier call."""
        return all(row["step"] != step for row in self.record_rows)

    def checkpoint(self, step: int, state: TrainState) -> None:
        """Write a checkpoint; raise DivergenceError if the state is not finite.

        Metrics and records of earlier steps are written to the disk first.
        """
        # Metrics describe the state before the update: they do not show an overflow in it.
        network = {name: getattr(state, name) for name in ("params", "batch_stats", "targets")}
        leaves = jax.tree_util.tree_leaves_with_path(network)
        if broken := [path for path, leaf in leaves if not _is_finite(leaf)]:
            first = jax.tree_util.keystr(broken[0], simple=True, separator="/")
            raise DivergenceError(
                f"training diverged at step {step}: the loss is finite, but after the update "
                f"{first} is not ({len(broken)} of {len(leaves)} arrays are not finite). "
                f"{self._return_to()} {_ADVICE}"
            )
        for lines in self._lines.values():
            lines.sync()
        if self._checkpoints:
            self._checkpoints.save(step, state)
            self.remember()

    def close(self) -> None:
        """Close all open files."""
        for lines in self._lines.values():
            lines.close()

    def _write(self, name: str, kept: list[dict[str, Any]], rows: list[dict[str, Any]]) -> None:
        """Append rows to `kept`, and to the file `name` if the run has a folder.

        An OSError names the file, and the checkpoint to return to if there is one.
        """
        kept += rows
        if name not in self._lines:
            return
        try:
            self._lines[name].write(rows)
        except OSError as error:
            raise OSError(
                error.errno,
                f"{name} could not be written to {self._folder} ({error.strerror}). "
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
