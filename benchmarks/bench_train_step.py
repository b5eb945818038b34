"""The training step of residual networks: ours against PyTorch's.

    make bench    or    python -m benchmarks.bench_train_step

Both do the same in float32: forward over two views at once, the Barlow Twins loss, backward, and
SGD with momentum. PyTorch runs eagerly on all cores. They take turns, and the shortest time of each
counts, because other work on the machine only ever adds to it. Images a second counts both views.
Peak memory is the process's, each side in one of its own, imports included. With --full, there are
more turns.
"""

import argparse
import os
import resource
import subprocess
import sys
import time
from typing import Literal, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

from sslstep import _xla, losses, nn


class Configuration(NamedTuple):
    """A network, its projector, and the images of both views together."""

    stages: tuple[int, ...]
    block: Literal["basic", "bottleneck"]
    width: int
    stem: Literal["imagenet", "small", "small_stride2"]
    hidden: int
    dim: int
    num_images: int
    size: int


RESNET18, RESNET50 = (2, 2, 2, 2), (3, 4, 6, 3)
CONFIGURATIONS = {
    "ResNet-18, small stem, 32 of 32x32": Configuration(
        RESNET18, "basic", 64, "small", 2048, 512, 32, 32
    ),
    "ResNet-18, ImageNet stem, 64 of 32x32": Configuration(
        RESNET18, "basic", 64, "imagenet", 2048, 512, 64, 32
    ),
    "ResNet-50, ImageNet stem, 32 of 96x96": Configuration(
        RESNET50, "bottleneck", 64, "imagenet", 2048, 512, 32, 96
    ),
    # The experiments' own network.
    "width 8, stride-2 stem, 512 of 24x24": Configuration(
        (1, 1, 1), "basic", 8, "small_stride2", 256, 16, 512, 24
    ),
}


def images_of(name):
    """Both views, one after the other."""
    n, size = CONFIGURATIONS[name][-2:]
    return np.random.default_rng(0).normal(size=(n, size, size, 3)).astype(np.float32)


def ours(name):
    """A function that takes one step, once compiled."""
    config = CONFIGURATIONS[name]
    backbone = nn.ResNet(config.stages, config.block, config.width, config.stem)
    encoder = nn.Encoder(backbone, nn.barlow_twins_head(config.dim, (config.hidden,)))
    images = jnp.asarray(images_of(name))
    variables = jax.jit(lambda x: encoder.init(jax.random.key(0), x, train=False))(images)
    optimiser = optax.sgd(1e-3, momentum=0.9)

    def step(params, stats, state):
        def loss(params):
            tree = {"params": params, "batch_stats": stats}
            out, updated = encoder.apply(tree, images, train=True, mutable=["batch_stats"])
            return losses.barlow_twins(*jnp.split(out.z, 2)), updated["batch_stats"]

        gradient, stats = jax.grad(loss, has_aux=True)(params)
        updates, state = optimiser.update(gradient, state, params)
        return optax.apply_updates(params, updates), stats, state

    options = _xla.compiler_options(jax.devices()[:1])
    compiled = jax.jit(step, donate_argnums=(0, 1, 2), compiler_options=options)
    carry = [variables["params"], variables["batch_stats"], optimiser.init(variables["params"])]

    def one_step():
        carry[:] = jax.block_until_ready(compiled(*carry))

    return one_step


def pytorch(name):
    """The same with torch.nn."""
    import torch

    from benchmarks._pytorch import residual_network

    torch.set_num_threads(os.cpu_count() or 1)
    config = CONFIGURATIONS[name]
    network = residual_network(*config[:-2])
    images = torch.tensor(images_of(name).transpose(0, 3, 1, 2).copy())
    optimiser = torch.optim.SGD(network.parameters(), 1e-3, momentum=0.9)

    def one_step():
        z, z_prime = (
            torch.nn.functional.batch_norm(view, None, None, training=True)
            for view in network(images).chunk(2)
        )
        c = z.T @ z_prime / len(z)
        on, off = (c.diagonal() - 1).square().sum(), c.square().sum() - c.diagonal().square().sum()
        optimiser.zero_grad()
        (on + 5e-3 * off).backward()
        optimiser.step()

    return one_step


SIDES = {"sslstep": ours, "PyTorch": pytorch}


def peak_memory(name, side) -> float:
    """Of a process that takes three steps, in MiB."""
    command = [sys.executable, "-m", "benchmarks.bench_train_step", "--memory", name, side]
    return float(subprocess.run(command, check=True, capture_output=True, text=True).stdout)


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--rounds", type=int, default=5, help="turns of each (default: 5)")
    parser.add_argument("--full", action="store_true", help="30 turns of each")
    parser.add_argument(
        "--memory", nargs=2, metavar=("CONFIGURATION", "SIDE"), help=argparse.SUPPRESS
    )
    options = parser.parse_args()
    if options.memory:
        name, side = options.memory
        step = SIDES[side](name)
        for _ in range(3):
            step()
        print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024)
        return
    print(f"{jax.devices()[0].device_kind}, {os.cpu_count()} cores, JAX {jax.__version__}, float32")
    print(f"{'':40}{'images/s':>10}{'PyTorch':>10}{'ratio':>8}{'MiB':>8}{'PyTorch':>10}")
    # First: a process's peak counts what its parent held when it started it.
    memories = {name: [peak_memory(name, side) for side in SIDES] for name in CONFIGURATIONS}
    for name, config in CONFIGURATIONS.items():
        steps = {side: make(name) for side, make in SIDES.items()}
        best = dict.fromkeys(SIDES, np.inf)
        for turn in range((30 if options.full else options.rounds) + 1):
            for side, step in steps.items():
                time.sleep(0.1)  # until the other's threads no longer spin
                start = time.perf_counter()
                step()
                if turn:  # the first compiles
                    best[side] = min(best[side], time.perf_counter() - start)
        a, b = (config.num_images / best[side] for side in SIDES)
        used, theirs = memories[name]
        print(f"{name:40}{a:10.0f}{b:10.0f}{a / b:8.2f}{used:8.0f}{theirs:10.0f}", flush=True)


if __name__ == "__main__":
    main()
