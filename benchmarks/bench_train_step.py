"""The training step of residual networks: ours, by JAX's default options, and PyTorch's.

    make bench    or    python -m benchmarks.bench_train_step

All do the same: forward over two views at once, the Barlow Twins loss, backward, and SGD with
momentum, in float32 or, with --dtype bfloat16, in mixed precision. JAX's defaults are the same step
compiled without what `sslstep.train.compile_step` tells XLA, where it tells it anything. PyTorch
runs eagerly, on all cores or, where JAX has a GPU and it has one too, there; and, there or with
--compiled, by torch.compile with channels last. They take turns of four steps, and the shortest
step of each counts. Images are those of both views. Operations are XLA's count, and their rate is
beside that of a large product. Peak memory is the process's, each side in one of its own, imports
included. With --full, there are more turns.
"""

import dataclasses
import os
from collections.abc import Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

from benchmarks._timing import (
    OURS,
    Row,
    Rows,
    in_own_process,
    installed,
    parser,
    peak_memory,
    peak_rate,
    print_machine,
    take_turns,
)
from sslstep import _xla, losses
from sslstep.experiment import training
from sslstep.recipes import BarlowTwins

HEAD = BarlowTwins(dim=512, hidden=(2048,))
DEFAULTS, PYTORCH, COMPILED = "JAX's defaults", "PyTorch", "PyTorch, compiled"


class Configuration(NamedTuple):
    """A network, and the images of both views together."""

    name: str
    network: training.Config
    recipe: BarlowTwins
    num_images: int
    size: int

    def images(self, most: int | None) -> np.ndarray:
        """Both views, one after the other."""
        shape = (min(self.num_images, most or self.num_images), self.size, self.size, 3)
        return np.random.default_rng(0).normal(size=shape).astype(np.float32)


CONFIGURATIONS = {
    "resnet18": Configuration(
        "ResNet-18, small stem", training.Config(backbone="resnet18", stem="small"), HEAD, 32, 32
    ),
    "resnet18_imagenet": Configuration(
        "ResNet-18, ImageNet stem",
        training.Config(backbone="resnet18", stem="imagenet"),
        HEAD,
        64,
        32,
    ),
    "resnet50": Configuration(
        "ResNet-50, ImageNet stem",
        training.Config(backbone="resnet50", stem="imagenet"),
        HEAD,
        32,
        96,
    ),
    "experiments": Configuration(
        "the experiments' network", training.Config(), BarlowTwins(), 512, training.Config().size
    ),
}


def jax_step(config, images):
    """``step(params, stats, state)``, and a function that makes its arguments."""
    encoder = training.network(config.network, config.recipe)
    images = jnp.asarray(images)
    optimiser = optax.sgd(1e-3, momentum=0.9)

    def init():
        variables = encoder.init(jax.random.key(0), images, train=False)
        return variables["params"], variables["batch_stats"], optimiser.init(variables["params"])

    def step(params, stats, state):
        def loss(params):
            tree = {"params": params, "batch_stats": stats}
            out, updated = encoder.apply(tree, images, train=True, mutable=["batch_stats"])
            return losses.barlow_twins(*jnp.split(out.z, 2)), updated["batch_stats"]

        gradient, stats = jax.grad(loss, has_aux=True)(params)
        updates, state = optimiser.update(gradient, state, params)
        return optax.apply_updates(params, updates), stats, state

    return step, init


def by_jax(config, images, compiler_options):
    """A function that takes one step, once compiled."""
    step, init = jax_step(config, images)
    compiled = jax.jit(step, donate_argnums=(0, 1, 2), compiler_options=compiler_options)
    carry = [*jax.jit(init)()]

    def one_step():
        carry[:] = jax.block_until_ready(compiled(*carry))

    return one_step


def operations(config, images):
    """Floating-point operations of a step, as XLA counts them before it optimises."""
    step, init = jax_step(config, images)
    counted = jax.jit(step).lower(*jax.eval_shape(init)).cost_analysis()
    assert counted is not None
    return counted["flops"]


def on_gpu():
    """Whether PyTorch, which is installed, can be where JAX is, on a GPU."""
    import torch

    return jax.devices()[0].platform == "gpu" and torch.cuda.is_available()


