r"""Figure 1 (A, B): a linear model of Barlow Twins learns one dimension at a time.

    make fig1ab    or    python -m experiments.linear_model

Two random 20x20 crops of each of 500 images are the positive pairs; W is 10 x 1200, drawn at a
scale of 1e-7 and trained by gradient descent. (A) the loss falls from 10 in steps of 1 at the
predicted times; (B) the eigenvalues of C rise one by one along the predicted curves; (C) how far
the predicted step times are from the measured ones. Expected: within 2% for all ten modes once the
discreteness of gradient descent is accounted for, which matters for the first mode. With it come
the claims of Section 4. One to two minutes on two cores.

Presets differ in the data: `cpu` uses the embedded photographs, `paper` CIFAR-10 from --data-dir.
"""

from dataclasses import dataclass
from typing import Any, Literal

import jax
import jax.numpy as jnp
import numpy as np
from tqdm import tqdm

from experiments import _panels, linear_claims
from experiments._images import Source, crop_pairs
from experiments._require import require
from experiments._run import Arrays, Experiment, command
from sslstep import data, linear, plotting, simulate
from sslstep.measure import spectrum


@dataclass(frozen=True)
class Config:
    """Settings; each is one option of the command."""

    data: Source = "photos"
    """Where the images come from: by name, or a folder of one's own."""
    data_dir: str | None = None
    """Folder of prepared TFDS data, for cifar10 and stl10; TFDS's own default if not given."""
    num_images: int = 500
    """n, the number of positive pairs."""
    crop: int = 20
    """Side of a crop, in pixels; m = 3 crop^2."""
    dim: int = 10
    """Embedding dimension d."""
    init_scale: float = 1e-7
    """α, the standard deviation of the initial weights."""
    learning_rate: float = 5e-5
    """η of gradient descent."""
    num_steps: int | None = None
    """Steps of gradient descent; if not given, 1.2 times as many as the last mode needs."""
    num_records: int = 1000
    """Records along the run, logarithmically spaced."""
    standardise: bool = False
    """Standardise each colour channel; otherwise pixels are in [0, 1], not centred."""
    scales: tuple[float, ...] = (1e-3, 1e-4, 1e-5, 1e-6, 1e-7, 1e-8, 1e-9, 1e-10, 1e-11, 1e-12)
    """α at which Result 4.6 is tested."""
    num_draws: int = 2000
    """Initialisations drawn for Eq. 21."""
    seed: int = 0
    """Seed of the choice of images, the crops and the initial weights."""
    dtype: Literal["float32", "float64"] = "float64"
    """Floating-point type of all computations."""


def run(config: Config) -> Arrays:
    """Data to modes, gradient descent and its prediction, and what the claims need."""
    least = {"num_images": 1, "dim": 1, "num_records": 2, "num_draws": 1}
    require(config, at_least=least, positive=("init_scale", "learning_rate"))
    keys = dict(zip(("images", "crops", "weights", "claims"), _split(config.seed), strict=True))
    x, x_prime = positive_pairs(config, keys["images"], keys["crops"])
    modes = linear.modes(linear.cross_correlation(x, x_prime))
    weights = linear.init_weights(
        keys["weights"], config.dim, x.shape[1], config.init_scale, x.dtype
    )
    aligned, eta = linear.align(weights, modes), config.learning_rate
    gammas, start = modes.eigenvalues[: config.dim], aligned.singular_values
    predicted = linear.half_rise_time(gammas, start, learning_rate=eta)
    num_steps = config.num_steps or _enough_steps(predicted, eta)
    at = np.unique(np.geomspace(1, num_steps, config.num_records).astype(int))
    with tqdm(total=num_steps, unit=" steps", unit_scale=True, disable=None) as bar:

        def advance(step: int) -> None:
            bar.update(int(step) - bar.n)

        trajectory = simulate.gradient_descent(
            weights,
            modes,
            eta,
            num_steps,
            record_at=np.r_[0, at],
            progress=advance,
        )
        jax.block_until_ready(trajectory)
    t = trajectory.times[1:]
    arrays: Arrays = {
        "t": t,
        "loss": trajectory.loss[1:],
        "eigenvalues": trajectory.eigenvalues[1:],
        "gammas": modes.eigenvalues,
        "initial_singular_values": start,
        "predicted_eigenvalues": linear.mode_eigenvalue(
            t[:, None], gammas, start, learning_rate=eta
        ),
        "step_times": spectrum.step_times(t, trajectory.eigenvalues[1:]),
        # Eq. 16 as printed, and with the rate of gradient descent. Sorted, because two close modes
        # may be learned in either order; eigenvalues of C are sorted too.
        "predicted_step_times_flow": jnp.sort(linear.critical_time(gammas, start)),
        "predicted_step_times": jnp.sort(linear.critical_time(gammas, start, learning_rate=eta)),
    }
    arrays |= linear_claims.measure(config, keys["claims"], modes, weights)
    return {name: np.asarray(array) for name, array in arrays.items()}


