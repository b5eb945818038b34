"""Embeddings while they are learned, as an animation: a point, a line, a plane, a solid.

    make animation    or    python -m experiments.animation

The ResNet of Figure 1 (C, D) is trained once more, and embeddings of fixed pairs are kept along the
way. Left: the embeddings along the first three directions that are learned, in their order, one
colour for each photograph. Right: the training loss and the eigenvalues of C. Writes
embeddings.gif, and its last frame as the figure; a minute on two cores. Presets are the same.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import jax
import numpy as np

from experiments import _training, resnet_small_init
from experiments._images import Source
from experiments._require import require
from experiments._run import Arrays, Experiment, command
from sslstep import claims, plotting, train
from sslstep.measure import spectrum


@dataclass(frozen=True)
class Config:
    """Settings; each is one option of the command."""

    num_points: int = 256
    """Images whose embeddings are shown."""
    num_frames: int = 70
    """Frames of the animation, at steps that are spaced evenly in their logarithm: of the first,
    which are close, those that round to one step are one."""
    num_steps: int = 150
    """Steps of training: three dimensions."""
    first_step: int = 2
    """Step of the second frame; the first shows the start."""
    seconds: float = 8.0
    """How long it lasts."""
    seed: int = 1
    """Seed of all. With 1, the first three dimensions are learned far from each other."""
    data: Source = "photos"
    """Where the images come from: by name, or a folder of one's own."""
    data_dir: str | None = None
    """Folder of prepared TFDS data, for cifar10 and stl10; TFDS's own default if not given."""
    dtype: Literal["float32", "bfloat16"] = "float32"
    """In which the network computes."""


