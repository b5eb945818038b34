"""Products of a solve: dealt to the devices of two processes, kept in a folder, and shown."""

import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from sslstep import gram, kernel_pca

NUM, DIM, BATCH = 150, 4, 50


def data():
    x, noise = np.random.default_rng(0).normal(size=(2, NUM, 5))
    return x, x + 0.2 * noise


def gaussian(x1, x2=None):
    x2 = x1 if x2 is None else x2
    squares = (x1**2).sum(1)[:, None] + (x2**2).sum(1)[None] - 2 * x1 @ x2.T
    return jnp.exp(-squares / 8)


def solve(kernel_fn=gaussian, *, devices=None, scale=1.0, progress=None, **options):
    x, x_prime = data()
    operator = gram.pairs_operator(
        kernel_fn, scale * x, x_prime, batch_size=BATCH, devices=devices, progress=progress
    )
    options = {"num_pairs": NUM, "solver": "krylov", "progress": progress} | options
    return kernel_pca.contrastive_modes(operator, options.pop("dim", DIM), **options)


def counted(calls):
    def kernel_fn(x1, x2=None):
        calls.append(len(x1))
        return gaussian(x1, x2)

    return kernel_fn


def assert_same_bits(a, b):
    for one, other in zip(jax.tree.leaves(a), jax.tree.leaves(b), strict=True):
        np.testing.assert_array_equal(one, other)


def test_a_folder_keeps_products_and_changes_no_bit(x64, tmp_path):
    calls = []
    wanted = solve()
    assert_same_bits(solve(counted(calls), folder=tmp_path / "a" / "b"), wanted)
    first, probe = len(calls), 2 * NUM // BATCH  # a row of blocks
    assert first > probe
    assert len(list((tmp_path / "a/b").glob("product-*.npy"))) == wanted.iterations
    calls.clear()
    assert_same_bits(solve(counted(calls), folder=tmp_path / "a/b"), wanted)
    assert len(calls) == probe
    # Other options and operators read what they share: here all products but the last ones.
    calls.clear()
    finer = solve(counted(calls), folder=tmp_path / "a/b", tol=1e-9)
    assert_same_bits(finer, solve(tol=1e-9))
    assert probe < len(calls) < first
    # They are products of the kernel in any form.
    kernel = gram.pairs(gaussian, *data())
    found = kernel_pca.contrastive_modes(kernel, DIM, solver="krylov", folder=tmp_path / "a/b")
    assert_same_bits(found, wanted)


def test_a_folder_of_another_kernel_is_refused(x64, unchecked, tmp_path):
    solve(folder=tmp_path)
    with pytest.raises(ValueError, match=r"folder = .* another kernel: one vector's product diff"):
        solve(folder=tmp_path, scale=1 + 1e-6)
    with pytest.raises(
        ValueError, match=r"over 300 samples in float64, and this one is over 300 s"
    ):
        solve(folder=tmp_path, dtype=jnp.float32)
    kernel = gram.pairs(gaussian, *(view[:100] for view in data()))
    with pytest.raises(
        ValueError, match=r"over 300 samples in float64, and this one is over 200 s"
    ):
        kernel_pca.principal_modes(kernel, DIM, solver="krylov", folder=tmp_path)


@pytest.mark.parametrize("wrong", [lambda v: jnp.full_like(v, jnp.nan), lambda v: v[:, 1:]])
def test_what_the_solver_refuses_is_not_kept(tmp_path, wrong):
    for broken in (wrong, lambda v: v if v.shape[1] == 1 else wrong(v)):  # at once, and later
        with pytest.raises(ValueError, match="kernel"):
            kernel_pca.contrastive_modes(broken, 2, num_pairs=400, folder=tmp_path)
        assert not list(tmp_path.glob("product-*.npy"))
        assert (tmp_path / "kernel.npy").exists() == (broken is not wrong)


def test_progress_is_shown_on_request(x64, capsys):
    solve()
    assert capsys.readouterr().err == ""  # not a terminal
    modes = solve(progress=True)
    said = capsys.readouterr().err
    assert f"modes: {int(modes.iterations)} products" in said
    assert "times its limit" in said
    assert "kernel: 100%" in said