def positive_pairs(
    config: Config, key_images: jax.Array, key_crops: jax.Array
) -> tuple[jax.Array, jax.Array]:
    """Features (n, m) of two crops of each of n images, chosen at random."""
    keys, num = (key_images, key_crops), config.num_images
    crops = jnp.concatenate(crop_pairs(keys, config.data, num, config.data_dir, config.crop))
    features = data.flatten(crops, dtype=config.dtype, standardise=config.standardise)
    return features[:num], features[num:]


def _split(seed: int) -> jax.Array:
    return jax.random.split(jax.random.key(seed), 4)


def _enough_steps(predicted: jax.Array, learning_rate: float) -> int:
    last = float(predicted.max())
    if not np.isfinite(last):
        raise ValueError(
            f"only {int(np.isfinite(predicted).sum())} of the {len(predicted)} modes can be "
            f"learned: the others have no positive eigenvalue. Choose a smaller dim, or give "
            f"num_steps."
        )
    return int(1.2 * last / learning_rate)


def plot(config: Config, arrays: Arrays) -> Any:
    """Loss, eigenvalues, and the error of the predicted step times."""
    import matplotlib.pyplot as plt

    fig, (loss, eigenvalues, error) = plt.subplots(
        3, 1, figsize=(5.0, 6.2), height_ratios=(3, 3, 2)
    )
    measured = "gradient descent"
    _panels.loss(loss, arrays, experiment=measured, theory=r"predicted step time $\tau_j$")
    _panels.eigenvalues(
        eigenvalues, arrays, experiment=measured, theory=r"predicted $\gamma_j s_j^2(t)$"
    )
    eigenvalues.legend(loc="center", bbox_to_anchor=(0.33, 0.45))
    left = 0.3 * arrays["predicted_step_times"][0]
    for ax in (loss, eigenvalues):
        ax.set(xscale="log", xlim=(left, arrays["t"][-1]))
    eigenvalues.set_xlabel(_panels.TIME)
    kinds = (
        ("predicted_step_times_flow", "s", 7, "white", r"Eq. 16, gradient flow"),
        ("predicted_step_times", "o", 3.5, _panels.BLUE, "with the rate of gradient descent"),
    )
    error.axhspan(-2, 2, color="0.9", zorder=0, linewidth=0)
    _panels.step_time_errors(error, arrays, kinds)
    error.set(ylim=(min(-3, error.get_ylim()[0]), max(3, error.get_ylim()[1])))
    error.legend(loc="lower right")
    plotting.label_panels((loss, eigenvalues, error))
    return fig


EXPERIMENT = Experiment(
    "linear_model",
    __doc__ or "",
    {"cpu": Config(), "paper": Config(data="cifar10")},
    run,
    plot,
    linear_claims.check,
)

if __name__ == "__main__":
    command(EXPERIMENT)
