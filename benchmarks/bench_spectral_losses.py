"""What the losses and gradients of Appendix G cost over plain Barlow Twins.

    make bench    or    python -m benchmarks.bench_spectral_losses

Value and gradient by the embeddings of a batch, compiled, in float32: Barlow Twins (λ = 1, C
symmetrised), those of its eigenvalues, and the first with preconditioned gradients; all of
embeddings that are normalised over the batch. They take turns, and the shortest time of each
counts. What a whole training step costs more is the difference in ms, next to the network's own
time. With --full, at d = 1024 too.
"""

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp

from benchmarks._timing import Row, Rows, parser, print_machine, take_turns
from sslstep import losses, optim

PLAIN = partial(losses.barlow_twins, off_diagonal=1.0, symmetrise=True)
PEERS: dict[str, Callable[..., Any]] = {
    "barlow_twins": PLAIN,
    "quartic_barlow_twins": losses.quartic_barlow_twins,
    "smoothed_barlow_twins": partial(losses.smoothed_barlow_twins, leak=0.1),
    "sharpened_barlow_twins": losses.sharpened_barlow_twins,
    "preconditioned(barlow_twins)": optim.preconditioned(PLAIN),
}


def compare(rows: Rows, num: int, dim: int, rounds: int) -> None:
    """Print the rows of one size."""
    keys = jax.random.split(jax.random.key(0), 2)
    common = jax.random.normal(keys[0], (num, dim))
    noise = jax.random.normal(keys[1], (2, num, dim))
    z, z_prime = common + 0.5 * noise
    calls = {
        name: partial(jax.jit(jax.value_and_grad(loss, argnums=(0, 1))), z, z_prime)
        for name, loss in PEERS.items()
    }
    turns = take_turns(calls, rounds)
    for name, seconds in turns.seconds.items():
        rows.add(f"{num} pairs, d = {dim}", name, seconds)
        assert bool(jnp.isfinite(turns.results[name][0]))


def main(args: Sequence[str] | None = None) -> list[Row]:
    """Print the table."""
    options = parser(__doc__, rounds=10, full="d = 1024 too")
    options.add_argument("--pairs", type=int, default=256, help="in a batch (default: 256)")
    options.add_argument("--dims", type=int, nargs="+", default=[16, 64, 512], help="each d")
    chosen = options.parse_args(args)
    rows = Rows("spectral_losses", chosen.rows)
    print_machine("float32")
    for dim in [*chosen.dims, 1024] if chosen.full else chosen.dims:
        compare(rows, chosen.pairs, dim, chosen.rounds)
    return rows.rows


if __name__ == "__main__":
    main()
