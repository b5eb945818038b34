r"""When the network's own NTK says that dimensions will be learned, against when they are.

    make predicted_steps    or    python -m experiments.predicted_steps

The paper leaves theory curves out of its ResNets' figures, as predictions from the initial NTK
are poor. Here is how poor, and from when on they are good: at a dozen moments of the run of
Figure 1 (C, D) the empirical NTK (Appendix D.5) of the fixed pairs is computed, batch norm's
statistics held at those of the pairs, and the linear dynamics with that kernel are followed from
the embeddings of that moment on, by gradient descent, until the run's end. (A): predicted against
measured times of all dimensions, from the initial network and from later ones. (B): how far off
the wait for the next dimension is, at each moment, by the kernel of all outputs alike, and by
that of the directions of the embedding that are not learned yet. (C): eigenvalues of the kernel
of all outputs. Preset cpu: a minute or two on two cores beyond the run itself, which is shared.
"""

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

import jax
import jax.numpy as jnp
import numpy as np
import tyro
from jax.tree_util import Partial

from experiments import _curves, _prediction, _training, resnet_small_init
from experiments._recipes import BarlowTwins
from experiments._require import require
from experiments._run import Arrays, Experiment, command
from sslstep import claims, kernel_pca, linear, plotting, simulate
from sslstep.measure import spectrum
from sslstep.ntk import empirical


@dataclass(frozen=True)
class Config(_training.Config):
    """Settings; each is one option of the command."""

    methods: tyro.conf.Suppress[tuple[Any, ...]] = ("barlow_twins",)
    """Only Barlow Twins: the theory is of its loss. No option."""
    barlow_twins: BarlowTwins = resnet_small_init.CPU.barlow_twins
    """How it is trained."""
    num_pairs: int = 256
    """Pairs of the kernel; the first of the fixed ones."""
    kernel: Literal["scalar", "trace"] = "scalar"
    """NTK of the mean output, as in Appendix D.5; or the mean over outputs, in d times the time."""


# Of which outputs the kernel is: of all alike, or of those directions that are not learned yet.
OUTPUTS = ("all", "unlearned")


def run(config: Config, runs: Path) -> Arrays:
    """The run, and what each of its snapshots' NTK makes of the rest of it."""
    recipe = config.barlow_twins
    _training.require_valid(config, [("barlow_twins", recipe)])
    if recipe.optimizer != "sgd" or recipe.momentum or recipe.schedule != "constant":
        raise ValueError(
            "the theory is of plain gradient descent: optimizer must be sgd, momentum 0, schedule "
            f"constant, got {recipe.optimizer}, {recipe.momentum}, {recipe.schedule}."
        )
    if recipe.off_diagonal != 1 or recipe.batch_norm or not recipe.symmetrise:
        raise ValueError(
            "the theory is of Eq. 1: off_diagonal must be 1, without batch_norm, with symmetrise."
        )
    require(config, at_least={"num_snapshots": 2})
    _training.require_pairs(config, "num_pairs", recipe.dim)
    arrays: Arrays = {}
    for seed in config.seeds:
        trained = _training.fit(config, "barlow_twins", recipe, seed, runs, name="predicted steps:")
        setup = _training.prepare(config, recipe, seed)
        states = _training.snapshots(trained.folder, setup.state)
        t = trained.arrays["t"]
        times = np.concatenate([[0.0], t])[[int(state.step) for state in states]]
        arrays |= {
            f"{seed}/snapshot_t": times,
            f"{seed}/measured": _curves.count(recipe, trained.arrays).rises.middle,
            f"{seed}/record_t": trained.arrays["record_t"],
        }
        x = jnp.concatenate([setup.x[: config.num_pairs], setup.x_prime[: config.num_pairs]])
        apply_fn = _along_directions(setup.model)
        found = [
            _predict(config, setup.model, apply_fn, state, x, t[-1] - time)
            for state, time in zip(states, times, strict=True)
        ]
        for which in OUTPUTS:
            gammas, waits = (
                np.stack(part) for part in zip(*(one[which] for one in found), strict=True)
            )
            arrays[f"{seed}/{which}/gammas"] = gammas
            arrays[f"{seed}/{which}/predicted"] = times[:, None] + waits
    return arrays


