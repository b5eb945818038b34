"""Files that are complete under their names, or not there."""

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
