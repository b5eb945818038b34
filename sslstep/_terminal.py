"""Output of commands to terminals."""

import io
import sys
from typing import Any


def progress_bar(show: bool | None, **settings: Any) -> Any:
    """Return a bar of tqdm with these settings; with `show` None it appears on a terminal only."""
    from tqdm import tqdm  # here, so that importing costs no more than JAX

    return tqdm(disable=None if show is None else not show, **settings)


def accept_any_text() -> None:
    """Make standard output and errors print "?" for characters that their encoding lacks.

    Without this, printing a letter such as γ to an ASCII terminal ends a command with an error,
    perhaps after hours of work. Commands call it; importing sslstep does not.
    """
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="replace")
