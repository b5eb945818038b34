"""Prepared data of TFDS's form, made without TensorFlow."""

import io
import json
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pytest

VERSIONS = {"cifar10": "3.0.2", "stl10": "1.0.0"}
SIDES = {"cifar10": 32, "stl10": 96}


class Written(NamedTuple):
    """What a prepared folder holds: images and labels by split."""

    folder: Path
    images: dict[str, np.ndarray]
    labels: dict[str, np.ndarray]


def png(pixels: np.ndarray) -> bytes:
    from PIL import Image

    out = io.BytesIO()
    Image.fromarray(pixels).save(out, "PNG")
    return out.getvalue()


def record(image: bytes, label: int) -> bytes:
    """A serialised ``tf.train.Example`` of the features that TFDS's builders declare."""
    from tensorflow_datasets.proto import tf_example_pb2

    example = tf_example_pb2.Example()
    example.features.feature["id"].bytes_list.value.append(b"an id")
    example.features.feature["image"].bytes_list.value.append(image)
    example.features.feature["label"].int64_list.value.append(label)
    return example.SerializeToString()


def write_records(path: Path, records: list[bytes]) -> None:
    from array_record.python.array_record_module import ArrayRecordWriter

    writer = ArrayRecordWriter(str(path), "group_size:1")
    for each in records:
        writer.write(each)
    writer.close()


def features(side: int) -> dict:
    module = "tensorflow_datasets.core.features"
    shape = {"dimensions": [str(side), str(side), "3"]}
    image = {
        "pythonClassName": f"{module}.image_feature.Image",
        "image": {"dtype": "uint8", "shape": shape},
    }
    label = {
        "pythonClassName": f"{module}.class_label_feature.ClassLabel",
        "classLabel": {"numClasses": "10"},
    }
    return {
        "pythonClassName": f"{module}.features_dict.FeaturesDict",
        "featuresDict": {"features": {"image": image, "label": label}},
    }


def info(name: str, version: str, splits: dict[str, list[int]], formats: list[str]) -> dict:
    template = "{DATASET}-{SPLIT}.{FILEFORMAT}-{SHARD_X_OF_Y}"
    described = [
        {
            "name": split,
            "filepathTemplate": template,
            "numBytes": "1",
            "shardLengths": [str(length) for length in lengths],
        }
        for split, lengths in splits.items()
    ]
    out = {"name": name, "version": version, "fileFormat": formats[0], "splits": described}
    return out | ({"alternativeFileFormats": formats[1:]} if formats[1:] else {})


class Writer:
    """Writes data sets of random images, below the root unless another folder is given."""

    png = staticmethod(png)
    record = staticmethod(record)
    write_records = staticmethod(write_records)

    def __init__(self, root: Path):
        self.root = root

    def __call__(
        self,
        name: str = "cifar10",
        splits: dict[str, list[int]] | None = None,
        *,
        root: Path | None = None,
        version: str | None = None,
        formats: tuple[str, ...] = ("array_record",),
        seed: int = 0,
        labelled: bool = True,
    ) -> Written:
        splits = {"train": [3, 2], "test": [4]} if splits is None else splits
        version = version or VERSIONS[name]
        folder = (root or self.root) / name / version
        folder.mkdir(parents=True)
        rng = np.random.default_rng(seed)
        images, labels = {}, {}
        for split, lengths in splits.items():
            total, side = sum(lengths), SIDES[name]
            images[split] = rng.integers(0, 256, (total, side, side, 3), dtype=np.uint8)
            labels[split] = rng.integers(0, 10, total) if labelled else np.full(total, -1)
            records = [
                record(png(image), int(label))
                for image, label in zip(images[split], labels[split], strict=True)
            ]
            start = 0
            for shard, length in enumerate(lengths):
                file = f"{name}-{split}.array_record-{shard:05d}-of-{len(lengths):05d}"
                write_records(folder / file, records[start : start + length])
                start += length
        described = info(name, version, splits, list(formats))
        (folder / "dataset_info.json").write_text(json.dumps(described))
        (folder / "features.json").write_text(json.dumps(features(SIDES[name])))
        return Written(folder, images, labels)


@pytest.fixture
def write(tmp_path: Path) -> Writer:
    return Writer(tmp_path)


@pytest.fixture
def no_network(monkeypatch: pytest.MonkeyPatch) -> None:
    """Opening a socket fails."""

    def refuse(*args: object, **kwargs: object) -> None:
        raise AssertionError("the network was used")

    for name in ("socket", "create_connection", "getaddrinfo"):
        monkeypatch.setattr(f"socket.{name}", refuse)
