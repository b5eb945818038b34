"""Convolutions in the bodies of loops on CPUs: ours, JAX's, and the same outside of a loop.

    make bench    or    python -m benchmarks.bench_convolutions

Four times a 3x3 convolution of images with 64 channels in and out, and its gradients by the input
and by the kernel, in float32: in a loop (`jax.lax.map`) as `sslstep` compiles its own loops, with
the axes of convolutions in the order that XLA's CPU has fast code for; in a loop as JAX compiles
it; and one after the other. All have the same compiler options. They take turns, and the shortest
time of each counts. With --full, a training step in microbatches as well, of a small ResNet.
"""

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import optax
from jax import Array, lax

from benchmarks._timing import OURS, Row, Rows, parser, print_machine, take_turns
from sslstep import _xla, losses, train
from sslstep.experiment import training
from sslstep.recipes import BarlowTwins

REPEATS, CHANNELS = 4, 64
JAX, OUTSIDE = "JAX, in a loop", "JAX, one after the other"


def conv(x: Array, kernel: Array) -> Array:
    numbers = ("NHWC", "HWIO", "NHWC")
    return lax.conv_general_dilated(x, kernel, (1, 1), "SAME", dimension_numbers=numbers)


def by_input(x: Array, kernel: Array) -> Array:
    return jax.vjp(lambda x: conv(x, kernel), x)[1](x)[0]


def by_kernel(x: Array, kernel: Array) -> Array:
    return jax.vjp(lambda kernel: conv(x, kernel), kernel)[1](x)[0]


CASES: dict[str, Callable[[Array, Array], Array]] = {
    "forward": conv,
    "gradient by the input": by_input,
    "gradient by the kernel": by_kernel,
}


def single_layers(num: int, size: int) -> dict[str, dict[str, Callable[[], Any]]]:
    """Of each case, the calls to compare."""
    keys = jax.random.split(jax.random.key(0))
    x = jax.random.normal(keys[0], (REPEATS, num, size, size, CHANNELS))
    kernel = jax.random.normal(keys[1], (3, 3, CHANNELS, CHANNELS)) / (9 * CHANNELS) ** 0.5
    devices = jax.devices()[:1]
    options = _xla.compiler_options(devices)

    def calls(function):
        def looped(x, kernel):
            return lax.map(partial(function, kernel=kernel), x)

        def outside(x, kernel):
            return jnp.stack([function(each, kernel) for each in x])

        return {
            OURS: partial(_xla.jit(looped, devices), x, kernel),
            JAX: partial(jax.jit(looped, compiler_options=options), x, kernel),
            OUTSIDE: partial(jax.jit(outside, compiler_options=options), x, kernel),
        }

    return {f"{name}, {num} of {size}x{size}": calls(each) for name, each in CASES.items()}


def training_step(num: int) -> dict[str, Callable[[], Any]]:
    """Of the experiments' network, in microbatches; last the whole batch at once."""
    config, recipe = training.Config(), BarlowTwins()
    network = training.network(config, recipe)
    sgd = optax.sgd(0.01)
    images = jax.random.normal(jax.random.key(0), (num, config.size, config.size, 3))
    state = train.init_state(jax.random.key(1), network, sgd, images[:1])

    def views(keys, images):
        return images, images[:, ::-1]

    def step(parts):
        return train.make_step(network, losses.barlow_twins, sgd, views, num_microbatches=parts)

    devices = jax.devices()[:1]
    options = _xla.compiler_options(devices)
    parts, whole = step(REPEATS), step(1)
    return {
        OURS: partial(_xla.jit(parts, devices), state, images),
        JAX: partial(jax.jit(parts, compiler_options=options), state, images),
        "the whole batch": partial(_xla.jit(whole, devices), state, images),
    }


def main(args: Sequence[str] | None = None) -> list[Row]:
    """Print the table."""
    options = parser(__doc__, rounds=3, full="a training step too")
    options.add_argument("--images", type=int, default=16, help="at a time (default: 16)")
    options.add_argument("--size", type=int, default=32, help="their side (default: 32)")
    chosen = options.parse_args(args)
    rows = Rows("convolutions", chosen.rows)
    print_machine("float32")
    cases = single_layers(chosen.images, chosen.size)
    if chosen.full:
        cases[f"a training step, {16 * chosen.images} pairs"] = training_step(16 * chosen.images)
    for case, calls in cases.items():
        for name, seconds in take_turns(calls, chosen.rounds).seconds.items():
            rows.add(case, name, seconds)
    return rows.rows


if __name__ == "__main__":
    main()
