"""Fetch CIFAR-10 or STL-10 and prepare it for sslstep: run once, where there is TensorFlow.

tensorflow-datasets prepares data with TensorFlow, which sslstep itself does not use. So this file
is run by its path, by ``make data``, in an environment that need not hold sslstep or JAX: it
imports the standard library and tensorflow_datasets, no more. What to install is in
``requirements-prepare.txt``.
"""

import argparse
import json
import os
import shutil
import sys
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path
from typing import Any

__all__: list[str] = []

NAMES = ("cifar10", "stl10")
FORMAT = "array_record"

NEEDED = ("tensorflow", "tensorflow_datasets", "array_record", "importlib_resources")

# The archive, what is in it, and the prepared data are each about as large as the archive.
SPACE_PER_ARCHIVE_BYTE = 3

EPILOG = """\
The archives are 0.2 GB (cifar10) and 2.6 GB (stl10); three times as much disk space is needed,
two thirds of which is free again after deleting DIR/downloads. Interrupted, run it again: a
finished download is kept. Without network, put the archive into DIR/downloads/manual first. Data
that are there in the tfrecord format are copied into the array_record format, beside it.
"""


class PreparationError(Exception):
    """What a user can mend; the message is one line."""


def main(arguments: list[str] | None = None) -> int:
    """Prepare what the command line asks for; the exit status."""
    options = parser().parse_args(arguments)
    # Numbers are only copied here: no log of TensorFlow's start, and no GPU taken.
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
    os.environ.setdefault("CUDA_VISIBLE_DEVICES", "-1")
    try:
        print(prepare(options.name, options.data_dir, overwrite=options.overwrite))
    except KeyboardInterrupt:
        print("\ninterrupted: run the same command again to go on", file=sys.stderr)
        return 130
    except PreparationError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    return 0


