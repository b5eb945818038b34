"""The measurements of Section 4's statements, beside the run of Figure 1 (A, B)."""

import jax
import jax.numpy as jnp
import numpy as np
from tqdm import tqdm

from experiments.fig1ab.config import Config
from sslstep import linear, simulate
from sslstep.experiment import Arrays

#: Embedding dimensions at which Result 4.6 is tested, besides d.
SMALL_DIMS = (2, 3)


def measure(config: Config, key: jax.Array, modes: linear.Modes, weights: jax.Array) -> Arrays:
    """Everything that `check` looks at besides the run itself."""
    keys = jax.random.split(key, 3)
    arrays = _aligned_start(config, modes, weights)
    arrays |= _distances(config, modes, weights / config.init_scale)
    arrays |= _initial_squares(config, keys[0], modes)
    arrays |= _zero_loss_solutions(config, keys[1], modes)
    arrays |= _three_signs(modes)
    arrays |= _aligned_loss(config, keys[2], modes)
    return arrays


def _aligned_start(config, modes, weights) -> Arrays:
    """Eq. 10's residual in Eq. 12, and gradient flow from an aligned start against Eq. 10."""
    dim = config.dim
    aligned = linear.align(weights, modes)
    gammas = jnp.append(modes.eigenvalues[:dim], modes.eigenvalues[-1])
    start = jnp.append(aligned.singular_values, config.init_scale)
    t = jnp.geomspace(1e-4, 20.0, 400, dtype=gammas.dtype)[:, None]
    s, slope = jax.jvp(lambda t: linear.singular_value(t, gammas, start), (t,), (jnp.ones_like(t),))
    right = 4 * (1 - gammas[None, :] * s**2) * gammas[None, :] * s
    # Relative to the two terms that cancel in the right-hand side.
    scale = 4 * jnp.abs(gammas)[None, :] * s * (1 + jnp.abs(gammas)[None, :] * s**2)
    residual = jnp.abs(slope - right) / jnp.where(s > 1e-30, scale, jnp.inf)
    trajectory = linear.small_init_trajectory(weights, modes)
    times = _times(modes, aligned.singular_values, 200)
    run = simulate.gradient_flow(trajectory(0.0), modes, times, rtol=_fine(times.dtype))
    elements = jnp.einsum("ji,tjk->tik", aligned.rotation, run.coefficients)
    closed = linear.singular_value(times[:, None], modes.eigenvalues[:dim], aligned.singular_values)
    eye = jnp.eye(dim, elements.shape[2], dtype=closed.dtype)
    difference = elements - closed[:, :, None] * eye[None]
    final = jnp.sqrt(jnp.sum(1 / modes.eigenvalues[:dim]))
    return {
        "eq12_residual": residual.max(),
        "aligned_distance": jnp.linalg.norm(difference, axis=(1, 2)).max() / final,
    }


def _fine(dtype) -> float:
    """The integrator's relative tolerance where a claim is exact: 2e-12, and 4e-6 in float32."""
    eps = float(jnp.finfo(dtype).eps)
    return min(1e4 * eps, 1e-2 * eps**0.5)


def _times(modes: linear.Modes, start: jax.Array, num: int) -> jax.Array:
    """Logarithmically spaced times that cover every step."""
    last = linear.critical_time(modes.eigenvalues[: len(start)], start).max()
    return jnp.geomspace(1e-2 / modes.eigenvalues[0], 1.3 * last, num, dtype=start.dtype)


def _distances(config, modes, unit) -> Arrays:
    """sup_t |W(t) - W*(t)| at each α: measured, by first order, and from an aligned start.

    On the leading 2d and the last d modes, as they were measured: what else there is changes
    nothing about the gaps, and this makes small α affordable.
    """
    size = modes.eigenvalues.shape[0]
    kept = np.unique(np.r_[: min(2 * config.dim, size), max(size - config.dim, 0) : size])
    gammas = modes.eigenvalues[kept]
    few = linear.Modes(gammas, jnp.eye(len(kept), dtype=gammas.dtype))
    unit = unit @ modes.eigenvectors[:, kept]
    dims = [dim for dim in SMALL_DIMS if dim < config.dim] + [config.dim]
    sweeps = {dim: _scales(config, gammas, dim) for dim in dims}
    arrays: Arrays = {}
    total = sum(map(len, sweeps.values()))
    with tqdm(total=total, desc="Result 4.6", unit=" flows", disable=None) as bar:
        for dim, scales in sweeps.items():
            rows = []
            for scale in scales:
                rows.append(_distance(scale * unit[:dim], few))
                bar.update()
            arrays[f"distance_scales_{dim}"] = np.asarray(scales)
            arrays[f"distances_{dim}"] = np.asarray(rows)
    return arrays


def _scales(config, gammas, dim) -> list[float]:
    """The scales of the config, and two at which even the closest pair of modes is asymptotic.

    There α^β = 1/100: for close modes a scale far below what float32 can square.
    """
    beta = float(linear.alignment_exponent(gammas, dim))
    exponent = min(2 / max(beta, 1e-3), 140.0)
    smallest = float(jnp.finfo(gammas.dtype).tiny) ** 0.45
    far = [10.0**-exponent, 10.0 ** -(exponent + 2)]
    scales = {*config.scales, *(scale for scale in far if scale > smallest)}
    return sorted(scales, reverse=True)


