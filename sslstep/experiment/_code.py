"""Digest of the code that modules depend on: their direct and indirect imports in one project."""

import ast
import hashlib
import threading
from functools import cache
from importlib.util import find_spec, resolve_name
from pathlib import Path

#: Modules of an experiment's folder.
PARTS = ("experiment", "figure", "claims")
# Python 3.11 raises SystemError if the garbage collector switches threads while two of them parse.
_PARSING = threading.Lock()


def digest(*modules: str) -> str:
    """Return a digest of the code of modules and of their direct and indirect imports.

    Only modules of ``sslstep`` and of the given modules' packages count. Of the private modules of
    ``sslstep.experiment`` only ``_loops`` counts: the others run experiments and compute nothing.
    The modules of an experiment that is loaded by its name are imports too. Comments, layout, error
    messages and the docstrings of modules, classes and functions do not change the digest; a string
    below a field does. The files are parsed, not imported.

    Args:
        modules: dotted names; names of missing modules are ignored.

    Returns:
        Twelve hexadecimal digits.
    """
    parts = [f"{name}:{_meaning(path)}" for name, path in sorted(files(*modules).items())]
    return hashlib.sha256("\n".join(parts).encode()).hexdigest()[:12]


def files(*modules: str) -> dict[str, Path]:
    """Map the module names that :func:`digest` covers to their files."""
    projects = {"sslstep", *(name.partition(".")[0] for name in modules)}
    found: dict[str, Path] = {}
    todo = list(modules)
    while todo:
        name = todo.pop()
        path = None if name in found else _path(name)
        runs = name.startswith("sslstep.experiment._") and name != "sslstep.experiment._loops"
        if path is None or runs:
            continue
        found[name] = path
        todo += [name.rpartition(".")[0]] if "." in name else []
        todo += [each for each in _imports(name, path) if each.partition(".")[0] in projects]
    return found


@cache
def _imports(name: str, path: Path) -> tuple[str, ...]:
    """Return the names of modules that a module may import: a and a.b for `from a import b`."""
    found, package = [], name if path.name == "__init__.py" else name.rpartition(".")[0]
    for node in ast.walk(_tree(path)):
        if isinstance(node, ast.Import):
            found += [each.name for each in node.names]
        elif isinstance(node, ast.ImportFrom):
            source = resolve_name("." * node.level + (node.module or ""), package)
            found += [source, *(f"{source}.{each.name}" for each in node.names)]
        elif isinstance(node, ast.Call) and ast.unparse(node.func) == "load":
            # An experiment that runs another one: `load("experiments.fig5")`.
            values = [each.value for each in node.args if isinstance(each, ast.Constant)]
            names = [value for value in values if isinstance(value, str)]
            found += [f"{each}.{part}" for each in names for part in PARTS]
    return tuple(found)


@cache
def _meaning(path: Path) -> str:
    """Return a digest of a file's syntax tree, without docstrings and error messages."""
    tree = _tree(path)
    for node in ast.walk(tree):
        if isinstance(node, ast.Raise) and isinstance(node.exc, ast.Call):
            node.exc.args = []
        body = getattr(node, "body", None)
        if isinstance(body, list) and body and isinstance(body[0], ast.Expr):
            value = body[0].value
            if isinstance(value, ast.Constant) and isinstance(value.value, str):
                del body[0]
    return hashlib.sha256(ast.dump(tree).encode()).hexdigest()


def _tree(path: Path) -> ast.Module:
    """Parse a Python file."""
    with _PARSING:
        return ast.parse(path.read_text(encoding="utf-8"))


def _path(name: str) -> Path | None:
    """Return the file of a module; None if it does not exist."""
    top, _, rest = name.partition(".")
    spec = None if top == "__main__" else find_spec(top)
    if spec is None or not spec.submodule_search_locations:
        return None
    place = Path(next(iter(spec.submodule_search_locations)), *rest.split(".") if rest else ())
    for path in (place / "__init__.py", place.with_name(place.name + ".py")):
        if path.is_file():
            return path
    return None
