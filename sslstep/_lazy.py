"""Submodules that are imported when they are first used."""

import importlib
from collections.abc import Callable, Sequence
from typing import Any


def submodules(package: str, names: Sequence[str]) -> Callable[[str], Any]:
    """A module's ``__getattr__`` that imports what it is asked for."""

    def get(name: str) -> Any:
        if name in names:
            return importlib.import_module(f"{package}.{name}")
        raise AttributeError(f"module {package!r} has no attribute {name!r}")

    return get
