r"""Any loss: when it learns each dimension, predicted from the loss itself, against training.

    make losses    or    python -m experiments run any_loss

A linear model of crops is trained by gradient descent from weights of size 1e-6 on each of seven
losses. Eigenvalues of C (upper panels) and the loss (lower panels), trained and predicted; the
closed form (Eq. 10) for simplified Barlow Twins, for the others `kernel_pca.stepwise_flow`, which
follows the dormant dimensions by the linear equations of the loss's second variation. The last
panels: how far step times are off, by the flow and by the estimate from saddle to saddle alone,
which has a dimension grow at the rate of the plateau before it. Expected: step times within 3% for
Barlow Twins and 5% for the others, plateaus within 1%, first rates within 1e-3. SimCLR does not
change with the length of the embeddings and has no expansion at zero: it starts from its first
saddle, a constant embedding, as that of a network with a bias is.

Crops are reduced to their leading principal components: of more, the slowest take longer than a
plateau to come to rest. SimCLR sees half of the pairs and LeJEPA a quarter, as their cost is of the
pairs' square. VICReg's prediction is gradient flow with the corner of the hinge rounded, on which
descent moves to and fro. A dimension that ends below a hundredth of the first is not learned.
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import cache, partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from tqdm import tqdm

from sslstep import data, kernel_pca, linear, losses, train
from sslstep.experiment import Arrays, Experiment
from sslstep.experiment._require import require
from sslstep.experiment.image_data import Crops, crop_pairs
from sslstep.measure import spectrum, steps


def rounded_vicreg(z: jax.Array, z_prime: jax.Array, width: float = 0.01) -> jax.Array:
    """VICReg with the corner of the hinge rounded over this range of the standard deviation."""

    def hinge(view: jax.Array) -> jax.Array:
        deviation = jnp.sqrt(jnp.var(view, axis=0, ddof=1) + 1e-4)
        return jnp.mean(width * jax.nn.softplus((1 - deviation) / width))

    return losses.vicreg(z, z_prime, variance=0.0) + 25 * (hinge(z) + hinge(z_prime)) / 2


#: Of the first eigenvalue at the end: below it a dimension is not learned.
LEARNED = 0.01


class Loss(NamedTuple):
    """A loss, and how it is trained and predicted."""

    title: str
    function: Callable[..., Any]
    predicted_by: Callable[..., Any] | None = None
    """What gradient flow is of, if it is not descent of the function that is predicted."""
    step: float = 0.1
    """Learning rate times 4γ_1, the first rate of simplified Barlow Twins."""
    span: float = 1.0
    """Times of training, in units of that until simplified Barlow Twins has long learned all."""
    turns: bool = True
    """Whether the loss stays what it is when embeddings are rotated."""
    within: float = 0.05
    """Largest error of a step time that is claimed."""
    constant: bool = False
    """Whether training starts from a constant first dimension."""
    share: float = 1.0
    """Of the pairs, those that it sees."""
    tol: float = 1e-3
    """Of the flow: less where samples pass by zero, at which the loss is singular."""


LOSSES = {
    "simplified": Loss("simplified Barlow Twins", losses.simplified_barlow_twins, within=0.03),
    "barlow_twins": Loss(
        r"Barlow Twins, $\lambda = 0.1$",
        partial(losses.barlow_twins, batch_norm=False, off_diagonal=0.1),
        step=0.02,  # of a loss that sees rotations the error of descent is of its order
        span=3.0,
        turns=False,
        within=0.03,
    ),
    "spectral": Loss("spectral contrastive", losses.spectral_contrastive),
    "info_nce": Loss(
        "InfoNCE", partial(losses.info_nce, normalise=False, temperature=1.0), span=2.0
    ),
    "vicreg": Loss("VICReg", losses.vicreg, rounded_vicreg, step=0.001, turns=False),
    "lejepa": Loss("LeJEPA", losses.lejepa, step=0.4, share=0.25),
    "simclr": Loss(
        "SimCLR",
        partial(losses.simclr, temperature=0.5),
        step=0.02,
        span=0.15,
        constant=True,
        share=0.5,
        tol=1e-4,
    ),
}


@dataclass(frozen=True)
class Config(Crops):
    """Settings; each is one option of the command."""

    num_images: int = 200
    """n, the number of positive pairs."""
    components: int = 8
    """Principal components of crops that the model sees: its features m."""
    dim: int = 3
    """Embedding dimension d; SimCLR's constant is one more."""
    init_scale: float = 1e-6
    """α: standard deviation of the initial weights."""
    losses: tuple[str, ...] = tuple(LOSSES)
    """Which losses."""
    num_seeds: int = 3
    """Choices of images, crops and weights."""
    num_records: int = 600
    """Records of a run, evenly in log t."""


