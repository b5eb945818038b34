"""Exchange of signals, errors and arguments between the processes of one run."""

import contextlib
import json
from collections.abc import Iterator, Mapping
from typing import Any

import jax
import numpy as np
from jax.experimental import multihost_utils

from sslstep import _keys
from sslstep.simulate import DivergenceError
from sslstep.train._checkpoints import CheckpointError
from sslstep.train._lock import InUseError
from sslstep.train._step import TrainState

# Error types that the other processes raise too. They raise RuntimeError for every other type.
_ERRORS = {
    error.__name__: error
    for error in (CheckpointError, DivergenceError, InUseError, OSError, TypeError, ValueError)
}


class Peers:
    """All processes of a run. An error of one is raised on all of them at the next exchange.

    `types` are types of errors that the other processes raise too, besides those of the trainer.
    """

    failure: Exception | None = None

    def __init__(self, *types: type[Exception]) -> None:
        self.types = _ERRORS | {error.__name__: error for error in types}

    def any(self, received: int) -> int:
        """Exchange signals and errors: return a signal any process received; raise any error.

        Args:
            received: number of the signal that this process received; 0 for none.
        """
        failure, self.failure = self.failure, None
        if jax.process_count() > 1:
            told = multihost_utils.process_allgather(np.asarray([received, failure is not None]))
            if told[:, 1].any():
                texts = _shared("" if failure is None else self._described(failure))
                first = int(np.argmax(told[:, 1]))
                failure = failure or self._of_another(first, *json.loads(texts[first]))
            received = int(told[:, 0].max())
        if failure is not None:
            raise failure
        return received

    @contextlib.contextmanager
    def later(self) -> Iterator[None]:
        """Run a block without communication; several processes raise its error in :meth:`any`."""
        try:
            yield
        except Exception as error:
            if jax.process_count() == 1:
                raise
            self.failure = self.failure or error

    @contextlib.contextmanager
    def together(self) -> Iterator[None]:
        """Run a block without communication; raise on all processes if it fails on one."""
        with self.later():
            yield
        self.any(0)

    def _described(self, failure: Exception) -> str:
        kinds = [kind.__name__ for kind in type(failure).__mro__]
        return json.dumps([next((k for k in kinds if k in self.types), kinds[0]), str(failure)])

    def _of_another(self, process: int, kind: str, text: str) -> Exception:
        told = text if kind in self.types else f"{kind}: {text}"
        return self.types.get(kind, RuntimeError)(f"process {process} of this run failed: {told}")


def require_same_call(call: Mapping[str, Any]) -> None:
    """Raise ValueError if the processes made different calls, which would deadlock."""
    if jax.process_count() == 1:
        return
    calls = [json.loads(text) for text in _shared(json.dumps(dict(call), default=str))]
    for other, theirs in enumerate(calls):
        names = [name for name in theirs if theirs[name] != calls[0].get(name)]
        if names or len(theirs) != len(calls[0]):
            name = (names or sorted(calls[0].keys() ^ theirs.keys()))[0]
            raise ValueError(
                f"every process must make the same call, and process {other} has another {name} "
                f"than process 0: {theirs.get(name)!r:.100} and not {calls[0].get(name)!r:.100}."
            )


def agree(start: int, state: TrainState) -> tuple[int, TrainState]:
    """Return the step and state of the first process, which alone reads checkpoints."""
    if jax.process_count() == 1:
        return start, state
    bare = jax.tree.map(_keys.words, state)
    start, bare = multihost_utils.broadcast_one_to_all((np.asarray(start), bare))
    return int(start), jax.tree.map(_keys.from_words, bare, state)


def _shared(text: str) -> list[str]:
    """Exchange a text: return the texts of all processes, in order."""
    own = np.frombuffer(text.encode("utf-8", "replace"), np.uint8)
    sizes = np.ravel(multihost_utils.process_allgather(np.asarray([len(own)])))
    padded = np.zeros(int(sizes.max()), np.uint8)
    padded[: len(own)] = own
    rows = np.asarray(multihost_utils.process_allgather(padded))
    return [bytes(row[:size]).decode("utf-8") for row, size in zip(rows, sizes, strict=True)]
