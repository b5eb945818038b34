"""Which run a folder holds: what it was made with, and whether a call goes on with it."""

import json
import math
import os
import zlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import PyTree

from sslstep.train._step import TrainState

__all__ = ["Identity", "seen_of"]

# In run.json: the step at which a run began, and the norms of its parameters there, by their paths.
_INITIAL = "initial "
_INITIAL_STEP, _INITIAL_NORM = f"{_INITIAL}step", f"{_INITIAL}norm of "
# To which norms on two devices, or by two versions of JAX, agree.
_NORM_TOLERANCE = 1e-3
_MOST_SHOWN = 5


class Identity:
    """What determines a run: the caller's settings, and the images, sizes and start of the call.

    The former are in ``settings.json``; the latter in ``run.json``, which is written with the first
    checkpoint: before that nothing of it is enforced.
    """

    def __init__(self, settings: Mapping[str, Any], seen: Mapping[str, Any]) -> None:
        self.settings = dict(settings)
        self.seen = dict(seen)

    def alike(self) -> dict[str, Any]:
        """What all processes of a run have in common, to the bit."""
        exact = {k: v for k, v in self.seen.items() if not k.startswith(_INITIAL_NORM)}
        return {**exact, "settings": self.settings}

    def require_same(self, folder: Path) -> dict[str, Any]:
        """Refuse a folder of another run; what `run.json` says of this one."""
        for name, value in self.settings.items():
            try:
                json.dumps(value)
            except (TypeError, ValueError) as error:
                raise TypeError(
                    f"settings[{name!r}] must be something that JSON can hold, such as a number, a "
                    f"string or a list: {error}."
                ) from error
        written = _read(folder / "settings.json")
        if written is not None:
            _require_same(folder, written, json.loads(json.dumps(self.settings)))
        written = _read(folder / "run.json")
        if written is not None:
            # An earlier version wrote less of them.
            names = [name for name in self.seen if name in written]
            # A state from the middle of the run tells nothing of its start.
            if written.get(_INITIAL_STEP) != self.seen.get(_INITIAL_STEP):
                names = [name for name in names if not name.startswith(_INITIAL)]
            old, new = ({name: each[name] for name in names} for each in (written, self.seen))
            _require_same(folder, old, new)
        return written or {}

    def write(self, folder: Path, *, saved: bool) -> None:
        """Write the settings, and what else there is once the run has a checkpoint."""
        _write(folder / "settings.json", self.settings)
        if saved:
            _write(folder / "run.json", self.seen)


def seen_of(state: TrainState, images: PyTree, batch_size: int) -> dict[str, Any]:
    """What a call of `fit` is told by, beside its settings."""
    leaves = jax.tree.leaves(images)
    return {
        **_initial_norms(state.params),
        _INITIAL_STEP: int(state.step),
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
            norms[f"{_INITIAL_NORM}{name} {tuple(leaf.shape)}"] = float(f"{norm:.6g}")
    return norms


def _checksum(leaf: Any) -> str:
    """Of an array's bytes, at 1 GB or more a second."""
    flat = np.ascontiguousarray(leaf).reshape(-1)
    return f"{zlib.crc32(flat.view(np.uint8).data):08x}"


def _require_same(folder: Path, old: Mapping[str, Any], new: Mapping[str, Any]) -> None:
    """Refuse other settings than those that were written in a folder, both as JSON has them."""
    # Initial norms last: there are many, and another key changes them too.
    ordered = sorted(old.keys() | new.keys(), key=lambda name: (name.startswith(_INITIAL), name))
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
    if name.startswith(_INITIAL_NORM) and isinstance(old, float) and isinstance(new, float):
        return math.isclose(old, new, rel_tol=_NORM_TOLERANCE)
    return bool(old == new)


def _read(path: Path) -> dict[str, Any] | None:
    if not path.exists():
        return None
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


def _write(path: Path, settings: Mapping[str, Any]) -> None:
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
