r"""Figure 7: how well labels are read off hidden representations, all through training.

    make fig7    or    python -m experiments.probe_accuracy

The runs of Figures 2 and 5 (small initialisation) and of Figure 3 (standard): the accuracy of a
linear probe of the hidden representations on held-out labelled images, against training's steps,
and, for small initialisation, against the number of dimensions learned. The probe is ridge
regression in closed form, its penalty chosen by leave-one-out on the training split. Bands are the
range over seeds; dashed is the untrained network of each kind, at step 0, and dotted what the most
frequent label scores. Expected: the accuracy ends above the untrained network's and rises when
dimensions are learned, and small initialisation ends within a few points of standard. Two curves
that drift upward are no evidence: that the accuracy rises *at the steps* is tested against its
growth anywhere else between their neighbours. On photographs the labels are the ten scenes. Claims
are about the mean over seeds, and one seed decides nothing. Preset cpu: three seeds, 20 s to 2
minutes beyond the runs, which it shares.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from experiments import _curves, _training, resnet_small_init, resnet_standard
from experiments._images import labelled
from experiments._recipes import LABELS, Recipes
from experiments._run import Arrays, Experiment, command
from sslstep import claims, plotting
from sslstep.measure import probe

SETS = ("small", "standard")
UNTRAINED: dict[str, Any] = {"linestyle": "--", "linewidth": 0.7}
CHANCE: dict[str, Any] = {"color": "0.5", "linestyle": ":", "linewidth": 0.7}


@dataclass(frozen=True)
class Config(_training.Config):
    """Settings; each is one option of the command."""

    seeds: tuple[int, ...] = resnet_small_init.SEEDS
    """Seeds of images, views and initial parameters; each is a run of its own."""
    small: Recipes = resnet_small_init.CPU
    """How each method is trained from small initialisation."""
    standard: Recipes = resnet_standard.CPU
    """How each method is trained from standard initialisation."""

    def recipes(self, name: str) -> Recipes:
        """Of one of the two sets."""
        found: Recipes = getattr(self, name)
        return found


def run(config: Config, runs: Path) -> Arrays:
    """Both sets of runs, with the accuracy along each."""
    if not config.num_labelled:
        raise ValueError("num_labelled = 0: probes need labelled images.")
    # Both, before anything is trained.
    _, test = (
        labelled(config.data, split, config.data_dir, config.size) for split in ("train", "test")
    )
    labels = test.labels[: config.num_labelled]
    arrays: Arrays = {
        "num_test": np.asarray(len(labels)),
        "chance": np.asarray(np.bincount(labels).max() / len(labels)),
    }
    for name in SETS:
        made = _training.fit_all(config, config.recipes(name), runs, f"{name} init:")
        arrays |= {f"{name}/{key}": value for key, value in made.items()}
    return arrays


def plot(config: Config, arrays: Arrays) -> Any:
    """Accuracy along training, a panel for each method, and against learned dimensions."""
    import matplotlib.pyplot as plt
    from matplotlib.ticker import MaxNLocator

    columns = len(config.methods)
    fig, axes = plt.subplots(
        2, columns, figsize=(0.4 + 2.2 * columns, 3.9), squeeze=False, sharey=True
    )
    styles = {"small": "-", "standard": (0, (1, 1))}
    for column, method in enumerate(config.methods):
        ax, ax_dims = axes[:, column]
        for name, color in zip(SETS, plotting.CATEGORIES, strict=False):
            of_seed = _of_seed(config, name, method, arrays)
            step = of_seed[0]["step"]
            along = 100 * np.stack([one["accuracy"] for one in of_seed])
            line = {"color": color, "linestyle": styles[name], "label": f"{name} initialisation"}
            ax.plot(step, along.mean(axis=0), **line)
            ax.fill_between(step, along.min(axis=0), along.max(axis=0), color=color, alpha=0.2)
            untrained = f"untrained, {name}"
            ax.axhline(along[:, 0].mean(), color=color, **UNTRAINED, label=untrained)
            if name == "small":
                ax_dims.axhline(along[:, 0].mean(), color=color, **UNTRAINED)
        recipe = config.small.of(method)
        for one in _of_seed(config, "small", method, arrays):
            learned = _curves.learned_along(recipe, one)
            dims = np.unique(learned)
            means = [100 * one["accuracy"][learned == k].mean() for k in dims]
            ax_dims.plot(dims, means, "o-", color=plotting.CATEGORIES[0], markersize=3)
        for each in (ax, ax_dims):
            each.axhline(100 * float(arrays["chance"]), **CHANCE, label="most frequent label")
        ax.set_xscale("symlog", linthresh=10)
        ax.set_title(LABELS[method], fontsize=8)
        ax.set_xlabel("step")
        ax_dims.xaxis.set_major_locator(MaxNLocator(integer=True))
        ax_dims.set_xlabel("dimensions learned")
    for row in axes:
        row[0].set_ylabel("probe accuracy (%)")
    fig.legend(*axes[0, 0].get_legend_handles_labels(), loc="outside lower center", ncols=3)
    plotting.label_panels(list(axes.ravel()))
    return fig


def check(config: Config, arrays: Arrays) -> list[claims.Claim]:
    """What training adds to chance and to no training, when, and small against standard."""
    out: list[claims.Claim] = []
    chance = float(arrays["chance"])
    for method in config.methods:
        runs = {name: _of_seed(config, name, method, arrays) for name in SETS}
        last, first = (
            {name: np.array([one["accuracy"][at] for one in runs[name]], float) for name in SETS}
            for at in (-1, 0)
        )
        # The test images are the same for all seeds: what their choice adds no seed shows.
        error = float(probe.standard_error(last["standard"].mean(), int(arrays["num_test"])))
        recipe = config.small.of(method)
        timing = [_curves.timing(recipe, one, one["accuracy"]) for one in runs["small"]]
        label = LABELS[method]
        out += [
            claims.over_seeds(
                f"{label}: small initialisation ends within a few points of standard: by how much "
                f"its accuracy is lower (binomial standard error {error:.3f})",
                "App. D.3, Fig. 7",
                "<=",
                measured=(last["standard"] - last["small"]).tolist(),
                tolerance=0.05,
            ),
            claims.over_seeds(
                f"{label}: the untrained network of small initialisation beats the most frequent "
                f"label, which scores {chance:.3f}, by two binomial standard errors: its accuracy",
                "beyond the paper",
                ">=",
                expected=chance + 2 * error,
                measured=first["small"].tolist(),
            ),
            *(
                claims.over_seeds(
                    f"{label}: training adds to it, from {name} initialisation, two binomial "
                    f"standard errors: the accuracy at the end less the untrained network's, which "
                    f"is {first[name].mean():.3f}",
                    "App. D.3, Fig. 7",
                    ">=",
                    expected=2 * error,
                    measured=(last[name] - first[name]).tolist(),
                )
                for name in SETS
            ),
            claims.over_seeds(
                f"{label}: accuracy rises when dimensions are learned: the share of all places "
                f"between its neighbours at which it grows less than during a rise (by chance: "
                f"0.5)",
                "beyond the paper",
                ">=",
                expected=0.5,
                measured=[test.statistic for test in timing],
            ),
        ]
    return out


def _of_seed(config: Config, name: str, method: Any, arrays: Arrays) -> list[Arrays]:
    """The runs of one method in one set."""
    return [_training.run_of(arrays, f"{name}/{method}/{seed}") for seed in config.seeds]


PAPER = Config(
    **_training.shared(resnet_small_init.PAPER),
    small=resnet_small_init.PAPER.recipes,
    standard=resnet_standard.PAPER.recipes,
)

EXPERIMENT = Experiment(
    "probe_accuracy",
    __doc__ or "",
    {"cpu": Config(), "paper": PAPER},
    run,
    plot,
    check,
    trains=True,
)

if __name__ == "__main__":
    command(EXPERIMENT)
