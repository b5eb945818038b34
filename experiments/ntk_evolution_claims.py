"""What `ntk_evolution` claims: exponents and constants of theory, within three standard errors."""

from typing import TYPE_CHECKING

import numpy as np

from experiments import _ntk_rate, _prediction
from experiments._run import Arrays
from sslstep import claims

if TYPE_CHECKING:
    from experiments.ntk_evolution import Config

WHERE = "Section 5, beyond the paper"


def check(config: "Config", arrays: Arrays) -> list[claims.Claim]:
    """Rates at initialisation, movement in training, and predictions of what is learned."""
    return [
        *_check_initial(config, arrays),
        *_check_movement(config, arrays),
        *_check_learned(config, arrays),
    ]


def _exponent(config, arrays, what: str, values, expected: float) -> claims.Claim:
    widths = arrays["widths"]
    fitted = widths >= config.fit_from
    slope, error = _prediction.fit_exponent(widths[fitted], values[fitted])
    return claims.close(
        f"{what}: exponent of the width from {widths[fitted][0]} to {widths[-1]}, +- {error:.3f}",
        WHERE,
        expected=expected,
        measured=slope,
        tolerance=3 * error,
    )


def _constant(what: str, values, error: float) -> claims.Claim:
    """Over theory: the mean is 1."""
    return claims.close(
        f"{what}: mean over theory's, without a fit, +- {error:.3f}",
        WHERE,
        expected=1.0,
        measured=float(values.mean()),
        tolerance=3 * float(error),
    )


def _theory_error(terms, widths, num_draws: int) -> float:
    """Standard error of the mean over networks of all widths, from theory's scatter."""
    variances = terms[0] * (1 - 1 / widths) + terms[1] / widths
    return float(np.sqrt(variances.sum() / num_draws) / len(widths))


def _check_initial(config, arrays) -> list[claims.Claim]:
    widths = arrays["widths"][:, None].astype(float)
    results, found = [], []
    for k, kind in enumerate(_ntk_rate.KINDS):
        distance, deviation, angle = (
            arrays[name][..., k] for name in ("distance", "deviation", "misalignment")
        )
        called = f"{kind} NTK's distance from the infinite-width kernel"
        ratio = widths * distance**2 / arrays["distance_rate"][k] ** 2
        found.append(ratio)
        results += [
            _exponent(config, arrays, called, distance, -0.5),
            _constant(
                f"{called}, squared, all widths",
                ratio,
                _theory_error(arrays["scatter"][0, k], widths[:, 0], config.num_draws),
            ),
        ]
        forms = (
            ("rms relative distance of the first eigenvalues", "gamma", deviation, 2, -0.5),
            ("misalignment of the predicted embedding", "misalignment", angle, 1, -1.0),
        )
        for i, (what, name, values, power, exponent) in enumerate(forms, 1):
            rate, own = arrays[f"rate_{name}"][k], arrays[f"rate_{name}_error"][k]
            error = _theory_error(arrays["scatter"][i, k], widths[-1], config.num_draws)
            called = f"{kind} NTK: {what}"
            squared = ", squared" if power == 2 else ""
            # To first order, so at the widest: modes mix where they are closer than they fluctuate.
            ratios = widths[-1] * values[-1] ** power / rate
            results += [
                _exponent(config, arrays, called, values, exponent),
                _constant(
                    f"{called}{squared}, at width {arrays['widths'][-1]}",
                    ratios,
                    np.hypot(error, own / rate),
                ),
            ]
    scalar, trace = (ratio.ravel() for ratio in found)
    # Both of the same networks: the error of the ratio is that of the paired differences.
    quotient = float((trace.mean() / scalar.mean()) ** 0.5)
    rest = trace / trace.mean() - scalar / scalar.mean()
    error = quotient * float(rest.std(ddof=1)) / (2 * rest.size**0.5)
    expected = float(arrays["distance_rate"][1] / arrays["distance_rate"][0])
    results.append(
        claims.close(
            f"the trace NTK is closer to the limit than the scalar one, for d = {config.dim}: "
            f"ratio of rms distances, +- {expected * error:.4f}",
            WHERE,
            expected=expected,
            measured=expected * quotient,
            tolerance=3 * expected * error,
        )
    )
    return results


def _check_movement(config, arrays) -> list[claims.Claim]:
    hidden, output, _ = np.moveaxis(arrays["lazy_movement"], -1, 0)
    theory, theory_error = np.moveaxis(arrays["lazy_theory"], -1, 0)
    ratios = hidden[-1] ** 2 / theory[-1]
    error = np.hypot(
        np.sqrt(np.sum(theory_error[-1] ** 2)) / np.sum(theory[-1]),
        ratios.std(ddof=1) / len(ratios) ** 0.5,
    )
    called = "movement of the NTK in lazy training"
    small = arrays["small_movement"]
    return [
        _exponent(config, arrays, f"{called}, part of the output weights", output, -1.0),
        _exponent(config, arrays, f"{called}, part of the hidden weights", hidden, -0.75),
        _constant(
            f"the latter, squared, at width {arrays['widths'][-1]}",
            ratios,
            float(error),
        ),
        _exponent(config, arrays, "movement from small weights, α² width^1/2 fixed", small, 0.0),
        claims.above(
            "and there the kernel moves by more than its own size, as κ < 1: least movement",
            WHERE,
            expected=1.0,
            measured=float(small.min()),
        ),
    ]


def _check_learned(config, arrays) -> list[claims.Claim]:
    wide = arrays["widths"] >= config.fit_from
    initial, final, _ = np.moveaxis(arrays["small_misalignment"], -1, 0)
    lazy, floor = arrays["lazy_misalignment"][-1, :, 2], arrays["lazy_floor"][-1]
    error = (lazy - floor).std(ddof=1) / len(floor) ** 0.5
    return [
        claims.above(
            f"from small weights, width >= {config.fit_from}, the final NTK predicts what was "
            f"learned better than the initial one: least ratio of their misalignments",
            "App. E",
            expected=1.0,
            measured=float((initial / final)[wide].min()),
        ),
        claims.close(
            f"lazy networks of width {arrays['widths'][-1]} miss the infinite-width kernel's "
            f"prediction by as much as its own descent from α = {config.init_scale} does "
            f"(misalignment {floor.mean():.3f}): difference, +- {error:.4f}",
            "Eq. 49",
            expected=0.0,
            measured=float((lazy - floor).mean()),
            tolerance=3 * float(error),
        ),
    ]
