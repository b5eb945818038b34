r"""Rises of eigenvalues, and tests of whether dimensions are learned one at a time.

A *rise* of an eigenvalue begins at a small fraction of its plateau and ends at a large fraction.
:func:`simultaneity_test` tests the null hypothesis that all dimensions rise at one time.
:func:`timing_test` tests the null hypothesis that another quantity, such as the volume of hidden
representations, grows at times unrelated to the rises. :func:`coincidence_test` tests two growth
rates with independent noise for a common timing, without using rises.
"""

from sslstep.measure.steps._bands import Gap, bimodality_test, widest_gap
from sslstep.measure.steps._rises import (
    Rises,
    Significance,
    coincidence_test,
    grown_levels,
    growth_rate,
    isolated,
    pauses,
    rises,
    simultaneity_test,
    spread,
    timing_test,
)

__all__ = [
    "Gap",
    "Rises",
    "Significance",
    "bimodality_test",
    "coincidence_test",
    "grown_levels",
    "growth_rate",
    "isolated",
    "pauses",
    "rises",
    "simultaneity_test",
    "spread",
    "timing_test",
    "widest_gap",
]
