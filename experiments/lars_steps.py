r"""How long plateaus last under LARS: not as 1 / γ.

    make lars_steps    or    python -m experiments.lars_steps

The paper trains Barlow Twins and VICReg with LARS and plots them against learning rate times step,
though its theory is of gradient descent. (A, B): a linear model of prescribed eigenvalues γ_j under
gradient descent and under LARS, both from small initialisation; solid: measured, dashed: predicted,
of LARS by `linear.lars_steps`. (C): the step at which each mode is learned against its γ, from two
initial scales. (D): the ResNet of Figure 1 (C, D) under both: the step at which each dimension is
learned. Expected: gradient descent learns a mode after 1 / γ times a logarithm of the initial
scale; under LARS waits from mode to mode of the linear model become shorter, and the initial scale
moves all modes nearly together. That law ends where γ_1 / γ_j comes near 1 / ρ, ρ being the length
of a step over that of the weights: on a plateau LARS, whose steps are never shorter, then bounces
in the modes that are learned. Of a ResNet, whose own kernel changes, it is what is to be seen, and
one seed decides no claim about it: --seeds 0 1 2. Preset cpu: the linear model in seconds, two
ResNets in 2 to 4 minutes each on two cores, of which the first is that of Figure 1 (C, D), shared.
"""

from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import tyro

from experiments import _curves, _training, predicted_steps, resnet_small_init
from experiments._recipes import BarlowTwins
from experiments._require import require
from experiments._run import Arrays, Experiment, command
from sslstep import claims, linear, optim, plotting
from sslstep.measure import spectrum

LARS = replace(
    resnet_small_init.CPU.barlow_twins,
    optimizer="lars",
    learning_rate=1.0,
    bias_learning_rate=0.01,
    momentum=0.9,
)


@dataclass(frozen=True)
class Config(_training.Config):
    """Settings; each is one option of the command."""

    methods: tyro.conf.Suppress[tuple[Any, ...]] = ("barlow_twins",)
    """Of the ResNets: no option."""
    num_modes: int = 8
    """Modes of the linear model, all of which are learned."""
    exponent: float = 1.5
    """γ_j = j to the power of minus this."""
    scales: tuple[float, ...] = (1e-3, 1e-6)
    """Initial scales α of the linear model."""
    relative_rate: float = 2e-4
    """Length of a step of LARS over that of the weights: its learning rate times its trust."""
    learning_rate: float = 1e-2
    """Learning rate of the linear model's gradient descent."""
    sgd: BarlowTwins = resnet_small_init.CPU.barlow_twins
    """The ResNet under gradient descent: the run of Figure 1 (C, D)."""
    lars: BarlowTwins = LARS
    """The ResNet under LARS, at a constant rate."""


RULES = ("sgd", "lars")
HALVES = ("half", "half_predicted")


def run(config: Config, runs: Path) -> Arrays:
    """The linear model from each scale, and the two ResNets, by both rules."""
    positive = ("relative_rate", "exponent", "scales", "learning_rate")
    require(config, at_least={"num_modes": 2}, positive=positive)
    if len(set(config.scales)) < 2 or len(set(config.scales)) < len(config.scales):
        raise ValueError(f"scales must be two or more, each once, got {config.scales}.")
    recipes: list[Any] = [(rule, getattr(config, rule)) for rule in RULES]
    _training.require_valid(config, recipes)
    gammas = np.arange(1, config.num_modes + 1) ** -config.exponent
    arrays: Arrays = {"gammas": gammas}
    for scale in config.scales:
        for rule, found in _linear_model(config, gammas, scale).items():
            arrays |= {f"{rule}/{scale:g}/{key}": value for key, value in found.items()}
    for seed in config.seeds:
        for rule in RULES:
            recipe = getattr(config, rule)
            run = _training.fit(config, "barlow_twins", recipe, seed, runs, name=f"{rule}:").arrays
            middle = _curves.count(recipe, run).rises.middle
            found = np.interp(middle, run["record_t"], run["step"])
            found[~np.isfinite(middle)] = np.inf
            arrays[f"resnet/{rule}/{seed}"] = found
    return arrays


