"""The statements of Section 4 that Figure 1 (A, B)'s run tests: measurements and claims."""

import jax.numpy as jnp
import numpy as np

from experiments.fig1ab.config import Config
from experiments.fig1ab.measures import SMALL_DIMS, _fine
from sslstep import claims, dynamics, linear
from sslstep.experiment import Arrays, prediction


def check(config: Config, arrays: Arrays) -> list[claims.Claim]:
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
    return float(gamma / dynamics.effective_eigenvalue(gamma, config.learning_rate))


def _plateaus(config, arrays) -> list[tuple[float, int]]:
    """Loss at the start, between steps and at the end, and the number it should be."""
    loss, gammas = arrays["loss"], arrays["gammas"][: config.dim]
    between = [
        (float(np.interp(middle, arrays["t"], loss)), config.dim - learned)
        for learned, middle in prediction.plateaus(arrays["predicted_step_times"], gammas)
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
