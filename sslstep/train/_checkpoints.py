"""Checkpoints of a run: written atomically, verified by a digest when read."""

import contextlib
import errno
import hashlib
import os
import re
import shutil
import tempfile
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import orbax.checkpoint as ocp
from jaxtyping import PyTree

from sslstep import _keys


class CheckpointError(OSError):
    """Raised if a checkpoint cannot be written, or if no checkpoint can be read."""


class CorruptCheckpointWarning(UserWarning):
    """Issued if a checkpoint cannot be read and an earlier one is used."""


class Checkpoints:
    """Write and read the checkpoints of one run, with Orbax.

    A checkpoint is a folder ``<step>/`` in Orbax's standard format, which appears only when it is
    complete. A SHA-256 digest of all values is stored with it: reading detects missing files and
    changed bytes. Arrays are written from the host, so a run may continue on another number of
    devices.

    Args:
        folder: folder of the checkpoints, created if it does not exist; ``~`` is expanded. Its path
            may contain any characters.
        keep: number of latest checkpoints to keep, at least 2: the last, and one to fall back to.

    Raises:
        ValueError: if ``keep`` is below 2.

    Example:
        >>> import tempfile
        >>> import jax.numpy as jnp
        >>> from sslstep import train
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     checkpoints = train.Checkpoints(folder)
        ...     checkpoints.save(100, {"w": jnp.array([1.0, 2.0])})
        ...     step, tree = checkpoints.latest({"w": jnp.zeros(2)})
        >>> step, tree["w"]
        (100, Array([1., 2.], dtype=float32))
    """

    def __init__(self, folder: str | Path, keep: int = 3) -> None:
        if keep < 2:
            raise ValueError(f"keep must be at least 2, the last and the one before, got {keep}.")
        self.folder = Path(os.path.expanduser(folder)).absolute()
        self._keep, self._written, self._proven = keep, False, False
        # Orbax must not wait for other processes: only this one writes.
        own = jax.process_index()
        only_this = ocp.options.MultiprocessingOptions(
            primary_host=own, active_processes={own}, barrier_sync_key_prefix=f"sslstep{own}"
        )
        self._checkpointer = ocp.Checkpointer(
            ocp.CompositeCheckpointHandler(
                state=ocp.StandardCheckpointHandler(multiprocessing_options=only_this),
                digest=ocp.JsonCheckpointHandler(multiprocessing_options=only_this),
                composite_options=ocp.CompositeOptions(multiprocessing_options=only_this),
            ),
            multiprocessing_options=only_this,
        )

    def steps(self) -> list[int]:
        """Return the steps of all checkpoints in the folder, in ascending order."""
        return sorted(int(path.name) for path in self.folder.glob("*") if path.name.isdecimal())

    def save(self, step: int, tree: PyTree) -> None:
        """Write a checkpoint, then remove the oldest checkpoints beyond ``keep``.

        Args:
            step: step of the checkpoint. If the folder has one of this step, nothing is written.
            tree: pytree of arrays and typed random keys. Arrays may be empty.

        Raises:
            ValueError, TypeError: if two arrays have one path, joined by slashes, or a leaf is
                neither an array of numbers or booleans nor a random key.
            CheckpointError: if writing fails, for example on a full disk, or if the first
                checkpoint cannot be read back. Earlier checkpoints stay intact.
        """
        if step in self.steps():
            return
        self._write(str(step), f"checkpoint of step {step}", tree)
        for old in self.steps()[: -self._keep]:
            shutil.rmtree(self.folder / str(old), ignore_errors=True)

    def rehearse(self, tree: PyTree) -> None:
        """Write a trial checkpoint, read it and remove it, so that a failure shows before the run.

        Args:
            tree: pytree of arrays and typed random keys.

        Raises:
            ValueError, TypeError, CheckpointError: under the conditions of :meth:`save`.
        """
        try:
            self._write(_REHEARSAL, "checkpoint that is tried before the run", tree)
        finally:
            shutil.rmtree(self.folder / _REHEARSAL, ignore_errors=True)

    def latest(self, like: PyTree) -> tuple[int, PyTree] | None:
        """Read the latest readable checkpoint.

        A checkpoint is corrupt if a file is missing, cut short or changed. Once an earlier
        checkpoint has been read, corrupt ones are renamed to ``<step>.corrupt`` with a
        :class:`CorruptCheckpointWarning`. No checkpoint is renamed if none can be read, because the
        cause may lie elsewhere, or if reading fails for a reason that may pass: too many open
        files, no permission, a disk or network that does not answer.

        Args:
            like: pytree of arrays with the expected structure, shapes and dtypes, such as the
                initial state.

        Returns:
            ``(step, tree)``, with arrays on JAX's default device; None if the folder has no
            checkpoints.

        Raises:
            ValueError, TypeError: if the checkpoint has other arrays than ``like``, from another
                network or optimiser, or :meth:`save` would reject ``like``.
            CheckpointError: if there are checkpoints, possibly corrupt ones, and none can be read.
            OSError: if reading fails for a reason that may pass.
        """
        expected = _to_host(like)  # first: reports a tree that cannot be saved before the run
        failures: dict[int, str] = {}
        for step in reversed(self.steps()):
            path = self.folder / str(step)
            try:
                leaves = self._read(str(step))
            except Exception as error:
                if not path.exists():  # removed by the run, which still goes on
                    return self.latest(like)
                if _may_pass(error):
                    raise
                failures[step] = self._first_line(error)
                continue
            for bad, reason in failures.items():
                self._set_aside(bad, reason)
            self._proven = True
            return step, _from_host(leaves, expected, like, path)
        corrupt = sorted(path.name for path in self.folder.glob("*.corrupt"))
        if failures or corrupt:
            each = [*(f"{step} ({reason})" for step, reason in failures.items()), *corrupt]
            raise CheckpointError(
                f"none of the checkpoints in {self.folder} can be read: {', '.join(each)}. All are "
                f"left as they are. To begin anew, name another folder, or remove this run's."
            )
        return None

    def _write(self, name: str, called: str, tree: PyTree) -> None:
        leaves = _to_host(tree)
        if not self._written:  # before its first write this object may only read another's folder
            self._remove_drafts("*")  # left by a killed process
            shutil.rmtree(self.folder / _REHEARSAL, ignore_errors=True)
            self._written = True
        # Orbax rejects empty arrays: their dtypes and shapes are stored instead.
        empty = {n: [str(a.dtype), list(a.shape)] for n, a in leaves.items() if not a.size}
        held = {name: leaf for name, leaf in leaves.items() if leaf.size}
        about = {"sha256": _digest(leaves)} | ({"empty": empty} if empty else {})
        parts = {"digest": ocp.args.JsonSave(about)}
        parts |= {"state": ocp.args.StandardSave(held)} if held else {}
        failed = "could not be written to {}"
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            with _plain(self.folder) as folder:
                self._checkpointer.save(folder / name, ocp.args.Composite(**parts))
            if not self._proven:  # a write may fail without an error: read the first one back
                failed = "was written to {}, and cannot be read there"
                self._read(name)
                self._proven = True
        except Exception as error:
            self._remove_drafts(name)
            steps = [step for step in self.steps() if str(step) != name]
            left = f"Intact is that of step {steps[-1]}." if steps else "There is no earlier one."
            why = f"{failed.format(self.folder)} ({self._first_line(error)})"
            raise CheckpointError(f"the {called} {why}. {left}") from error

    def _read(self, name: str) -> dict[str, np.ndarray]:
        with _plain(self.folder) as folder:
            path = folder / name
            parts: dict[str, Any] = {"digest": ocp.args.JsonRestore()}
            if (path / "state").exists():
                parts["state"] = ocp.args.StandardRestore(_as_numpy(path))
            found = self._checkpointer.restore(path, ocp.args.Composite(**parts))
        leaves = dict(found["state"]) if "state" in parts else {}
        for empty, (dtype, shape) in found["digest"].get("empty", {}).items():
            leaves[empty] = np.zeros(shape, jnp.dtype(dtype))
        if _digest(leaves) != found["digest"]["sha256"]:
            raise ValueError("its values are not those that were written")
        return leaves

    def _set_aside(self, step: int, reason: str) -> None:
        """Rename a corrupt checkpoint to ``<step>.corrupt``, with a warning."""
        path, kept = self.folder / str(step), self.folder / f"{step}.corrupt"
        again = 1
        while kept.exists():
            again += 1
            kept = self.folder / f"{step}.{again}.corrupt"
        with contextlib.suppress(OSError):  # a reader may lack permission to write
            path = path.rename(kept)
        warnings.warn(
            f"the checkpoint of step {step} cannot be read ({reason}); it is kept as {path}, and "
            f"the one before it is used.",
            CorruptCheckpointWarning,
            stacklevel=3,
        )

    def _remove_drafts(self, name: str) -> None:
        """Remove incomplete checkpoints whose names match `name`, a glob pattern."""
        for draft in self.folder.glob(f"{name}.orbax-checkpoint-tmp*"):
            shutil.rmtree(draft, ignore_errors=True)

    def _first_line(self, error: BaseException) -> str:
        text = str(error).strip() or type(error).__name__
        return re.sub(_ALIAS, lambda _: str(self.folder), text.splitlines()[0])[:300]


