"""Result 4.6 at many α: distance of gradient flow from the trajectory of an aligned start."""

from collections.abc import Sequence

import jax
import jax.numpy as jnp
import numpy as np
from tqdm import tqdm

from sslstep import dynamics, linear, simulate
from sslstep.experiment import Arrays

#: Embedding dimensions at which Result 4.6 is tested, besides d.
SMALL_DIMS = (2, 3)


def distances(modes: linear.Modes, unit: jax.Array, scales: Sequence[float]) -> Arrays:
    """Measure sup_t |W(t) - W*(t)| at each scale α, with first order and an aligned start's floor.

    W* is the trajectory of the aligned start. Each row of `distances_{d}` holds the measured
    distance, its first-order prediction, and the distance of a run from the aligned start, which
    shows the numerical floor. Only the leading 2d and the last d modes are kept: the other modes do
    not affect the gaps, and fewer modes make small α affordable. `unit` are the initial weights at
    scale 1, shape (d, m).
    """
    most, size = len(unit), len(modes.eigenvalues)
    kept = np.unique(np.r_[: min(2 * most, size), max(size - most, 0) : size])
    gammas = modes.eigenvalues[kept]
    few = linear.Modes(gammas, jnp.eye(len(kept), dtype=gammas.dtype))
    unit = unit @ modes.eigenvectors[:, kept]
    dims = [*(dim for dim in SMALL_DIMS if dim < most), most]
    sweeps = {dim: _with_small(scales, gammas, dim) for dim in dims}
    arrays: Arrays = {}
    with tqdm(total=sum(map(len, sweeps.values())), desc="Result 4.6", disable=None) as bar:
        for dim, sweep in sweeps.items():
            rows = []
            for scale in sweep:
                rows.append(_distance(scale * unit[:dim], few))
                bar.update()
            arrays[f"distance_scales_{dim}"] = np.asarray(sweep)
            arrays[f"distances_{dim}"] = np.asarray(rows)
    return arrays


def _with_small(scales: Sequence[float], gammas: jax.Array, dim: int) -> list[float]:
    """Return the scales α, descending, with two more at which α^β is 1/100 or less.

    β is the alignment exponent of the first `dim` modes, which the closest two of them determine.
    At such α the asymptotic law of Result 4.6 applies. A scale is left out if its square
    underflows, which happens in float32 for close modes.
    """
    beta = float(linear.alignment_exponent(gammas, dim))
    exponent = min(2 / max(beta, 1e-3), 140.0)
    smallest = float(jnp.finfo(gammas.dtype).tiny) ** 0.45
    far = [10.0**-exponent, 10.0 ** -(exponent + 2)]
    return sorted({*scales, *(scale for scale in far if scale > smallest)}, reverse=True)


def _distance(weights: jax.Array, modes: linear.Modes) -> tuple[float, float, float]:
    """Return the measured distance, its first order, and the floor, for initial weights."""
    gammas = modes.eigenvalues
    rotation, start = linear.align(weights, modes)
    last = dynamics.critical_time(gammas[: len(start)], start).max()
    times = jnp.geomspace(1e-2 / gammas[0], 1.3 * last, 200, dtype=start.dtype)
    aligned = linear.small_init_trajectory(weights, modes)

    def distance(initial: jax.Array) -> float:
        run = simulate.gradient_flow(initial, modes, times)
        return float(jnp.linalg.norm(run.coefficients - aligned(times), axis=(1, 2)).max())

    upper = jnp.triu(rotation.T @ weights)
    upper = jnp.fill_diagonal(upper, start, inplace=False)  # equal up to rounding
    left_out = linear.coupled_elements(times, gammas, upper)
    left_out *= 1 - jnp.eye(len(start), len(gammas), dtype=gammas.dtype)
    predicted = float(jnp.linalg.norm(left_out, axis=(1, 2)).max())
    return distance(weights), predicted, distance(aligned(0.0))
