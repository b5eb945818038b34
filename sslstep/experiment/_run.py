"""The command of one experiment: its options, and one folder of results."""

import argparse
import dataclasses
import hashlib
import json
import logging
import os
import re
import shutil
import signal
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Annotated, Any, Generic, Literal, NoReturn, TypeVar

import jax
import numpy as np
import tyro
from flax.traverse_util import flatten_dict

from sslstep import claims, plotting, train
from sslstep.experiment import _kept, _machine, image_data, report
from sslstep.experiment._kept import Store
from sslstep.experiment._record import Arrays, Experiment, log, no_figure
from sslstep.experiment.image_data import UnfitError
from sslstep.experiment.report import MADE_FROM, RUNS, SECONDS, SKIPPED
from sslstep.train._lock import held

C = TypeVar("C")
P = TypeVar("P", bound=str)


def main(experiment: Experiment, args: Sequence[str] | None = None) -> int:
    """Run an experiment with command-line arguments and write its results; return exit status."""
    options = _parse(experiment, sys.argv[1:] if args is None else list(args))
    folder = options.out or Path("results") / experiment.name / _folder_name(experiment, options)
    folder = folder.expanduser()  # a shell leaves --out=~/here as it is
    _require_replaceable(experiment, folder)
    image_data.require_used(options.config)
    stores: tuple[Store, ...] = ()
    if isinstance(options, TrainingOptions):
        stores = (Store(options.runs.expanduser(), options.old_runs),)
    about = _about(experiment, options, *stores)  # now: the commit may change during the run
    if options.skip_done and (before := _made_from(experiment, folder)) is not None:
        changed = [name for name, now in about[MADE_FROM].items() if before.get(name) != now]
        if not changed:
            print(f"{folder}: done before, from the same settings, images, code and versions")
            return _status(folder, claims.load(folder / "claims.json"), options.strict)
        commit = report.read_about(folder).get("commit", _machine.UNKNOWN)
        print(f"{folder}: made again, as of commit {commit} it differs in {', '.join(changed)}")
    with _held(folder), _draft_of(folder) as draft, _logging_to(draft / "log.txt"):
        log.info("%s, preset %s, %s", experiment.name, options.preset, _machine.short())
        config = options.config
        settings = json.dumps(dataclasses.asdict(config), indent=1)
        (draft / "config.json").write_text(settings + "\n", encoding="utf-8")
        start = time.perf_counter()
        with precision(config):
            try:
                arrays = experiment.run(config, *stores)
            except UnfitError as error:
                if not (isinstance(options, ImageOptions) and options.skip_unfit):
                    raise
                _skip(folder, draft, f"{error}")
                return 0
            np.savez(draft / "arrays.npz", **arrays)
            log.info("run: %.1f s", time.perf_counter() - start)
            draw(experiment, config, arrays, draft)
            results = experiment.check(config, arrays)
        about[SECONDS] = round(time.perf_counter() - start)
        for store in stores:
            about[RUNS] = store.used
        (draft / "about.json").write_text(json.dumps(about, indent=1) + "\n", encoding="utf-8")
        claims.save(draft / "claims.json", results)
        log.info("%s", claims.table([(f"{experiment.name}/{folder.name}", results)]))
        log.info("%s: %.1f s in all", folder, time.perf_counter() - start)
    return _status(folder, results, options.strict)


def _status(folder: Path, results: Sequence[claims.Claim], strict: bool) -> int:
    """Print failed claims; return 1 if `strict` and an outcome differs from the declared one."""
    if failed := sum(claim.holds is False for claim in results):
        print(f"{failed} claim(s) do not hold: see {folder}/claims.json", file=sys.stderr)
    changed = [claim for claim in results if claim.changed]
    for claim in changed:
        if claim.holds:
            print(f"{claim.statement}: holds, but {claim.declared}", file=sys.stderr)
    return 1 if changed and strict else 0


@contextmanager
def _held(folder: Path) -> Iterator[None]:
    """Lock the folder of results; a second command with the same folder fails meanwhile."""
    place = Path(os.path.realpath(folder))
    new_parents = [parent for parent in place.parents if not parent.exists()]
    place.parent.mkdir(parents=True, exist_ok=True)
    try:
        with held(place.with_name(place.name + ".lock"), f"out = {folder}"):
            yield
    finally:
        with suppress(OSError):  # not empty: results, or the lock of another run
            for parent in new_parents:
                parent.rmdir()


