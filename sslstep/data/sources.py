"""Image sources: embedded photographs, CIFAR-10 and STL-10 from TFDS, folders of files."""

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
    """One split of an image data set.

    Attributes:
        images: RGB bytes, shape ``(n, h, w, 3)``.
        labels: indices into ``label_names``, shape ``(n,)``; -1 for an unlabelled image.
        label_names: name of each label.
    """

    images: UInt8[np.ndarray, "n h w 3"]
    labels: Int[np.ndarray, " n"]
    label_names: tuple[str, ...]


class _Prepared(NamedTuple):
    """Properties of a data set that tensorflow-datasets prepares."""

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
    """Load a split of a data set by name.

    Args:
        name: ``"photos"``, ``"cifar10"`` or ``"stl10"``; :func:`image_folder` reads a folder.
        split: a split of the data set, or a part of one, such as ``"train[:1000]"``.
        size: side of the images in pixels: 32 (default) or 96 for the photographs, 32 for CIFAR-10,
            96 for STL-10. Images are not resized.
        data_dir: folder that holds ``<name>/<version>`` as TFDS prepared it; None for TFDS's
            default, the environment variable ``TFDS_DATA_DIR`` or ``~/tensorflow_datasets``. Not
            used for the photographs.

    Raises:
        ValueError: if the data set does not exist, or has no such split or size.
        ModuleNotFoundError: if the extra ``images`` (photographs) or ``tfds`` is not installed.
        DatasetNotFoundError: if the data are missing or damaged.

    Example:
        >>> from sslstep import data
        >>> data.load("photos", "test").images.shape
        (2390, 32, 32, 3)
    """
    if name == "photos":
        return photos(split, 32 if size is None else size)
    if name not in _PREPARED:
        known = ", ".join(map(repr, ("photos", *_PREPARED)))
        raise ValueError(f"name must be one of {known}, got {name!r}; image_folder reads a folder.")
    if size not in (None, _PREPARED[name].side):
        raise ValueError(f"size of {name} is {_PREPARED[name].side}, got {size}.")
    return _prepared_split(name, split, data_dir)


def photos(split: str = "train", size: int = 32) -> Dataset:
    """Load patches of the ten photographs in scikit-image and scikit-learn, without a download.

    The label of a patch is its photograph. Windows of 1, 2 and 4 times ``size`` are averaged to
    ``size``, at the scales at which they fit. The right third of each photograph is the test split
    and the rest the training split; they share no pixel. Within a split windows overlap. Nearly
    constant patches are dropped. Each photograph contributes equally many patches. They are
    shuffled in an order that is the same everywhere: the first n are a fair sample.

    Args:
        split: ``"train"`` or ``"test"``, or a part of one, such as ``"train[:1000]"`` or
            ``"train[50%:]"``.
        size: side of the patches in pixels, 32 or 96.

    Returns:
        Up to 6310 training or 2390 test patches of size 32; up to 810 or 270 of size 96.

    Raises:
        ValueError: if ``split`` or ``size`` is not one of the above.
        ModuleNotFoundError: if the extra ``images`` is not installed.
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
    """Load CIFAR-10, prepared once by ``make data NAME=cifar10``, without TensorFlow.

    The newest version in the folder is read, in the order in which TFDS shuffled it.

    Args:
        split: ``"train"`` or ``"test"``, or a part of one in TFDS's notation, such as
            ``"train[:1000]"``.
        data_dir: local folder that holds ``cifar10/<version>``; None for TFDS's default, the
            environment variable ``TFDS_DATA_DIR`` or ``~/tensorflow_datasets``.

    Returns:
        Up to 50000 training or 10000 test images of 32×32 pixels, with labels.

    Raises:
        ValueError: if ``split`` does not exist or selects no images.
        ModuleNotFoundError: if the extra ``tfds`` is not installed.
        DatasetNotFoundError: if the data are missing, damaged, or of a format that needs
            TensorFlow. The message contains the command that prepares them.
    """
    return _prepared_split("cifar10", split, data_dir)


def stl10(split: str = "unlabelled", data_dir: str | Path | None = None) -> Dataset:
    """Load STL-10, prepared once by ``make data NAME=stl10``, without TensorFlow.

    Args:
        split: ``"unlabelled"``, ``"train"`` or ``"test"``, or a part of one, such as
            ``"unlabelled[:1000]"``. The whole of ``unlabelled`` takes 2.8 GB of memory.
        data_dir: local folder that holds ``stl10/<version>``; None for TFDS's default, the
            environment variable ``TFDS_DATA_DIR`` or ``~/tensorflow_datasets``.

    Returns:
        Up to 100000, 5000 or 8000 images of 96×96 pixels. All labels of ``unlabelled`` are -1.

    Raises:
        ValueError, ModuleNotFoundError, DatasetNotFoundError: under the conditions of
            :func:`cifar10`.
    """
    return _prepared_split("stl10", split, data_dir)


def image_folder(folder: str | Path, size: int) -> Dataset:
    """Load your own image files, all into memory.

    Each image is rotated by its EXIF orientation, converted to RGB, cropped to its central square
    and resized (bicubic, averaged where it shrinks). In greyscale images of 16 bits 65535 is white.

    Files are recognised by their endings and read if the installed Pillow supports the format (HEIC
    needs a registered ``pillow_heif``). Links are followed. Files and folders whose names begin
    with a dot are ignored. A warning counts everything else that is skipped: other files,
    unsupported formats, dead links, folders without images, system folders such as ``__MACOSX``.

    Args:
        folder: a folder with image files, with a folder of them for each class, or with both.
            Images of a class may lie at any depth. Classes are in alphabetical order; images are in
            the order of their paths within each class.
        size: side of the images in pixels.

    Returns:
        The images. The label of an image is its class, or -1 if the file is in ``folder`` itself.

    Raises:
        ModuleNotFoundError: if the extra ``images`` is not installed.
        DatasetNotFoundError: if there is no image, or one that cannot be read: damaged, too large,
            or of 32-bit integers or floating-point numbers, whose value of white is unknown.
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
    """Slice of a split of `num` images that TFDS's notation denotes, such as [:1000] or [50%:]."""
    found = re.fullmatch(r"(?:\[(-?\d+%?)?:(-?\d+%?)?\])?", written)
    if found is None:
        raise ValueError(
            f"split of photos must have the form 'train', 'train[:10]' or 'train[5%:]', "
            f"got {split!r}."
        )
    bounds = []
    for bound, default in zip(found.groups(), ("0", str(num)), strict=True):
        text = bound or default
        place = round(int(text[:-1]) * num / 100) if text.endswith("%") else int(text)
        if abs(place) > num:
            raise ValueError(f"split {split!r} of photos goes beyond its {num} images.")
        bounds.append(place + num if text.startswith("-") else place)
    if bounds[0] >= bounds[1]:
        raise ValueError(f"split {split!r} of photos selects no images.")
    return slice(*bounds)


def _prepared_split(name: str, split: str, data_dir: str | Path | None) -> Dataset:
    known = _PREPARED[name]
    _check.require_one_of(f"split of {name}", split.partition("[")[0], known.splits)
    images, labels = _prepared.read(_prepared.Request(name, split, known.side, data_dir))
    return Dataset(images, labels, known.label_names)
