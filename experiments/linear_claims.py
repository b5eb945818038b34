"""The statements of Section 4 that Figure 1 (A, B)'s run tests: measurements and claims."""

from typing import TYPE_CHECKING

import jax
import jax.numpy as jnp
import numpy as np
from tqdm import tqdm

from experiments import _prediction
from experiments._run import Arrays
from sslstep import claims, linear, simulate

if TYPE_CHECKING:
    from experiments.linear_model import Config

#: Embedding dimensions at which Result 4.6 is tested, besides d.
SMALL_DIMS = (2, 3)


def measure(config: "Config", key: jax.Array, modes: linear.Modes, weights: jax.Array) -> Arrays:
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


def check(config: "Config", arrays: Arrays) -> list[claims.Claim]:
    """Every claim of the run."""
    return [
        *_check_steps(config, arrays),
        *_check_solution(config, arrays),
        *_check_alignment(config, arrays),
    ]


def _check_steps(config, arrays) -> list[claims.Claim]:
    times, learned = arrays["step_times"], np.isfinite(arrays["step_times"])
    error = np.abs(arrays["predicted_step_times"] / times - 1)
    error_flow = np.abs(arrays["predicted_step_times_flow"] / times - 1)
    # Waits go as log 1/γ s(0)^2, and what is not aligned at first may change s(0) by a third.
    squares = arrays["gammas"][: config.dim] * arrays["initial_singular_values"] ** 2
    slack = float((2 * np.log(4 / 3) / np.log(1 / squares)).max())
    slowdown = float(_slowdown(config, arrays))
    results = [
        claims.close(
            "all d modes are learned",
            "Fig. 1",
            expected=config.dim,
            measured=int(learned.sum()),
            tolerance=0,
        ),
        claims.below(
            "step times: largest relative error of τ_j over the d modes, with gradient "
            "descent's rate",
            "Eq. 16, corrected for descent",
            measured=float(error.max()),
            tolerance=slack,
        ),
        claims.below(
            "step times: largest relative error of τ_j from the second mode on, as printed",
            "Eq. 16",
            measured=float(error_flow[1:].max(initial=0)),
            tolerance=slack,
        ),
        claims.close(
            "step time of the first mode over τ_1 as printed: gradient descent grows it more "
            "slowly",
            "beyond the paper",
            expected=slowdown,
            measured=float(times[0] / arrays["predicted_step_times_flow"][0]),
            tolerance=slack * slowdown,
        ),
    ]
    plateaus = _plateaus(config, arrays)
    results.append(
        claims.below(
            f"the loss rests at whole numbers: largest distance over {len(plateaus)} plateaus",
            "Eq. 20",
            measured=max(abs(loss - whole) for loss, whole in plateaus),
            # Half-way between steps ten time constants apart, each λ is within e^-5 of 0 or 1, and
            # the loss within 2 e^-5 of the whole number for each of the two.
            tolerance=float(4 * np.exp(-5)),
        )
    )
    return results


def _slowdown(config, arrays) -> float:
    gamma = arrays["gammas"][0]
    return float(gamma / linear.effective_eigenvalue(gamma, config.learning_rate))


def _plateaus(config, arrays) -> list[tuple[float, int]]:
    """Loss at the start, between steps and at the end, and the number it should be."""
    loss, gammas = arrays["loss"], arrays["gammas"][: config.dim]
    between = [
        (float(np.interp(middle, arrays["t"], loss)), config.dim - learned)
        for learned, middle in _prediction.plateaus(arrays["predicted_step_times"], gammas)
    ]
    return [(float(loss[0]), config.dim), *between, (float(loss[-1]), 0)]


