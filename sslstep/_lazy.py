"""Submodules that are imported when they are first used."""

import importlib
from collections.abc import Callable, Sequence
from typing import Any


def submodules(package: str, names: Sequence[str]) -> Callable[[str], Any]:
    """Return a ``__getattr__`` for a package, which imports the submodules `names` on first use."""

    def get(name: str) -> Any:
        if name in names:
            return importlib.import_module(f"{package}.{name}")
        raise AttributeError(f"module {package!r} has no attribute {name!r}")

    return get
