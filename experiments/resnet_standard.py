r"""Figures 3 and 4: with ordinary settings, eigenvalues still move from one band to another.

    make fig3, make fig4    or    python -m experiments.resnet_standard

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

import numpy as np
import tyro

from experiments import _curves, _training, resnet_small_init
from experiments._recipes import LABELS, BarlowTwins, Recipes, SimCLR, VICReg
from experiments._run import Arrays, Experiment, command
from sslstep import claims, plotting
from sslstep.measure import steps

# Of the effective time, at which spectra are tested.
FRACTIONS = (0.05, 0.2, 0.5)
# At which one band is rejected.
LEVEL = 0.05

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

    seeds: tuple[int, ...] = resnet_small_init.SEEDS
    """Seeds of images, views and initial parameters; each is a run of its own."""
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
        middles = [_threshold(row) for row in eigenvalues[1:]]
        ax.plot(t[1:], middles, **plotting.THEORY, label="between two bands")
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
        later = [np.argmin(np.abs(np.log(t[1:] / at))) for at in np.geomspace(t[1], t[-1], rows)]
        for ax, i in zip(axes[:, column], [0, *(1 + int(k) for k in later[1:])], strict=True):
            ax.hist(np.clip(eigenvalues[i], edges[0], None), edges, color=plotting.CATEGORIES[0])
            ax.axvline(_threshold(eigenvalues[i]), **plotting.THEORY)
            ax.set_xscale("log")
            ax.yaxis.set_major_locator(MaxNLocator(3, integer=True))
            told = f"$t$ = {t[i]:.3g}, $p$ = {_one_mode(eigenvalues[i]):.1g}"
            ax.set_title(told, loc="right", fontsize=7, pad=2)
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
    """The claims about one method's runs, each of the mean over seeds."""
    later, start, order = [], [], []
    for t, eigenvalues in of_seed:
        rows = [eigenvalues[np.argmin(np.abs(t - fraction * t[-1]))] for fraction in FRACTIONS]
        # Bonferroni's: any of the times may be the one that rejects.
        later.append(min(1.0, len(rows) * min(map(_one_mode, rows))))
        start.append(_one_mode(eigenvalues[0]))
        rank = _curves.entropy_rank(eigenvalues[1:])
        order.append(_curves.rank_correlation(np.arange(len(rank)), rank))
    when = ", ".join(f"{fraction:.0%}" for fraction in FRACTIONS)
    level = float(np.log10(LEVEL))
    return [
        claims.over_seeds(
            f"{name}: a spectrum of one band is rejected at {LEVEL:.0%}: decimal logarithm of the "
            f"p-value (dip test of log eigenvalues at {when} of the time, Bonferroni over them)",
            "Fig. 4",
            "<=",
            expected=level,
            measured=np.log10(later).tolist(),
        ),
        claims.over_seeds(
            f"{name}: before training, at t = 0, it is not (the same test of one spectrum)",
            "Fig. 3",
            ">=",
            expected=level,
            measured=np.log10(start).tolist(),
        ),
        claims.over_seeds(
            f"{name}: eigenvalues move up one after the other: rank correlation of their entropy "
            f"rank, which knows no scale, with time",
            "Fig. 3",
            ">=",
            expected=0.8,
            measured=order,
        ),
    ]


def _one_mode(row: np.ndarray) -> float:
    """The dip test's p-value of a spectrum's logarithms."""
    # Below the most negative eigenvalue's size there is only noise.
    signal = row[row > max(1e-9 * row[0], -row[-1])]
    return 1.0 if len(signal) < 4 else steps.bimodality_test(np.log(signal)).p_value


def _threshold(row: np.ndarray) -> float:
    """The middle of the widest gap where a spectrum has two bands, NaN where it may have one."""
    return steps.widest_gap(row).threshold if _one_mode(row) < LEVEL else np.nan


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