# Name of the trial checkpoint.
_REHEARSAL = "rehearsal"
# Paths that Orbax and TensorStore read literally. They treat other characters as patterns,
# separators or addresses.
_PLAIN = re.compile(r"(/[\w.+=,@-]*)+", re.ASCII)
_LINK = "folder-of-checkpoints"
_ALIAS = re.compile(rf"[^\s\"']*/{_LINK}")


@contextlib.contextmanager
def _plain(folder: Path) -> Iterator[Path]:
    """Yield a path of the folder that Orbax reads literally: its own, or a temporary link's."""
    if _PLAIN.fullmatch(str(folder)) and len(str(folder)) < 1000:
        yield folder
        return
    with tempfile.TemporaryDirectory(prefix="sslstep-") as where:
        link = Path(where) / _LINK
        link.symlink_to(folder, target_is_directory=True)
        yield link


#: Error numbers of failures that may pass and do not show a corrupt file.
_PASSING = (
    *(errno.EMFILE, errno.ENFILE, errno.EIO, errno.ESTALE, errno.ENOMEM, errno.EACCES),
    *(errno.EPERM, errno.EAGAIN, errno.EINTR, errno.ETIMEDOUT),
)


def _may_pass(error: Exception) -> bool:
    """Whether reading failed for a reason that lies outside the file and may pass."""
    number = error.errno if isinstance(error, OSError) else None
    # TensorStore's errors state the reason in their text.
    return number in _PASSING or any(os.strerror(number) in str(error) for number in _PASSING)


