"""Claims of the experiment `vicreg_first`."""

import numpy as np

from experiments.beyond.vicreg_first.experiment import SMALL, Config
from sslstep import claims
from sslstep.experiment import Arrays

WHERE = "beyond the paper"


def check(config: Config, arrays: Arrays) -> list[claims.Claim]:
    """Claims on growth along the growth matrix's mode, on Σ's mode early, and on Γ's at the end."""
    small = [eps for eps in config.eps if eps <= SMALL]

    def overlaps(part: str, eps: tuple[float, ...] | list[float], of: int) -> np.ndarray:
        """Return overlaps with the first mode of Σ (`of` = 0) or Γ (1), shape (ε, seeds)."""
        return np.stack([arrays[f"{each:g}/{part}"][:, of] for each in eps])

    along = np.stack([arrays[f"{eps:g}/along"] for eps in config.eps])
    out = [
        claims.over_seeds(
            "small weights grow along the first mode of the growth matrix: squared "
            "cosine while the variance is ε / 100, of the ε where it is least",
            WHERE,
            ">=",
            expected=0.9,
            measured=along.min(axis=0).tolist(),
        )
    ]
    if small:
        out += [
            claims.over_seeds(
                f"for ε up to {SMALL:g} that is the first mode of Σ: its squared cosine less that "
                f"of Γ's first mode, of the ε where it is least",
                WHERE,
                ">=",
                expected=0.5,
                measured=(overlaps("early", small, 0) - overlaps("early", small, 1))
                .min(axis=0)
                .tolist(),
            ),
            claims.over_seeds(
                "and at the end, for the same ε, it is the first mode of Γ: its squared cosine "
                "less that of Σ's first mode, of the ε where it is least",
                WHERE,
                ">=",
                expected=0.5,
                measured=(overlaps("end", small, 1) - overlaps("end", small, 0))
                .min(axis=0)
                .tolist(),
            ),
        ]
    return out
