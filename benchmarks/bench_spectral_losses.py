"""What the losses and gradients of Appendix G cost over plain Barlow Twins.

    make bench    or    python -m benchmarks.bench_spectral_losses

Value and gradient by the embeddings of a batch, compiled, in float32: the simplified loss, those of
its eigenvalues, and the simplified loss with preconditioned gradients. They take turns, and the
shortest time of each counts, because other work on the machine only ever adds to it. What a whole
training step costs more is the difference in ms, next to the network's own time. With --full, at
d = 1024 too.
"""

import argparse
import time
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np

from sslstep import losses, optim

PLAIN = partial(losses.barlow_twins, off_diagonal=1.0, symmetrise=True)
PEERS = {
    "barlow_twins": PLAIN,
    "quartic_barlow_twins": losses.quartic_barlow_twins,
    "smoothed_barlow_twins": partial(losses.smoothed_barlow_twins, leak=0.1),
    "sharpened_barlow_twins": losses.sharpened_barlow_twins,
    "preconditioned(barlow_twins)": optim.preconditioned(PLAIN),
}


def compare(num: int, dim: int, rounds: int) -> None:
    """Print the rows of one size."""
    keys = jax.random.split(jax.random.key(0), 2)
    common = jax.random.normal(keys[0], (num, dim))
    noise = jax.random.normal(keys[1], (2, num, dim))
    z, z_prime = common + 0.5 * noise
    steps = {
        name: jax.jit(jax.value_and_grad(loss, argnums=(0, 1))) for name, loss in PEERS.items()
    }
    for step in steps.values():
        jax.block_until_ready(step(z, z_prime))  # compile
    best: dict[str, float] = {}
    for _ in range(rounds):
        for name, step in steps.items():
            start = time.perf_counter()
            jax.block_until_ready(step(z, z_prime))
            best[name] = min(time.perf_counter() - start, best.get(name, np.inf))
    for name, seconds in best.items():
        ratio = seconds / best["barlow_twins"]
        print(f"{num:6}{dim:6}  {name:30}{seconds * 1e3:10.2f}{ratio:10.1f}")
        assert bool(jnp.isfinite(steps[name](z, z_prime)[0]))


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--rounds", type=int, default=10, help="turns of each (default: 10)")
    parser.add_argument("--full", action="store_true", help="d = 1024 too")
    options = parser.parse_args()
    print(f"{jax.devices()[0].device_kind}, JAX {jax.__version__}, float32")
    print(f"{'n':>6}{'d':>6}  {'':30}{'ms':>10}{'ratio':>10}")
    sizes = [(256, 16), (256, 64), (256, 512)]
    for num, dim in [*sizes, (256, 1024)] if options.full else sizes:
        compare(num, dim, options.rounds)


if __name__ == "__main__":
    main()
