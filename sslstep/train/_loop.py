"""A run of training: steps, records, checkpoints, and whatever may interrupt them."""

import contextlib
import logging
import os
import signal
import zlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import PyTree
from tqdm import tqdm

from sslstep import _check
from sslstep.simulate import DivergenceError
from sslstep.train import _peers
from sslstep.train._compile import CompiledStep
from sslstep.train._files import INITIAL_NORM, INITIAL_STEP, RunFiles
from sslstep.train._lock import held
from sslstep.train._order import batch_indices
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
    - A second run in the folder at once, of this or another process: :class:`InUseError`, with the
      holder's process. One that died blocks nobody.
    - A state that no checkpoint can hold, or a folder in which none can be read: an error before
      the first step.
    - A checkpoint that cannot be read: a warning, and the one before it.
    - Metrics gone of steps that a checkpoint has: a warning, and it goes on from there. Lines that
      cannot be read stay as they are.
    - ``record`` fails: a checkpoint of that step, and its error. It returns other entries or shapes
      than before: a warning; all is kept, with NaN where a number is missing.
    - A full disk: an error; earlier checkpoints and whole lines of the files are intact.
    - A loss or gradient that is not finite, or, at a checkpoint, a parameter or running average:
      :class:`DivergenceError`, before anything of it is saved.

    Over several processes, every one makes the same call; the first writes, in a folder that only
    it needs to see. What one of them raises, all raise.

    Handlers of SIGTERM and SIGINT are put back after the run, also those that are not Python's, and
    told of a signal once the run is saved.

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
    writer = jax.process_index() == 0
    at = tuple(sorted({int(each) for each in record_at}))
    with contextlib.ExitStack() as stack:
        with _peers.together():
            steps = {"num_steps": num_steps, "checkpoint_every": checkpoint_every}
            steps["steps_per_dispatch"] = steps_per_dispatch
            _require_steps(step, steps, record, at)
            num_images = _length(images)
            batch_indices(state.key, 0, 0, batch_size, num_images)  # refuses sizes that do not fit
            path = Path(os.path.expanduser(folder)) if folder is not None and writer else None
            if path is not None:
                path.mkdir(parents=True, exist_ok=True)
                stack.enter_context(held(path / "lock", f"the run in {path}"))
            files = RunFiles(path, keep)
            stack.callback(files.close)
            shared = folder is not None or jax.process_count() > 1
            described = settings or {}, _seen(state, images, batch_size) if shared else {}
            files.require_same(*described)
            found = files.resume(state)
        alike = {name: v for name, v in described[1].items() if not name.startswith(INITIAL_NORM)}
        _peers.require_same_call({**steps, **alike, "record_at": at, "settings": described[0]})
        first_of_all = int(state.step)
        start, state = _peers.agree(*found)
        if start > num_steps:
            raise ValueError(
                f"num_steps = {num_steps}, but the run has {start} already"
                f"{f' in {folder}' if folder is not None else ''}: name another folder, or train "
                f"on."
            )
        with _peers.together():
            files.remember(*described)
        stops = sorted({*at, *range(0, num_steps, checkpoint_every), num_steps})
        here = step.place(state)
        placed = step.place(images) if start < num_steps else None
        signals = stack.enter_context(Signals())
        bar = stack.enter_context(_bar(progress if writer else None, start, num_steps))
        failure: Exception | None = None
        done, shown = start, {}

        def written(first: int, metrics: Any) -> None:
            """Write metrics down. What fails here is raised when all processes can raise it."""
            nonlocal failure
            try:
                if failure is None:
                    shown.update(files.metrics(first, metrics))
            except Exception as error:
                if jax.process_count() == 1:
                    raise
                failure = error

        def checkpoint() -> None:
            with _peers.together():
                files.checkpoint(done, step.fetch(here))

        def recorded() -> None:
            try:
                with _peers.together():
                    measured = record(step.fetch(here)) if record is not None else {}
                    shown.update(files.record(done, measured))
            except DivergenceError:
                raise
            except Exception:
                if done > start:  # what was trained is not lost
                    checkpoint()
                raise

        # A step is recorded where it is reached: a run that goes on has done so, unless it failed.
        if start in at and (start == first_of_all or files.failed_record(start)):
            recorded()
        pending, dispatches = None, 0
        for stop in (stop for stop in stops if stop > start):
            for first, count in _dispatches(done, stop, steps_per_dispatch):
                indices = batch_indices(state.key, first, count, batch_size, num_images)
                here, metrics = step(here, placed, indices)
                # One dispatch runs while the one before it is written down.
                if pending is not None:
                    written(*pending)
                pending, done = (first, step.fetch(metrics)), first + count
                show = {k: f"{shown[k]:.4g}" for k in ("loss", "learned") if k in shown}
                bar.set_postfix(show, refresh=False)
                bar.update(count)
                dispatches += 1
                # Several processes must stop at one step, and asking all of them takes time.
                now = jax.process_count() == 1 or dispatches % _ASK_EVERY == 0
                if now and _peers.anyone(signals.received, failure):
                    break
            if pending is not None:
                written(*pending)
            pending = None
            asked = _peers.anyone(signals.received, failure)
            if done in at:
                recorded()
                asked = _peers.anyone(signals.received)
            if asked or done % checkpoint_every == 0 or done == num_steps:
                checkpoint()
            if asked:
                break
    # One that came later, with the last checkpoint, must not be lost: the program may have more to
    # do. From here on signals do again what they did before.
    if asked := _peers.anyone(signals.received):
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


def _dispatches(first: int, stop: int, most: int) -> Iterator[tuple[int, int]]:
    """Cut the steps from one stop to the next: where, and how many.

    As many at once as are allowed, or a power of two: each other number is another program to
    compile. Counted back from the stop, so that an interrupted run cuts what is left as it would
    have been.
    """
    while first < stop:
        rest = (stop - first) % most
        count = 1 << (rest.bit_length() - 1) if rest else most
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


@contextlib.contextmanager
def _bar(name: str | None, start: int, num_steps: int) -> Iterator[Any]:
    disable = True if name is None else None  # None: shown on a terminal only
    with tqdm(total=num_steps, initial=start, desc=name, unit="step", disable=disable) as bar:
        yield bar
