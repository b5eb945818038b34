"""Fails the build when a public object of sslstep has no documentation in the API reference.

Public is what a module that is not private lists in its ``__all__``.
"""

import importlib
import pkgutil
from typing import Any

from sphinx.application import Sphinx
from sphinx.environment import BuildEnvironment
from sphinx.util import logging

import sslstep

logger = logging.getLogger(__name__)


def public_modules() -> list[str]:
    """Names of the modules below sslstep that are not private, imported or not."""
    found = pkgutil.walk_packages(sslstep.__path__, "sslstep.")
    return [module.name for module in found if "._" not in module.name]


def has_docstring(name: str, value: Any) -> bool:
    """Whether a docstring was written: tuples and dataclasses without one get their signature."""
    text = value.__doc__ or ""
    return bool(text) and not text.startswith(f"{name}(")


def check(app: Sphinx, env: BuildEnvironment) -> None:
    """Compare what the modules export with what autodoc put on the pages."""
    documented = env.domains.python_domain.objects
    modules = {name: importlib.import_module(name) for name in public_modules()}
    # By identity: what a package takes from its submodule is documented once, under either.
    described = set()
    for path in documented:
        module, _, name = path.rpartition(".")
        if module in modules:
            described.add(id(getattr(modules[module], name)))
    for path, module in modules.items():
        for name in getattr(module, "__all__", []):
            value = getattr(module, name)
            if callable(value) and not has_docstring(name, value):
                problem = "has no docstring"
            elif f"{path}.{name}" not in documented and id(value) not in described:
                problem = "is not in docs/api.md: its module is missing, or it has no docstring"
            else:
                continue
            logger.warning("%s.%s %s", path, name, problem, type="api")
            app.statuscode = 1  # the build fails even where warnings are let pass


def setup(app: Sphinx) -> dict[str, bool]:
    """Called by Sphinx."""
    app.connect("env-check-consistency", check)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