def run(config: Config) -> Arrays:
    """Train, and keep what the frames show."""
    recipe = resnet_small_init.CPU.barlow_twins
    least = {"num_frames": 2, "num_points": 4 * recipe.dim, "first_step": 1}
    require(config, at_least=least, positive=("seconds",))
    num_probe = -(-config.num_points // recipe.batch_size) * recipe.batch_size
    settings = _training.Config(
        data=config.data, data_dir=config.data_dir, num_probe=num_probe, dtype=config.dtype
    )
    setup = _training.prepare(settings, recipe, config.seed)
    x, x_prime = (view[: config.num_points] for view in (setup.x, setup.x_prime))

    @jax.jit
    def embed(params: Any, batch_stats: Any) -> dict[str, jax.Array]:
        variables = {"params": params, "batch_stats": batch_stats}
        z, z_prime = (
            setup.model.apply(variables, view, train=True, mutable=["batch_stats"])[0].z
            for view in (x, x_prime)
        )
        return {"z": z, "z_prime": z_prime, "eigenvalues": spectrum.eigenvalues(z, z_prime)}

    at = np.geomspace(config.first_step, config.num_steps, config.num_frames - 1)
    trained = train.fit(
        train.compile_step(setup.step),
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


def learned_directions(found: dict[str, np.ndarray], num: int) -> np.ndarray:
    """An orthonormal basis of the first directions that are learned, in their order, (d, num).

    When k eigenvalues of C have passed one half, its k leading eigenvectors have one direction that
    those before do not.
    """
    basis = np.zeros((found["z"].shape[-1], 0))
    for k in range(1, num + 1):
        passed = found["eigenvalues"][:, k - 1] > 0.5
        if not passed.any():
            raise ValueError(f"only {k - 1} dimensions were learned: give a larger num_steps.")
        first = int(np.argmax(passed))
        z, z_prime = found["z"][first], found["z_prime"][first]
        correlation = z.T @ z_prime / len(z)
        leading = np.linalg.eigh((correlation + correlation.T) / 2)[1][:, ::-1][:, :k]
        rest = leading - basis @ (basis.T @ leading)
        basis = np.concatenate([basis, np.linalg.svd(rest, full_matrices=False)[0][:, :1]], axis=1)
    return basis


class Scene:
    """The figure, and what changes in it from frame to frame."""

    def __init__(self, config: Config, arrays: Arrays) -> None:
        import matplotlib.pyplot as plt

        self.steps, self.eigenvalues = arrays["step"], arrays["eigenvalues"]
        self.points = points = arrays["z"] @ learned_directions(arrays, 3)
        self.fig = plt.figure(figsize=(7.2, 3.4))
        self.fig.set_layout_engine("none")
        solid: Any = self.fig.add_axes((-0.02, 0.02, 0.5, 0.96), projection="3d")
        loss_ax = self.fig.add_axes((0.63, 0.58, 0.35, 0.36))
        modes_ax = self.fig.add_axes((0.63, 0.14, 0.35, 0.36))
        colors = plt.get_cmap("tab10")(arrays["labels"] % 10)
        self.dots: Any = solid.scatter(*points[0].T, s=7, c=colors, depthshade=False)
        bound = 1.05 * float(np.quantile(np.abs(points), 0.995))
        solid.set(xlim=(-bound, bound), ylim=(-bound, bound), zlim=(-bound, bound))
        for axis, name in zip("xyz", ("first", "second", "third"), strict=True):
            getattr(solid, f"set_{axis}label")(name, labelpad=-8)
        solid.tick_params(labelbottom=False, labelleft=False, labelright=False, length=0)
        loss = arrays["loss"]
        loss_ax.plot(np.arange(1, len(loss) + 1), loss, color="0.4", lw=0.8)
        for j, color in enumerate(plotting.mode_colors(self.eigenvalues.shape[1])):
            modes_ax.plot(np.maximum(self.steps, 1), self.eigenvalues[:, j], color=color, lw=0.9)
        for ax in (loss_ax, modes_ax):
            ax.set_xscale("log")
            ax.set_xlim(config.first_step, self.steps[-1])
        loss_ax.set(ylabel="training loss", xticklabels=[])
        modes_ax.set(ylabel="eigenvalues of $C$", xlabel="step", ylim=(-0.05, 1.3))
        self.marks = [ax.axvline(1, color="black", lw=0.8) for ax in (loss_ax, modes_ax)]
        self.solid, self.title = solid, self.fig.text(0.03, 0.93, "")

    def show(self, frame: int) -> None:
        """Move everything to one of the records."""
        step = self.steps[frame]
        self.dots._offsets3d = tuple(self.points[frame].T)
        self.solid.view_init(elev=18, azim=-60 + 40 * frame / len(self.steps))
        for mark in self.marks:
            mark.set_xdata([max(step, 1)] * 2)
        learned = int(np.sum(self.eigenvalues[frame] > 0.5))
        plural = "" if learned == 1 else "s"
        self.title.set_text(f"step {step}: {learned} dimension{plural} learned")


def plot(config: Config, arrays: Arrays) -> Any:
    """The last frame."""
    scene = Scene(config, arrays)
    scene.show(len(scene.steps) - 1)
    return scene.fig


def movie(config: Config, arrays: Arrays, folder: Path) -> Path:
    """All frames."""
    import matplotlib.pyplot as plt
    from matplotlib.animation import FuncAnimation, PillowWriter

    scene = Scene(config, arrays)
    # The last frame stays for a while.
    frames = [*range(len(scene.steps)), *[len(scene.steps) - 1] * 15]
    writer = PillowWriter(fps=max(1, round(len(frames) / config.seconds)))
    draft = folder / "partial-embeddings.gif"
    FuncAnimation(scene.fig, scene.show, frames=frames).save(draft, writer=writer, dpi=110)
    plt.close(scene.fig)
    return draft.replace(folder / "embeddings.gif")


def check(config: Config, arrays: Arrays) -> list[claims.Claim]:
    """That what it shows happens."""
    passed = arrays["eigenvalues"][:, :3] > 0.5
    first = arrays["step"][np.argmax(passed, axis=0)]
    return [
        claims.above(
            "a line, a plane, a solid: how many times as many steps each takes as the one before, "
            "at least",
            "Fig. 1 (D)",
            expected=1.1,
            measured=float(np.min(first[1:] / first[:-1])),
        )
    ]


EXPERIMENT = Experiment(
    "animation",
    __doc__ or "",
    {"cpu": Config(), "paper": Config()},
    run,
    plot,
    check,
    movie=movie,
)

if __name__ == "__main__":
    command(EXPERIMENT)
