r"""Figure 1 (C, D): a ResNet learns its embedding one dimension at a time.

    make fig1cd    or    python -m experiments.resnet_small_init

A ResNet and a projector of one hidden layer are trained on pairs of views with the paper's form of
the Barlow Twins loss (λ = 1, no batch norm before it), all initial parameters multiplied by a small
α. Loss (A) and eigenvalues of the cross-correlation C (B) against effective time, both on a fixed
set of pairs; dashed, what the theory says: the loss rests at d - k while k eigenvalues are 1 and
the others 0. Expected: the eigenvalues rise from almost 0 to 1, most of them one at a time, and the
loss falls by about 1 each. Preset cpu: a small ResNet on 32x32 photographs, 3 to 4 minutes on two
cores. Preset paper: Appendix D.2 (ResNet-50, STL-10, LARS), for a GPU. Interrupted, it goes on
where it was.
"""

from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from experiments import _training
from experiments._run import Arrays, Experiment, command
from sslstep import claims, losses, nn, plotting
from sslstep.measure import spectrum


@dataclass(frozen=True)
class Config(_training.Config):
    """Settings; each is one option of the command."""

    symmetrise: bool = True
    """Whether the loss is of (C + C^T) / 2, as in Eq. 2, or of C, as the publication's."""


def run(config: Config, folder: Path) -> Arrays:
    """Train, with the loss and the spectra against effective time."""
    _training.require_valid(config)
    loss_fn = partial(
        losses.barlow_twins, off_diagonal=1.0, batch_norm=False, symmetrise=config.symmetrise
    )
    run = _training.fit(config, loss_fn, nn.barlow_twins_head, folder, "resnet_small_init")
    return {"t": run.t, "loss": run.loss, "record_t": run.record_t, **run.records}


def plot(config: Config, arrays: Arrays) -> Any:
    """Loss with its plateaus, and the eigenvalues of C."""
    import matplotlib.pyplot as plt

    fig, (ax_loss, ax_modes) = plt.subplots(2, 1, sharex=True, figsize=(3.4, 3.6))
    t, eigenvalues = arrays["record_t"], arrays["correlation"]
    plateaus = {**plotting.THEORY, "color": "0.7", "linewidth": 0.5, "zorder": 0}
    for k in range(0, config.dim + 1, max(1, config.dim // 16)):
        name = r"theory: $d - k$" if k == 0 else None
        ax_loss.axhline(config.dim - k, **plateaus, label=name)
    ax_loss.plot(arrays["t"], arrays["loss"], color="0.5", linewidth=0.5, label="batches")
    ax_loss.plot(t, loss_of(eigenvalues), color=plotting.CATEGORIES[0], label="fixed pairs")
    ax_loss.set_ylim(0, 1.1 * config.dim)
    ax_loss.set_ylabel("loss")
    ax_loss.legend(loc="upper right", frameon=True, framealpha=1.0, edgecolor="none")
    for j, color in enumerate(plotting.mode_colors(config.dim)):
        ax_modes.plot(t, eigenvalues[:, j], color=color)
    ax_modes.axhline(1.0, **plateaus)
    ax_modes.set_ylabel(r"eigenvalues of $C$")
    ax_modes.set_xlabel(r"effective time $t$ (learning rate $\times$ step)")
    ax_modes.set_ylim(-0.05, 1.3)
    plotting.label_panels([ax_loss, ax_modes])
    return fig


def loss_of(eigenvalues: np.ndarray) -> np.ndarray:
    """The simplified loss on the fixed pairs: the sum of (1 - λ_j)²."""
    return np.sum((1 - eigenvalues) ** 2, axis=-1)


def check(config: Config, arrays: Arrays) -> list[claims.Claim]:
    """How many dimensions are learned, how clearly, and one at a time."""
    t, eigenvalues = arrays["record_t"], arrays["correlation"]
    learned, apart, plateaus = steps(t, eigenvalues)
    losses_there = loss_of(eigenvalues)[plateaus]
    if len(plateaus):
        left = np.sum(eigenvalues[plateaus] < 0.5, axis=1)
        off = float(np.median(np.abs(losses_there - left)))
    else:
        off = np.inf
    risen = eigenvalues[-1][eigenvalues[-1] > 0.5]
    return [
        claims.below(
            "at the start nothing is learned: C's largest eigenvalue (the paper proposes 1e-3)",
            "App. D.2",
            expected=1e-3,
            measured=float(eigenvalues[0, 0]),
            tolerance=0.05,
        ),
        claims.above(
            "at least half of the dimensions are learned",
            "Fig. 1 (D)",
            expected=config.dim / 2,
            measured=learned,
        ),
        claims.above(
            "most of those rise alone: from 0.1 to 0.9 while no other does",
            "Section 6",
            expected=0.5,
            measured=apart / max(learned, 1),
        ),
        claims.below(
            "amid a plateau after k steps the loss is d - k: the median distance from it",
            "Fig. 1 (C), Eq. 14",
            measured=off,
            tolerance=0.1,
        ),
        claims.close(
            "what is learned stays at 1: the mean of the learned eigenvalues at the end",
            "Eq. 13, Fig. 1 (D)",
            expected=1.0,
            measured=float(risen.mean()) if len(risen) else 0.0,
            tolerance=0.05,
        ),
    ]


def steps(t: np.ndarray, eigenvalues: np.ndarray) -> tuple[int, int, np.ndarray]:
    """How many dimensions are learned, how many of them alone, and records amid plateaus."""
    levels = [np.asarray(spectrum.step_times(t, eigenvalues, level)) for level in (0.1, 0.9)]
    learned = np.isfinite(np.asarray(spectrum.step_times(t, eigenvalues)))
    if not learned.any():
        return 0, 0, np.empty(0, int)
    order = np.argsort(levels[0][learned])
    begin, end = (level[learned][order] for level in levels)
    # The last may not have reached 0.9 yet; an earlier one that has not overlaps the next.
    end = np.where(np.isfinite(end), end, t[-1])
    before = np.concatenate([[-np.inf], np.maximum.accumulate(end)[:-1]])
    after = np.concatenate([begin[1:], [np.inf]])
    apart = (before < begin) & (end < after)
    middles = [(a + b) / 2 for a, b in zip(np.maximum.accumulate(end), after, strict=True) if a < b]
    amid = [int(np.argmin(np.abs(t - middle))) for middle in middles if np.isfinite(middle)]
    return int(learned.sum()), int(apart.sum()), np.asarray(amid, int)


PAPER = Config(
    data="stl10",
    backbone="resnet50",
    stem="imagenet",
    hidden=2048,
    dim=512,
    views="barlow_twins",
    size=96,
    batch_size=64,
    optimizer="lars",
    learning_rate=0.2 * 64 / 256,
    bias_learning_rate=0.0048 * 64 / 256,
    weight_decay=1e-6,
    warmup_steps=10 * (100_000 // 64),
    num_steps=320 * (100_000 // 64),
    init_scale=0.093,
    num_probe=4096,
    num_records=400,
    checkpoint_every=5000,
    dtype="bfloat16",
    symmetrise=False,
)

EXPERIMENT = Experiment(
    "resnet_small_init",
    __doc__ or "",
    {"cpu": Config(), "paper": PAPER},
    run,
    plot,
    check,
    resumes=True,
)

if __name__ == "__main__":
    command(EXPERIMENT)
