"""Figures of the experiment `resnet18`."""

from typing import Any

from experiments.beyond.resnet18.experiment import Config, parts
from sslstep.experiment import Arrays, training


def plot(config: Config, arrays: Arrays) -> Any:
    """Draw the figures of the experiments, each under its name here."""
    found = {}
    for name, part in parts(config).items():
        drawn = part.experiment.plot(part.config, training.run_of(arrays, name))
        of_part = drawn if isinstance(drawn, dict) else {"figure": drawn}
        for kind, figure in of_part.items():
            found[name if kind == "figure" else f"{name}_{kind}"] = figure
    return found