def _predict(
    config: Config, model: Any, apply_fn: Any, state: Any, x: jax.Array, span: float
) -> dict[str, tuple[np.ndarray, np.ndarray]]:
    """Of OUTPUTS each: γ_j of one network's NTK, and how long each dimension takes by it alone."""
    batch_stats = _training.settled(model, state.params, state.batch_stats, x)
    directions = {"all": jnp.eye(config.barlow_twins.dim)}
    initial = apply_fn(directions["all"], batch_stats, state.params, x)
    values, vectors = jnp.linalg.eigh(linear.cross_correlation(*jnp.split(initial, 2)))
    # Eigenvectors of C; where all are learned there is nothing to leave out.
    unlearned = vectors * (values < 0.5)[None, :]
    directions["unlearned"] = unlearned if bool((values < 0.5).any()) else directions["all"]
    out = {}
    for which in OUTPUTS:
        bound = Partial(apply_fn, directions[which], batch_stats)
        kernel = empirical.ntk(bound, state.params, x, kind=config.kernel)
        # A mean over all d outputs, of which those left out are 0.
        number = float(jnp.sum(directions[which] ** 2))
        out[which] = _follow(config, kernel * (len(values) / number), initial, span)
    return out


def _follow(
    config: Config, kernel: jax.Array, initial: jax.Array, span: float
) -> tuple[np.ndarray, np.ndarray]:
    """γ_j of a kernel, and when gradient descent with it learns each dimension within a span."""
    recipe = config.barlow_twins
    with jax.enable_x64(True):
        kernel, initial = (jnp.asarray(np.asarray(a), jnp.float64) for a in (kernel, initial))
        gammas = kernel_pca.contrastive_modes(kernel, recipe.dim, solver="dense").eigenvalues
        _, inverse, modes = _prediction.features_of(kernel, jnp.float32)
        rate = min(recipe.learning_rate, 0.5 * float(linear.max_learning_rate(modes.eigenvalues)))
        every = max(1, int(span / rate) // 1000)
        num_steps = every * max(1, int(np.ceil(span / rate / every)))
        descent = simulate.gradient_descent(initial.T @ inverse, modes, rate, num_steps, every)
        waits = spectrum.step_times(descent.times, descent.eigenvalues)
    return np.asarray(gammas), np.asarray(waits)


def _along_directions(model: Any) -> Any:
    """The embedding along some directions, with batch norm's statistics, given both.

    One function for all networks of a run, so that its NTK is compiled once.
    """

    def apply_fn(directions: jax.Array, batch_stats: Any, params: Any, x: jax.Array) -> jax.Array:
        return _training.evaluated(model, params, batch_stats, x).z @ directions

    return apply_fn


def _next_wait(arrays: Arrays, seed: int, which: str) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """At each snapshot before the last step: its time, the next wait predicted, and measured."""
    measured = np.sort(arrays[f"{seed}/measured"])
    rows = []
    for time, predicted in zip(
        arrays[f"{seed}/snapshot_t"], arrays[f"{seed}/{which}/predicted"], strict=True
    ):
        later = measured[np.isfinite(measured) & (measured > time)]
        ahead = np.sort(predicted[predicted > time])
        if len(later):
            rows.append((time, (ahead[0] if len(ahead) else np.inf) - time, later[0] - time))
    at, predicted_waits, waits = np.array(rows).reshape(-1, 3).T
    return at, predicted_waits, waits


def plot(config: Config, arrays: Arrays) -> Any:
    """Predicted against measured, the next wait, and the kernel's eigenvalues."""
    import matplotlib.pyplot as plt

    fig, (ax_all, ax_next, ax_modes) = plt.subplots(1, 3, figsize=(7.0, 2.5))
    seed = config.seeds[0]
    measured, times = arrays[f"{seed}/measured"], arrays[f"{seed}/snapshot_t"]
    learned = np.isfinite(measured)
    chosen = np.unique(np.linspace(0, len(times) - 2, 4).round().astype(int))
    markers = "osD^"
    predicted = arrays[f"{seed}/unlearned/predicted"]
    for i, color, marker in zip(chosen, plotting.mode_colors(len(chosen)), markers, strict=False):
        # Dimensions that the network has learned already are no prediction.
        shown = learned & (measured > times[i]) & np.isfinite(predicted[i])
        label = f"from t = {times[i]:.2g}"
        ax_all.loglog(
            measured[shown], predicted[i][shown], marker, color=color, markersize=4, label=label
        )
    if learned.any():
        span = [measured[learned].min() / 2, 2 * measured[learned].max()]
        ax_all.plot(span, span, **plotting.THEORY)
    ax_all.set_xlabel("measured step time")
    ax_all.set_ylabel("predicted step time")
    ax_all.legend()
    for which, color, marker in zip(OUTPUTS, plotting.CATEGORIES, markers, strict=False):
        for other in config.seeds:
            at, waits, waited = _next_wait(arrays, other, which)
            name = f"NTK of {which} outputs" if other == seed else None
            ax_next.semilogy(waits / waited, marker + "-", markersize=4, color=color, label=name)
    ax_next.axhline(1.0, **plotting.THEORY)
    ax_next.set_xticks(np.arange(len(at)), [f"{time:.2g}" for time in at], rotation=60)
    ax_next.set_xlabel("from the network at $t$")
    ax_next.set_ylabel("next wait, predicted / measured")
    ax_next.set_ylim(bottom=ax_next.get_ylim()[0] / 10)
    ax_next.legend(loc="lower left")
    gammas = arrays[f"{seed}/all/gammas"]
    for j, color in enumerate(plotting.mode_colors(gammas.shape[1])):
        ax_modes.plot(np.maximum(times, times[1] / 3), gammas[:, j], ".-", color=color)
    ax_modes.set_xscale("log")
    ax_modes.set_yscale("log")
    ax_modes.set_xlabel("effective time $t$")
    ax_modes.set_ylabel(r"eigenvalues $\gamma_j$ of the NTK")
    shown = _curves.seed_shown(config.seeds).removeprefix(", ")
    for ax, which in ((ax_all, shown), (ax_next, "all seeds" if shown else ""), (ax_modes, shown)):
        ax.set_title(which, fontsize=8)
    plotting.label_panels([ax_all, ax_next, ax_modes])
    return fig


def check(config: Config, arrays: Arrays) -> list[claims.Claim]:
    """How poor the initial NTK is, and how good later ones are."""
    initial, growth = [], []
    later: dict[str, list[float]] = {which: [] for which in OUTPUTS}
    for seed in config.seeds:
        measured, predicted = arrays[f"{seed}/measured"], arrays[f"{seed}/all/predicted"][0]
        learned = np.isfinite(measured)
        # What is not due by the end of the run is off by what is left of it, at the least.
        predicted = np.minimum(predicted, arrays[f"{seed}/record_t"][-1])
        errors = np.abs(np.log(predicted[learned] / measured[learned]))
        initial.append(float(np.median(errors)) if learned.any() else np.nan)
        for which, errors_of in later.items():
            _, ahead, waited = _next_wait(arrays, seed, which)
            half = len(ahead) // 2
            errors_of += list(np.abs(np.log(ahead[half:] / waited[half:])))  # infinite: never due
        gammas = arrays[f"{seed}/all/gammas"]
        growth.append(float(np.median(gammas[-1] / gammas[0])))
    return [
        claims.above(
            "step times predicted by the initial NTK are poor: off by at least this factor in the "
            "median",
            "Section 6",
            expected=1.5,
            measured=float(np.exp(np.mean(initial))),
        ),
        claims.below(
            "the wait for the next dimension by the NTK of the moment, of the outputs not learned "
            "yet, in the later half of the snapshots: off by at most this factor in the median",
            "beyond the paper",
            expected=1.0,
            measured=_median_factor(later["unlearned"]),
            tolerance=1.0,
        ),
        claims.above(
            "by the NTK of all outputs alike: off by more, at least this factor",
            "beyond the paper",
            expected=2.0,
            measured=_median_factor(later["all"]),
        ),
        claims.above(
            "why: the kernel grows while it learns; its eigenvalues at the end over the initial "
            "ones, median over modes",
            "beyond the paper",
            expected=2.0,
            measured=float(np.mean(growth)),
        ),
    ]


def _median_factor(errors: list[float]) -> float:
    """From absolute logarithms of ratios; NaN if there are none."""
    return float(np.exp(np.median(errors))) if errors else float("nan")


PAPER = Config(
    **{**_training.shared(resnet_small_init.PAPER), "methods": ("barlow_twins",)},
    # Appendix D.2 but for what the theory is not of: plain gradient descent, C symmetrised, and no
    # more dimensions than a batch can tell apart.
    barlow_twins=replace(
        resnet_small_init.PAPER.recipes.barlow_twins,
        dim=16,
        optimizer="sgd",
        bias_learning_rate=None,
        momentum=0.0,
        weight_decay=0.0,
        schedule="constant",
        warmup_steps=0,
        symmetrise=True,
    ),
    num_pairs=1024,
)

EXPERIMENT = Experiment(
    "predicted_steps",
    __doc__ or "",
    {"cpu": Config(), "paper": PAPER},
    run,
    plot,
    check,
    trains=True,
)

if __name__ == "__main__":
    command(EXPERIMENT)
