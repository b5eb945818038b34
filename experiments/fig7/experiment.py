r"""Figure 7: accuracy of a linear probe of hidden representations along training.

    make fig7    or    python -m experiments run fig7

The experiment uses the runs of Figures 2 and 5 (small initialisation) and of Figure 3 (standard
initialisation). The figure shows the accuracy of a linear probe of the hidden representations on
held-out labelled images, against the training step and, for small initialisation, against the
number of dimensions learned. The probe is ridge regression with a penalty chosen by leave-one-out
on the training split. Bands are the range over seeds, dashed lines the untrained networks, and
dotted lines the accuracy of the most frequent label. Expected: the final accuracy exceeds that of
the untrained network. The accuracy grows more during a rise of an eigenvalue than at other places
between the neighbouring rises. Small initialisation ends within a few points of standard
initialisation.

On photographs the labels are the ten scenes. Claims are about means over seeds; a single seed
leaves them undecided. Preset cpu: three seeds, 20 s to 2 minutes beyond the shared runs.
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
    """Seeds of images, views and initial parameters, with one run for each."""
    small: recipes.Recipes = recipes.SMALL_INIT
    """Recipes of the methods from small initialisation."""
    standard: recipes.Recipes = recipes.STANDARD_INIT
    """Recipes of the methods from standard initialisation."""


def run(config: Config, runs: training.Store) -> Arrays:
    """Train both sets of runs, or read them, with the probe's accuracy along each."""
    if not config.num_labelled:
        raise ValueError("num_labelled = 0: probes need labelled images.")
    # Load both splits before training, so that missing labels fail early.
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
