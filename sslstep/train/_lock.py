"""A lock file that admits one process at a time to a folder."""

import contextlib
import errno
import os
import shlex
import socket
import sys
import time
import warnings
from collections.abc import Iterator
from pathlib import Path

try:
    import fcntl
except ImportError:  # on Windows
    fcntl = None  # type: ignore[assignment]

# File descriptors of the locks that this process holds; a forked child closes its copies.
_descriptors: set[int] = set()
# Errors of a file system without locks.
_NO_LOCKS = (errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP, errno.EINVAL)


class InUseError(OSError):
    """The folder is in use by another process, or by another call in this process."""


@contextlib.contextmanager
def held(path: Path, what: str) -> Iterator[None]:
    """Hold a lock file within a ``with`` block, or raise an error that names its holder.

    The lock is the operating system's (``flock``). It ends when its process ends or is killed, so a
    file that is left behind blocks nobody. On NFS it excludes other hosts too. A forked child does
    not hold the lock.

    Args:
        path: path of the lock file, in an existing folder. The file is removed at the end.
        what: name of the locked thing for the error, such as ``"the run in results/a"``.

    Raises:
        InUseError: if another process or another call holds the lock.
    """
    descriptor = _locked(path, what)
    if descriptor is None:
        yield
        return
    _descriptors.add(descriptor)
    owner = os.getpid()
    try:
        os.ftruncate(descriptor, 0)
        os.write(descriptor, _myself().encode("utf-8", "backslashreplace"))
        yield
    finally:
        if os.getpid() == owner:
            _descriptors.discard(descriptor)
            with contextlib.suppress(OSError):  # such as a folder that has been removed
                if os.path.samestat(os.fstat(descriptor), path.stat()):  # not another run's
                    path.unlink()
            os.close(descriptor)


def _locked(path: Path, what: str) -> int | None:
    """Open and lock the file; return its descriptor, or None on a file system without locks."""
    while True:
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o666)
        try:
            if fcntl is None:
                raise OSError(errno.ENOSYS, os.strerror(errno.ENOSYS))
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            # The earlier holder may have removed the file after it was opened here: try again.
            with contextlib.suppress(FileNotFoundError):
                if os.path.samestat(os.fstat(descriptor), path.stat()):
                    return descriptor
            os.close(descriptor)
        except BlockingIOError as error:
            holder = _holder(descriptor)
            os.close(descriptor)
            raise InUseError(
                f"{what} is in use by {holder}. Wait for it, or name another folder."
            ) from error
        except OSError as error:
            os.close(descriptor)
            if error.errno not in _NO_LOCKS:
                raise
            warnings.warn(
                f"{path.parent} is on a file system without locks ({error.strerror}): see to it "
                f"that no other process works on {what}.",
                stacklevel=5,
            )
            return None


def _holder(descriptor: int) -> str:
    """Read the holder's description from the file; wait up to a second until it is written."""
    for _ in range(20):
        if text := os.pread(descriptor, 2000, 0).decode("utf-8", "replace").strip():
            return text
        time.sleep(0.05)
    return "another process"


def _myself() -> str:
    command = shlex.join(sys.orig_argv)
    since = time.strftime("%Y-%m-%d %H:%M:%S")
    return f"process {os.getpid()} on {socket.gethostname()} since {since} ({command[:500]})"


def _let_go() -> None:
    for descriptor in _descriptors:
        with contextlib.suppress(OSError):
            os.close(descriptor)
    _descriptors.clear()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_let_go)
