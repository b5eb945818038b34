"""Parts of an experiment that are done once: an interrupted one goes on with the next."""

import dataclasses
import hashlib
import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from experiments._run import Arrays


def kept(
    folder: Path, name: str, settings: Mapping[str, Any], make: Callable[[], Arrays]
) -> Arrays:
    """What `make` gives, read if it was made before with the same settings."""
    path = folder / f"{name}-{digest(settings)}.npz"
    if path.exists():
        with np.load(path) as file:
            return dict(file)
    arrays = make()
    path.parent.mkdir(parents=True, exist_ok=True)
    draft = path.with_suffix(".tmp")
    with draft.open("wb") as file:
        np.savez(file, **arrays)
    draft.replace(path)
    return arrays


def digest(settings: Mapping[str, Any]) -> str:
    """Different for different settings."""
    text = json.dumps(settings, sort_keys=True, default=_plain)
    return hashlib.sha256(text.encode()).hexdigest()[:12]


def _plain(value: Any) -> Any:
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return dataclasses.asdict(value)
    raise TypeError(f"{type(value).__name__} is no setting")
