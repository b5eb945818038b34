r"""Whether dimensions are learned one at a time: rises of eigenvalues, and tests of their order.

A *rise* is an eigenvalue's way from a small fraction of its plateau to most of it. Two null
hypotheses can be held against a set of rises: that they are simultaneous
(:func:`simultaneity_test`), and that two sets of curves, such as those of embeddings and of hidden
representations, grow at times that have nothing to do with each other (:func:`coincidence_test`).
"""

from sslstep.measure.steps._bands import Gap, bimodality_test, widest_gap
from sslstep.measure.steps._rises import (
    Rises,
    Significance,
    coincidence_test,
    growth_rate,
    isolated,
    rises,
    simultaneity_test,
)

__all__ = [
    "Gap",
    "Rises",
    "Significance",
    "bimodality_test",
    "coincidence_test",
    "growth_rate",
    "isolated",
    "rises",
    "simultaneity_test",
    "widest_gap",
]
