r"""The NTK of finite networks at initialisation, for growing widths, and after training.

    make ntk_evolution    or    python -m experiments run ntk_evolution

ReLU networks of one hidden layer, of widths 64 to 4096, are compared with the infinite-width limit
on pairs of crops. Each has a scalar NTK (Appendix D.5) and a trace NTK. At initialisation the
figure shows the distance of the NTK from the infinite-width kernel (A), the deviation of the
eigenvalues of its contrastive modes (B), and the misalignment of the subspace that it predicts (C).
The networks are then trained lazily and from small weights. The figure shows eigenvalues (D), the
movement of the kernel (E), and how well the initial, the final and the infinite-width NTK predict
the learned embeddings (F). Expected: the rates and constants of sslstep.ntk.fluctuations, without a
fit. One to three minutes on two cores.

Lazy training subtracts most of the initial output, which makes the initial embeddings
small (sslstep.nn.centred). The output weights then move the kernel by O(1 / width), and the hidden
weights move it by O(width^-3/4), because rectifiers switch. Training from small weights multiplies
all weights by α, with κ = α² width^1/2 fixed. The product of a unit's weights then has to grow to
order width^-1/2, and the kernel moves by O(1 / κ).
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from tqdm import tqdm

from sslstep import kernel_pca, nn, train
from sslstep.experiment import Arrays, Experiment, networks, prediction
from sslstep.experiment._loops import stacked
from sslstep.experiment._require import require, require_widths
from sslstep.experiment.image_data import Crops, split_pairs
from sslstep.measure import alignment
from sslstep.ntk import fluctuations, infinite


@dataclass(frozen=True)
class Config(Crops):
    """Settings; each is one option of the command."""

    num_images: int = 32
    """n, the number of positive pairs."""
    dim: int = 4
    """Embedding dimension d."""
    widths: tuple[int, ...] = (64, 128, 256, 512, 1024, 2048, 4096)
    """Numbers of hidden units, increasing."""
    fit_from: int = 512
    """Smallest width in claims on predictions and exponents; exponents are fitted to all too."""
    num_draws: int = 64
    """Networks of each width at initialisation."""
    num_lazy: int = 6
    """Networks of each width that are trained lazily."""
    num_small: int = 4
    """Networks of each width that are trained from small weights."""
    init_scale: float = 0.1
    """Scale of the initial embeddings in lazy training, relative to the plain network's."""
    small_scale: float = 0.5
    """κ = α² width^1/2, with α the scale of small weights."""
    step_size: float = 0.2
    """4 η γ_1 in lazy training, with learning rate η and largest eigenvalue γ_1; stable below 1."""
    small_step_size: float = 0.04
    """4 η γ_1 from small weights; smaller, because the kernel grows by about 1 / κ."""
    num_units: int = 8192
    """Hidden units drawn for the averages of theory."""
    num_modes: int = 10
    """Number of eigenvalues shown."""
    memory_gib: float = 2.0
    """Largest memory for the NTK, in GiB."""


_modes = partial(kernel_pca.contrastive_modes, solver="dense")


class Setting(NamedTuple):
    """The data, the basis of their span, and the infinite-width limit, common to all networks."""

    config: Config
    x: jax.Array
    basis: jax.Array
    limit: prediction.Limit


def run(config: Config) -> Arrays:
    """Draw networks of every width, train some lazily and some from small weights; add theory."""
    twice = ("num_images", "num_draws", "num_lazy", "num_small", "num_units")
    require(
        config,
        at_least={"dim": 1, "num_modes": config.dim, **dict.fromkeys(twice, 2)},
        positive=("small_scale", "memory_gib"),
        at_most_one=("init_scale", "step_size", "small_step_size"),
    )
    require_widths(config.widths, config.fit_from)
    most = max(config.num_lazy, config.num_small)
    if config.num_draws < most:
        raise ValueError(f"num_draws = {config.num_draws}, but {most} of them are to be trained.")
    if config.num_modes >= config.num_images:
        raise ValueError(
            f"num_modes = {config.num_modes} must be below num_images = {config.num_images}."
        )
    key_data, key_networks, key_units = jax.random.split(jax.random.key(config.seed), 3)
    # The held-out pair is not used.
    x, _ = split_pairs(key_data, config.data, config.num_images, 1, config.data_dir, config.crop)
    kernel = infinite.mlp(1)(x)
    limit = prediction.limit(kernel, kernel[:1], config.dim, config.step_size)
    basis = nn.span_basis(x)
    setting = Setting(config, x, basis, limit)
    cov = fluctuations.covariance(x)
    order = fluctuations.first_order(cov, config.dim, key_units, config.num_units)
    arrays: Arrays = {
        "widths": np.asarray(config.widths),
        "gammas": limit.gamma_modes.eigenvalues[: config.num_modes],
        "distance_rate": fluctuations.distance(cov, config.dim),
        **{f"rate_{name}": value for name, value in order._asdict().items()},
    }
    per_width = config.num_draws + config.num_lazy + config.num_small
    keys = jax.random.split(key_networks, len(config.widths))
    with tqdm(total=len(config.widths) * per_width, unit=" networks", disable=None) as bar:
        arrays |= stacked(
            stacked(_of_width(setting, cov, width, key, bar.update))
            for width, key in zip(config.widths, keys, strict=True)
        )
    return {name: np.asarray(array) for name, array in arrays.items()}