def _to_host(tree: PyTree) -> dict[str, np.ndarray]:
    """Copy the leaves to NumPy arrays, by their paths; random keys become their raw words."""
    leaves = {}
    for path, leaf in jax.tree_util.tree_leaves_with_path(tree):
        name = jax.tree_util.keystr(path, simple=True, separator="/")
        if name in leaves:
            raise ValueError(
                f"two arrays of the tree have the path {name}, of which a checkpoint would keep "
                f"one: choose names without slashes."
            )
        array = np.asarray(_keys.words(leaf))
        if array.dtype != bool and not jnp.issubdtype(array.dtype, np.number):
            raise TypeError(
                f"{name} of the tree must be an array of numbers, or a key, for a checkpoint to "
                f"hold it, got {leaf!r:.80} of dtype {array.dtype}."
            )
        leaves[name] = array
    return leaves


def _from_host(
    leaves: dict[str, np.ndarray], expected: dict[str, np.ndarray], like: PyTree, path: Path
) -> PyTree:
    shapes = {name: (leaf.shape, leaf.dtype) for name, leaf in leaves.items()}
    wanted = {name: (leaf.shape, leaf.dtype) for name, leaf in expected.items()}
    if shapes != wanted:
        names = [n for n in sorted({*shapes, *wanted}) if shapes.get(n) != wanted.get(n)]
        name = names[0]
        raise ValueError(
            f"{path} holds another state than this run's, in {len(names)} arrays: {name} is "
            f"{shapes.get(name, 'missing')} there and {wanted.get(name, 'missing')} here. Another "
            f"network or optimiser wrote it."
        )
    flat, structure = jax.tree.flatten(like)
    pairs = zip(expected, flat, strict=True)
    found = [_keys.from_words(jnp.asarray(leaves[name]), old) for name, old in pairs]
    return jax.tree.unflatten(structure, found)


def _as_numpy(path: Path) -> Any:
    """Build a tree of zeros from a checkpoint's metadata, which makes Orbax restore to NumPy."""
    handler = ocp.StandardCheckpointHandler()
    with contextlib.closing(handler):
        metadata: Any = handler.metadata(path / "state")
    return {name: np.zeros(entry.shape, entry.dtype) for name, entry in dict(metadata.tree).items()}


def _digest(leaves: dict[str, np.ndarray]) -> str:
    digest = hashlib.sha256()
    for name in sorted(leaves):
        leaf = np.ascontiguousarray(leaves[name])
        digest.update(f"{name} {leaf.dtype} {leaf.shape}".encode())
        digest.update(leaf.tobytes())
    return digest.hexdigest()
