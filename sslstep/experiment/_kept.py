"""What is done once: experiments, and parts of one, so that an interrupted one goes on."""

import dataclasses
import hashlib
import json
import os
import platform
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from sslstep.experiment import _code, _machine, image_data
from sslstep.experiment._record import Arrays


def kept(
    folder: Path, name: str, settings: Mapping[str, Any], make: Callable[[], "Arrays"]
) -> "Arrays":
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


def made_from(module: str, config: Any, runs: Path | None = None) -> str:
    """A digest of all that results depend on but for networks trained before, below `runs`.

    These are the settings, the images, the code that the experiment imports, directly or not, the
    versions of what sslstep asks for and of JAX's plugins, its variables, processor and devices.
    """
    everything = {
        "config": config,
        "images": image_data.files(getattr(config, "data", ()), getattr(config, "data_dir", None)),
        "code": _code.digest(*(f"{module}.{part}" for part in ("experiment", "figure", "claims"))),
        "runs": str(runs),
        "versions": _machine.versions(*_machine.PACKAGES, *_machine.required()),
        "variables": {k: v for k, v in os.environ.items() if k.startswith(("JAX_", "XLA_"))},
        "machine": [platform.python_version(), _machine.host(), _machine.devices()],
    }
    return digest(everything)


def _plain(value: Any) -> Any:
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return dataclasses.asdict(value)
    raise TypeError(f"{type(value).__name__} is no setting")
