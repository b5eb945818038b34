"""The claims, and the numbers that they compare."""

from typing import Any

import numpy as np

from experiments.fig3_4.experiment import Config
from sslstep import claims
from sslstep.experiment import Arrays, curves, training
from sslstep.measure import steps
from sslstep.recipes import LABELS

# Of the effective time, at which spectra are tested.
FRACTIONS = (0.05, 0.2, 0.5)


# At which one band is rejected.
LEVEL = 0.05


def spectra(
    config: Config, method: Any, seed: int, arrays: Arrays
) -> tuple[np.ndarray, np.ndarray]:
    """Effective times, and the eigenvalues that Appendix D.4 looks at."""
    one = training.run_of(arrays, f"{method}/{seed}")
    return one["record_t"], one[config.recipes.of(method).measured]


def check(config: Config, arrays: Arrays) -> list[claims.Claim]:
    """For each method, over all seeds: two bands, none at the start, more in the upper one."""
    out: list[claims.Claim] = []
    for method in config.methods:
        of_seed = [spectra(config, method, seed, arrays) for seed in config.seeds]
        out += _claims_of(LABELS[method], of_seed)
    return out


def _claims_of(name: str, of_seed: list[tuple[np.ndarray, np.ndarray]]) -> list[claims.Claim]:
    """The claims about one method's runs, each of the mean over seeds."""
    later, start, order = [], [], []
    for t, eigenvalues in of_seed:
        rows = [eigenvalues[np.argmin(np.abs(t - fraction * t[-1]))] for fraction in FRACTIONS]
        # Bonferroni's: any of the times may be the one that rejects.
        later.append(min(1.0, len(rows) * min(map(_one_mode, rows))))
        start.append(_one_mode(eigenvalues[0]))
        rank = curves.entropy_rank(eigenvalues[1:])
        order.append(curves.rank_correlation(np.arange(len(rank)), rank))
    when = ", ".join(f"{fraction:.0%}" for fraction in FRACTIONS)
    level = float(np.log10(LEVEL))
    return [
        claims.over_seeds(
            f"{name}: a spectrum of one band is rejected at {LEVEL:.0%}: decimal logarithm of the "
            f"p-value (dip test of log eigenvalues at {when} of the time, Bonferroni over them)",
            "Fig. 4",
            "<=",
            expected=level,
            measured=np.log10(later).tolist(),
        ),
        claims.over_seeds(
            f"{name}: before training, at t = 0, it is not (the same test of one spectrum)",
            "Fig. 3",
            ">=",
            expected=level,
            measured=np.log10(start).tolist(),
        ),
        claims.over_seeds(
            f"{name}: eigenvalues move up one after the other: rank correlation of their entropy "
            f"rank, which knows no scale, with time",
            "Fig. 3",
            ">=",
            expected=0.8,
            measured=order,
        ),
    ]


def _one_mode(row: np.ndarray) -> float:
    """The dip test's p-value of a spectrum's logarithms."""
    # Below the most negative eigenvalue's size there is only noise.
    signal = row[row > max(1e-9 * row[0], -row[-1])]
    return 1.0 if len(signal) < 4 else steps.bimodality_test(np.log(signal)).p_value