def parser() -> argparse.ArgumentParser:
    """The command line."""
    wanted = argparse.ArgumentParser(
        prog="prepare.py",
        description="Fetch CIFAR-10 or STL-10 and prepare it for sslstep.",
        epilog=EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    wanted.add_argument("name", choices=NAMES, help="the data set")
    wanted.add_argument(
        "--data-dir",
        metavar="DIR",
        type=lambda text: Path(text).expanduser().absolute(),
        help="where prepared data lie (default: $TFDS_DATA_DIR, or else ~/tensorflow_datasets)",
    )
    wanted.add_argument(
        "--overwrite", action="store_true", help="prepare anew what is there, when it is damaged"
    )
    return wanted


def prepare(name: str, data_dir: Path | None, *, overwrite: bool = False) -> str:
    """Make sure that a data set is there in array_record format; a line to say what is there."""
    missing = [module for module in NEEDED if find_spec(module) is None]
    if missing:
        raise PreparationError(
            f"{', '.join(missing)} not installed: preparing needs the packages of "
            f"{Path(__file__).with_name('requirements-prepare.txt')}"
        )
    import tensorflow_datasets as tfds

    # Of the class, not of a builder, which would read what is there, and that may be damaged.
    urls = tfds.builder_cls(name).url_infos
    if data_dir is None:
        data_dir = Path(tfds.core.constants.DATA_DIR).expanduser().absolute()
    folder = data_dir / name / str(tfds.builder_cls(name).VERSION)
    if folder.exists() and not overwrite:
        done = "was there already"
        if FORMAT not in formats(folder):
            copy_records(tfds.builder_from_directory(folder))
            done = f"was there, and is now also in {FORMAT} format"
    else:
        require_space(urls, folder)
        require_network(urls, data_dir / "downloads")
        generate(name, folder)
        done = "is prepared"
    return f"{name} {done}: {contents(tfds.builder_from_directory(folder))} in {folder}"


def formats(folder: Path) -> list[str]:
    """The formats in which a folder holds its records."""
    info = read_info(folder)
    return [info.get("fileFormat", "tfrecord"), *info.get("alternativeFileFormats", [])]


def read_info(folder: Path) -> dict[str, Any]:
    """TFDS's description of a prepared folder."""
    try:
        return dict(json.loads((folder / "dataset_info.json").read_text(encoding="utf-8")))
    except (OSError, ValueError) as error:
        raise PreparationError(
            f"{folder} has no readable dataset_info.json ({error}): "
            f"prepare it anew with --overwrite"
        ) from error


def contents(builder: Any) -> str:
    """The splits and their numbers of images; every file is there."""
    builder.info.set_file_format(FORMAT, override=True, override_if_initialized=True)
    for split in builder.info.splits.values():
        missing = [path for path in split.filepaths if not path.is_file()]
        if missing:
            raise PreparationError(f"{missing[0]} is missing: prepare anew with --overwrite")
    counts = [f"{name} {split.num_examples}" for name, split in builder.info.splits.items()]
    return ", ".join(counts)


def generate(name: str, folder: Path) -> None:
    """Download and prepare. What was there is removed if that succeeds, and kept if not."""
    import tensorflow_datasets as tfds
    from tensorflow_datasets.core.download import download_manager, extractor

    try:
        with set_aside(folder):
            builder = tfds.builder(name, data_dir=folder.parent.parent)
            builder.download_and_prepare(file_format=FORMAT)
    except (
        OSError,
        tfds.download.DownloadError,
        download_manager.NonMatchingChecksumError,
        extractor.ExtractError,
    ) as error:
        reason = " ".join(str(error).split())
        raise PreparationError(f"{name} could not be prepared: {reason}") from error


@contextmanager
def set_aside(folder: Path) -> Iterator[None]:
    """Move a folder away, and back if the body fails."""
    aside = folder.with_name(f"{folder.name}.replaced")
    if folder.exists():
        shutil.rmtree(aside, ignore_errors=True)
        folder.rename(aside)
    try:
        yield
    except BaseException:
        if aside.exists() and not folder.exists():
            aside.rename(folder)
        raise
    shutil.rmtree(aside, ignore_errors=True)


def require_space(urls: dict[str, Any], folder: Path) -> None:
    """Fail before the download if the disk cannot hold what it leads to."""
    needed = SPACE_PER_ARCHIVE_BYTE * sum(int(info.size) for info in urls.values())
    there = next(parent for parent in folder.parents if parent.exists())
    free = shutil.disk_usage(there).free
    if free < needed:
        raise PreparationError(
            f"not enough disk space in {there}: "
            f"{needed / 1e9:.1f} GB needed, {free / 1e9:.1f} GB free"
        )


def require_network(urls: dict[str, Any], downloads: Path) -> None:
    """Fail at once if the archive has to be fetched and cannot: TFDS would try for minutes."""
    fetched = " ".join(note.read_text(encoding="utf-8") for note in downloads.rglob("*.INFO"))
    for url, info in urls.items():
        manual = downloads / "manual" / info.filename
        if manual.is_file() or url in fetched:
            continue  # by the user or by TFDS, which checks what it is
        try:
            request = urllib.request.Request(url, method="HEAD")
            urllib.request.urlopen(request, timeout=30).close()
        except urllib.error.HTTPError:
            pass  # an answer: TFDS will say what is wrong with it
        except OSError as error:
            raise PreparationError(
                f"cannot reach {url} ({error}): try again, or fetch it elsewhere and put it at "
                f"{manual}"
            ) from error


def copy_records(builder: Any) -> None:
    """Copy prepared data from tfrecord into array_record format, in the same folder."""
    from tensorflow_datasets.core import file_adapters as adapters

    folder = Path(builder.data_path)
    source = adapters.TfRecordFileAdapter
    if source.FILE_SUFFIX not in formats(folder):
        raise PreparationError(
            f"{folder} holds the format {' and '.join(formats(folder))}, which is not supported: "
            f"prepare it anew with --overwrite"
        )
    try:
        for split in builder.info.splits.values():
            for path in map(Path, split.filepaths):
                target = path.with_name(path.name.replace(source.FILE_SUFFIX, FORMAT))
                print(f"copying {path.name} to {target.name}")
                partial = target.with_name(f"{target.name}.partial")
                records = source.make_tf_data(str(path)).as_numpy_iterator()
                adapters.ArrayRecordFileAdapter.write_examples(
                    partial, ((None, record) for record in records)
                )
                partial.replace(target)
        # Last, so that an interrupted copy does not count as made.
        info = read_info(folder)
        info["alternativeFileFormats"] = [*info.get("alternativeFileFormats", []), FORMAT]
        partial = folder / "dataset_info.json.partial"
        partial.write_text(json.dumps(info, indent=2) + "\n", encoding="utf-8")
        partial.replace(folder / "dataset_info.json")
    except OSError as error:
        raise PreparationError(f"{folder}: {error}") from error


if __name__ == "__main__":
    sys.exit(main())
