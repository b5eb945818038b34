r"""Figure 7: how well labels are read off hidden representations, all through training.

    make fig7    or    python -m experiments run fig7

The runs of Figures 2 and 5 (small initialisation) and of Figure 3 (standard): the accuracy of a
linear probe of the hidden representations on held-out labelled images, against training's steps,
and, for small initialisation, against the number of dimensions learned. The probe is ridge
regression, its penalty chosen by leave-one-out on the training split. Bands are the range over
seeds; dashed is the untrained network of each kind, and dotted what the most frequent label scores.
Expected: the accuracy ends above the untrained network's, grows at the steps more than anywhere
else between their neighbours, and small initialisation ends within a few points of standard. On
photographs the labels are the ten scenes. Claims are about the mean over seeds, and one seed
decides nothing. Preset cpu: three seeds, 20 s to 2 minutes beyond the runs, which it shares.
"""

from dataclasses import dataclass

import numpy as np

from sslstep import recipes
from sslstep.experiment import Arrays, Experiment, training
from sslstep.experiment.image_data import labelled

SETS = ("small", "standard")


@dataclass(frozen=True)
class Config(training.Config):
    """Settings; each is one option of the command."""

    seeds: tuple[int, ...] = training.SEEDS
    """Seeds of images, views and initial parameters; each is a run of its own."""
    small: recipes.Recipes = recipes.SMALL_INIT
    """How each method is trained from small initialisation."""
    standard: recipes.Recipes = recipes.STANDARD_INIT
    """How each method is trained from standard initialisation."""


def run(config: Config, runs: training.Store) -> Arrays:
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
        made = training.fit_all(config, getattr(config, name), runs, f"{name} init:")
        arrays |= {f"{name}/{key}": value for key, value in made.items()}
    return arrays


PAPER = Config(
    **training.PAPER,
    seeds=(0,),
    small=recipes.PAPER_SMALL_INIT,
    standard=recipes.PAPER_STANDARD_INIT,
)

EXPERIMENT = Experiment({"cpu": Config(), "paper": PAPER}, run, trains=True, minutes=10)
