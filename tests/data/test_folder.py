"""Images from a folder of files."""

import numpy as np
import pytest
from PIL import Image

from sslstep import data
from sslstep.data import _folder


def write(path, pixels):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.asarray(pixels, np.uint8)).save(path)


def test_classes_are_folders_in_order(tmp_path):
    pixels = np.random.default_rng(0).integers(0, 256, (4, 8, 8, 3))
    places = ("dogs/a.png", "cats/deep/b.PNG", "cats/a.png", "loose.png")
    for place, image in zip(places, pixels, strict=True):
        write(tmp_path / place, image)
    (tmp_path / "cats" / "notes.txt").write_text("no image")
    images, labels, names = data.image_folder(tmp_path, 8)
    np.testing.assert_array_equal(images, pixels[[3, 2, 1, 0]])
    assert labels.tolist() == [-1, 0, 0, 1]
    assert names == ("cats", "dogs")
    assert images.dtype == np.uint8


def test_the_middle_is_kept_and_averaged(tmp_path):
    wide = np.zeros((4, 12, 3))
    wide[:, 4:8] = 200  # the middle square
    write(tmp_path / "wide.png", wide)
    grey = np.full((6, 6), 77)
    write(tmp_path / "grey.png", grey)
    images, _, names = data.image_folder(str(tmp_path), 2)
    assert (images[0] == 77).all()
    assert np.abs(images[1].astype(int) - 200).max() <= 1
    assert names == ()


def test_what_is_missing_or_broken_is_named(tmp_path):
    with pytest.raises(data.DatasetNotFoundError, match="there is no folder"):
        data.image_folder(tmp_path / "nowhere", 8)
    with pytest.raises(data.DatasetNotFoundError, match="there are no images in"):
        data.image_folder(tmp_path, 8)
    write(tmp_path / "whole.png", np.zeros((8, 8, 3)))
    with pytest.raises(ValueError, match="size must be >= 1"):
        data.image_folder(tmp_path, 0)
    content = (tmp_path / "whole.png").read_bytes()
    (tmp_path / "cut.png").write_bytes(content[: len(content) // 2])
    with pytest.raises(data.DatasetNotFoundError, match=r"cut\.png is no image that can be read"):
        data.image_folder(tmp_path, 8)
    (tmp_path / "cut.png").write_bytes(b"no image at all")
    with pytest.raises(data.DatasetNotFoundError, match=r"cut\.png is no image that can be read"):
        data.image_folder(tmp_path, 8)


def test_hidden_folders_are_no_classes(tmp_path):
    for name in ("cats", ".git"):
        (tmp_path / name).mkdir()
        Image.new("RGB", (4, 4)).save(tmp_path / name / "a.png")
    images, _, names = _folder.read(tmp_path, 4)
    assert len(images) == 1
    assert names == ("cats",)
