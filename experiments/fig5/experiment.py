r"""Figures 1 (C, D), 2 (C to F) and 5: ResNets learn their embeddings one dimension at a time.

    make fig1cd, make fig2cf, make fig5    or    python -m experiments run fig5

Barlow Twins (λ = 1, no batch norm before the loss), SimCLR and VICReg, all initial parameters
multiplied by a small α. For each method, against effective time: the training loss, the eigenvalues
of the embeddings (of C for Barlow Twins, of the covariance for the others, Appendix D.4) and of the
hidden representations' covariance, on a fixed set of pairs. Dashed: where theory has the loss rest,
at d - k for Barlow Twins, at `dynamics.vicreg_plateau` for VICReg. Dotted: when each dimension is
learned. Expected: eigenvalues rise to a plateau, most of them one at a time, the loss falls with
each, and hidden representations grow at the same moments. Claims are about the mean over seeds, and
one seed decides nothing: rounding alone makes a run another. Preset cpu: a small ResNet on 32x32
photographs, three seeds, 6 to 12 minutes a method on two cores. Preset paper: ResNet-50 on STL-10
as in Appendix D.2, one seed, for a GPU. Runs are kept in results/training and shared by all
experiments; interrupted, they go on where they were.
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
    """Seeds of images, views and initial parameters; each is a run of its own."""
    recipes: Annotated[Recipes, tyro.conf.arg(name="")] = SMALL_INIT
    """How each method is trained."""


def run(config: Config, runs: training.Store) -> Arrays:
    """Train each method from each seed, with loss and spectra against effective time."""
    return training.fit_all(config, config.recipes, runs, "small init:")


EXPERIMENT = Experiment(
    {
        "cpu": Config(),
        "paper": Config(**training.PAPER, seeds=(0,), recipes=PAPER_SMALL_INIT),
    },
    run,
    trains=True,
    minutes=9,
    quick=("--methods", "barlow_twins", "--seeds", "0"),
)
