"""Print every claim that the runs in results/ made: `make claims`."""

import sys
from pathlib import Path

from sslstep import claims


def main(root: Path = Path("results")) -> int:
    """Print the table; the exit status is 1 where nothing has been run yet."""
    files = sorted(root.glob("*/*/claims.json"))
    files = [file for file in files if not file.parent.name.endswith(".partial")]
    if not files:
        print(f"no claims in {root.resolve()}: run `make figures` first", file=sys.stderr)
        return 1
    groups = [(str(file.parent.relative_to(root)), claims.load(file)) for file in files]
    print(claims.table(groups))
    return 0


if __name__ == "__main__":
    sys.exit(main())
