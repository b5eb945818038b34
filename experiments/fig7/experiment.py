r"""Figure 7: how well labels are read off hidden representations, all through training.

    make fig7    or    python -m experiments run fig7

The runs of Figures 2 and 5 (small initialisation) and of Figure 3 (standard): the accuracy of a
linear probe of the hidden representations on held-out labelled images, against training's steps,
and, for small initialisation, against the number of dimensions learned. The probe is ridge
regression in closed form, its penalty chosen by leave-one-out on the training split. Bands are the
range over seeds; dashed is the untrained network of each kind, at step 0, and dotted what the most
frequent label scores. Expected: the accuracy ends above the untrained network's and rises when
dimensions are learned, and small initialisation ends within a few points of standard. Two curves
that drift upward are no evidence: that the accuracy rises *at the steps* is tested against its
growth anywhere else between their neighbours. On photographs the labels are the ten scenes. Claims
are about the mean over seeds, and one seed decides nothing. Preset cpu: three seeds, 20 s to 2
minutes beyond the runs, which it shares.
"""

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from experiments.fig3_4 import experiment as fig3_4
from experiments.fig5 import experiment as fig5
from sslstep.experiment import Arrays, Experiment, training
from sslstep.experiment.image_data import labelled
from sslstep.recipes import Recipes

SETS = ("small", "standard")


@dataclass(frozen=True)
class Config(training.Config):
    """Settings; each is one option of the command."""

    seeds: tuple[int, ...] = fig5.SEEDS
    """Seeds of images, views and initial parameters; each is a run of its own."""
    small: Recipes = fig5.CPU
    """How each method is trained from small initialisation."""
    standard: Recipes = fig3_4.CPU
    """How each method is trained from standard initialisation."""

    def recipes(self, name: str) -> Recipes:
        """Of one of the two sets."""
        found: Recipes = getattr(self, name)
        return found


def run(config: Config, runs: Path) -> Arrays:
    """Both sets of runs, with the accuracy along each."""
    if not config.num_labelled:
        raise ValueError("num_labelled = 0: probes need labelled images.")
    # Both, before anything is trained.
    _, test = (
        labelled(config.data, split, config.data_dir, config.size) for split in ("train", "test")
    )
    labels = test.labels[: config.num_labelled]
    arrays: Arrays = {
        "num_test": np.asarray(len(labels)),
        "chance": np.asarray(np.bincount(labels).max() / len(labels)),
    }
    for name in SETS:
        made = training.fit_all(config, config.recipes(name), runs, f"{name} init:")
        arrays |= {f"{name}/{key}": value for key, value in made.items()}
    return arrays


PAPER = Config(
    **training.shared(fig5.PAPER),
    small=fig5.PAPER.recipes,
    standard=fig3_4.PAPER.recipes,
)

EXPERIMENT = Experiment({"cpu": Config(), "paper": PAPER}, run, trains=True, minutes=10)
