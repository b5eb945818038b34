"""The project itself: what importing costs, what is public, what `make` offers."""

import argparse
import configparser
import functools
import importlib
import inspect
import os
import pkgutil
import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import tyro

import sslstep
from sslstep.experiment import _run, cli, dry, find, load

ROOT = Path(__file__).parents[1]

HEAVY = {
    "diffrax",
    "flax",
    "matplotlib",
    "neural_tangents",
    "optax",
    "skimage",
    "sklearn",
    "tensorflow",
    "tensorflow_datasets",
}

PUBLIC_MODULES = [
    module.name
    for module in pkgutil.walk_packages(sslstep.__path__, "sslstep.")
    if "._" not in module.name
]


def run_python(code: str) -> str:
    """What a fresh interpreter prints, without this one's import hook."""
    command = [sys.executable, "-W", "error", "-c", code]
    result = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stderr
    return result.stdout.strip()


def test_importing_the_package_loads_none_of_its_modules() -> None:
    loaded = run_python("import sys, sslstep; print(*sys.modules)")
    assert not {"jax", "numpy", *PUBLIC_MODULES} & set(loaded.split())


def test_importing_theory_changes_no_state_loads_no_more_than_jax_and_finds_submodules() -> None:
    state = """
import random, sys, warnings, jax, numpy as np
def state():
    return str((jax.config.values, np.random.get_state(), random.getstate(), warnings.filters))
before = state()
import sslstep.linear
print(state() == before, jax.config.jax_enable_x64)
print(*{m.split('.')[0] for m in sys.modules})
import sslstep as s
print('claims' in dir(s), s.claims.__name__, s.ntk.infinite)
"""
    unchanged, loaded, attributes = run_python(state).splitlines()
    assert unchanged == "True False"
    assert not HEAVY & set(loaded.split())
    assert attributes.startswith("True sslstep.claims <module 'sslstep.ntk.infinite'")


def test_what_is_no_submodule_is_no_attribute() -> None:
    for package in (sslstep, sslstep.measure, sslstep.ntk):
        with pytest.raises(AttributeError, match="no attribute 'nonsense'"):
            _ = package.nonsense


def test_version_is_that_of_the_metadata() -> None:
    assert sslstep.__version__ == read_setup_cfg()["metadata"]["version"]


@pytest.mark.parametrize("path", PUBLIC_MODULES)
def test_public_names_are_documented_and_annotated(path: str) -> None:
    module = importlib.import_module(path)
    assert module.__doc__
    for name in getattr(module, "__all__", []):
        value = getattr(module, name)
        if not callable(value):
            continue
        # Tuples and dataclasses without a docstring get their signature for one.
        assert value.__doc__, f"{path}.{name} has no docstring"
        assert not value.__doc__.startswith(f"{name}("), f"{path}.{name} has no docstring"
        if inspect.isfunction(inspect.unwrap(value)):
            signature = inspect.signature(value)
            hints = [p.annotation for p in signature.parameters.values()]
            hints.append(signature.return_annotation)
            assert inspect.Signature.empty not in hints, f"{path}.{name} lacks type hints"


def read_setup_cfg() -> configparser.ConfigParser:
    parser = configparser.ConfigParser()
    parser.read(ROOT / "setup.cfg")
    return parser


def test_every_requirement_has_a_floor() -> None:
    lines = read_setup_cfg()["options"]["install_requires"].split("\n")
    requirements = [line for line in lines if line and not line.startswith("#")]
    assert requirements
    for requirement in requirements:
        assert re.fullmatch(r"[\w-]+>=\d+(\.\d+)*", requirement), requirement


def test_the_lock_has_every_requirement() -> None:
    """At a version that setup.cfg admits; `make lock` renews it."""
    locked = (ROOT / "requirements.lock").read_text()
    config = read_setup_cfg()
    lines = [config["options"]["install_requires"], *config["options.extras_require"].values()]
    for name, floor in re.findall(r"^([\w-]+)>=([\d.]+)", "\n".join(lines), re.MULTILINE):
        found = re.findall(rf"^{name.lower().replace('_', '-')}==([\d.]+)", locked, re.MULTILINE)
        assert found, name
        parts = [[int(part) for part in version.split(".")] for version in (floor, *found)]
        assert min(parts[1:]) >= parts[0], name


