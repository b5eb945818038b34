r"""Figures 3 and 4: with ordinary settings, eigenvalues move from a lower band to an upper one.

    make fig3, make fig4    or    python -m experiments run fig3_4

Barlow Twins, SimCLR and VICReg are trained from standard initialisation, with ordinary learning
rates and losses. The dip test of log eigenvalues at 5% tests each spectrum for a single band.
`figure` (Figure 3) shows the eigenvalues of the embeddings against effective time, with the widest
gap of each spectrum for which a single band is rejected. `histograms` (Figure 4) shows the
distribution of the eigenvalues before training and at four later times, with the p-value of the
test. Expected: one band before training; later an upper band of eigenvalues that have grown, a
lower band of eigenvalues that have not, and a growing number in the upper band. The entropy rank
measures this number: the exponential of the entropy of the eigenvalues divided by their sum.

Claims are about means over seeds; a single seed leaves them undecided. Preset cpu: a small ResNet
on 32x32 photographs, d = 64, three seeds, 9 to 18 minutes on two cores. Preset paper: ResNet-50 on
STL-10 as in Appendix D.2, one seed, for a GPU. Runs are kept in results/training and shared by all
experiments.
"""

from dataclasses import dataclass
from typing import Annotated

import tyro

from experiments.fig5 import experiment as fig5
from sslstep.experiment import Arrays, Experiment, training
from sslstep.recipes import PAPER_STANDARD_INIT, STANDARD_INIT, Recipes


@dataclass(frozen=True)
class Config(fig5.Config):
    """Settings; each is one option of the command."""

    recipes: Annotated[Recipes, tyro.conf.arg(name="")] = STANDARD_INIT
    """Recipes of the methods."""


def run(config: Config, runs: training.Store) -> Arrays:
    """Train each method from each seed, or read its run; record spectra."""
    return training.fit_all(config, config.recipes, runs, "standard:")


PAPER = Config(**training.PAPER, seeds=(0,), recipes=PAPER_STANDARD_INIT)

EXPERIMENT = Experiment({"cpu": Config(), "paper": PAPER}, run, trains=True, minutes=9.5)