def run(config: Config) -> Arrays:
    """Each loss by each seed: trained, predicted, and from saddle to saddle."""
    require(
        config,
        at_least={"num_images": 4, "components": 2, "dim": 2, "num_seeds": 1, "num_records": 20},
        at_most_one=("init_scale",),
    )
    unknown = [name for name in config.losses if name not in LOSSES]
    if unknown or not config.losses:
        raise ValueError(f"losses must be of {', '.join(LOSSES)}, got {config.losses}.")
    if config.dim > config.components:
        raise ValueError(f"dim = {config.dim} must be at most components = {config.components}.")
    rows: dict[str, list[Any]] = {}
    with jax.enable_x64(True), tqdm(total=config.num_seeds * len(config.losses)) as bar:
        for seed in range(config.seed, config.seed + config.num_seeds):
            key, key_weights = jax.random.split(jax.random.key(seed))
            views = features(config, key)
            for name in config.losses:
                bar.set_description(name)
                for part, value in _compare(config, LOSSES[name], views, key_weights).items():
                    rows.setdefault(f"{name}/{part}", []).append(value)
                bar.update()
    return {name: np.asarray(values) for name, values in rows.items()}


def features(config: Any, key: jax.Array, light: float = 0.0) -> list[np.ndarray]:
    """Of each view the crops' leading principal components (n, m), of mean square length 1.

    `light` is the deviation of a slope of brightness from left to right, each view's own.
    """
    *keys, own = jax.random.split(key, 3)
    pairs = crop_pairs(keys, config.data, config.num_images, config.data_dir, config.crop)
    crops = np.asarray(data.flatten(jnp.concatenate(pairs), dtype="float64", standardise=True))
    crops = crops - crops.mean(axis=0)
    slope = np.linspace(-(3**0.5), 3**0.5, config.crop)  # of mean square 1
    slope = np.broadcast_to(slope[None, :, None], (config.crop, config.crop, 3)).ravel()
    crops = crops + light * np.asarray(jax.random.normal(own, (len(crops), 1))) * slope
    leading = np.linalg.svd(crops, full_matrices=False)[2][: config.components]
    x = crops @ leading.T
    return np.split(x / np.sqrt(np.mean(np.sum(x**2, axis=1))), 2)


