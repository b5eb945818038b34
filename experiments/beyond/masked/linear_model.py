"""A linear encoder and a linear decoder that predict an image from its visible part."""

from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.tree_util import Partial

from sslstep import dynamics, simulate
from sslstep.experiment import Arrays
from sslstep.measure import spectrum


def train(
    seen: np.ndarray, truth: np.ndarray, dim: int, scales: Sequence[float], seeds: Sequence[int]
) -> Arrays:
    """Return the singular values, and step times and curves from aligned and random layers.

    The inputs are whitened. Step times from aligned layers are those of the learned singular
    values, predicted and measured. From random layers they are those of the eigenvalues of the
    hidden representation. `seen` are the visible pixels (n, pixels), `truth` all of them, and `dim`
    is the number of learned dimensions. Needs x64.
    """
    values, vectors = np.linalg.eigh(seen.T @ seen / len(seen))
    kept = values > 1e-6 * values[-1]
    whitened = seen @ (vectors[:, kept] / np.sqrt(values[kept]))
    moment = jnp.asarray(truth.T @ whitened / len(seen))
    left, sigmas, right = jnp.linalg.svd(moment, full_matrices=False)
    left, right, top = left[:, :dim], right[:dim], sigmas[:dim]
    arrays: Arrays = {"sigmas": sigmas}
    for scale in scales:
        # λ = u / σ is logistic with the rate 4 σ: a mode of γ = σ / 2.
        u = scale**2 * jnp.linspace(1.0, 0.7, dim)
        start = jnp.sqrt(2 * u) / top
        predicted = dynamics.step_time(top / 2, start)
        layers = (left * jnp.sqrt(u), jnp.sqrt(u)[:, None] * right)
        t = jnp.linspace(0.0, 1.2 * predicted[-1], 4000)
        out, inner = simulate.flow(Partial(_velocity, moment), layers, t, rtol=1e-8)
        learned = jnp.einsum("pk,tpj,tjq,kq->tk", left, out, inner, right) / top
        found = {"predicted": predicted, "step_times": spectrum.step_times(t, learned)}
        if scale == scales[-1]:
            curves = dynamics.mode_eigenvalue(t[::20, None], top / 2, start)
            found |= {"t": t[::20], "learned": learned[::20], "curves": curves}
        for seed in seeds:
            keys = jax.random.split(jax.random.key(seed))
            shapes = ((moment.shape[0], dim), (dim, moment.shape[1]))
            layers = tuple(
                scale * max(shape) ** -0.5 * jax.random.normal(key, shape)
                for key, shape in zip(keys, shapes, strict=True)
            )
            t = jnp.linspace(0.0, 2 * predicted[-1], 4000)
            _, inner = simulate.flow(Partial(_velocity, moment), layers, t, rtol=1e-6)
            # Eigenvalues of the hidden representation, because inputs are white. They end at σ.
            spectra = jnp.linalg.eigvalsh(inner @ inner.swapaxes(1, 2))[:, ::-1]
            found[f"random/{seed}"] = spectrum.step_times(t, spectra / top)
            if scale == scales[-1] and seed == seeds[0]:
                arrays |= {"linear/t": t[::20], "linear/hidden": spectra[::20]}
        arrays |= {f"linear/{scale:g}/{key}": value for key, value in found.items()}
    return {name: np.asarray(array) for name, array in arrays.items()}


def _velocity(moment: jax.Array, layers: tuple[jax.Array, jax.Array]) -> Any:
    """Return minus the gradient of the expected |x - W₂ W₁ x̃|² for white x̃.

    `moment` is E x x̃ᵀ, and `layers` are (W₂, W₁).
    """

    def loss(layers: Any) -> jax.Array:
        product = layers[0] @ layers[1]
        return jnp.sum(product**2) - 2 * jnp.sum(product * moment)

    return jax.tree.map(jnp.negative, jax.grad(loss)(layers))
