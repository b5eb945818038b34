"""Print every claim that the runs in results/ made: `make claims`."""

import sys
from pathlib import Path

from experiments.report import SKIPPED, finished
from sslstep import claims


def main(root: Path = Path("results")) -> int:
    """Print the table; the exit status is 1 where nothing has been run yet."""
    folders, skipped = sorted(finished(root)), sorted(root.glob(f"*/*/{SKIPPED}"))
    if not folders and not skipped:
        print(f"no claims in {root.resolve()}: run `make figures` first", file=sys.stderr)
        return 1
    groups = [
        (str(folder.relative_to(root)), claims.load(folder / "claims.json")) for folder in folders
    ]
    print(claims.table(groups))
    for path in skipped:
        print(f"not run: {path.parent.relative_to(root)}: {path.read_text().strip()}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
