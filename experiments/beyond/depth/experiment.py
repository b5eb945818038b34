r"""How long linear networks of several layers wait: depth makes a power of the logarithm.

    make depth    or    python -m experiments run depth

Section 4's linear model has one layer, and its waits grow as the logarithm of 1/α. Here W is a
product of L square layers, each drawn at the scale α^(1/L), which starts W near α for every L.

Panel (A): eigenvalues of C against time, of balanced layers whose singular vectors are Γ's; solid:
trained, dashed: `dynamics.deep`. Panel (B): when the first mode is learned against α, balanced and
from random layers. Panel (C): how far Result 4.6's separation of modes goes, by the size of the
other modes when the first is half learned.

Expected: the wait is s₀^(-2(L-1)/L) / (8 γ (L-1)) from balanced layers, for L = 1 a logarithm, and
from random ones it has the same exponent. The rest of the modes falls as α^(1 - γ₂/γ₁) for L = 1,
and as α for more layers. Preset cpu: two minutes.
"""

from dataclasses import dataclass

import jax
import jax.numpy as jnp
import numpy as np
from jax.tree_util import Partial

from sslstep import dynamics, linear, simulate
from sslstep.experiment import Arrays, Experiment, training
from sslstep.experiment._require import require
from sslstep.measure import spectrum


@dataclass(frozen=True)
class Config:
    """Settings; each is one option of the command."""

    gammas: tuple[float, ...] = (1.0, 0.7, 0.45, 0.3)
    """Eigenvalues γ_j of Γ; as many dimensions, all of which are learned."""
    layers: tuple[int, ...] = (1, 2, 3, 4)
    """Numbers of layers L."""
    scales: tuple[float, ...] = (1e-2, 10**-2.5, 1e-3, 10**-3.5)
    """Initial scales α of the product."""
    seeds: tuple[int, ...] = training.SEEDS
    """Seeds of the random layers."""


def run(config: Config) -> Arrays:
    """Networks of every depth from every scale, balanced and random."""
    require(config, at_least={"layers": 1, "seeds": 0}, positive=("gammas", "scales"))
    if len(config.scales) < 2:
        raise ValueError(f"scales must be two or more, got {config.scales}.")
    arrays: Arrays = {"gammas": np.asarray(config.gammas), "scales": np.asarray(config.scales)}
    with jax.enable_x64(True):
        gammas = jnp.asarray(config.gammas)
        for num in config.layers:
            for scale in config.scales:
                here = f"{num}/{scale:g}"
                # Unequal, as random ones are; the same for every depth and scale.
                start = scale * jnp.linspace(1.0, 0.7, len(gammas))
                landscape = dynamics.deep(dynamics.plain(), gammas, num)
                predicted = dynamics.step_time(gammas, start, landscape=landscape)
                balanced = [jnp.diag(start ** (1 / num))] * num
                found = _trained(balanced, gammas, 1.1 * predicted[-1] + 1)
                found |= {"predicted": np.asarray(predicted)}
                if scale == config.scales[0]:  # of the figure; by quadrature at every time
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
    """Gaussian layers whose product has about the Frobenius norm α d^(1/2)."""
    keys = jax.random.split(jax.random.key(seed), num)
    size = scale ** (1 / num) * dim**-0.5
    return [size * jax.random.normal(key, (dim, dim), jnp.float64) for key in keys]


def _product(layers: list[jax.Array]) -> jax.Array:
    whole = layers[0]
    for layer in layers[1:]:
        whole = whole @ layer
    return whole


def _velocity(gammas: jax.Array, layers: list[jax.Array]) -> list[jax.Array]:
    """Minus the gradient of Eq. 5's loss of the product."""
    slope = jax.grad(lambda layers: linear.loss(_product(layers), jnp.diag(gammas)))(layers)
    return [-each for each in slope]


@jax.jit
def _eigenvalues(layers: list[jax.Array], gammas: jax.Array) -> jax.Array:
    w = jax.vmap(_product)(layers)
    return jnp.linalg.eigvalsh((w * gammas[None, None]) @ w.swapaxes(1, 2))[:, ::-1]


def _trained(layers: list[jax.Array], gammas: jax.Array, until: jax.Array) -> Arrays:
    """Eigenvalues of C along gradient flow, and what is read off them."""
    t = jnp.linspace(0.0, until, 4000)
    found = np.asarray(
        _eigenvalues(simulate.flow(Partial(_velocity, gammas), layers, t, rtol=1e-8), gammas)
    )
    times = np.asarray(spectrum.step_times(t, found))
    # The length of all other modes at the first step, in units of the first when it is learned.
    # They change slowly, and the first from one record to the next.
    modes = np.sqrt(np.maximum(found, 0) * np.asarray(gammas)[0] / np.asarray(gammas))
    others = np.interp(times[0], t, np.linalg.norm(modes[:, 1:], axis=1))
    return {"t": np.asarray(t), "eigenvalues": found, "step_times": times, "others": others}


EXPERIMENT = Experiment(
    {"cpu": Config(), "paper": Config()},
    run,
    minutes=1.5,
)
