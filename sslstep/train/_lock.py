"""One process at a time in a folder."""

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

__all__ = ["InUseError", "held"]

# Of the locks that this process holds; a forked child lets go of its copies.
_descriptors: set[int] = set()
# What a file system answers that has no locks.
_NO_LOCKS = (errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP, errno.EINVAL)


class InUseError(OSError):
    """Another process, or another call of this one, works in the folder."""


@contextlib.contextmanager
def held(path: Path, what: str) -> Iterator[None]:
    """Hold a lock file, which tells whose it is, or refuse with the holder's process.

    It is the operating system's lock (``flock``): it ends with its process, however that dies, so
    that a file that is left behind blocks nobody. On NFS it counts for other hosts too. A child
    that the holder forks does not hold it.

    Args:
        path: of the lock file, whose folder exists. It is removed at the end.
        what: what is held, for the error: ``"the run in results/a"``.

    Raises:
        InUseError: if it is held.
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
            with contextlib.suppress(OSError):  # removed with its folder, say
                path.unlink()
            os.close(descriptor)


def _locked(path: Path, what: str) -> int | None:
    """The descriptor of the file, locked; None where there are no locks."""
    while True:
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o666)
        try:
            if fcntl is None:
                raise OSError(errno.ENOSYS, os.strerror(errno.ENOSYS))
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            # Whoever held it may have removed it in the meantime: then it is no longer the file.
            if path.exists() and os.path.samestat(os.fstat(descriptor), path.stat()):
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
    """Who says in the file that it is his; he may be just about to."""
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