def test_versions_of_a_report() -> None:
    command = [sys.executable, "-m", "sslstep", "--versions"]
    said = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True).stdout
    found = dict(line.split(maxsplit=1) for line in said.splitlines())
    assert found["sslstep"] == sslstep.__version__
    assert {"python", "machine", "jax", "flax", "neural-tangents"} <= set(found)
    assert not {"mypy", "pytest", "ruff", "sphinx"} & set(found)


MISSING = (
    ("sklearn", "from sslstep import data; data.photos()", "images"),
    ("PIL", "from sslstep import data; data.image_folder('.', 32)", "images"),
    ("tensorflow_datasets", "from sslstep import data; data.cifar10(data_dir=tfds)", "tfds"),
    ("array_record", "from sslstep import data; data.cifar10(data_dir=tfds)", "tfds"),
    ("matplotlib", "import sslstep.plotting", "plot"),
    ("tyro", "import sslstep.experiment", "experiments"),
    ("tensorboardX", "from sslstep import train; train.write_tensorboard('.')", "tensorboard"),
    ("neural_tangents", "from sslstep.ntk import infinite; infinite.cnn(2)(x)", "infinite"),
)


@pytest.mark.slow
def test_a_package_that_is_missing_is_named_with_its_extra(tmp_path: Path) -> None:
    """In an interpreter that does not find it; theory and fully connected kernels need none."""
    (tmp_path / "cifar10" / "3.0.2").mkdir(parents=True)
    (tmp_path / "cifar10" / "3.0.2" / "dataset_info.json").write_text("{}")
    (tmp_path / "cifar10" / "3.0.2" / "cifar10-train.array_record-00000-of-00001").touch()
    said = run_python(f"""
import sys
import jax.numpy as jnp

x, tfds = jnp.ones((2, 4, 4, 3)), {str(tmp_path)!r}
packages = [package for package, _, _ in {MISSING}]
sys.modules |= dict.fromkeys(packages)
import sslstep.linear, sslstep.train
from sslstep.ntk import infinite
infinite.mlp(2)(x.reshape(2, -1))
for package in packages:
    del sys.modules[package]
for package, call, _ in {MISSING}:
    for name in [name for name in sys.modules if name.split(".")[0] == package]:
        del sys.modules[name]
    sys.modules[package] = None
    try:
        exec(call)
        print("found")
    except ModuleNotFoundError as error:
        print(str(error).replace("\\n", " "))
    del sys.modules[package]
""").splitlines()
    for (package, _, extra), line in zip(MISSING, said, strict=True):
        assert f"needs {package}, which is not installed" in line
        assert f"pip install 'sslstep[{extra}]'" in line


def run_make(*arguments: str, **variables: str) -> subprocess.CompletedProcess[str]:
    """Runs make as from a shell that has variables, though this test may itself be run by make."""
    environment = {k: v for k, v in os.environ.items() if k not in MAKE_VARIABLES} | variables
    command = [shutil.which("make") or "make", *arguments]
    return subprocess.run(
        command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False
    )


MAKE_VARIABLES = {"ARGS", "MAKEFLAGS", "MAKELEVEL", "MFLAGS", "PRESET", "PYTHON", "VENV"}


def make_targets() -> list[str]:
    text = (ROOT / "Makefile").read_text(encoding="utf-8")
    named = " ".join(re.findall(r"^\.PHONY: (.+)$", text, re.MULTILINE)).split()
    return [*(name for name in named if name.isidentifier() or "-" in name), *find("experiments")]


def test_make_alone_lists_every_target() -> None:
    listed = re.findall(r"^  make ([\w-]+)", run_make().stdout, re.MULTILINE)
    assert {"figures", "test", "check", "docs", "bench", "clean", "data", "claims"} <= set(listed)
    inner = {"data-name", "python-version", "fig3", "fig4"}
    assert set(listed) == set(make_targets()) - inner
    assert "$(" not in run_make().stdout  # awk prints what make would replace


@pytest.mark.parametrize("target", [t for t in make_targets() if "-" not in t])
def test_make_knows_how(target: str) -> None:
    result = run_make("--dry-run", target, "NAME=cifar10")
    assert result.returncode == 0, result.stderr


