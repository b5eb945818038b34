r"""Figures 1 (C, D), 2 (C to F) and 5: ResNets learn their embeddings one dimension at a time.

    make fig1cd, make fig2cf, make fig5    or    python -m experiments run fig5

Barlow Twins (λ = 1, no batch norm before the loss), SimCLR and VICReg, each with all initial
parameters multiplied by a small α. For each method: the training loss, the eigenvalues of the
embeddings (of C for Barlow Twins, of the covariance for the others, Appendix D.4), and those of
the hidden representations' covariance, these two on a fixed set of pairs, against effective time.
Dashed lines are where theory has the loss rest: for Barlow Twins at d - k while k eigenvalues are
one and the others 0; for VICReg at `dynamics.vicreg_plateau`. Dotted ones are when each dimension
of the embedding is learned. Expected: eigenvalues rise from almost nothing to a plateau, most of
them one at a time, the loss falls with each, and hidden representations grow at the same moments.
Claims are about the mean over seeds, and one seed decides nothing: rounding alone makes a run
another. Preset cpu: a small ResNet on 32x32 photographs, three seeds, 6 to 12 minutes a method on
two cores. Preset paper: Appendix D.2 (ResNet-50, STL-10), one seed, for a GPU. Runs are kept in
results/training and shared by all experiments; interrupted, they go on where they were.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import tyro

from sslstep.experiment import Arrays, Experiment, training
from sslstep.recipes import BarlowTwins, Recipes, SimCLR, VICReg

# Unlabelled ones; an epoch of the paper presets.
STL10_IMAGES = 100_000


# Of presets whose claims are about means over seeds: the fewest that give an interval of use.
SEEDS = (0, 1, 2)


CPU = Recipes(
    barlow_twins=BarlowTwins(init_scale=0.3),
    simclr=SimCLR(init_scale=0.2, learning_rate=0.01, momentum=0.9, num_steps=1500),
    vicreg=VICReg(hidden=(256, 256), init_scale=0.2, learning_rate=0.01, momentum=0.9),
)


@dataclass(frozen=True)
class Config(training.Config):
    """Settings; each is one option of the command."""

    seeds: tuple[int, ...] = SEEDS
    """Seeds of images, views and initial parameters; each is a run of its own."""
    recipes: Annotated[Recipes, tyro.conf.arg(name="")] = CPU
    """How each method is trained."""


def run(config: Config, runs: Path) -> Arrays:
    """Train each method from each seed, with loss and spectra against effective time."""
    return training.fit_all(config, config.recipes, runs, "small init:")


PAPER = Config(
    seeds=(0,),
    data="stl10",
    backbone="resnet50",
    stem="imagenet",
    size=96,
    num_probe=4096,
    num_labelled=5000,
    num_records=400,
    checkpoint_every=5000,
    dtype="bfloat16",
    recipes=Recipes(
        barlow_twins=BarlowTwins(
            dim=512,
            hidden=(2048,),
            views="publication",
            batch_size=64,
            optimizer="lars",
            learning_rate=0.2 * 64 / 256,
            bias_learning_rate=0.0048 * 64 / 256,
            momentum=0.9,
            weight_decay=1e-6,
            schedule="warmup_cosine",
            warmup_steps=10 * (STL10_IMAGES // 64),
            num_steps=320 * (STL10_IMAGES // 64),
            init_scale=0.093,
            symmetrise=False,
        ),
        simclr=SimCLR(
            dim=128,
            hidden=(2048,),
            views="publication",
            learning_rate=0.01,
            momentum=0.9,
            nesterov=True,
            weight_decay=1e-5,
            num_steps=320 * (STL10_IMAGES // 256),
            init_scale=0.087,
        ),
        vicreg=VICReg(
            dim=128,
            hidden=(512, 512),
            views="publication",
            optimizer="lars",
            learning_rate=0.25,
            momentum=0.9,
            weight_decay=1e-5,
            schedule="warmup_cosine",
            warmup_steps=STL10_IMAGES // 256,
            num_steps=500 * (STL10_IMAGES // 256),
            init_scale=0.133,
        ),
    ),
)

EXPERIMENT = Experiment(
    {"cpu": Config(), "paper": PAPER},
    run,
    trains=True,
    minutes=9,
    quick=("--methods", "barlow_twins", "--seeds", "0"),
)
