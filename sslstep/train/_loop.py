"""A run of training: steps, records, checkpoints, and whatever may interrupt them."""

import contextlib
import logging
import signal
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np
from jaxtyping import PyTree
from tqdm import tqdm

from sslstep import _check
from sslstep.simulate import DivergenceError
from sslstep.train._compile import CompiledStep
from sslstep.train._files import opened
from sslstep.train._identity import Identity, seen_of
from sslstep.train._order import batch_indices
from sslstep.train._peers import Peers, agree, require_same_call
from sslstep.train._rows import columns
from sslstep.train._signals import Signals
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
        records: arrays of one row a record: ``step``, and what ``record`` measured, as
            :func:`read_run` has it.
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
    """Train for ``num_steps`` steps, resumable from the last checkpoint.

    With a folder, the run writes ``metrics.jsonl`` and ``records.jsonl`` as it goes, which
    :func:`read_run` reads, and ``checkpoints/``. The same call on the same folder goes on from the
    last checkpoint and ends in the same bits, files included, as a run never interrupted (on the
    same machine and versions; other devices round differently). A folder of a finished run is read,
    not run again.

    - Killed: what came after the last checkpoint is done again.
    - SIGTERM or Ctrl-C: the run finishes the dispatch (with several processes, at most ten), saves
      a checkpoint, and raises :class:`Interrupted`. A second Ctrl-C stops at once. Handlers of
      before are put back, and told of the signal once the run is saved.
    - A second run in the folder at once: :class:`InUseError`. One that died blocks nobody.
    - A loss, a gradient, a record or, at a checkpoint, a parameter that is not finite:
      :class:`DivergenceError`, before anything of it is saved.
    - ``record`` fails: a checkpoint of that step, and its error.
    - Several processes: each makes the same call; the first writes, in a folder that only it needs
      to see. What one of them raises, all raise.

    The page on training of the documentation has a table of all that may happen, damaged files and
    full disks included.

    Args:
        step: from :func:`compile_step`.
        state: before the first step, from :func:`init_state`. Not modified.
        images: array of all images, or pytree of arrays of equal length, on which ``views_fn`` of
            :func:`make_step` works. Copied to the devices once, as they are.
        num_steps: at which step to stop.
        batch_size: images in a batch, over all devices. Batches are those of
            :func:`batch_indices` with the state's key.
        folder: for the run's files; made if it does not exist. None: nothing is written.
        record: ``record(state)``, a dictionary of arrays or numbers, real ones or truth values,
            such as :func:`make_record` gives, none of them called ``step``. An entry ``learned`` is
            shown in the progress bar.
        record_at: at which steps to call it, within 0...num_steps.
        checkpoint_every: steps between checkpoints; there is one after the last step, too.
        keep: how many checkpoints to keep, at least 2.
        steps_per_dispatch: how many steps to hand to the devices at once. More than one pays where
            a step is as short as a dispatch, some 0.1 ms to 1 ms. What is left before a record or
            checkpoint is done in powers of two, so that few programs are compiled.
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
        TypeError: if ``step`` is not compiled, JSON cannot hold ``settings``, the state has a leaf
            that is no array, or ``record`` returns something else than numbers.
        InUseError: as above.
        DivergenceError: as above, with the step, the last finite metrics and the checkpoint to
            return to.
        Interrupted: as above.
        CheckpointError, OSError: if files could not be written, no checkpoint can be read,
            or all are gone.
        RuntimeError: what another process raised, if it is none of these.

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
    at = tuple(sorted({int(each) for each in record_at}))
    peers, signals, shown = Peers(), Signals(), {}
    with contextlib.ExitStack() as stack:
        with peers.together():
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
                f"num_steps = {num_steps}, but the run has {start} already"
                f"{f' in {folder}' if folder is not None else ''}: name another folder, or train "
                f"on."
            )
        with peers.together():
            files.remember()
        stops = {*at, *range(0, num_steps, checkpoint_every), num_steps}
        placed = step.place(images) if start < num_steps else None
        here, done = step.place(state), start
        stack.enter_context(signals)
        bar = stack.enter_context(_bar(progress if writer else None, start, num_steps))

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
                if done > start:  # what was trained is not lost
                    on_checkpoint()
                raise

        # A step is recorded where it is reached: a run that goes on has done so, unless it failed.
        if start in at and (start == first_of_all or files.failed_record(start)):
            on_record()
        before = None  # what the last dispatch returned: it is written while the next one runs
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
            # Several processes must stop at one step, and asking all of them takes time.
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
    # One that came later, with the last checkpoint, must not be lost: the program may have more to
    # do. From here on signals do again what they did before.
    if asked := peers.any(signals.received):
        signals.hand_on()
        saved = "saved: the same call goes on from here"
        kept = "lost, as there is no folder" if folder is None else saved
        by = signal.Signals(asked).name
        message = f"stopped at step {done} of {num_steps} by {by}, and {kept}."
        if writer:
            _log.warning(message)  # it ends the program, which prints no status
        raise Interrupted(message, 128 + asked)
    return Fit(step.fetch(here), columns(files.metric_rows), columns(files.record_rows))


def _require_steps(
    step: Any, steps: Mapping[str, int], record: Any, record_at: Sequence[int]
) -> None:
    if not isinstance(step, CompiledStep):
        raise TypeError(f"step must come from compile_step, got a {type(step).__name__}.")
    for name, value in steps.items():
        _check.require_at_least(name, value, 0 if name == "num_steps" else 1)
    if record_at and not 0 <= record_at[0] <= record_at[-1] <= steps["num_steps"]:
        raise ValueError(
            f"record_at must lie within 0...num_steps = {steps['num_steps']}, got "
            f"{record_at[0]} to {record_at[-1]}."
        )
    if record_at and record is None:
        raise ValueError("record_at says when to record, but record, what to measure, is missing.")
    if record is not None and not record_at:
        raise ValueError("record says what to measure, but record_at, when, is missing or empty.")


def _length(images: PyTree) -> int:
    sizes = {leaf.shape[0] for leaf in jax.tree.leaves(images)}
    if len(sizes) != 1:
        raise ValueError(f"images must be arrays of one length, got lengths {sorted(sizes)}.")
    return int(*sizes)


def _dispatches(start: int, stops: Iterable[int], most: int) -> Iterator[tuple[int, int]]:
    """Cut the steps from each stop to the next: where, and how many.

    As many at once as are allowed, or a power of two: each other number is another program to
    compile. Counted back from the stop, so that an interrupted run cuts what is left as it would
    have been.
    """
    for stop in stops:
        while start < stop:
            rest = (stop - start) % most
            count = 1 << (rest.bit_length() - 1) if rest else most
            yield start, count
            start += count


@contextlib.contextmanager
def _bar(name: str | None, start: int, num_steps: int) -> Iterator[Any]:
    disable = True if name is None else None  # None: shown on a terminal only
    with tqdm(total=num_steps, initial=start, desc=name, unit="step", disable=disable) as bar:
        yield bar
