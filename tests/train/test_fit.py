"""Runs that are killed, stopped, spoilt and gone on with, against one that nothing happened to."""

import errno
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import textwrap
import time
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import orbax.checkpoint as ocp
import pytest
import training

from sslstep import nn, train
from sslstep.simulate import DivergenceError

SCRIPT = Path(training.__file__)
FILES = ("metrics.jsonl", "records.jsonl", "settings.json")


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory):
    """The run by itself, in a process of its own, as those that are killed."""
    folder = tmp_path_factory.mktemp("undisturbed") / "run"
    subprocess.run([sys.executable, SCRIPT, folder, str(training.STEPS)], check=True)
    return folder


def lines(folder):
    path = folder / "metrics.jsonl"
    return path.read_bytes().count(b"\n") if path.exists() else 0


def assert_same(folder, other):
    for name in FILES:
        assert (folder / name).read_bytes() == (other / name).read_bytes()
    ours, theirs = np.load(folder.with_suffix(".npy")), np.load(other.with_suffix(".npy"))
    assert ours.tobytes() == theirs.tobytes()


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """A run of 30 steps, with checkpoints of steps 10, 20 and 30, to be copied and spoilt."""
    folder = tmp_path_factory.mktemp("finished") / "run"
    return folder, training.parameters(training.fit(folder, 30))


@pytest.fixture
def copy(finished, tmp_path):
    shutil.copytree(finished[0], tmp_path / "run")
    return tmp_path / "run"


@pytest.mark.slow
def test_killed_again_and_again_it_ends_in_the_same_bits(undisturbed, tmp_path):
    folder, rng, kills, most = tmp_path / "run", random.Random(0), 0, 3
    while True:
        process = subprocess.Popen([sys.executable, SCRIPT, folder, str(training.STEPS)])
        # What is written now, a few lines on, and a random moment of the work on the next ones.
        target = (kills + 1) * training.STEPS // (most + 2) + rng.randrange(4)
        while kills < most and process.poll() is None and lines(folder) < target:
            time.sleep(0.001)
        if kills == most:
            assert process.wait() == 0
            break
        time.sleep(rng.uniform(0, 0.03))
        assert process.poll() is None, "it ended before it could be killed"
        process.send_signal(signal.SIGKILL)
        process.wait()
        kills += 1
    assert_same(folder, undisturbed)
    assert not list((folder / "checkpoints").glob("*tmp*"))


@pytest.mark.slow
def test_asked_to_stop_it_saves_and_says_so(undisturbed, tmp_path):
    """By SIGINT here, by SIGTERM in test_devices.py."""
    folder = tmp_path / "run"
    command = [sys.executable, SCRIPT, folder, str(training.STEPS)]
    process = subprocess.Popen(command, stderr=subprocess.PIPE)
    while lines(folder) < 17:
        time.sleep(0.001)
    process.send_signal(signal.SIGINT)
    process.communicate()
    assert process.returncode == 128 + signal.SIGINT
    done = lines(folder)
    assert 17 <= done < training.STEPS
    assert (folder / "checkpoints" / str(done)).is_dir()
    subprocess.run(command, check=True)
    assert_same(folder, undisturbed)


def test_the_signal_is_a_system_exit_with_a_message(tmp_path, caplog):
    def stop(state):
        if int(state.step) == 15:
            os.kill(os.getpid(), signal.SIGTERM)
        return {}

    with pytest.raises(train.Interrupted, match="stopped at step 15 of 30 by SIGTERM, and saved"):
        training.fit(tmp_path / "run", 30, record=stop)
    assert "the same call goes on from here" in caplog.text  # the program ends without a traceback
    with pytest.raises(train.Interrupted, match="and lost, as there is no folder"):
        training.fit(None, 30, record=stop)
    assert signal.getsignal(signal.SIGTERM) is signal.SIG_DFL  # as it was before


def largest(folder):
    return max((path for path in folder.rglob("*") if path.is_file()), key=os.path.getsize)


def truncate(path):
    path.write_bytes(path.read_bytes()[:-40])


def change_a_byte(path):
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(bytes(content))


@pytest.mark.parametrize("spoil", [truncate, change_a_byte, Path.unlink])
def test_a_spoilt_checkpoint_gives_way_to_the_one_before(finished, copy, spoil):
    spoil(largest(copy / "checkpoints" / "30"))
    with pytest.warns(train.CorruptCheckpointWarning, match="step 30 cannot be read"):
        again = training.fit(copy, 30)
    assert training.parameters(again).tobytes() == finished[1].tobytes()
    for name in FILES:
        assert (copy / name).read_bytes() == (finished[0] / name).read_bytes()
    assert (copy / "checkpoints" / "30.corrupt").is_dir()