def _distance(weights: jax.Array, modes: linear.Modes) -> tuple[float, float, float]:
    dim = len(weights)
    rotation, start = linear.align(weights, modes)
    gammas, times = modes.eigenvalues, _times(modes, start, 200)
    aligned = linear.small_init_trajectory(weights, modes)

    def distance(initial):
        run = simulate.gradient_flow(initial, modes, times)
        return float(jnp.linalg.norm(run.coefficients - aligned(times), axis=(1, 2)).max())

    upper = jnp.triu(rotation.T @ weights)
    upper = upper.at[jnp.arange(dim), jnp.arange(dim)].set(start)  # rounding aside, the same
    first_order = linear.coupled_elements(times, gammas, upper)
    off = first_order * (1 - jnp.eye(dim, len(gammas), dtype=gammas.dtype))[None]
    predicted = float(jnp.linalg.norm(off, axis=(1, 2)).max())
    return distance(weights), predicted, distance(aligned(0.0))


def _initial_squares(config, key, modes) -> Arrays:
    """Mean of s_j(0)^2 / α^2 over many draws (Eq. 21 is its root)."""

    def squares(key):
        weights = linear.init_weights(
            key,
            config.dim,
            modes.eigenvectors.shape[0],
            config.init_scale,
            modes.eigenvalues.dtype,
        )
        return (linear.align(weights, modes).singular_values / config.init_scale) ** 2

    draws = jax.lax.map(squares, jax.random.split(key, config.num_draws), batch_size=50)
    return {"initial_squares": draws.mean(axis=0)}


def _zero_loss_solutions(config, key, modes) -> Arrays:
    """Norms of the top spectral solution and of others with zero loss, constructed two ways."""
    dim, gammas = config.dim, modes.eigenvalues
    positive = int((gammas > gammas[0] * 1e-4).sum())
    top = linear.top_spectral(modes, dim) @ modes.eigenvectors  # in the eigenbasis
    rng = np.random.default_rng(np.asarray(jax.random.key_data(key)))
    others = []
    for i in range(100):
        if i % 2:  # aligned with another set of positive modes
            chosen = np.sort(rng.choice(min(positive, 3 * dim), dim, replace=False))
            if chosen[-1] == dim - 1:
                continue
            other = np.zeros(top.shape)
            other[np.arange(dim), chosen] = np.asarray(gammas)[chosen] ** -0.5
        else:  # any W, negative and zero modes included, made to satisfy W Γ W^T = I
            size = 10.0 ** rng.uniform(-3, -0.5)
            rough = np.asarray(top) * (1 + size * rng.normal(size=(dim, 1)))
            rough = rough + size * rng.normal(size=top.shape) / np.sqrt(top.size)
            values, vectors = np.linalg.eigh((rough * np.asarray(gammas)) @ rough.T)
            if values[0] <= 0:
                continue
            other = (vectors * values**-0.5) @ vectors.T @ rough
        others.append(other)
    stack = np.stack(others).astype(top.dtype)
    losses = jax.vmap(lambda w: linear.loss(w, jnp.diag(gammas)))(jnp.asarray(stack))
    return {
        "top_loss": linear.loss(top, jnp.diag(gammas)),
        "other_losses": losses,
        "norm_ratios": np.linalg.norm(stack, axis=(1, 2)) / np.linalg.norm(np.asarray(top)),
    }


def _three_signs(modes: linear.Modes) -> Arrays:
    """Gradient flow from a start aligned with a positive, a zero and a negative mode (Eq. 13)."""
    gammas = jnp.stack([modes.eigenvalues[1], 0 * modes.eigenvalues[0], modes.eigenvalues[-1]])
    few = linear.Modes(gammas, jnp.eye(3, dtype=gammas.dtype))
    start = jnp.full(3, 0.1, gammas.dtype)
    # Long enough for the negative mode to shrink by e^-40.
    times = jnp.asarray([0.0, 10.0], gammas.dtype) / jnp.abs(gammas[2])
    # Compiled with the modes as arguments, so that none is known to be zero and left out.
    final = jax.jit(
        lambda few: simulate.gradient_flow(jnp.diag(start), few, times).coefficients[-1]
    )
    limit = linear.singular_value(jnp.inf, gammas, start)
    return {
        "limits_run": jnp.diagonal(final(few)),
        "limits_expected": jnp.stack([gammas[0] ** -0.5, start[1], 0 * start[2]]),
        "limits_formula": limit,
    }


def _aligned_loss(config, key, modes) -> Arrays:
    """Loss of aligned W with random singular values, by Eq. 5 and by Eq. 14."""
    dim, gammas = config.dim, modes.eigenvalues
    keys = jax.random.split(key)
    values = jax.random.uniform(keys[0], (20, dim), gammas.dtype, 0, 2) * gammas[:dim] ** -0.5
    rotation, _ = jnp.linalg.qr(jax.random.normal(keys[1], (dim, dim), gammas.dtype))
    gamma_matrix = jnp.diag(gammas)
    eye = jnp.eye(dim, gammas.shape[0], dtype=gammas.dtype)
    full = jax.vmap(lambda s: linear.loss((rotation * s) @ eye, gamma_matrix))(values)
    return {
        "aligned_losses": full,
        "modewise_losses": jnp.sum((1 - gammas[:dim] * values**2) ** 2, axis=1),
    }
