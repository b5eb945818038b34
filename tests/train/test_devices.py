"""One device, four of them, and two processes: the same steps, of a loss that knows of neither."""

import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import jax
import numpy as np
import pytest
import training

from sslstep import train

BEGIN = """
import sys
sys.path.insert(0, sys.argv[1])
import jax
rank, port, out = int(sys.argv[2]), sys.argv[3], sys.argv[4]
if port:
    jax.distributed.initialize(f"127.0.0.1:{port}", 2, rank)
"""
SCRIPT = (
    BEGIN
    + """
import numpy as np
import training
from sslstep import train

for which, parallel, parts in (layout.split(":") for layout in sys.argv[5:]):
    devices = [jax.devices()[int(index)] for index in which]
    step = training.make_step(loss_fn=training.users_loss, num_microbatches=int(parts))
    step = train.compile_step(step, devices=devices, parallel=parallel)
    assert list(step.devices) == devices
    folder = f"{out}/{which}_{parallel}_{parts}_{rank}"
    # A ReLU's derivative jumps: an input within rounding of 0 makes the layouts' gradients differ.
    # With JAX 0.12, seed 0 has one of 1e-6, and gradients 1e-4 apart at losses equal to 1e-7.
    run = training.fit(folder, 20, step=step, start=training.state(seed=1))
    np.savez(folder + ".npz", parameters=training.parameters(run), **run.metrics)
"""
)
# A run that nothing but a signal ends.
ENDLESS = (
    BEGIN
    + """
import training
from sslstep import train

step, size = training.compiled(2), {"num_steps": 10**6, "batch_size": training.BATCH}
start = training.state(), training.images()
train.fit(step, *start, **size, checkpoint_every=10**6, folder=f"{out}/run")
"""
)


def start(out, layouts=(), *, rank=0, port="", devices=1, script=SCRIPT):
    flags = f"{os.environ.get('XLA_FLAGS', '')} --xla_force_host_platform_device_count={devices}"
    environment = os.environ | {"XLA_FLAGS": flags, "JAX_PLATFORMS": "cpu"}
    here = str(Path(training.__file__).parent)
    command = [sys.executable, "-c", script, here, str(rank), port, str(out), *layouts]
    return subprocess.Popen(command, env=environment, stderr=subprocess.PIPE, text=True)


def finish(*processes):
    for process in processes:
        _, errors = process.communicate(timeout=300)
        assert process.returncode == 0, errors


def free_port():
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return str(free.getsockname()[1])


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    """Parameters and losses by layout, each of 20 steps."""
    out = tmp_path_factory.mktemp("devices")
    layouts = ["0:jit:1", "0:jit:2", "2031:jit:2", "2031:pmap:1"]
    finish(start(out, layouts, devices=4))
    layouts, port = ["01:jit:1", "01:pmap:2"], free_port()
    finish(*(start(out, layouts, rank=rank, port=port) for rank in (0, 1)))
    return out


EVERY_LOSS = (
    BEGIN
    + """
jax.config.update("jax_enable_x64", True)
from functools import partial
import jax.numpy as jnp, numpy as np, optax, training
from flax import linen
from sslstep import losses, nn, optim, train

class Users(linen.Module):
    @linen.compact
    def __call__(self, x, *, train):
        h = linen.Dense(8, param_dtype=float)(x.reshape(len(x), -1))
        h = linen.BatchNorm(use_running_average=not train, param_dtype=float)(h)
        return h, linen.Dense(3, param_dtype=float)(jnp.tanh(h))

ours = nn.Encoder(nn.ResNet((1,), width=4, stem="small", remat=True, dtype=jnp.float64),
                  nn.simclr_head(3, (8,), dtype=jnp.float64))
sizes = np.arange(1, 9).reshape(8, 1, 1, 1, 1)  # of the images, so that devices differ
x = np.random.default_rng(0).normal(size=(8, 2, 8, 8, 3)) * sizes
def views_fn(keys, x):
    noise = jax.vmap(lambda key: jax.random.normal(key, x.shape[1:]))(keys)
    return x[:, 0] + noise[:, 0], x[:, 1] + noise[:, 1]

def one_step(network, loss, devices, parallel, **settings):
    state = train.init_state(jax.random.key(0), network, sgd, jnp.asarray(x[:1, 0]))
    step = train.make_step(network, loss, sgd, views_fn, **settings)
    step = train.compile_step(step, devices=jax.devices()[:devices], parallel=parallel)
    state, metrics = step(step.place(state), step.place(x), np.arange(8, dtype=np.int32)[None])
    return step.fetch((state.params, state.batch_stats, metrics.loss))

sgd = optax.sgd(0.1)
preconditioned = partial(optim.preconditioned, alpha=0.01, centre=True, strength=0.5)
cases = [(Users(), loss, {}) for loss in (
    losses.simclr, partial(losses.sharpened_barlow_twins, softening=1e-2),
    preconditioned(losses.barlow_twins), training.users_loss)]
cases += [(ours, losses.barlow_twins, {"joint_views": True}),
          (ours, losses.vicreg, {"num_microbatches": 2})]
network = nn.Encoder(nn.ResNet((1,), width=4, stem="small", dtype=jnp.float64),
                     nn.Projector(3, (8,), dtype=jnp.float64))
predictor = nn.Projector(3, (8,), dtype=jnp.float64)
cases += [(train.SelfDistillation(network, predictor, decay), losses.prediction_error,
           {"num_microbatches": parts}) for decay, parts in ((0.9, 1), (None, 2))]
for network, loss, settings in cases:
    one = one_step(network, loss, 1, "jit", **settings)
    for parallel in ("jit", "pmap"):
        four = one_step(network, loss, 4, parallel, **settings)
        for a, b in zip(jax.tree.leaves(four), jax.tree.leaves(one), strict=True):
            assert np.linalg.norm(a - b) <= 1e-11 * max(np.linalg.norm(b), 1e-3), (loss, parallel)

# Each device computes its share, not all: of microbatches too.
def operations(devices):
    step = train.make_step(ours, losses.vicreg, sgd, views_fn, num_microbatches=2)
    step = train.compile_step(step, devices=jax.devices()[:devices])
    state = train.init_state(jax.random.key(0), ours, sgd, jnp.asarray(x[:1, 0]))
    indices = np.arange(8, dtype=np.int32)[None]
    lowered = step._compiled.lower(step.place(state), step.place(x), indices)
    return lowered.compile().cost_analysis()["flops"]

assert operations(4) < 0.4 * operations(1), (operations(4), operations(1))

class NotFlax:
    init, apply = staticmethod(Users().init), staticmethod(Users().apply)

one_step(NotFlax(), losses.vicreg, 4, "jit")
try:
    one_step(NotFlax(), losses.vicreg, 4, "pmap")
except ValueError as error:
    assert "got a NotFlax: compile the step with parallel" in str(error)
else:
    raise AssertionError("its batch norms are not synchronised")
"""
)


