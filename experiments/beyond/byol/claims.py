"""Claims of the experiment `byol`."""

import numpy as np

from experiments.beyond.byol.experiment import PREDICTORS, Config
from sslstep import claims
from sslstep.experiment import Arrays
from sslstep.measure import power_law


def check(config: Config, arrays: Arrays) -> list[claims.Claim]:
    """Claims on closed-form step times, and on the dependence of the first wait on α."""
    out = []
    scales = arrays["scales"]
    for predictor in PREDICTORS:
        here = [f"{predictor}/{scale:g}" for scale in config.scales]
        predicted, measured, random = (
            np.stack([arrays[f"{each}/{key}"] for each in here])
            for key in ("predicted", "step_times", "random")
        )
        out.append(
            claims.below(
                f"linear, predictor {predictor}, aligned: step times, largest relative error of "
                f"the prediction",
                "beyond the paper",
                measured=float(np.abs(measured / predicted - 1).max()),
                tolerance=0.01,
            )
        )
        if predictor == "small":
            kind, wanted = "its exponent in α", -1.0
            found = power_law.fit(scales, random).exponents
        else:
            kind, wanted = "its slope, in units of ln(1/α) / 4p(γ - σp)", 1.0
            p, gamma = config.predictor, config.gammas[0]
            unit = 1 / (4 * p * (gamma - config.variance * p))
            found = np.polyfit(np.log(1 / scales), random, 1)[0] / unit
        out.append(
            claims.over_seeds(
                f"linear, predictor {predictor}, random: the wait for the first dimension; {kind}",
                "footnote 16",
                "=",
                expected=wanted,
                measured=[float(each) for each in found],
                # Corrections at finite α are of order α ln(1/α), 0.05 at α = 0.01.
                tolerance=0.05,
            )
        )
    return out
