"""Claims of the experiment `fig3_4`."""

from typing import Any

import numpy as np

from experiments.fig3_4.experiment import Config
from sslstep import claims
from sslstep.experiment import Arrays, curves, training
from sslstep.measure import steps
from sslstep.recipes import LABELS

# Fractions of the total effective time at which spectra are tested.
FRACTIONS = (0.05, 0.2, 0.5)

# Level of the test at which a single band is rejected.
LEVEL = 0.05


def spectra(
    config: Config, method: Any, seed: int, arrays: Arrays
) -> tuple[np.ndarray, np.ndarray]:
    """Return the effective times (T,) and eigenvalues (T, d) of Appendix D.4 for one run."""
    one = training.run_of(arrays, f"{method}/{seed}")
    return one["record_t"], one[config.recipes.of(method).measured]


def check(config: Config, arrays: Arrays) -> list[claims.Claim]:
    """Claims on two bands, on one band at the start, and on growth of the upper band."""
    out: list[claims.Claim] = []
    for method in config.methods:
        of_seed = [spectra(config, method, seed, arrays) for seed in config.seeds]
        out += _claims_of(LABELS[method], of_seed)
    return out


def _claims_of(name: str, of_seed: list[tuple[np.ndarray, np.ndarray]]) -> list[claims.Claim]:
    """Return three claims on one method's runs, each on the mean over seeds.

    The dip test rejects a single band of eigenvalues during training, does not reject it at the
    start, and the entropy rank grows with time. `of_seed` holds times (T,) and eigenvalues (T, d).
    """
    later, start, order = [], [], []
    for t, eigenvalues in of_seed:
        rows = [eigenvalues[np.argmin(np.abs(t - fraction * t[-1]))] for fraction in FRACTIONS]
        # Bonferroni correction, because any of the times may reject.
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
    """Return the p-value of the dip test for the logarithms of a spectrum (d,).

    Eigenvalues below noise are left out; the p-value is 1 if fewer than four are left.
    """
    # Eigenvalues below the size of the most negative one are noise.
    signal = row[row > max(1e-9 * row[0], -row[-1])]
    return 1.0 if len(signal) < 4 else steps.bimodality_test(np.log(signal)).p_value
