"""TensorBoard's event files, read back as TensorBoard reads them."""

import json
import struct
import subprocess
import sys

import jax.numpy as jnp
import numpy as np
import pytest
import tiny
from tensorboardX.crc32c import crc32c
from tensorboardX.proto.event_pb2 import Event

from sslstep import train


def events(path):
    """All events of a file; each length and each event with its checksum."""

    def require_checksum(text, found):
        crc = crc32c(text)
        assert found == ((((crc >> 15) | (crc << 17)) & 0xFFFFFFFF) + 0xA282EAD8) & 0xFFFFFFFF

    raw, at, found = path.read_bytes(), 0, []
    while at < len(raw):
        length, crc = struct.unpack("<QI", raw[at : at + 12])
        require_checksum(raw[at : at + 8], crc)
        text = raw[at + 12 : at + 12 + length]
        require_checksum(text, *struct.unpack("<I", raw[at + 12 + length : at + 16 + length]))
        found.append(Event.FromString(text))
        at += 16 + length
    return found


def scalars(path):
    """Each tag's steps and values."""
    series = {}
    for event in events(path):
        for value in event.summary.value:
            steps, values = series.setdefault(value.tag, ([], []))
            steps.append(event.step)
            values.append(value.simple_value)
    return series


def write_lines(path, rows, tail=""):
    path.write_text("".join(json.dumps(row) + "\n" for row in rows) + tail)


@pytest.fixture
def folder(tmp_path):
    """What a run leaves, halfway through a line of its metrics."""
    metrics = [{"step": k + 1, "loss": 3 - k / 10, "grad_norm": 0.5} for k in range(5)]
    write_lines(tmp_path / "metrics.jsonl", metrics, tail='{"step": 6, "lo')
    records = [
        {"step": k, "learned": k // 2, "correlation": [k / 4, k / 8, -0.1], "matrix": [[1.0]]}
        for k in (0, 4)
    ]
    write_lines(tmp_path / "records.jsonl", records)
    return tmp_path


def test_all_numbers_are_there(folder):
    path = train.write_tensorboard(folder, num_modes=2)
    assert events(path)[0].file_version == "brain.Event:2"
    steps = [event.step for event in events(path)]
    assert steps == sorted(steps)
    found = scalars(path)
    # Numbers of an event file are float32.
    np.testing.assert_allclose(found["loss"], [[1, 2, 3, 4, 5], [3, 2.9, 2.8, 2.7, 2.6]], rtol=1e-7)
    assert found["learned"] == ([0, 4], [0.0, 2.0])
    assert found["correlation/01"] == ([0, 4], [0.0, 1.0])
    assert found["correlation/02"] == ([0, 4], [0.0, 0.5])
    assert set(found) == {"loss", "grad_norm", "learned", "correlation/01", "correlation/02"}


def test_what_a_row_lacks_is_no_point(tmp_path, monkeypatch):
    rows = [{"step": 1, "loss": 3.0, "done": False}, {"step": 2, "loss": 2.0, "accuracy": 0.5}]
    write_lines(tmp_path / "metrics.jsonl", rows)
    monkeypatch.setenv("HOME", str(tmp_path))
    path = train.write_tensorboard(tmp_path, "~/events")
    assert path.parent == tmp_path / "events"
    wanted = {"loss": ([1, 2], [3.0, 2.0]), "done": ([1], [0.0]), "accuracy": ([2], [0.5])}
    assert scalars(path) == wanted


def test_another_call_appends(folder):
    """Whoever has the file open reads on; and what a crash left of an append is completed."""
    with train.write_tensorboard(folder).open("rb") as reader:
        before = reader.read()
        with (folder / "metrics.jsonl").open("a") as file:  # the run goes on
            file.write('ss": 2.5, "grad_norm": 0.5}\n')
        path = train.write_tensorboard(folder)
        after = before + reader.read()
    assert len(after) > len(before)
    assert path.read_bytes() == after
    assert scalars(path)["loss"][0] == [1, 2, 3, 4, 5, 6]
    path.write_bytes(after[:-3])
    assert train.write_tensorboard(folder).read_bytes() == after


def test_another_call_replaces_its_own_file_only(folder):
    log_dir = folder / "elsewhere" / "logs"
    path = train.write_tensorboard(folder, log_dir, num_modes=2)
    other = log_dir / "events.out.tfevents.9999999999.other"
    other.write_bytes(b"not ours")
    assert train.write_tensorboard(folder, log_dir, num_modes=1) == path
    assert {tag for tag in scalars(path) if "/" in tag} == {"correlation/01"}
    assert sorted(log_dir.iterdir()) == sorted([path, other])
    assert other.read_bytes() == b"not ours"


def test_a_run_of_fit(tmp_path):
    x, x_prime = jnp.asarray(tiny.IMAGES), jnp.asarray(tiny.IMAGES[::-1])
    record = train.make_record(tiny.NETWORK, x, x_prime, batch_size=32)
    run = tiny.fit(tmp_path, 3, record=record, record_at=(0, 3))
    command = [sys.executable, "-W", "error", "-m", "sslstep.train.tensorboard", str(tmp_path)]
    result = subprocess.run(command, capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stderr
    (path,) = (tmp_path / "tensorboard").iterdir()
    assert result.stdout.strip() == str(path)
    found = scalars(path)
    np.testing.assert_allclose(found["loss"][1], run.metrics["loss"], rtol=1e-6)
    for j in range(3):
        values = found[f"correlation/{j + 1:02d}"][1]
        np.testing.assert_allclose(values, run.records["correlation"][:, j], rtol=1e-6)


def test_says_what_is_missing(folder, tmp_path, monkeypatch):
    with pytest.raises(FileNotFoundError, match=r"no run of .*: there is no metrics.jsonl"):
        train.write_tensorboard(tmp_path / "nowhere")
    with pytest.raises(ValueError, match="num_modes must be >= 0, got -1"):
        train.write_tensorboard(folder, num_modes=-1)
    monkeypatch.setitem(sys.modules, "tensorboardX", None)
    with pytest.raises(ModuleNotFoundError, match=r"pip install 'sslstep\[tensorboard\]'"):
        train.write_tensorboard(folder)
    assert not (folder / "tensorboard").exists()
