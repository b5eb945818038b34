"""Claims of the experiment `million`."""

import numpy as np

from experiments.beyond.million.experiment import Config
from sslstep import claims
from sslstep.experiment import Arrays

#: Limits of a run: the CPU time of two cores in fifteen minutes, in seconds; twelve gibibytes.
CPU_SECONDS, BYTES = 2 * 15 * 60, 12 * 2**30


def check(config: Config, arrays: Arrays) -> list[claims.Claim]:
    """Claims on certified bounds, on the check by the exact solution, and on time and memory."""
    exact, lower, upper = (arrays[name] for name in ("exact_gammas", "check_lower", "check_upper"))
    wide = np.where(arrays["lower"] > 0, arrays["upper"] / arrays["lower"] - 1, np.inf)
    outside = np.maximum(lower / exact, exact / upper) - 1
    where = "beyond the paper"
    return [
        claims.below(
            f"γ of {config.num_pairs:,} pairs: upper over lower bound, less 1, of the first "
            f"{config.num_modes} modes the largest",
            where,
            measured=float(wide.max()),
            tolerance=config.tol,
        ),
        claims.below(
            f"γ of {config.num_exact:,} pairs: the middle of its bounds, largest relative error "
            f"beside the exact solution",
            where,
            measured=float(np.abs((lower + upper) / 2 / exact - 1).max()),
            tolerance=config.tol,
        ),
        claims.below(
            f"γ of {config.num_exact:,} pairs: how far the exact one lies outside its bounds, "
            f"relative to it, at most",
            where,
            measured=float(outside.max()),
            # Rounding of the exact solution in float32.
            tolerance=1e-4,
        ),
        claims.above(
            f"modes of {config.num_exact:,} pairs: alignment of their span with that of the exact "
            f"ones",
            where,
            expected=1.0,
            measured=float(arrays["check_alignment"]),
            tolerance=0.01,
        ),
        claims.above(
            f"test accuracy of a probe on all {config.num_modes} modes, beside one on the same "
            f"crops' pixels",
            where,
            expected=float(arrays["pixels_correct"].mean()),
            measured=float(arrays["correct"][-1].mean()),
            tolerance=2 * (0.5 / len(arrays["correct"][-1])) ** 0.5,  # two standard errors
        ),
        claims.below(
            f"{config.num_pairs:,} pairs: CPU time beside what two cores have in 15 minutes",
            where,
            expected=1.0,
            measured=float(arrays["cpu_seconds"] / CPU_SECONDS),
        ),
        claims.below(
            "the run: largest memory beside 12 GiB",
            where,
            expected=1.0,
            measured=float(arrays["peak_bytes"] / BYTES),
        ),
    ]
