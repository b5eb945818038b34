"""What the benchmarks share: turns, memory, processes, options, and the rows they hand over."""

import argparse
import functools
import json
import re
import subprocess
import sys
import time
import traceback
from collections.abc import Callable, Mapping
from importlib import import_module, util
from pathlib import Path
from typing import Any, NamedTuple

import jax

from sslstep import _terminal
from sslstep.experiment import _machine

OURS = "sslstep"
PRODUCT = 4096  # side of the matrices whose product tells the machine's rate


class Turns(NamedTuple):
    """Of each alternative: seconds, and what its last call returned."""

    seconds: dict[str, float]
    results: dict[str, Any]


def take_turns(
    calls: Mapping[str, Callable[[], Any]],
    rounds: int,
    *,
    of: Callable[[list[float]], float] = min,
    pause: float = 0.0,
    calls_a_turn: int = 1,
) -> Turns:
    """Time alternatives in turn, after a first call of each, which compiles.

    By default the shortest time counts, because other work on the machine only ever adds to it.

    Args:
        calls: the alternatives, by name.
        rounds: turns of each. With 0 the first call counts, compilation included.
        of: what is made of an alternative's times, such as ``min`` or ``statistics.median``.
        pause: seconds before each turn, until another's threads no longer spin.
        calls_a_turn: calls in succession, each timed, where a user makes them so: the first finds
            caches and memory as another left them.
    """
    times: dict[str, list[float]] = {name: [] for name in calls}
    results = {}
    for turn in range(rounds + 1):
        for name, call in calls.items():
            time.sleep(pause)
            for _ in range(calls_a_turn if turn else 1):
                start = time.perf_counter()
                results[name] = jax.block_until_ready(call())
                if turn or not rounds:
                    times[name].append(time.perf_counter() - start)
    return Turns({name: of(taken) for name, taken in times.items()}, results)


def peak_rate(dtype: str = "float32") -> float:
    """Operations a second of a product of two large matrices, printed too."""
    a = jax.numpy.ones((PRODUCT, PRODUCT), dtype)
    call = functools.partial(jax.jit(jax.numpy.matmul), a, a)
    rate = 2 * PRODUCT**3 / take_turns({"product": call}, 3).seconds["product"]
    print(f"a large product: {rate / 1e9:.0f} GFLOP/s")
    return rate


def peak_memory() -> float:
    """Of this process so far, in MiB, imports included."""
    # getrusage's would count what the parent held when it started this process.
    status = Path("/proc/self/status")
    text = status.read_text(encoding="utf-8") if status.exists() else ""
    if found := re.search(r"VmHWM:\s*(\d+) kB", text):
        return int(found[1]) / 1024
    import resource

    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak / (2**20 if sys.platform == "darwin" else 1024)


class MeasurementError(Exception):
    """A measurement that gave nothing, and why, in a few words."""


def in_own_process(
    function: Callable[..., Any], *arguments: Any, timeout: float | None = None
) -> Any:
    """``function(*arguments)`` in a fresh process, whose memory is then its alone.

    Args:
        function: at the top level of a module, which is imported by its name.
        arguments: for it. They and what it returns go through JSON.
        timeout: seconds until it is killed.

    Raises:
        MeasurementError: if it is too slow, raises an exception or is killed.
    """
    module = function.__module__
    if module == "__main__":
        module = sys.modules[module].__spec__.name  # type: ignore[union-attr]
    command = [sys.executable, "-m", "benchmarks._timing", module, function.__name__]
    try:
        done = subprocess.run(
            [*command, json.dumps(arguments)],
            stdout=subprocess.PIPE,
            encoding="utf-8",
            timeout=timeout,
        )
    except subprocess.TimeoutExpired:
        raise MeasurementError(f"over {timeout:.0f} s") from None
    try:
        answer = json.loads(done.stdout.splitlines()[-1])
    except (IndexError, ValueError):
        raise MeasurementError(f"ended with status {done.returncode}") from None
    if "error" in answer:
        raise MeasurementError(answer["error"])
    return answer["result"]


