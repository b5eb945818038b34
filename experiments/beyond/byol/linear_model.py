"""A linear network with a linear predictor, under the loss of SimSiam without normalisation."""

from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.tree_util import Partial

from sslstep import dynamics, simulate
from sslstep.experiment import Arrays
from sslstep.measure import spectrum


def step_times(
    gammas: jax.Array, variance: float, scale: float, predictor: float | None, seeds: Sequence[int]
) -> Arrays:
    """Return predicted and measured step times from an aligned start, each (d,).

    `random` holds the first step time from a random start for each seed. Γ has the eigenvalues
    `gammas`, and Σ is `variance` times the identity. The network starts at `scale`; `predictor` is
    the predictor's initial size, None for one as small as the network. Needs x64.
    """
    dim = len(gammas)
    moments = (jnp.diag(gammas), variance * jnp.eye(dim))
    start = scale * jnp.linspace(1.0, 0.7, dim)  # unequal, as random ones are
    p = start if predictor is None else jnp.full(dim, predictor)
    landscape = dynamics.self_distillation(gammas, variance, p**2 - start**2)
    rest = landscape.rest
    predicted = dynamics.step_time(gammas, start, landscape=landscape, level=rest / 2)
    measured = _times(moments, jnp.diag(start), jnp.diag(p), 1.05 * predicted.max(), rest)
    random = []
    for seed in seeds:
        keys = jax.random.split(jax.random.key(seed))
        w, q = (scale * dim**-0.5 * jax.random.normal(key, (dim, dim)) for key in keys)
        q = q if predictor is None else predictor * jnp.eye(dim)
        random.append(_times(moments, w, q, 20 * predicted[0], rest)[0])
    return {
        "predicted": np.asarray(predicted),
        "step_times": measured,
        "random": np.asarray(random),
    }


def _velocity(moments: tuple[jax.Array, jax.Array], weights: Any) -> Any:
    """Return minus the gradient of the expected error, with constant targets.

    `moments` are Γ and Σ; `weights` are those of the network, W, and of the predictor, P.
    """
    gamma, sigma = moments

    def loss(weights: Any) -> jax.Array:
        w, p = weights
        target = jax.lax.stop_gradient(w)
        # The sum of |P W x - W x'|² and |P W x' - W x|², without its constant term.
        return 2 * jnp.trace(p @ w @ sigma @ w.T @ p.T) - 4 * jnp.trace(p @ w @ gamma @ target.T)

    return jax.tree.map(jnp.negative, jax.grad(loss)(weights))


def _times(moments: Any, w: jax.Array, p: jax.Array, until: jax.Array, rest: jax.Array) -> Any:
    """Integrate the flow until `until`; return the times at which eigenvalues of C reach rest / 2.

    Eigenvalues and `rest`, their final values, are in descending order, shape (d,).
    """
    t = jnp.linspace(0.0, until, 20_000)
    ws, _ = simulate.flow(Partial(_velocity, moments), (w, p), t, rtol=1e-8)
    values = jnp.linalg.eigvalsh(ws @ moments[0] @ ws.swapaxes(1, 2))[:, ::-1]
    return np.asarray(spectrum.step_times(t, values / rest))
