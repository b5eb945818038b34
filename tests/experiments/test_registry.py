"""Experiments found by their folders: order, a new one, runs of all, and the code of each."""

import ast
import gc
import json
import os
import shutil
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path

import pytest

from sslstep.experiment import _code, _run, cli, find, load, results

ROOT = Path(__file__).parents[2]

NEW = {
    "__init__": '"""A folder."""',
    "experiment": '''"""Figure 0: one number.

    python -m lab run squares
"""

from dataclasses import dataclass

import numpy as np

from sslstep.experiment import Experiment


@dataclass(frozen=True)
class Config:
    """Settings."""

    number: float = 3.0
    """The number."""


def run(config):
    return {"square": np.asarray(config.number**2)}


EXPERIMENT = Experiment({"cpu": Config()}, run)
''',
    "figure": '''"""The figure."""


def plot(config, arrays):
    import matplotlib.pyplot as plt

    fig, ax = plt.subplots(figsize=(2, 2))
    ax.plot(config.number, arrays["square"], "o")
    return fig
''',
    "claims": '''"""The claims."""

from sslstep import claims


def check(config, arrays):
    return [
        claims.close(
            "a square", "-", expected=9.0, measured=float(arrays["square"]), tolerance=1e-9
        )
    ]
''',
}


@pytest.fixture
def lab(tmp_path, monkeypatch):
    """A package of somebody else's, with one experiment."""
    folder = tmp_path / "lab" / "squares"
    folder.mkdir(parents=True)
    (tmp_path / "lab" / "__init__.py").write_text('"""A package."""')
    for name, text in NEW.items():
        (folder / f"{name}.py").write_text(text)
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))
    yield folder
    for name in [name for name in sys.modules if name.partition(".")[0] == "lab"]:
        del sys.modules[name]


def test_an_experiment_is_one_folder(lab, capsys):
    command = partial(cli.main, "lab")
    assert find("lab") == {"squares": "lab.squares"}
    assert command(["list"]) == 0
    assert capsys.readouterr().out == "squares  Figure 0: one number.\n"
    assert command(["run", "squares", "--number", "3"]) == 0
    assert command(["run", "squares", "--number", "4"]) == 0
    assert command(["run", "squares", "--number", "4", "--strict"]) == 1
    found = results.load("results/squares/cpu+number=4.0")
    assert found.config.number == 4
    assert [claim.holds for claim in found.claims] == [False]
    assert command(["plot", "results/squares/cpu"]) == 0
    assert command(["claims"]) == 0
    assert command(["report"]) == 0
    assert "1 of 2 claims hold." in capsys.readouterr().out
    assert "squares/cpu" in Path("results/index.html").read_text(encoding="utf-8")


@pytest.mark.slow
def test_results_are_the_same_bytes_in_every_locale(lab):
    """They were computed, and lost when their letters were to be written down."""
    text = (lab / "claims.py").read_text(encoding="utf-8")
    (lab / "claims.py").write_text(text.replace("a square", "γ² of it"), encoding="utf-8")
    cli.main("lab", ["run", "squares", "--out", "here"])
    # Python's own ways out of the C locale are closed, as they are in a real locale of few letters.
    posix = {"LC_ALL": "POSIX", "PYTHONCOERCECLOCALE": "0", "PYTHONUTF8": "0"}
    posix |= {"PYTHONPATH": str(ROOT)}
    start = [sys.executable, "-c", "from sslstep.experiment import cli; cli.start('lab')"]
    for command in (["run", "squares", "--out", "posix"], ["plot", "posix"]):
        subprocess.run([*start, *command], env=os.environ | posix, check=True)
    for name in ("config.json", "claims.json"):
        assert Path("posix", name).read_bytes() == Path("here", name).read_bytes()
    (claim,) = json.loads(Path("here/claims.json").read_text(encoding="utf-8"))
    assert not claim["statement"].isascii()


def test_figure_and_claims_may_be_missing(lab, capsys):
    for name in ("figure", "claims"):
        (lab / f"{name}.py").unlink()
    record = load("lab.squares")
    assert record.plot(None, {}) == {}
    assert record.check(None, {}) == []
    for found in (False, True):
        assert cli.main("lab", ["run", "squares", "--skip-done"]) == 0
        assert ("done before" in capsys.readouterr().out) == found


