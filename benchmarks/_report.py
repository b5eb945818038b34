"""The report of all benchmarks: rows, the machine and versions, as Markdown and as JSON."""

import json
import os
import platform
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from importlib import metadata
from itertools import groupby
from pathlib import Path

from benchmarks._timing import Row

PACKAGES = ("jax", "jaxlib", "flax", "torch")


def machine() -> dict[str, str]:
    """What numbers are of: date, machine, versions and commit."""
    load = " ".join(f"{value:.2f}" for value in os.getloadavg())
    versions = {name: _version(name) for name in PACKAGES}
    return {
        "date": time.strftime("%Y-%m-%d %H:%M"),
        "CPU": f"{_cpu()}, {os.cpu_count()} cores",
        "device": _device(),
        "load at the start": f"{load} (1, 5 and 15 minutes)",
        "Python": platform.python_version(),
        **{name: version for name, version in versions.items() if version},
        "commit": _commit(),
    }


def _cpu() -> str:
    info = Path("/proc/cpuinfo")
    lines = info.read_text().splitlines() if info.exists() else []
    models = [line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")]
    return models[0] if models else platform.processor() or platform.machine()


def _device() -> str:
    """Asked in a process of its own, as whoever asks takes hold of a GPU."""
    code = "import jax; print(len(jax.devices()), jax.devices()[0].device_kind, sep=' x ')"
    return _output(sys.executable, "-c", code)


def _version(package: str) -> str | None:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return None


def _commit() -> str:
    commit = _output("git", "rev-parse", "--short", "HEAD")
    changed = _output("git", "status", "--porcelain", "--untracked-files=no") not in ("", UNKNOWN)
    return f"{commit}, and changes" if changed else commit


UNKNOWN = "unknown"


def _output(*command: str) -> str:
    here = Path(__file__).parent
    try:
        done = subprocess.run(command, cwd=here, capture_output=True, text=True, check=True)
    except (OSError, subprocess.CalledProcessError):
        return UNKNOWN
    return done.stdout.strip()


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
            cells = ["" if row.case == shown else row.case, row.alternative]
            cells += [row.note if row.seconds is None else duration(row.seconds)]
            cells += ["" if row.ratio is None else f"{row.ratio:.3g}"]
            cells += ["" if row.mebibytes is None else f"{row.mebibytes:.0f}"]
            lines.append("| " + " | ".join(cell.replace("|", "/") for cell in cells) + " |")
            shown = row.case
    return "\n".join(lines) + "\n"


def duration(seconds: float) -> str:
    """Three digits, in the unit that suits them."""
    for unit, size in (("s", 1.0), ("ms", 1e-3)):
        if seconds >= size:
            return f"{seconds / size:.3g} {unit}"
    return f"{seconds * 1e6:.3g} µs"


def write(
    folder: Path, about: Mapping[str, str], rows: Sequence[Row], failures: Mapping[str, str]
) -> None:
    """Write report.md and report.json."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "report.md").write_text(markdown(about, rows, failures))
    whole = {"about": about, "rows": [row._asdict() for row in rows], "not done": failures}
    (folder / "report.json").write_text(json.dumps(whole, indent=1, ensure_ascii=False) + "\n")
