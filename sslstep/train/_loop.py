"""A run of training: steps, records, checkpoints, and whatever may interrupt them."""

import contextlib
import logging
import signal
import threading
import zlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.experimental import multihost_utils
from jaxtyping import PyTree
from tqdm import tqdm

from sslstep import _check
from sslstep.train._compile import CompiledStep
from sslstep.train._files import INITIAL_NORM, INITIAL_STEP, RunFiles, columns
from sslstep.train._order import batch_indices
from sslstep.train._step import TrainState

__all__ = ["Fit", "Interrupted", "fit"]

_log = logging.getLogger(__name__)

# Dispatches from one time that processes ask each other for signals to the next.
_ASK_EVERY = 10


class Fit(NamedTuple):
    """A finished run.

    Attributes:
        state: after the last step.
        metrics: arrays of one row a step: ``step``, ``loss``, ``grad_norm``.
        records: arrays of one row a record: ``step``, and what ``record`` measured.
    """

    state: TrainState
    metrics: dict[str, np.ndarray]
    records: dict[str, np.ndarray]


class Interrupted(SystemExit):
    """A run was asked to stop, by SIGTERM or SIGINT, and has saved itself.

    As a ``SystemExit`` it ends the program, with the status that shells expect: 128 + the signal.
    """

    def __init__(self, message: str, code: int) -> None:
        super().__init__(code)
        self.message = message

    def __str__(self) -> str:
        return self.message


