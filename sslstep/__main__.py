"""Print the versions that a report of a bug needs.

python -m sslstep --versions
"""

import argparse
import os
import platform
import re
from importlib import metadata


def versions() -> dict[str, str]:
    """Python, the machine, and the installed version of sslstep and of each package it asks for."""
    names = [re.split(r"[^\w-]", line)[0] for line in metadata.requires("sslstep") or []]
    found = {"python": platform.python_version(), "machine": platform.platform()}
    found["cores"] = str(os.cpu_count())
    for name in dict.fromkeys(["sslstep", *sorted(names, key=str.lower)]):
        try:
            found[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            found[name] = "not installed"
    return found


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(prog="python -m sslstep", description=__doc__.splitlines()[0])
    parser.add_argument("--versions", action="store_true", help="the same without this option")
    parser.parse_args()
    for name, version in versions().items():
        print(f"{name:<22} {version}")


if __name__ == "__main__":
    main()
