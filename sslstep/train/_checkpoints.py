"""Checkpoints of a run: written whole, verified when read, the one before kept."""

import contextlib
import errno
import hashlib
import os
import shutil
import warnings
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import orbax.checkpoint as ocp
from jaxtyping import PyTree

__all__ = ["CheckpointError", "Checkpoints", "CorruptCheckpointWarning"]


class CheckpointError(OSError):
    """A checkpoint could not be written, or none can be read."""


class CorruptCheckpointWarning(UserWarning):
    """A checkpoint could not be read, and an earlier one is used."""


class Checkpoints:
    """The checkpoints of one run, through Orbax.

    Each is a folder ``<step>/`` in Orbax's standard form, which appears only when it is complete,
    with a SHA-256 digest of all values beside them, so that not only missing files are noticed when
    it is read but changed bytes too. Arrays are written from the host: a run may go on with another
    number of devices.

    Args:
        folder: where they lie; made if it does not exist.
        keep: how many of the latest to keep, at least 2: the last and the one to fall back to.

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
        self.folder = Path(folder).absolute()
        self._keep, self._written = keep, False
        # One process writes; others must not wait for one another here.
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
        """Steps of the checkpoints there are, in ascending order."""
        return sorted(int(path.name) for path in self.folder.glob("*") if path.name.isdecimal())

    def save(self, step: int, tree: PyTree) -> None:
        """Write a checkpoint, then remove the oldest beyond ``keep``.

        Args:
            step: its number. If there is one already, nothing is written.
            tree: pytree of arrays; typed keys too.

        Raises:
            ValueError: if two arrays have one path once its parts are joined by slashes.
            CheckpointError: if it could not be written, as on a full disk; earlier ones are intact.
        """
        if step in self.steps():
            return
        if not self._written:  # until then this may be a reader of another process's folder
            self._remove_drafts("*")  # which a killed process left
            self._written = True
        leaves = _to_host(tree)
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            self._checkpointer.save(
                self.folder / str(step),
                ocp.args.Composite(
                    state=ocp.args.StandardSave(leaves),
                    digest=ocp.args.JsonSave({"sha256": _digest(leaves)}),
                ),
            )
        except Exception as error:
            self._remove_drafts(str(step))
            raise CheckpointError(
                f"the checkpoint of step {step} could not be written to {self.folder} "
                f"({_first_line(error)}). {self._intact()}"
            ) from error
        for old in self.steps()[: -self._keep]:
            shutil.rmtree(self.folder / str(old), ignore_errors=True)

    def latest(self, like: PyTree) -> tuple[int, PyTree] | None:
        """Read the latest checkpoint that can be read.

        One that cannot, because a file is missing, cut short or changed, is renamed to
        ``<step>.corrupt`` with a :class:`CorruptCheckpointWarning`, and the one before is read. Not
        so where the reading itself fails, and may not the next time: too many open files, no
        permission, a disk or a network that does not answer.

        Args:
            like: pytree of arrays of the shapes and dtypes that are expected, such as the initial
                state.

        Returns:
            Its step and the tree, on JAX's default device; None if there is none.

        Raises:
            ValueError: if it holds something else than ``like``: another network or optimiser; or
                if ``like`` could not be saved.
            CheckpointError: if there are checkpoints, corrupt ones included, and none can be read.
            OSError: if the reading itself fails.
        """
        expected = _to_host(like)  # first: what cannot be saved is better refused before a run
        for step in reversed(self.steps()):
            path = self.folder / str(step)
            try:
                found = self._checkpointer.restore(
                    path,
                    ocp.args.Composite(
                        state=ocp.args.StandardRestore(_as_numpy(path)),
                        digest=ocp.args.JsonRestore(),
                    ),
                )
                leaves, digest = found["state"], found["digest"]["sha256"]
                if _digest(leaves) != digest:
                    raise ValueError("its values are not those that were written")
            except (OSError, ValueError, KeyError, RuntimeError) as error:
                if _may_pass(error):
                    raise
                kept = path.with_name(f"{step}.corrupt")
                shutil.rmtree(kept, ignore_errors=True)
                path.rename(kept)
                warnings.warn(
                    f"the checkpoint of step {step} cannot be read ({_first_line(error)}); it is "
                    f"kept as {kept}, and the one before it is used.",
                    CorruptCheckpointWarning,
                    stacklevel=2,
                )
                continue
            return step, _from_host(leaves, expected, like, path)
        if corrupt := sorted(path.name for path in self.folder.glob("*.corrupt")):
            raise CheckpointError(
                f"none of the checkpoints in {self.folder} can be read: {', '.join(corrupt)}. To "
                f"begin anew, name another folder, or remove this run's."
            )
        return None

    def _remove_drafts(self, step: str) -> None:
        """What was left half written."""
        for draft in self.folder.glob(f"{step}.orbax-checkpoint-tmp*"):
            shutil.rmtree(draft, ignore_errors=True)

    def _intact(self) -> str:
        steps = self.steps()
        return f"Intact is that of step {steps[-1]}." if steps else "There is no earlier one."


#: What may pass: it says nothing about the file.
_PASSING = (
    *(errno.EMFILE, errno.ENFILE, errno.EIO, errno.ESTALE, errno.ENOMEM, errno.EACCES),
    *(errno.EPERM, errno.EAGAIN, errno.EINTR, errno.ETIMEDOUT),
)


def _may_pass(error: Exception) -> bool:
    """Whether reading failed for a reason that lies outside the file."""
    number = error.errno if isinstance(error, OSError) else None
    # TensorStore's errors have it in their text.
    return number in _PASSING or any(os.strerror(number) in str(error) for number in _PASSING)


def _to_host(tree: PyTree) -> dict[str, np.ndarray]:
    """Leaves as NumPy arrays by their path; keys as their words."""
    leaves = {}
    for path, leaf in jax.tree_util.tree_leaves_with_path(tree):
        name = jax.tree_util.keystr(path, simple=True, separator="/")
        if name in leaves:
            raise ValueError(
                f"two arrays of the tree have the path {name}, of which a checkpoint would keep "
                f"one: choose names without slashes."
            )
        leaves[name] = np.asarray(jax.random.key_data(leaf) if _is_key(leaf) else leaf)
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
    found = []
    for old, value in zip(flat, (leaves[name] for name in expected), strict=True):
        array = jnp.asarray(value)
        if _is_key(old):
            array = jax.random.wrap_key_data(array, impl=jax.random.key_impl(old))
        found.append(array)
    return jax.tree.unflatten(structure, found)


def _is_key(leaf: Any) -> bool:
    return jnp.issubdtype(jnp.result_type(leaf), jax.dtypes.prng_key)


def _as_numpy(path: Path) -> Any:
    """What to restore, all of it as NumPy arrays, from what the checkpoint says it holds."""
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


def _first_line(error: BaseException) -> str:
    text = str(error).strip() or type(error).__name__
    return text.splitlines()[0][:300]
