"""CIFAR-10 and STL-10 as tensorflow-datasets prepared them."""

import json
import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from sslstep import data
from sslstep.data import _prepared

# Real images in TFDS's form, if there are any: in the folder that SSLSTEP_TFDS names.
REAL = Path(os.environ.get("SSLSTEP_TFDS", "SSLSTEP_TFDS is not set")).absolute()


class WithoutTensorFlow:
    """A finder of modules to which TensorFlow is not installed, if it is.

    Not None in sys.modules: to etils, which tensorflow-datasets asks, that is TensorFlow loaded.
    """

    def __init__(self, finder: Any) -> None:
        self.finder = finder

    def __getattr__(self, name: str) -> Any:
        return getattr(self.finder, name)

    def find_spec(self, name: str, path: Any = None, target: Any = None) -> Any:
        hidden = name.partition(".")[0] == "tensorflow"
        return None if hidden else self.finder.find_spec(name, path, target)


@pytest.fixture(autouse=True)
def neither_network_nor_tensorflow(
    no_network: None, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(sys, "meta_path", [WithoutTensorFlow(finder) for finder in sys.meta_path])
    monkeypatch.delitem(sys.modules, "tensorflow", raising=False)
    monkeypatch.setenv("TFDS_DATA_DIR", str(tmp_path / "default"))


def message_of(call: Callable[[], Any]) -> str:
    """The message of the error that tells a user that data are missing."""
    with pytest.raises(data.DatasetNotFoundError) as caught:
        call()
    assert isinstance(caught.value, FileNotFoundError)
    message = str(caught.value)
    assert "\n" not in message
    return message


def test_reads_images_and_labels_in_their_order(write: Any, tmp_path: Path) -> None:
    written = write("cifar10", {"train": [600, 300], "test": [4]})
    for split in ("train", "test"):
        dataset = data.cifar10(split, tmp_path)
        np.testing.assert_array_equal(dataset.images, written.images[split])
        np.testing.assert_array_equal(dataset.labels, written.labels[split])
        assert dataset.images.dtype == np.uint8
        assert dataset.labels.dtype == np.int32
        assert len(dataset.label_names) == 10


def test_reads_large_images_in_threads(
    write: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(_prepared, "_CHUNK", 2)
    monkeypatch.setattr(os, "cpu_count", lambda: 4)
    written = write("stl10", {"unlabelled": [9, 1, 12]}, labelled=False)
    dataset = data.stl10(data_dir=tmp_path)
    np.testing.assert_array_equal(dataset.images, written.images["unlabelled"])
    assert (dataset.labels == -1).all()


def test_default_splits(write: Any, tmp_path: Path) -> None:
    stl10 = write("stl10", {"unlabelled": [2], "train": [3]})
    cifar10 = write("cifar10")
    unlabelled = stl10.images["unlabelled"]
    np.testing.assert_array_equal(data.stl10(data_dir=tmp_path).images, unlabelled)
    np.testing.assert_array_equal(data.cifar10(data_dir=tmp_path).images, cifar10.images["train"])


@pytest.mark.parametrize(
    ("split", "part"),
    [
        ("train[:3]", np.s_[:3]),
        ("train[2:5]", np.s_[2:5]),
        ("train[-2:]", np.s_[-2:]),
        ("train[50%:]", np.s_[5:]),
        ("train[:8]", np.s_[:8]),
    ],
)
def test_reads_a_part_of_a_split(write: Any, tmp_path: Path, split: str, part: slice) -> None:
    written = write("cifar10", {"train": [4, 6], "test": [1]})
    dataset = data.cifar10(split, tmp_path)
    np.testing.assert_array_equal(dataset.images, written.images["train"][part])
    np.testing.assert_array_equal(dataset.labels, written.labels["train"][part])


@pytest.mark.parametrize(
    ("split", "reason"),
    [
        ("train[:90]", "incompatible with 5 examples"),
        ("train[2:2]", r"split 'train\[2:2\]' of cifar10 selects no images"),
        ("train[two]", r"train\[two\]"),
        ("train[", "train"),
    ],
)
def test_no_such_part(write: Any, tmp_path: Path, split: str, reason: str) -> None:
    write()
    with pytest.raises(ValueError, match=reason):
        data.cifar10(split, tmp_path)


def test_newest_version_is_read(write: Any, tmp_path: Path) -> None:
    write(version="3.0.2", seed=1)
    newest = write(version="3.0.10", seed=2)
    write(version="3.0.9", seed=3)
    (tmp_path / "cifar10" / "4.0.0").mkdir()  # nothing in it
    (tmp_path / "cifar10" / "9.0.0.incomplete").mkdir()
    (tmp_path / "cifar10" / "9.0.0.incomplete" / "dataset_info.json").write_text("{}")
    np.testing.assert_array_equal(data.cifar10("test", tmp_path).images, newest.images["test"])


def test_data_dir_as_tfds_means_it(
    write: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    home, variable = tmp_path / "home", tmp_path / "variable"
    written = {
        root: write(root=root, seed=seed).images["test"]
        for seed, root in enumerate((variable, home / "tensorflow_datasets", home / "here"))
    }
    monkeypatch.setenv("HOME", str(home))
    monkeypatch.setenv("TFDS_DATA_DIR", str(variable))
    np.testing.assert_array_equal(data.cifar10("test").images, written[variable])
    monkeypatch.delenv("TFDS_DATA_DIR")
    default = written[home / "tensorflow_datasets"]
    np.testing.assert_array_equal(data.cifar10("test").images, default)
    monkeypatch.chdir(home)
    for given in ("here", "~/here", home / "here", str(home / "here")):
        images = data.cifar10("test", given).images
        np.testing.assert_array_equal(images, written[home / "here"])


def test_another_format_beside_ours(write: Any, tmp_path: Path) -> None:
    written = write(formats=("tfrecord", "array_record"))
    np.testing.assert_array_equal(data.cifar10("test", tmp_path).images, written.images["test"])


def test_says_nothing(
    write: Any,
    tmp_path: Path,
    capfd: pytest.CaptureFixture[str],
    caplog: pytest.LogCaptureFixture,
) -> None:
    write()
    data.cifar10("train", tmp_path)
    assert capfd.readouterr() == ("", "")
    assert not caplog.records


def test_load_finds_them(write: Any, tmp_path: Path) -> None:
    cifar10, stl10 = write("cifar10"), write("stl10")
    for size in (None, 32):
        loaded = data.load("cifar10", "test", size=size, data_dir=str(tmp_path))
        np.testing.assert_array_equal(loaded.images, cifar10.images["test"])
    loaded = data.load("stl10", size=96, data_dir=tmp_path)
    np.testing.assert_array_equal(loaded.images, stl10.images["train"])


def test_blocks_of_the_documentation(write: Any, tmp_path: Path, plain_blocks: Any) -> None:
    write("cifar10", {"train": [2], "test": [1]})
    write("stl10", {"unlabelled": [3], "train": [2]})
    code, listing = plain_blocks("data.md")
    names: dict[str, Any] = {"data": data}
    exec(code.replace("/somewhere", str(tmp_path)).replace("10000", "2"), names)
    assert names["train"].images.shape == (2, 32, 32, 3)
    assert names["some"].images.shape == (2, 96, 96, 3)
    described = [line.split()[0] for line in listing.splitlines()[1:]]
    written = {path.name for path in (tmp_path / "cifar10" / "3.0.2").iterdir()}
    assert written <= set(described)


def test_load_knows_what_there_is() -> None:
    with pytest.raises(
        ValueError, match="must be one of 'photos', 'cifar10', 'stl10', got 'mnist'"
    ):
        data.load("mnist")
    with pytest.raises(ValueError, match=r"got '/my/cats'; image_folder reads a folder"):
        data.load("/my/cats")
    with pytest.raises(
        ValueError, match="split of cifar10 must be one of 'train', 'test', got 'unl"
    ):
        data.load("cifar10", "unlabelled")
    with pytest.raises(ValueError, match="one of 'train', 'test', 'unlabelled', got 'valid"):
        data.load("stl10", "valid[:10]")
    with pytest.raises(ValueError, match="size of cifar10 is 32, got 96"):
        data.load("cifar10", size=96)
    with pytest.raises(ValueError, match="size of stl10 is 96, got 32"):
        data.load("stl10", size=32)


def test_nothing_there(tmp_path: Path) -> None:
    message = message_of(lambda: data.stl10("train", tmp_path))
    assert message.startswith("stl10: looked for split 'train' in array_record format in")
    assert f"{tmp_path}/stl10, but there is no such folder" in message
    assert message.endswith(f"make data NAME=stl10 DATA_DIR={tmp_path}")


def test_nothing_there_by_default(tmp_path: Path) -> None:
    message = message_of(lambda: data.load("cifar10"))
    assert f"{tmp_path}/default/cifar10, but there is no such folder" in message
    assert "the folder with cifar10/<version> as data_dir, as --data-dir, or in the env" in message
    assert message.endswith("make data NAME=cifar10")


def test_a_folder_that_is_too_deep(write: Any, tmp_path: Path) -> None:
    written = write()
    for folder in (written.folder, written.folder.parent):
        message = message_of(lambda folder=folder: data.cifar10("train", folder))
        assert message.endswith(f"holds cifar10/<version>, which is {tmp_path}, not {folder}.")


def test_command_can_be_pasted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    message = message_of(lambda: data.cifar10("train", "my data"))
    assert message.endswith(f"make data NAME=cifar10 DATA_DIR='{tmp_path}/my data'")


def test_no_version_there(tmp_path: Path) -> None:
    (tmp_path / "cifar10" / "3.0.2").mkdir(parents=True)
    message = message_of(lambda: data.cifar10("train", tmp_path))
    assert f"{tmp_path}/cifar10, but it has no <version>/dataset_info.json" in message
    assert message.endswith(f"make data NAME=cifar10 DATA_DIR={tmp_path}")


def test_only_a_format_that_needs_tensorflow(write: Any, tmp_path: Path) -> None:
    written = write(formats=("tfrecord",))
    message = message_of(lambda: data.cifar10("train", tmp_path))
    assert f"{written.folder} holds only the format tfrecord" in message
    assert "without TensorFlow" in message
    assert message.endswith(f"make data NAME=cifar10 DATA_DIR={tmp_path}")


def test_split_not_there(write: Any, tmp_path: Path) -> None:
    written = write("stl10", {"unlabelled": [2], "test": [1]})
    for split in ("train", "train[:1]"):
        message = message_of(lambda split=split: data.stl10(split, tmp_path))
        assert f"looked for split '{split}'" in message
        assert f"{written.folder} holds only the splits test, unlabelled" in message
        assert message.endswith(f"DATA_DIR={tmp_path} ARGS=--overwrite")


def test_file_missing(write: Any, tmp_path: Path) -> None:
    written = write()
    lost = written.folder / "cifar10-train.array_record-00001-of-00002"
    lost.unlink()
    message = message_of(lambda: data.cifar10("train", tmp_path))
    assert f"{lost.name} is missing from {written.folder}" in message
    assert message.endswith("ARGS=--overwrite")
    assert len(data.cifar10("train[:3]", tmp_path).images) == 3  # all in the other file


def damage_truncated(path: Path, length: int) -> None:
    path.write_bytes(path.read_bytes()[:length])


def damage_flipped(path: Path, start: int) -> None:
    content = bytearray(path.read_bytes())
    for i in range(start, start + 50):
        content[i] ^= 0xFF
    path.write_bytes(content)


@pytest.mark.parametrize(
    ("damage", "where"),
    [
        *((damage_truncated, length) for length in (0, 1000, 2**16, 70000, 2**17 - 1)),
        *((damage_flipped, start) for start in (3000, 2**16)),
    ],
)
def test_file_damaged(write: Any, tmp_path: Path, damage: Callable, where: int) -> None:
    written = write()
    path = written.folder / "cifar10-train.array_record-00001-of-00002"
    damage(path, where)
    message = message_of(lambda: data.cifar10("train", tmp_path))
    assert f"{path.name} in {path.parent} is damaged (" in message
    assert message.endswith(f"DATA_DIR={tmp_path} ARGS=--overwrite")


def test_records_that_are_not_such_images(write: Any, tmp_path: Path) -> None:
    written = write(splits={"train": [2], "test": [1]})
    path = written.folder / "cifar10-train.array_record-00000-of-00001"
    good = write.record(write.png(written.images["train"][0]), 1)
    grey = write.png(np.zeros((32, 32), np.uint8))
    large = write.png(np.zeros((33, 32, 3), np.uint8))
    for bad, reason in (
        (b"", "no image"),
        (b"\xff\xff", ""),
        (write.record(b"not an image", 0), "cannot identify"),
        (write.record(grey, 0), r"an image is L of size (32, 32)"),
        (write.record(large, 0), r"an image is RGB of size (32, 33)"),
    ):
        write.write_records(path, [good, bad])
        message = message_of(lambda: data.cifar10("train", tmp_path))
        assert f"{path.name} in {path.parent} is damaged (" in message
        assert reason in message
    write.write_records(path, [good])  # fewer than described
    assert "is damaged" in message_of(lambda: data.cifar10("train", tmp_path))


@pytest.mark.parametrize("file", ["dataset_info.json", "features.json"])
@pytest.mark.parametrize("content", ["", "{", "[]", '{"nonsense": 1}', "\xff"])
def test_description_damaged(write: Any, tmp_path: Path, file: str, content: str) -> None:
    written = write()
    (written.folder / file).write_text(content)
    message = message_of(lambda: data.cifar10("train", tmp_path))
    assert f"dataset_info.json in {written.folder} cannot be read" in message
    assert message.endswith("ARGS=--overwrite")


def test_description_missing(write: Any, tmp_path: Path) -> None:
    (write().folder / "features.json").unlink()
    assert "cannot be read" in message_of(lambda: data.cifar10("train", tmp_path))


@pytest.mark.skipif(not REAL.is_dir(), reason=f"no folder {REAL}")
@pytest.mark.parametrize("name", ["cifar10", "stl10"])
def test_real_images(name: str) -> None:
    versions = sorted((REAL / name).glob("*/dataset_info.json"))
    if not versions:
        pytest.skip(f"no {name} in {REAL}")
    described = json.loads(versions[-1].read_text())
    for split in described["splits"]:
        n = min(1000, sum(map(int, split["shardLengths"])))
        dataset = data.load(name, f"{split['name']}[:{n}]", data_dir=REAL)
        assert len(dataset.images) == len(dataset.labels) == n
        assert 0.2 < dataset.images.mean() / 255 < 0.8
        # Neighbouring pixels of photographs resemble each other, in either direction.
        pixels = dataset.images.astype(float)
        for other in (pixels[:, 1:, 1:], pixels[:, :-1, 1:], pixels[:, 1:, :-1]):
            pair = np.corrcoef(other.ravel(), pixels[:, :-1, :-1].ravel())
            assert pair[0, 1] > 0.8
        if split["name"] == "unlabelled":
            assert set(dataset.labels) == {-1}
        else:
            assert set(dataset.labels) == set(range(10))
