r"""How finite networks approach the infinite-width prediction as they widen (Section 5).

    make width_sweep    or    python -m experiments run width_sweep

ReLU networks of widths 64 to 8192, in the NTK and the standard parameterisation, are trained by
full-batch gradient descent on the simplified Barlow Twins loss. Each is compared with gradient
descent of its infinite-width kernel from the same initial embeddings: the final embeddings of the
training pairs and of held-out ones (A), the eigenvalues of C (B, D, E), and step times (C).
Expected: every distance falls like width^-1/2. Two to four minutes on two cores.

Why -1/2. Gradient descent moves the embeddings F of a network by -η Θ ∇L(F), with Θ its NTK at
that moment, and those of the limit by the same with the fixed kernel. To first order, a distance is
linear in their difference. At initialisation that is a mean over independent hidden units less its
expectation, O(width^-1/2); training adds O(1 / width), because to first order a unit's change is
odd in its output weights, which have mean zero.

When it holds. First, the fluctuation has to be small against 1 / (4 γ_j τ_j), the inverse number of
e-foldings in which a mode grows. Second, and harder to meet, against α, the size of the initial
embeddings: the finite network's NTK couples the outputs, so that a mode being learned by one of
them leaves O(width^-1/2) of the others in the rest, and where α is smaller that is what they grow
from. Width and 1 / α do not go to infinity independently: width^-1/2 << α. So α is 0.1 here, and
the prediction is not Result 4.6, whose own error is of order α^β (F), but gradient descent of the
kernel from the network's initial embeddings, exact for every α and learning rate.

Initial embeddings are made small by subtracting most of the network's own, which leaves its kernel
as it is (sslstep.nn.centred). Presets differ in the data and the widest network.
"""

from dataclasses import dataclass
from typing import Literal

import jax
import jax.numpy as jnp
import numpy as np
from tqdm import tqdm

from sslstep import gram, linear, nn
from sslstep.experiment import Arrays, Experiment, networks, prediction
from sslstep.experiment._require import require, require_widths
from sslstep.experiment.image_data import Source, split_pairs
from sslstep.ntk import infinite

PARAMETERIZATIONS: tuple[Literal["ntk"], Literal["standard"]] = ("ntk", "standard")


@dataclass(frozen=True)
class Config:
    """Settings; each is one option of the command."""

    data: Source = "photos"
    """Where the images come from: by name, or a folder of one's own."""
    data_dir: str | None = None
    """Folder of prepared TFDS data, for cifar10 and stl10; TFDS's own default if not given."""
    num_images: int = 50
    """n, the number of positive pairs."""
    num_test: int = 25
    """How many held-out pairs, from other images."""
    crop: int = 20
    """Side of a crop, in pixels."""
    dim: int = 4
    """Embedding dimension d."""
    depth: int = 1
    """Hidden layers of the networks."""
    widths: tuple[int, ...] = (64, 128, 256, 512, 1024, 2048, 4096, 8192)
    """Hidden units in a layer, increasing."""
    fit_from: int = 512
    """The narrowest width of the fitted exponents; beside them are those of all widths."""
    num_seeds: int = 8
    """Networks of each width and parameterisation, all independent."""
    init_scale: float = 0.1
    """α: initial embeddings, relative to the plain network's."""
    scales: tuple[float, ...] = (1e-1, 1e-2, 1e-4, 1e-6, 1e-8, 1e-10)
    """α at which the closed form is compared with gradient flow of the kernel, decreasing."""
    weight_std: float = 2**0.5
    """σ_W of the networks, both parameterisations alike."""
    step_size: float = 0.2
    """4 η γ_1: the learning rate in units of the limit of slow growth; stable below 1."""
    seed: int = 2
    """Seed of the choice of images, the crops and the networks."""


def run(config: Config) -> Arrays:
    """Every network, its prediction and the distances between the two."""
    require(
        config,
        # Of one seed there is no standard error.
        at_least={"num_images": 1, "num_test": 1, "dim": 1, "depth": 1, "num_seeds": 2},
        fraction=("step_size",),
        at_most_one=("init_scale",),
    )
    require_widths(config.widths, config.fit_from)
    key_data, key_networks = jax.random.split(jax.random.key(config.seed))
    numbers = (config.num_images, config.num_test)
    x, x_test = split_pairs(key_data, config.data, *numbers, config.data_dir, config.crop)
    basis = networks.basis(x, x_test)
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
            inputs = networks.rotated(basis, model, x, x_test)
            functions = networks.functions(model.apply)
            for s in range(config.num_seeds):
                params = networks.init(keys[p, w, s], basis, model=model)
                (z, z_test), trained, times = networks.trained(
                    functions, params, inputs, config.init_scale, limit
                )
                exact = prediction.kernel_descent(limit, z, z_test, times)
                span = float(times[-1])
                arrays["distances"][p, w, s] = prediction.distances(trained, exact, span)
                bar.update()
            if p == 0 and w in (0, len(config.widths) - 1):
                name = "wide" if w else "narrow"
                arrays[f"{name}_t"] = times
                arrays[f"{name}_curves"] = trained.curves
                arrays[f"{name}_predicted"] = exact.curves
    errors = [
        prediction.closed_form_error(limit, scale / config.init_scale * z)
        for scale in config.scales
    ]
    arrays["closed_form"] = np.column_stack([config.scales, np.asarray(errors)])
    gammas = limit.gamma_modes.eigenvalues
    arrays["alignment_exponent"] = linear.alignment_exponent(gammas, config.dim)
    return {name: np.asarray(array) for name, array in arrays.items()}


def _limit(config, parameterization, width, x, x_test) -> prediction.Limit:
    kernel_fn = infinite.mlp(
        config.depth, width, parameterization=parameterization, weight_std=config.weight_std
    )
    first, second = jnp.split(x, 2)
    kernel = gram.pairs(kernel_fn, first, second, progress=False)
    k_test_train = gram.to_pairs(kernel_fn, x_test, first, second, progress=False)
    return prediction.limit(kernel, k_test_train, config.dim, config.step_size)


EXPERIMENT = Experiment(
    {
        "cpu": Config(),
        "paper": Config(data="cifar10", widths=tuple(2**k for k in range(6, 17))),
    },
    run,
    minutes=2,
)
