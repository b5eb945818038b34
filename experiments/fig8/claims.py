"""The claims, and the numbers that they compare."""

import numpy as np

from experiments.fig8.experiment import Config
from sslstep import claims, dynamics
from sslstep.experiment import Arrays
from sslstep.measure import spectrum

#: Around the origin, out of which escape is timed.
RADIUS = 0.1


def _slope(t: np.ndarray, values: np.ndarray, among: np.ndarray) -> float:
    """Of a line through the log of values, among some of the times.

    NaN where these are fewer than two, as of a short t_max: then a claim about it does not hold.
    """
    if among.sum() < 2:
        return float("nan")
    return float(np.polyfit(t[among], np.log(values[among]), 1)[0])


def check(config: Config, arrays: Arrays) -> list[claims.Claim]:
    """What Appendix F says, as it should read (see docs/errata.md)."""
    t, gammas = arrays["t"], arrays["gammas"]
    eps = float(np.finfo(arrays["t"].dtype).eps)
    worst = max(
        float(np.abs(arrays[name] - arrays[f"{name}_integrated"]).max())
        for name in ("self_supervised", "self_supervised_negative", "supervised")
    )
    curves = arrays["self_supervised"]
    escaped = np.asarray(spectrum.step_times(t, curves, RADIUS))
    escaped = np.where(np.isfinite(escaped), escaped, np.nan)
    predicted = np.asarray(
        dynamics.critical_time(gammas, config.initial / gammas**0.5, level=RADIUS**2)
    )
    begins_inside = config.initial < RADIUS
    # The rate of the last approach, where 1 - s is between 1e-2 and 1e-3.
    first, j = 1 - curves[:, 0], 0
    tail = (first < 1e-2) & (first > 1e-3)
    settling = -1 / _slope(t, first, tail)
    grown = arrays["self_supervised_integrated"][:, 0]
    early = _slope(t, grown, (grown > 0) & (grown < 1e-2))
    velocity = (arrays["supervised_integrated"][1, -1] - config.initial) / float(t[1])
    return [
        claims.below(
            "the closed-form trajectories solve s' = -γ dL/ds (with a minus sign)",
            "Eq. 51, corrected",
            measured=worst,
            # Both are accurate to rounding relative to 1, the solver to 100 eps a step.
            tolerance=1e4 * eps,
        ),
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
            measured=float(early / gammas[j]),
            # The cubic term slows growth by a fraction s^2 at most, 1e-4 here.
            tolerance=4e-3,
        ),
        claims.close(
            "the supervised landscape slopes at the origin, so growth starts at once: velocity "
            "over γ",
            "Fig. 8B, D",
            expected=2.0,
            measured=float(velocity / gammas[-1]),
            # The mean velocity of the first interval is less by a fraction γ dt, dt = 0.025.
            tolerance=2.0 * float(gammas[-1] * t[1]) + 2 * config.initial,
        ),
        claims.below(
            "escape to radius 0.1 takes log(0.1/|s(0)|)/4γ: relative error over the modes",
            "fn. 23, corrected",
            measured=(
                float(np.abs(escaped / predicted - 1).max()) if begins_inside else float("nan")
            ),
            # The cubic term adds -log(1 - r^2) / 2 to log(r/|s(0)|), r = 0.1; twice that.
            tolerance=float(0.01 / np.log(RADIUS / config.initial)) if begins_inside else 0.0,
        ),
        claims.close(
            f"the last approach has time constant 1/8γ (γ = {float(gammas[j]):g})",
            "App. F, corrected",
            expected=float(dynamics.settling_time(gammas[j])),
            measured=float(settling),
            # The quadratic term slows it by a fraction 3/2 (1 - s), at most 1e-2 there.
            tolerance=0.015 * float(dynamics.settling_time(gammas[j])),
        ),
    ]
