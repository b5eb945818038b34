r"""Step times of deep linear networks: with depth the wait is a power of 1/α, not a logarithm.

    make depth    or    python -m experiments run depth

Section 4's linear model has one layer, and the wait for its first step grows as ln(1/α) with the
initial scale α. Here W is a product of L square layers. Each layer is drawn at the scale α^(1/L),
so W has the initial scale α for every L.

Panels (A, B): eigenvalues of C against time for the smallest and the largest L, from balanced
layers whose singular vectors are eigenvectors of Γ; solid: trained, dashed: `dynamics.deep`.
Panel (C): step time of the first mode against α, from balanced and from random layers. Panel (D):
size of the other modes when the first mode is half learned, against α (Result 4.6).

Expected: with the eigenvalue γ of a mode and its initial singular value s₀, the wait from balanced
layers is s₀^(-2(L-1)/L) / (8 γ (L-1)) for L > 1, and a logarithm for L = 1. Random layers give the
exponent of balanced layers. The size of the other modes falls as α^(1 - γ₂/γ₁) for L = 1, and as α
for L > 1. Preset cpu: two to ten minutes.
"""

from dataclasses import dataclass

import jax
import jax.numpy as jnp
import numpy as np
from jax.tree_util import Partial

from sslstep import dynamics, linear, simulate
from sslstep.experiment import Arrays, Experiment, training
from sslstep.experiment._require import require, require_list
from sslstep.measure import spectrum


@dataclass(frozen=True)
class Config:
    """Settings; each is one option of the command."""

    gammas: tuple[float, ...] = (1.0, 0.7, 0.45, 0.3)
    """Eigenvalues γ_j of Γ; the embedding has a dimension for each."""
    layers: tuple[int, ...] = (1, 2, 3, 4)
    """Numbers L of layers, with one network for each."""
    scales: tuple[float, ...] = (1e-2, 10**-2.5, 1e-3, 10**-3.5)
    """Initial scales α of the product."""
    seeds: tuple[int, ...] = training.SEEDS
    """Seeds of the random layers."""


def run(config: Config) -> Arrays:
    """Train networks of every depth from every initial scale, from balanced and random layers."""
    require(config, at_least={"layers": 1, "seeds": 0}, positive=("gammas", "scales"))
    require_list("scales", config.scales, least=2)
    arrays: Arrays = {"gammas": np.asarray(config.gammas), "scales": np.asarray(config.scales)}
    with jax.enable_x64(True):
        gammas = jnp.asarray(config.gammas)
        for num in config.layers:
            for scale in config.scales:
                here = f"{num}/{scale:g}"
                # Initial singular values: unequal as for random layers, equal ratios throughout.
                start = scale * jnp.linspace(1.0, 0.7, len(gammas))
                landscape = dynamics.deep(dynamics.plain(), gammas, num)
                predicted = dynamics.step_time(gammas, start, landscape=landscape)
                balanced = [jnp.diag(start ** (1 / num))] * num
                found = _trained(balanced, gammas, 1.1 * predicted[-1] + 1)
                found |= {"predicted": np.asarray(predicted)}
                if scale == config.scales[0]:  # for the figure; slow quadrature
                    t = jnp.asarray(found["t"])[::20, None]
                    curves = dynamics.mode_eigenvalue(t, gammas, start, landscape=landscape)
                    found["curves"] = np.asarray(curves)
                arrays |= {f"{here}/{key}": value for key, value in found.items()}
                for seed in config.seeds:
                    layers = _random(seed, num, scale, len(gammas))
                    found = _trained(layers, gammas, 5 * predicted[0])
                    for key in ("step_times", "others"):
                        arrays[f"{here}/random/{seed}/{key}"] = found[key]
    return arrays


def _random(seed: int, num: int, scale: float, dim: int) -> list[jax.Array]:
    """Draw Gaussian layers whose product has a Frobenius norm of about `scale` * sqrt(dim)."""
    keys = jax.random.split(jax.random.key(seed), num)
    size = scale ** (1 / num) * dim**-0.5
    return [size * jax.random.normal(key, (dim, dim), jnp.float64) for key in keys]


def _product(layers: list[jax.Array]) -> jax.Array:
    """Return the product of the layers, W."""
    whole = layers[0]
    for layer in layers[1:]:
        whole = whole @ layer
    return whole


def _velocity(gammas: jax.Array, layers: list[jax.Array]) -> list[jax.Array]:
    """Return minus the gradient of the loss of Eq. 5 with respect to each layer."""
    slope = jax.grad(lambda layers: linear.loss(_product(layers), jnp.diag(gammas)))(layers)
    return [-each for each in slope]


@jax.jit
def _eigenvalues(layers: list[jax.Array], gammas: jax.Array) -> jax.Array:
    """Return the eigenvalues of C = W Γ W^T at each time, descending, shape (T, d)."""
    w = jax.vmap(_product)(layers)
    return jnp.linalg.eigvalsh((w * gammas[None, None]) @ w.swapaxes(1, 2))[:, ::-1]


def _trained(layers: list[jax.Array], gammas: jax.Array, until: jax.Array) -> Arrays:
    """Integrate gradient flow; return times, eigenvalues of C, step times, size of other modes."""
    t = jnp.linspace(0.0, until, 4000)
    found = np.asarray(
        _eigenvalues(simulate.flow(Partial(_velocity, gammas), layers, t, rtol=1e-8), gammas)
    )
    times = np.asarray(spectrum.step_times(t, found))
    # Norm of the other modes' singular values at the first step time, relative to the final value
    # of the first mode. The other modes change slowly there, so interpolation is accurate.
    modes = np.sqrt(np.maximum(found, 0) * np.asarray(gammas)[0] / np.asarray(gammas))
    others = np.interp(times[0], t, np.linalg.norm(modes[:, 1:], axis=1))
    return {"t": np.asarray(t), "eigenvalues": found, "step_times": times, "others": others}


EXPERIMENT = Experiment({"cpu": Config(), "paper": Config()}, run, minutes=1.5)
