"""Claims of the experiment `fig6`."""

import jax.numpy as jnp
import numpy as np

from experiments.fig6.experiment import Config
from sslstep import claims, linear
from sslstep.experiment import Arrays

#: Allowed error over its order of magnitude, which is known up to a constant of order one.
CONSTANT = 10.0


def check(config: Config, arrays: Arrays) -> list[claims.Claim]:
    """Claims on the elements of A, each against its closed form, and on Result 4.6."""
    full, paper, coupled = arrays["full"], arrays["paper"], arrays["coupled"]
    gammas, dim, size = arrays["gammas"], config.dim, config.num_features
    beta = float(linear.alignment_exponent(jnp.asarray(gammas), dim))
    solver = 1e2 * 1e-2 * float(np.finfo(full.dtype).eps) ** 0.5

    # The relative error of first order is of order alpha^beta. An element (j, k) with a learned
    # mode l in between also gets C_jl a_lk, where C_jl = a_jl sqrt(γ_l).
    end = np.abs(paper[-1])

    def order(j, k):
        through = range(j + 1, min(k, dim))
        products = [gammas[i] ** 0.5 * end[j, i] * end[i, k] / end[j, k] for i in through]
        return config.init_scale**beta + float(max(products, default=0)) + solver

    def worst(pairs, prediction):
        return max(
            float(np.abs(full[:, j, k] / prediction[:, j, k] - 1).max()) / order(j, k)
            for j, k in pairs
        )

    beyond = [(j, k) for j in range(dim) for k in range(dim, size)]
    pairs = list(zip(*np.triu_indices(dim, 1), strict=True))
    resolved = arrays["distances"] > 30 * arrays["floors"]
    scales, distances = np.asarray(config.scales)[resolved], arrays["distances"][resolved]
    slope = np.diff(np.log(distances)) / np.diff(np.log(scales))
    decades = np.log10(scales[0] / scales[-1]) if len(scales) else 0.0
    return [
        claims.below(
            "s_j(t) follows Eq. 47: largest relative error over its order in α",
            "Eq. 47",
            measured=worst([(j, j) for j in range(dim)], paper),
            tolerance=CONSTANT,
        ),
        claims.below(
            "a_jk(t) with k > d follows Eq. 48: largest relative error over its order in α",
            "Eq. 48",
            measured=worst(beyond, paper),
            tolerance=CONSTANT,
        ),
        claims.below(
            "a_jk(t) with j < k <= d follows Eq. 48 and its second stage: largest relative error "
            "over its order in α",
            "beyond the paper",
            measured=worst(pairs, coupled),
            tolerance=CONSTANT,
        ),
        claims.close(
            f"sup_t |W(t) - W*(t)| falls as α^β over the {decades:.0f} decades "
            f"that {config.dtype} resolves (mean exponent of the last three)",
            "Result 4.6",
            expected=beta,
            measured=float(slope[-3:].mean()) if len(slope) else float("nan"),
            tolerance=0.02 * beta,
        ),
    ]
