r"""Whether dimensions are learned one at a time: rises of eigenvalues, and tests of their order.

A *rise* is an eigenvalue's way from a small fraction of its plateau to most of it. Two null
hypotheses can be held against a set of rises: that they are simultaneous
(:func:`simultaneity_test`), and that something else, such as the spectrum of hidden
representations, grows at times that have nothing to do with them (:func:`timing_test`). Of two
series whose noise is independent, :func:`coincidence_test` asks the latter without steps.
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
)
from sslstep.measure.steps._timing import timing_test

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
