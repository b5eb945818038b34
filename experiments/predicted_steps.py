r"""When the network's own NTK says that dimensions will be learned, against when they are.

    make predicted_steps    or    python -m experiments.predicted_steps

The paper leaves theory curves out of its ResNets' figures, as predictions from the initial NTK
are poor. Here is how poor, and from when on they are good: at a dozen moments of the run of
Figure 1 (C, D) the empirical NTK (Appendix D.5) of the fixed pairs is computed, batch norm's
statistics held at those of the pairs, and the linear dynamics with that kernel are followed from
the embeddings of that moment on, by gradient descent, until the run's end. (A): predicted against
measured times of all dimensions, from the initial network and from later ones. (B): how far off
the wait for the next dimension is, at each moment, by the kernel of all outputs alike, by that of
the directions of the embedding that are not learned yet, and by no kernel: one constant wait, the
best in hindsight. (C): eigenvalues of the kernel of all outputs. Preset cpu, three seeds: two to
five minutes on two cores beyond the runs themselves, which are shared.
"""

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal, NamedTuple

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
    seeds: tuple[int, ...] = resnet_small_init.SEEDS
    """One run of each: a claim about trained networks is over seeds."""
    barlow_twins: BarlowTwins = resnet_small_init.CPU.barlow_twins
    """How it is trained."""
    num_pairs: int = 256
    """Pairs of the kernel; the first of the fixed ones."""
    kernel: Literal["scalar", "trace"] = "scalar"
    """NTK of the mean output, as in Appendix D.5; or the mean over outputs, in d times the time."""


# Of which outputs the kernel is: of all alike, or of those directions that are not learned yet.
OUTPUTS = ("all", "unlearned")
COLORS = (*plotting.CATEGORIES[:2], "0.6")


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


class _Waits(NamedTuple):
    """Of each snapshot: its time, and the wait for the next dimension; inf if by the end of none.

    Predictions end with the run: an infinite one is of a wait that is longer than `left`.
    """

    at: np.ndarray
    left: np.ndarray
    predicted: np.ndarray
    measured: np.ndarray


def _waits(arrays: Arrays, seed: int, which: str) -> _Waits:
    """Of the snapshots of one run but for the last."""
    at = arrays[f"{seed}/snapshot_t"]
    rows = [arrays[f"{seed}/measured"]] * len(at), arrays[f"{seed}/{which}/predicted"]
    measured, predicted = (
        np.array([np.min(row[row > t], initial=np.inf) for row, t in zip(part, at, strict=True)])
        for part in rows
    )
    left = arrays[f"{seed}/record_t"][-1] - at
    found = _Waits(at, left, predicted - at, measured - at)
    return _Waits(*(part[left > 0] for part in found))


def _most(predicted: Any, waits: _Waits) -> np.ndarray:
    """|log(predicted / measured)| at its worst: infinite where one of them only came by the end.

    Where neither did there is nothing to be scored.
    """
    predicted = np.broadcast_to(predicted, waits.measured.shape)
    came = np.isfinite(waits.measured)
    errors = np.full(len(came), np.inf)
    errors[came] = np.abs(np.log(predicted[came] / waits.measured[came]))
    return errors[came | (predicted <= waits.left)]


def _least(waits: _Waits) -> np.ndarray:
    """The same at its best: what did not come may come at the end."""
    predicted, measured = (np.minimum(part, waits.left) for part in waits[2:])
    return np.abs(np.log(predicted / measured))


