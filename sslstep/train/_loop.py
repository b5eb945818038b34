"""The training loop: steps, records, checkpoints, signals and errors."""

import contextlib
import logging
import operator
import signal
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np
from jaxtyping import PyTree

from sslstep import _check, _terminal
from sslstep.simulate import DivergenceError
from sslstep.train._compile import CompiledStep
from sslstep.train._files import opened
from sslstep.train._identity import Identity, seen_of
from sslstep.train._order import batch_indices
from sslstep.train._peers import Peers, agree, require_same_call
from sslstep.train._rows import columns
from sslstep.train._signals import Signals
from sslstep.train._step import TrainState

_log = logging.getLogger(__name__)

# Number of dispatches between two exchanges of signals, if there are several processes.
_ASK_EVERY = 10


class Fit(NamedTuple):
    """A finished run.

    Attributes:
        state: state after the last step.
        metrics: arrays with one row for each step: ``step``, ``loss``, ``grad_norm``, and the
            further scalars of the loss function.
        records: arrays with one row for each record: ``step``, and the entries that ``record``
            returned, as :func:`read_run` returns them.
    """

    state: TrainState
    metrics: dict[str, np.ndarray]
    records: dict[str, np.ndarray]


class Interrupted(SystemExit):
    """A run stopped after SIGTERM or SIGINT, and saved a checkpoint if it has a folder.

    It is a ``SystemExit``: unless caught, it ends the program with status 128 + signal number.
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
    """Train for ``num_steps`` steps, resumable from the last checkpoint.

    If a folder is given, the run writes ``metrics.jsonl`` and ``records.jsonl``, which
    :func:`read_run` reads, and ``checkpoints/``. The same call on the same folder continues from
    the last checkpoint. Its files and its result are bit for bit those of an uninterrupted run on
    the same machine and versions; other devices round differently. If the run is finished, the call
    reads its result.

    - If the process is killed, the next call repeats the steps after the last checkpoint.
    - On SIGTERM or Ctrl-C the run finishes the current dispatch (up to ten dispatches with several
      processes), saves a checkpoint, restores and calls the earlier signal handlers, and raises
      :class:`Interrupted`. A second Ctrl-C stops at once.
    - If another run uses the folder, the call raises :class:`InUseError`. The lock of a process
      ends when the process dies.
    - If a loss, a gradient, a record or, at a checkpoint, a parameter is not finite, the run raises
      :class:`DivergenceError` and saves nothing of that step.
    - If ``record`` raises another error, the run saves a checkpoint of that step and raises the
      error.
    - If there are several processes, each makes the same call. The first writes the files, in a
      folder that only it needs to see. An error of one process is raised on all.

    Args:
        step: the compiled step, from :func:`compile_step`.
        state: state before the first step, from :func:`init_state`; not modified.
        images: array of all images, or pytree of arrays of equal length, as ``views_fn`` of
            :func:`make_step` takes them. They are copied to the devices once, without conversion.
        num_steps: total number of steps, including the steps of an earlier call.
        batch_size: number of images in a batch, over all devices. :func:`batch_indices` draws the
            batches with the state's key.
        folder: folder of the run's files, created if it does not exist; None to write nothing.
        record: function of the state that returns a dictionary of real or boolean arrays, such as
            :func:`make_record` makes. The name ``step`` is reserved. The progress bar shows the
            entry ``learned``.
        record_at: numbers of steps after which ``record`` is called, within 0...num_steps.
        checkpoint_every: number of steps between checkpoints. The last step has one too.
        keep: number of checkpoints to keep, at least 2.
        steps_per_dispatch: largest number of steps in one dispatch to the devices. More than one
            helps if a step is as short as a dispatch, about 0.1 ms to 1 ms.
        settings: the settings that determine the run, which JSON can represent. They are written to
            ``settings.json``. A later call with other settings, batch size, images, key or norms of
            initial parameters raises ValueError.
        progress: title of the progress bar, which is shown on a terminal; None for no bar.

    Raises:
        ValueError: if an argument is out of range, or the folder holds another run, more steps than
            ``num_steps``, or unreadable settings.
        TypeError: if ``step`` is not compiled, JSON cannot represent ``settings``, a leaf of the
            state is not an array, or ``record`` returns an entry that is not numeric.
        InUseError: if another run uses the folder.
        DivergenceError: if a number is not finite. The message states the step, the last finite
            metrics and the checkpoint to return to.
        Interrupted: after SIGTERM or Ctrl-C.
        CheckpointError, OSError: if files cannot be written, or checkpoints cannot be read.
        RuntimeError: if another process failed with an error of another type.

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
    writer, alone = jax.process_index() == 0, jax.process_count() == 1
    if not all(isinstance(each, int | np.integer) for each in record_at):
        raise ValueError(f"record_at must be a sequence of whole step numbers, got {record_at!r}.")
    at = tuple(sorted({int(each) for each in record_at}))
    peers, signals, shown = Peers(), Signals(), {}
    with contextlib.ExitStack() as stack:
        with peers.together():
            # NumPy's integers are no integers for JSON, and have no bit_length.
            num_steps, checkpoint_every, steps_per_dispatch = map(
                operator.index, (num_steps, checkpoint_every, steps_per_dispatch)
            )
            steps = {"num_steps": num_steps, "checkpoint_every": checkpoint_every}
            steps["steps_per_dispatch"] = steps_per_dispatch
            _require_steps(step, steps, record, at)
            num_images = _length(images)
            batch_indices(state.key, 0, 0, batch_size, num_images)  # refuses sizes that do not fit
            shared = folder is not None or not alone
            seen = seen_of(state, images, batch_size) if shared else {}
            identity = Identity(settings or {}, seen) if shared else None
            files = stack.enter_context(opened(folder if writer else None, keep, identity))
            found = files.resume(state)
        require_same_call({**steps, "record_at": at, **(identity.alike() if identity else {})})
        first_of_all = int(state.step)
        start, state = agree(*found)
        if start > num_steps:
            raise ValueError(
                f"num_steps = {num_steps}, but the run has taken {start} steps"
                f"{f' in {folder}' if folder is not None else ''}: name another folder, or give a "
                f"larger num_steps."
            )
        with peers.together():
            files.remember()
        stops = {*at, *range(0, num_steps, checkpoint_every), num_steps}
        placed = step.place(images) if start < num_steps else None
        here, done = step.place(state), start
        stack.enter_context(signals)
        visible = None if writer and progress is not None else False
        bar = _terminal.progress_bar(
            visible, total=num_steps, initial=start, desc=progress, unit="step"
        )
        stack.enter_context(bar)

        def on_metrics(first: int, metrics: Any) -> None:
            with peers.later():
                shown.update(files.metrics(first, metrics))

        def on_checkpoint() -> None:
            with peers.together():
                files.checkpoint(done, step.fetch(here))

        def on_record() -> None:
            try:
                with peers.together():
                    measured = record(step.fetch(here)) if record is not None else {}
                    shown.update(files.record(done, measured))
            except DivergenceError:
                raise
            except Exception:
                if done > start:  # save the steps of this call
                    on_checkpoint()
                raise

        # A continued run has the record of its first step already, unless `record` failed there.
        if start in at and (start == first_of_all or files.failed_record(start)):
            on_record()
        before = None  # metrics of the last dispatch, written while the next one runs
        cuts = _dispatches(start, sorted(stops), steps_per_dispatch)
        for dispatch, (first, count) in enumerate(cuts, start=1):
            indices = batch_indices(state.key, first, count, batch_size, num_images)
            here, metrics = step(here, placed, indices)
            if before is not None:
                on_metrics(*before)
            before, done = (first, step.fetch(metrics)), first + count
            show = {name: f"{shown[name]:.4g}" for name in ("loss", "learned") if name in shown}
            bar.set_postfix(show, refresh=False)
            bar.update(count)
            # Several processes must stop at the same step, and each exchange takes time.
            asked = (alone or dispatch % _ASK_EVERY == 0) and peers.any(signals.received)
            if not asked and done not in stops:
                continue
            on_metrics(*before)
            before = None
            asked = peers.any(signals.received)
            if done in at:
                on_record()
                asked = peers.any(signals.received)
            if asked or done % checkpoint_every == 0 or done == num_steps:
                on_checkpoint()
            if asked:
                break
    # A signal during the last checkpoint ends the run too: the program may have more to do. The
    # earlier handlers are in place again from here on.
    if asked := peers.any(signals.received):
        signals.hand_on()
        saved = "saved: the same call goes on from here"
        kept = "lost, as there is no folder" if folder is None else saved
        by = signal.Signals(asked).name
        message = f"stopped at step {done} of {num_steps} by {by}, and {kept}."
        if writer:
            _log.warning(message)  # Python prints no message for a SystemExit with a number
        raise Interrupted(message, 128 + asked)
    return Fit(step.fetch(here), columns(files.metric_rows), columns(files.record_rows))


