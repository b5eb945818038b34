r"""Figures 3 and 4: with ordinary settings, eigenvalues still move from one band to another.

    make fig3, make fig4    or    python -m experiments.resnet_standard

Barlow Twins, SimCLR and VICReg from standard initialisation, with ordinary learning rates and
losses. `figure` (Figure 3): eigenvalues of the embeddings against effective time, and, dashed, the
middle of the widest gap of each spectrum. `histograms` (Figure 4): their distribution, five times.
Expected: a band of eigenvalues that have grown, one of those that have not, a sparse region between
them, and a number in the upper band that grows, which is told by the eigenvalues' entropy rank, the
exponential of the entropy of their shares of their sum. Preset cpu: a small ResNet on 32x32
photographs, d = 64, 3 to 6 minutes on two cores. Preset paper: Appendix D.2 (ResNet-50, STL-10),
for a GPU. Runs are kept in results/training and shared by all experiments.
"""

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import scipy.special
import tyro

from experiments import _curves, _training, resnet_small_init
from experiments._recipes import LABELS, BarlowTwins, Recipes, SimCLR, VICReg
from experiments._run import Arrays, Experiment, command
from sslstep import claims, plotting
from sslstep.measure import steps

# Of the effective time, at which spectra are tested.
FRACTIONS = (0.05, 0.2, 0.5)

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
class Config(_training.Config):
    """Settings; each is one option of the command."""

    recipes: Annotated[Recipes, tyro.conf.arg(name="")] = CPU
    """How each method is trained."""


def run(config: Config, runs: Path) -> Arrays:
    """Train each method from each seed, with spectra against effective time."""
    return _training.fit_all(config, config.recipes, runs, "standard:")


def plot(config: Config, arrays: Arrays) -> Any:
    """Figure 3 and Figure 4, of the first seed."""
    return {"figure": _traces(config, arrays), "histograms": _histograms(config, arrays)}


def _traces(config: Config, arrays: Arrays) -> Any:
    import matplotlib.pyplot as plt

    columns = len(config.methods)
    fig, axes = plt.subplots(1, columns, figsize=(0.4 + 2.2 * columns, 2.5), squeeze=False)
    for method, ax in zip(config.methods, axes[0], strict=True):
        t, eigenvalues = _spectra(config, method, config.seeds[0], arrays)
        _curves.eigenvalue_curves(ax, t, eigenvalues)
        gaps = [steps.widest_gap(row) for row in eigenvalues[1:]]
        middles = [gap.threshold for gap in gaps]
        ax.plot(t[1:], middles, **plotting.THEORY, label="middle of the widest gap")
        ax.set_xscale("log")
        ax.set_xlim(t[1], t[-1])
        ax.set_xlabel(r"effective time $t$")
        ax.set_title(LABELS[method] + _curves.seed_shown(config.seeds), fontsize=8)
    axes[0, 0].set_ylabel("eigenvalues of embeddings")
    fig.legend(*axes[0, 0].get_legend_handles_labels(), loc="outside lower center")
    plotting.label_panels(list(axes[0]))
    return fig


