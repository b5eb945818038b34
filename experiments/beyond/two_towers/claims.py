"""Claims of the experiment `two_towers`."""

import numpy as np

from experiments.beyond.two_towers.experiment import Config
from sslstep import claims
from sslstep.experiment import Arrays


def check(config: Config, arrays: Arrays) -> list[claims.Claim]:
    """Claims on step times, learned modes and retrieval of the finite towers."""
    where = "Section 5.2"
    step_errors = np.abs(arrays["trained_step_times"] / arrays["predicted_step_times"] - 1)
    left = {
        name: np.abs(arrays[f"{name}_curves"][:, -1] - 1).max(axis=1)
        for name in ("trained", "predicted")
    }
    # Mean rank over images, for each pair of networks.
    ranks = {
        name: arrays[f"{name}_ranks"].mean(axis=1) for name in ("trained", "predicted", "untrained")
    }
    predicted, before = (float(ranks[name].mean()) for name in ("predicted", "untrained"))
    return [
        claims.over_seeds(
            f"step times follow the prediction: largest relative error over modes (networks' NTKs "
            f"are off by {arrays['fluctuations'].mean():.2g} on the learned modes)",
            where,
            "<=",
            measured=step_errors.max(axis=1).tolist(),
            # A step takes 1/γ times the logarithm of the start. A hidden unit contributes at worst
            # a product of two squared normals to γ, of relative variance 8. The tolerance is two
            # standard deviations of the mean over the narrower tower's units.
            tolerance=2 * (8 / min(config.widths)) ** 0.5,
        ),
        claims.over_seeds(
            "all modes are learned: largest final |λ_j - 1|, beyond that predicted",
            where,
            "<=",
            measured=(left["trained"] - left["predicted"]).tolist(),
            tolerance=0.05,  # e^-3, as λ approaches 1 as e^-8γt after the step
        ),
        claims.over_seeds(
            f"held-out images are matched across the views as well as predicted, {predicted:.3f}: "
            f"mean rank of the right one of {config.num_test}, 0 best and 0.5 chance, beyond that",
            where,
            "=",
            measured=(ranks["trained"] - ranks["predicted"]).tolist(),
            tolerance=0.1 * abs(0.5 - predicted),  # a tenth of the predicted gain over chance
        ),
        claims.over_seeds(
            f"which the towers have learned: mean rank, {before:.3f} before training, below chance",
            where,
            "<=",
            expected=0.5,
            measured=ranks["trained"].tolist(),
        ),
    ]
