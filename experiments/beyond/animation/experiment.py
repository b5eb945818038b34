"""Animation of embeddings during training: they form a point, a line, a plane, a solid.

    make animation    or    python -m experiments run animation

The ResNet of Figure 1 (C, D) is trained, and embeddings of fixed pairs are recorded. Left panel:
embeddings along the first three learned directions, in the order of learning, with one colour for
each photograph. Right panels: the training loss and the eigenvalues of C. The experiment writes
embeddings.gif, and its last frame as the figure. It takes a minute on two cores. Both presets are
equal.
"""

from dataclasses import dataclass
from functools import partial
from typing import Any, Literal

import jax
import numpy as np

from sslstep import recipes, train
from sslstep.experiment import Arrays, Experiment, networks, training
from sslstep.experiment._require import require
from sslstep.experiment.image_data import Images
from sslstep.measure import spectrum


@dataclass(frozen=True)
class Config(Images):
    """Settings; each is one option of the command."""

    num_points: int = 256
    """Number of images whose embeddings are shown."""
    num_frames: int = 70
    """Largest number of frames, at geometrically spaced steps; frames at equal steps are merged."""
    num_steps: int = 150
    """Steps of training; the default suffices for three dimensions."""
    first_step: int = 2
    """Step of the second frame; the first frame shows step 0."""
    seconds: float = 8.0
    """Duration of the animation."""
    seed: int = 1
    """Seed. With 1, the first three dimensions are learned at well-separated times."""
    dtype: Literal["float32", "bfloat16"] = "float32"
    """Dtype of the network's computations."""


def run(config: Config) -> Arrays:
    """Train the network and record embeddings and eigenvalues at the step of each frame."""
    recipe = recipes.SMALL_INIT.barlow_twins
    least = {"num_frames": 2, "num_points": 4 * recipe.dim, "first_step": 1}
    require(config, at_least=least, positive=("seconds",))
    num_probe = -(-config.num_points // recipe.batch_size) * recipe.batch_size
    settings = training.Config(
        data=config.data, data_dir=config.data_dir, num_probe=num_probe, dtype=config.dtype
    )
    setup = training.prepare(settings, recipe, config.seed)
    x, x_prime = (view[: config.num_points] for view in (setup.x, setup.x_prime))

    @jax.jit
    def embed(params: Any, batch_stats: Any) -> dict[str, jax.Array]:
        outputs = partial(networks.batch_outputs, setup.parts.model, params, batch_stats)
        z, z_prime = outputs(x).z, outputs(x_prime).z
        eigenvalues = spectrum.correlation_eigenvalues(z, z_prime)
        return {"z": z, "z_prime": z_prime, "eigenvalues": eigenvalues}

    at = np.geomspace(config.first_step, config.num_steps, config.num_frames - 1)
    trained = train.fit(
        train.compile_step(setup.parts.step),
        setup.state,
        setup.images,
        num_steps=config.num_steps,
        batch_size=recipe.batch_size,
        record=lambda state: embed(state.params, state.batch_stats),
        record_at=np.unique(np.r_[0, at.round().astype(int)]),
        progress="animation",
    )
    shown = np.resize(setup.labels, num_probe)[: config.num_points]
    return {**trained.records, "loss": trained.metrics["loss"], "labels": shown}


EXPERIMENT = Experiment({"cpu": Config(), "paper": Config()}, run, minutes=2, alone=True)