def _compare(config: Config, loss: Loss, views: list[np.ndarray], key: jax.Array) -> Arrays:
    dim, scale = config.dim, config.init_scale
    gammas = np.asarray(linear.modes(linear.cross_correlation(*views)).eigenvalues)
    eta = float(loss.step / (4 * gammas[0]))
    learned_all = 2 * np.log(1 / scale) / (4 * gammas[dim - 1])
    num_steps = int(loss.span * learned_all / eta)
    views = [view[: max(int(loss.share * len(view)), 2)] for view in views]
    start = linear.init_weights(key, dim, config.components, scale, dtype=float)
    weights = np.asarray(start).T
    found: Arrays = {}
    if loss.constant:
        found = _from_zero(loss, weights, views, eta, num_steps, config.num_records)
        views = [np.hstack([np.ones((len(view), 1)), view]) for view in views]
        weights = np.block([[np.ones((1, 1)), np.zeros((1, dim))], [0 * weights[:, :1], weights]])
    at = _records(num_steps, config.num_records)
    descend, measure, _ = _of_weights(loss.function, int(loss.constant))
    done = train.full_batch_descent(
        descend, weights, eta, num_steps, args=tuple(views), record_at=at, measure=measure
    )
    times, level, curves = (np.asarray(part) for part in (done.times, *done.records))
    found |= {"t": times, "loss": level, "eigenvalues": curves}
    predicted = _predict(loss, weights, views, eta, times)
    for prefix, part in (("", found), ("predicted_", predicted)):
        found |= {f"{prefix}{name}": value for name, value in part.items()} if prefix else {}
        rows, end = part["eigenvalues"], curves[-1]
        found[f"{prefix}step_times"] = _half_rises(times, rows, end)
        found[f"{prefix}rests"] = _rests(part["loss"], rows, end)
        found[f"{prefix}alone"] = _alone(times, rows, end)
    found["rate"], found["predicted_rate"] = _first_rate(loss, weights, views, scale)
    found["saddle_step_times"], found["levels"] = np.full(dim, np.nan), np.full(dim + 1, np.nan)
    if not loss.constant:
        kernel = np.concatenate(views) @ np.concatenate(views).T
        function = loss.predicted_by or loss.function
        found["levels"] = np.asarray(kernel_pca.plateaus(kernel, function, dim))
    if not loss.constant and loss.turns:
        found["saddle_step_times"] = _by_saddles(loss, weights, views, eta, times)
    return found


def _records(num_steps: int, count: int) -> np.ndarray:
    """Steps evenly in log t, as many for each seed: the first ones one after the other."""
    steps = np.maximum(np.geomspace(1, num_steps, count).astype(int), np.arange(1, count + 1))
    return np.asarray(steps)


@cache
def _of_weights(
    function: Callable[..., Any], first: int
) -> tuple[Callable[..., Any], Callable[..., Any], Callable[..., Any]]:
    """Of weights and views: the loss, with it the eigenvalues of C, and the dormant ones' size.

    Each is made once, and with it its compiled program.
    """

    def loss(w, x, x_prime):
        return function(x @ w, x_prime @ w)

    def measure(w, x, x_prime):
        eigenvalues = _eigenvalues(x @ w, x_prime @ w)
        return loss(w, x, x_prime), eigenvalues[: len(eigenvalues) - first]

    def size(w, x, x_prime):
        return jnp.linalg.norm(w[:, first:])

    return loss, measure, size


def _eigenvalues(z, z_prime):
    """Of C of centred embeddings, descending."""
    c = linear.cross_correlation(z, z_prime, centre=True)
    return jnp.linalg.eigvalsh(c)[::-1]


def _half_rises(times, curves, end):
    """When each eigenvalue has half of what training ends with; infinite of what is not learned."""
    found = np.asarray(spectrum.step_times(times, curves / end))
    return np.where(curves[-1] > LEARNED * curves[-1, 0], found, np.inf)


def _rests(level, curves, end):
    """The loss when each dimension but the first has begun to rise, and at the end."""
    begun = np.argmax(curves[:, 1:] > 1e-3 * end[1:], axis=0)
    begun = np.where(end[1:] > LEARNED * end[0], begun, -1)
    return np.append(level[begun], level[-1])


def _alone(times, curves, end):
    """How many rise alone, of those that are learned."""
    kept = end > LEARNED * end[0]
    return int(steps.isolated(steps.rises(times, curves[:, kept], end[kept])).sum())


def _predict(loss, weights, views, eta, times) -> Arrays:
    """Eigenvalues of C and the loss at these times, by the closed form or the flow."""
    if loss.function is losses.simplified_barlow_twins:
        modes = linear.modes(linear.cross_correlation(*views), weights.shape[1])
        start = linear.align(weights.T, modes).singular_values
        found = linear.mode_eigenvalue(times[:, None], modes.eigenvalues, start, learning_rate=eta)
        closed = np.sort(np.asarray(found), axis=1)[:, ::-1]
        return {"eigenvalues": closed, "loss": np.sum((1 - closed) ** 2, axis=1)}
    both = np.concatenate(views)
    done = kernel_pca.stepwise_flow(
        both @ both.T,
        loss.predicted_by or loss.function,
        both @ weights,
        times,
        learning_rate=0.0 if loss.predicted_by else eta,
        tol=loss.tol,
    )
    z = done.embeddings(both @ both.T, both @ weights)
    curves = np.asarray(jax.vmap(lambda both: _eigenvalues(*jnp.split(both, 2)))(z))
    kept = weights.shape[1] - int(loss.constant)
    return {"eigenvalues": curves[:, :kept], "loss": np.asarray(done.loss)}


