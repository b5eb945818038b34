"""Claims of the experiment `masked`."""

import numpy as np

from experiments.beyond.masked.experiment import Config
from sslstep import claims
from sslstep.experiment import Arrays


def check(config: Config, arrays: Arrays) -> list[claims.Claim]:
    """Claims on closed-form step times, and on the first wait from random layers."""
    here = [f"linear/{scale:g}" for scale in config.scales]
    predicted, measured = (
        np.stack([arrays[f"{each}/{key}"] for each in here]) for key in ("predicted", "step_times")
    )
    first = np.stack([[arrays[f"{e}/random/{seed}"][0] for seed in config.seeds] for e in here])
    # Layers of the scale α have a product of α², which grows at 4 σ.
    slopes = np.polyfit(np.log(1 / arrays["scales"]), first, 1)[0] * 2 * arrays["sigmas"][0]
    out = [
        claims.below(
            "linear, whitened, aligned: step times, largest relative error of the prediction",
            "Section 7, beyond the paper",
            measured=float(np.abs(measured / predicted - 1).max()),
            tolerance=0.01,
        ),
        claims.over_seeds(
            "linear, whitened, random: the wait for the first dimension; its slope, in units of "
            "ln(1/α) / 2σ_1",
            "Section 7, beyond the paper",
            "=",
            expected=1.0,
            measured=[float(slope) for slope in slopes],
            tolerance=0.05,
        ),
    ]
    return out
