"""Image data sets, and positive pairs of random views.

A source returns a whole split as a :class:`Dataset`, one array of bytes. :func:`photos` needs no
download. :func:`cifar10` and :func:`stl10` read files that tensorflow-datasets prepared, without
TensorFlow. :func:`image_folder` reads your own files.
"""

from sslstep.data.augmentations import (
    Augmentation,
    Views,
    augment,
    barlow_twins_views,
    crop_views,
    masked_view,
    simclr_views,
    two_views,
    vicreg_views,
)
from sslstep.data.sources import (
    Dataset,
    DatasetNotFoundError,
    cifar10,
    image_folder,
    load,
    photos,
    stl10,
)
from sslstep.data.views import checked_images, flatten, random_crop_pairs

__all__ = [
    "Augmentation",
    "Dataset",
    "DatasetNotFoundError",
    "Views",
    "augment",
    "barlow_twins_views",
    "checked_images",
    "cifar10",
    "crop_views",
    "flatten",
    "image_folder",
    "load",
    "masked_view",
    "photos",
    "random_crop_pairs",
    "simclr_views",
    "stl10",
    "two_views",
    "vicreg_views",
]