def test_experiments_get_their_options() -> None:
    options = ("PRESET=paper", "DATA=/my pics", "DATA_DIR=my data", "ARGS=--strict")
    given = '--preset paper --data "/my pics" --data-dir "my data" --strict'
    for target, said in (
        ("figures", "--all"),
        ("quick", "--all --quick"),
        ("fig1ab", "fig1ab"),
        ("fig1cd", "fig5 --methods barlow_twins"),
        ("fig4", "fig3_4"),
        ("two_towers", "two_towers"),
    ):
        assert (
            run_make("--dry-run", target, *options)
            .stdout.splitlines()[-1]
            .endswith(f"-m experiments run {said} {given}")
        )


def test_data_of_speedup_may_be_several_names() -> None:
    said = run_make("--dry-run", "speedup", "DATA=photos cifar10", "DATA_DIR=my data").stdout
    assert '--data photos cifar10 --data-dir "my data"' in said


def test_make_names_a_python_that_will_not_do(tmp_path: Path) -> None:
    old = tmp_path / "python3.9"
    old.write_text("#!/bin/sh\necho 3.9\n")
    old.chmod(0o755)
    result = run_make(f"PYTHON={old}", f"VENV={tmp_path}/venv", "figures")
    assert result.returncode != 0
    said = next(line for line in result.stderr.splitlines() if "sslstep needs" in line)
    assert f"{old} is 3.9" in said
    assert "make PYTHON=python3.12 figures" in said
    assert not (tmp_path / "venv").exists()


def test_make_asks_which_data() -> None:
    result = run_make("data")
    assert result.returncode != 0
    assert "make data NAME=cifar10" in result.stderr


@pytest.mark.slow
def test_the_examples_of_the_readme_run() -> None:
    """One after the other, as they would be pasted into a new interpreter."""
    blocks = re.findall(r"```python\n(.*?)```", (ROOT / "README.md").read_text(), re.DOTALL)
    assert len(blocks) == 4
    names: dict[str, Any] = {}
    for block in blocks:
        exec(block, names)
    assert names["run"].eigenvalues.shape == (1001, 5)
    assert names["z_test"].shape == (7, 5)
    assert names["kernel"].shape == (400, 400)


def test_plain_blocks_of_the_documentation_have_tests(plain_blocks: Any) -> None:
    pages = (path.relative_to(ROOT / "docs").as_posix() for path in PAGES[1:])
    found = {page: len(blocks) for page in pages if (blocks := plain_blocks(page))}
    # In test_prepared.py, test_products.py, test_experiments.py, test_watched.py, test_devices.py.
    blocks = {
        "data.md": 2,
        "howto/memory.md": 1,
        "howto/seeds.md": 2,
        "howto/watch.md": 1,
        "tutorials/accelerators.md": 1,
    }
    assert found == blocks


PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]
VARIABLES = {"ARGS", "DATA", "DATA_DIR", "LOCK", "NAME", "PRESET", "PYTHON", "VENV"}
PROGRAM = re.compile(
    r"python -m ((?:experiments|benchmarks)\b|sslstep\.(?:train\.tensorboard|diagnose))(.*)"
)


def documented() -> tuple[list[str], list[str]]:
    """Of all pages: commands, in blocks and within sentences, and options that stand alone."""
    lines: set[str] = set()
    for page in PAGES:
        text = page.read_text()
        fences = re.findall(r"^```(.*?)\n(.*?)^```", text, re.MULTILINE | re.DOTALL)
        shell = [block.replace("\\\n", "") for kind, block in fences if kind == "sh"]
        lines.update(line for block in shell for line in block.splitlines())
        rest = re.sub(r"^```.*?^```", "", text, flags=re.MULTILINE | re.DOTALL)
        lines.update(" ".join(code.split()) for code in re.findall(r"`([^`]+)`", rest))
    plain = {line.split(" #")[0].strip() for line in lines}
    commands = {line for line in plain if line.startswith("make ") or PROGRAM.search(line)}
    return sorted(commands), sorted(line for line in plain if line.startswith("--"))


COMMANDS, OPTIONS = documented()


