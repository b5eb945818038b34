"""Claims of the experiment `fig8`."""

import numpy as np

from experiments.fig8.experiment import Config
from sslstep import claims
from sslstep.experiment import Arrays


def check(config: Config, arrays: Arrays) -> list[claims.Claim]:
    """Claims of Appendix F, as corrected in docs/errata.md."""
    t, gammas = arrays["t"], arrays["gammas"]
    grown = arrays["self_supervised_integrated"][:, 0]
    early = (grown > 0) & (grown < 1e-2)
    # With fewer than two points the rate is NaN, and the claim fails.
    rate = np.polyfit(t[early], np.log(grown[early]), 1)[0] if early.sum() > 1 else np.nan
    velocity = (arrays["supervised_integrated"][1, -1] - config.initial) / float(t[1])
    return [
        claims.close(
            "a small start ends in the minimum of its own sign: +1 from above 0, -1 from below",
            "Fig. 8A, C",
            expected=2.0,
            measured=float(
                arrays["self_supervised_integrated"][-1, 0]
                - arrays["self_supervised_negative_integrated"][-1, 0]
            ),
            tolerance=1e-3,
        ),
        claims.close(
            "from the origin, a maximum, growth is exponential at rate 4γ: measured rate over γ",
            "Fig. 8A, C",
            expected=4.0,
            measured=float(rate / gammas[0]),
            # The cubic term slows growth by at most a fraction s^2, here 1e-4.
            tolerance=4e-3,
        ),
        claims.close(
            "the supervised landscape slopes at the origin, so growth starts at once: velocity "
            "over γ",
            "Fig. 8B, D",
            expected=2.0,
            measured=float(velocity / gammas[-1]),
            # The mean velocity of the first interval is lower by a fraction γ dt, dt = 0.025.
            tolerance=2.0 * float(gammas[-1] * t[1]) + 2 * config.initial,
        ),
    ]
