"""Estimate the cost of training at a preset without training: sizes, memory, operations, hours.

    python -m experiments dry [NAME ...] [--preset paper]

For each experiment that trains by recipes and each method, the training step is compiled from
shapes alone, without data or device memory. A few steps are then taken on random images with a
smaller batch. Hours follow from the counted operations and the rate --tflops: take the rate from a
step timed on your device.
"""

import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated, Any

import jax
import jax.numpy as jnp
import numpy as np
import tyro

from sslstep import train
from sslstep.experiment import training
from sslstep.experiment._record import find, load
from sslstep.recipes import METHODS, Method, Recipes


@dataclass(frozen=True)
class Options:
    """Settings; each is one option of the command."""

    names: Annotated[tuple[str, ...], tyro.conf.Positional] = ()
    """Experiments (default: all that train by recipes)."""
    preset: str = "paper"
    """Preset of the experiments."""
    methods: tuple[Method, ...] = METHODS
    """Methods; the table has a row for each experiment and method."""
    tflops: float = 50.0
    """Rate of your device, in 10^12 operations a second, for the estimated hours."""
    batch: int = 4
    """Pairs in a batch of the steps taken here; 0 takes no steps."""
    steps: int = 2
    """Number of timed steps, taken after one untimed step."""


def main(package: str, args: Sequence[str]) -> int:
    """Run the command `dry`: print the table of costs; return the exit status."""
    prog = f"python -m {package} dry"
    options = tyro.cli(Options, prog=prog, description=__doc__, args=list(args))
    known = find(package)
    if unknown := [name for name in options.names if name not in known]:
        raise SystemExit(f"no experiment {unknown[0]!r}: one of {', '.join(known)}")
    titles = ("pairs", "steps", "parameters", "TFLOP/step", "state MiB", "step MiB", "hours")
    print(f"{'':24}" + "".join(f"{title:>12}" for title in titles) + f"{'taken here':>28}")
    for name in options.names or known:
        config: Any = load(known[name]).presets.get(options.preset)
        if isinstance(getattr(config, "recipes", None), Recipes):
            for method in options.methods:
                _row(name, method, config, options)
    return 0


def _row(name: str, method: Method, config: Any, options: Options) -> None:
    """Compile the step of a method and print its row of the table."""
    recipe = config.recipes.of(method)
    parts = training.parts(config, recipe)
    step = jax.jit(parts.step, donate_argnums=0)
    x = jnp.zeros((1, config.size, config.size, 3))

    @jax.jit
    def init(key: jax.Array) -> train.TrainState:
        return train.init_state(key, parts.model, parts.optimizer, x, init_scale=recipe.init_scale)

    state = jax.eval_shape(init, jax.random.key(0))
    side = 96 if config.data == "stl10" else 32  # of the data set's images
    images = jax.ShapeDtypeStruct((recipe.batch_size, side, side, 3), jnp.uint8)
    compiled = step.lower(state, images).compile()
    memory: Any = compiled.memory_analysis()
    counted: Any = compiled.cost_analysis()
    flops = float(counted["flops"])
    parameters = sum(leaf.size for leaf in jax.tree.leaves(state.params))
    row = (
        f"{recipe.batch_size:12}{recipe.num_steps:12}{parameters:12}{flops / 1e12:12.3g}"
        f"{memory.argument_size_in_bytes / 2**20:12.0f}"
        f"{memory.temp_size_in_bytes / 2**20:12.0f}"
        f"{recipe.num_steps * flops / (options.tflops * 1e12) / 3600:12.2g}"
    )
    print(f"{name + ' ' + method:24}{row}", end="", flush=True)
    taken = _take(step, init(jax.random.key(0)), side, options) if options.batch else ""
    print(f"{taken:>28}" if taken else "", flush=True)


def _take(step: Any, state: train.TrainState, side: int, options: Options) -> str:
    """Take a few steps on random images with a smaller batch; return speed and loss as text."""
    shape = (options.batch, side, side, 3)
    images = np.random.default_rng(0).integers(0, 256, shape, np.uint8)
    state, metrics = jax.block_until_ready(step(state, images))
    start = time.perf_counter()
    for _ in range(options.steps):
        state, metrics = jax.block_until_ready(step(state, images))
    seconds = (time.perf_counter() - start) / max(1, options.steps)
    if not np.isfinite(metrics.loss):
        raise FloatingPointError(f"the loss is {metrics.loss} after {options.steps + 1} steps")
    return f"{2 * options.batch / seconds:.1f} views/s, loss {float(metrics.loss):.4g}"
