"""Errors and signals of two processes over loopback: what one raises, both raise at once."""

import ctypes
import json
import os
import re
import signal
import socket
import subprocess
import sys
from pathlib import Path

import pytest
import tiny

from sslstep import train
from sslstep.train._signals import Signals, _native_handler, _sigaction

SCRIPT = """
import json, sys, time
sys.path.insert(0, sys.argv[1])
import jax
rank, port, out = int(sys.argv[2]), sys.argv[3], sys.argv[4]
jax.distributed.initialize(f"127.0.0.1:{port}", 2, rank)
import jax.numpy as jnp, optax, tiny
from sslstep.train._signals import _native_handler

step, start = tiny.compiled(2, "pmap", optax.noisy_sgd(1e-2, key=3)), tiny.state(
    optimizer=optax.noisy_sgd(1e-2, key=3))

def say(what):
    print("said", json.dumps(what), flush=True)  # Gloo prints, too

def fit(name, num_steps=4, **settings):
    begun = time.perf_counter()
    try:
        tiny.fit(f"{out}/{name}", num_steps, step, start, **settings)
        said = ["none", ""]
    except Exception as error:
        said = [type(error).__name__, str(error)]
    say([*said, time.perf_counter() - begun])

def fails_on(which):
    def record(state):
        if rank == which and state.step == 3:
            raise KeyError("mine")
        return {}
    return {"record": record, "record_at": [3]}

fit("run", settings={"rate": 1})
fit("run", settings={"rate": 2})
fit("run", 6 + rank, settings={"rate": 1})
fit("one", **fails_on(1))
fit("zero", **fails_on(0))
if rank == 0:
    real, tiny.train._files.JsonLines.write = tiny.train._files.JsonLines.write, None
fit("disk")
if rank == 0:
    tiny.train._files.JsonLines.write = real
fit("run", 8, settings={"rate": 1})
say(_native_handler(15) is not None)
"""


@pytest.fixture(scope="module")
def said(tmp_path_factory):
    """What each call came to, on each process; and the folder."""
    out = tmp_path_factory.mktemp("peers")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = str(free.getsockname()[1])
    environment = os.environ | {"JAX_PLATFORMS": "cpu"}
    environment["XLA_FLAGS"] = "--xla_force_host_platform_device_count=1"
    here = str(Path(tiny.__file__).parent)
    both = [
        subprocess.Popen(
            [sys.executable, "-c", SCRIPT, here, str(rank), port, str(out)],
            env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        )
        for rank in (0, 1)
    ]  # fmt: skip
    ended = [process.communicate(timeout=500) for process in both]
    assert [process.returncode for process in both] == [0, 0], [errors for _, errors in ended]
    said = [re.findall("^said (.*)$", output, re.MULTILINE) for output, _ in ended]
    lines = [[json.loads(line) for line in each] for each in said]
    return list(zip(*lines, strict=True)), out


@pytest.mark.slow
@pytest.mark.parametrize(
    ("call", "kind", "message"),
    [
        (1, "ValueError", "other settings (rate = 1, now 2)"),
        (2, "ValueError", "process 1 has another num_steps than process 0: 7 and not 6"),
        (3, "KeyError", "mine"),
        (4, "KeyError", "mine"),
        (5, "TypeError", "'NoneType' object is not callable"),
    ],
)
def test_what_one_raises_both_raise_at_once(said, call, kind, message):
    results = said[0][call]
    kinds = {each[0] for each in results}
    assert kinds <= {kind, "RuntimeError"}
    assert kind in kinds
    for _, text, _ in results:
        assert message in text
    own = {text for _, text, _ in results}
    assert call == 2 or any("of this run failed" in text for text in own)
    # Which is about when the first of them does.
    assert abs(results[0][2] - results[1][2]) < 10


@pytest.mark.slow
def test_other_runs_go_on(said):
    results, out = said
    assert [each[0] for each in (*results[0], *results[6])] == ["none"] * 4
    assert train.read_run(out / "run")[0]["step"].tolist() == list(range(1, 9))
    # What was trained before a record failed, on whichever process, is saved.
    for name in ("one", "zero"):
        assert train.Checkpoints(out / name / "checkpoints").steps() == [3]


@pytest.mark.slow
def test_jax_s_handler_is_there_again(said):
    assert said[0][-1] == (True, True)


def test_a_handler_that_is_not_python_s_is_restored_and_told():
    calls = []
    handler = ctypes.CFUNCTYPE(None, ctypes.c_int)(calls.append)
    before = ctypes.create_string_buffer(512)
    assert _sigaction(signal.SIGTERM, None, before) == 0
    try:
        ctypes.CDLL(None).signal(signal.SIGTERM, handler)
        with Signals() as signals:
            os.kill(os.getpid(), signal.SIGTERM)
        assert (signals.received, calls) == (signal.SIGTERM, [])
        assert _native_handler(signal.SIGTERM) is not None
        signals.hand_on()
        assert calls == [signal.SIGTERM]
    finally:
        signal.signal(signal.SIGTERM, signal.SIG_DFL)


def test_a_user_s_handler_is_told_once_the_run_is_saved(tmp_path):
    told = []

    def note(number, frame):
        told.append(train.Checkpoints(tmp_path / "run" / "checkpoints").steps())

    def stop(state):
        os.kill(os.getpid(), signal.SIGTERM)
        return {}

    before = signal.signal(signal.SIGTERM, note)
    try:
        with pytest.raises(train.Interrupted):
            tiny.fit(tmp_path / "run", 9, record=stop, record_at=[3])
        assert told == [[3]]
        assert signal.getsignal(signal.SIGTERM) is note
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
        tiny.fit(tmp_path / "ignored", 9, record=stop, record_at=[3])  # as one that nohup began
    finally:
        signal.signal(signal.SIGTERM, before)