BEGIN = """
import sys
sys.path.insert(0, sys.argv[1])
import jax
jax.config.update("jax_enable_x64", True)
rank, num, port, out = int(sys.argv[2]), int(sys.argv[3]), sys.argv[4], sys.argv[5]
if num > 1:
    jax.distributed.initialize(f"127.0.0.1:{port}", num, rank)
import numpy as np
import test_products as own
"""
SOLVE = (
    BEGIN
    + """
import time
calls = []
def slow(x1, x2=None):
    time.sleep(0.005)
    return own.counted(calls)(x1, x2)
modes = own.solve(slow, devices=jax.devices(), folder=f"{out}/products")
np.savez(f"{out}/modes_{rank}.npz", calls=len(calls), **modes._asdict())
"""
)
ALL = (
    BEGIN
    + """
from sslstep import gram, kernel_pca, losses

def refused(call, error, text):
    try:
        call()
    except error as caught:
        assert text in str(caught), caught
    else:
        raise AssertionError(text)

calls, devices = [], jax.devices()
assert (len(devices), jax.process_count()) == (4, 2)
modes = own.solve(own.counted(calls), devices=devices)
np.savez(f"{out}/modes_{rank}.npz", calls=len(calls), **modes._asdict())

x, x_prime = own.data()
towers = gram.TwoTowers(own.gaussian, lambda a, b=None: 2 * own.gaussian(a, b))
views = [jax.numpy.asarray(view) for view in (x, x_prime)]
multiply = gram.pairs_operator(towers, *views, batch_size=own.BATCH, devices=devices[::-1])
v = np.random.default_rng(1).normal(size=(2 * own.NUM, 3))
np.savez(f"{out}/product_{rank}.npz", product=multiply(v))

operator = gram.pairs_operator(own.gaussian, x, x_prime, batch_size=own.BATCH, devices=devices)
growth = kernel_pca.growth_modes(
    operator, losses.simplified_barlow_twins, own.DIM, num_pairs=own.NUM)
np.savez(f"{out}/growth_{rank}.npz", **growth._asdict())

# Each process with its own devices, and another problem.
own_modes = own.solve(devices=jax.local_devices(), dim=own.DIM + rank)
assert len(own_modes.eigenvalues) == own.DIM + rank
refused(lambda: own.solve(devices=devices[:1] if rank else devices[2:]), ValueError,
        "devices must be of this process")

# An error of one is an error of all, of its type, and does not end the job.
refused(lambda: own.solve(devices=devices, max_iterations=3, tol=1e-12),
        kernel_pca.ConvergenceError, "modes have not converged after 3 products")
def broken(x1, x2=None):
    if rank == 1:
        raise TypeError("no such thing")
    return own.gaussian(x1, x2)
refused(lambda: own.solve(broken, devices=devices), TypeError, "no such thing")
v = np.full((2 * own.NUM, 1), np.nan if rank == 0 else 1.0)
refused(lambda: operator(v), ValueError, "v of shape (300, 1) holds 300 value(s) that are NaN")
again = own.solve(devices=devices)
assert all(np.array_equal(a, b) for a, b in zip(again, modes, strict=True))
"""
)


DOCUMENTED = (
    BEGIN
    + """
import os
from sslstep import gram, kernel_pca
kernel_fn, (x, x_prime) = own.gaussian, own.data()
os.chdir(out)  # where the folder is made
code = open("code").read().replace("10.0.0.1:1234", f"127.0.0.1:{port}")
exec(code)
assert (jax.process_index(), jax.device_count()) == (rank, 4)
np.savez(f"{out}/modes_{rank}.npz", **modes._asdict())
"""
).replace("if num > 1:", "if False:")  # the block begins so


def start(script, out, num, rank=0, port="0"):
    flags = f"{os.environ.get('XLA_FLAGS', '')} --xla_force_host_platform_device_count=2"
    environment = os.environ | {"XLA_FLAGS": flags, "JAX_PLATFORMS": "cpu"}
    here = str(Path(__file__).parent)
    command = [sys.executable, "-c", script, here, str(rank), str(num), port, str(out)]
    return subprocess.Popen(command, env=environment, stderr=subprocess.PIPE, text=True)


