"""Signatures show the type hints as the source has them, and nothing else tells types.

Evaluated, `Float[ArrayLike, "n d"]` becomes a union of half a dozen classes that says less.
"""

import ast
import inspect
import textwrap
from typing import Any

from sphinx.application import Sphinx


def definition(value: Any) -> ast.ClassDef | ast.FunctionDef | None:
    """The syntax tree of a function or class, also below decorators such as `jax.jit`."""
    try:
        source = textwrap.dedent(inspect.getsource(inspect.unwrap(value)))
    except (OSError, TypeError):  # not written in Python
        return None
    node = ast.parse(source).body[0]
    return node if isinstance(node, ast.ClassDef | ast.FunctionDef) else None


def fields(node: ast.ClassDef) -> str:
    """The arguments of a named tuple or dataclass: its annotated names."""
    return ", ".join(ast.unparse(item) for item in node.body if isinstance(item, ast.AnnAssign))


def without_self(arguments: ast.arguments) -> str:
    """The arguments of a method as its caller sees them."""
    first = arguments.posonlyargs or arguments.args
    if first and first[0].arg in ("self", "cls"):
        del first[0]
    return ast.unparse(arguments)


def as_written(
    app: Sphinx, what: str, name: str, value: Any, options: Any, signature: str, returns: str
) -> tuple[str, str | None] | None:
    """What autodoc prints in place of the signature that it worked out; None leaves that."""
    node = definition(value)
    if isinstance(node, ast.FunctionDef):
        return f"({without_self(node.args)})", ast.unparse(node.returns) if node.returns else None
    if node is None or not fields(node):
        return None
    return f"({fields(node)})", None


def skip_field(app: Sphinx, what: str, name: str, value: Any, skip: bool, options: Any) -> bool:
    """Leave out what a named tuple says of its fields; the class's Attributes say more."""
    return skip or str(getattr(value, "__doc__", "")).startswith("Alias for field number")


def without_types(
    app: Sphinx, what: str, name: str, value: Any, options: Any, lines: list[str]
) -> None:
    """Keep napoleon from reading `The loss: zero at best` as a type and what it means.

    It does so on the first line after `Returns:` and of a constant or property; an empty type in
    front prevents that.
    """
    if what in ("attribute", "data", "property"):
        starts = [0]
    else:
        starts = [i + 1 for i, line in enumerate(lines[:-1]) if line.strip() == "Returns:"]
    for start in starts:
        text = lines[start].lstrip()
        lines[start] = lines[start].removesuffix(text) + ": " + text


def setup(app: Sphinx) -> dict[str, bool]:
    """Called by Sphinx."""
    app.connect("autodoc-process-signature", as_written)
    app.connect("autodoc-skip-member", skip_field)
    app.connect("autodoc-process-docstring", without_types, priority=400)  # napoleon's is 500
    return {"parallel_read_safe": True, "parallel_write_safe": True}
