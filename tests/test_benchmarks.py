"""The benchmarks at their smallest: that they run and what they hand over, never how fast."""

import importlib
import importlib.util
import json
import math
import re
import statistics
import sys
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import pytest

from benchmarks import __main__ as benchmarks
from benchmarks import _report, _timing
from benchmarks._timing import OURS, Row
from sslstep import _xla

TORCH = importlib.util.find_spec("torch") is not None
NOT_DEFAULT = _xla.compiler_options(jax.devices()) is not None
DM_PIX = importlib.util.find_spec("dm_pix") is not None

# Of each benchmark: the smallest options, and how many cases and rows they give.
TINY = {
    "convolutions": ("--images 2 --size 4 --full", 4, 12),
    "empirical_ntk": ("--networks mlp --samples 3", 1, 2 + TORCH),
    "growth": ("--pairs 20 --dim 3", 5, 17),
    "kernel_pca": ("--pairs 20 --dim 3", 6, 18),
    "linear": ("--pairs 10 --crop 4 --steps 20", 1, 4),
    "spectral_losses": ("--pairs 6 --dims 2", 1, 5),
    # JAX's defaults are an alternative where they are not ours.
    "train_step": ("--networks experiments --images 4", 1, 1 + NOT_DEFAULT + TORCH),
    "views": (
        "--networks small --images 2 --pipelines crop_views",
        1 + 2 * DM_PIX,
        3 + 4 * DM_PIX,
    ),
}
# What the first alternative of each case is called, where it is not OURS.
FIRST = {
    "growth": {"contrastive modes", "loss"},
    "kernel_pca": {OURS, f"{OURS}, krylov"},
    "spectral_losses": {"barlow_twins"},
    "views": {OURS, "a step on given views"},
}


def in_this_process(function: Callable[..., Any], *arguments: Any, timeout: float = 0) -> Any:
    """A measurement's answer, as it comes out of JSON."""
    return json.loads(json.dumps(function(*json.loads(json.dumps(arguments)))))


def test_every_benchmark_is_tested() -> None:
    assert sorted(TINY) == benchmarks.names()


def test_the_last_report_has_every_benchmark() -> None:
    report = Path(__file__).parent.parent / "docs" / "benchmarks_report.md"
    text = report.read_text()
    assert re.findall(r"^\*\*(\w+)\*\*$", text, re.MULTILINE) == benchmarks.names()
    assert "Not done" not in text


