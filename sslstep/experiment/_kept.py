"""What is made once and kept: by its settings, and by the code that made it."""

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

from sslstep.experiment import _code, _machine, image_data
from sslstep.experiment._record import Arrays, log


@dataclasses.dataclass(frozen=True)
class Store:
    """A folder of training runs and of parts of experiments, which experiments share.

    What today's code has not made is made anew, beside what other code made of the same settings;
    either way a line says so.

    Attributes:
        folder: where they lie.
        old: go on with what other code made, where there is nothing of today's.
        used: which of them an experiment has read or made, and the commits that made them.
    """

    folder: Path
    old: bool = False
    used: dict[str, list[str]] = dataclasses.field(default_factory=dict)

    def place(self, name: str, settings: Mapping[str, Any], module: str, ending: str = "") -> Path:
        """The path of what has these settings and is made by a module and its imports."""
        start = f"{name}-{digest(settings)}-"
        path = self.folder / f"{start}{_code.digest(module)}{ending}"
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

    def sign(self, path: Path, module: str) -> None:
        """Write that today's code, with its commit and versions, makes what lies at a path."""
        made, code = _makers(path), _code.digest(module)
        if not made or made[-1]["code"] != code:
            about = {"code": code, "date": time.strftime("%Y-%m-%d"), **_machine.about()}
            _beside(path).parent.mkdir(parents=True, exist_ok=True)
            _beside(path).write_text(json.dumps([*made, about], indent=1) + "\n", encoding="utf-8")
        self.note(path)

    def note(self, path: Path) -> None:
        """Remember that an experiment has used what lies at a path; say if versions were others."""
        self.used[path.name] = _commits(path)
        now = _machine.versions(*_machine.PACKAGES)
        then = _makers(path)[-1] if _makers(path) else now
        if changed := [f"{k} {then.get(k)}" for k in now if then.get(k) != now[k]]:
            log.info("%s was made with %s, and is used: remove it to make it anew.", path, changed)

    def kept(
        self, name: str, settings: Mapping[str, Any], module: str, make: Callable[[], Arrays]
    ) -> Arrays:
        """The arrays that `make` gives, read if they were made before."""
        path = self.place(name, settings, module, ".npz")
        if path.exists():
            self.note(path)
            with np.load(path) as file:
                return dict(file)
        arrays = make()
        self.sign(path, module)
        draft = path.with_suffix(".tmp")
        with draft.open("wb") as file:
            np.savez(file, **arrays)
        draft.replace(path)
        return arrays


def _beside(path: Path) -> Path:
    """The file that says who made what lies at a path: in a folder, or beside a file."""
    return path.with_suffix(".json") if path.suffix == ".npz" else path / "about.json"


def _makers(path: Path) -> list[dict[str, Any]]:
    """Whoever made it, and those that went on with it."""
    about = _beside(path)
    return list(json.loads(about.read_text(encoding="utf-8"))) if about.is_file() else []


def _commits(path: Path) -> list[str]:
    return [made["commit"] for made in _makers(path)] or [_machine.UNKNOWN]


def digest(settings: Mapping[str, Any]) -> str:
    """Different for different settings."""
    text = json.dumps(settings, sort_keys=True, default=_plain)
    return hashlib.sha256(text.encode()).hexdigest()[:12]


def code_of(module: str) -> str:
    """The digest of the code of an experiment, given the dotted name of its folder."""
    return _code.digest(*(f"{module}.{part}" for part in ("experiment", "figure", "claims")))


def made_from(module: str, config: Any, store: Store | None = None) -> dict[str, str]:
    """Digests of all that results depend on, by what they are of.

    Versions are those of what sslstep asks for and of JAX's plugins.
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


def _plain(value: Any) -> Any:
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return dataclasses.asdict(value)
    raise TypeError(f"{type(value).__name__} is no setting")
