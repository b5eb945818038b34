"""What a command does about the terminal that it writes to."""

import io
import sys

__all__ = ["accept_any_text"]


def accept_any_text() -> None:
    """Have standard output and errors show "?" for what their encoding lacks, such as γ in ASCII.

    Else printing would end a command, perhaps after hours of work. For programs, not for imports.
    """
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="replace")
