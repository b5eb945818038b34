"""Records of a loop in another framework: the numbers, the files, and what is refused."""

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import jax.numpy as jnp
import numpy as np
import pytest
import tiny

from sslstep import train
from sslstep.measure import quality, spectrum


def loop(folder, first=0, death=None):
    """Records steps 0, 10, ... from `first` on; `death` is a step at which it dies of SIGKILL."""
    with train.Recorder(folder, settings={"rate": 0.1}, resume_at=first or None) as recorder:
        for step in range(first, 31):
            if step % 10 == 0:
                z, z_prime = np.random.default_rng(step).normal(size=(2, 40, 3))
                recorder.record(step, z, z_prime, h=z, h_prime=z_prime)
            if step == death:
                os.kill(os.getpid(), signal.SIGKILL)
            recorder.log(step + 1, loss=1 / (step + 1))


def views(num=50, dim=4, seed=0):
    return np.random.default_rng(seed).normal(size=(2, num, dim)).astype(np.float32)


class OnlyArray:
    def __init__(self, values):
        self.values = values

    def __array__(self, dtype=None, copy=None):
        return self.values


def test_what_is_recorded_is_what_make_record_measures(tmp_path):
    """To the bit, as it is one function; and of embeddings that NumPy measures alike."""
    z, z_prime = views()
    h, h_prime = views(dim=9, seed=1).reshape(2, 50, 3, 3)
    metrics = {"lidar": lambda first, second: quality.lidar(first.z, second.z)}
    with train.Recorder(tmp_path, metrics=metrics) as recorder:
        found = recorder.record(0, z, z_prime, h=h, h_prime=h_prime)
    assert set(found) == {"correlation", "covariance", "hidden", "learned", "lidar"}
    _, records = train.read_run(tmp_path)
    c = z.T @ z_prime / 50
    expected = {
        "correlation": np.linalg.eigvalsh((c + c.T) / 2)[::-1],
        "covariance": np.linalg.eigvalsh(np.cov(np.concatenate([z, z_prime]).T, bias=True))[::-1],
        "hidden": spectrum.covariance_eigenvalues(np.concatenate([h, h_prime]).reshape(100, 9)),
        "lidar": quality.lidar(z, z_prime),
    }
    for name, values in expected.items():
        np.testing.assert_array_equal(records[name][0], found[name])
        np.testing.assert_allclose(found[name], values, rtol=1e-5, atol=1e-6)


def test_arrays_of_any_framework_give_the_same_bits(tmp_path):
    torch = pytest.importorskip("torch")
    z, z_prime = views()
    kinds = {
        "numpy": lambda v: v,
        "jax": jnp.asarray,
        "torch": lambda v: torch.tensor(v.copy(), requires_grad=True) * 1,
        "array": OnlyArray,
    }
    found = {}
    for kind, made in kinds.items():
        with train.Recorder(tmp_path / kind) as recorder:
            found[kind] = recorder.record(np.int64(0), made(z), made(z_prime))
            recorder.log(
                1, loss=made(z)[0, 0] if kind != "array" else OnlyArray(np.asarray(z[0, 0]))
            )
    for kind in kinds:
        for name, values in found["numpy"].items():
            np.testing.assert_array_equal(found[kind][name], values, err_msg=kind)
        assert train.read_run(tmp_path / kind)[0]["loss"] == z[0, 0]
    short = z.astype(jnp.bfloat16)
    with train.Recorder(tmp_path / "short") as recorder:
        ours = recorder.record(0, short)
        theirs = recorder.record(1, torch.tensor(z.copy()).to(torch.bfloat16))
    assert set(ours) == {"covariance"}  # of one view
    np.testing.assert_array_equal(ours["covariance"], theirs["covariance"])


@pytest.mark.slow
def test_a_killed_loop_loses_nothing_and_goes_on_as_if_it_never_was(tmp_path):
    loop(tmp_path / "whole")
    call = "import sys, test_recorder; test_recorder.loop(sys.argv[1], death=25)"
    command = [sys.executable, "-c", call, str(tmp_path / "killed")]
    path = f"{Path(__file__).parent}:{Path(__file__).parents[2]}"
    died = subprocess.run(command, check=False, env=os.environ | {"PYTHONPATH": path})
    assert died.returncode == -signal.SIGKILL
    metrics, records = train.read_run(tmp_path / "killed")
    assert metrics["step"].tolist() == list(range(1, 26))
    assert records["step"].tolist() == [0, 10, 20]
    loop(tmp_path / "killed", first=15)  # its own checkpoint was of step 15
    for name in ("metrics.jsonl", "records.jsonl", "settings.json", "run.json"):
        one, other = ((tmp_path / run / name).read_bytes() for run in ("killed", "whole"))
        assert one == other, name


