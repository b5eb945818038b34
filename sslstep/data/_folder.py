"""Images of one's own, from a folder of files."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from sslstep import _check
from sslstep.data._errors import DatasetNotFoundError

ENDINGS = (".bmp", ".gif", ".jpeg", ".jpg", ".png", ".ppm", ".tif", ".tiff", ".webp")


def read(folder: Path, size: int) -> tuple[np.ndarray, np.ndarray, tuple[str, ...]]:
    """Images (n, size, size, 3), labels (n,), and the labels' names."""
    from PIL import Image, ImageOps

    _check.require_at_least("size", size, 1)
    if not folder.is_dir():
        raise DatasetNotFoundError(f"there is no folder {folder}.")
    found, names = labelled_files(folder)
    if not found:
        raise DatasetNotFoundError(
            f"there are no images in {folder}: files that end with {', '.join(ENDINGS)}, in it or "
            f"in a folder for each class."
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
    return images, np.array([label for _, label in found], np.int32), names


def labelled_files(folder: Path) -> tuple[list[tuple[Path, int]], tuple[str, ...]]:
    """The images in the order in which they are read, with their labels, and the labels' names."""
    folders = (path.name for path in folder.iterdir() if path.is_dir())
    names = tuple(sorted(name for name in folders if not name.startswith(".")))  # no .git
    found = [(path, -1) for path in _files(folder, folder.iterdir())]
    for label, name in enumerate(names):
        found += [(path, label) for path in _files(folder, (folder / name).rglob("*"))]
    return found, names


def _files(folder: Path, paths: Iterator[Path]) -> list[Path]:
    """Those of images, in order; none that is hidden, or in a hidden folder of `folder`."""
    return sorted(
        path
        for path in paths
        if path.is_file()
        and path.suffix.lower() in ENDINGS
        and not any(part.startswith(".") for part in path.relative_to(folder).parts)
    )


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
