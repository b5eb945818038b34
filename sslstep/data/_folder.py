"""Images of one's own, from a folder of files."""

import warnings
from collections import defaultdict
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import numpy as np

from sslstep import _check, _extras
from sslstep.data._errors import DatasetNotFoundError

# Of photographs, by their usual endings; those that Pillow has a reader for are read.
ENDINGS = (
    *(".apng", ".avif", ".bmp", ".dib", ".gif", ".heic", ".heif", ".j2k", ".jfif", ".jp2", ".jpe"),
    *(".jpeg", ".jpg", ".jpx", ".jxl", ".pbm", ".pgm", ".png", ".pnm", ".ppm", ".qoi", ".tga"),
    *(".tif", ".tiff", ".webp"),
)

# Folders that archives and systems leave behind. In some lie thumbnails.
_LEFT_BEHIND = ("__macosx", "@eadir", "$recycle.bin", "system volume information", "lost+found")

_Passed = dict[str, list[str]]


def read(folder: Path, size: int) -> tuple[np.ndarray, np.ndarray, tuple[str, ...]]:
    """Images (n, size, size, 3), labels (n,), and the labels' names."""
    _extras.require("PIL", by="a folder of images", extra="images")
    from PIL import Image, ImageOps

    _check.require_at_least("size", size, 1)
    if not folder.is_dir():
        raise DatasetNotFoundError(f"there is no folder {folder}.")
    found, names, passed = labelled_files(folder)
    told = _told(passed)
    if not found:
        raise DatasetNotFoundError(
            f"there are no images in {folder}: files that end with {', '.join(readable())}, in it "
            f"or in a folder for each class.{' Passed over: ' + told if told else ''}"
        )
    images = np.empty((len(found), size, size, 3), np.uint8)
    for place, (path, _) in enumerate(found):
        try:
            with Image.open(path) as image:
                whole = _eight_bit(ImageOps.exif_transpose(image), image.format).convert("RGB")
            side = min(whole.size)
            left, top = ((extent - side) // 2 for extent in whole.size)
            middle = whole.crop((left, top, left + side, top + side))
            images[place] = np.asarray(middle.resize((size, size), Image.Resampling.BICUBIC))
        except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
            raise DatasetNotFoundError(f"{path} is no image that can be read: {error}") from error
    if told:
        warnings.warn(
            f"of {folder}, {len(found)} images are read, of classes {', '.join(names) or 'none'}. "
            f"Passed over: {told}",
            stacklevel=3,
        )
    return images, np.array([label for _, label in found], np.int32), names


def readable() -> tuple[str, ...]:
    """The endings that Pillow can open, with what was registered with it."""
    from PIL import Image

    known = Image.registered_extensions()
    return tuple(ending for ending in ENDINGS if known.get(ending) in Image.OPEN)


def labelled_files(
    folder: Path,
) -> tuple[list[tuple[Path, int]], tuple[str, ...], _Passed]:
    """The images in the order in which they are read, with their labels; the labels' names.

    Last, what else was found, by the reason for which it is passed over.
    """
    endings = readable()
    passed: _Passed = defaultdict(list)
    own, inner = _entries(folder, passed)
    found = [(path, -1) for path in sorted(_images(own, endings, folder, passed))]
    names: list[str] = []
    for each in sorted(inner, key=lambda path: path.name):
        paths = sorted(_images(_below(each, (folder,), passed), endings, folder, passed))
        if paths:
            found += [(path, len(names)) for path in paths]
            names.append(each.name)
        else:
            passed["folder(s) without an image that can be read, which are no classes"].append(
                each.name
            )
    return found, tuple(names), dict(passed)


def _entries(folder: Path, passed: _Passed) -> tuple[list[Path], list[Path]]:
    """Files and folders, linked ones too; none that is hidden or that a system left behind."""
    files, folders = [], []
    for path in folder.iterdir():
        if path.name.startswith("."):
            continue
        if path.is_dir():
            if path.name.lower() in _LEFT_BEHIND:
                passed["folder(s) that archives and systems leave behind"].append(str(path))
            else:
                folders.append(path)
        elif path.is_file():
            files.append(path)
        elif path.is_symlink():
            passed["link(s) that lead nowhere"].append(str(path))
    return files, folders


def _below(folder: Path, above: tuple[Path, ...], passed: _Passed) -> Iterator[Path]:
    """All files in a folder and in those in it."""
    if any(folder.samefile(each) for each in above):
        passed["link(s) to a folder that holds them"].append(str(folder))
        return
    files, folders = _entries(folder, passed)
    yield from files
    for each in folders:
        yield from _below(each, (*above, folder), passed)


def _images(
    files: Iterable[Path], endings: tuple[str, ...], folder: Path, passed: _Passed
) -> Iterator[Path]:
    for path in files:
        ending = path.suffix.lower()
        if ending in endings:
            yield path
        elif ending in ENDINGS:
            reason = f"image(s) that Pillow as installed cannot open ({ending})"
            passed[reason].append(str(path.relative_to(folder)))
        else:
            passed["file(s) whose ending is not one of images"].append(
                str(path.relative_to(folder))
            )


def _told(passed: _Passed) -> str:
    """How many for each reason, with the first as an example."""
    reasons = (
        f"{len(paths)} {reason}, such as {min(paths)}" for reason, paths in sorted(passed.items())
    )
    return "; ".join(reasons) + "." if passed else ""


def _eight_bit(image: Any, file_format: str | None) -> Any:
    """An image of Pillow's with at most 8 bits a channel: its own conversion clips larger ones."""
    from PIL import Image

    # Mode I has 32 bits, of which these two formats fill 16.
    if image.mode.startswith("I;16") or (image.mode == "I" and file_format in ("PNG", "PPM")):
        values = np.asarray(image).astype(np.uint32)
        return Image.fromarray(((values + 128) // 257).astype(np.uint8))
    if image.mode in ("I", "F"):
        kind = "floating-point numbers" if image.mode == "F" else "32-bit integers"
        raise ValueError(f"its values are {kind}, and which of them is white is not known.")
    return image
