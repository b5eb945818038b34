"""Claims of the experiment `mlp_readings`."""

import numpy as np

from experiments.beyond.mlp_readings.experiment import READINGS, Config
from sslstep import claims
from sslstep.experiment import Arrays


def check(config: Config, arrays: Arrays) -> list[claims.Claim]:
    """Claims on the readings that learn nothing and on those that learn all from a small start."""
    learned = np.isfinite(arrays["steps"]).sum(axis=1)
    small = np.abs(arrays["losses"][:, 0] - config.dim) < 0.02
    whole = small & (learned == config.dim)
    literal = np.array([reading.scaled == "all" for reading in READINGS])
    chosen = np.array([r.scaled == "output" and r.pixels == "standardised" for r in READINGS])
    unscaled = np.array([reading.scaled == "none" for reading in READINGS])
    return [
        claims.close(
            f"all parameters scaled, {literal.sum()} ways: modes learned within "
            f"{config.num_steps} steps",
            "App. D.1, read literally",
            expected=0,
            measured=int(learned[literal].max()),
        ),
        claims.close(
            "nothing scaled: the loss does not start at d, which it misses by more than 0.02 "
            "(number of readings)",
            "Fig. 2A",
            expected=int(unscaled.sum()),
            measured=int((unscaled & ~small).sum()),
        ),
        claims.close(
            "with embeddings scaled and pixels standardised all d modes are learned from loss d, "
            "with biases and without (number of readings)",
            "Fig. 2A, B",
            expected=int(chosen.sum()),
            measured=int((whole & chosen).sum()),
        ),
        claims.close(
            "and with no other reading at a learning rate below 1/4γ_1, where descent is stable",
            "Fig. 2A, B",
            expected=0,
            measured=int((whole & ~chosen & (arrays["learning_rate_ratios"] < 1)).sum()),
        ),
    ]
