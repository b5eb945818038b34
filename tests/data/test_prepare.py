"""The script that prepares data, as far as it goes without network and TensorFlow."""

import json
import re
import shutil
import subprocess
import sys
import urllib.error
import urllib.request
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from sslstep.data import prepare

SCRIPT = Path(prepare.__file__)
URL = "https://example.org/an_archive.tar.gz"


def run(*arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-P", "-W", "error", str(SCRIPT), *arguments]
    return subprocess.run(command, capture_output=True, text=True, check=False, cwd="/")


def urls(size: int = 10) -> dict[str, Any]:
    return {URL: SimpleNamespace(size=size, filename="an_archive.tar.gz")}


def test_help_needs_nothing_installed() -> None:
    command = [sys.executable, "-I", "-S", str(SCRIPT), "--help"]  # -S: no site-packages
    result = subprocess.run(command, capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stderr
    for word in ("cifar10", "stl10", "--data-dir", "--overwrite", "TFDS_DATA_DIR", "manual"):
        assert word in result.stdout
    assert max(map(len, result.stdout.splitlines())) <= 100


def test_unknown_name() -> None:
    result = run("imagenet")
    assert result.returncode == 2
    assert "invalid choice: 'imagenet' (choose from" in result.stderr


def test_packages_missing(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(prepare, "NEEDED", ("json", "no_such_module", "no_other_module"))
    assert prepare.main(["cifar10"]) == 1
    out, error = capsys.readouterr()
    assert out == ""
    assert error.count("\n") == 1
    assert "error: no_such_module, no_other_module not installed" in error
    assert "requirements-prepare.txt" in error


def test_requirements_are_what_is_needed() -> None:
    lines = SCRIPT.with_name("requirements-prepare.txt").read_text().splitlines()
    names = {re.split(r"\W", line.replace("-", "_"))[0] for line in lines if line[0] != "#"}
    assert names == set(prepare.NEEDED)


def test_interrupted(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    def interrupt(*args: object, **kwargs: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(prepare, "prepare", interrupt)
    assert prepare.main(["stl10"]) == 130
    assert "run the same command again" in capsys.readouterr().err


def test_data_dir_is_made_absolute(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", "/home/someone")
    parsed = prepare.parser().parse_args
    assert parsed(["stl10", "--data-dir", "here"]).data_dir == tmp_path / "here"
    assert parsed(["stl10", "--data-dir", "~/x"]).data_dir == Path("/home/someone/x")
    assert parsed(["stl10"]).data_dir is None


def test_no_space(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shutil, "disk_usage", lambda path: SimpleNamespace(free=2.9e9))
    folder = tmp_path / "cifar10" / "3.0.2"
    prepare.require_space(urls(size=int(0.9e9)), folder)
    wanted = re.escape(f"not enough disk space in {tmp_path}: 3.0 GB needed, 2.9 GB free")
    with pytest.raises(prepare.PreparationError, match=wanted):
        prepare.require_space(urls(size=int(1e9)), folder)


def test_no_network(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(request: urllib.request.Request, timeout: float) -> None:
        assert request.get_method() == "HEAD"
        assert request.full_url == URL
        raise urllib.error.URLError("no route to host")

    monkeypatch.setattr(urllib.request, "urlopen", refuse)
    place = tmp_path / "manual" / "an_archive.tar.gz"
    with pytest.raises(prepare.PreparationError, match="no route to host") as caught:
        prepare.require_network(urls(), tmp_path)
    assert str(caught.value).startswith(f"cannot reach {URL} (")
    assert str(caught.value).endswith(str(place))
    # Nothing is asked of the network when the archive is there.
    place.parent.mkdir()
    place.touch()
    prepare.require_network(urls(), tmp_path)
    place.unlink()
    (tmp_path / "set").mkdir()
    (tmp_path / "set" / "other.INFO").write_text(json.dumps({"urls": ["https://example.org"]}))
    with pytest.raises(prepare.PreparationError):
        prepare.require_network(urls(), tmp_path)
    (tmp_path / "set" / "archive.INFO").write_text(json.dumps({"urls": [URL]}))
    prepare.require_network(urls(), tmp_path)


def test_what_failed_is_put_back(tmp_path: Path) -> None:
    folder = tmp_path / "3.0.2"
    folder.mkdir()
    (folder / "old").touch()
    for error in (OSError, KeyboardInterrupt):
        with pytest.raises(error), prepare.set_aside(folder):
            raise error
        assert [path.name for path in tmp_path.rglob("*")] == ["3.0.2", "old"]


def test_what_succeeded_replaces(tmp_path: Path) -> None:
    folder = tmp_path / "3.0.2"
    for content in ("first", "second"):
        with prepare.set_aside(folder):
            folder.mkdir()
            (folder / content).touch()
        assert [path.name for path in tmp_path.rglob("*")] == ["3.0.2", content]


def test_formats(write: Any) -> None:
    assert prepare.formats(write(version="1.0.0").folder) == ["array_record"]
    both = write(version="1.0.1", formats=("tfrecord", "array_record")).folder
    assert prepare.formats(both) == ["tfrecord", "array_record"]
    (both / "dataset_info.json").write_text("{")
    with pytest.raises(prepare.PreparationError, match=r"no readable .* --overwrite"):
        prepare.formats(both)


def test_contents(write: Any) -> None:
    import tensorflow_datasets as tfds

    written = write(formats=("tfrecord", "array_record"))
    builder = tfds.builder_from_directory(written.folder)
    assert prepare.contents(builder) == "train 5, test 4"
    lost = written.folder / "cifar10-test.array_record-00000-of-00001"
    lost.unlink()
    with pytest.raises(prepare.PreparationError, match=f"{lost} is missing: .*--overwrite"):
        prepare.contents(builder)
