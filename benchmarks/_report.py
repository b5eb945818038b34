"""The report of all benchmarks: rows, the machine and versions, as Markdown and as JSON."""

import json
import os
import platform
import sys
import time
from collections.abc import Mapping, Sequence
from itertools import groupby
from pathlib import Path

from benchmarks._timing import Row
from sslstep.experiment import _machine

PACKAGES = ("jax", "jaxlib", "flax", "torch")


def machine() -> dict[str, str]:
    """What numbers are of: date, machine, versions and commit."""
    load = " ".join(f"{value:.2f}" for value in os.getloadavg())
    return {
        "date": time.strftime("%Y-%m-%d %H:%M"),
        "CPU": _machine.host(),
        # In a process of its own, as whoever asks takes hold of a GPU.
        "device": _machine.output(sys.executable, "-m", "sslstep.experiment._machine"),
        "load at the start": f"{load} (1, 5 and 15 minutes)",
        "Python": platform.python_version(),
        **_machine.versions(*PACKAGES),
        "commit": _machine.commit(),
    }


def markdown(about: Mapping[str, str], rows: Sequence[Row], failures: Mapping[str, str]) -> str:
    """The report as it is read: a table of each benchmark's rows, as far as it came.

    Args:
        about: of the machine, from :func:`machine`.
        rows: of all benchmarks, those of one benchmark together.
        failures: benchmarks that did not end, and why.
    """
    lines = [*(f"- {name}: {value}" for name, value in about.items()), ""]
    lines += ["A ratio is over the first line of each case: above 1, the first is faster."]
    of_each = {name: list(some) for name, some in groupby(rows, lambda row: row.benchmark)}
    for name in dict.fromkeys([*of_each, *failures]):
        lines += ["", f"**{name}**", ""]
        if name in failures:
            lines += [f"Not done: {failures[name]}.", ""]
        if name in of_each:
            lines += ["| case | alternative | time | ratio | peak MiB |", "|---|---|--:|--:|--:|"]
        shown = None
        for row in of_each.get(name, []):
            cells = ["" if row.case == shown else row.case, *row.cells()]
            lines.append("| " + " | ".join(cell.replace("|", "/") for cell in cells) + " |")
            shown = row.case
    return "\n".join(lines) + "\n"


def write(
    folder: Path, about: Mapping[str, str], rows: Sequence[Row], failures: Mapping[str, str]
) -> None:
    """Write report.md and report.json."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "report.md").write_text(markdown(about, rows, failures), encoding="utf-8")
    whole = {"about": about, "rows": [row._asdict() for row in rows], "not done": failures}
    (folder / "report.json").write_text(
        json.dumps(whole, indent=1, ensure_ascii=False) + "\n", encoding="utf-8"
    )