def _check_solution(config, arrays) -> list[claims.Claim]:
    eps = float(np.finfo(arrays["loss"].dtype).eps)
    ratios = arrays["norm_ratios"]
    # W Γ W^T is rounded in sums of m products, of a size that rounding multiplies by 1e3 at most.
    rounding = config.dim * 1e3 * eps
    limits = np.abs(arrays["limits_run"] - arrays["limits_expected"])
    formula = np.abs(arrays["limits_formula"] - arrays["limits_expected"])
    aligned = np.abs(arrays["aligned_losses"] / arrays["modewise_losses"] - 1)
    return [
        claims.below(
            "Eq. 10 solves Eq. 12: largest residual relative to its terms, for γ_1...γ_d and γ_m",
            "Prop. 4.1, Eq. 12",
            measured=float(arrays["eq12_residual"]),
            # Exponents up to about 40, each rounded: 40 eps, in both sides and their cancellation.
            tolerance=500 * eps,
        ),
        claims.below(
            "gradient flow from an aligned start follows Eqs. 9 and 10: sup_t |W - W*| / |W*(∞)|",
            "Prop. 4.1",
            measured=float(arrays["aligned_distance"]),
            # The integrator's relative tolerance, over growth by a factor α^-1 = e^16 and a rise in
            # which a relative error of s grows by as much again.
            tolerance=50 * _fine(arrays["loss"].dtype),
        ),
        claims.below(
            "s_j goes to γ^-1/2, stays, or goes to 0 as γ is positive, zero or negative: worst "
            "of three",
            "Eq. 13",
            measured=float(max(limits.max(), formula.max())),
            tolerance=10 * 1e-2 * eps**0.5,
        ),
        claims.below(
            "for aligned W the loss is the sum of (1 - γ_j s_j^2)^2: largest relative error of 20",
            "Eq. 14",
            measured=float(aligned.max()),
            tolerance=1e3 * eps,
        ),
        claims.below(
            "the top spectral solution has zero loss",
            "Prop. 4.3",
            measured=float(arrays["top_loss"]),
            tolerance=rounding**2,
        ),
        claims.below(
            f"so have {len(ratios)} other solutions constructed: largest loss",
            "Prop. 4.3",
            measured=float(arrays["other_losses"].max()),
            tolerance=rounding**2,
        ),
        claims.above(
            "and none of them has a smaller norm: least excess |W|_F / |W_top|_F - 1",
            "Prop. 4.3",
            expected=0.0,
            measured=float(ratios.min()) - 1,
            tolerance=100 * eps,
        ),
    ]


def _check_alignment(config, arrays) -> list[claims.Claim]:
    degrees = np.arange(config.dim, 0, -1)
    # A chi-square variable with k degrees of freedom has variance 2 k.
    error = np.abs(arrays["initial_squares"] - degrees)
    most = error + 1.96 * np.sqrt(2 * degrees / config.num_draws)
    results = [
        claims.below(
            f"mean of s_j(0)^2 over {config.num_draws} draws is α^2 (d - j + 1): largest "
            f"deviation over j, in α^2, at the far end of its 95% interval",
            "Eq. 21",
            measured=float(most.max()),
            tolerance=0.5,  # nearer to it than to any other whole number
        )
    ]
    for dim in (*SMALL_DIMS, config.dim):
        if f"distances_{dim}" in arrays:
            results += _check_distances(arrays, dim)
    return results


def _check_distances(arrays, dim) -> list[claims.Claim]:
    measured, predicted, floor = arrays[f"distances_{dim}"].T
    scales, tiny = arrays[f"distance_scales_{dim}"], arrays[f"distance_scales_{dim}"].min()
    resolved = measured > 30 * floor
    measured, predicted, scales = measured[resolved], predicted[resolved], scales[resolved]
    beta = float(linear.alignment_exponent(jnp.asarray(arrays["gammas"]), dim))
    decades = np.log10(scales[0] / scales[-1]) if len(scales) else 0.0
    results = [
        claims.below(
            f"sup_t |W(t) - W*(t)| at d = {dim} falls with α, over {decades:.1f} decades: the "
            f"largest ratio to that at the next larger of {len(scales)} α",
            "Result 4.6",
            expected=1.0,
            measured=float((measured[1:] / measured[:-1]).max()) if len(scales) > 1 else np.inf,
            tolerance=0.0,
        ),
    ]
    # Whether the closest modes can be asymptotic depends on the gaps and on the floating-point
    # type, whose smallest squares bound α; not on what was measured.
    if tiny**beta < 0.02:
        last = np.log(scales[-2] / scales[-1]) if len(scales) > 1 else np.nan
        expected = float(np.log(predicted[-2:-1] / predicted[-1:]).sum() / last)
        results.append(
            claims.close(
                f"at the rate of Eq. 48 with its second stage, for the measured gaps, d = {dim}: "
                f"exponent around α = {scales[-1]:.0e} (β = {beta:.3f} as α → 0)",
                "Result 4.6",
                expected=expected,
                measured=float(np.log(measured[-2:-1] / measured[-1:]).sum() / last),
                # Second order: elements are of size 0.01 there, relative to each other.
                tolerance=0.02 * abs(expected),
            )
        )
    return results
