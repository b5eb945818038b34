r"""Any loss: the time at which each dimension is learned, predicted from the loss and measured.

    make losses    or    python -m experiments run any_loss

A linear model of crops is trained by gradient descent from weights of size 1e-6 on each of seven
losses. Upper panels: eigenvalues of C, trained and predicted. Lower panels: the loss, trained and
predicted. The prediction is the closed form (Eq. 10) for simplified Barlow Twins, and
`kernel_pca.stepwise_flow` for the other losses. While learned dimensions rest, the flow solves the
linear equations of the others, which the loss's second derivative determines. Last panel: errors of
the step times, by the flow and by an estimate from saddle to saddle, in which each dimension grows
at the rate of the plateau before its step. Expected: step times within 3% for Barlow Twins and 5%
for the others, plateaus within 1%, first growth rates within 1e-3.

SimCLR does not depend on the length of the embeddings, and therefore has no expansion at zero. It
starts from its first saddle, a constant embedding, which a network with a bias has too.

Crops are reduced to their leading principal components. With more components, the slowest ones take
longer than a plateau to come to rest. SimCLR sees half of the pairs and LeJEPA a quarter, because
their cost grows as the square of the number of pairs. VICReg's prediction is gradient flow with the
corner of the hinge rounded; gradient descent oscillates about this corner. A dimension is not
learned if its final eigenvalue is below a hundredth of the first.
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


def rounded_vicreg(z: jax.Array, z_prime: jax.Array, width: float = 2e-4) -> jax.Array:
    """Compute VICReg's loss with the corner of the hinge rounded.

    The rounding extends over about `width` in the standard deviation.
    """

    def hinge(view: jax.Array) -> jax.Array:
        deviation = jnp.sqrt(jnp.var(view, axis=0, ddof=1) + 1e-4)
        return jnp.mean(width * jax.nn.softplus((1 - deviation) / width))

    return losses.vicreg(z, z_prime, variance=0.0) + 25 * (hinge(z) + hinge(z_prime)) / 2


#: Smallest final eigenvalue of a learned dimension, relative to the first eigenvalue.
LEARNED = 0.01


class Loss(NamedTuple):
    """A loss, with the settings of its training and of its prediction."""

    title: str
    function: Callable[..., Any]
    predicted_by: Callable[..., Any] | None = None
    """Loss of the predicted gradient flow; None: gradient descent of `function` is predicted."""
    step: float = 0.1
    """Largest learning rate times 4γ_1, the first rate of simplified Barlow Twins."""
    span: float = 1.0
    """Time of training, in units of 2 ln(1/α) / 4γ_d: by then simplified Barlow Twins rests."""
    turns: bool = True
    """Whether the loss is invariant under rotations of the embeddings."""
    within: float = 0.05
    """Claimed bound on the relative error of step times."""
    constant: bool = False
    """Whether training starts from a constant first dimension."""
    share: float = 1.0
    """Fraction of the pairs on which the loss is trained."""
    tol: float = 1e-3
    """Tolerance of the flow; smaller for a loss that is singular at embeddings of length 0."""


LOSSES = {
    "simplified": Loss("simplified Barlow Twins", losses.simplified_barlow_twins, within=0.03),
    "barlow_twins": Loss(
        r"Barlow Twins, $\lambda = 0.1$",
        partial(losses.barlow_twins, batch_norm=False, off_diagonal=0.1),
        span=3.0,
        turns=False,
        within=0.03,
    ),
    "spectral": Loss("spectral contrastive", losses.spectral_contrastive),
    "info_nce": Loss(
        "InfoNCE", partial(losses.info_nce, normalise=False, temperature=1.0), span=2.0
    ),
    "vicreg": Loss("VICReg", losses.vicreg, rounded_vicreg, step=0.0003, turns=False),
    "lejepa": Loss("LeJEPA", losses.lejepa, step=0.4, share=0.25),
    "simclr": Loss(
        "SimCLR",
        partial(losses.simclr, temperature=0.5),
        step=0.02,
        span=0.15,
        constant=True,
        share=0.5,
        tol=1e-5,
    ),
}


@dataclass(frozen=True)
class Config(Crops):
    """Settings; each is one option of the command."""

    num_images: int = 200
    """n, the number of positive pairs."""
    components: int = 8
    """m, the number of features: the crops' leading principal components."""
    dim: int = 3
    """Embedding dimension d; SimCLR's constant is an additional dimension."""
    init_scale: float = 1e-6
    """α: standard deviation of the initial weights."""
    losses: tuple[str, ...] = tuple(LOSSES)
    """Names of the losses."""
    num_seeds: int = 3
    """Number of seeds; each chooses images, crops and weights."""
    num_records: int = 600
    """Number of records of a run, evenly spaced in log t."""