def start_all(script, out, num):
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = str(free.getsockname()[1])
    out.mkdir(exist_ok=True)
    return [start(script, out, num, rank, port) for rank in range(num)]


def finish(processes):
    for process in processes:
        _, errors = process.communicate(timeout=300)
        assert process.returncode == 0, errors


def read(path):
    with np.load(path) as file:
        return {name: file[name] for name in file.files}


@pytest.mark.slow
def test_two_processes_of_two_devices_each(x64, tmp_path):
    finish(start_all(ALL, tmp_path, 2))
    both = [read(tmp_path / f"modes_{rank}.npz") for rank in (0, 1)]
    # 21 blocks a product, dealt to four devices; and the two blocks that check symmetry.
    products, calls = int(both[0]["iterations"]), [int(modes.pop("calls")) for modes in both]
    assert sum(calls) == 21 * products + 2
    assert max(calls) <= 11 * products + 2
    kernel = np.asarray(gram.pairs(gaussian, *data()), np.float64)
    values, vectors = np.linalg.eigh(kernel)
    root = vectors * np.sqrt(np.maximum(values, 0))
    gammas = np.linalg.eigvalsh(root.T @ np.roll(root, NUM, axis=0) / (2 * NUM))[::-1][:DIM]
    one = solve()
    for modes in both:
        np.testing.assert_allclose(modes["eigenvalues"], gammas, rtol=1e-10)
        # But for signs. Rounding turns modes by eps over the gaps between γ, which are above 1e-3.
        turned = np.abs(one.coefficients.T @ kernel @ modes["coefficients"]) - np.eye(DIM)
        assert np.abs(turned).max() < 1e-11
        for name, value in both[0].items():
            np.testing.assert_array_equal(modes[name], value)
    v = np.random.default_rng(1).normal(size=(2 * NUM, 3))
    x, x_prime = data()
    wanted = np.concatenate([gaussian(x) @ v[:NUM], 2 * gaussian(x_prime) @ v[NUM:]])
    growth = [read(tmp_path / f"growth_{rank}.npz") for rank in (0, 1)]
    for rank in (0, 1):
        found = read(tmp_path / f"product_{rank}.npz")["product"]
        np.testing.assert_allclose(found, wanted, rtol=0, atol=1e-12 * np.abs(wanted).max())
        np.testing.assert_allclose(growth[rank]["eigenvalues"], 4 * gammas, rtol=1e-10)
        np.testing.assert_array_equal(growth[rank]["images"], growth[0]["images"])


@pytest.mark.slow
def test_block_of_the_documentation(x64, tmp_path, plain_blocks):
    (code,) = plain_blocks("howto/memory.md")
    (tmp_path / "code").write_text(code)
    finish(start_all(DOCUMENTED, tmp_path, 2))
    wanted = kernel_pca.contrastive_modes(gram.pairs(gaussian, *data()), 5).eigenvalues
    for rank in (0, 1):
        found = read(tmp_path / f"modes_{rank}.npz")["eigenvalues"]
        np.testing.assert_allclose(found, wanted, rtol=1e-10)
    assert (tmp_path / "solve" / "kernel.npy").exists()


@pytest.mark.slow
@pytest.mark.parametrize("num", [1, 2])
def test_a_killed_solve_continues_with_the_same_bits(tmp_path, num):
    """SIGKILL to all processes, between or within products."""
    finish(start_all(SOLVE, tmp_path / "whole", num))
    killed, folder = start_all(SOLVE, tmp_path / "killed", num), tmp_path / "killed" / "products"
    while len(list(folder.glob("product-*.npy"))) < 3:
        assert all(process.poll() is None for process in killed), killed[0].stderr.read()
        time.sleep(0.01)
    for process in killed:
        process.send_signal(signal.SIGKILL)
        process.communicate()
        assert process.returncode == -signal.SIGKILL
    assert not (tmp_path / "killed" / "modes_0.npz").exists()
    finish(start_all(SOLVE, tmp_path / "killed", num))
    for rank in range(num):
        whole, resumed = (read(tmp_path / run / f"modes_{rank}.npz") for run in ("whole", "killed"))
        assert resumed.pop("calls") < whole.pop("calls") / 1.5
        for name, value in whole.items():
            np.testing.assert_array_equal(resumed[name], value)