def by_pytorch(config, images, compiled):
    """The same with torch.nn."""
    import torch

    from benchmarks._pytorch import network_like

    torch.set_num_threads(os.cpu_count() or 1)
    device = "cuda" if on_gpu() else "cpu"
    network = network_like(training.network(config.network, config.recipe)).to(device)
    images = torch.tensor(images.transpose(0, 3, 1, 2).copy()).to(device)
    embed = network
    if compiled:
        network.to(memory_format=torch.channels_last)
        images = images.to(memory_format=torch.channels_last)
        embed = torch.compile(network)
    mixed = torch.autocast(device, torch.bfloat16, enabled=config.network.dtype == "bfloat16")
    optimiser = torch.optim.SGD(network.parameters(), 1e-3, momentum=0.9)

    def one_step():
        with mixed:
            embeddings = embed(images)
        z, z_prime = (
            torch.nn.functional.batch_norm(view, None, None, training=True)
            for view in embeddings.float().chunk(2)
        )
        c = z.T @ z_prime / len(z)
        on, off = (c.diagonal() - 1).square().sum(), c.square().sum() - c.diagonal().square().sum()
        optimiser.zero_grad()
        (on + 5e-3 * off).backward()
        optimiser.step()
        if device == "cuda":
            torch.cuda.synchronize()

    return one_step


def make_step(side, config, most):
    """One side's step."""
    images = config.images(most)
    if side in (PYTORCH, COMPILED):
        return by_pytorch(config, images, side == COMPILED)
    options = _xla.compiler_options(jax.devices()[:1]) if side == OURS else None
    return by_jax(config, images, options)


def configuration(key: str, dtype: Any) -> Configuration:
    """The configuration of a name, that computes in a type."""
    found = CONFIGURATIONS[key]
    return found._replace(network=dataclasses.replace(found.network, dtype=dtype))


def memory(side: str, key: str, most: int | None, dtype: str) -> float:
    """Peak memory of this process after three steps, in MiB."""
    step = make_step(side, configuration(key, dtype), most)
    for _ in range(3):
        step()
    return peak_memory()


def main(args: Sequence[str] | None = None) -> list[Row]:
    """Print the table."""
    options = parser(__doc__, rounds=5, full="30 turns of each")
    options.add_argument(
        "--networks", nargs="+", choices=CONFIGURATIONS, default=list(CONFIGURATIONS)
    )
    options.add_argument("--images", type=int, help="fewer than the table's")
    options.add_argument("--dtype", choices=("float32", "bfloat16"), default="float32")
    options.add_argument(
        "--compiled",
        action="store_true",
        help="PyTorch by torch.compile too: needs a C++ compiler",
    )
    chosen = options.parse_args(args)
    rows = Rows("train_step", chosen.rows)
    print_machine(chosen.dtype)
    peak = peak_rate(chosen.dtype)
    sides = [OURS]
    if _xla.compiler_options(jax.devices()[:1]) is None:
        print("ours is compiled by JAX's default options here")
    else:
        sides.append(DEFAULTS)
    if installed("torch"):
        sides += [PYTORCH, COMPILED] if chosen.compiled or on_gpu() else [PYTORCH]
    for key in chosen.networks:
        config = configuration(key, chosen.dtype)
        used = {
            side: in_own_process(memory, side, key, chosen.images, chosen.dtype)
            for side in sides
            if side != DEFAULTS  # the same within a few MiB
        }
        steps = {side: make_step(side, config, chosen.images) for side in sides}
        turns = 30 if chosen.full else chosen.rounds
        seconds = take_turns(steps, turns, pause=0.1, calls_a_turn=4).seconds
        images = config.images(chosen.images)
        case = f"{config.name}, {len(images)} of {config.size}x{config.size}"
        count = operations(config, images)
        share = count / seconds[OURS] / peak
        for side in sides:
            also = f"{count / 1e9:.1f} GFLOP, at {share:.0%} of the product's rate"
            rows.add(case, side, seconds[side], used.get(side), also=also if side == OURS else "")
    return rows.rows


if __name__ == "__main__":
    main()
