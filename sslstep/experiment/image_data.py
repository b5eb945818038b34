"""Random choices of images and pairs of their crops, for experiments on images."""

import hashlib
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Annotated, Any

import jax
import jax.numpy as jnp
import numpy as np
import tyro

from sslstep import data
from sslstep.data import _folder as _folder_of_files
from sslstep.data import _prepared

PREPARED = ("cifar10", "stl10")
NAMES = ("photos", *PREPARED)

# Type of the setting `data`: one of the names, or a folder of the user's images.
Source = Annotated[str, tyro.conf.arg(metavar=f"{{{','.join(NAMES)},FOLDER}}")]


@dataclass(frozen=True)
class Images:
    """Settings of experiments on images; each is one option of the command."""

    data: Source = "photos"
    """Source of the images: a name (stl10 uses its unlabelled split), or a folder."""
    data_dir: str | None = None
    """Folder of prepared TFDS data, for cifar10 and stl10. Default: TFDS's own folder."""


@dataclass(frozen=True)
class Crops(Images):
    """Settings of experiments on two crops of each image."""

    num_images: int = 500
    """n, the number of positive pairs."""
    crop: int = 20
    """Side of a crop, in pixels."""
    seed: int = 0
    """Seed of the choice of images, the crops and the networks or weights."""


class UnfitError(ValueError):
    """The images do not suffice for the experiment: too few, too small, or without labels."""


def choose(
    key: jax.Array,
    name: str,
    num: int | None,
    data_dir: str | None,
    *,
    view: int = 32,
    with_labels: bool = False,
    called: str = "num_images",
) -> data.Dataset:
    """Draw `num` images of a data set at random (None: all, shuffled), with labels.

    `view` is the side of the views to be made of the images. `called` is the name of the setting
    `num` in an error.
    """
    if with_labels:
        found = labelled(name, "train", data_dir, view)
    else:
        found = _load(name, "unlabelled" if name == "stl10" else "train", data_dir, view)
    images, labels, label_names = found
    if num is not None and num > len(images):
        which = "labelled images" if with_labels else "images"
        options = " + ".join(f"--{field.replace('_', '-')}" for field in called.split(" + "))
        raise UnfitError(
            f"{called} = {num}, but {name} has {len(images)} {which} for training: {options} can "
            f"be {len(images)} at most."
        )
    chosen = np.asarray(jax.random.permutation(key, len(images))[:num])
    return data.Dataset(images[chosen], labels[chosen], label_names)


def labelled(name: str, split: str, data_dir: str | None, view: int) -> data.Dataset:
    """Return the labelled images of the split "train" or "test", for views of side `view`."""
    try:
        found = _load(name, split, data_dir, view)
    except data.DatasetNotFoundError as error:
        if name != "stl10":
            raise
        _load(name, "unlabelled", data_dir, view)  # raises if there are no images at all
        raise UnfitError(f"there are no labelled images. {error}") from error
    known = found.labels >= 0
    if not known.any():
        raise UnfitError(
            f"{name} has no labelled images: that takes a folder in it for each class, at least "
            f"two, and five images."
        )
    height, width = found.images.shape[1:3]
    if min(height, width) < view:
        raise UnfitError(f"views of side {view} are larger than the labelled images of {name}.")
    if known.all():
        return found
    return found._replace(images=found.images[known], labels=found.labels[known])


def identity(name: str, view: int) -> str:
    """Return a unique name of the images: the source's name, or a folder's name and a digest."""
    if name in NAMES:
        return name
    images, labels, _ = _folder(name, _side(view))
    digest = hashlib.sha256(images.tobytes() + labels.tobytes()).hexdigest()
    return f"{Path(name).expanduser().resolve().name}-{digest[:8]}"


def require_used(config: Any) -> None:
    """Raise ValueError if `data_dir` is not used; warn if a named data set hides a local folder."""
    names = getattr(config, "data", ())
    names = [names] if isinstance(names, str) else names
    data_dir = getattr(config, "data_dir", None)
    for name in set(names) & set(NAMES):
        prepared = _prepared.root_of(data_dir) / name
        if Path(name).is_dir() and not (prepared.is_dir() and prepared.samefile(name)):
            warnings.warn(
                f"--data {name} is the data set of that name, not the folder ./{name} that lies "
                f"here: for your own images give --data ./{name}.",
                stacklevel=2,
            )
    if data_dir is None:
        return
    if not set(names) & set(PREPARED):
        raise ValueError(
            f"data_dir is where {' and '.join(PREPARED)} lie, but data is {', '.join(names)}: give "
            f"--data {PREPARED[0]}, say."
        )


