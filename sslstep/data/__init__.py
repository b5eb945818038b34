"""Images, and the positive pairs made of them.

Every source gives a whole split as one array of bytes, a :class:`Dataset`. The photographs need no
network; CIFAR-10 and STL-10 are read from what tensorflow-datasets prepared, without TensorFlow.
"""

from sslstep.data.sources import (
    Dataset,
    DatasetNotFoundError,
    cifar10,
    load,
    photos,
    stl10,
)
from sslstep.data.views import flatten, random_crop_pairs

__all__ = [
    "Dataset",
    "DatasetNotFoundError",
    "cifar10",
    "flatten",
    "load",
    "photos",
    "random_crop_pairs",
    "stl10",
]
