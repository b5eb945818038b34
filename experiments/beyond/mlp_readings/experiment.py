r"""Readings of "weights are scaled upon initialization by α" (Appendix D.1), compared.

    make mlp_readings    or    python -m experiments run mlp_readings

Figure 2 (A, B) shows a network of one hidden layer that starts at loss d and learns d = 10 modes
within 7000 steps at learning rate 1e-4. As printed, with α = 1e-4 on all parameters, nothing is
learned. This experiment runs `fig2ab` for each reading of the parameters that α scales, of the
pixels' scale, and of the biases. Expected: with the literal reading the loss stays at 10. Two
readings learn ten modes from a small start. In the first, α scales the initial embeddings, and
pixels are standardised, with or without biases. In the second, α scales the last layer, pixels are
in [0, 1], and C is summed over the pairs instead of averaged; its learning rate exceeds the
stability limit of the first mode. Four minutes on two cores. Presets differ in the data: `cpu` uses
the embedded photographs, `paper` CIFAR-10.
"""

import dataclasses
from dataclasses import dataclass
from typing import NamedTuple

import jax
import numpy as np
from tqdm import tqdm

from experiments.fig2ab import reading as fig2ab
from experiments.fig2ab.experiment import learn
from sslstep import dynamics
from sslstep.experiment import Arrays, Experiment
from sslstep.simulate import DivergenceError


class Reading(NamedTuple):
    """A reading: the scaled parameters, the pixels, the biases, and C as a mean or a sum."""

    scaled: fig2ab.Scaled
    pixels: fig2ab.Pixels
    biases: fig2ab.Biases = "both"
    correlation: fig2ab.Correlation = "mean"


READINGS = (
    Reading("all", "standardised"),
    Reading("all", "unit"),
    Reading("all", "bytes"),
    Reading("all", "standardised", "none"),
    Reading("weights", "standardised"),
    Reading("first", "standardised"),
    Reading("first", "unit"),
    Reading("last", "standardised"),
    Reading("last", "unit"),
    Reading("last", "centred"),
    Reading("last", "bytes"),
    Reading("last", "standardised", "none"),
    Reading("last", "standardised", "both", "sum"),
    Reading("last", "unit", "both", "sum"),
    Reading("none", "standardised"),
    Reading("none", "unit"),
    Reading("output", "standardised"),
    Reading("output", "unit"),
    Reading("output", "symmetric"),
    Reading("output", "centred"),
    Reading("output", "standardised", "none"),
)


@dataclass(frozen=True)
class Config(fig2ab.Shared):
    """Settings; each is one option of the command."""


def run(config: Config) -> Arrays:
    """Run each reading; return first and last loss and step times in steps, NaN if it diverges."""
    key_data, key_network, _ = jax.random.split(jax.random.key(config.seed), 3)
    arrays: Arrays = {
        "names": np.array(["_".join(reading) for reading in READINGS]),
        "losses": np.full((len(READINGS), 2), np.nan),
        "steps": np.full((len(READINGS), config.dim), np.nan),
        "predicted_steps": np.full((len(READINGS), config.dim), np.nan),
        "learning_rate_ratios": np.full(len(READINGS), np.inf),
    }
    for i, reading in enumerate(tqdm(READINGS, unit=" readings", disable=None)):
        one = fig2ab.Config(**dataclasses.asdict(config), **reading._asdict())
        x = fig2ab.samples(one, key_data)
        network = fig2ab.initial_network(one, key_network, x)
        try:
            measured, _ = learn(one, network, fig2ab.finite_kernel(network))
        except DivergenceError:
            continue
        arrays["learning_rate_ratios"][i] = one.learning_rate / dynamics.max_learning_rate(
            measured["gammas"]
        )
        arrays["losses"][i] = measured["loss"][[0, -1]]
        arrays["steps"][i] = measured["step_times"] / one.learning_rate
        arrays["predicted_steps"][i] = measured["predicted_step_times"] / one.learning_rate
    return arrays


EXPERIMENT = Experiment(
    {"cpu": Config(), "paper": Config(data="cifar10")}, run, minutes=3, alone=True
)