def _of_width(setting: Setting, cov, width: int, key, advance: Callable[[], Any]) -> Iterator[Any]:
    """Yield measures of the networks of one width, before and after training."""
    config = setting.config
    model = nn.MLP(config.dim, width)
    functions = networks.functions(model.apply)
    limit = int(config.memory_gib * 2**30)
    expected = _predicted(setting, setting.limit.kernel)
    for s, key_draw in enumerate(jax.random.split(key, config.num_draws)):
        params = model.init(key_draw, setting.x[:1])
        # All draws have equal inputs.
        drawn, x = nn.change_basis(model, setting.basis, params, setting.x)
        ntk = partial(networks.exact_ntk, model, x=x, memory_limit=limit)
        kernels = [ntk(drawn, kind=kind) for kind in fluctuations.KINDS]
        trace = kernels[1]
        gammas = np.stack([_modes(kernel, config.num_modes).eigenvalues for kernel in kernels])
        deviation = gammas[:, : config.dim] / setting.limit.modes.eigenvalues - 1
        predicted = [_predicted(setting, kernel) for kernel in kernels]
        found: Arrays = {
            "distance": [_relative(kernel, setting.limit.kernel) for kernel in kernels],
            "initial_gammas": gammas,
            "deviation": np.sqrt(np.mean(deviation**2, axis=1)),
            "misalignment": [alignment.misalignment(each, expected) for each in predicted],
        }
        advance()
        if s < config.num_lazy:
            learned, (initial, num_steps), final = _train(setting, functions, drawn, x, lazy=True)
            moved = ntk(final, kind="trace")
            hidden = [ntk(each, kind="trace", only="hidden_1") for each in (drawn, final)]
            by_hidden = hidden[1] - hidden[0]
            parts = (by_hidden, moved - trace - by_hidden, moved - trace)
            run = prediction.descent(setting.limit, initial, [num_steps])
            (pull,) = run.coefficients
            (descended,) = run.embeddings(setting.limit.kernel, initial)
            theory = fluctuations.movement(
                cov, pull, width, key_draw, num_units=config.num_units // 4
            )
            found |= {
                "lazy_movement": [np.linalg.norm(p) / np.linalg.norm(trace) for p in parts],
                "lazy_theory": np.asarray(theory) / np.linalg.norm(setting.limit.kernel) ** 2,
                "lazy_misalignment": _misalignments(setting, learned, trace, moved),
                "lazy_floor": alignment.misalignment(descended, expected),
                "lazy_gammas": _modes(moved, config.num_modes).eigenvalues,
            }
            advance()
        if s < config.num_small:
            scale = (config.small_scale / width**0.5) ** 0.5  # α
            small = nn.scale_init(drawn, scale)
            learned, _, final = _train(setting, functions, small, x, lazy=False)
            begun, moved = scale**2 * trace, ntk(final, kind="trace")
            scalar = ntk(final, kind="scalar")
            found |= {
                "small_movement": _relative(moved, begun),
                "small_cosine": np.sum(moved * begun)
                / (np.linalg.norm(moved) * np.linalg.norm(begun)),
                "small_misalignment": _misalignments(setting, learned, begun, moved),
                "small_gammas": _modes(moved, config.num_modes).eigenvalues / scale**2,
                "small_scalar": _misalignments(setting, learned, scalar)[0],
            }
            advance()
        yield found


def _train(setting: Setting, functions, params, x, *, lazy: bool):
    """Train a network for 1.6 times the last step time that the infinite-width kernel predicts.

    Returns the final embeddings, a pair of initial embeddings and number of steps, and the final
    parameters.
    """
    config, limit = setting.config, setting.limit
    scale = jnp.float32(config.init_scale if lazy else 1.0)
    initial = functions.embed(params, x, params, scale).astype(float)
    if not lazy:
        # Small weights multiply the kernel by this ratio, κ / width^1/2 = α², and keep its modes.
        ratio = config.small_scale / params["params"]["output"]["kernel"].shape[0] ** 0.5
        modes = limit.modes._replace(
            eigenvalues=ratio * limit.modes.eigenvalues,
            coefficients=limit.modes.coefficients / ratio**0.5,
        )
        rate = config.small_step_size / (4 * modes.eigenvalues[0])
        limit = limit._replace(modes=modes, learning_rate=rate)
    num_steps = int(prediction.record_at(limit, initial)[-1])
    descent = train.full_batch_descent(
        functions.loss, params, limit.learning_rate, num_steps, args=(x, params, scale)
    )
    learned = functions.embed(descent.params, x, params, scale).astype(float)
    return learned, (initial, num_steps), descent.params


def _predicted(setting: Setting, kernel) -> jax.Array:
    """Return the embeddings of the training samples that a kernel predicts (Eq. 49)."""
    return kernel_pca.embed_training(_modes(kernel, setting.config.dim))


def _relative(kernel, reference) -> float:
    """Return the relative distance of a kernel from a reference, in Frobenius norm."""
    return float(np.linalg.norm(kernel - reference) / np.linalg.norm(reference))


def _misalignments(setting: Setting, learned, *kernels) -> list[float]:
    """Return the misalignments of learned embeddings and predictions by kernels and the limit."""
    kernels = (*kernels, setting.limit.kernel)
    return [float(alignment.misalignment(learned, _predicted(setting, k))) for k in kernels]


PAPER = Config(
    data="cifar10",
    num_images=128,
    dim=10,
    widths=tuple(2**k for k in range(6, 17)),
    num_modes=20,
    memory_gib=40.0,
)

EXPERIMENT = Experiment({"cpu": Config(), "paper": PAPER}, run, minutes=3)
