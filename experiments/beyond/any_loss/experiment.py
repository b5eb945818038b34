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

from dataclasses import dataclass
from typing import Any

import jax
import numpy as np
from tqdm import tqdm

from experiments.beyond.any_loss import prediction
from experiments.beyond.any_loss.features import Components, features
from experiments.beyond.any_loss.losses import LOSSES, Loss, of_weights
from sslstep import kernel_pca, linear, train
from sslstep.experiment import Arrays, Experiment
from sslstep.experiment._require import require
from sslstep.measure import spectrum, steps

#: Smallest final eigenvalue of a learned dimension, relative to the first eigenvalue.
LEARNED = 0.01


@dataclass(frozen=True)
class Config(Components):
    """Settings; each is one option of the command."""

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
    least = {"num_images": 4, "components": 2, "dim": 2, "num_seeds": 1, "num_records": 20}
    require(config, at_least=least, at_most_one=("init_scale",))
    unknown = [name for name in config.losses if name not in LOSSES]
    if unknown or not config.losses:
        raise ValueError(f"losses must be of {', '.join(LOSSES)}, got {config.losses}.")
    if config.dim > config.components:
        raise ValueError(f"dim = {config.dim} must be at most components = {config.components}.")
    rows: dict[str, list[Any]] = {}
    num = config.num_seeds * len(config.losses)
    with jax.enable_x64(True), tqdm(total=num, disable=None) as bar:
        for seed in range(config.seed, config.seed + config.num_seeds):
            key, key_weights = jax.random.split(jax.random.key(seed))
            views = features(config, key)
            for name in config.losses:
                bar.set_description(name)
                for part, value in _compare(config, LOSSES[name], views, key_weights).items():
                    rows.setdefault(f"{name}/{part}", []).append(value)
                bar.update()
    return {name: np.asarray(values) for name, values in rows.items()}


def _compare(config: Config, loss: Loss, views: list[np.ndarray], key: jax.Array) -> Arrays:
    """Train a model on one loss; return what is measured and predicted, by name."""
    dim, scale = config.dim, config.init_scale
    gammas = np.asarray(linear.modes(linear.cross_correlation(*views)).eigenvalues)
    duration = loss.span * 2 * np.log(1 / scale) / (4 * gammas[dim - 1])
    # At least one step for each record.
    eta = float(min(loss.step / (4 * gammas[0]), duration / config.num_records))
    num_steps = round(duration / eta)
    # Evenly spaced in log t, but the first ones are consecutive.
    spaced = np.geomspace(1, num_steps, config.num_records).astype(int)
    at = np.maximum(spaced, np.arange(1, config.num_records + 1))
    views = [view[: max(int(loss.share * len(view)), 2)] for view in views]
    weights = np.asarray(linear.init_weights(key, dim, config.components, scale, dtype=float)).T
    found: Arrays = {}
    if loss.constant:
        # From small weights without the constant dimension. The gradient is inversely proportional
        # to the length of the weights. The time of training is therefore proportional to the
        # squared length, and results are in this unit.
        length = float(np.sum(weights**2))
        times, level, curves = _train(loss, weights, views, eta * length, at, constant=False)
        own = _readings(times / length, level, curves / length, curves[-1] / length)
        found |= {"zero_t": times / length, "zero_eigenvalues": curves / length}
        found["zero_alone"] = own["alone"]
        views = [np.hstack([np.ones((len(view), 1)), view]) for view in views]
        weights = np.block([[np.ones((1, 1)), np.zeros((1, dim))], [0 * weights[:, :1], weights]])
    times, level, curves = _train(loss, weights, views, eta, at, constant=loss.constant)
    predicted = prediction.along(loss, weights, views, eta, times)
    found["t"] = times
    for prefix, part in (("", {"eigenvalues": curves, "loss": level}), ("predicted_", predicted)):
        part = part | _readings(times, part["loss"], part["eigenvalues"], curves[-1])
        found |= {f"{prefix}{name}": value for name, value in part.items()}
    found["rate"], found["predicted_rate"] = prediction.first_rate(loss, weights, views, scale)
    found["saddle_step_times"], found["levels"] = np.full(dim, np.nan), np.full(dim + 1, np.nan)
    if not loss.constant:
        kernel = np.concatenate(views) @ np.concatenate(views).T
        function = loss.predicted_by or loss.function
        found["levels"] = np.asarray(kernel_pca.plateaus(kernel, function, dim))
        if loss.turns:
            found["saddle_step_times"] = prediction.by_saddles(loss, weights, views, eta, times)
    return found


def _train(loss: Loss, weights, views, eta: float, at: np.ndarray, *, constant: bool):
    """Return times, losses and eigenvalues of C, without a constant dimension's, at some steps."""
    descend, measure, _ = of_weights(loss.function, int(constant))
    done = train.full_batch_descent(
        descend, weights, eta, int(at[-1]), args=tuple(views), record_at=at, measure=measure
    )
    return [np.asarray(part) for part in (done.times, *done.records)]


def _readings(times, level, curves, end) -> Arrays:
    """Return step times, the loss at the end of each plateau, and how many dimensions rise alone.

    A dimension's step time is when its eigenvalue reaches half of `end`, the value after training;
    it is infinite if `curves` do not learn it. Plateaus end when dimensions 2...d begin to rise;
    the last one ends with training.
    """
    learned = end > LEARNED * end[0]
    half = np.asarray(spectrum.step_times(times, curves / end))
    begun = np.where(learned, np.argmax(curves > 1e-3 * end, axis=0), -1)[1:]
    rises = steps.rises(times, curves[:, learned], end[learned])
    return {
        "step_times": np.where(curves[-1] > LEARNED * curves[-1, 0], half, np.inf),
        "rests": np.append(level[begun], level[-1]),
        "alone": int(steps.isolated(rises).sum()),
    }


EXPERIMENT = Experiment({"cpu": Config(), "paper": Config(data="cifar10")}, run, minutes=12)