@contextmanager
def _draft_of(folder: Path) -> Iterator[Path]:
    """Create a draft folder for new results, which in the end replaces the folder of old results.

    If the run fails before it has written arrays, the draft is removed. If it fails later, the
    draft is kept and its path is printed.
    """
    draft, old = (folder.with_name(folder.name + end) for end in (".partial", ".old.partial"))
    shutil.rmtree(draft, ignore_errors=True)
    draft.mkdir()
    try:
        yield draft
    except BaseException:
        if (draft / "arrays.npz").is_file():
            print(f"what was computed is in {draft} until the next such run", file=sys.stderr)
        else:
            shutil.rmtree(draft)
        raise
    if draft.exists():  # the run was not skipped
        shutil.rmtree(old, ignore_errors=True)
        if folder.exists():
            folder.rename(old)
        draft.rename(folder)
        shutil.rmtree(old, ignore_errors=True)


def _skip(folder: Path, draft: Path, why: str) -> None:
    """Log why the run is skipped; write the reason into the folder, unless it holds results."""
    log.info("%s: skipped. %s", folder, why)
    shutil.rmtree(draft)
    if not (folder / "claims.json").is_file():
        folder.mkdir(exist_ok=True)
        (folder / SKIPPED).write_text(why + "\n", encoding="utf-8")


def precision(config: Any) -> Any:
    """Return a context that enables x64 unless the settings' dtype is another than float64."""
    return jax.enable_x64(getattr(config, "dtype", "float64") == "float64")


def draw(experiment: Experiment, config: Any, arrays: Arrays, folder: Path) -> list[Path]:
    """Write figures, animation and table of an experiment into a folder; return their paths."""
    with plotting.style():
        figures = experiment.plot(config, arrays)
        named = figures if isinstance(figures, dict) else {"figure": figures}
        paths = [path for name, fig in named.items() for path in plotting.save(fig, folder, name)]
        if experiment.movie is not None:
            paths.append(experiment.movie(config, arrays, folder))
    if experiment.table is not None:
        paths.append(folder / "table.md")
        paths[-1].write_text(experiment.table(config, arrays), encoding="utf-8")
    return paths


@dataclasses.dataclass(frozen=True)
class Options(Generic[C, P]):
    """Options of every experiment's command; P is the type of the presets' names."""

    config: Annotated[C, tyro.conf.arg(name="")]
    preset: P
    """Set of defaults. cpu needs no download; paper has the published settings or, for experiments
    beyond the paper, larger ones. In some experiments both are equal."""
    out: Path | None = None
    """Folder of the results. Default: results/<experiment>/<preset and what differs from it>."""
    strict: bool = False
    """Exit with status 1 if a claim fails that is not declared to fail, or if a claim declared to
    fail holds. An undecided claim is not a failure."""
    skip_done: bool = False
    """Keep existing results if settings, images, code, versions, processor and devices are
    unchanged; otherwise print what differs and run again."""


@dataclasses.dataclass(frozen=True)
class ImageOptions(Options[C, P]):
    """Options of the commands of experiments on images."""

    skip_unfit: bool = False
    """If the images do not suffice (too few, no labels), print why and exit with status 0."""


@dataclasses.dataclass(frozen=True)
class TrainingOptions(ImageOptions[C, P]):
    """Options of the commands of experiments that train networks on images."""

    runs: Path = Path("results/training")
    """Folder of the training runs, which experiments share and continue."""
    old_runs: bool = False
    """Use and continue training runs made by other code if the current code has made none.
    Without this option networks are trained anew, beside the old runs."""


def _parse(experiment: Experiment, args: list[str]) -> Options[Any, str]:
    """Parse the options: first the preset, because it sets the defaults of the other options."""
    package = experiment.module.partition(".")[0]
    prog = f"python -m {package} run {experiment.name}"
    finder = argparse.ArgumentParser(prog, add_help=False, allow_abbrev=False)
    finder.add_argument("--preset", choices=list(experiment.presets), default="cpu")
    preset = finder.parse_known_args(args)[0].preset
    default = experiment.presets[preset]
    kind: Any = ImageOptions if hasattr(default, "data") else Options
    if experiment.trains:
        kind = TrainingOptions
    options = kind[type(default), Literal[tuple(experiment.presets)]]
    return tyro.cli(
        options,
        prog=prog,
        description=experiment.doc,
        args=args,
        default=options(default, preset),
    )


def status(experiment: Experiment, args: Sequence[str]) -> int:
    """Run an experiment's command; print a user error in one line; return the exit status."""
    try:
        return main(experiment, args)
    except (OSError, ValueError, FloatingPointError) as error:
        print(f"{experiment.name}: {error}", file=sys.stderr)
        return 1
    except train.Interrupted as interrupted:  # it has printed why
        if interrupted.code == 128 + signal.SIGINT:
            _die_of_interrupt()
        sys.exit(interrupted.code)
    except (KeyboardInterrupt, jax.errors.JaxRuntimeError) as error:
        # JAX wraps an interrupt raised in a callback, such as a progress bar, in its own error.
        if not isinstance(error, KeyboardInterrupt) and "KeyboardInterrupt" not in str(error):
            raise
        print(f"{experiment.name}: interrupted; earlier results are as they were", file=sys.stderr)
        _die_of_interrupt()


