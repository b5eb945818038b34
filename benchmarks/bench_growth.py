"""Growth modes of losses: against contrastive modes, and a product with H against the loss.

    make bench    or    python -m benchmarks.bench_growth

Both solvers take the same stored kernel (the NTK of one hidden layer, float32) and number of modes,
in turns. Contrastive modes are those of simplified Barlow Twins alone. Before that, a product of H
with a block of d columns takes turns with the loss of d dimensions and with its gradient. With
--full there are 20,000 pairs.
"""

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from benchmarks._timing import OURS, Row, Rows, parser, print_machine, take_turns
from benchmarks.bench_kernel_pca import crops
from sslstep import gram, kernel_pca, losses
from sslstep._second_variation import negative_hessian
from sslstep.ntk import infinite

#: The time of those over all pairs of samples is quadratic in their number.
LOSSES: dict[str, Callable[..., Any]] = {
    "simplified Barlow Twins": losses.simplified_barlow_twins,
    "spectral contrastive": losses.spectral_contrastive,
    "VICReg": losses.vicreg,
    "InfoNCE": partial(losses.info_nce, normalise=False, temperature=1.0),
}


def modes_table(kernel: Any, names: Sequence[str], dim: int, rounds: int, rows: Rows) -> None:
    """Print the times of the modes."""
    calls: dict[str, Any] = {
        "contrastive modes": partial(kernel_pca.contrastive_modes, kernel, dim)
    }
    for name in names:
        calls[name] = partial(kernel_pca.growth_modes, kernel, LOSSES[name], dim)
    turns = take_turns(calls, rounds)
    for name, seconds in turns.seconds.items():
        products = f"{int(turns.results[name].iterations)} products"
        rows.add(f"{dim} modes, {len(kernel) // 2} pairs", name, seconds, also=products)
    gammas, rates = (np.asarray(turns.results[name].eigenvalues) for name in list(calls)[:2])
    assert np.abs(rates / (4 * gammas) - 1).max() < 1e-3


def products_table(size: int, names: Sequence[str], dim: int, rounds: int, rows: Rows) -> None:
    """Print the times of a product with H, of the loss, and of its gradient."""
    block = jax.random.normal(jax.random.key(0), (size, dim))
    for name in names:
        loss = LOSSES[name]
        hessian: Any = negative_hessian(loss, None, size, dim, num_views=2, dtype=block.dtype)

        def of(z: jax.Array, loss: Any = loss) -> jax.Array:
            return loss(*jnp.split(z, 2))

        calls = {
            "loss": partial(jax.jit(of), block),
            "gradient": partial(jax.jit(jax.grad(of)), block),
            "product": partial(hessian, block),
        }
        case = f"a product with H, {dim} columns, {size // 2} pairs, {name}"
        for which, seconds in take_turns(calls, rounds).seconds.items():
            rows.add(case, which, seconds)


def main(args: Sequence[str] | None = None) -> list[Row]:
    """Print the tables."""
    options = parser(__doc__, rounds=3, full="20,000 pairs (10 minutes, 10 GiB)")
    options.add_argument("--pairs", type=int, default=1000, help="n (default: 1000)")
    options.add_argument("--dim", type=int, default=64, help="d (default: 64)")
    options.add_argument("--losses", nargs="+", choices=LOSSES, default=list(LOSSES))
    options.add_argument("--data", default="photos", help="photos, cifar10 or stl10")
    options.add_argument("--data-dir", help="folder of prepared data")
    chosen = options.parse_args(args)
    rows = Rows("growth", chosen.rows)
    print_machine(f"data: {chosen.data}, {OURS} in every line")
    num = 20_000 if chosen.full else chosen.pairs
    products_table(2 * num, chosen.losses, chosen.dim, chosen.rounds, rows)
    kernel = gram.pairs(infinite.mlp(1), *crops(chosen, num), progress=chosen.full)
    modes_table(jax.block_until_ready(kernel), chosen.losses, chosen.dim, chosen.rounds, rows)
    return rows.rows


if __name__ == "__main__":
    main()