def _require_steps(
    step: Any, steps: Mapping[str, int], record: Any, record_at: Sequence[int]
) -> None:
    """Raise TypeError or ValueError if arguments of :func:`fit` are invalid.

    The step must be compiled, the numbers `steps` in range, and the ascending `record_at` within
    0...num_steps; `record` and `record_at` need each other.
    """
    if not isinstance(step, CompiledStep):
        raise TypeError(f"step must come from compile_step, got a {type(step).__name__}.")
    for name, value in steps.items():
        _check.require_within(name, value, at_least=0 if name == "num_steps" else 1)
    if record_at and not 0 <= record_at[0] <= record_at[-1] <= steps["num_steps"]:
        raise ValueError(
            f"record_at must lie within 0...num_steps = {steps['num_steps']}, got "
            f"{record_at[0]} to {record_at[-1]}."
        )
    if record_at and record is None:
        raise ValueError("record_at needs record, the function that measures, got None.")
    if record is not None and not record_at:
        raise ValueError("record needs record_at, the steps at which to measure, got none.")


def _length(images: PyTree) -> int:
    shapes = [np.shape(leaf) for leaf in jax.tree.leaves(images)]
    if len({shape[:1] for shape in shapes}) != 1 or () in shapes:
        raise ValueError(f"images must be arrays of one length, got shapes {shapes[:5]}.")
    return shapes[0][0]


def _dispatches(start: int, stops: Iterable[int], most: int) -> Iterator[tuple[int, int]]:
    """Split the steps up to each stop into dispatches: yield first step and number of steps.

    A dispatch has `most` steps or a power of two, because each number of steps is a program to
    compile. Full dispatches come last before a stop: a continued run then has the same dispatches.
    """
    for stop in stops:
        while start < stop:
            rest = (stop - start) % most
            count = 1 << (rest.bit_length() - 1) if rest else most
            yield start, count
            start += count
