"""Claims of the experiment `fig1ab`: step times, plateaus, and Result 4.6."""

import jax.numpy as jnp
import numpy as np

from experiments.fig1ab.experiment import Config
from experiments.fig1ab.result_4_6 import SMALL_DIMS
from sslstep import claims, dynamics, linear
from sslstep.experiment import Arrays, prediction


def check(config: Config, arrays: Arrays) -> list[claims.Claim]:
    """Claims on step times and plateaus of the run, and on the distances of Result 4.6."""
    every = dict.fromkeys((*SMALL_DIMS, config.dim))
    dims = [dim for dim in every if f"distances_{dim}" in arrays]
    of_distances = [claim for dim in dims for claim in _check_distances(arrays, dim)]
    return [*_check_steps(config, arrays), *of_distances]


def _check_steps(config, arrays) -> list[claims.Claim]:
    """Return the claims on learned modes, step times and plateaus."""
    times, learned = arrays["step_times"], np.isfinite(arrays["step_times"])
    error = np.abs(arrays["predicted_step_times"] / times - 1)
    error_flow = np.abs(arrays["predicted_step_times_flow"] / times - 1)
    # Waits are proportional to log 1/γ s(0)^2; initial misalignment may change s(0) by a third.
    squares = arrays["gammas"][: config.dim] * arrays["initial_singular_values"] ** 2
    slack = float((2 * np.log(4 / 3) / np.log(1 / squares)).max())
    # Ratio of gradient flow's growth rate to gradient descent's, first mode.
    gamma = arrays["gammas"][0]
    slowdown = float(gamma / dynamics.effective_eigenvalue(gamma, config.learning_rate))
    predicted, gammas = arrays["predicted_step_times"], arrays["gammas"][: config.dim]
    return [
        claims.close(
            "all d modes are learned", "Fig. 1", expected=config.dim, measured=int(learned.sum())
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
        prediction.resting_claim(
            "Eq. 20",
            *(arrays["t"], arrays["loss"], predicted, gammas),
            end=float(arrays["loss"][-1]),
            # Half-way between steps ten time constants apart, each of two λ is within e^-5 of 0 or
            # 1, which changes the loss by 2 e^-5.
            tolerance=float(4 * np.exp(-5)),
        ),
    ]


def _check_distances(arrays, dim) -> list[claims.Claim]:
    """Return the claims on the distances of Result 4.6 at one embedding dimension."""
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
        ),
    ]
    # Whether the closest modes are asymptotic at the smallest α depends on the gaps and on the
    # floating-point type, whose smallest squares bound α, and not on the measurement.
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
                # Second order: elements have relative sizes of 0.01 at these α.
                tolerance=0.02 * abs(expected),
            )
        )
    return results
