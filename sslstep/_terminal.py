"""Output of commands to terminals."""

import io
import sys


def accept_any_text() -> None:
    """Make standard output and errors print "?" for characters that their encoding lacks.

    Without this, printing a letter such as γ to an ASCII terminal ends a command with an error,
    perhaps after hours of work. Commands call it; importing sslstep does not.
    """
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="replace")
