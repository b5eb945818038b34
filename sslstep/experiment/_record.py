"""The record of an experiment, and the search for the experiments of a package."""

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


def no_figure(config: Any, arrays: Arrays) -> Any:
    """Return no figures."""
    return {}


def _no_claims(config: Any, arrays: Arrays) -> Sequence[claims.Claim]:
    """Return no claims."""
    return []


class Experiment(NamedTuple):
    """An experiment that makes one figure or table, declared by its folder's ``experiment`` module.

    Attributes:
        presets: named settings, each an instance of one frozen dataclass; ``"cpu"`` is the default.
        run: function from settings to named arrays; the only slow part.
        trains: whether ``run`` takes a second argument, the store of training runs that experiments
            share. Interrupted runs of the store are continued.
        minutes: duration of the preset ``cpu`` on two cores; ``run --all`` sorts experiments by it.
        quick: options of the experiment in ``run --all --quick``; None leaves it out.
        alone: whether ``run --all`` leaves the experiment out.
        module: dotted name of the folder, such as ``experiments.fig8``. :func:`load` sets this
            field and all following fields.
        doc: docstring of the module ``experiment``, shown by ``--help``.
        plot: function from settings and arrays to a figure or to a dictionary of figures.
        check: function from settings and arrays to claims.
        table: function from settings and arrays to Markdown, which is written to table.md.
        movie: function from settings, arrays and a folder to the path of an animation that it
            writes into the folder.
    """

    presets: Mapping[str, Any]
    run: Callable[..., Arrays]
    trains: bool = False
    minutes: float = 1.0
    quick: tuple[str, ...] | None = None
    alone: bool = False
    module: str = ""
    doc: str = ""
    plot: Callable[[Any, Arrays], Any] = no_figure
    check: Callable[[Any, Arrays], Sequence[claims.Claim]] = _no_claims
    table: Callable[[Any, Arrays], str] | None = None
    movie: Callable[[Any, Arrays, Path], Path] | None = None

    @property
    def name(self) -> str:
        """The name of the experiment's folder, which is also the name of its results' folder."""
        return self.module.rpartition(".")[2]


def load(module: str) -> Experiment:
    """Load the experiment of a folder, completed by the functions of the other modules there.

    ``plot`` and ``movie`` come from the module ``figure``, ``check`` and ``table`` from the module
    ``claims``. Both modules are optional.

    Args:
        module: dotted name of the folder, such as ``"experiments.fig8"``.

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
    """Find the experiments of a package and of its subpackages, without importing them.

    Args:
        package: dotted name of the package, such as ``"experiments"``.

    Returns:
        A dictionary from the name of each experiment to the dotted name of its folder. Folders of
        the package come first, folders of its subpackages second, each in alphabetical order.

    Raises:
        ValueError: if two experiments have the same name, or the package does not exist.

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
    """Return the first line of an experiment's docstring, without importing the experiment."""
    text = (_folder(module) / "experiment.py").read_text(encoding="utf-8")
    return (ast.get_docstring(ast.parse(text)) or "").partition("\n")[0]


def _folder(package: str) -> Path:
    """Return the folder of a package; raise ValueError if there is none."""
    spec = find_spec(package)
    if spec is None or not spec.submodule_search_locations:
        raise ValueError(f"there is no package {package}.")
    return Path(next(iter(spec.submodule_search_locations)))