@pytest.mark.slow
def test_batch_norms_and_every_kind_of_loss_on_four_devices(tmp_path):
    """A step in float64; flax's own batch norm and ours, both views at once and microbatches."""
    finish(start(tmp_path, devices=4, script=EVERY_LOSS))


def read(path):
    with np.load(path) as file:
        return {name: file[name] for name in file.files}


@pytest.mark.slow
@pytest.mark.parametrize(
    "name",
    [
        *("2031_jit_2_0", "2031_pmap_1_0"),
        *("01_jit_1_0", "01_jit_1_1", "01_pmap_2_0", "01_pmap_2_1"),
    ],
)
def test_the_same_parameters_after_20_steps(runs, name):
    """Also with devices in another order than JAX's, and in microbatches, whose norms differ."""
    parts, rank = name.split("_")[-2:]
    one, several = (read(runs / f"{which}.npz") for which in (f"0_jit_{parts}_0", name))
    ours, theirs = several["parameters"], one["parameters"]
    assert np.linalg.norm(ours - theirs) <= 1e-5 * np.linalg.norm(theirs)
    if rank == "0":
        np.testing.assert_allclose(several["loss"], one["loss"], rtol=1e-4)
        assert (runs / name / "metrics.jsonl").exists()
    # The first process writes; the other's folder is not made.
    assert (runs / name).exists() == (rank == "0")


@pytest.mark.slow
def test_microbatches_have_batch_norms_of_their_own(runs):
    """Without which the test above would show nothing of them."""
    whole, in_parts = (read(runs / f"0_jit_{parts}_0.npz")["parameters"] for parts in (1, 2))
    assert np.linalg.norm(whole - in_parts) > 1e-3 * np.linalg.norm(whole)


@pytest.mark.slow
def test_block_of_the_documentation(plain_blocks):
    (code,) = plain_blocks("tutorials/accelerators.md")
    code = code.replace("10.0.0.1:1234", f"127.0.0.1:{free_port()}")
    says = "\nprint(jax.process_index(), jax.process_count(), jax.device_count())"
    command = [sys.executable, "-c"]
    environment = os.environ | {"JAX_PLATFORMS": "cpu"}
    environment.pop("XLA_FLAGS", None)
    both = [
        subprocess.Popen(
            [*command, f"import jax\nrank = {rank}\n{code}{says}"],
            env=environment,
            stdout=subprocess.PIPE,
            text=True,
        )
        for rank in (0, 1)
    ]
    said = [process.communicate(timeout=300)[0].split() for process in both]
    assert said == [["0", "2", "2"], ["1", "2", "2"]]


@pytest.mark.slow
def test_a_signal_to_one_process_stops_both(tmp_path):
    """Though no checkpoint is due for a million steps."""
    port = free_port()
    both = [start(tmp_path, rank=rank, port=port, script=ENDLESS) for rank in (0, 1)]
    metrics = tmp_path / "run" / "metrics.jsonl"
    while not metrics.exists() or not metrics.stat().st_size:
        assert all(process.poll() is None for process in both), both[0].stderr.read()
        time.sleep(0.01)
    both[1].send_signal(signal.SIGTERM)
    for process in both:
        _, errors = process.communicate(timeout=300)
        assert process.returncode == 128 + signal.SIGTERM, errors
    saved = train.Checkpoints(tmp_path / "run" / "checkpoints").steps()
    assert saved == train.read_run(tmp_path / "run")[0]["step"][-1:].tolist()


@pytest.mark.parametrize("parallel", ["jit", "pmap"])
def test_what_was_fetched_outlives_the_next_step(parallel):
    step, start = training.compiled(1, parallel), training.state()
    images, here = step.place(training.images()), step.place(start)
    indices = train.batch_indices(start.key, 0, 1, training.BATCH, len(training.images()))
    here, _ = step(here, images, indices)
    fetched = step.fetch(here)
    before = jax.tree.map(np.array, fetched.params)
    here, _ = step(here, images, indices)
    assert (int(fetched.step), int(step.fetch(here).step)) == (1, 2)
    jax.tree.map(np.testing.assert_array_equal, fetched.params, before)
    assert jax.random.key_data(fetched.key).tolist() == jax.random.key_data(start.key).tolist()


def test_what_devices_cannot_share_is_refused(unchecked):
    with pytest.raises(ValueError, match="parallel must be one of 'jit', 'pmap'"):
        training.compiled(1, "vmap")
