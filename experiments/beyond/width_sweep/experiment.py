r"""How finite networks approach the infinite-width prediction as they widen (Section 5).

    make width_sweep    or    python -m experiments run width_sweep

ReLU networks of widths 64 to 8192, in the NTK and the standard parameterisation, are trained by
full-batch gradient descent on the simplified Barlow Twins loss. Each is compared with gradient
descent of its infinite-width kernel from the same initial embeddings: the final embeddings of the
training pairs and of held-out ones (A), the eigenvalues of C (B, D, E), and step times (C).
Expected: every distance falls like width^-1/2. Two to four minutes on two cores.

The difference of a network's NTK from its limit is a mean over independent units, O(width^-1/2),
and training adds O(1 / width). A network's NTK couples the outputs, and learning one mode changes
the others by O(width^-1/2). The rate therefore holds if width^-1/2 is small compared with α, the
size of the initial embeddings, and with the inverse number of e-foldings of a mode: here α is 0.1.
The prediction is gradient descent of the kernel from the network's initial embeddings, which is
exact for every α and learning rate. Result 4.6 has an error of its own, of order α^β (F).

Most of a network's initial output is subtracted, which makes the initial embeddings small and
leaves the kernel unchanged (sslstep.nn.centred). Presets differ in the data and the widest network.

With `--loss simclr` or `--loss vicreg` networks and kernel are trained on that loss, for 600 steps
at a learning rate that is stable from such a start. Eigenvalues are divided by those that are
predicted for the end of training.
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any, Literal

import jax
import jax.numpy as jnp
import numpy as np
from tqdm import tqdm

from sslstep import gram, losses, nn
from sslstep.experiment import Arrays, Experiment, networks, prediction
from sslstep.experiment._require import require, require_widths
from sslstep.experiment.image_data import Crops, split_pairs
from sslstep.ntk import infinite

PARAMETERIZATIONS: tuple[Literal["ntk"], Literal["standard"]] = ("ntk", "standard")

#: Loss function, and learning rate relative to simplified Barlow Twins. The rates of VICReg and
#: SimCLR are stable at a small start, where VICReg's variance term and SimCLR have large gradients.
LOSSES: dict[str, tuple[Callable[..., Any], float]] = {
    "barlow_twins": (losses.simplified_barlow_twins, 1.0),
    "simclr": (partial(losses.simclr, temperature=0.5), 0.25),
    "vicreg": (losses.vicreg, 0.05),
}
NUM_STEPS = 600


@dataclass(frozen=True)
class Config(Crops):
    """Settings; each is one option of the command."""

    loss: Literal["barlow_twins", "simclr", "vicreg"] = "barlow_twins"
    """Loss of training: simplified Barlow Twins, or SimCLR or VICReg as published."""
    num_images: int = 50
    """n, the number of positive pairs."""
    num_test: int = 25
    """Number of held-out pairs, from other images."""
    dim: int = 4
    """Embedding dimension d."""
    depth: int = 1
    """Hidden layers of the networks."""
    widths: tuple[int, ...] = (64, 128, 256, 512, 1024, 2048, 4096, 8192)
    """Hidden units in a layer, increasing."""
    fit_from: int = 512
    """Smallest width of the fits of exponents; a second fit uses all widths."""
    num_seeds: int = 8
    """Number of independent networks of each width and parameterisation."""
    init_scale: float = 0.1
    """α: initial embeddings, relative to the plain network's."""
    scales: tuple[float, ...] = (1e-1, 1e-2, 1e-4, 1e-6, 1e-8, 1e-10)
    """α at which the closed form is compared with gradient flow of the kernel, decreasing."""
    weight_std: float = 2**0.5
    """σ_W of the networks, in both parameterisations."""
    step_size: float = 0.2
    """4 η γ_1: the learning rate in units of the limit of slow growth; stable below 1."""
    seed: int = 2
    """Seed of the choice of images, the crops and the networks."""


def run(config: Config) -> Arrays:
    """Train networks of every width, predict each, and return the distances between the two."""
    # A standard error needs two seeds.
    least = {"num_images": 1, "num_test": 1, "dim": 1, "depth": 1, "num_seeds": 2}
    require(config, at_least=least, fraction=("step_size",), at_most_one=("init_scale",))
    require_widths(config.widths, config.fit_from)
    if config.loss not in LOSSES:
        raise ValueError(f"loss must be one of {', '.join(LOSSES)}, got {config.loss!r}.")
    loss_fn, _ = LOSSES[config.loss]
    other = config.loss != "barlow_twins"
    record_at = np.arange(0, NUM_STEPS + 1, 3) if other else None
    key_data, key_networks = jax.random.split(jax.random.key(config.seed))
    numbers = (config.num_images, config.num_test)
    x, x_test = split_pairs(key_data, config.data, *numbers, config.data_dir, config.crop)
    basis = nn.span_basis(x, x_test)
    shape = (len(PARAMETERIZATIONS), len(config.widths), config.num_seeds)
    keys = jax.random.split(key_networks, shape)
    arrays: Arrays = {
        "widths": np.asarray(config.widths),
        "distances": np.zeros((*shape, len(prediction.MEASURES))),
    }
    with tqdm(total=int(np.prod(shape)), unit=" networks", disable=None) as bar:
        for p, w in np.ndindex(shape[:2]):
            parameterization, width = PARAMETERIZATIONS[p], config.widths[w]
            limit = _limit(config, parameterization, width, x, x_test)
            model = nn.MLP(config.dim, width, config.depth, parameterization, config.weight_std)
            functions = networks.functions(model.apply, loss_fn)
            for s in range(config.num_seeds):
                drawn = model.init(keys[p, w, s], x[:1])
                params, *inputs = nn.change_basis(model, basis, drawn, x, x_test)
                made = networks.compared(
                    functions, params, inputs, config.init_scale, limit, record_at
                )
                arrays["distances"][p, w, s] = made.distances
                bar.update()
            if p == 0 and w in (0, len(config.widths) - 1):
                name = "wide" if w else "narrow"
                arrays[f"{name}_t"] = made.times
                arrays[f"{name}_curves"] = made.trained.curves
                arrays[f"{name}_predicted"] = made.predicted.curves
    if not other:
        errors = [
            prediction.closed_form_error(limit, scale / config.init_scale * made.initial[0])
            for scale in config.scales
        ]
        arrays["closed_form"] = np.column_stack([config.scales, np.asarray(errors)])
    return {name: np.asarray(array) for name, array in arrays.items()}


def _limit(config, parameterization, width, x, x_test) -> prediction.Limit:
    kernel_fn = infinite.mlp(
        config.depth, width, parameterization=parameterization, weight_std=config.weight_std
    )
    first, second = jnp.split(x, 2)
    kernel = gram.pairs(kernel_fn, first, second, progress=False)
    k_test_train = gram.to_pairs(kernel_fn, x_test, first, second, progress=False)
    step_size = config.step_size * LOSSES[config.loss][1]
    return prediction.limit(kernel, k_test_train, config.dim, step_size)


PAPER = Config(data="cifar10", widths=tuple(2**k for k in range(6, 17)))

EXPERIMENT = Experiment({"cpu": Config(), "paper": PAPER}, run, minutes=2)