def test_two_experiments_of_one_name_are_refused(lab):
    other = lab.parent / "more" / "squares"
    other.mkdir(parents=True)
    (other / "experiment.py").write_text(NEW["experiment"])
    with pytest.raises(ValueError, match=r"lab\.squares and lab\.more\.squares have one name"):
        find("lab")


def test_the_paper_s_figures_come_first():
    names = list(find("experiments"))
    assert names[:4] == ["fig1ab", "fig2ab", "fig3_4", "fig5"]
    assert {path.parent.name for path in ROOT.glob("experiments/fig*/experiment.py")} < set(names)
    assert find("experiments")["width_sweep"] == "experiments.beyond.width_sweep"


def test_code_is_what_an_experiment_imports(lab):
    digest = partial(_code.digest, "lab.squares.experiment", "lab.squares.claims")

    def now():
        _code._imports.cache_clear()
        _code._meaning.cache_clear()
        return digest()

    before = now()
    own = {name for name in _code.files("lab.squares.claims") if name.startswith("lab")}
    assert own == {"lab", "lab.squares", "lab.squares.claims"}
    assert "sslstep.claims" in _code.files("lab.squares.claims")
    claims = lab / "claims.py"
    text = claims.read_text()
    claims.write_text(f"# A comment.\n{text}".replace("The claims", "Claims"))
    assert now() == before
    (lab / "unrelated.py").write_text("x = 1\n")
    assert now() == before
    claims.write_text(f"from lab.squares import unrelated\n{text}")
    imported = now()
    assert imported != before
    (lab / "unrelated.py").write_text("x = 2\n")
    assert now() not in (before, imported)


def test_threads_may_parse_at_once():
    """Garbage collection switches threads, here while a file is parsed."""
    threshold, file = gc.get_threshold(), Path(_code.__file__).with_name("training.py")

    def switch(*_):
        time.sleep(1e-5)

    gc.callbacks.append(switch)
    gc.set_threshold(50, 10**6, 10**6)
    try:
        with ThreadPoolExecutor(2) as pool:
            trees = list(pool.map(_code._tree, 20 * [file]))
        assert len({ast.dump(tree) for tree in trees}) == 1
    finally:
        gc.callbacks.remove(switch)
        gc.set_threshold(*threshold)


def test_experiments_that_another_one_loads_are_its_code():
    files = _code.files("experiments.beyond.resnet18.experiment")
    for name in ("fig5", "fig3_4", "fig7", "tables", "beyond.predicted_steps"):
        assert {f"experiments.{name}.{part}" for part in _code.PARTS} <= set(files), name
    files = _code.files("experiments.fig1ab.experiment")
    assert "sslstep.experiment._loops" in files  # it chooses the recorded steps
    assert "sslstep.experiment._run" not in files


def test_relative_imports_are_code(lab):
    (lab.parent / "shared.py").write_text("from .squares import parts as same\n")
    (lab / "parts.py").write_text("x = 1\n")
    (lab / "__init__.py").write_text("from . import at_start\n")
    (lab / "at_start.py").write_text("")
    (lab / "claims.py").write_text(f"from .. import shared\n{NEW['claims']}")
    own = {name for name in _code.files("lab.squares.claims") if name.startswith("lab.")}
    assert own == {"lab.shared", *(f"lab.{name}" for name in
                   ("squares", "squares.at_start", "squares.claims", "squares.parts"))}  # fmt: skip


@pytest.fixture
def copied(tmp_path, monkeypatch):
    """The package in a folder of its own, in which code may be changed."""
    shutil.copytree(ROOT / "sslstep", tmp_path / "sslstep")

    def path_of(name):
        place = tmp_path.joinpath(*name.split("."))
        paths = (place / "__init__.py", place.with_name(f"{place.name}.py"))
        return next((path for path in paths if path.is_file()), None)

    monkeypatch.setattr(_code, "_path", path_of)
    return tmp_path / "sslstep"


