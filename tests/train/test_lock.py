"""One process at a time in a folder, and none that is blocked by a dead one."""

import contextlib
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import tiny

from sslstep import train
from sslstep.experiment import _run, load
from sslstep.train import _lock

SCRIPT = Path(tiny.__file__)


def begun(folder, num_steps=100_000):
    """A process that trains in the folder, as soon as it does."""
    process = subprocess.Popen([sys.executable, SCRIPT, folder, str(num_steps)])
    metrics = folder / "metrics.jsonl"
    while not metrics.exists() or not metrics.stat().st_size:
        assert process.poll() is None
        time.sleep(0.01)
    return process


@pytest.mark.slow
def test_a_second_run_in_a_folder_is_refused_and_a_dead_one_blocks_nobody(tmp_path):
    first = begun(tmp_path / "run")
    try:
        for folder in (tmp_path / "run", tmp_path / "link"):
            if folder.name == "link":
                folder.symlink_to(tmp_path / "run")
            with pytest.raises(train.InUseError, match=rf"process {first.pid} on .*tiny\.py"):
                tiny.fit(folder, 40)
        assert len(train.read_run(tmp_path / "run")[0]["step"])  # a reader is no second run
        assert (tmp_path / "run" / "lock").exists()
    finally:
        first.send_signal(signal.SIGKILL)
        first.wait()
    run = tiny.fit(tmp_path / "run", 5000, checkpoint_every=5000, steps_per_dispatch=500)
    assert run.metrics["step"].tolist() == list(range(1, 5001))
    assert not (tmp_path / "run" / "lock").exists()


def test_a_run_within_itself_is_refused(tmp_path):
    def again(state):
        with pytest.raises(train.InUseError, match=f"process {os.getpid()} on "):
            tiny.fit(tmp_path / "run", 10)
        return {}

    tiny.fit(tmp_path / "run", 4, record=again, record_at=[2])
    assert tiny.fit(tmp_path / "run", 6).metrics["step"].tolist() == [1, 2, 3, 4, 5, 6]


def test_a_lock_of_a_folder_made_anew_is_not_removed_by_the_earlier_holder(tmp_path):
    path = tmp_path / "run" / "lock"
    with contextlib.ExitStack() as later:
        path.parent.mkdir()
        with _lock.held(path, "it"):
            shutil.rmtree(path.parent)
            path.parent.mkdir()
            later.enter_context(_lock.held(path, "it"))
        with pytest.raises(train.InUseError), _lock.held(path, "it"):
            pass
    assert not path.exists()


FORKS = """
import os, sys, time
from pathlib import Path
from sslstep.train import _lock

with _lock.held(Path(sys.argv[1]), "it"):
    child = os.fork()
    if child:
        print(child, flush=True)
    time.sleep(60)
"""


@pytest.mark.slow
def test_a_forked_child_does_not_hold_what_its_parent_held(tmp_path):
    """As a worker that loads data, and outlives a killed run."""
    command = [sys.executable, "-c", FORKS, tmp_path / "lock"]
    holder = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    child = int(holder.stdout.readline())
    try:
        message = f"it is in use by process {holder.pid} on "
        with pytest.raises(train.InUseError, match=message), _lock.held(tmp_path / "lock", "it"):
            pass
        holder.kill()
        holder.wait()
        os.kill(child, 0)  # it lives
        with _lock.held(tmp_path / "lock", "it"):
            pass
    finally:
        holder.stdout.close()
        os.kill(child, signal.SIGKILL)


def test_where_there_are_no_locks_it_says_so(tmp_path, monkeypatch):
    monkeypatch.setattr(_lock, "fcntl", None)
    with pytest.warns(UserWarning, match="file system without locks"):
        tiny.fit(tmp_path / "run", 2)


def test_a_second_command_with_the_same_results_is_refused(tmp_path):
    """It would leave the settings of one beside the claims of the other."""
    out, experiment = tmp_path / "new" / "results", load("experiments.fig8")
    (tmp_path / "link").symlink_to(tmp_path / "new")

    def run(config):
        for path in (out, tmp_path / "link" / "results"):
            with pytest.raises(train.InUseError, match=rf"out = .* process {os.getpid()} on "):
                _run.main(experiment, ["--out", str(path)])
        return {}

    quick = experiment._replace(run=run, plot=lambda *_: {}, check=lambda *_: [])
    _run.main(quick, ["--out", str(out)])
    assert (out / "claims.json").exists()
    assert os.listdir(tmp_path / "new") == ["results"]


def test_a_command_that_fails_leaves_no_lock(tmp_path):
    def fails(config):
        raise ValueError("no")

    failing = load("experiments.fig8")._replace(run=fails)
    with pytest.raises(ValueError, match="no"):
        _run.main(failing, ["--out", str(tmp_path / "new" / "results")])
    assert os.listdir(tmp_path) == []
