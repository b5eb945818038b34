r"""Figures 3 and 4: with ordinary settings, eigenvalues still move from one band to another.

    make fig3, make fig4    or    python -m experiments run fig3_4

Barlow Twins, SimCLR and VICReg from standard initialisation, with ordinary learning rates and
losses. `figure` (Figure 3): eigenvalues of the embeddings against effective time, with the widest
gap of each spectrum in which one band is rejected, by the dip test of log eigenvalues at 5%.
`histograms` (Figure 4): their distribution before training and four times later, with the test's
p-value. Expected: a band of eigenvalues that have grown, one of those that have not, and a growing
number in the upper one, told by the eigenvalues' entropy rank, the exponential of the entropy of
their shares of their sum. Before training there is one band. Claims are about the mean over seeds,
and one seed decides nothing. Preset cpu: a small ResNet on 32x32 photographs, d = 64, three seeds,
from 9 to 18 minutes on two cores. Preset paper: ResNet-50 on STL-10 as in Appendix D.2, one seed,
for a GPU. Runs are kept in results/training and shared by all experiments.
"""

from dataclasses import dataclass
from typing import Annotated

import tyro

from sslstep.experiment import Arrays, Experiment, training
from sslstep.recipes import PAPER_STANDARD_INIT, STANDARD_INIT, Recipes


@dataclass(frozen=True)
class Config(training.Config):
    """Settings; each is one option of the command."""

    seeds: tuple[int, ...] = training.SEEDS
    """Seeds of images, views and initial parameters; each is a run of its own."""
    recipes: Annotated[Recipes, tyro.conf.arg(name="")] = STANDARD_INIT
    """How each method is trained."""


def run(config: Config, runs: training.Store) -> Arrays:
    """Train each method from each seed, with spectra against effective time."""
    return training.fit_all(config, config.recipes, runs, "standard:")


EXPERIMENT = Experiment(
    {
        "cpu": Config(),
        "paper": Config(**training.PAPER, seeds=(0,), recipes=PAPER_STANDARD_INIT),
    },
    run,
    trains=True,
    minutes=9.5,
)