def test_without_a_sound_checkpoint_it_does_not_start_over(copy):
    for step in ("10", "20", "30"):
        truncate(largest(copy / "checkpoints" / step))
    before = (copy / "metrics.jsonl").read_bytes()
    for _ in range(2):  # as a job that is queued again does
        with pytest.raises(train.CheckpointError, match=r"none of the .*: 30 \(.*20 \(.*10 \("):
            training.fit(copy, 30)
    # The cause may lie elsewhere: nothing is renamed.
    assert train.Checkpoints(copy / "checkpoints").steps() == [10, 20, 30]
    shutil.rmtree(copy / "checkpoints")
    with pytest.raises(train.CheckpointError, match="a run whose checkpoints are gone"):
        training.fit(copy, 30)
    assert (copy / "metrics.jsonl").read_bytes() == before


@pytest.mark.parametrize(
    "error", [OSError(errno.EMFILE, "x"), ValueError(f"RESOURCE: {os.strerror(errno.EMFILE)}")]
)
def test_a_failure_to_read_is_not_taken_for_corruption(copy, monkeypatch, error):
    def fails(*args, **kwargs):
        raise error

    with monkeypatch.context() as patch:
        patch.setattr(ocp.Checkpointer, "restore", fails)
        with pytest.raises(type(error), match=str(error)[-5:]):
            training.fit(copy, 30)
    assert train.Checkpoints(copy / "checkpoints").steps() == [10, 20, 30]
    training.fit(copy, 30)


def test_a_save_that_fails_removes_only_what_it_wrote(copy, monkeypatch):
    folder = copy / "checkpoints"
    (folder / "40.corrupt").mkdir()

    def fails(self, path, *args, **kwargs):
        Path(f"{path}.orbax-checkpoint-tmp").mkdir()
        raise OSError(errno.ENOSPC, "no space")

    monkeypatch.setattr(ocp.Checkpointer, "save", fails)
    with pytest.raises(train.CheckpointError, match="Intact is that of step 30"):
        train.Checkpoints(folder).save(40, {"w": jnp.ones(2)})
    assert {path.name for path in folder.iterdir()} == {"10", "20", "30", "40.corrupt"}


def test_a_reader_touches_nothing(copy, tmp_path):
    draft = copy / "checkpoints" / "40.orbax-checkpoint-tmp"
    draft.mkdir()
    assert train.Checkpoints(copy / "checkpoints").latest(training.state())[0] == 30
    assert draft.is_dir()
    assert train.Checkpoints(tmp_path / "misspelt").steps() == []
    assert not (tmp_path / "misspelt").exists()
    training.fit(copy, 40)  # which writes
    assert not draft.exists()


FULL_DISK = """
    import resource, signal, shutil, sys
    sys.path.insert(0, sys.argv[1])
    import training
    from sslstep import train

    training.fit("20", 20)
    signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    for limit in sys.argv[2:]:
        shutil.copytree("20", limit)
        # No file may grow beyond this: the writes that a full disk refuses.
        resource.setrlimit(resource.RLIMIT_FSIZE, (int(limit), resource.RLIM_INFINITY))
        try:
            training.fit(limit, 40)
        except OSError as error:
            print(type(error).__name__, error)
        resource.setrlimit(resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
        print(train.Checkpoints(limit + "/checkpoints").steps())
        print(len(train.read_run(limit)[0]["step"]) >= 20)
"""


@pytest.mark.slow
def test_a_full_disk(tmp_path):
    """One that has room for metrics and not for a checkpoint, and one without room for either."""
    command = [sys.executable, "-c", textwrap.dedent(FULL_DISK), SCRIPT.parent, "6000", "1500"]
    run = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=True)
    parts = run.stdout.split("[10, 20]\nTrue\n")
    assert parts[2:] == [""], run.stderr
    for part, message in zip(parts, ("checkpoint of step 30", "metrics"), strict=False):
        assert message in part, run.stderr
        assert "could not be written to" in part
        assert "of step 20" in part


def test_divergence_names_the_step_the_metrics_and_the_checkpoint(tmp_path):
    def rate(step):
        return jnp.where(step < 20, 0.01, 2.0)

    step, start = training.compiled(rate=rate), training.state(rate=rate)
    assert train.DivergenceError is DivergenceError
    with pytest.raises(DivergenceError) as raised:
        training.fit(tmp_path / "run", 300, step=step, start=start, record=None, record_at=())
    metrics, _ = train.read_run(tmp_path / "run")
    assert all(np.isfinite(values).all() for values in metrics.values())
    last = int(metrics["step"][-1])
    message = str(raised.value)
    assert f"diverged at step {last + 1}: loss = " in message
    assert f"those of step {last}: loss = {metrics['loss'][-1]:.6g}" in message
    assert 20 <= last < 30
    assert "that of step 20." in message