def run(config: Config) -> Arrays:
    """Train and predict each loss from each seed; return arrays (seeds, ...) by loss and name."""
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
    """Return the crops' leading principal components for both views, each (n, m).

    Their mean squared length is 1. `light` is the standard deviation, over views, of a brightness
    slope from left to right that is drawn independently for each view.
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
    duration = loss.span * 2 * np.log(1 / scale) / (4 * gammas[dim - 1])
    # At least one step for each record.
    eta = float(min(loss.step / (4 * gammas[0]), duration / config.num_records))
    num_steps = round(duration / eta)
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
    """Return `count` steps, evenly spaced in log t; the first ones are consecutive."""
    steps = np.maximum(np.geomspace(1, num_steps, count).astype(int), np.arange(1, count + 1))
    return np.asarray(steps)


@cache
def _of_weights(
    function: Callable[..., Any], first: int
) -> tuple[Callable[..., Any], Callable[..., Any], Callable[..., Any]]:
    """Return three functions of weights (m, d) and both views of a model.

    They compute the loss, the loss with the eigenvalues of C, and the norm of the weights without
    the `first` columns. They are cached, so that each is compiled once.
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
    """Return the eigenvalues of C of centred embeddings, descending."""
    c = linear.cross_correlation(z, z_prime, centre=True)
    return jnp.linalg.eigvalsh(c)[::-1]


def _half_rises(times, curves, end):
    """Return the time at which each eigenvalue reaches half of `end`, its value after training.

    It is infinite for a dimension that `curves` does not learn.
    """
    found = np.asarray(spectrum.step_times(times, curves / end))
    return np.where(curves[-1] > LEARNED * curves[-1, 0], found, np.inf)


def _rests(level, curves, end):
    """Return the loss at the end of each plateau: when dimensions 2...d begin to rise, and last."""
    begun = np.argmax(curves[:, 1:] > 1e-3 * end[1:], axis=0)
    begun = np.where(end[1:] > LEARNED * end[0], begun, -1)
    return np.append(level[begun], level[-1])


def _alone(times, curves, end):
    """Return the number of learned dimensions that rise alone."""
    kept = end > LEARNED * end[0]
    return int(steps.isolated(steps.rises(times, curves[:, kept], end[kept])).sum())


def _predict(loss, weights, views, eta, times) -> Arrays:
    """Predict the eigenvalues of C and the loss at given times, by the closed form or the flow."""
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
    """Return the first dimension's growth rate, measured and predicted.

    The measured rate is that of weights of size 1e-24 in one step of gradient descent.
    """
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
    """Predict step times from the growth rates at the saddles alone.

    Each dimension grows exponentially at the rate of the current plateau. It is learned when this
    growth brings its eigenvalue to the value at the next saddle.
    """
    both, dim = np.concatenate(views), weights.shape[1]
    gamma = np.asarray(linear.cross_correlation(*views, centre=True))
    t, found, saddle, sizes = 0.0, [], None, np.zeros(dim)
    for k in range(dim):
        modes = linear.growth_modes(loss.function, views, dim - k, embeddings=saddle, dim=dim)
        rates = np.log1p(eta * np.asarray(modes.eigenvalues)) / eta
        if k == 0:
            sizes = np.log(np.asarray(linear.align(weights.T, modes).singular_values))
        # The next saddle is the end of the flow of k + 1 dimensions, with the others exactly zero.
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
    """Train a scale-invariant loss from small weights without a constant dimension.

    Return times, eigenvalues of C, and the number of dimensions that rise alone. The gradient is
    inversely proportional to the length of the weights. The time of training is therefore
    proportional to the squared length, and results are in this unit.
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
