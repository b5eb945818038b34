"""Reads a folder of image files."""

import warnings
from collections import defaultdict
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import numpy as np

from sslstep import _check, _extras
from sslstep.data._errors import DatasetNotFoundError

# Endings of image files. Files of formats that the installed Pillow supports are read.
ENDINGS = (
    *(".apng", ".avif", ".bmp", ".dib", ".gif", ".heic", ".heif", ".j2k", ".jfif", ".jp2", ".jpe"),
    *(".jpeg", ".jpg", ".jpx", ".jxl", ".pbm", ".pgm", ".png", ".pnm", ".ppm", ".qoi", ".tga"),
    *(".tif", ".tiff", ".webp"),
)

# Folders that archive tools and operating systems create. Some hold thumbnails.
_LEFT_BEHIND = ("__macosx", "@eadir", "$recycle.bin", "system volume information", "lost+found")

_Passed = dict[str, list[str]]


def read(folder: Path, size: int) -> tuple[np.ndarray, np.ndarray, tuple[str, ...]]:
    """Read images (n, size, size, 3), labels (n,) and label names; warn of skipped files."""
    _extras.require("PIL", by="a folder of images", extra="images")
    from PIL import Image, ImageOps

    _check.require_within("size", size, at_least=1)
    if not folder.is_dir():
        raise DatasetNotFoundError(f"there is no folder {folder}.")
    found, names, passed = labelled_files(folder)
    told = _told(passed)
    if not found:
        raise DatasetNotFoundError(
            f"there are no images in {folder}, nor in its folders, which are taken for classes. "
            f"Image files end with {', '.join(readable())}.{' Skipped: ' + told if told else ''}"
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
        except Exception as error:  # Pillow's decoders raise errors of many types
            raise DatasetNotFoundError(f"{path} cannot be read as an image: {error}") from error
    if told:
        warnings.warn(
            f"{len(found)} images read from {folder}, classes: {', '.join(names) or 'none'}. "
            f"Skipped: {told}",
            stacklevel=3,
        )
    return images, np.array([label for _, label in found], np.int32), names


def readable() -> tuple[str, ...]:
    """Return those of `ENDINGS` whose files Pillow, with its registered plugins, can open."""
    from PIL import Image

    known = Image.registered_extensions()
    return tuple(ending for ending in ENDINGS if known.get(ending) in Image.OPEN)


def labelled_files(
    folder: Path,
) -> tuple[list[tuple[Path, int]], tuple[str, ...], _Passed]:
    """List the images in a folder.

    Returns:
        Pairs of path and label, in reading order; the label names; the skipped paths, by reason.
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
            passed["folder(s) without a readable image"].append(each.name)
    return found, tuple(names), dict(passed)


def _entries(folder: Path, passed: _Passed) -> tuple[list[Path], list[Path]]:
    """List the files and folders in a folder; include links, exclude hidden and system names."""
    files, folders = [], []
    for path in folder.iterdir():
        if path.name.startswith("."):
            continue
        if path.is_dir():
            if path.name.lower() in _LEFT_BEHIND:
                passed["folder(s) of an archive tool or operating system"].append(str(path))
            else:
                folders.append(path)
        elif path.is_file():
            files.append(path)
        elif path.is_symlink():
            passed["dead link(s)"].append(str(path))
    return files, folders


def _below(folder: Path, above: tuple[Path, ...], passed: _Passed) -> Iterator[Path]:
    """Yield the files in a folder at any depth, except hidden ones.

    `above` are the folders on the way to this one. A link to one of them is not followed, because
    the search would not end. Skipped folders and links are added to `passed`.
    """
    if any(folder.samefile(each) for each in above):
        passed["link(s) to a folder that contains the link"].append(str(folder))
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
            reason = f"image(s) that the installed Pillow cannot open ({ending})"
            passed[reason].append(str(path.relative_to(folder)))
        else:
            passed["file(s) without an ending of images"].append(str(path.relative_to(folder)))


def _told(passed: _Passed) -> str:
    """Describe the skipped paths: a count and an example for each reason."""
    reasons = (
        f"{len(paths)} {reason}, such as {min(paths)}" for reason, paths in sorted(passed.items())
    )
    return "; ".join(reasons) + "." if passed else ""


def _eight_bit(image: Any, file_format: str | None) -> Any:
    """Scale a greyscale image of 16 bits to 8 bits; Pillow's own conversion clips it."""
    from PIL import Image

    # Mode I has 32 bits. PNG and PPM files of this mode hold 16-bit values.
    if image.mode.startswith("I;16") or (image.mode == "I" and file_format in ("PNG", "PPM")):
        values = np.asarray(image).astype(np.uint32)
        return Image.fromarray(((values + 128) // 257).astype(np.uint8))
    if image.mode in ("I", "F"):
        kind = "floating-point numbers" if image.mode == "F" else "32-bit integers"
        raise ValueError(f"its values are {kind}, and the value of white is unknown.")
    return image