def test_a_record_that_is_not_finite(tmp_path):
    with pytest.raises(DivergenceError, match="record after step 15 is not finite: top"):
        training.fit(
            tmp_path / "run", 30, record=lambda state: {"top": jnp.inf}, record_at=(15, 30)
        )


def test_a_finished_run_is_read_and_a_longer_one_goes_on(finished, copy, undisturbed):
    def never(*args):
        raise AssertionError("it was run again")

    again = training.fit(copy, 30, record=never)
    assert training.parameters(again).tobytes() == finished[1].tobytes()
    assert again.metrics["step"].tolist() == list(range(1, 31))
    assert again.records["step"].tolist() == [0, 15, 30]
    written = (copy / "settings.json").stat().st_mtime_ns
    training.fit(copy, training.STEPS)
    assert (copy / "settings.json").stat().st_mtime_ns == written  # the time of its beginning
    for name in FILES:
        assert (copy / name).read_bytes() == (undisturbed / name).read_bytes()


def test_torn_lines_are_dropped(finished, copy):
    shutil.rmtree(copy / "checkpoints" / "30")
    with (copy / "metrics.jsonl").open("a") as file:
        file.write('{"step": 31, "lo')
    metrics, _ = train.read_run(copy)
    assert metrics["step"][-1] == 30
    training.fit(copy, 30)
    assert (copy / "metrics.jsonl").read_bytes() == (finished[0] / "metrics.jsonl").read_bytes()


def test_without_a_folder_the_numbers_are_the_same(finished):
    assert training.parameters(training.fit(None, 30)).tobytes() == finished[1].tobytes()


def test_several_steps_a_dispatch(finished):
    run = training.fit(None, 30, steps_per_dispatch=4)
    np.testing.assert_allclose(training.parameters(run), finished[1], rtol=1e-4, atol=1e-6)
    assert run.metrics["step"].tolist() == list(range(1, 31))


def test_one_compilation_serves_the_whole_run():
    step = training.compiled.__wrapped__()
    training.fit(None, 30, step=step)
    assert step._compiled._cache_size() == 1


def test_other_settings_networks_and_folders_are_refused(copy, tmp_path):
    (tmp_path / "b").mkdir()
    training.fit(tmp_path / "a", 10, settings={"seed": 0, "dim": 3})
    assert json.loads((tmp_path / "a" / "settings.json").read_text()) == {"dim": 3, "seed": 0}
    with pytest.raises(ValueError, match=r"other settings \(seed = 0, now 1\)"):
        training.fit(tmp_path / "a", 10, settings={"seed": 1, "dim": 3})
    with pytest.raises(TypeError, match=r"settings\['scales'\] must be something that JSON"):
        training.fit(tmp_path / "a", 10, settings={"scales": np.ones(2)})
    network = nn.Encoder(training.NETWORK.backbone, nn.Projector(hidden=(8,), dim=4))
    with pytest.raises(ValueError, match="another state than this run's"):
        training.fit(copy, 30, start=training.state(network=network))
    with pytest.raises(ValueError, match="num_steps = 5, but the run has taken 10 steps in"):
        training.fit(tmp_path / "a", 5, settings={"seed": 0, "dim": 3})
    with pytest.raises(FileNotFoundError, match="has no run of"):
        train.read_run(tmp_path / "b")


def test_another_batch_size_or_key_or_other_images_are_refused(copy):
    run = json.loads((copy / "run.json").read_text())
    assert run["batch_size"] == training.BATCH
    with pytest.raises(ValueError, match=rf"\(batch_size = {training.BATCH}, now 4\)"):
        training.fit(copy, batch_size=4)
    with pytest.raises(ValueError, match=r"other settings \(key = .*, now "):
        training.fit(copy, start=training.state(seed=1))
    images = np.array(training.images())
    images[3, 2, 1, 0] ^= 1
    with pytest.raises(ValueError, match=r"other settings \(checksums of images = \['"):
        training.fit(copy, images=images)
    assert json.loads((copy / "run.json").read_text()) == run
    del run["checksums of images"]
    (copy / "run.json").write_text(json.dumps(run))  # as an earlier version wrote it
    training.fit(copy, 30, images=images)
    (copy / "run.json").unlink()  # as of a run that was begun with an earlier version
    with pytest.raises(ValueError, match="num_steps = 5, but the run has"):
        training.fit(copy, 5, batch_size=4)
    assert not (copy / "run.json").exists()  # what is refused leaves no mark
    training.fit(copy, batch_size=4)
    assert json.loads((copy / "run.json").read_text())["batch_size"] == 4