def _histograms(config: Config, arrays: Arrays) -> Any:
    import matplotlib.pyplot as plt
    from matplotlib.ticker import MaxNLocator

    columns, rows = len(config.methods), 5
    fig, axes = plt.subplots(
        rows, columns, figsize=(0.4 + 2.2 * columns, 4.8), squeeze=False, sharex="col"
    )
    for column, method in enumerate(config.methods):
        t, eigenvalues = _spectra(config, method, config.seeds[0], arrays)
        top = float(eigenvalues.max())
        least = max(1e-9 * top, float(eigenvalues[eigenvalues > 0].min()))
        edges = np.geomspace(least, top, 41)
        for ax, at in zip(axes[:, column], np.geomspace(t[1], t[-1], rows), strict=True):
            i = 1 + int(np.argmin(np.abs(np.log(t[1:] / at))))
            ax.hist(np.clip(eigenvalues[i], edges[0], None), edges, color=plotting.CATEGORIES[0])
            ax.axvline(steps.widest_gap(eigenvalues[i]).threshold, **plotting.THEORY)
            ax.set_xscale("log")
            ax.yaxis.set_major_locator(MaxNLocator(3, integer=True))
            ax.set_title(f"$t$ = {t[i]:.3g}", loc="right", fontsize=7, pad=2)
        title = LABELS[method] + _curves.seed_shown(config.seeds)
        axes[0, column].set_title(title, loc="left", fontsize=8)
        axes[-1, column].set_xlabel("eigenvalue")
    axes[rows // 2, 0].set_ylabel("number of eigenvalues")
    return fig


def _spectra(
    config: Config, method: Any, seed: int, arrays: Arrays
) -> tuple[np.ndarray, np.ndarray]:
    """Effective times, and the eigenvalues that Appendix D.4 looks at."""
    one = _training.run_of(arrays, f"{method}/{seed}")
    return one["record_t"], one[config.recipes.of(method).measured]


def check(config: Config, arrays: Arrays) -> list[claims.Claim]:
    """For each method, over all seeds: two bands, none at the start, more in the upper one."""
    out: list[claims.Claim] = []
    for method in config.methods:
        of_seed = [_spectra(config, method, seed, arrays) for seed in config.seeds]
        out += _claims_of(LABELS[method], of_seed)
    return out


def _claims_of(name: str, of_seed: list[tuple[np.ndarray, np.ndarray]]) -> list[claims.Claim]:
    """The claims about one method's runs."""
    bimodal, start, order = [], [], []
    for t, eigenvalues in of_seed:
        for fraction in FRACTIONS:
            row = eigenvalues[int(np.argmin(np.abs(t - fraction * t[-1])))]
            bimodal.append(_one_mode(row))
        start.append(_one_mode(eigenvalues[0]))
        # Of eigenvalues: `spectrum.effective_rank` is of the embeddings' singular values.
        shares = np.maximum(eigenvalues[1:], 0) / np.maximum(eigenvalues[1:], 0).sum(1)[:, None]
        rank = np.exp(-np.sum(scipy.special.xlogy(shares, shares), axis=1))
        order.append(_curves.rank_correlation(np.arange(len(rank)), rank))
    when = ", ".join(f"{fraction:.0%}" for fraction in FRACTIONS)
    return [
        claims.below(
            f"{name}: a spectrum of one mode is rejected (dip test of log eigenvalues at {when} of "
            f"the time, Bonferroni's p over them and all seeds)",
            "Fig. 4",
            measured=_bonferroni(bimodal),
            tolerance=0.05,
        ),
        claims.above(
            f"{name}: at the start, before training, it is not (the same, over all seeds)",
            "Fig. 3",
            expected=0.05,
            measured=_bonferroni(start),
        ),
        claims.above(
            f"{name}: eigenvalues move up one after the other: rank correlation of their entropy "
            f"rank, which knows no scale, with time, the smallest of all seeds",
            "Fig. 3",
            expected=0.8,
            measured=float(np.min(order)),
        ),
    ]


def _one_mode(row: np.ndarray) -> float:
    """The dip test's p-value of a spectrum's logarithms."""
    # Below the most negative eigenvalue's size there is only noise.
    signal = row[row > max(1e-9 * row[0], -row[-1])]
    return 1.0 if len(signal) < 4 else steps.bimodality_test(np.log(signal)).p_value


def _bonferroni(p_values: list[float]) -> float:
    """Of several tests, of which any may be the one that rejects."""
    return min(1.0, len(p_values) * min(p_values))


_SMALL = resnet_small_init.PAPER.recipes
_STANDARD: Any = {"init_scale": 1.0, "zero_init_residual": True}
PAPER = Config(
    **_training.shared(resnet_small_init.PAPER),
    recipes=Recipes(
        barlow_twins=replace(
            _SMALL.barlow_twins, off_diagonal=0.0051, batch_norm=True, **_STANDARD
        ),
        simclr=replace(_SMALL.simclr, learning_rate=0.5, **_STANDARD),
        vicreg=replace(_SMALL.vicreg, learning_rate=0.5, **_STANDARD),
    ),
)

EXPERIMENT = Experiment(
    "resnet_standard",
    __doc__ or "",
    {"cpu": Config(), "paper": PAPER},
    run,
    plot,
    check,
    trains=True,
)

if __name__ == "__main__":
    command(EXPERIMENT)
