"""The command line of a package of experiments."""

import argparse
import signal
import sys
from collections.abc import Sequence
from typing import NoReturn

from sslstep import _terminal
from sslstep.experiment import claims_table, report
from sslstep.experiment._record import find, first_line, load

USAGE = """All experiments by name.

    python -m {package} list
    python -m {package} run NAME [options]
    python -m {package} run --all [options]
    python -m {package} dry [NAME ...]
    python -m {package} plot FOLDER
    python -m {package} claims [NAME ...]
    python -m {package} report

`run NAME --help` explains an experiment and its options; `run --all` runs one after the other and
leaves results that are still those of the same settings, images, code and versions; `dry` says what
training would take; `plot` draws the figures of a result anew; `claims` prints the claims of the
runs in results/, all or those of some experiments; `report` writes results/index.html.
"""
HELP = (["--help"], ["-h"])


def start(package: str) -> NoReturn:
    """Run the command line of a package of experiments with ``sys.argv``, and exit.

    Args:
        package: dotted name of the package, such as ``"experiments"``.
    """
    _terminal.accept_any_text()
    if sys.argv[1:2] != ["run"]:
        signal.signal(signal.SIGPIPE, signal.SIG_DFL)  # `| head` ends it silently
    sys.exit(main(package, sys.argv[1:]))


def main(package: str, args: Sequence[str]) -> int:
    """Run one command of a package of experiments; return the exit status."""
    usage = USAGE.format(package=package)
    first, rest = (args[0], list(args[1:])) if args else ("", [])
    # `list --help` and `run --help` print this usage.
    if list(args) in HELP or (first in ("list", "run") and rest in HELP):
        print(usage)
        return 0
    if first == "list" and not rest:
        _list(package)
        return 0
    if first == "claims":
        return claims_table.main(rest)
    if first == "report":
        return report.main(rest)
    if first == "plot":
        from sslstep.experiment import results  # a slow import, not needed by `list`

        return results.main(rest)
    if first == "dry":
        from sslstep.experiment import dry

        return dry.main(package, rest)
    if first == "run" and rest:
        if rest[0] == "--all":
            return _run_all(package, rest[1:])
        known = find(package)
        if rest[0] not in known:
            print(f"no experiment {rest[0]!r}: one of {', '.join(known)}", file=sys.stderr)
            return 2
        from sslstep.experiment import _run

        return _run.status(load(known[rest[0]]), rest[1:])
    print(f"{_wrong(first, rest)}\n\n{usage}", file=sys.stderr)
    return 2


def _list(package: str) -> None:
    """Print the name and the first line of the docstring of each experiment."""
    known = find(package)
    width = max(map(len, known), default=0)
    for name, module in known.items():
        print(f"{name:{width}}  {first_line(module)}")


def _wrong(first: str, rest: list[str]) -> str:
    """Return the message for an invalid command."""
    if not first:
        return "a command is missing"
    if first == "run":
        return "run takes the name of an experiment or --all: `list` has the names"
    if first == "list":
        return f"list takes no arguments, got {' '.join(rest)}"
    return f"there is no command {first!r}"


def _run_all(package: str, args: list[str]) -> int:
    """Run all experiments, the shortest first, then claims and report; return 1 if one failed."""
    parser = argparse.ArgumentParser(
        prog=f"python -m {package} run --all",
        description="Run every experiment but those that run alone, from short to long, in one "
        "process. Further options go to each experiment.",
    )
    parser.add_argument("--quick", action="store_true", help="only the quicker ones")
    parser.add_argument("--data", help="images, for the experiments that take them")
    parser.add_argument("--data-dir", help="folder of prepared data, for the same experiments")
    options, further = parser.parse_known_args(args)
    import jax

    from sslstep.experiment import _run

    of_images = ["--skip-unfit"]
    of_images += ["--data", options.data] if options.data else []
    of_images += ["--data-dir", options.data_dir] if options.data_dir else []
    records = [load(module) for module in find(package).values()]
    chosen = [r for r in records if (r.quick is not None if options.quick else not r.alone)]
    chosen.sort(key=lambda record: record.minutes)
    failed = []
    for number, record in enumerate(chosen, start=1):
        print(f"{record.name}: {number} of {len(chosen)}", flush=True)
        own = list(record.quick or ()) if options.quick else []
        takes_images = all(hasattr(preset, "data") for preset in record.presets.values())
        images = of_images if takes_images else []
        if _run.status(record, [*own, *images, "--skip-done", *further]):
            failed.append(record.name)
        jax.clear_caches()
    claims_table.main()
    report.main()
    if failed:
        print(f"with an error, or a claim that does not hold: {', '.join(failed)}", file=sys.stderr)
    return 1 if failed else 0