def _later(waits: _Waits) -> _Waits:
    """Of the later half of the snapshots."""
    return _Waits(*(part[len(waits.at) // 2 :] for part in waits))


def _factor(errors: np.ndarray) -> float:
    """The median, as a factor; NaN if there are none."""
    return float(np.exp(np.median(errors))) if len(errors) else float("nan")


def best_constant(every: list[_Waits]) -> float:
    """The wait that, predicted always, is least off in the median, mean over runs: in hindsight."""
    measured = np.concatenate([waits.measured for waits in every])
    measured = measured[np.isfinite(measured)]
    if not len(measured):
        return float("nan")
    # To beyond every end: what is never due is not wrong where nothing comes.
    longest = 1.01 * max(measured.max(), *(waits.left.max(initial=0) for waits in every))
    tried = np.concatenate([measured, np.geomspace(measured.min(), longest, 500)])
    known = [waits for waits in every if np.isfinite(waits.measured).any()]
    scores = [np.mean([np.log(_factor(_most(wait, waits))) for waits in known]) for wait in tried]
    return float(tried[np.argmin(scores)])


def plot(config: Config, arrays: Arrays) -> Any:
    """Predicted against measured, the next wait, and the kernel's eigenvalues."""
    import matplotlib.pyplot as plt

    fig, (ax_all, ax_next, ax_modes) = plt.subplots(1, 3, figsize=(7.0, 2.5))
    seed = config.seeds[0]
    measured, times = arrays[f"{seed}/measured"], arrays[f"{seed}/snapshot_t"]
    learned = np.isfinite(measured)
    chosen = np.unique(np.linspace(0, len(times) - 2, 4).round().astype(int))
    markers = "osD^"  # of moments, and of what predicts
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
    every = {which: [_waits(arrays, other, which) for other in config.seeds] for which in OUTPUTS}
    constant = best_constant([_later(waits) for waits in every["unlearned"]])
    looks: list[tuple[str, str, float | None]]
    looks = [(f"NTK of {which} outputs", which, None) for which in OUTPUTS]
    looks += [(f"always {constant:.2g}", "unlearned", constant)]
    for (name, which, wait), color, marker in zip(looks, COLORS, markers, strict=False):
        for k, waits in enumerate(every[which]):
            predicted = waits.predicted if wait is None else np.full(len(waits.at), wait)
            # Only what is due and has come by the end of the run has a place here.
            both = np.isfinite(predicted) & np.isfinite(waits.measured)
            ratio = np.full(len(waits.at), np.nan)
            np.divide(predicted, waits.measured, out=ratio, where=both)
            style: Any = {"markersize": 4, "color": color, "label": None if k else name}
            ax_next.semilogy(ratio, marker + "-", **style)
    at = every["unlearned"][0].at
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
    """How poor the initial NTK is, and whether later ones are better than a constant wait."""
    initial, growth = [], []
    for seed in config.seeds:
        measured, predicted = arrays[f"{seed}/measured"], arrays[f"{seed}/all/predicted"][0]
        end = arrays[f"{seed}/record_t"][-1]
        there = np.isfinite(measured) | (predicted <= end)
        # What is not due, or does not come, by the end of the run may be so then, at the least.
        ratios = np.minimum(predicted, end)[there] / np.minimum(measured, end)[there]
        initial.append(_factor(np.abs(np.log(ratios))))
        gammas = arrays[f"{seed}/all/gammas"]
        growth.append(float(np.log2(np.median(gammas[-1] / gammas[0]))))
    every, unlearned = (
        [_later(_waits(arrays, seed, which)) for seed in config.seeds] for which in OUTPUTS
    )
    constant = best_constant(unlearned)
    by_kernel = [_factor(_most(waits.predicted, waits)) for waits in unlearned]
    by_constant = [_factor(_most(constant, waits)) for waits in unlearned]
    return [
        claims.over_seeds(
            "step times predicted by the initial NTK are poor: off by a factor of at least 1.5 in "
            "the median, which is two to the power",
            "Section 6",
            ">=",
            expected=float(np.log2(1.5)),
            measured=np.log2(initial).tolist(),
        ),
        claims.over_seeds(
            "the wait for the next dimension by the NTK of the moment, of the outputs not learned "
            "yet, in the later half of the snapshots: off by a factor of at most 2 in the median, "
            "which is two to the power",
            "beyond the paper",
            "<=",
            expected=1.0,
            measured=np.log2(by_kernel).tolist(),
        ),
        claims.over_seeds(
            f"and by less than one constant wait is, the best in hindsight, {constant:.2g} (off by "
            f"{np.mean(by_constant):.2f}): factor over factor, as a power of two",
            "beyond the paper",
            "<=",
            measured=(np.log2(by_kernel) - np.log2(by_constant)).tolist(),
        ),
        claims.over_seeds(
            "by the NTK of all outputs alike: off by more, a factor of at least 2, which is two to "
            "the power",
            "beyond the paper",
            ">=",
            expected=1.0,
            measured=np.log2([_factor(_least(waits)) for waits in every]).tolist(),
        ),
        claims.over_seeds(
            "why: the kernel grows while it learns; how many times its eigenvalues double from the "
            "start to the end, median over modes",
            "beyond the paper",
            ">=",
            expected=1.0,
            measured=growth,
        ),
    ]


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