def _linear_model(config: Config, gammas: np.ndarray, scale: float) -> dict[str, Arrays]:
    """Curves and step counts of one initial scale by both rules, measured and predicted."""
    dim = len(gammas)
    with jax.enable_x64(True):
        matrix = jnp.diag(jnp.asarray(gammas))
        key = jax.random.key(config.seeds[0])
        weights = linear.init_weights(key, dim, dim, scale, dtype=jnp.float64)
        modes = linear.modes(matrix)
        initial = linear.align(weights, modes).singular_values
        t = jnp.geomspace(1e-3, 3 * linear.half_rise_time(gammas[-1], initial[-1]), 20_000)
        curves = np.asarray(linear.mode_eigenvalue(t[:, None], gammas[None], initial[None]))
        lars_at = np.asarray(linear.lars_steps(t, gammas, initial, config.relative_rate))
        sgd_at = np.asarray(t) / config.learning_rate
        out = {}
        rules = {
            "sgd": (optim.sgd(config.learning_rate), sgd_at),
            "lars": (
                optim.lars(
                    1.0,
                    momentum=0.0,
                    weight_decay=0.0,
                    trust_coefficient=config.relative_rate,
                ),
                lars_at,
            ),
        }
        for rule, (optimizer, at) in rules.items():
            half = np.asarray([np.interp(0.5, curve, at) for curve in curves.T])
            steps, measured = _descend(optimizer, weights, matrix, int(1.3 * half[-1]))
            out[rule] = {
                "step": steps,
                "measured": measured,
                "predicted": np.stack([np.interp(steps, at, curve) for curve in curves.T], axis=1),
                "half": np.asarray(spectrum.step_times(steps.astype(float), measured)),
                "half_predicted": half,
            }
        return out


