"""Claims of the experiment `vicreg_first`."""

import numpy as np

from experiments.beyond.vicreg_first.experiment import SMALL, Config
from sslstep import claims
from sslstep.experiment import Arrays

WHERE = "beyond the paper"


def check(config: Config, arrays: Arrays) -> list[claims.Claim]:
    """Claims on growth along the growth matrix's mode, on Σ's mode early, and on Γ's at the end."""
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
    small = [eps for eps in config.eps if eps <= SMALL]
    for statement, part, (first, other) in (
        (
            f"for ε up to {SMALL:g} that is the first mode of Σ: its squared cosine less that "
            f"of Γ's first mode, of the ε where it is least",
            "early",
            (0, 1),
        ),
        (
            "and at the end, for the same ε, it is the first mode of Γ: its squared cosine "
            "less that of Σ's first mode, of the ε where it is least",
            "end",
            (1, 0),
        ),
    ):
        if small:
            overlaps = [arrays[f"{eps:g}/{part}"] for eps in small]  # with Σ's, Γ's, the pencil's
            least = np.min([each[:, first] - each[:, other] for each in overlaps], axis=0).tolist()
            out.append(claims.over_seeds(statement, WHERE, ">=", expected=0.5, measured=least))
    return out