def _first_rate(loss, weights, views, scale) -> tuple[float, float]:
    """Of the first dimension: the measured slope of log W, from 1e-24, and the predicted one."""
    first, dim = int(loss.constant), weights.shape[1]
    learned = np.ones((2 * len(views[0]), 1)) if loss.constant else None
    modes = linear.growth_modes(loss.function, views, dim - first, embeddings=learned, dim=dim)
    rate = float(modes.eigenvalues[0])
    eta, count = 0.1 / rate, int(40 / np.log1p(0.1))
    small = weights * np.where(np.arange(dim) < first, 1, 1e-24 / scale)
    descend, _, size = _of_weights(loss.function, first)
    sizes = train.full_batch_descent(
        descend, small, eta, count, args=tuple(views), record_at=[count - 1, count], measure=size
    ).records
    return float(sizes[1] / sizes[0] - 1) / eta, rate


def _by_saddles(loss, weights, views, eta, times) -> np.ndarray:
    """Step times by the growth rates at each saddle alone.

    A dimension is learned when its growth, at the rate of the plateau before, would have brought
    its eigenvalue to that of the next saddle.
    """
    both, dim = np.concatenate(views), weights.shape[1]
    gamma = np.asarray(linear.cross_correlation(*views, centre=True))
    t, found, saddle, sizes = 0.0, [], None, np.zeros(dim)
    for k in range(dim):
        modes = linear.growth_modes(loss.function, views, dim - k, embeddings=saddle, dim=dim)
        rates = np.log1p(eta * np.asarray(modes.eigenvalues)) / eta
        if k == 0:
            sizes = np.log(np.asarray(linear.align(weights.T, modes).singular_values))
        # The next saddle: the flow of so many dimensions, the others exactly zero.
        start = both @ np.where(np.arange(dim) <= k, weights, 0)
        end = np.array([0, 10 * times[-1]])
        flow = kernel_pca.stepwise_flow(both @ both.T, loss.function, start, end)
        saddle = np.asarray(flow.embeddings(both @ both.T, start)[-1])[:, : k + 1]
        first = np.asarray(modes.eigenvectors)[:, 0]
        level = _eigenvalues(*np.split(saddle, 2))[k]
        wait = (0.5 * np.log(level / (first @ gamma @ first)) - sizes[0]) / rates[0]
        t, sizes = t + wait, (sizes + rates * wait)[1:]
        found.append(t)
        u, s, _ = np.linalg.svd(saddle, full_matrices=False)
        saddle = u * s
    return np.asarray(found)


def _from_zero(loss, weights, views, eta, num_steps, num_records) -> Arrays:
    """A loss of embeddings of length 1, from small weights and no constant: how many rise alone.

    Its gradient is as the inverse of the weights' length, and so is the time it takes squared.
    """
    descend, measure, _ = _of_weights(loss.function, 0)
    at = _records(num_steps, num_records)
    length = float(np.sum(weights**2))
    done = train.full_batch_descent(
        descend, weights, eta * length, num_steps, args=tuple(views), record_at=at, measure=measure
    )
    curves = np.asarray(done.records[1]) / length
    times = np.asarray(done.times) / length
    return {
        "zero_t": times,
        "zero_eigenvalues": curves,
        "zero_alone": _alone(times, curves, curves[-1]),
    }


EXPERIMENT = Experiment(
    {"cpu": Config(), "paper": Config(data="cifar10")},
    run,
    minutes=12,
)
