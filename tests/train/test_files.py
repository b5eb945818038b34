"""What a run writes last, what it does not write, and what it does not go on from."""

import os
import signal

import jax.numpy as jnp
import pytest
import tiny
import training

from sslstep import train


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    """The folder of a finished run of 10 steps; whoever spoils it mends it."""
    folder = tmp_path_factory.mktemp("saved") / "run"
    training.fit(folder, 10)
    return folder


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
@pytest.mark.slow
def test_a_signal_during_the_last_checkpoint_is_not_lost(tmp_path, monkeypatch, number):
    """The program may have another run to make, and was asked to stop."""
    save = train.Checkpoints.save

    def interrupted(self, step, tree):
        save(self, step, tree)
        if step == 15:
            os.kill(os.getpid(), number)

    name = signal.Signals(number).name
    with monkeypatch.context() as patch:
        patch.setattr(train.Checkpoints, "save", interrupted)
        with pytest.raises(train.Interrupted, match=f"at step 15 of 15 by {name}, and saved") as it:
            training.fit(tmp_path / "run", 15)
    assert it.value.code == 128 + number
    assert training.fit(tmp_path / "run", 15).metrics["step"].tolist() == list(range(1, 16))


def test_a_network_that_is_not_finite_is_not_saved(tmp_path):
    """The step's own loss and gradient are finite: its update overflows."""
    plain = {"record": None, "record_at": ()}

    def steep(z, z_prime):
        return 1e6 * training.LOSS(z, z_prime)

    overflowing = training.compiled(rate=1e38, loss_fn=steep)
    with pytest.raises(train.DivergenceError, match="There is no checkpoint to return to"):
        training.fit(tmp_path / "first", 1, step=overflowing, **plain)
    training.fit(tmp_path / "run", 10, **plain)
    message = (
        r"diverged at step 11: the loss is finite, but after the update \w+/.*/.* is not .*\. "
        "The checkpoint to return to is that of step 10"
    )
    for _ in range(2):  # the same call comes to the same
        with pytest.raises(train.DivergenceError, match=message):
            training.fit(tmp_path / "run", 11, step=overflowing, **plain)
        assert train.Checkpoints(tmp_path / "run" / "checkpoints").steps() == [10]
    with pytest.raises(train.DivergenceError, match="diverged at step 1: the loss is finite"):
        training.fit(None, 1, step=overflowing, **plain)


def test_a_record_may_not_be_called_step(tmp_path):
    """It would take the place of the record's own step, by which lines are read again."""
    measured = {"step": 0.5, "top": 1.0}
    with pytest.raises(ValueError, match='record returned an entry "step"'):
        training.fit(tmp_path / "run", 15, record=lambda state: measured)
    assert train.read_run(tmp_path / "run")[1] == {}


@pytest.mark.parametrize("name", ["run.json", "settings.json"])
def test_settings_that_cannot_be_read(saved, name):
    path = saved / name
    whole = path.read_bytes()
    for content in (b"", b'{"batch_', b"[]", b"\xff"):
        path.write_bytes(content)
        with pytest.raises(ValueError, match=rf"{name} cannot be read: .* Remove the file if"):
            training.fit(saved, 10)
        assert path.read_bytes() == content
    path.unlink()  # as the message says
    training.fit(saved, 10)
    assert path.read_bytes() == whole


def test_settings_that_are_nan_are_the_same_at_every_call(tmp_path):
    settings = {"clip": float("nan")}
    tiny.fit(tmp_path, 2, settings=settings)
    assert len(tiny.fit(tmp_path, 4, settings=settings).metrics["step"]) == 4
    with pytest.raises(ValueError, match=r"other settings \(clip = nan, now 2\.0"):
        tiny.fit(tmp_path, 6, settings={"clip": 2.0})


def test_arrays_of_one_path_are_not_saved(tmp_path):
    checkpoints = train.Checkpoints(tmp_path)
    tree = {"a": {"b": jnp.ones(2)}, "a/b": jnp.zeros(2)}
    for call in (lambda: checkpoints.save(1, tree), lambda: checkpoints.latest(tree)):
        with pytest.raises(ValueError, match="two arrays of the tree have the path a/b"):
            call()
    assert checkpoints.steps() == []