def _die_of_interrupt() -> NoReturn:
    """End by SIGINT: a shell takes a plain exit to mean that the program handled Ctrl-C."""
    sys.stdout.flush()
    sys.stderr.flush()
    signal.signal(signal.SIGINT, signal.SIG_DFL)
    signal.raise_signal(signal.SIGINT)
    sys.exit(128 + signal.SIGINT)  # if the signal is blocked


def _require_replaceable(experiment: Experiment, folder: Path) -> None:
    """Raise ValueError if the folder holds anything but results of the same experiment."""
    if Path.cwd().is_relative_to(folder.resolve()):
        raise ValueError(
            f"out = {folder} holds the folder in which the command runs. It would be replaced as a "
            f"whole: name another."
        )
    held = {path.name for path in folder.iterdir()} if folder.is_dir() else set()
    if held - {SKIPPED} and "claims.json" not in held:
        raise ValueError(
            f"out = {folder} holds files that no experiment wrote (there is no claims.json). It "
            f"would be replaced as a whole: name a new folder."
        )
    if folder.exists() and not folder.is_dir():
        raise ValueError(f"out = {folder} is a file: name a folder.")
    made_by = report.read_about(folder).get("experiment")
    if made_by not in (None, experiment.name):
        raise ValueError(
            f"out = {folder} holds the results of {made_by}, which would be replaced: name another."
        )


def _folder_name(experiment: Experiment, options: Options[Any, str]) -> str:
    """Return the name of the folder of results: the preset, and the settings that differ from it.

    Other settings have another name; `data_dir` is no part of it. A name that is longer than 150
    characters, or has characters replaced, ends with a digest of the settings.
    """
    default, settings = (
        flatten_dict(dataclasses.asdict(config), sep=".")
        for config in (experiment.presets[options.preset], options.config)
    )
    changed = {k: v for k, v in settings.items() if v != default[k] and k != "data_dir"}

    def plain(value: Any) -> str:
        return "-".join(map(str, value)) if isinstance(value, tuple) else str(value)

    # Command-line options of recipes have no prefix "recipes.", so names have none either.
    exact = [f"{key.removeprefix('recipes.')}={plain(value)}" for key, value in changed.items()]
    # A name has no "/" and no blanks, and "+" separates settings.
    shown = [re.sub("[/+]", "_", part).replace(" ", "") for part in exact]
    name = "+".join([options.preset, *shown])
    if shown == exact and len(name) <= 150:
        return name
    told = name if shown == exact else json.dumps(exact)
    end = hashlib.sha256(told.encode()).hexdigest()[:12]
    return f"{name if len(name) <= 150 else name[:130]}-{end}"  # file names have at most 255 bytes


def _about(experiment: Experiment, options: Options[Any, str], *stores: Store) -> dict[str, Any]:
    """Return the contents of about.json: experiment, preset, date, machine and digests."""
    what, _, explanation = experiment.doc.partition("\n")
    return {
        "experiment": experiment.name,
        "module": experiment.module,
        "what": what,
        "explanation": explanation.strip("\n"),
        "preset": options.preset,
        "date": time.strftime("%Y-%m-%d"),
        **_machine.about(),
        MADE_FROM: _kept.made_from(experiment.module, options.config, *stores),
    }


def _made_from(experiment: Experiment, folder: Path) -> dict[str, str] | None:
    """Return what `about.json` says that a folder's results were made from: names and digests.

    {} if `about.json` has no such entry; None if arrays, claims, settings or the figure are absent.
    """
    held = {path.name for path in folder.iterdir()} if folder.is_dir() else set()
    drawn = experiment.plot is no_figure or any(name.endswith(".png") for name in held)
    whole = drawn and held >= {"arrays.npz", "claims.json", "config.json"}
    found = report.read_about(folder).get(MADE_FROM)
    return (found if isinstance(found, dict) else {}) if whole else None


@contextmanager
def _logging_to(path: Path) -> Iterator[None]:
    """Send log messages to a file, with times, and to standard output."""
    to_file = logging.FileHandler(path, encoding="utf-8")
    to_file.setFormatter(logging.Formatter("%(asctime)s %(message)s"))
    handlers: list[logging.Handler] = [to_file, logging.StreamHandler(sys.stdout)]
    log.setLevel(logging.INFO)
    log.propagate = False
    for handler in handlers:
        log.addHandler(handler)
    try:
        yield
    finally:
        for handler in handlers:
            log.removeHandler(handler)
        to_file.close()
