"""Claims of the experiment `lars_steps`."""

import numpy as np

from experiments.beyond.lars_steps.experiment import Config
from sslstep import claims
from sslstep.experiment import Arrays
from sslstep.measure import power_law


def check(config: Config, arrays: Arrays) -> list[claims.Claim]:
    """Claims on both predictions, on the difference between the rules, and on the ResNets."""
    out = []
    gammas, scales = arrays["gammas"], [f"{scale:g}" for scale in config.scales]
    ratio = config.relative_rate * gammas[0] / gammas[-1]
    of_lars = f", for ρ γ_1 / γ_d = {ratio:.2g}, where the law needs it far below 1"
    waits = {}  # steps from mode to mode, measured and predicted
    for rule, called, domain in (("sgd", "gradient descent", ""), ("lars", "LARS", of_lars)):
        names = ("half", "half_predicted")
        half, predicted = (np.stack([arrays[f"{rule}/{s}/{n}"] for s in scales]) for n in names)
        waits[rule] = np.diff(half, axis=1), np.diff(predicted, axis=1)
        # A step multiplies by 1 + x with x = 4γη, flow by e^x, and records are spaced apart. Under
        # LARS, the initially unaligned part adds less than one e-fold to |W|.
        apart = np.array([np.diff(arrays[f"{rule}/{s}/step"])[0] for s in scales])[:, None]
        descent = 2 * gammas * config.learning_rate + apart / predicted
        allowed = descent if rule == "sgd" else 1 / (config.relative_rate * predicted)
        error = np.abs(half / predicted - 1)
        worst = np.unravel_index(np.argmax(error - allowed), error.shape)
        out.append(
            claims.below(
                f"linear model under {called}: steps at which modes are learned, relative error of "
                f"the prediction (of the mode that comes closest to what is allowed){domain}",
                "Eq. 10, 16" if rule == "sgd" else "beyond the paper",
                measured=float(error[worst]),
                tolerance=float(allowed[worst]),
            )
        )
    slope = power_law.fit(gammas, arrays[f"sgd/{scales[-1]}/half"]).exponent
    measured, predicted = waits["lars"]
    growth = {rule: (of_rule[0][:, -1] / of_rule[0][:, 0]).max() for rule, of_rule in waits.items()}
    out += [
        claims.close(
            "linear model under gradient descent: a mode is learned after 1 / γ; the exponent",
            "Eq. 16",
            expected=-1.0,
            measured=slope,
            # The factor log(1/γ s(0)^2), about 2 log(1/α), grows as γ falls.
            tolerance=float(1 / np.log(1 / config.scales[-1])),
        ),
        claims.below(
            f"linear model under LARS: waits from mode to mode, largest relative error of the "
            f"prediction{of_lars}",
            "beyond the paper",
            measured=float(np.abs(measured / predicted - 1).max()),
            tolerance=0.02,
        ),
        claims.below(
            "and they do not lengthen as those of gradient descent do: the last over the first, of "
            "both initial scales the larger, over the same under gradient descent",
            "beyond the paper",
            expected=0.5,
            measured=float(growth["lars"] / growth["sgd"]),
        ),
    ]
    spans = [
        _span(arrays[f"resnet/lars/{seed}"], arrays[f"resnet/sgd/{seed}"]) for seed in config.seeds
    ]
    out.append(
        claims.over_seeds(
            "ResNet: step times lie closer together under LARS, by a fifth at least: the last over "
            "the first, of as many dimensions as both rules learn, over the same under gradient "
            "descent",
            "beyond the paper",
            "<=",
            expected=0.8,
            measured=spans,
        )
    )
    return out


def _span(lars: np.ndarray, sgd: np.ndarray) -> float:
    """Return the k-th step time over the first under LARS, over this ratio under gradient descent.

    `lars` and `sgd` hold step times, shape (d,), `inf` for a dimension that is not learned. k is
    the number of dimensions that both rules learn: the smaller of the two numbers. NaN if k < 2.
    """
    common = min(np.isfinite(lars).sum(), np.isfinite(sgd).sum())
    if common < 2:
        return float("nan")
    last_over_first = [np.sort(found)[common - 1] / found.min() for found in (lars, sgd)]
    return float(last_over_first[0] / last_over_first[1])
