"""The command `claims`: print the claims of all runs in results/, each claim once."""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from sslstep import claims
from sslstep.experiment import _kept
from sslstep.experiment.report import MADE_FROM, SKIPPED, finished, read_about, repeated, skipped


def main(args: Sequence[str] = (), root: Path = Path("results")) -> int:
    """Print the claims of the named experiments; return 1 if one of them has no results, else 0."""
    parser = argparse.ArgumentParser(
        prog="python -m experiments claims",
        description="Print the claims of the runs in results/, and whether they hold.",
    )
    parser.add_argument("names", nargs="*", metavar="NAME", help="of experiments (default: all)")
    names = parser.parse_args(args).names
    folders = [path for path in sorted(finished(root)) if _of(path, names)]
    without = [path for path in sorted(skipped(root)) if _of(path, names)]
    found = {path.parent.name for path in (*folders, *without)}
    if missing := [name for name in names if name not in found]:
        print(f"nothing of {', '.join(missing)} in {root.resolve()}", file=sys.stderr)
        return 1
    if not found:
        print(f"no claims in {root.resolve()}: run `make figures` first", file=sys.stderr)
        return 1
    try:
        runs = [(folder, claims.load(folder / "claims.json")) for folder in folders]
        about = {folder: read_about(folder) for folder in folders}
    except ValueError as error:
        print(error, file=sys.stderr)
        return 1
    again = repeated(runs)
    groups = [(str(path.relative_to(root)), made) for path, made in runs if path not in again]
    print(claims.table(groups))
    for path, other in again.items():
        print(
            f"counted once: all claims of {path.relative_to(root)} are among those of "
            f"{other.relative_to(root)}"
        )
    for path, of in about.items():
        code = of.get(MADE_FROM, {}).get("code")
        if of.get("module") and code != _kept.code_of(of["module"]):
            print(
                f"of other code than today's: {path.relative_to(root)}, made at commit "
                f"{of.get('commit')}. Run it again."
            )
    for path in without:
        why = (path / SKIPPED).read_text(encoding="utf-8").strip()
        print(f"not run: {path.relative_to(root)}: {why}")
    return 0


def _of(folder: Path, names: Sequence[str]) -> bool:
    """Return whether a folder of results is of a named experiment; True if no name is given."""
    return not names or folder.parent.name in names