def fit(
    step: CompiledStep,
    state: TrainState,
    images: PyTree,
    *,
    num_steps: int,
    batch_size: int,
    folder: str | Path | None = None,
    record: Callable[[TrainState], Mapping[str, Any]] | None = None,
    record_at: Sequence[int] | np.ndarray = (),
    checkpoint_every: int = 1000,
    keep: int = 3,
    steps_per_dispatch: int = 1,
    settings: Mapping[str, Any] | None = None,
    progress: str | None = None,
) -> Fit:
    """Train for a number of steps, so that nothing but a lack of time can undo it.

    With a folder, the run writes ``metrics.jsonl`` and ``records.jsonl`` as it goes, which
    :func:`read_run` reads, and ``checkpoints/``. The same call on the same folder goes on from the
    last checkpoint and ends in the same bits, files included, as a run never interrupted (on the
    same machine and versions; other devices round differently). A folder of a finished run is read,
    not run again.

    - SIGTERM or Ctrl-C: the run finishes the dispatch (with several processes, at most ten), saves
      a checkpoint, and raises :class:`Interrupted`, also where that was its last step. A second
      Ctrl-C stops at once.
    - Killed: what came after the last checkpoint is done again.
    - A checkpoint that cannot be read: a warning, and the one before it.
    - Metrics gone of steps that a checkpoint has: a warning, and it goes on from there.
    - A full disk: an error; earlier checkpoints and whole lines of the files are intact.
    - A loss or gradient that is not finite, or, at a checkpoint, a parameter or running average:
      :class:`DivergenceError`, before anything of it is saved.

    Over several processes, every one makes the same call; the first writes, in a folder that only
    it needs to see.

    Args:
        step: from :func:`compile_step`.
        state: before the first step, from :func:`init_state`. Not modified.
        images: array of all images, or pytree of arrays of equal length, on which ``views_fn`` of
            :func:`make_step` works. Copied to the devices once, as they are.
        num_steps: at which step to stop.
        batch_size: images in a batch, over all devices. Batches are those of
            :func:`batch_indices` with the state's key.
        folder: for the run's files; made if it does not exist. None: nothing is written.
        record: ``record(state)``, a dictionary of arrays or numbers, such as :func:`make_record`
            gives, none of them called ``step``. An entry ``learned`` is shown in the progress bar.
        record_at: at which steps to call it, within 0...num_steps.
        checkpoint_every: steps between checkpoints; there is one after the last step, too.
        keep: how many checkpoints to keep, at least 2.
        steps_per_dispatch: how many steps to hand to the devices at once. More than one pays where
            a step is as short as a dispatch, some 0.1 ms to 1 ms.
        settings: anything that JSON can hold and that determines the run. Written to
            ``settings.json``; a later call with others is refused. So is, by ``run.json``, one with
            another ``batch_size``, other images, or in ``state`` another key or initial parameters
            of other norms, such as those of another α.
        progress: what to call the run in a progress bar, shown on terminals; None for no bar.

    Returns:
        :class:`Fit`.

    Raises:
        ValueError: if an argument is out of range, ``record`` returns an entry ``step``, or the
            folder holds a run of other settings, another batch size, key, initial scale or images,
            another network or optimiser, or more steps, or settings that cannot be read.
        TypeError: if ``step`` is not compiled, or JSON cannot hold ``settings``.
        DivergenceError: as above, with the step, the last finite metrics and the checkpoint to
            return to.
        Interrupted: as above.
        CheckpointError, OSError: if files could not be written, no checkpoint can be read,
            or all are gone.

    Example:
        >>> import jax, jax.numpy as jnp, numpy as np, optax
        >>> from sslstep import data, losses, nn, train
        >>> backbone = nn.ResNet(stage_sizes=(1,), width=4, stem="small")
        >>> network = nn.Encoder(backbone, nn.Projector(hidden=(8,), dim=3))
        >>> sgd = optax.sgd(0.1)
        >>> def two_crops(keys, images):
        ...     return data.two_views(keys, images, data.crop_views(8))
        >>> step = train.make_step(network, losses.barlow_twins, sgd, two_crops)
        >>> compiled = train.compile_step(step, devices=jax.devices()[:1])
        >>> state = train.init_state(jax.random.key(0), network, sgd, jnp.zeros((1, 8, 8, 3)))
        >>> images = np.random.default_rng(0).integers(0, 256, (32, 12, 12, 3), np.uint8)
        >>> run = train.fit(compiled, state, images, num_steps=4, batch_size=16)
        >>> run.metrics["step"]
        array([1, 2, 3, 4])
    """
    if not isinstance(step, CompiledStep):
        raise TypeError(f"step must come from compile_step, got a {type(step).__name__}.")
    for name, value, least in (
        ("num_steps", num_steps, 0),
        ("checkpoint_every", checkpoint_every, 1),
        ("steps_per_dispatch", steps_per_dispatch, 1),
    ):
        _check.require_at_least(name, value, least)
    record_steps = sorted({int(at) for at in record_at})
    if record_steps and not 0 <= record_steps[0] <= record_steps[-1] <= num_steps:
        raise ValueError(
            f"record_at must lie within 0...num_steps = {num_steps}, got "
            f"{record_steps[0]} to {record_steps[-1]}."
        )
    if record_steps and record is None:
        raise ValueError("record_at says when to record, but record, what to measure, is missing.")
    if record is not None and not record_steps:
        raise ValueError("record says what to measure, but record_at, when, is missing or empty.")
    sizes = {leaf.shape[0] for leaf in jax.tree.leaves(images)}
    if len(sizes) != 1:
        raise ValueError(f"images must be arrays of one length, got lengths {sorted(sizes)}.")
    batch_indices(state.key, 0, 0, batch_size, *sizes)  # refuses sizes that do not fit

    writer = jax.process_index() == 0
    files = RunFiles(Path(folder) if folder is not None and writer else None, keep)
    described = settings or {}, _seen(state, images, batch_size) if files.folder else {}
    files.require_same(*described)
    first_of_all = int(state.step)
    start, state = _agree(*files.resume(state))
    if start > num_steps:
        files.close()
        raise ValueError(
            f"num_steps = {num_steps}, but the run has {start} already"
            f"{f' in {folder}' if folder is not None else ''}: name another folder, or train on."
        )
    files.remember(*described)
    stops = sorted({*record_steps, *range(0, num_steps, checkpoint_every), num_steps})
    here = step.place(state)
    placed = step.place(images) if start < num_steps else None
    with _Signals() as signals, _bar(progress if writer else None, start, num_steps) as bar:

        def show(row: Mapping[str, Any]) -> None:
            bar.set_postfix(
                {k: f"{row[k]:.4g}" for k in ("loss", "learned") if k in row}, refresh=False
            )

        def checkpoint(at: int) -> None:
            files.checkpoint(at, step.fetch(here))

        try:
            done = start
            shown: dict[str, Any] = {}
            if start == first_of_all and start in record_steps and record is not None:
                files.record(start, record(step.fetch(here)))
            pending, dispatches = None, 0
            for stop in (stop for stop in stops if stop > start):
                for first, count in _dispatches(done, stop, steps_per_dispatch):
                    indices = batch_indices(state.key, first, count, batch_size, *sizes)
                    here, metrics = step(here, placed, indices)
                    # One dispatch runs while the one before it is written down.
                    if pending is not None:
                        shown |= files.metrics(*pending)
                    pending, done = (first, step.fetch(metrics)), first + count
                    show(shown)
                    bar.update(count)
                    dispatches += 1
                    # Several processes must stop at one step, and asking all of them takes time.
                    now = jax.process_count() == 1 or dispatches % _ASK_EVERY == 0
                    if now and _anyone(signals.received):
                        break
                shown |= files.metrics(*pending) if pending is not None else {}
                pending = None
                if done in record_steps and record is not None:
                    shown |= files.record(done, record(step.fetch(here)))
                asked = _anyone(signals.received)
                if asked or done % checkpoint_every == 0 or done == num_steps:
                    checkpoint(done)
                if asked:
                    break
        finally:
            files.close()
    # One that came later, with the last checkpoint, must not be lost: the program may have more to
    # do. From here on signals do again what they did before.
    if asked := _anyone(signals.received):
        saved = "saved: the same call goes on from here"
        kept = "lost, as there is no folder" if folder is None else saved
        by = signal.Signals(asked).name
        message = f"stopped at step {done} of {num_steps} by {by}, and {kept}."
        if writer:
            _log.warning(message)  # it ends the program, which prints no status
        raise Interrupted(message, 128 + asked)
    return Fit(step.fetch(here), columns(files.metric_rows), columns(files.record_rows))