def _answer(module: str, name: str, arguments: str) -> None:
    """The other side of it."""
    try:
        result = getattr(import_module(module), name)(*json.loads(arguments))
        print(json.dumps({"result": result}))
    except Exception as error:
        traceback.print_exc()
        reason = (str(error).splitlines() or [""])[0]
        print(json.dumps({"error": f"{type(error).__name__}: {reason}"[:100]}))


class Row(NamedTuple):
    """One alternative of one case.

    Attributes:
        benchmark: which file, without ``bench_``.
        case: what all its alternatives do.
        alternative: who does it. The first of a case is ours, or what ours are compared with.
        seconds: how long it takes; None if `note` says why that is not known.
        ratio: its seconds over the first alternative's, so above 1 where ours is faster.
        mebibytes: peak memory, if measured.
        note: of what failed.
    """

    benchmark: str
    case: str
    alternative: str
    seconds: float | None
    ratio: float | None
    mebibytes: float | None = None
    note: str = ""

    def cells(self) -> list[str]:
        """Alternative, time (or why there is none), ratio and MiB, as tables show them."""
        return [
            self.alternative,
            self.note if self.seconds is None else duration(self.seconds),
            "" if self.ratio is None else f"{self.ratio:.3g}",
            "" if self.mebibytes is None else f"{self.mebibytes:.0f}",
        ]


def duration(seconds: float) -> str:
    """Three digits, in the unit that suits them."""
    for unit, size in (("s", 1.0), ("ms", 1e-3)):
        if seconds >= size:
            return f"{seconds / size:.3g} {unit}"
    return f"{seconds * 1e6:.3g} µs"


class Rows:
    """The rows of one benchmark, printed and written as they come: those of a cut run are kept."""

    def __init__(self, benchmark: str, path: Path | None = None):
        self.benchmark, self.path = benchmark, path
        self.rows: list[Row] = []
        self._first: dict[str, float | None] = {}

    def add(
        self,
        case: str,
        alternative: str,
        seconds: float | None,
        mebibytes: float | None = None,
        note: str = "",
        also: str = "",
    ) -> Row:
        """Add an alternative; the first of a case is what the others are compared with.

        `also` is printed behind its numbers, and not kept.
        """
        if case not in self._first:
            print(f"\n{case:42}{'time':>12}{'ratio':>8}{'MiB':>8}")
        first = self._first.setdefault(case, seconds)
        ratio = None if seconds is None or first is None else seconds / first
        row = Row(self.benchmark, case, alternative, seconds, ratio, mebibytes, note)
        self.rows.append(row)
        print("  {:40}{:>12}{:>8}{:>8}  {}".format(*row.cells(), also).rstrip(), flush=True)
        if self.path is not None:
            with self.path.open("a", encoding="utf-8") as file:
                file.write(json.dumps(row._asdict()) + "\n")
        return row


def parser(doc: str | None, *, rounds: int, full: str) -> argparse.ArgumentParser:
    """The options that all benchmarks have."""
    _terminal.accept_any_text()
    result = argparse.ArgumentParser(
        prog=f"python -m benchmarks.{Path(sys.argv[0]).stem}",
        description=doc,
        formatter_class=argparse.RawTextHelpFormatter,
    )
    result.add_argument(
        "--rounds", type=int, default=rounds, help=f"turns of each (default: {rounds})"
    )
    result.add_argument("--full", action="store_true", help=full)
    result.add_argument("--rows", type=Path, help=argparse.SUPPRESS)  # where Rows writes
    return result


def print_machine(dtype: str) -> None:
    """What the numbers below it are of."""
    print(f"{_machine.devices()}, {_machine.host()}, JAX {jax.__version__}, {dtype}")


def installed(module: str) -> bool:
    """Whether a peer is there; says so if it is not."""
    found = util.find_spec(module) is not None
    if not found:
        print(f"{module} is not installed, and left out")
    return found


if __name__ == "__main__":
    _answer(*sys.argv[1:])
