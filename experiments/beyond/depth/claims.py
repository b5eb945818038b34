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
    names = [f"{scale:g}" for scale in config.scales]
    for num in config.layers:
        here = [f"{num}/{name}" for name in names]
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
        first, others = (
            np.stack(
                [[_first(arrays[f"{e}/random/{s}/{key}"]) for s in config.seeds] for e in here]
            )
            for key in ("step_times", "others")
        )
        if num == 1:
            # t = ln(1/α) / 4γ + const: the slope, not an exponent.
            slopes = np.polyfit(np.log(1 / scales), first, 1)[0] * 4 * gammas[0]
            wait = ("Eq. 16", "in units of ln(1/α) / 4γ_1 its slope", 1.0, slopes)
        else:
            exponents = power_law.fit(scales, first).exponents
            wait = ("Eq. 16", "its exponent in α", -2 * (num - 1) / num, exponents)
        wanted = 1 - gammas[1] / gammas[0] if num == 1 else 1.0
        rest = (
            "Result 4.6",
            "their exponent in α",
            wanted,
            power_law.fit(scales, others).exponents,
        )
        for what, (where, kind, expected, found) in (
            ("the wait for the first dimension", wait),
            ("the other modes beside the first when it is half learned", rest),
        ):
            out.append(
                claims.over_seeds(
                    f"{layers}, random: {what}; {kind}",
                    where,
                    "=",
                    expected=float(expected),
                    measured=[float(each) for each in found],
                    # Corrections at α = 0.01 are of the order of α^(2/L) and larger.
                    tolerance=0.15,
                )
            )
    return out


def _first(values: np.ndarray) -> float:
    """Return the first element of an array as a float."""
    return float(np.ravel(values)[0])
