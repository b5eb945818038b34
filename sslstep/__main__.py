"""Print the versions that a report of a bug needs.

python -m sslstep --versions
"""

import argparse
import os
import platform
import re
from importlib import metadata


def versions() -> dict[str, str]:
    """Return versions by name: Python, the machine, sslstep, and the packages that it uses.

    Packages that only the tests, the checks, the documentation or the benchmarks use are left out.
    """
    lines = metadata.requires("sslstep") or []
    used = [line for line in lines if not re.search("extra == .(test|check|docs|bench)", line)]
    names = [re.split(r"[^\w-]", line)[0] for line in used]
    found = {"python": platform.python_version(), "machine": platform.platform()}
    found["cores"] = str(os.cpu_count())
    for name in dict.fromkeys(["sslstep", *sorted(names, key=str.lower)]):
        try:
            found[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            found[name] = "not installed"
    return found


def main() -> None:
    """Parse the command line and print the versions, with --versions or without."""
    parser = argparse.ArgumentParser(prog="python -m sslstep", description=__doc__.splitlines()[0])
    parser.add_argument("--versions", action="store_true", help="the same without this option")
    parser.parse_args()
    for name, version in versions().items():
        print(f"{name:<22} {version}")


if __name__ == "__main__":
    main()
