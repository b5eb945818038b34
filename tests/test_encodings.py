"""Text files are UTF-8 whatever the locale, and a terminal that lacks a letter ends no command."""

import ast
import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
# Python's own ways out of the C locale are closed, as they are in a real locale of few letters.
POSIX = {"LC_ALL": "POSIX", "PYTHONCOERCECLOCALE": "0", "PYTHONUTF8": "0"}


def opens_text_by_locale(call: ast.Call) -> bool:
    """Whether a call reads or writes text in the encoding that the locale happens to have."""
    function = call.func
    name = function.attr if isinstance(function, ast.Attribute) else getattr(function, "id", "")
    owner = getattr(function.value, "id", "") if isinstance(function, ast.Attribute) else ""
    given = {keyword.arg: keyword.value for keyword in call.keywords}
    if "encoding" in given or owner in ("Image", "os"):  # Pillow's open, and the system's
        return False
    if name in ("read_text", "write_text", "FileHandler", "NamedTemporaryFile", "TextIOWrapper"):
        return True
    if name == "open":
        words = [arg.value for arg in call.args if isinstance(arg, ast.Constant)]
        words += [given["mode"].value] if isinstance(given.get("mode"), ast.Constant) else []
        modes = [word for word in words if isinstance(word, str) and set(word) <= set("rwaxbt+")]
        return not any("b" in mode for mode in modes)
    return "text" in given or "universal_newlines" in given  # of subprocess


def test_every_text_file_has_its_encoding_named():
    folders = ("sslstep", "experiments", "benchmarks", "docs")
    found = [
        f"{path.relative_to(ROOT)}:{node.lineno}"
        for folder in folders
        for path in (ROOT / folder).rglob("*.py")
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
        if isinstance(node, ast.Call) and opens_text_by_locale(node)
    ]
    assert not found


@pytest.mark.parametrize(
    "code",
    ["open(p)", "p.open('a')", "p.write_text(s)", "logging.FileHandler(p)", "run(c, text=True)"],
)
def test_the_rule_sees_what_it_forbids(code):
    assert opens_text_by_locale(ast.parse(code, mode="eval").body)
    assert not opens_text_by_locale(ast.parse(code[:-1] + ", encoding='utf-8')", mode="eval").body)


def in_locale(*arguments: str, **variables: str) -> subprocess.CompletedProcess[bytes]:
    command = [sys.executable, *arguments]
    environment = {k: v for k, v in os.environ.items() if k != "PYTHONIOENCODING"} | variables
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, check=False)
    assert done.returncode == 0, done.stderr.decode(errors="replace")
    return done


HELP = """
import runpy, sys

for command in (["experiments", "run", "fig1ab"], ["benchmarks.bench_linear"]):
    sys.stdout.reconfigure(errors="strict")  # as it is before a command
    sys.argv = [*command, "--help"]
    try:
        runpy.run_module(command[0], run_name="__main__", alter_sys=True)
    except SystemExit:
        print("\\0")
"""


@pytest.mark.slow
def test_help_in_a_locale_without_greek():
    said = in_locale("-c", HELP, **POSIX).stdout
    *commands, rest = said.decode("ascii").split("\0\n")
    assert not rest
    assert len(commands) == 2
    for command in commands:
        assert "?" in command
