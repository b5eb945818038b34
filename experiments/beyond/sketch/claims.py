"""The claims, and the numbers that they compare."""

import numpy as np

from experiments.beyond.sketch.experiment import Config
from sslstep import claims
from sslstep.experiment import Arrays
from sslstep.measure import power_law


def error_of_keys(arrays: Arrays) -> np.ndarray:
    """Return the root mean square over modes of the relative error of γ, shape (p, keys)."""
    found: np.ndarray = (arrays["errors"] ** 2).mean(axis=2) ** 0.5
    return found


def check(config: Config, arrays: Arrays) -> list[claims.Claim]:
    """Claims on the error against p, on its estimate, and on the modes of all pairs."""
    error, features = error_of_keys(arrays), np.array(config.features)
    expected = (2 / features) ** 0.5
    pairs = arrays["errors"][:, ::2], arrays["errors"][:, 1::2]
    num = min(part.shape[1] for part in pairs)
    apart = (((pairs[0][:, :num] - pairs[1][:, :num]) ** 2).mean(axis=(0, 2)) / 2) ** 0.5
    true = (arrays["errors"] ** 2).mean() ** 0.5
    of_all = (((arrays["gammas"][0] / arrays["gammas"][1] - 1) ** 2).mean() / 2) ** 0.5
    where = "beyond the paper"
    return [
        claims.over_seeds(
            f"rms relative error of the first {config.num_modes} γ of {config.num_exact:,} pairs "
            f"against the number of features: exponent (each key)",
            where,
            "=",
            expected=-0.5,
            measured=power_law.fit(features, error).exponents.tolist(),
            tolerance=0.1,
        ),
        claims.over_seeds(
            "that error over its first order, (2/p)^1/2, which no network enters (mean over p)",
            where,
            "=",
            expected=1.0,
            measured=(error / expected[:, None]).mean(axis=0).tolist(),
            tolerance=0.25,
        ),
        claims.over_seeds(
            "the error as two keys tell it, their difference over 2^1/2, beside the error",
            where,
            "=",
            expected=1.0,
            measured=(apart / true).tolist(),
            tolerance=0.25,
        ),
        claims.over_seeds(
            f"the modes' embeddings from {features[-1]} features: alignment with the exact ones",
            where,
            ">=",
            expected=0.9,
            measured=arrays["alignment"][-1].tolist(),
        ),
        claims.below(
            f"γ of {config.num_pairs:,} pairs from {features[-1]} features: rms relative error as "
            f"two keys tell it, beside twice its first order",
            where,
            expected=2 * float(expected[-1]),
            measured=float(of_all),
        ),
    ]