def _dispatches(first: int, stop: int, most: int) -> Iterator[tuple[int, int]]:
    """Cut the steps from one stop to the next: where, and how many.

    Counted back from the stop, so that an interrupted run cuts what is left as it would have been.
    """
    while first < stop:
        count = (stop - first) % most or most
        yield first, count
        first += count


def _seen(state: TrainState, images: PyTree, batch_size: int) -> dict[str, Any]:
    """What determines a run beside its settings, and the shapes of its state do not show."""
    leaves = jax.tree.leaves(images)
    return {
        **_initial_norms(state.params),
        INITIAL_STEP: int(state.step),
        "batch_size": int(batch_size),
        "images": [f"{leaf.dtype} {tuple(leaf.shape)}" for leaf in leaves],
        "checksums of images": [_checksum(leaf) for leaf in leaves],
        "key": np.asarray(jax.random.key_data(state.key)).ravel().tolist(),
    }


def _initial_norms(params: PyTree) -> dict[str, float]:
    """Of each array, which the scale and the seed of the initial parameters change."""
    norms = {}
    for path, leaf in jax.tree_util.tree_leaves_with_path(params):
        if jnp.issubdtype(leaf.dtype, jnp.floating):
            # With the shape: arrays of other shapes are another network's, which is said elsewhere.
            name = jax.tree_util.keystr(path, simple=True, separator="/")
            norm = np.linalg.norm(np.asarray(leaf).astype(np.float64))
            norms[f"{INITIAL_NORM}{name} {tuple(leaf.shape)}"] = float(f"{norm:.6g}")
    return norms


def _checksum(leaf: Any) -> str:
    """Of an array's bytes, at 1 GB or more a second."""
    flat = np.ascontiguousarray(leaf).reshape(-1)
    return f"{zlib.crc32(flat.view(np.uint8).data):08x}"


class _Signals:
    """Within a block, SIGTERM and the first SIGINT are noted instead of obeyed."""

    received = 0

    def __enter__(self) -> "_Signals":
        self._before = {}
        # Python handles signals in the main thread only.
        if threading.current_thread() is threading.main_thread():
            for number in (signal.SIGTERM, signal.SIGINT):
                self._before[number] = signal.signal(number, self._note)
        return self

    def _note(self, number: int, frame: Any) -> None:
        if self.received == number == signal.SIGINT:
            raise KeyboardInterrupt
        self.received = number

    def __exit__(self, *_: Any) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)


def _anyone(received: int) -> int:
    """A signal that any process has received."""
    if jax.process_count() == 1:
        return received
    return int(np.max(multihost_utils.process_allgather(np.asarray(received))))


def _agree(start: int, state: TrainState) -> tuple[int, TrainState]:
    """Go on from where the first process does: only it reads checkpoints."""
    if jax.process_count() == 1:
        return start, state
    bare = state._replace(key=jax.random.key_data(state.key))
    start, bare = multihost_utils.broadcast_one_to_all((np.asarray(start), bare))
    key = jax.random.wrap_key_data(bare.key, impl=jax.random.key_impl(state.key))
    return int(start), bare._replace(key=key)


@contextlib.contextmanager
def _bar(name: str | None, start: int, num_steps: int) -> Iterator[Any]:
    disable = True if name is None else None  # None: shown on a terminal only
    with tqdm(total=num_steps, initial=start, desc=name, unit="step", disable=disable) as bar:
        yield bar
