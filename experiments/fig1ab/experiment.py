r"""Figure 1 (A, B): a linear model of Barlow Twins learns one dimension at a time.

    make fig1ab    or    python -m experiments run fig1ab

Two random 20x20 crops of each of 500 images form the positive pairs. The weights W, 10 x 1200, are
drawn at a scale of 1e-7 and trained by gradient descent. (A) The loss falls from 10 in steps of 1
at the predicted times. (B) The eigenvalues of C rise one by one along the predicted curves. (C) The
relative errors of the predicted step times. Expected: errors within 2% for all ten modes, if the
growth rate of gradient descent replaces that of gradient flow, which changes the first mode most.
Result 4.6 is measured for these modes too. One minute on two cores. Presets differ in the data:
`cpu` uses the embedded photographs, `paper` CIFAR-10 from --data-dir.
"""

from dataclasses import dataclass
from typing import Literal

import jax
import jax.numpy as jnp
import numpy as np

from experiments.fig1ab import result_4_6
from sslstep import data, dynamics, linear, simulate
from sslstep.experiment import Arrays, Experiment
from sslstep.experiment._loops import geometric_steps, progress
from sslstep.experiment._require import require
from sslstep.experiment.image_data import Crops, crop_pairs
from sslstep.measure import spectrum


@dataclass(frozen=True)
class Config(Crops):
    """Settings; each is one option of the command."""

    dim: int = 10
    """Embedding dimension d."""
    init_scale: float = 1e-7
    """α, the standard deviation of the initial weights."""
    learning_rate: float = 5e-5
    """η of gradient descent."""
    num_steps: int | None = None
    """Steps of gradient descent. Default: 1.2 times the predicted step time of the last mode."""
    num_records: int = 1000
    """Records along the run, logarithmically spaced."""
    standardise: bool = False
    """Standardise each colour channel; otherwise pixels are in [0, 1], not centred."""
    scales: tuple[float, ...] = (1e-3, 1e-4, 1e-5, 1e-6, 1e-7, 1e-8, 1e-9, 1e-10, 1e-11, 1e-12)
    """α at which Result 4.6 is tested."""
    dtype: Literal["float32", "float64"] = "float64"
    """Floating-point type of all computations."""


def run(config: Config) -> Arrays:
    """Compute the data's modes, run gradient descent, predict it, and test Result 4.6."""
    least = {"num_images": 1, "dim": 1, "num_records": 2}
    require(config, at_least=least, positive=("init_scale", "learning_rate"))
    *keys, key_weights, _ = jax.random.split(jax.random.key(config.seed), 4)
    x, x_prime = positive_pairs(config, *keys)
    modes = linear.modes(linear.cross_correlation(x, x_prime))
    weights = linear.init_weights(key_weights, config.dim, x.shape[1], config.init_scale, x.dtype)
    aligned, eta = linear.align(weights, modes), config.learning_rate
    gammas, start = modes.eigenvalues[: config.dim], aligned.singular_values
    predicted = dynamics.step_time(gammas, start, learning_rate=eta)
    num_steps = config.num_steps or _enough_steps(predicted, eta)
    with progress(num_steps) as advance:
        trajectory = simulate.gradient_descent(
            weights,
            modes,
            eta,
            num_steps,
            record_at=np.r_[0, geometric_steps(num_steps, config.num_records)],
            on_record=advance,
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
        # Eq. 16 as printed, and with the growth rate of gradient descent. Sorted like the
        # eigenvalues of C, because two close modes may be learned in either order.
        "predicted_step_times_flow": jnp.sort(linear.critical_time(gammas, start)),
        "predicted_step_times": jnp.sort(linear.critical_time(gammas, start, learning_rate=eta)),
    }
    unit = weights / config.init_scale
    arrays |= result_4_6.distances(modes, unit, config.scales)
    return {name: np.asarray(array) for name, array in arrays.items()}


def positive_pairs(config: Config, *keys: jax.Array) -> list[jax.Array]:
    """Draw n images and two crops of each; return the features (n, m) of both views."""
    crops = crop_pairs(keys, config.data, config.num_images, config.data_dir, config.crop)
    both, standardise = jnp.concatenate(crops), config.standardise
    return jnp.split(data.flatten(both, dtype=config.dtype, standardise=standardise), 2)


def _enough_steps(predicted: jax.Array, learning_rate: float) -> int:
    """Return 1.2 times the number of steps until the last predicted step time."""
    last = float(predicted.max())
    if not np.isfinite(last):
        raise ValueError(
            f"only {int(np.isfinite(predicted).sum())} of the {len(predicted)} modes can be "
            f"learned: the others have no positive eigenvalue. Choose a smaller dim, or give "
            f"num_steps."
        )
    return int(1.2 * last / learning_rate)


PAPER = Config(data="cifar10")

EXPERIMENT = Experiment({"cpu": Config(), "paper": PAPER}, run, minutes=0.7, quick=())
