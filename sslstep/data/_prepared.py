"""Reads data prepared by tensorflow-datasets, without TensorFlow and without network.

``tfds.builder`` would import the builder's code and may use the network: the folder is found here.
TFDS's data source decodes images at half the speed of Pillow: they are decoded here.
"""

import io
import os
import re
import shlex
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Int, UInt8

from sslstep import _extras, _terminal
from sslstep.data._errors import DatasetNotFoundError

FORMAT = "array_record"

# Records that a thread decodes at a time.
_CHUNK = 256
# Decoding releases Python's global lock. Below this size most of the time is spent holding it, and
# several threads are slower than one.
_SIDE_WORTH_THREADS = 64
_MAX_THREADS = 4


class Request(NamedTuple):
    """A split of a data set of square images, to be read from below `data_dir`."""

    name: str
    split: str
    side: int
    data_dir: str | Path | None

    @property
    def root(self) -> Path:
        """Absolute path of `data_dir`."""
        return root_of(self.data_dir)

    def error(self, problem: str, *, anew: bool = False) -> DatasetNotFoundError:
        """Build an error that states the data, the problem and the command to prepare the data."""
        command = f"make data NAME={self.name}"
        if self.data_dir is not None:
            command += f" DATA_DIR={shlex.quote(str(self.root))}"
        if anew:
            command += " ARGS=--overwrite"
        return DatasetNotFoundError(
            f"{self.name}: looked for split {self.split!r} in {FORMAT} format in "
            f"{self.root / self.name}, but {problem}. To prepare the data "
            f"{'anew' if anew else 'once'}, in a checkout of sslstep:  {command}"
        )


def root_of(data_dir: str | Path | None) -> Path:
    """Absolute folder of all data sets; TFDS's default if `data_dir` is None."""
    given = data_dir or os.environ.get("TFDS_DATA_DIR", "~/tensorflow_datasets")
    return Path(given).expanduser().absolute()


class _Chunk(NamedTuple):
    """Records `start` to `end` of the split, which one file holds."""

    path: Path
    start: int
    end: int


def read(request: Request) -> tuple[UInt8[np.ndarray, "n h w 3"], Int[np.ndarray, " n"]]:
    """Read images and labels of a split, in stored order, with a progress bar on a terminal."""
    builder = _open(request, _newest_version(request))
    import tensorflow_datasets as tfds

    chunks = list(_chunks(builder, request))
    total = chunks[-1].end
    images = np.empty((total, request.side, request.side, 3), np.uint8)
    labels = np.empty(total, np.int32)
    raw = tfds.decode.DeserializeMethod.RAW_BYTES
    split = request.split
    source = builder.as_data_source(split=split, file_format=FORMAT, deserialize_method=raw)

    def read_chunk(chunk: _Chunk) -> int:
        keys = range(chunk.start, chunk.end)
        try:
            for key, record in zip(keys, source.__getitems__(list(keys)), strict=True):
                images[key], labels[key] = _decode(record, request.side)
        except Exception as error:  # array_record, protobuf and Pillow raise errors of many types
            raise request.error(
                f"{chunk.path.name} in {chunk.path.parent} is damaged ({_line(error)})", anew=True
            ) from error
        return len(keys)

    threads = min(_MAX_THREADS, os.cpu_count() or 1) if request.side >= _SIDE_WORTH_THREADS else 1
    title = f"{request.name} {split}"
    with (
        ThreadPoolExecutor(threads) as pool,
        _terminal.progress_bar(None, total=total, desc=title, unit="image", unit_scale=True) as bar,
    ):
        for done in pool.map(read_chunk, chunks):
            bar.update(done)
    return images, labels


def _newest_version(request: Request) -> Path:
    root, name = request.root, request.name
    if found := _versions(root / name):
        return found[max(found)]
    for above in (root.parent, root.parent.parent):
        if _versions(above / name):
            raise DatasetNotFoundError(
                f"{name}: data_dir must be the folder that holds {name}/<version>, which is "
                f"{above}, not {root}."
            )
    folder = root / name
    problem = (
        "it has no <version>/dataset_info.json" if folder.is_dir() else "there is no such folder"
    )
    if request.data_dir is None:
        problem += (
            f". If the data are elsewhere, give the folder with {name}/<version> as data_dir, "
            f"as --data-dir, or in the environment variable TFDS_DATA_DIR"
        )
    raise request.error(problem)


def _versions(folder: Path) -> dict[tuple[int, ...], Path]:
    """Return the folders of prepared data below `folder`, by version, such as (3, 0, 2)."""
    return {
        tuple(map(int, path.parent.name.split("."))): path.parent
        for path in folder.glob("*/dataset_info.json")
        if re.fullmatch(r"\d+\.\d+\.\d+", path.parent.name)
    }


def _open(request: Request, folder: Path) -> Any:
    """Open TFDS's builder for the folder; raise if the folder lacks the split or the format."""
    packages = ("tensorflow_datasets", "array_record", "PIL")
    _extras.require(*packages, by=f"data.{request.name}", extra="tfds")
    import tensorflow_datasets as tfds

    try:
        builder = tfds.builder_from_directory(folder)
        splits = sorted(builder.info.splits)
        formats = sorted(str(form.value) for form in builder.info.available_file_formats())
    except Exception as error:  # JSON, protobuf and TFDS raise errors of their own types
        raise request.error(
            f"dataset_info.json in {folder} cannot be read ({_line(error)})", anew=True
        ) from error
    if FORMAT not in formats:
        raise request.error(
            f"{folder} holds only the format {' and '.join(formats)}, which cannot be read without "
            f"TensorFlow (preparing adds {FORMAT} files and downloads nothing)"
        )
    name = request.split.partition("[")[0]
    if name not in splits:
        raise request.error(f"{folder} holds only the splits {', '.join(splits)}", anew=True)
    return builder


def _line(error: Exception) -> str:
    return " ".join(str(error).split())


def _chunks(builder: Any, request: Request) -> Iterator[_Chunk]:
    """Divide the split into pieces, each within one file; raise if a file is missing."""
    info = builder.info
    if info.file_format.value != FORMAT:  # TFDS prefers another of the formats in the folder
        info.set_file_format(FORMAT, override=True, override_if_initialized=True)
    instructions = info.splits[request.split].file_instructions
    if not instructions:
        raise ValueError(f"split {request.split!r} of {request.name} selects no images.")
    start = 0
    for instruction in instructions:
        path = Path(instruction.filename)
        if not path.is_file():
            raise request.error(f"{path.name} is missing from {path.parent}", anew=True)
        end = start + instruction.take
        for first in range(start, end, _CHUNK):
            yield _Chunk(path, first, min(first + _CHUNK, end))
        start = end


def _decode(record: bytes, side: int) -> tuple[UInt8[np.ndarray, "h w 3"], int]:
    """Decode the image and label of one serialised ``tf.train.Example``."""
    from PIL import Image
    from tensorflow_datasets.proto import tf_example_pb2

    features = tf_example_pb2.Example.FromString(record).features.feature
    if "image" not in features or "label" not in features:
        raise ValueError("a record has no image or no label")
    with Image.open(io.BytesIO(features["image"].bytes_list.value[0])) as image:
        if (image.mode, image.size) != ("RGB", (side, side)):
            raise ValueError(f"an image is {image.mode} of size {image.size}")
        pixels = np.asarray(image)
    return pixels, features["label"].int64_list.value[0]
