"""Download CIFAR-10 or STL-10 and prepare it for sslstep; needs TensorFlow, once.

tensorflow-datasets prepares data with TensorFlow, which sslstep does not use. ``make data``
therefore runs this file by path in a separate environment (``requirements-prepare.txt``), without
sslstep and JAX. It imports only the standard library and tensorflow_datasets.
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

# The archive, its extracted content and the prepared data are about equally large.
SPACE_PER_ARCHIVE_BYTE = 3

EPILOG = """\
The archives are 0.2 GB (cifar10) and 2.6 GB (stl10). Preparing needs three times as much disk
space; deleting DIR/downloads afterwards frees two thirds of it. If the program is interrupted, run
it again: a finished download is kept. Without network, put the archive into DIR/downloads/manual
first. Data prepared in tfrecord format are copied to array_record files in the same folder.
"""


class PreparationError(Exception):
    """A failure that the user can fix; the message is one line."""


def main(arguments: list[str] | None = None) -> int:
    """Run the command line and return the exit status."""
    options = parser().parse_args(arguments)
    # TensorFlow only copies data here: it needs no start-up log and no GPU.
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
    os.environ.setdefault("CUDA_VISIBLE_DEVICES", "-1")
    try:
        print(prepare(options.name, options.data_dir, overwrite=options.overwrite))
    except KeyboardInterrupt:
        print("\ninterrupted: run the same command again to continue", file=sys.stderr)
        return 130
    except PreparationError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    return 0


def parser() -> argparse.ArgumentParser:
    """Build the parser of the command line."""
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
        help="folder of prepared data (default: $TFDS_DATA_DIR, or else ~/tensorflow_datasets)",
    )
    wanted.add_argument(
        "--overwrite", action="store_true", help="replace prepared data, for example damaged ones"
    )
    return wanted


def prepare(name: str, data_dir: Path | None, *, overwrite: bool = False) -> str:
    """Prepare a data set in array_record format, if necessary; return a line of report."""
    missing = [module for module in NEEDED if find_spec(module) is None]
    if missing:
        raise PreparationError(
            f"{', '.join(missing)} not installed: preparing needs the packages of "
            f"{Path(__file__).with_name('requirements-prepare.txt')}"
        )
    import tensorflow_datasets as tfds

    # From the class: a builder would read the prepared data, which may be damaged.
    urls = tfds.builder_cls(name).url_infos
    if data_dir is None:
        data_dir = Path(tfds.core.constants.DATA_DIR).expanduser().absolute()
    folder = data_dir / name / str(tfds.builder_cls(name).VERSION)
    if folder.exists() and not overwrite:
        done = "was already prepared"
        if FORMAT not in formats(folder):
            copy_records(tfds.builder_from_directory(folder))
            done = f"was already prepared, and has been copied to {FORMAT} format"
    else:
        require_space(urls, folder)
        require_network(urls, data_dir / "downloads")
        generate(name, folder)
        done = "has been prepared"
    return f"{name} {done}: {contents(tfds.builder_from_directory(folder))} in {folder}"


def formats(folder: Path) -> list[str]:
    """Formats in which a folder holds its records."""
    info = read_info(folder)
    return [info.get("fileFormat", "tfrecord"), *info.get("alternativeFileFormats", [])]


def read_info(folder: Path) -> dict[str, Any]:
    """Read TFDS's description of a prepared folder."""
    try:
        return dict(json.loads((folder / "dataset_info.json").read_text(encoding="utf-8")))
    except (OSError, ValueError) as error:
        raise PreparationError(
            f"{folder} has no readable dataset_info.json ({error}): "
            f"prepare it again with --overwrite"
        ) from error


def contents(builder: Any) -> str:
    """List the splits and their numbers of images; raise if a file is missing."""
    builder.info.set_file_format(FORMAT, override=True, override_if_initialized=True)
    for split in builder.info.splits.values():
        missing = [path for path in split.filepaths if not path.is_file()]
        if missing:
            raise PreparationError(f"{missing[0]} is missing: prepare again with --overwrite")
    counts = [f"{name} {split.num_examples}" for name, split in builder.info.splits.items()]
    return ", ".join(counts)


def generate(name: str, folder: Path) -> None:
    """Download and prepare; existing data are removed on success and restored on failure."""
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
    """Rename a folder during the body; delete it on success, restore it on failure."""
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
    """Raise if the disk has too little space for the archive and the prepared data."""
    needed = SPACE_PER_ARCHIVE_BYTE * sum(int(info.size) for info in urls.values())
    there = next(parent for parent in folder.parents if parent.exists())
    free = shutil.disk_usage(there).free
    if free < needed:
        raise PreparationError(
            f"not enough disk space in {there}: "
            f"{needed / 1e9:.1f} GB needed, {free / 1e9:.1f} GB free"
        )


def require_network(urls: dict[str, Any], downloads: Path) -> None:
    """Raise if an archive must be downloaded and the server is out of reach.

    TFDS alone would retry for minutes.
    """
    fetched = " ".join(note.read_text(encoding="utf-8") for note in downloads.rglob("*.INFO"))
    for url, info in urls.items():
        manual = downloads / "manual" / info.filename
        if manual.is_file() or url in fetched:
            continue  # already downloaded; TFDS verifies the checksum
        try:
            request = urllib.request.Request(url, method="HEAD")
            urllib.request.urlopen(request, timeout=30).close()
        except urllib.error.HTTPError:
            pass  # the server answers: TFDS reports the error
        except OSError as error:
            raise PreparationError(
                f"cannot reach {url} ({error}): try again, or download it on another computer and "
                f"put it at {manual}"
            ) from error


def copy_records(builder: Any) -> None:
    """Copy prepared data from tfrecord to array_record format, in the same folder."""
    from tensorflow_datasets.core import file_adapters as adapters

    folder = Path(builder.data_path)
    source = adapters.TfRecordFileAdapter
    if source.FILE_SUFFIX not in formats(folder):
        raise PreparationError(
            f"{folder} holds the format {' and '.join(formats(folder))}, which is not supported: "
            f"prepare it again with --overwrite"
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
        # Written last, so that an interrupted copy is not listed.
        info = read_info(folder)
        info["alternativeFileFormats"] = [*info.get("alternativeFileFormats", []), FORMAT]
        partial = folder / "dataset_info.json.partial"
        partial.write_text(json.dumps(info, indent=2) + "\n", encoding="utf-8")
        partial.replace(folder / "dataset_info.json")
    except OSError as error:
        raise PreparationError(f"{folder}: {error}") from error


if __name__ == "__main__":
    sys.exit(main())
