r"""Figure 6: every element of A(t) from a small start, compared with Eqs. 47 and 48.

    make fig6    or    python -m experiments run fig6

The weights are W = U A V^T with V the eigenbasis of Γ (Eq. 44), d = 3 dimensions, m = 5 features,
eigenvalues γ_j = 2^-j of Γ, and the initial scale α = 1e-9. The figure compares the full dynamics
of Eq. 45 (solid) with the paper's approximation (dashed) and with an approximation that adds a
second stage, the change of a_jk once mode k is learned too (dotted). Expected: the diagonal
elements s_j, and a_jk with k > d, follow the paper. Elements a_jk with j < k <= d end above Eq. 48
by the factor √π Γ((r+1)/2) / Γ(r/2), with the gamma function Γ(·) and r = γ_j/γ_k. Elements a_kj
end at -√(γ_k/γ_j) times a_jk. Time is Section 4's, a quarter of Appendix C's. The experiment takes
seconds.
"""

from dataclasses import dataclass
from typing import Literal

import jax
import jax.numpy as jnp
import numpy as np

from sslstep import linear, simulate
from sslstep.experiment import Arrays, Experiment, prediction
from sslstep.experiment._require import require, require_list


@dataclass(frozen=True)
class Config:
    """Settings; each is one option of the command."""

    dim: int = 3
    """Embedding dimension d."""
    num_features: int = 5
    """Number of features m."""
    init_scale: float = 1e-9
    """α, the scale of A(0); 1 at most."""
    scales: tuple[float, ...] = (1e-3, 1e-4, 1e-5, 1e-6, 1e-7, 1e-8, 1e-9, 1e-10, 1e-11, 1e-12)
    """Scales α at which the distance to alignment is measured; four or more, decreasing."""
    num_times: int = 600
    """Points on the time axis, which ends at 1.5 times the last critical time."""
    seed: int = 0
    """Seed of A(0)."""
    dtype: Literal["float32", "float64"] = "float64"
    """Floating-point type of all computations."""


def run(config: Config) -> Arrays:
    """Integrate the full dynamics at `init_scale`; measure the distance to alignment at scales."""
    # Above scale 1 all modes may be learned from the start.
    require(config, at_least={"num_times": 2}, at_most_one=("init_scale", "scales"))
    if not 2 <= config.dim < config.num_features:
        raise ValueError(
            f"dim must be >= 2 and < num_features, got {config.dim} and {config.num_features}."
        )
    require_list("scales", config.scales, least=4, order="decreasing")
    dtype = jnp.dtype(config.dtype)
    gammas = 2.0 ** -jnp.arange(1, config.num_features + 1, dtype=dtype)
    normal = jax.random.normal(
        jax.random.key(config.seed), (config.dim, config.num_features), dtype
    )
    square = jnp.abs(jnp.diagonal(normal))
    unit = jnp.triu(normal, 1) + jnp.zeros_like(normal).at[:, : config.dim].set(jnp.diag(square))

    modes = linear.Modes(gammas, jnp.eye(len(gammas), dtype=dtype))

    def times(scale: float) -> jax.Array:
        last = linear.critical_time(gammas[: config.dim], scale * square).max()
        return jnp.linspace(0, 1.5 * last, config.num_times, dtype=dtype)

    start, t = config.init_scale * unit, times(config.init_scale)
    found = [
        prediction.distance_to_aligned(scale * unit, modes, times(scale)) for scale in config.scales
    ]
    distances, floors = np.asarray(found, dtype).T
    arrays = {
        "t": t,
        "gammas": gammas,
        "initial": start,
        "full": simulate.gradient_flow(start, modes, t).coefficients,
        "paper": linear.elements(t, gammas, start),
        "coupled": linear.coupled_elements(t, gammas, start),
        "distances": distances,
        "floors": floors,
    }
    return {name: np.asarray(array) for name, array in arrays.items()}


EXPERIMENT = Experiment({"cpu": Config(), "paper": Config()}, run, minutes=0.2, quick=())