def files(names: str | Sequence[str], data_dir: str | None) -> list[tuple[str, int, int]]:
    """Return path, size in bytes and modification time of each file of the named sources.

    `names` are data sets and folders. The embedded photographs have no files of their own.
    """
    found: list[Path] = []
    for name in [names] if isinstance(names, str) else names:
        folder = Path(name).expanduser()
        if name in PREPARED:
            prepared = (_prepared.root_of(data_dir) / name).glob("*/*")  # of each version
            found += sorted(path for path in prepared if path.is_file())
        elif name not in NAMES and folder.is_dir():
            found += [path for path, _ in _folder_of_files.labelled_files(folder)[0]]
    return [(str(path), path.stat().st_size, path.stat().st_mtime_ns) for path in found]


def crop_pairs(
    keys: Sequence[jax.Array] | jax.Array,
    name: str,
    num: int,
    data_dir: str | None,
    size: int,
    *,
    called: str = "num_images",
) -> tuple[jax.Array, jax.Array]:
    """Draw `num` images and two random crops of each, uint8; `keys`: one for images, one for crops.

    `called` is the name of the setting `num` in an error.
    """
    key_images, key_crops = keys
    images = choose(key_images, name, num, data_dir, view=size, called=called).images
    return data.random_crop_pairs(key_crops, images, size)


def split_pairs(
    key: jax.Array, name: str, num: int, num_test: int, data_dir: str | None, size: int
) -> tuple[jax.Array, jax.Array]:
    """Return pixels of training pairs (2 num, m) and of held-out pairs (2 num_test, m), float64.

    In each array the first views X come before the second views X'. Held-out pairs come from other
    images. Both arrays are standardised by the training pairs' channel means and deviations.
    """
    called = "num_images + num_test"
    crops = crop_pairs(jax.random.split(key), name, num + num_test, data_dir, size, called=called)
    first = jnp.concatenate([view[:num] for view in crops])
    rest = jnp.concatenate([view[num:] for view in crops])
    pixels = np.asarray(first) / 255
    constants = {"mean": pixels.mean((0, 1, 2)), "std": pixels.std((0, 1, 2))}
    x, x_test = (
        data.flatten(images, dtype="float64", standardise=True, **constants)
        for images in (first, rest)
    )
    return x, x_test


def _load(name: str, split: str, data_dir: str | None, view: int) -> data.Dataset:
    """Load a split of a named data set or of a folder of images."""
    if name in NAMES:
        return _named(name, split, data_dir)
    found = _folder(name, _side(view))
    # Every fifth labelled image is for tests.
    held_out = np.zeros(len(found.labels), bool)
    if len(np.unique(found.labels[found.labels >= 0])) > 1:
        held_out[np.flatnonzero(found.labels >= 0)[4::5]] = True
    kept = held_out if split == "test" else ~held_out
    labels = found.labels if held_out.any() else np.full_like(found.labels, -1)
    return data.Dataset(found.images[kept], labels[kept], found.label_names)


def _side(view: int) -> int:
    """Return the side to which a user's images are resized, for views of side `view`.

    It is 32 for views up to 32; for larger views it is that of the views, but at least 96.
    """
    return 32 if view <= 32 else max(view, 96)


@lru_cache(maxsize=3)
def _named(name: str, split: str, data_dir: str | None) -> data.Dataset:
    """Load a named data set; cached, because runs from several seeds use the same images."""
    return data.load(name, split, data_dir=data_dir)


@lru_cache(maxsize=1)
def _folder(name: str, side: int) -> data.Dataset:
    """Load all images of a folder, shuffled, because files are ordered by class."""
    folder = Path(name).expanduser()
    if not folder.is_dir():
        raise ValueError(
            f"data must be one of {', '.join(NAMES)}, or a folder of images; there is no folder "
            f"{name}."
        )
    images, labels, label_names = data.image_folder(folder, side)
    order = np.random.default_rng(0).permutation(len(images))
    return data.Dataset(images[order], labels[order], label_names)
