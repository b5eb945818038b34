r"""Figure 6: every element of A(t) from a small start, against Eqs. 47 and 48.

    make fig6    or    python -m experiments.element_dynamics

W = U A V^T in the eigenbasis of Γ (Eq. 44), d = 3, m = 5, γ_j = 2^-j, α = 1e-9. The full dynamics
of Eq. 45 (solid) against the paper's approximation (dashed) and against ours, which adds what
happens to a_jk once mode k is learned too (dotted). Expected: s_j and a_jk with k > d follow the
paper; a_jk with j < k <= d ends above Eq. 48 by the factor √π Γ((r+1)/2) / Γ(r/2), r = γ_j/γ_k, and
a_kj at -√(γ_k/γ_j) times that. Time is Section 4's, so a quarter of Appendix C's. Takes seconds.
"""

from dataclasses import dataclass
from typing import Any, Literal

import jax
import jax.numpy as jnp
import numpy as np
from jax.scipy.special import gamma as gamma_function

from experiments._require import require
from experiments._run import Arrays, Experiment, command
from sslstep import claims, linear, plotting, simulate

#: The size of what is left out is known up to a constant of order one.
CONSTANT = 10.0


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
    """α at which the distance to the aligned trajectory is measured: four or more, descending."""
    num_times: int = 600
    """Points on the time axis, which ends at 1.5 times the last critical time."""
    seed: int = 0
    """Seed of A(0)."""
    dtype: Literal["float32", "float64"] = "float64"
    """Floating-point type of all computations."""


def run(config: Config) -> Arrays:
    """Integrate the full dynamics at `init_scale`, and its distance to alignment at each scale."""
    # From above 1 the modes may be learned from the first: there would be nothing to integrate.
    require(config, at_least={"num_times": 2}, at_most_one=("init_scale", "scales"))
    if not 2 <= config.dim < config.num_features:
        raise ValueError(
            f"dim must be >= 2 and < num_features, got {config.dim} and {config.num_features}."
        )
    if len(config.scales) < 4 or sorted(set(config.scales), reverse=True) != list(config.scales):
        raise ValueError(f"scales must be at least four, descending, got {config.scales}.")
    dtype = jnp.dtype(config.dtype)
    gammas = 2.0 ** -jnp.arange(1, config.num_features + 1, dtype=dtype)
    normal = jax.random.normal(
        jax.random.key(config.seed), (config.dim, config.num_features), dtype
    )
    square = jnp.abs(jnp.diagonal(normal))
    unit = jnp.triu(normal, 1) + jnp.zeros_like(normal).at[:, : config.dim].set(jnp.diag(square))

    start = config.init_scale * unit
    t, full = _integrate(config, gammas, start)
    distances: list[jax.Array] = []
    floors: list[jax.Array] = []
    for scale in config.scales:
        # The same run from the aligned start shows how well numerics tell the two apart.
        for initial, found in ((scale * unit, distances), (_diagonal(scale * unit), floors)):
            times, elements = _integrate(config, gammas, initial)
            aligned = _diagonal(linear.elements(times, gammas, initial))
            found.append(jnp.sqrt(jnp.sum((elements - aligned) ** 2, axis=(1, 2))).max())
    arrays = {
        "t": t,
        "gammas": gammas,
        "initial": start,
        "full": full,
        "paper": linear.elements(t, gammas, start),
        "coupled": linear.coupled_elements(t, gammas, start),
        "distances": jnp.stack(distances),
        "floors": jnp.stack(floors),
    }
    return {name: np.asarray(array) for name, array in arrays.items()}


def _integrate(config: Config, gammas, start):
    """A(t) under Eq. 45, on a time axis that covers all steps."""
    dim = config.dim
    last = linear.critical_time(gammas[:dim], jnp.diagonal(start)).max()
    t = jnp.linspace(0, 1.5 * last, config.num_times, dtype=gammas.dtype)
    modes = linear.Modes(gammas, jnp.eye(len(gammas), dtype=gammas.dtype))
    return t, simulate.gradient_flow(start, modes, t).coefficients


def _diagonal(elements):
    """A with all but s_j zeroed: aligned."""
    dim, size = elements.shape[-2:]
    eye = jnp.eye(dim, size, dtype=elements.dtype)
    return elements * eye.reshape((1,) * (elements.ndim - 2) + eye.shape)


