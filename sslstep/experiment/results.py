"""Read the settings, arrays and claims of results, and draw their figures again.

    python -m experiments plot FOLDER [--out FOLDER]

From Python, if the package of experiments can be imported::

    from sslstep.experiment import results

    found = results.load("results/fig2ab/cpu")
    found.config.dim, sorted(found.arrays)
"""

import argparse
import dataclasses
import zipfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from sslstep import claims
from sslstep.experiment import _run, report
from sslstep.experiment._record import Experiment
from sslstep.experiment._record import load as load_experiment


class Results(NamedTuple):
    """The results of one run of an experiment.

    Attributes:
        experiment: record of the experiment, with its `plot` and `check`.
        config: settings of the run.
        arrays: arrays of the run by name; docs/howto/results.md describes them.
        claims: claims of the run, each with its verdict.
        about: experiment, preset, date, device, versions and digests of the run.
    """

    experiment: Experiment
    config: Any
    arrays: dict[str, np.ndarray]
    claims: list[claims.Claim]
    about: dict[str, Any]


def load(folder: str | Path) -> Results:
    """Read a folder of results, such as results/fig2ab/cpu.

    Settings that were added since the run have the preset's value.

    Args:
        folder: path of the folder.

    Raises:
        FileNotFoundError: if the folder, or a file in it, is missing.
        ValueError: if a file is broken or of another version.
    """
    folder = Path(folder).expanduser()
    if not folder.is_dir():
        raise FileNotFoundError(f"there is no folder {folder}.")
    for name in ("about.json", "config.json", "arrays.npz", "claims.json"):
        if not (folder / name).is_file():
            raise FileNotFoundError(f"{folder} is no folder of results: it has no {name}.")
    about = report.read_json(folder / "about.json")
    if "module" not in about:
        raise ValueError(f"{folder} was written by sslstep 0.1, which this version cannot read.")
    experiment = load_experiment(about["module"])
    if about["preset"] not in experiment.presets:
        raise ValueError(f"{folder} is of the preset {about['preset']}, which does not exist now.")
    default = experiment.presets[about["preset"]]
    settings = report.read_json(folder / "config.json")
    try:
        with (folder / "arrays.npz").open("rb") as file, np.load(file) as stored:
            arrays = {key: stored[key] for key in stored.files}
    except (ValueError, EOFError, zipfile.BadZipFile) as error:
        raise ValueError(f"{folder / 'arrays.npz'} is broken ({error}).") from error
    made = list(claims.load(folder / "claims.json"))
    return Results(experiment, _config(default, settings, folder), arrays, made, about)


def _config(default: Any, settings: dict[str, Any], folder: Path) -> Any:
    """Rebuild settings from their JSON form; settings added since have the preset's value."""
    known = {field.name for field in dataclasses.fields(default)}
    if unknown := ", ".join(sorted(set(settings) - known)):
        raise ValueError(f"{folder} was written by a version with other settings: {unknown}.")

    def read(now: Any, value: Any) -> Any:
        if dataclasses.is_dataclass(now):
            return _config(now, value, folder)
        return tuple(read(None, item) for item in value) if isinstance(value, list) else value

    return dataclasses.replace(
        default, **{key: read(getattr(default, key), value) for key, value in settings.items()}
    )


def main(args: Sequence[str]) -> int:
    """Run the command `plot`: draw the figures of a folder again; return the exit status."""
    parser = argparse.ArgumentParser(
        prog="python -m experiments plot",
        description="Draw a result's figures and table anew from its arrays; nothing is run.",
    )
    parser.add_argument("folder", type=Path, help="of results, such as results/fig2ab/cpu")
    parser.add_argument("--out", type=Path, help="folder for the files (default: the same)")
    options = parser.parse_args(args)
    try:
        found = load(options.folder)
        out = (options.out or options.folder).expanduser()  # a shell leaves --out=~/here as it is
        out.mkdir(parents=True, exist_ok=True)
        with _run.precision(found.config):
            paths = _run.draw(found.experiment, found.config, found.arrays, out)
    except (OSError, ValueError) as error:
        parser.exit(1, f"{error}\n")
    print(*paths, sep="\n")
    return 0
