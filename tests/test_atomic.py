"""Files that are complete under their names, or not there."""

from concurrent.futures import ThreadPoolExecutor
from threading import Barrier

import pytest

from sslstep import _atomic


def test_a_write_that_fails_leaves_the_old_file(tmp_path):
    path = tmp_path / "state.npz"
    _atomic.write_utf8(path, "α")
    assert path.read_bytes() == "α".encode()

    def fail(file):
        file.write(b"half")
        raise OSError("full")

    with pytest.raises(OSError, match="full"):
        _atomic.write(path, fail)
    assert path.read_bytes() == "α".encode()
    assert list(tmp_path.iterdir()) == [path]


def test_writers_of_one_file_at_once_do_not_mix(tmp_path):
    path, together = tmp_path / "state.npz", Barrier(2, timeout=60)

    def write(letter):
        def write_to(file):
            file.write(100 * letter)
            together.wait()
            file.write(100 * letter)
            together.wait()

        _atomic.write(path, write_to)

    with ThreadPoolExecutor(2) as pool:
        list(pool.map(write, (b"a", b"b")))
    assert path.read_bytes() in (200 * b"a", 200 * b"b")
    assert list(tmp_path.iterdir()) == [path]
