"""Files that appear under their names only when they are complete."""

import os
import threading
from collections.abc import Callable
from pathlib import Path
from typing import BinaryIO


def write(path: Path, write_to: Callable[[BinaryIO], object]) -> None:
    """Call `write_to` with an open draft, which replaces the file at a path once on the disk.

    If it fails, an existing file stays as it is, and the draft is removed. Writers of one path have
    drafts of their own: the last one to end replaces the file of the others.
    """
    draft = path.with_name(f"{path.name}.{os.getpid()}.{threading.get_ident()}.draft")
    try:
        with draft.open("wb") as file:
            write_to(file)
            file.flush()
            os.fsync(file.fileno())  # a power cut must not leave an empty file of this name
        draft.replace(path)
    except BaseException:
        draft.unlink(missing_ok=True)
        raise


def write_utf8(path: Path, text: str) -> None:
    """Write a text file in UTF-8, likewise."""
    write(path, lambda file: file.write(text.encode()))
