"""Where images come from: embedded photographs, TFDS's CIFAR-10 and STL-10, a folder of files."""

import re
from pathlib import Path
from typing import NamedTuple

import numpy as np
from jaxtyping import Int, UInt8

from sslstep import _check
from sslstep.data import _folder, _patches, _prepared
from sslstep.data._errors import DatasetNotFoundError

__all__ = ["Dataset", "DatasetNotFoundError", "cifar10", "image_folder", "load", "photos", "stl10"]


class Dataset(NamedTuple):
    """One split of a set of images.

    Attributes:
        images: bytes in RGB, shape ``(n, h, w, 3)``.
        labels: indices into ``label_names``, shape ``(n,)``; -1 is unlabelled.
        label_names: a name for each label.
    """

    images: UInt8[np.ndarray, "n h w 3"]
    labels: Int[np.ndarray, " n"]
    label_names: tuple[str, ...]


class _Prepared(NamedTuple):
    """A data set that tensorflow-datasets knows."""

    side: int
    splits: tuple[str, ...]
    label_names: tuple[str, ...]


_PREPARED = {
    "cifar10": _Prepared(
        side=32,
        splits=("train", "test"),
        label_names=(
            *("airplane", "automobile", "bird", "cat", "deer"),
            *("dog", "frog", "horse", "ship", "truck"),
        ),
    ),
    "stl10": _Prepared(
        side=96,
        splits=("train", "test", "unlabelled"),
        label_names=(
            *("airplane", "bird", "car", "cat", "deer"),
            *("dog", "horse", "monkey", "ship", "truck"),
        ),
    ),
}


def load(
    name: str,
    split: str = "train",
    *,
    size: int | None = None,
    data_dir: str | Path | None = None,
) -> Dataset:
    """One split of a data set, by its name.

    Args:
        name: ``"photos"``, ``"cifar10"`` or ``"stl10"``.
        split: one that the data set has, or a part of one, such as ``"train[:1000]"``.
        size: side of the images in pixels. The photographs come in 32 and 96, of which 32 is the
            default; CIFAR-10 has 32 and STL-10 has 96, and nothing is resized.
        data_dir: as for :func:`cifar10`; the photographs do not need it.

    Returns:
        The split, whole unless a part was asked for.

    Raises:
        ValueError: if there is no such data set, or it has no such split or size. A folder of
            one's own is no name: :func:`image_folder` reads it.
        DatasetNotFoundError: if the data are not there, as for :func:`cifar10`.

    Example:
        >>> from sslstep import data
        >>> data.load("photos", "test").images.shape
        (2390, 32, 32, 3)
    """
    if name == "photos":
        return photos(split, 32 if size is None else size)
    if name not in _PREPARED:
        known = ", ".join(map(repr, ("photos", *_PREPARED)))
        raise ValueError(
            f"name must be one of {known}, got {name!r}; a folder is read by image_folder."
        )
    if size not in (None, _PREPARED[name].side):
        raise ValueError(f"size of {name} is {_PREPARED[name].side}, got {size}.")
    return _prepared_split(name, split, data_dir)


def photos(split: str = "train", size: int = 32) -> Dataset:
    """Patches of ten photographs that scikit-image and scikit-learn carry: no network, no download.

    The label of a patch is the photograph that it comes from. Windows of 1, 2 and 4 times the size
    asked for, as far as they fit, are averaged down to it. The right third of a photograph is the
    test split and the rest the training split, cut apart before anything is averaged: no pixel is
    in both. Within a split windows overlap. Nearly constant patches are left out. Each photograph
    gives equally many, and the order is shuffled, the same everywhere, so that the first n patches
    are a fair sample.

    Args:
        split: ``"train"`` or ``"test"``, or a part of one, such as ``"train[:1000]"`` or
            ``"train[50%:]"``.
        size: side of the patches in pixels, 32 or 96.

    Returns:
        At most 6310 training or 2390 test patches of size 32; 810 or 270 of size 96.

    Raises:
        ValueError: if there is no such split or size, or the part of it is none.
        DatasetNotFoundError: if a photograph is missing from its package.

    Example:
        >>> from sslstep.data import photos
        >>> images, labels, label_names = photos("train", 96)
        >>> images.shape, label_names[:3]
        ((810, 96, 96, 3), ('astronaut', 'chelsea', 'coffee'))
    """
    name, bracket, part = split.partition("[")
    _check.require_one_of("split of photos", name, _patches.SPLITS)
    _check.require_one_of("size of photos", size, _patches.STRIDES)
    patches = _patches.cut(name, size)
    patches = patches[_part(split, bracket + part, len(patches))]
    return Dataset(
        np.stack([patch.pixels for patch in patches]),
        np.array([patch.label for patch in patches], np.int32),
        tuple(photograph.name for photograph in _patches.PHOTOGRAPHS),
    )