def test_folders_of_other_runs_are_refused(tmp_path):
    z, z_prime = views()
    with train.Recorder(tmp_path / "mine", settings={"rate": 1}) as recorder:
        recorder.record(5, z, z_prime)
        with pytest.raises(train.InUseError, match="is in use by process"):
            train.Recorder(tmp_path / "mine", settings={"rate": 1}, resume_at=5)
    with pytest.raises(ValueError, match="holds a run up to step 5: name another folder"):
        train.Recorder(tmp_path / "mine", settings={"rate": 1})
    with pytest.raises(ValueError, match=r"other settings .rate = 1, now 2"):
        train.Recorder(tmp_path / "mine", settings={"rate": 2}, resume_at=5)
    with pytest.raises(train.CheckpointError, match="would be overwritten"):
        tiny.fit(tmp_path / "mine", settings={"rate": 1})
    tiny.fit(tmp_path / "fit")
    with pytest.raises(ValueError, match=r"holds a run of train\.fit"):
        train.Recorder(tmp_path / "fit", resume_at=4)
    assert not list(tmp_path.glob("*/lock"))  # a refusal lets go
    with train.Recorder(tmp_path / "mine", settings={"rate": 1}, resume_at=5) as recorder:
        recorder.record(5, 2 * z, z_prime)  # where it stands: the second counts
        with pytest.raises(ValueError, match="step must be >= 5, got 4"):
            recorder.record(4, z, z_prime)
        with pytest.raises(
            ValueError, match=r"z must be of the fixed batch .*\(50, 4\).*\(20, 4\)"
        ):
            recorder.record(6, z[:20], z_prime[:20])
        with pytest.raises(ValueError, match=r"z_prime must be .* got none at step 6"):
            recorder.record(6, z)
        with pytest.raises(ValueError, match=r"h must be .*without, got shape"):
            recorder.record(6, z, z_prime, h=z, h_prime=z)
    with pytest.raises(ValueError, match="the recorder is closed"):
        recorder.log(7, loss=1.0)
    rows = (tmp_path / "mine" / "records.jsonl").read_text().splitlines()
    assert [json.loads(row)["step"] for row in rows] == [5, 5]
    np.testing.assert_allclose(
        train.read_run(tmp_path / "mine")[1]["covariance"][0],
        spectrum.covariance_eigenvalues(np.concatenate([2 * z, z_prime])),
        rtol=1e-6,
    )


def test_what_is_no_number_is_refused_and_not_written(tmp_path):
    z, z_prime = views()
    broken = z.copy()
    broken[3, 1] = np.nan
    metrics = {"gap": lambda first, second: jnp.log(first.z.min())}
    with train.Recorder(tmp_path) as recorder:
        with pytest.raises(
            train.DivergenceError, match=r"z at step 3 holds 1 value\(s\) that are NaN"
        ):
            recorder.record(3, broken, z_prime)
        with pytest.raises(train.DivergenceError, match="loss at step 4 holds 1"):
            recorder.log(4, loss=float("inf"))
        for call, error, message in (
            (lambda: recorder.record(0, z, z_prime[:3]), ValueError, "must have one shape"),
            (lambda: recorder.record(0, z[0]), ValueError, "z must be a matrix"),
            (lambda: recorder.record(0, z, z_prime, h=z), ValueError, "h and h_prime must be"),
            (lambda: recorder.record(0, "z"), TypeError, "z must hold real numbers"),
            (lambda: recorder.record(0, None), TypeError, "z must be the embeddings, got None"),
            (lambda: recorder.log(0, loss=z), ValueError, "loss must be a number, got shape"),
        ):
            with pytest.raises(error, match=message):
                call()
    assert [len(rows) for rows in train.read_run(tmp_path)] == [0, 0]
    recorder = train.Recorder(tmp_path, metrics=metrics)  # nothing was written
    with pytest.raises(train.DivergenceError, match="gap at step 0"):
        recorder.record(0, z, z_prime)
    recorder.close()
    with pytest.raises(ValueError, match="metrics must not be called 'learned'"):
        train.Recorder(tmp_path, metrics={"learned": lambda first, second: jnp.zeros(())})


def test_records_of_one_batch_compile_once(tmp_path, count_compilations):
    with train.Recorder(tmp_path) as recorder:
        steps = iter(range(9))
        assert count_compilations(lambda v: recorder.record(next(steps), v), views()) == 0


def test_a_run_that_has_only_logged_is_not_overwritten(tmp_path):
    with train.Recorder(tmp_path) as recorder:
        for step in range(1, 6):
            recorder.log(step, loss=1000.0 + step)
    with pytest.raises(train.CheckpointError, match="would be overwritten"):
        tiny.fit(tmp_path, 2)
    assert train.read_run(tmp_path)[0]["loss"].tolist() == [1001.0, 1002.0, 1003.0, 1004.0, 1005.0]
    with train.Recorder(tmp_path, resume_at=5) as recorder:
        recorder.record(5, *views())
    with (
        train.Recorder(tmp_path, resume_at=5) as recorder,
        pytest.raises(ValueError, match=r"z must be of the fixed batch .* of shape \(50, 4\)"),
    ):
        recorder.record(6, *views(num=40))


def test_hidden_representations_are_of_the_batch(tmp_path):
    h = np.ones((4, 2), np.float32)
    with (
        train.Recorder(tmp_path) as recorder,
        pytest.raises(ValueError, match=r"h must have a row for each of the 50 rows of z"),
    ):
        recorder.record(0, *views(), h=h, h_prime=h)
