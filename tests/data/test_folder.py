"""Images from a folder of files."""

import numpy as np
import pytest
from PIL import Image, features

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
    with pytest.warns(UserWarning, match=r"1 file\(s\) without an ending .* as cats/notes\.txt\."):
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


def test_a_tilde_is_the_home(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    write(tmp_path / "mine" / "one.png", np.zeros((8, 8, 3)))
    assert len(data.image_folder("~/mine", 8).images) == 1


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
    with pytest.raises(data.DatasetNotFoundError, match=r"cut\.png cannot be read as an image"):
        data.image_folder(tmp_path, 8)
    (tmp_path / "cut.png").write_bytes(b"no image at all")
    with pytest.raises(data.DatasetNotFoundError, match=r"cut\.png cannot be read as an image"):
        data.image_folder(tmp_path, 8)


@pytest.mark.skipif(not features.check("avif"), reason="needs a Pillow that reads AVIF")
def test_a_broken_image_is_named_whatever_its_decoder_raises(tmp_path):
    Image.new("RGB", (8, 8)).save(tmp_path / "broken.avif")
    content = (tmp_path / "broken.avif").read_bytes()
    (tmp_path / "broken.avif").write_bytes(content.replace(b"pitm", b"    "))  # RuntimeError
    with pytest.raises(data.DatasetNotFoundError, match=r"broken\.avif cannot be read as an image"):
        data.image_folder(tmp_path, 8)


def test_what_is_hidden_is_no_image(tmp_path):
    for place in ("cats", ".git", "cats/.ipynb_checkpoints", "cats/deep/.thumbs/more"):
        (tmp_path / place).mkdir(parents=True)
        Image.new("RGB", (4, 4)).save(tmp_path / place / "a.png")
    for place in ("._1.jpg", "cats/._1.jpg"):  # as macOS leaves them, and no images
        (tmp_path / place).write_bytes(b"")
    images, _, names = _folder.read(tmp_path, 4)
    assert len(images) == 1
    assert names == ("cats",)
    # The folder itself may be hidden, or within one that is.
    assert len(_folder.read(tmp_path / ".git", 4)[0]) == 1
    assert len(_folder.read(tmp_path / "cats" / "deep" / ".thumbs" / "more", 4)[0]) == 1


@pytest.mark.parametrize(("name", "order"), [("a.png", "<"), ("a.tiff", "<"), ("a.tiff", ">")])
def test_16_bits_are_scaled_to_8(tmp_path, name, order):
    image = Image.fromarray(np.array([[0, 128], [129, 65535]], f"{order}u2"))
    image.getexif()[0x0112] = 3  # upside down
    image.save(tmp_path / name, exif=image.getexif())
    assert data.image_folder(tmp_path, 2).images[0].tolist() == [
        [[255] * 3, [1] * 3],
        [[0] * 3, [0] * 3],
    ]


def test_16_bits_of_a_ppm_are_scaled_too(tmp_path):
    """Pillow decodes them to 32, as it may those of a PNG."""
    Image.fromarray(np.array([[0, 128], [129, 65535]], np.uint16)).save(tmp_path / "a.ppm")
    found = data.image_folder(tmp_path, 2).images[0, ..., 0]
    assert found.tolist() == [[0, 0], [1, 255]]


@pytest.mark.parametrize(
    ("kind", "said"), [(np.float32, "floating-point numbers"), (np.int32, "32-bit integers")]
)
def test_what_has_no_white_is_refused(tmp_path, kind, said):
    Image.fromarray(np.full((4, 4), 1, kind)).save(tmp_path / "deep.tif")
    with pytest.raises(data.DatasetNotFoundError, match=rf"deep\.tif cannot be read .* are {said}"):
        data.image_folder(tmp_path, 4)


def test_what_is_larger_than_pillow_allows_is_named(tmp_path, monkeypatch):
    write(tmp_path / "large.png", np.zeros((8, 8, 3)))
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 8)
    with pytest.raises(
        data.DatasetNotFoundError, match=r"large\.png cannot be read .* exceeds limit"
    ):
        data.image_folder(tmp_path, 4)


def test_what_is_no_class_shifts_no_label_and_is_told(tmp_path):
    for place in ("cats/0.png", "dogs/0.png", "__MACOSX/cats/0.png"):
        write(tmp_path / place, np.zeros((8, 8, 3)))
    (tmp_path / "cats" / "1.HEIC").touch()
    (tmp_path / "cats" / "2.png").symlink_to("/gone.png")
    (tmp_path / "bare").mkdir()
    (tmp_path / "notes").mkdir()
    (tmp_path / "notes" / "a.md").touch()
    with pytest.warns(UserWarning, match="Skipped") as caught:
        _, labels, names = data.image_folder(tmp_path, 8)
    assert names == ("cats", "dogs")
    assert labels.tolist() == [0, 1]
    (told,) = [str(each.message) for each in caught]
    for part in (
        "2 images read from ",
        "classes: cats, dogs. Skipped: ",
        "1 image(s) that the installed Pillow cannot open (.heic), such as cats/1.HEIC",
        "1 dead link(s), such as " + str(tmp_path / "cats" / "2.png"),
        "1 folder(s) of an archive tool or operating system",
        "2 folder(s) without a readable image, such as bare",
        "1 file(s) without an ending of images, such as notes/a.md",
    ):
        assert part in told, told


def test_a_whole_folder_needs_no_word(tmp_path, recwarn):
    write(tmp_path / "cats" / "0.png", np.zeros((8, 8, 3)))
    (tmp_path / ".DS_Store").touch()
    data.image_folder(tmp_path, 8)
    assert not recwarn.list


def test_linked_folders_are_read_and_circles_are_not(tmp_path):
    inside, outside = tmp_path / "inside", tmp_path / "outside"
    for place in (inside / "cats" / "0.png", outside / "deep" / "1.png"):
        write(place, np.zeros((8, 8, 3)))
    (inside / "cats" / "more").symlink_to(outside)
    (inside / "dogs").symlink_to(outside)
    (outside / "deep" / "back").symlink_to(outside)
    with pytest.warns(UserWarning, match=r"2 link\(s\) to a folder that contains the link"):
        _, labels, names = data.image_folder(inside, 8)
    assert (labels.tolist(), names) == ([0, 0, 1], ("cats", "dogs"))


@pytest.mark.parametrize("ending", ["jfif", "jpe", "avif", "jp2", "webp", "tga", "pgm"])
def test_what_pillow_reads_is_read(tmp_path, ending):
    image = Image.new("L" if ending == "pgm" else "RGB", (8, 8), 200 if ending == "pgm" else "red")
    image.save(tmp_path / f"a.{ending.upper()}")
    images, _, _ = data.image_folder(tmp_path, 8)
    wanted = (200, 200, 200) if ending == "pgm" else (255, 0, 0)
    assert np.abs(images[0].astype(int) - wanted).max() <= 8  # some are lossy


def test_a_folder_of_what_cannot_be_read_says_so(tmp_path):
    (tmp_path / "cats").mkdir()
    (tmp_path / "cats" / "1.heic").touch()
    with pytest.raises(data.DatasetNotFoundError, match=r"no images .* Skipped: .*\(\.heic\)"):
        data.image_folder(tmp_path, 8)