def check(config: Config, arrays: Arrays) -> list[claims.Claim]:
    """Element by element, each against the form that should hold."""
    full, paper, coupled = arrays["full"], arrays["paper"], arrays["coupled"]
    gammas, dim, size = arrays["gammas"], config.dim, config.num_features
    rows, columns = np.triu_indices(dim, 1)
    beta = float(linear.alignment_exponent(jnp.asarray(gammas), dim))
    solver = 1e2 * 1e-2 * float(np.finfo(full.dtype).eps) ** 0.5

    # What first order leaves out, relative to an element, is of order alpha^beta; an element (j, k)
    # with a learned mode l in between also gets C_jl a_lk, where C_jl = a_jl sqrt(γ_l).
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
    pairs = list(zip(rows, columns, strict=True))
    last = full[-1]
    ratio = gammas[rows] / gammas[columns]
    factor = np.sqrt(np.pi) * gamma_function((ratio + 1) / 2) / gamma_function(ratio / 2)
    reached = last[rows, columns] / paper[-1][rows, columns]
    below = last[columns, rows] / (-np.sqrt(1 / ratio) * last[rows, columns])
    resolved = arrays["distances"] > 30 * arrays["floors"]
    scales, distances = np.asarray(config.scales)[resolved], arrays["distances"][resolved]
    slope = np.diff(np.log(distances)) / np.diff(np.log(scales))
    decades = np.log10(scales[0] / scales[-1]) if len(scales) else 0.0
    results = [
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
    ]
    for i, (j, k) in enumerate(pairs):
        results += [
            claims.close(
                f"a_{j + 1}{k + 1}(∞) is Eq. 48 times √π Γ((r+1)/2)/Γ(r/2), r = {ratio[i]:g}",
                "Eq. 48, corrected",
                expected=float(factor[i]),
                measured=float(reached[i]),
                tolerance=CONSTANT * order(j, k) * float(factor[i]),
            ),
            claims.close(
                f"a_{k + 1}{j + 1}(∞) is -√(γ_k/γ_j) a_{j + 1}{k + 1}(∞), not zero: their ratio",
                "Eq. 48, corrected",
                expected=1.0,
                measured=float(below[i]),
                tolerance=CONSTANT * order(j, k),
            ),
        ]
    results.append(
        claims.close(
            f"sup_t |W(t) - W*(t)| falls as α^β over the {decades:.0f} decades "
            f"that {config.dtype} resolves (mean exponent of the last three)",
            "Result 4.6",
            expected=beta,
            measured=float(slope[-3:].mean()) if len(slope) else float("nan"),
            tolerance=0.02 * beta,
        )
    )
    return results


def plot(config: Config, arrays: Arrays) -> Any:
    """Three panels: the diagonal, above it, below it."""
    import matplotlib.pyplot as plt

    t, dim, size = arrays["t"], config.dim, config.num_features
    blue, red, green = plotting.CATEGORIES[:3]
    panels = [
        (red, [(j, j) for j in range(dim)], r"$|s_j(t)|$"),
        (blue, [(j, k) for j in range(dim) for k in range(j + 1, size)], r"$|a_{jk}(t)|$, $j<k$"),
        (green, [(j, k) for j in range(dim) for k in range(j)], r"$|a_{jk}(t)|$, $j>k$"),
    ]
    fig, axes = plt.subplots(1, 3, figsize=(7.0, 3.0), sharey=True)
    dotted = {"color": "black", "linestyle": ":", "linewidth": 1.4}
    axes[0].set(ylim=(config.init_scale * 1e-6, 20), yscale="log")
    for ax, (color, pairs, title) in zip(axes, panels, strict=True):
        for j, k in pairs:
            ax.semilogy(t, np.abs(arrays["full"][:, j, k]), color=color, alpha=0.9, linewidth=2)
            if j <= k:
                ax.semilogy(t, np.abs(arrays["paper"][:, j, k]), **plotting.THEORY)
            if j != k and max(j, k) < dim:
                ax.semilogy(t, np.abs(arrays["coupled"][:, j, k]), **dotted)
        names = [f"$s_{j + 1}$" if j == k else f"$a_{{{j + 1}{k + 1}}}$" for j, k in pairs]
        ends = np.array([abs(arrays["full"][-1, j, k]) for j, k in pairs])
        plotting.end_labels(ax, t[-1], ends, names)
        ax.set(xlabel=r"time $t$", title=title)
    axes[0].set_ylabel("size of the element")
    axes[1].plot([], [], color="grey", linewidth=2, label="full dynamics (Eq. 45)")
    axes[1].plot([], [], **plotting.THEORY, label="Eqs. 47, 48")
    axes[1].plot([], [], **dotted, label="with the second stage")
    axes[1].legend(loc="lower right", fontsize=6)
    plotting.label_panels(axes)
    return fig


EXPERIMENT = Experiment(
    "element_dynamics", __doc__ or "", {"cpu": Config(), "paper": Config()}, run, plot, check
)

if __name__ == "__main__":
    command(EXPERIMENT)
