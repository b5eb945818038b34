"""A store of training runs and arrays, each identified by its settings and its code."""

import dataclasses
import hashlib
import json
import os
import platform
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from sslstep import _atomic
from sslstep.experiment import _code, _machine, image_data
from sslstep.experiment._record import Arrays, log


@dataclasses.dataclass(frozen=True)
class Store:
    """A folder of stored items (training runs and arrays) that experiments share.

    The name of an item contains digests of its settings and of the code that made it. An item that
    the current code has not made is made anew beside an item of equal settings from other code. A
    log message says which of the two is used.

    Attributes:
        folder: the folder of the items.
        old: whether to use an item from other code if the current code has made none.
        used: the items that the current experiment has read or made, with the commits that made
            each.
    """

    folder: Path
    old: bool = False
    used: dict[str, list[str]] = dataclasses.field(default_factory=dict)

    def place(
        self, name: str, settings: Mapping[str, Any], *modules: str, ending: str = ""
    ) -> Path:
        """Return the path of the item with these settings, made by modules and their imports."""
        start = f"{name}-{digest(settings)}-"
        path = self.folder / f"{start}{_code.digest(*modules)}{ending}"
        there = list(self.folder.iterdir()) if self.folder.is_dir() else []
        others = [p for p in there if p.name.startswith(start) and p.name.endswith(ending)]
        if path in others or not others:
            return path
        last = max(others, key=lambda each: each.stat().st_mtime)
        made_by = f"{last} was made by other code than today's (commit {', '.join(_commits(last))})"
        if self.old:
            log.info("%s, and is used, as --old-runs asks.", made_by)
            return last
        log.info("%s: it is made anew beside it. --old-runs uses it instead.", made_by)
        return path

    def sign(self, path: Path, *modules: str) -> None:
        """Record the current code, commit and versions as a maker of the item at a path."""
        made, code = _makers(path), _code.digest(*modules)
        if not made or made[-1]["code"] != code:
            about = {"code": code, "date": time.strftime("%Y-%m-%d"), **_machine.about()}
            beside = _beside(path)
            beside.parent.mkdir(parents=True, exist_ok=True)
            _atomic.write_utf8(beside, json.dumps([*made, about], indent=1) + "\n")
        self.note(path)

    def note(self, path: Path) -> None:
        """Add the item at a path to `used`; log if it was made with other versions."""
        self.used[path.name] = _commits(path)
        now = _machine.versions(*_machine.PACKAGES)
        then = _makers(path)[-1] if _makers(path) else now
        if changed := [f"{k} {then.get(k)}" for k in now if then.get(k) != now[k]]:
            log.info("%s was made with %s, and is used: remove it to make it anew.", path, changed)

    def kept(
        self, name: str, settings: Mapping[str, Any], module: str, make: Callable[[], Arrays]
    ) -> Arrays:
        """Return the stored arrays of these settings; call `make` and store them if missing."""
        path = self.place(name, settings, module, ending=".npz")
        if path.exists():
            self.note(path)
            with np.load(path) as file:
                return dict(file)
        start = time.perf_counter()
        arrays = make()
        seconds = time.perf_counter() - start
        self.sign(path, module)
        _atomic.write(path, lambda file: np.savez(file, **arrays))
        log.info("%s: made in %.0f s, kept as %s", name, seconds, path)
        return arrays


def _beside(path: Path) -> Path:
    """Return the path of the JSON file of an item's makers: in its folder, or beside its file."""
    return path.with_suffix(".json") if path.suffix == ".npz" else path / "about.json"


def _makers(path: Path) -> list[dict[str, Any]]:
    """Return the records of the code that made or continued the item at a path, oldest first."""
    about = _beside(path)
    return list(json.loads(about.read_text(encoding="utf-8"))) if about.is_file() else []


def _commits(path: Path) -> list[str]:
    """Return the commits of the code that made the item at a path."""
    return [made["commit"] for made in _makers(path)] or [_machine.UNKNOWN]


def digest(settings: Mapping[str, Any]) -> str:
    """Return a digest of settings, twelve hexadecimal digits."""
    text = json.dumps(settings, sort_keys=True, default=dataclasses.asdict)
    return hashlib.sha256(text.encode()).hexdigest()[:12]


def code_of(module: str) -> str:
    """Return the digest of an experiment's code, given the dotted name of its folder."""
    return _code.digest(*(f"{module}.{part}" for part in _code.PARTS))


def made_from(module: str, config: Any, store: Store | None = None) -> dict[str, str]:
    """Return digests of everything that results depend on, by name.

    The digests cover settings, images, choice of training runs, versions of sslstep's requirements
    and of JAX's plugins, machine, and code.
    """
    images = image_data.files(getattr(config, "data", ()), getattr(config, "data_dir", None))
    runs = None if store is None else [str(store.folder), store.old]
    variables = {k: v for k, v in os.environ.items() if k.startswith(("JAX_", "XLA_"))}
    machine = [platform.python_version(), _machine.host(), _machine.devices(), variables]
    parts = {
        "settings": config,
        "images": images,
        "choice of training runs": runs,
        "versions": _machine.versions(*_machine.PACKAGES, *_machine.required()),
        "machine": machine,
    }
    return {name: digest({name: part}) for name, part in parts.items()} | {"code": code_of(module)}
