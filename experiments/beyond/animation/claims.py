"""Claims of the experiment `animation`."""

import numpy as np

from experiments.beyond.animation.experiment import Config
from sslstep import claims
from sslstep.experiment import Arrays


def check(config: Config, arrays: Arrays) -> list[claims.Claim]:
    """Claim that each of the first three dimensions takes more steps than the one before."""
    passed = arrays["eigenvalues"][:, :3] > 0.5
    first = arrays["step"][np.argmax(passed, axis=0)]
    return [
        claims.above(
            "a line, a plane, a solid: how many times as many steps each takes as the one before, "
            "at least",
            "Fig. 1 (D)",
            expected=1.1,
            measured=float(np.min(first[1:] / first[:-1])),
        )
    ]
