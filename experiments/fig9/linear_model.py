"""Linear models of `fig9`: training with a loss, and times of modes that a gradient couples."""

from collections.abc import Callable

import jax
import jax.numpy as jnp

from sslstep import dynamics


def trainer(loss_fn: Callable[..., jax.Array]) -> Callable[..., tuple[jax.Array, jax.Array]]:
    """Return a function that trains a linear model by gradient descent on a loss.

    It returns the steps at which the eigenvalues of C cross one half, and their final values. Each
    pair has one nonzero feature, so Γ is diagonal; for a negative eigenvalue the second view is
    minus the first view. One compilation serves all spectra and rates.
    """

    @jax.jit
    def train(weights, eigenvalues, rate, most):
        x = jnp.diag(jnp.sqrt(len(eigenvalues) * jnp.abs(eigenvalues)))
        x_prime = x * jnp.sign(eigenvalues)[None, :]
        gradient = jax.grad(lambda w: loss_fn(x @ w.T, x_prime @ w.T))

        def spectrum(w):
            c = (w * eigenvalues[None, :]) @ w.T
            return jnp.linalg.eigvalsh((c + c.T) / 2)[::-1]

        def step(state):
            w, before, crossed, k = state
            w = w - rate * gradient(w)
            now = spectrum(w)
            part = (0.5 - before) / jnp.where(now > before, now - before, 1)
            crosses = (before < 0.5) & (now >= 0.5) & jnp.isinf(crossed)
            crossed = jnp.where(crosses, k.astype(now.dtype) + part, crossed)
            return w, now, crossed, k + 1

        def goes_on(state):
            _, _, crossed, k = state
            return (k < most) & jnp.isinf(crossed).any()

        never = jnp.full((len(weights),), jnp.inf, weights.dtype)
        begin = (weights, spectrum(weights), never, jnp.zeros((), int))
        w, _, crossed, k = jax.lax.while_loop(goes_on, step, begin)
        # Train for as many steps again to reach the final values.
        w = jax.lax.fori_loop(0, k, lambda _, w: w - rate * gradient(w), w)
        return crossed, spectrum(w)

    return train


def coupled_times(alone: jax.Array, gammas: jax.Array, start: jax.Array, alpha: float) -> jax.Array:
    """Predict when each mode is at one half under preconditioned gradients, from aligned starts.

    `alone` are the times without coupling.
    """
    t = jnp.linspace(0, 2 * alone[-1] + dynamics.step_time(gammas[0], start[0]), 20_001)
    t = t.astype(alone.dtype)
    curves = dynamics.preconditioned_eigenvalues(t, gammas, start, alpha)
    return jnp.stack([jnp.interp(0.5, curve, t) for curve in curves.T])
