"""Claims of the experiment `resnet18`."""

from experiments.beyond.resnet18.experiment import Config, parts
from sslstep import claims
from sslstep.experiment import Arrays, training


def check(config: Config, arrays: Arrays) -> list[claims.Claim]:
    """Return the claims of the experiments."""
    return [
        claim
        for name, part in parts(config).items()
        for claim in part.experiment.check(part.config, training.run_of(arrays, name))
    ]


def table(config: Config, arrays: Arrays) -> str:
    """Return Tables 1 and 2."""
    part = parts(config)["alignment"]
    assert part.experiment.table is not None
    return part.experiment.table(part.config, training.run_of(arrays, "alignment"))
