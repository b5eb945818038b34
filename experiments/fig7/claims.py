"""Claims of the experiment `fig7`."""

from typing import Any

import numpy as np

from experiments.fig7.experiment import SETS, Config
from sslstep import claims
from sslstep.experiment import Arrays, curves, training
from sslstep.measure import probe
from sslstep.recipes import LABELS

#: Reasons why accuracy does not rise more at the steps, by network, data and method.
BETWEEN = dict.fromkeys(
    (("small", "cifar10", "barlow_twins"), ("small", "cifar10", "simclr")),
    "accuracy grows more between the steps, for a reason that was not found",
)


def check(config: Config, arrays: Arrays) -> list[claims.Claim]:
    """Claims on accuracy: gain by training, timing of gains, small against standard start."""
    out: list[claims.Claim] = []
    chance = float(arrays["chance"])
    for method in config.methods:
        runs = {name: of_seed_runs(config, name, method, arrays) for name in SETS}
        last, first = (
            {name: np.array([one["accuracy"][at] for one in runs[name]], float) for name in SETS}
            for at in (-1, 0)
        )
        # All seeds share the test images, so their scatter does not show the images' error.
        error = float(probe.standard_error(last["standard"].mean(), int(arrays["num_test"])))
        recipe = config.small.of(method)
        timing = [curves.timing(recipe, one, one["accuracy"]) for one in runs["small"]]
        label = LABELS[method]
        out += [
            claims.over_seeds(
                f"{label}: small initialisation ends within a few points of standard: by how much "
                f"its accuracy is lower (binomial standard error {error:.3f})",
                "App. D.3, Fig. 7",
                "<=",
                measured=(last["standard"] - last["small"]).tolist(),
                tolerance=0.05,
            ),
            claims.over_seeds(
                f"{label}: the untrained network of small initialisation beats the most frequent "
                f"label, which scores {chance:.3f}, by two binomial standard errors: its accuracy",
                "beyond the paper",
                ">=",
                expected=chance + 2 * error,
                measured=first["small"].tolist(),
            ),
            *(
                claims.over_seeds(
                    f"{label}: training adds to it, from {name} initialisation, two binomial "
                    f"standard errors: the accuracy at the end less the untrained network's, which "
                    f"is {first[name].mean():.3f}",
                    "App. D.3, Fig. 7",
                    ">=",
                    expected=2 * error,
                    measured=(last[name] - first[name]).tolist(),
                )
                for name in SETS
            ),
            claims.over_seeds(
                f"{label}: accuracy rises when dimensions are learned: the share of all places "
                f"between its neighbours at which it grows less than during a rise (by chance: "
                f"0.5)",
                "beyond the paper",
                ">=",
                expected=0.5,
                measured=[test.statistic for test in timing],
            ).known_to_fail(BETWEEN.get((config.backbone, config.data, method), "")),
        ]
    return out


def of_seed_runs(config: Config, name: str, method: Any, arrays: Arrays) -> list[Arrays]:
    """Return the runs of one method in the set `name`, one for each seed."""
    return [training.run_of(arrays, f"{name}/{method}/{seed}") for seed in config.seeds]
