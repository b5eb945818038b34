r"""Figures 1 (C, D), 2 (C to F) and 5: ResNets learn their embeddings one dimension at a time.

    make fig1cd, make fig2cf, make fig5    or    python -m experiments run fig5

Barlow Twins (off-diagonal weight 1, no batch norm before the loss), SimCLR and VICReg are trained
with all initial parameters multiplied by a small α. For each method the figure shows three panels
against effective time: the training loss, the eigenvalues of the embeddings (of C for Barlow Twins,
of the covariance for the other methods, Appendix D.4), and the eigenvalues of the hidden
representations' covariance, on a fixed set of pairs. Dashed lines: theory's loss with k of d
dimensions learned, d - k for Barlow Twins and `dynamics.vicreg_plateau` for VICReg. Dotted lines:
times at which a dimension is learned. Expected: eigenvalues rise to a plateau, most of them one at
a time. The loss falls with each rise, and hidden representations grow at these times.

Claims are about means over seeds; a single seed leaves them undecided, because rounding alone
changes a run. Preset cpu: a small ResNet on 32x32 photographs, three seeds, nine minutes in all
on two quiet cores. Preset paper: ResNet-50 on STL-10 as in Appendix D.2, one seed, for a GPU.
Runs are kept in results/training and shared by all experiments; interrupted runs are continued.
"""

from dataclasses import dataclass
from typing import Annotated

import tyro

from sslstep.experiment import Arrays, Experiment, training
from sslstep.recipes import PAPER_SMALL_INIT, SMALL_INIT, Recipes


@dataclass(frozen=True)
class Config(training.Config):
    """Settings; each is one option of the command."""

    seeds: tuple[int, ...] = training.SEEDS
    """Seeds of images, views and initial parameters, with one run for each."""
    recipes: Annotated[Recipes, tyro.conf.arg(name="")] = SMALL_INIT
    """Recipes of the methods."""


def run(config: Config, runs: training.Store) -> Arrays:
    """Train each method from each seed, or read its run; record loss and spectra."""
    return training.fit_all(config, config.recipes, runs, "small init:")


PAPER = Config(**training.PAPER, seeds=(0,), recipes=PAPER_SMALL_INIT)

QUICK = ("--methods", "barlow_twins", "--seeds", "0", "--barlow-twins.num-steps", "1000")
EXPERIMENT = Experiment({"cpu": Config(), "paper": PAPER}, run, trains=True, minutes=9, quick=QUICK)