def test_the_code_of_a_trained_network(copied):
    """Its loss and its step count; no comment, text of an error or module that it does not use."""

    def digest_after(*changes):
        for path, old, new in changes:
            text = (copied / path).read_text(encoding="utf-8")
            assert old in text
            (copied / path).write_text(text.replace(old, new, 1), encoding="utf-8")
        _code._imports.cache_clear()
        _code._meaning.cache_clear()
        return _code.digest("sslstep.experiment.training")

    before = digest_after()
    no_matter = digest_after(
        ("losses/_barlow_twins.py", '"""', '"""Once more: '),
        ("losses/_barlow_twins.py", "import jax", "# A comment.\nimport  jax"),
        ("_check.py", "holds {bad} value(s)", "has {bad} number(s)"),
        ("claims.py", "import math", "import cmath"),
        ("experiment/_kept.py", "import json", "import orjson"),
        ("gram.py", "import jax", "import numpy"),
    )
    assert no_matter == before
    loss = digest_after(("losses/_barlow_twins.py", "jnp.sum(", "2 * jnp.sum("))
    assert loss != before
    assert digest_after(("train/_step.py", "import jax", "import numpy, jax")) != loss


def test_figure_8_does_not_depend_on_training():
    parts = (f"experiments.fig8.{part}" for part in ("experiment", "figure", "claims"))
    names = set(_code.files(*parts))
    assert {"sslstep.dynamics", "sslstep.plotting"} <= names
    assert not any(name.startswith(("sslstep.train", "sslstep.nn")) for name in names)


@pytest.fixture
def asked(monkeypatch):
    """The experiments that would run, with their options; nothing runs."""
    calls = []

    def status(record, args):
        calls.append((record.name, list(args)))
        return int(record.name == "fig9")

    monkeypatch.setattr(_run, "status", status)
    monkeypatch.setattr(cli.claims_table, "main", lambda: 0)
    monkeypatch.setattr(cli.report, "main", lambda: 0)
    return calls


def test_a_run_of_all(asked, capsys):
    """Short ones first; each says how far it is; one that fails does not end it."""
    args = ["--data", "cifar10", "--data-dir", "my data", "--preset", "paper", "--strict"]
    assert cli.main("experiments", ["run", "--all", *args]) == 1
    names = [name for name, _ in asked]
    assert names[0] == "fig8"
    assert set(find("experiments")) - set(names) == {
        "animation",
        "million",
        "mlp_readings",
        "resnet18",
        "speedup",
    }
    shown = capsys.readouterr()
    assert f"fig8: 1 of {len(names)}" in shown.out
    assert f"{names[-1]}: {len(names)} of {len(names)}" in shown.out
    assert shown.err.endswith("does not hold: fig9\n")
    for name, options in asked:
        assert options[-4:] == ["--skip-done", "--preset", "paper", "--strict"]
        given = ["--skip-unfit", "--data", "cifar10", "--data-dir", "my data"]
        on_images = hasattr(load(find("experiments")[name]).presets["cpu"], "data_dir")
        assert options[:-4] == (given if on_images else [])


def test_a_quick_run(asked):
    cli.main("experiments", ["run", "--all", "--quick", "--no-skip-done"])
    options = dict(asked)
    assert {"fig1ab", "fig5", "fig8"} <= set(options)
    assert not {"fig7", "tables"} & set(options)
    assert options["fig5"][:2] == ["--methods", "barlow_twins"]
    assert all(given[-2:] == ["--skip-done", "--no-skip-done"] for given in options.values())


def test_no_circle_of_imports():
    """Neither at run time nor for type checkers; `from a import b` counts for a.b where that is."""
    paths = [path for top in ("sslstep", "experiments") for path in (ROOT / top).rglob("*.py")]
    names = {}
    for path in paths:
        parts = path.relative_to(ROOT).with_suffix("").parts
        names[".".join(parts).removesuffix(".__init__")] = path
    uses = {}
    for name, path in names.items():
        found = set()
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Import):
                found |= {each.name for each in node.names}
            elif isinstance(node, ast.ImportFrom) and node.module:
                for each in node.names:
                    inner = f"{node.module}.{each.name}"
                    found.add(inner if inner in names else node.module)
        uses[name] = {each for each in found if each in names and each != name}
    done = set()
    while free := [name for name in uses if name not in done and uses[name] <= done]:
        done.update(free)
    assert not set(uses) - done