class ParsedError(Exception):
    """Raised in place of what would be done after the command line is read."""


def read_command_line(program: str, words: list[str]) -> None:
    """Let a program read its command line and no more: it ends with SystemExit if it is wrong."""
    examples = {"NAME": "fig1ab", "FOLDER": "here", "...": "here", "$seed;": "0"}
    words = [examples.get(word, word) for word in words if word != "done"]
    package, _, name = program.partition(".")
    if package == "experiments":
        assert not name
        first, *rest = words
        if first in ("list", "report"):
            assert rest == []
        elif first == "run":
            name = "fig5" if rest[0] == "--all" else rest[0]
            options = [word for word in rest if word not in (name, "--all", "--quick")]
            _run._parse(load(find("experiments")[name]), options)
        elif first == "dry":
            tyro.cli(dry.Options, args=rest)
        else:
            assert cli.main("experiments", words) == 0
    else:
        module = importlib.import_module(program if name else f"{package}.__main__")
        sys.argv = ["program", *words]
        module.main()


@pytest.fixture
def only_parsed(monkeypatch: pytest.MonkeyPatch) -> None:
    """`argparse` reads command lines, and nothing is done with them."""
    parse = argparse.ArgumentParser.parse_args

    def parse_args(self: argparse.ArgumentParser, *args: object) -> None:
        parse(self, *args)  # type: ignore[call-overload]
        raise ParsedError

    monkeypatch.setattr(argparse.ArgumentParser, "parse_args", parse_args)
    monkeypatch.setattr(sys, "argv", sys.argv)


@functools.cache
def accepted(line: str) -> bool:
    """Whether a line `... python -m PROGRAM ...` is one that the program understands."""
    found = PROGRAM.search(line)
    assert found, line
    program, _, rest = (found[1] + found[2]).partition(" ")
    try:
        read_command_line(program, shlex.split(rest))
    except ParsedError:
        return True
    except SystemExit as exit:
        return not exit.code  # --help
    except ImportError:
        return False
    return True


def test_there_are_documented_commands() -> None:
    assert len(COMMANDS) > 40
    assert {"make figures", "make test", "python -m experiments list"} < set(COMMANDS)
    assert len(OPTIONS) > 20


@pytest.mark.usefixtures("only_parsed")
@pytest.mark.parametrize("command", COMMANDS)
def test_documented_commands_are_understood(command: str) -> None:
    """Every command of README and documentation: its target or module, and its options."""
    if not command.startswith("make "):
        assert accepted(command), command
        return
    words = shlex.split(command)[1:]
    given = dict(word.split("=", 1) for word in words if "=" in word)
    assert set(given) <= VARIABLES
    assert {word for word in words if "=" not in word} <= set(make_targets())
    # The environment need not be there, nor the Python that the reader is told to give.
    words = [word for word in words if not word.startswith("PYTHON=")]
    shown = run_make("--dry-run", *words)
    assert shown.returncode == 0, shown.stderr
    lines = [line for line in shown.stdout.splitlines() if PROGRAM.search(line)]
    assert not [line for line in lines if not accepted(line)]


@pytest.mark.usefixtures("only_parsed")
@pytest.mark.parametrize("command", ["make fig1ab ARGS=--sed", "make nothing", "make quick X=1"])
def test_commands_that_are_wrong_are_noticed(command: str) -> None:
    with pytest.raises(AssertionError):
        test_documented_commands_are_understood(command)


@pytest.mark.usefixtures("only_parsed")
def test_documented_options_exist(capsys: pytest.CaptureFixture[str]) -> None:
    """Those that stand alone in a sentence belong to some experiment or benchmark."""
    for name in find("experiments"):
        experiment = load(find("experiments")[name])
        for preset in experiment.presets:
            with pytest.raises(SystemExit):
                _run._parse(experiment, ["--preset", preset, "--help"])
    for path in sorted((ROOT / "benchmarks").glob("bench_*.py")):
        assert accepted.__wrapped__(f"python -m benchmarks.{path.stem} --help")
    known = set(re.findall(r"--[a-z][\w.-]*", capsys.readouterr().out))
    for line in OPTIONS:
        named = {word for word in line.split() if word.startswith("--")}
        assert named <= known, line