def cifar10(split: str = "train", data_dir: str | Path | None = None) -> Dataset:
    """CIFAR-10, which ``make data NAME=cifar10`` has prepared; read without TensorFlow.

    The newest version below the folder is taken, in the order in which TFDS shuffled it.

    Args:
        split: ``"train"`` or ``"test"``, or a part of one as TFDS writes it, such as
            ``"train[:1000]"``.
        data_dir: the folder that holds ``cifar10/<version>``, on a local disk. None is TFDS's own
            default: the environment variable ``TFDS_DATA_DIR`` or else ``~/tensorflow_datasets``.

    Returns:
        At most 50000 or 10000 images of 32×32 pixels, with their labels.

    Raises:
        ValueError: if there is no such split.
        DatasetNotFoundError: if the data are not there, lack the split, are in a format that needs
            TensorFlow, or are damaged. The message has the command that prepares them.
    """
    return _prepared_split("cifar10", split, data_dir)


def stl10(split: str = "unlabelled", data_dir: str | Path | None = None) -> Dataset:
    """STL-10, which ``make data NAME=stl10`` has prepared; read without TensorFlow.

    Args:
        split: ``"unlabelled"``, ``"train"`` or ``"test"``, or a part of one, such as
            ``"unlabelled[:1000]"``. All of ``unlabelled`` takes 2.8 GB of memory.
        data_dir: as for :func:`cifar10`.

    Returns:
        At most 100000, 5000 or 8000 images of 96×96 pixels. In ``unlabelled`` all labels are -1.

    Raises:
        ValueError: as for :func:`cifar10`.
        DatasetNotFoundError: as for :func:`cifar10`.
    """
    return _prepared_split("stl10", split, data_dir)


def image_folder(folder: str | Path, size: int) -> Dataset:
    """Images of one's own, all of them in memory.

    Each is turned as its camera says, converted to RGB, cut to the square in its middle and resized
    (bicubic, averaged where it shrinks). Of greyscale with 16 bits, 65535 is white.

    Args:
        folder: image files, or a folder of them for each class, or both. Classes are the folders
            in which an image lies, at any depth, in alphabetical order; files are in the order of
            their paths within one. Links are followed. Files are known as images by their endings,
            and read if Pillow can: JPEG 2000 and AVIF as a rule, HEIC once ``pillow_heif`` is
            registered with it. What begins with a dot is passed over, as the thumbnails and
            checkpoints that programs hide. A warning says what else was passed over, how much, and
            why: other files, images that Pillow cannot open, dead links, folders without images,
            and such as ``__MACOSX``.
        size: side of the images in pixels.

    Returns:
        The images. Files that lie in ``folder`` itself have the label -1, those in a folder of it,
        at any depth, the label of that name.

    Raises:
        DatasetNotFoundError: if there is no such folder, no image in it, or one that cannot be
            read, with its path: it is damaged, larger than Pillow allows, or of 32-bit integers or
            floating-point numbers, of which it is not known which is white.
        ValueError: if ``size`` is below 1.

    Example:
        >>> import tempfile
        >>> from pathlib import Path
        >>> from PIL import Image
        >>> from sslstep import data
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     Path(folder, "cats").mkdir()
        ...     Image.new("RGB", (40, 30), "red").save(Path(folder, "cats", "1.png"))
        ...     images, labels, label_names = data.image_folder(folder, size=16)
        >>> images.shape, labels.tolist(), label_names
        ((1, 16, 16, 3), [0], ('cats',))
    """
    return Dataset(*_folder.read(Path(folder).expanduser(), size))


def _part(split: str, written: str, num: int) -> slice:
    """What TFDS takes a part of a split of so many images to be, such as [:1000] or [50%:]."""
    found = re.fullmatch(r"(?:\[(-?\d+%?)?:(-?\d+%?)?\])?", written)
    if found is None:
        raise ValueError(
            f"split {split!r} of photos must be as 'train', 'train[:10]' or 'train[5%:]'."
        )
    bounds = []
    for bound, default in zip(found.groups(), ("0", str(num)), strict=True):
        text = bound or default
        place = round(int(text[:-1]) * num / 100) if text.endswith("%") else int(text)
        if abs(place) > num:
            raise ValueError(f"split {split!r} of photos is incompatible with {num} images.")
        bounds.append(place + num if text.startswith("-") else place)
    if bounds[0] >= bounds[1]:
        raise ValueError(f"split {split!r} of photos selects no images.")
    return slice(*bounds)


def _prepared_split(name: str, split: str, data_dir: str | Path | None) -> Dataset:
    known = _PREPARED[name]
    _check.require_one_of(f"split of {name}", split.partition("[")[0], known.splits)
    folder = None if data_dir is None else Path(data_dir)
    images, labels = _prepared.read(_prepared.Request(name, split, known.side, folder))
    return Dataset(images, labels, known.label_names)