def _descend(
    optimizer: optax.GradientTransformation, weights: Any, matrix: Any, num_steps: int
) -> tuple[np.ndarray, np.ndarray]:
    """Eigenvalues of C at some 2000 steps of a linear model under any optimiser."""
    every = max(1, num_steps // 2000)

    def step(carry: Any, _: Any) -> Any:
        weights, state = carry
        gradient = jax.grad(linear.loss)(weights, matrix)
        updates, state = optimizer.update(gradient, state, weights)
        return (optax.apply_updates(weights, updates), state), None

    def stretch(carry: Any, _: Any) -> Any:
        carry, _ = jax.lax.scan(step, carry, length=every)
        c = carry[0] @ matrix @ carry[0].T
        return carry, jnp.linalg.eigvalsh((c + c.T) / 2)[::-1]

    run = jax.jit(partial(jax.lax.scan, stretch, length=max(2, num_steps // every)))
    _, eigenvalues = run((weights, optimizer.init(weights)))
    return every * np.arange(1, len(eigenvalues) + 1), np.asarray(eigenvalues)


def plot(config: Config, arrays: Arrays) -> Any:
    """Both rules' curves, step against γ, and the ResNets'."""
    import matplotlib.pyplot as plt

    fig, axes = plt.subplots(2, 2, figsize=(6.8, 4.6))
    names = {"sgd": "gradient descent", "lars": "LARS"}
    first = f"{config.scales[0]:g}"
    for ax, rule in zip(axes[0], RULES, strict=True):
        step, measured, predicted = (
            arrays[f"{rule}/{first}/{key}"] for key in ("step", "measured", "predicted")
        )
        plotting.mode_curves(ax, step, measured, predicted)
        ax.set_xlabel(f"step of {names[rule]}")
        ax.set_ylabel(r"eigenvalues of $C$")
        ax.set_ylim(0, 1.15)
    axes[0, 1].legend(loc="upper left")
    ax = axes[1, 0]
    markers = {"sgd": "o", "lars": "s"}
    for rule, color in zip(RULES, plotting.CATEGORIES, strict=False):
        for i, scale in enumerate(config.scales):
            key = f"{rule}/{scale:g}"
            ax.loglog(
                arrays["gammas"],
                arrays[f"{key}/half"],
                markers[rule],
                color=color,
                markersize=4,
                fillstyle="full" if i == 0 else "none",
                label=rf"{names[rule]}, $\alpha$ = {scale:g}",
            )
            predicted = arrays[f"{key}/half_predicted"]
            ax.loglog(arrays["gammas"], predicted, **plotting.THEORY)
    ax.set_xlabel(r"$\gamma_j$")
    ax.set_ylabel("step at which learned")
    ax.set_ylim(bottom=ax.get_ylim()[0] / 10)
    ax.legend(loc="lower left", fontsize=6)
    ax = axes[1, 1]
    for rule, color in zip(RULES, plotting.CATEGORIES, strict=False):
        for seed in config.seeds:
            found = arrays[f"resnet/{rule}/{seed}"]
            found = found[np.isfinite(found)]
            label = f"ResNet, {names[rule]}" if seed == config.seeds[0] else None
            ax.plot(
                np.arange(1, len(found) + 1),
                found,
                markers[rule] + "-",
                color=color,
                markersize=4,
                label=label,
            )
    ax.set_yscale("log")
    ax.set_xlabel("dimension")
    ax.set_ylabel("step at which learned")
    ax.legend()
    plotting.label_panels(list(axes.ravel()))
    return fig


def check(config: Config, arrays: Arrays) -> list[claims.Claim]:
    """The two laws, and that they are two."""
    out = []
    gammas, scales = arrays["gammas"], [f"{scale:g}" for scale in config.scales]
    ratio = config.relative_rate * gammas[0] / gammas[-1]
    of_lars = f", for ρ γ_1 / γ_d = {ratio:.2g}, where the law needs it far below 1"
    waits = {}  # from mode to mode, measured and predicted: the common start drops out
    for rule, name, domain in (("sgd", "gradient descent", ""), ("lars", "LARS", of_lars)):
        errors, slack = [], []
        halves = [np.stack([arrays[f"{rule}/{s}/{key}"] for s in scales]) for key in HALVES]
        waits[rule] = [np.diff(half, axis=1) for half in halves]
        for s in scales:
            half, predicted = arrays[f"{rule}/{s}/half"], arrays[f"{rule}/{s}/half_predicted"]
            errors.append(np.abs(half / predicted - 1))
            # A step multiplies by 1 + x, x = 4γη, where flow does by e^x, and records lie apart;
            # under LARS, what is not aligned at the start adds less than one e-fold to |W|.
            apart = np.diff(arrays[f"{rule}/{s}/step"])[0]
            descent = 2 * gammas * config.learning_rate + apart / predicted
            slack.append(descent if rule == "sgd" else 1 / (config.relative_rate * predicted))
        error, allowed = np.concatenate(errors), np.concatenate(slack)
        worst = int(np.argmax(error - allowed))
        out.append(
            claims.below(
                f"linear model under {name}: steps at which modes are learned, relative error of "
                f"the prediction (of the mode that comes closest to what is allowed){domain}",
                "Eq. 10, 16" if rule == "sgd" else "beyond the paper",
                measured=float(error[worst]),
                tolerance=float(allowed[worst]),
            )
        )
    slope = float(np.polyfit(np.log(gammas), np.log(arrays[f"sgd/{scales[-1]}/half"]), 1)[0])
    measured, predicted = waits["lars"]
    growth = {rule: (of_rule[0][:, -1] / of_rule[0][:, 0]).max() for rule, of_rule in waits.items()}
    out += [
        claims.close(
            "linear model under gradient descent: a mode is learned after 1 / γ; the exponent",
            "Eq. 16",
            expected=-1.0,
            measured=slope,
            # Of log(1/γ s(0)^2), about 2 log(1/α), a part grows as γ falls.
            tolerance=float(1 / np.log(1 / config.scales[-1])),
        ),
        claims.below(
            f"linear model under LARS: waits from mode to mode, largest relative error of the "
            f"prediction{of_lars}",
            "beyond the paper",
            measured=float(np.abs(measured / predicted - 1).max()),
            tolerance=0.02,
        ),
        claims.below(
            "and they do not lengthen as those of gradient descent do: the last over the first, of "
            "both initial scales the larger, over the same under gradient descent",
            "beyond the paper",
            expected=0.5,
            measured=float(growth["lars"] / growth["sgd"]),
            tolerance=0.0,
        ),
    ]
    spans = [
        _span(arrays[f"resnet/lars/{seed}"], arrays[f"resnet/sgd/{seed}"]) for seed in config.seeds
    ]
    out.append(
        claims.over_seeds(
            "ResNet: step times lie closer together under LARS, by a fifth at least: the last over "
            "the first, of the dimensions learned by both rules, over the same under gradient "
            "descent",
            "beyond the paper",
            "<=",
            expected=0.8,
            measured=spans,
        )
    )
    return out


def _span(lars: np.ndarray, sgd: np.ndarray) -> float:
    """Last over first step time, under LARS over under gradient descent; NaN if there are none."""
    common = min(np.isfinite(lars).sum(), np.isfinite(sgd).sum())
    if common < 2:
        return float("nan")
    last_over_first = [np.sort(found)[common - 1] / found.min() for found in (lars, sgd)]
    return float(last_over_first[0] / last_over_first[1])


EXPERIMENT = Experiment(
    "lars_steps",
    __doc__ or "",
    {
        "cpu": Config(),
        "paper": Config(
            **{**_training.shared(resnet_small_init.PAPER), "methods": ("barlow_twins",)},
            sgd=predicted_steps.PAPER.barlow_twins,
            lars=replace(resnet_small_init.PAPER.recipes.barlow_twins, dim=16),
        ),
    },
    run,
    plot,
    check,
    trains=True,
)

if __name__ == "__main__":
    command(EXPERIMENT)
