"""Claims of the experiment `depth`."""

import numpy as np

from experiments.beyond.depth.experiment import Config
from sslstep import claims
from sslstep.experiment import Arrays
from sslstep.measure import power_law


def check(config: Config, arrays: Arrays) -> list[claims.Claim]:
    """Claims on the closed form, the exponent of the wait, and the size of the other modes."""
    out = []
    gammas, scales = arrays["gammas"], arrays["scales"]
    for num in config.layers:
        here = [f"{num}/{scale:g}" for scale in config.scales]
        predicted = np.stack([arrays[f"{each}/predicted"] for each in here])
        measured = np.stack([arrays[f"{each}/step_times"] for each in here])
        layers = f"{num} layer{'s' * (num > 1)}"
        out.append(
            claims.below(
                f"{layers}, balanced: step times, largest relative error of the prediction",
                "beyond the paper",
                measured=float(np.abs(measured / predicted - 1).max()),
                tolerance=0.01,
            )
        )
        first = of_random(config, arrays, num, "step_times")
        if num == 1:
            # t = ln(1/α) / 4γ + const: the slope, not an exponent.
            waits = np.polyfit(np.log(1 / scales), first, 1)[0] * 4 * gammas[0]
            kind, wanted = "in units of ln(1/α) / 4γ_1 its slope", 1.0
            of_others = 1 - gammas[1] / gammas[0]
        else:
            waits = power_law.fit(scales, first).exponents
            kind, wanted, of_others = "its exponent in α", -2 * (num - 1) / num, 1.0
        others = power_law.fit(scales, of_random(config, arrays, num, "others")).exponents
        for what, where, expected, found in (
            (f"the wait for the first dimension; {kind}", "Eq. 16", wanted, waits),
            (
                "the other modes beside the first when it is half learned; their exponent in α",
                "Result 4.6",
                of_others,
                others,
            ),
        ):
            out.append(
                claims.over_seeds(
                    f"{layers}, random: {what}",
                    where,
                    "=",
                    expected=float(expected),
                    measured=found.tolist(),
                    # Corrections at α = 0.01 are of the order of α^(2/L) and larger.
                    tolerance=0.15,
                )
            )
    return out


def of_random(config: Config, arrays: Arrays, num: int, key: str) -> np.ndarray:
    """Return the first step time, or the size of the other modes, from random layers.

    `num` is the number of layers; the shape is (scales, seeds).
    """
    found = [
        [np.ravel(arrays[f"{num}/{scale:g}/random/{seed}/{key}"])[0] for seed in config.seeds]
        for scale in config.scales
    ]
    return np.array(found)
