"""What a run writes last, what it does not write, and what it does not go on from."""

import os
import signal

import pytest
import training

from sslstep import train


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
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
