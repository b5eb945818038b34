"""The record of an experiment, and the registry: the folders of a package that hold one."""

import ast
import importlib
import logging
from collections.abc import Callable, Mapping, Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Any, NamedTuple

from sslstep import claims

Arrays = dict[str, Any]
log = logging.getLogger("experiments")


def _no_figure(config: Any, arrays: Arrays) -> Any:
    return {}


def _no_claims(config: Any, arrays: Arrays) -> Sequence[claims.Claim]:
    return []


class Experiment(NamedTuple):
    """One figure or table, as the module ``experiment`` of its folder declares it.

    Attributes:
        presets: named settings, each an instance of one frozen dataclass; ``"cpu"`` is the default.
        run: settings to named arrays; the only slow part.
        trains: whether ``run`` takes a store of training runs too, which experiments share, and in
            which they go on with runs that were interrupted.
        minutes: duration of the preset ``cpu`` on two cores. Runs of all go from short to long.
        quick: the options with which it is part of the quick run; None if it is not.
        alone: whether it runs by its own command only, not with all others.
        module: of the folder, such as ``experiments.fig8``. :func:`load` sets this field and those
            that follow.
        doc: the docstring of the module ``experiment``, shown by ``--help``.
        plot: settings and arrays to a figure, or to several by their names.
        check: settings and arrays to claims.
        table: settings and arrays to Markdown, written to table.md.
        movie: settings, arrays and a folder to the path of an animation in it.
    """

    presets: Mapping[str, Any]
    run: Callable[..., Arrays]
    trains: bool = False
    minutes: float = 1.0
    quick: tuple[str, ...] | None = None
    alone: bool = False
    module: str = ""
    doc: str = ""
    plot: Callable[[Any, Arrays], Any] = _no_figure
    check: Callable[[Any, Arrays], Sequence[claims.Claim]] = _no_claims
    table: Callable[[Any, Arrays], str] | None = None
    movie: Callable[[Any, Arrays, Path], Path] | None = None

    @property
    def name(self) -> str:
        """The folder's own name, and that of its results."""
        return self.module.rpartition(".")[2]


def load(module: str) -> Experiment:
    """The experiment in a folder, with the functions of the modules beside it.

    ``plot`` and ``movie`` are taken from the module ``figure``, ``check`` and ``table`` from the
    module ``claims``; either module may be missing.

    Args:
        module: the dotted name of the folder, such as ``"experiments.fig8"``.

    Returns:
        The complete record.

    Example:
        >>> from sslstep import experiment
        >>> experiment.load("experiments.fig8").name
        'fig8'
    """
    own = importlib.import_module(f"{module}.experiment")
    found: dict[str, Any] = {"module": module, "doc": own.__doc__ or ""}
    for part, functions in (("figure", ("plot", "movie")), ("claims", ("check", "table"))):
        if find_spec(f"{module}.{part}") is not None:
            beside = importlib.import_module(f"{module}.{part}")
            found |= {name: getattr(beside, name) for name in functions if hasattr(beside, name)}
    record: Experiment = own.EXPERIMENT
    return record._replace(**found)


def find(package: str) -> dict[str, str]:
    """The experiments of a package, by name: first its own folders, then those of its packages.

    Nothing of them is imported.

    Args:
        package: its dotted name, such as ``"experiments"``.

    Returns:
        The dotted name of each experiment's folder.

    Raises:
        ValueError: if two experiments have one name.

    Example:
        >>> from sslstep import experiment
        >>> experiment.find("experiments")["fig8"]
        'experiments.fig8'
    """
    root = _folder(package)
    paths = [*sorted(root.glob("*/experiment.py")), *sorted(root.glob("*/*/experiment.py"))]
    found: dict[str, str] = {}
    for path in paths:
        module = ".".join((package, *path.parent.relative_to(root).parts))
        if path.parent.name in found:
            raise ValueError(f"{found[path.parent.name]} and {module} have one name.")
        found[path.parent.name] = module
    return found


def first_line(module: str) -> str:
    """The first line of an experiment's docstring; nothing is imported but packages."""
    text = (_folder(module) / "experiment.py").read_text(encoding="utf-8")
    return (ast.get_docstring(ast.parse(text)) or "").partition("\n")[0]


def _folder(package: str) -> Path:
    spec = find_spec(package)
    if spec is None or not spec.submodule_search_locations:
        raise ValueError(f"there is no package {package}.")
    return Path(next(iter(spec.submodule_search_locations)))