@pytest.mark.slow
@pytest.mark.parametrize("name", TINY)
def test_benchmarks_hand_over_what_they_print(
    name: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    module = importlib.import_module(f"benchmarks.bench_{name}")
    monkeypatch.setattr(module, "in_own_process", in_this_process, raising=False)
    monkeypatch.setattr(_timing, "PRODUCT", 64)
    monkeypatch.setattr(module, "INSIDE", ("crop_views",), raising=False)
    options, num_cases, num_rows = TINY[name]
    with jax.numpy_rank_promotion("allow"), jax.numpy_dtype_promotion("standard"):  # as peers do
        rows = module.main([*options.split(), "--rounds", "1", "--rows", str(tmp_path / "rows")])

    assert len({row.case for row in rows}) == num_cases
    assert len(rows) == num_rows
    printed = capsys.readouterr().out
    cases = set()
    for row in rows:
        assert row.benchmark == name
        assert not row.note
        assert row.seconds is not None
        assert row.ratio is not None
        assert 0 < row.seconds < math.inf
        assert 0 < row.ratio < math.inf
        assert row.mebibytes is None or 0 <= row.mebibytes < math.inf
        if row.case not in cases:
            assert row.ratio == 1
            assert row.alternative in FIRST.get(name, {OURS})
        cases.add(row.case)
    assert max(Counter((row.case, row.alternative) for row in rows).values()) == 1
    assert len(printed.splitlines()) > num_rows / 2
    written = (tmp_path / "rows").read_text().splitlines()
    assert [Row(**json.loads(line)) for line in written] == rows


def test_alternatives_take_turns() -> None:
    calls: list[str] = []
    turns = _timing.take_turns(
        {"a": lambda: calls.append("a"), "b": lambda: calls.append("b")}, 2, of=statistics.median
    )
    assert calls == ["a", "b"] * 3
    assert min(turns.seconds.values()) > 0
    assert _timing.take_turns({"a": lambda: 5}, 0).results == {"a": 5}
    counted = _timing.take_turns({"a": lambda: 5}, 4, of=len).seconds
    assert counted == {"a": 4}, "the first call, which compiles, does not count"


@pytest.mark.slow
def test_a_measurement_has_a_process_of_its_own() -> None:
    assert _timing.in_own_process(math.hypot, 3, 4) == 5
    with pytest.raises(_timing.MeasurementError, match="ValueError: "):
        _timing.in_own_process(math.sqrt, -1)
    with pytest.raises(_timing.MeasurementError, match=r"over 0 s"):
        _timing.in_own_process(math.sqrt, 1, timeout=0.01)
    assert _timing.peak_memory() > 1


def test_the_first_alternative_is_what_others_are_compared_with() -> None:
    rows = _timing.Rows("some")
    rows.add("slow", OURS, 2.0)
    rows.add("failed", OURS, None, note="over 1 s")
    assert rows.add("slow", "peer", 8.0, 10.0) == Row("some", "slow", "peer", 8.0, 4.0, 10.0)
    assert rows.add("failed", "peer", 8.0).ratio is None
    assert rows.rows[1].note == "over 1 s"


def test_the_report_has_machine_rows_and_failures(tmp_path: Path) -> None:
    rows = [
        Row("linear", "a step", OURS, 3.14159e-5, 1.0),
        Row("linear", "a step", "a|b", 1.2e-3, 38.2),
        Row("train_step", "small", OURS, 2.5, 1.0, 812.4),
        Row("train_step", "small", "PyTorch", None, None, None, "over 9 s"),
    ]
    about = {"CPU": "an abacus, 10 beads", "jax": "0.0"}
    _report.write(tmp_path, about, rows, {"train_step": "over 300 s", "views": "status 1"})
    text = (tmp_path / "report.md").read_text()
    for line in (
        "- CPU: an abacus, 10 beads",
        "**linear**",
        f"| a step | {OURS} | 31.4 µs | 1 |  |",
        "|  | a/b | 1.2 ms | 38.2 |  |",
        "Not done: over 300 s.",
        f"| small | {OURS} | 2.5 s | 1 | 812 |",
        "|  | PyTorch | over 9 s |  |  |",
        "Not done: status 1.",
    ):
        assert line in text.splitlines()
    whole = json.loads((tmp_path / "report.json").read_text())
    assert [Row(**row) for row in whole["rows"]] == rows
    assert whole["about"] == about
    assert whole["not done"] == {"train_step": "over 300 s", "views": "status 1"}


def test_the_machine_is_described() -> None:
    about = _report.machine()
    assert {"date", "CPU", "device", "load at the start", "Python", "jax", "commit"} <= set(about)
    assert all(about.values())
    assert about["device"].endswith("(cpu)")


def test_a_benchmark_that_fails_is_not_the_end(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    reasons = {"linear": "over 5 s", "views": ""}

    def run(command: list[str], timeout: float) -> str:
        name = command[2].removeprefix("benchmarks.bench_")
        assert timeout == 5
        assert command[-2:] == ["--rounds", "1"]
        _timing.Rows(name, Path(command[4])).add("a case", OURS, 1.0)
        return reasons[name]

    monkeypatch.setattr(benchmarks, "run", run)
    monkeypatch.setattr(_report, "machine", dict)
    options = "--only linear views --rounds 1 --timeout 5 --out"
    assert benchmarks.main([*options.split(), str(tmp_path)]) == 0
    whole = json.loads((tmp_path / "report.json").read_text())
    assert [row["benchmark"] for row in whole["rows"]] == ["linear", "views"]
    assert whole["not done"] == {"linear": "over 5 s"}


def test_a_benchmark_is_ended_with_what_it_started() -> None:
    assert benchmarks.run([sys.executable, "-c", ""], 60) == ""
    failing = [sys.executable, "-c", "raise ValueError('no')"]
    assert benchmarks.run(failing, 60) == "status 1, ValueError: no"
    # The inner process holds standard error open: were it left, this would wait for it.
    sleeping = "[sys.executable, '-c', 'import time; time.sleep(60)']"
    code = f"import subprocess, sys; subprocess.run({sleeping})"
    start = time.perf_counter()
    assert benchmarks.run([sys.executable, "-c", code], 1) == "over 1 s"
    assert time.perf_counter() - start < 50
