"""Claims of the experiment `byol`."""

import numpy as np

from experiments.beyond.byol.experiment import METHODS, PREDICTORS, Config
from sslstep import claims
from sslstep.experiment import Arrays, curves, training
from sslstep.measure import power_law


def check(config: Config, arrays: Arrays) -> list[claims.Claim]:
    """Claims on closed-form step times, on first waits against α, and on steps of the ResNets."""
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
    return out + _of_resnets(config, arrays)


def _of_resnets(config: Config, arrays: Arrays) -> list[claims.Claim]:
    counts = {
        name: [
            curves.count(getattr(config, name), training.run_of(arrays, f"{name}/{seed}"))
            for seed in config.seeds
        ]
        for name in ("plain", "simsiam", "byol")
    }
    plain, own = counts.pop("plain"), METHODS["plain"]
    # A dimension that is above half of its level from the start is not learned in training.
    middles = [counted.rises.middle for counted in plain]
    learned = [int((np.isfinite(middle) & (middle > 0)).sum()) for middle in middles]
    where, rises = "footnote 16", [counted.rises for counted in plain]
    out = [
        claims.over_seeds(f"{own}: dimensions learned", where, ">=", expected=2, measured=learned),
        curves.alone_claim(own, where, plain, learned),
        curves.spread_claim(f"{own}: they are not learned all at once", where, rises),
    ]
    for name, found in counts.items():
        fewer = [one.alone - other.alone for one, other in zip(found, plain, strict=True)]
        out.append(
            claims.over_seeds(
                f"{METHODS[name]}: by how many more dimensions rise alone than without "
                f"normalisation",
                where,
                "<=",
                measured=fewer,
                tolerance=-1.0,
            )
        )
    return out
