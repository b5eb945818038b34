"""Result 4.6 at many α: distance of gradient flow from the trajectory of an aligned start."""

from collections.abc import Sequence

import jax
import jax.numpy as jnp
import numpy as np
from tqdm import tqdm

from sslstep import dynamics, linear
from sslstep.experiment import Arrays, prediction

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
    gammas, start = modes.eigenvalues, linear.align(weights, modes).singular_values
    last = dynamics.critical_time(gammas[: len(start)], start).max()
    times = jnp.geomspace(1e-2 / gammas[0], 1.3 * last, 200, dtype=start.dtype)
    measured, floor = prediction.distance_to_aligned(weights, modes, times)
    first_order = prediction.left_out(weights, modes, times)
    return measured, float(jnp.linalg.norm(first_order, axis=(1, 2)).max()), floor
