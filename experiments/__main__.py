"""All experiments by name.

    python -m experiments list
    python -m experiments run NAME [options]
    python -m experiments plot FOLDER
    python -m experiments claims [NAME ...]
    python -m experiments report

`run NAME --help` explains an experiment and its options; `plot` draws the figures of a result anew;
`claims` prints what the runs in results/ claim, all or those of some experiments; `report` writes
results/index.html.
"""

import ast
import importlib
import signal
import sys
from pathlib import Path

from experiments import claims, report
from sslstep import _terminal

HERE = Path(__file__).parent
HELP = (["--help"], ["-h"])


def experiments() -> list[str]:
    """The names of those that leave results."""
    return [name for name in runnable() if name != "dry_run"]


def runnable() -> dict[str, str]:
    """Names, and the first line of what each says of itself; nothing is imported."""
    found = {}
    for path in sorted(HERE.glob("[a-z]*.py")):
        tree = ast.parse(path.read_text(encoding="utf-8"))
        assigned = {
            target.id
            for node in tree.body
            if isinstance(node, ast.Assign)
            for target in node.targets
            if isinstance(target, ast.Name)
        }
        if "EXPERIMENT" in assigned or path.stem == "dry_run":
            found[path.stem] = (ast.get_docstring(tree) or "").splitlines()[0]
    return found


def main(args: list[str]) -> int:
    """The command; returns the exit status."""
    # `list` and `run` without a name have no help of their own: it is this page.
    if args in HELP or (args[:1] in (["list"], ["run"]) and args[1:] in HELP):
        print(__doc__)
        return 0
    known = runnable()
    if args == ["list"]:
        width = max(map(len, known))
        for name, line in known.items():
            print(f"{name:{width}}  {line}")
        return 0
    if args[:1] == ["claims"]:
        return claims.main(args[1:])
    if args[:1] == ["report"]:
        return report.main(args[1:])
    if args[:1] == ["plot"]:
        from experiments import results  # here, so that a list comes at once

        return results.main(args[1:])
    if len(args) >= 2 and args[0] == "run":
        name = args[1]
        if name not in known:
            print(f"no experiment {name!r}: one of {', '.join(known)}", file=sys.stderr)
            return 2
        if name == "dry_run":
            from experiments import dry_run

            return dry_run.command(args[2:])
        from experiments import _run  # here, so that a list comes at once

        module = importlib.import_module(f"experiments.{name}")
        _run.command(module.EXPERIMENT, args[2:])
    print(f"{_wrong(args)}\n\n{__doc__}", file=sys.stderr)
    return 2


def _wrong(args: list[str]) -> str:
    """Why these are not one of the commands."""
    if not args:
        return "a command is missing"
    if args[0] == "run":
        return "run takes the name of an experiment: `python -m experiments list` has them"
    if args[0] == "list":
        return f"list takes no arguments, got {' '.join(args[1:])}"
    return f"there is no command {args[0]!r}"


if __name__ == "__main__":
    _terminal.accept_any_text()
    if sys.argv[1:2] != ["run"]:
        signal.signal(signal.SIGPIPE, signal.SIG_DFL)  # `| head` ends it without a word
    sys.exit(main(sys.argv[1:]))
