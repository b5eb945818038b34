"""All benchmarks, one after the other, and a report of their ratios.

    make bench    or    python -m benchmarks [--rounds N] [--only NAME ...]

Each has a process and a time limit of its own; what it found until then is kept, and the report
says which did not end. It is in results/benchmarks: report.md, and the same as report.json.
"""

import argparse
import json
import os
import signal
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

from benchmarks import _report
from benchmarks._timing import Row
from sslstep import _terminal

HERE = Path(__file__).parent


def names() -> list[str]:
    """All benchmarks."""
    return sorted(path.stem.removeprefix("bench_") for path in HERE.glob("bench_*.py"))


def run(command: Sequence[str], timeout: float) -> str:
    """Run a command, whose output is shown; why it failed, or nothing."""
    # Processes share a GPU: none takes it whole.
    environment = {"XLA_PYTHON_CLIENT_PREALLOCATE": "false", **os.environ}
    with subprocess.Popen(
        command,
        env=environment,
        stderr=subprocess.PIPE,
        encoding="utf-8",
        errors="replace",
        start_new_session=True,
    ) as process:
        try:
            errors, reason = process.communicate(timeout=timeout)[1], ""
        except subprocess.TimeoutExpired:
            reason = f"over {timeout:g} s"
        finally:
            if process.poll() is None:  # with the processes it started, also if we are interrupted
                os.killpg(process.pid, signal.SIGKILL)
        if reason:
            return reason
    sys.stderr.write(errors)
    if not process.returncode:
        return ""
    last = (errors.strip().splitlines() or ["no message"])[-1]
    return f"status {process.returncode}, {last[:100]}"


def main(args: Sequence[str] | None = None) -> int:
    """The command; returns the exit status."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks",
        description=__doc__,
        formatter_class=argparse.RawTextHelpFormatter,
    )
    parser.add_argument("--rounds", type=int, help="turns of each alternative")
    parser.add_argument("--full", action="store_true", help="each at its full size: see their help")
    parser.add_argument(
        "--only",
        nargs="+",
        choices=names(),
        default=names(),
        metavar="NAME",
        help=f"some of {', '.join(names())}",
    )
    parser.add_argument(
        "--timeout", type=float, default=600, help="seconds of each benchmark (default: 600)"
    )
    parser.add_argument(
        "--out",
        type=Path,
        default=Path("results/benchmarks"),
        help="folder of the report (default: %(default)s)",
    )
    options = parser.parse_args(args)
    about, failures = _report.machine(), {}
    rows: list[Row] = []
    for name in options.only:
        print(f"\n== {name}", flush=True)
        with tempfile.TemporaryDirectory() as folder:
            found = Path(folder) / "rows"
            found.touch()
            command = [sys.executable, "-m", f"benchmarks.bench_{name}", "--rows", str(found)]
            command += [] if options.rounds is None else ["--rounds", str(options.rounds)]
            command += ["--full"] if options.full else []
            reason = run(command, options.timeout)
            rows += [
                Row(**json.loads(line)) for line in found.read_text(encoding="utf-8").splitlines()
            ]
        if reason:
            failures[name] = reason
            print(f"{name}: {reason}", file=sys.stderr)
        _report.write(options.out, about, rows, failures)
    print(f"\n{options.out / 'report.md'}")
    return 0


if __name__ == "__main__":
    _terminal.accept_any_text()
    sys.exit(main())
