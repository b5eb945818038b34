"""Checks whether a folder holds the run that a call would continue."""

import json
import math
import zlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import PyTree

from sslstep import _atomic
from sslstep.train._step import TrainState

# Keys in run.json: the step at which the run began, and the norm of each initial parameter array.
_INITIAL = "initial "
_INITIAL_STEP, _INITIAL_NORM = f"{_INITIAL}step", f"{_INITIAL}norm of "
# Relative difference of the same norm between devices or versions of JAX.
_NORM_TOLERANCE = 1e-3
_MOST_SHOWN = 5


class Identity:
    """The settings of the caller, and a description of the data and start of the run.

    ``settings.json`` holds the settings. ``run.json`` holds the description (:func:`seen_of`); it
    is written with the first checkpoint, and nothing in it is enforced before.
    """

    def __init__(self, settings: Mapping[str, Any], seen: Mapping[str, Any]) -> None:
        self.settings = dict(settings)
        self.seen = dict(seen)

    def alike(self) -> dict[str, Any]:
        """Return the entries that must be equal on all processes of a run: all but the norms."""
        exact = {k: v for k, v in self.seen.items() if not k.startswith(_INITIAL_NORM)}
        return {**exact, "settings": self.settings}

    def require_same(self, folder: Path) -> dict[str, Any]:
        """Return the content of `run.json`; raise ValueError if the folder holds another run."""
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
            # An earlier version wrote fewer entries.
            names = [name for name in self.seen if name in written]
            # A state from the middle of the run has other norms than the start.
            if written.get(_INITIAL_STEP) != self.seen.get(_INITIAL_STEP):
                names = [name for name in names if not name.startswith(_INITIAL)]
            old, new = ({name: each[name] for name in names} for each in (written, self.seen))
            _require_same(folder, old, new)
        return written or {}

    def write(self, folder: Path, *, saved: bool) -> None:
        """Write the settings, and with ``saved`` the description, unless the files exist.

        ``saved`` says that the run has a checkpoint.
        """
        if not (folder / "settings.json").exists():
            _write(folder / "settings.json", self.settings)
        if saved and not (folder / "run.json").exists():
            self.describe(folder)

    def describe(self, folder: Path) -> None:
        """Write the description to `run.json`, in place of an earlier one."""
        _write(folder / "run.json", self.seen)


def seen_of(state: TrainState, images: PyTree, batch_size: int) -> dict[str, Any]:
    """Describe a call of `fit` by its initial norms, step, batch size, images and key."""
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
    """Euclidean norm of each parameter array, which depends on the initial scale and the seed."""
    norms = {}
    for path, leaf in jax.tree_util.tree_leaves_with_path(params):
        if jnp.issubdtype(leaf.dtype, jnp.floating):
            # The key contains the shape: the checkpoint reports another network's shapes.
            name = jax.tree_util.keystr(path, simple=True, separator="/")
            norm = np.linalg.norm(np.asarray(leaf).astype(np.float64))
            norms[f"{_INITIAL_NORM}{name} {tuple(leaf.shape)}"] = float(f"{norm:.6g}")
    return norms


def _checksum(leaf: Any) -> str:
    """CRC-32 checksum of an array's bytes; takes a second for 1 GB at most."""
    flat = np.ascontiguousarray(leaf).reshape(-1)
    return f"{zlib.crc32(flat.view(np.uint8).data):08x}"


def _require_same(folder: Path, old: Mapping[str, Any], new: Mapping[str, Any]) -> None:
    """Raise ValueError if the entries that a folder holds (old) differ from the call's (new)."""
    # Initial norms last: there are many, and they change with the key.
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
    # As text too, because NaN differs from itself.
    return bool(old == new) or json.dumps(old, sort_keys=True) == json.dumps(new, sort_keys=True)


def _read(path: Path) -> dict[str, Any] | None:
    if not path.exists():
        return None
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except ValueError:  # neither JSON nor UTF-8
        found = None
    if not isinstance(found, dict):
        raise ValueError(
            f"{path} cannot be read: it is empty or broken, and it alone shows whether "
            f"{path.parent} holds this run. Remove the file if you know that it does, or name "
            f"another folder."
        )
    return found


def _write(path: Path, settings: Mapping[str, Any]) -> None:
    """Write the settings as JSON, atomically."""
    text = json.dumps(dict(settings), indent=1, sort_keys=True)
    try:
        _atomic.write_utf8(path, f"{text}\n")
    except OSError as error:
        raise OSError(error.errno, f"{path} could not be written ({error.strerror})") from error
