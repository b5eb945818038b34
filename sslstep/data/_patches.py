"""Cuts ten photographs into a labelled set of patches.

All arithmetic on decoded pixels is in integers, and a hash of each window's position sets the
order. The patches therefore do not depend on platform, random generator or library version.
"""

import hashlib
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path
from typing import NamedTuple

import numpy as np
from jaxtyping import Bool, Int, UInt8

from sslstep import _extras
from sslstep.data._errors import DatasetNotFoundError

SPLITS = ("train", "test")

# Windows start every STRIDES[size] pixels of the photograph, at every scale.
STRIDES = {32: 16, 96: 24}
SCALES = (1, 2, 4)

# A patch is kept if its standard deviation, as a root mean square over the channels, is at least
# this many levels of 255. One of 10000 images of CIFAR-10 is below it.
MIN_DEVIATION = 8


class Photograph(NamedTuple):
    """A photograph: file `path` in the package `package` of the installed `distribution`."""

    name: str
    distribution: str
    package: str
    path: str


PHOTOGRAPHS = (
    Photograph("astronaut", "scikit-image", "skimage", "data/astronaut.png"),
    Photograph("chelsea", "scikit-image", "skimage", "data/chelsea.png"),
    Photograph("coffee", "scikit-image", "skimage", "data/coffee.png"),
    Photograph("hubble_deep_field", "scikit-image", "skimage", "data/hubble_deep_field.jpg"),
    Photograph("ihc", "scikit-image", "skimage", "data/ihc.png"),
    Photograph("motorcycle", "scikit-image", "skimage", "data/motorcycle_left.png"),
    Photograph("retina", "scikit-image", "skimage", "data/retina.jpg"),
    Photograph("rocket", "scikit-image", "skimage", "data/rocket.jpg"),
    Photograph("china", "scikit-learn", "sklearn", "datasets/images/china.jpg"),
    Photograph("flower", "scikit-learn", "sklearn", "datasets/images/flower.jpg"),
)


class Patch(NamedTuple):
    """A patch, and the window of photograph number `label` that was averaged to it.

    The window's upper left corner is (`top`, `left`); its sides are `scale` times the patch's.
    """

    label: int
    scale: int
    top: int
    left: int
    pixels: UInt8[np.ndarray, "size size 3"]

    def lot(self, purpose: str) -> bytes:
        """Hash of the window's position, by which patches are sorted to shuffle them."""
        place = f"{purpose} {PHOTOGRAPHS[self.label].name} {self.scale} {self.top} {self.left}"
        return hashlib.blake2b(place.encode(), digest_size=8).digest()


def cut(split: str, size: int) -> list[Patch]:
    """Cut one split into shuffled patches, equally many from each photograph."""
    each = [
        list(_patches_of(label, read(photograph), split, size))
        for label, photograph in enumerate(PHOTOGRAPHS)
    ]
    fewest = min(map(len, each))
    drawn = [
        patch
        for patches in each
        for patch in sorted(patches, key=lambda patch: patch.lot("draw"))[:fewest]
    ]
    # A second hash: the first one is biased by the number of patches that were drawn from.
    return sorted(drawn, key=lambda patch: patch.lot("shuffle"))


def read(photograph: Photograph) -> UInt8[np.ndarray, "h w 3"]:
    """Read the pixels of a photograph from the installed package that contains it."""
    _extras.require("PIL", photograph.package, by="data.photos", extra="images")
    from PIL import Image

    # Found without importing the package: importing scikit-learn takes a second.
    spec = find_spec(photograph.package)
    folders = spec.submodule_search_locations if spec else None
    path = Path((folders or [""])[0]) / photograph.path
    if not path.is_file():
        raise DatasetNotFoundError(
            f"photos: the photograph {photograph.name!r} is part of {photograph.distribution}, "
            f"but {path} is missing. To reinstall it:  "
            f"python -m pip install --force-reinstall 'scikit-image<0.27' scikit-learn"
        )
    with Image.open(path) as image:
        return np.asarray(image.convert("RGB"))


def columns(width: int, split: str) -> tuple[int, int]:
    """First column of a split, and one past its last; the test split is the right third."""
    border = width - width // 3
    return (0, border) if split == "train" else (border, width)


def scales(height: int, width: int, size: int) -> list[int]:
    """Return the scales at which both splits of a photograph have room for a window."""
    return [scale for scale in SCALES if scale * size <= min(height, width // 3)]


def _patches_of(
    label: int, photograph: UInt8[np.ndarray, "h w 3"], split: str, size: int
) -> Iterator[Patch]:
    height, width, _ = photograph.shape
    first, end = columns(width, split)
    for scale in scales(height, width, size):
        # The region is cut out before averaging, so that no pixel of the other split enters.
        region = _box_average(photograph[:, first:end], scale)
        step = STRIDES[size] // scale
        windows = np.lib.stride_tricks.sliding_window_view(region, (size, size), axis=(0, 1))
        windows = np.moveaxis(windows[::step, ::step], 2, -1)
        for row, column in np.argwhere(_varied(region, size)[::step, ::step]):
            yield Patch(
                label,
                scale,
                top=int(row) * STRIDES[size],
                left=first + int(column) * STRIDES[size],
                pixels=windows[row, column],
            )


def _box_average(pixels: UInt8[np.ndarray, "h w 3"], scale: int) -> UInt8[np.ndarray, "i j 3"]:
    """Mean over blocks of scale × scale pixels, rounded half up; incomplete blocks are dropped."""
    height, width = (side // scale for side in pixels.shape[:2])
    blocks = pixels[: height * scale, : width * scale].reshape(height, scale, width, scale, 3)
    total = blocks.sum((1, 3), dtype=np.uint32)
    return ((total + scale**2 // 2) // scale**2).astype(np.uint8)


def _varied(pixels: UInt8[np.ndarray, "h w 3"], size: int) -> Bool[np.ndarray, "rows columns"]:
    """Mask, by upper left corner, of the size × size windows that are not nearly constant."""
    values = pixels.astype(np.int64)
    count = size**2
    # count² times the variance of each channel is an exact integer.
    variance = count * _window_sums(values**2, size) - _window_sums(values, size) ** 2
    return variance.sum(-1) >= pixels.shape[-1] * (MIN_DEVIATION * count) ** 2


def _window_sums(values: Int[np.ndarray, "h w c"], size: int) -> Int[np.ndarray, "rows columns c"]:
    """Sum over each window of size × size pixels, by upper left corner."""
    up_to = np.pad(values.cumsum(0).cumsum(1), ((1, 0), (1, 0), (0, 0)))
    rows = up_to[size:] - up_to[:-size]
    return rows[:, size:] - rows[:, :-size]