def test_another_initial_scale_is_refused(copy):
    """It is in no setting: only the parameters show it, which are the checkpoint's from then on."""
    metrics = (copy / "metrics.jsonl").read_bytes()
    start = training.state()
    for path in (None, lambda path: path.startswith("projector/")):
        params = nn.scale_init(start.params, 0.5, path)
        with pytest.raises(ValueError, match=r"\(initial norm of \S+ \(.*\) = .*, now "):
            training.fit(copy, 40, start=start._replace(params=params))
    assert (copy / "metrics.jsonl").read_bytes() == metrics
    # Another device rounds otherwise; and what begins later does not show where the run began.
    near = jax.tree.map(lambda leaf: leaf * (1 + 1e-5), start.params)
    assert training.fit(copy, 30, start=start._replace(params=near)).metrics["step"][-1] == 30
    later = start._replace(step=jnp.asarray(30, jnp.int32), params=params)
    assert training.fit(copy, 30, start=later).metrics["step"][-1] == 30


def test_metrics_that_were_cut_are_missed(copy):
    lines = (copy / "metrics.jsonl").read_bytes().splitlines(keepends=True)
    (copy / "metrics.jsonl").write_bytes(b"".join(lines[:12]))
    with pytest.warns(UserWarning, match="lacks the metrics of steps 13 to 30"):
        training.fit(copy, 40)


def test_a_loss_that_is_not_finite_before_any_step():
    step = training.compiled(loss_fn=lambda z, z_prime: jnp.log(-jnp.sum(z * z)))
    with pytest.raises(DivergenceError, match=r"diverged at step 1: .* No step was made before"):
        training.fit(None, 10, step=step, record=None, record_at=())


def test_what_was_never_saved_binds_nobody(tmp_path):
    def stop(state):
        raise RuntimeError("out of memory")

    with pytest.raises(RuntimeError, match="out of memory"):
        training.fit(tmp_path / "run", 15, record=stop)
    run = training.fit(tmp_path / "run", 15, batch_size=8)
    np.testing.assert_array_equal(run.metrics["step"], np.arange(1, 16))


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"num_steps": -1}, "num_steps must be >= 0"),
        ({"record_at": np.array([1.5])}, r"record_at must be .* whole step numbers, got array"),
        ({"record_at": (50,)}, r"record_at must lie within 0\.\.\.num_steps = 30, got 50"),
        ({"record": None, "record_at": (3,)}, "record_at needs record"),
        ({"steps_per_dispatch": 0}, "steps_per_dispatch must be >= 1"),
        ({"keep": 1}, "keep must be at least 2"),
    ],
)
def test_bad_settings(tmp_path, settings, message):
    with pytest.raises(ValueError, match=message):
        training.fit(tmp_path / "run", **{"num_steps": 30} | settings)


def test_a_step_that_is_not_compiled_is_refused(unchecked):
    with pytest.raises(TypeError, match="step must come from compile_step, got a function"):
        training.fit(step=training.make_step())


def test_bad_images():
    with pytest.raises(ValueError, match=r"one length, got shapes \[\(4, 8, 8, 3\), \(\)\]"):
        train.fit(
            training.compiled(),
            training.state(),
            {"images": np.zeros((4, 8, 8, 3)), "names": "none"},
            num_steps=1,
            batch_size=4,
        )
    with pytest.raises(ValueError, match="one length"):
        train.fit(
            training.compiled(),
            training.state(),
            (np.zeros((4, 8, 8, 3)), np.zeros((5, 8, 8, 3))),
            num_steps=1,
            batch_size=2,
        )
    with pytest.raises(ValueError, match="batch_size = 65 is larger than the data: 64 images"):
        train.fit(
            training.compiled(), training.state(), training.images(), num_steps=1, batch_size=65
        )


def test_keys_of_other_kinds_survive_a_checkpoint(tmp_path):
    checkpoints = train.Checkpoints(tmp_path)
    tree = {"key": jax.random.key(3, impl="rbg"), "half": jnp.ones(3, jnp.bfloat16)}
    checkpoints.save(5, tree)
    step, found = checkpoints.latest(tree)
    assert step == 5
    assert jax.random.key_impl(found["key"]) == jax.random.key_impl(tree["key"])
    np.testing.assert_array_equal(
        jax.random.key_data(found["key"]), jax.random.key_data(tree["key"])
    )
    assert found["half"].dtype == jnp.bfloat16
    assert train.Checkpoints(tmp_path / "empty").latest(tree) is None


def test_a_state_of_a_later_step_is_recorded_where_it_starts():
    start = training.state()._replace(step=jnp.asarray(5, jnp.int32))
    run = training.fit(
        None, 8, start=start, record=lambda state: {"at": state.step}, record_at=(5, 8)
    )
    assert run.records["at"].tolist() == [5, 8]


def test_what_is_placed_shares_no_memory():
    images = np.zeros((64, 8), np.float32)
    placed = training.compiled().place(images)
    images[:] = 7
    assert float(placed.max()) == 0


def test_a_record_needs_times():
    with pytest.raises(ValueError, match="record needs record_at"):
        training.fit(None, 15, record_at=())
