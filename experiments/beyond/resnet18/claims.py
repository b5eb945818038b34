"""Claims of the experiment `resnet18`."""

from collections.abc import Mapping
from typing import Any

import numpy as np

from experiments.beyond.resnet18.experiment import Config, parts
from sslstep import claims
from sslstep.experiment import Arrays, curves, training
from sslstep.measure import steps
from sslstep.recipes import LABELS

#: Bounds where those of the experiments do not fit d = 128: 1,500 steps do not learn half of the
#: dimensions, and ten times the alignment of random subspaces exceeds 1.
BOUNDS: Mapping[str, Mapping[str, Any]] = {"small": {"least": 8}, "alignment": {"times": 2}}


def check(config: Config, arrays: Arrays) -> list[claims.Claim]:
    """Return the claims of the experiments, and of each method that its first five rise alone."""
    out = [
        claim
        for name, part in parts(config).items()
        for claim in part.experiment.check(
            part.config, training.run_of(arrays, name), **BOUNDS.get(name, {})
        )
    ]
    for method in config.methods:
        runs = [training.run_of(arrays, f"small/{method}/{seed}") for seed in config.seeds]
        rises = [curves.count(config.small.of(method), run).rises for run in runs]
        out.append(
            claims.over_seeds(
                f"{LABELS[method]}: number of the first five dimensions that rise alone, from 0.1 "
                f"to 0.7 of their plateau",
                "Section 6",
                ">=",
                expected=5,
                measured=[int(np.sum(steps.isolated(each)[:5])) for each in rises],
            )
        )
    return out


def table(config: Config, arrays: Arrays) -> str:
    """Return Tables 1 and 2."""
    part = parts(config)["alignment"]
    assert part.experiment.table is not None
    return part.experiment.table(part.config, training.run_of(arrays, "alignment"))
