r"""Figures 3 and 4: with ordinary settings, eigenvalues still move from one band to another.

    make fig3, make fig4    or    python -m experiments run fig3_4

Barlow Twins, SimCLR and VICReg from standard initialisation, with ordinary learning rates and
losses. `figure` (Figure 3): eigenvalues of the embeddings against effective time, and, dashed, the
middle of the widest gap of each spectrum in which one band is rejected, by the dip test of log
eigenvalues at 5%. `histograms` (Figure 4): their distribution before training and four times later,
with the test's p-value.
Expected: a band of eigenvalues that have grown, one of those that have not, a sparse region between
them, and a number in the upper band that grows, which is told by the eigenvalues' entropy rank, the
exponential of the entropy of their shares of their sum. Before training there is one band. Claims
are about the mean over seeds, and one seed decides nothing. Preset cpu: a small ResNet on 32x32
photographs, d = 64, three seeds, 9 to 18 minutes on two cores. Preset paper: ResNet-50 on STL-10 as
in Appendix D.2, one seed, for a GPU. Runs are kept in results/training and shared by all
experiments.
"""

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated, Any

import tyro

from experiments.fig5 import experiment as fig5
from sslstep.experiment import Arrays, Experiment, training
from sslstep.recipes import BarlowTwins, Recipes, SimCLR, VICReg

CPU = Recipes(
    barlow_twins=BarlowTwins(
        dim=64,
        off_diagonal=5e-3,
        batch_norm=True,
        symmetrise=False,
        learning_rate=0.01,
        momentum=0.9,
        num_steps=1000,
    ),
    simclr=SimCLR(
        dim=64,
        learning_rate=0.5,
        momentum=0.9,
        weight_decay=1e-5,
        num_steps=1000,
    ),
    vicreg=VICReg(dim=64, hidden=(256, 256), learning_rate=0.01, momentum=0.9, num_steps=1000),
)


@dataclass(frozen=True)
class Config(training.Config):
    """Settings; each is one option of the command."""

    seeds: tuple[int, ...] = fig5.SEEDS
    """Seeds of images, views and initial parameters; each is a run of its own."""
    recipes: Annotated[Recipes, tyro.conf.arg(name="")] = CPU
    """How each method is trained."""


def run(config: Config, runs: Path) -> Arrays:
    """Train each method from each seed, with spectra against effective time."""
    return training.fit_all(config, config.recipes, runs, "standard:")


_SMALL = fig5.PAPER.recipes


_STANDARD: Any = {"init_scale": 1.0, "zero_init_residual": True}


PAPER = Config(
    **training.shared(fig5.PAPER),
    recipes=Recipes(
        barlow_twins=replace(
            _SMALL.barlow_twins, off_diagonal=0.0051, batch_norm=True, **_STANDARD
        ),
        simclr=replace(_SMALL.simclr, learning_rate=0.5, **_STANDARD),
        vicreg=replace(_SMALL.vicreg, learning_rate=0.5, **_STANDARD),
    ),
)

EXPERIMENT = Experiment({"cpu": Config(), "paper": PAPER}, run, trains=True, minutes=9.5)
