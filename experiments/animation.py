"""Embeddings while they are learned, as an animation: a point, a line, a plane, a solid.

    make animation    or    python -m experiments.animation

The ResNet of Figure 1 (C, D) is trained once more, and embeddings of fixed pairs are kept along the
way. Left: the embeddings along the first three directions that are learned, in their order, one
colour for each photograph. Right: the training loss and the eigenvalues of C. Writes
results/animation/embeddings.gif; a minute on two cores.
"""

import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jax
import numpy as np
import tyro

from experiments import _training, resnet_small_init
from experiments._images import Source
from experiments._require import require
from sslstep import plotting, train
from sslstep.measure import spectrum


@dataclass(frozen=True)
class Options:
    """Settings; each is one option of the command."""

    out: Path = Path("results/animation/embeddings.gif")
    """The file."""
    num_points: int = 256
    """Images whose embeddings are shown."""
    num_frames: int = 70
    """Of the animation, at steps that are spaced evenly in their logarithm."""
    num_steps: int = 150
    """Of training: three dimensions."""
    first_step: int = 2
    """Of the second frame; the first shows the start."""
    seconds: float = 8.0
    """How long it lasts."""
    seed: int = 1
    """Of everything. With 1, the first three dimensions are learned far from each other."""
    data: Source = "photos"
    """Where the images come from: by name, or a folder of one's own."""
    data_dir: str | None = None
    """Folder of prepared TFDS data, for cifar10 and stl10; TFDS's own default if not given."""


def follow(options: Options) -> dict[str, np.ndarray]:
    """Train, and keep what the frames show."""
    recipe = resnet_small_init.CPU.barlow_twins
    num_probe = -(-options.num_points // recipe.batch_size) * recipe.batch_size
    config = _training.Config(data=options.data, data_dir=options.data_dir, num_probe=num_probe)
    setup = _training.prepare(config, recipe, options.seed)
    x, x_prime = (view[: options.num_points] for view in (setup.x, setup.x_prime))

    @jax.jit
    def embed(params: Any, batch_stats: Any) -> dict[str, jax.Array]:
        variables = {"params": params, "batch_stats": batch_stats}
        z, z_prime = (
            setup.model.apply(variables, view, train=True, mutable=["batch_stats"])[0].z
            for view in (x, x_prime)
        )
        return {"z": z, "z_prime": z_prime, "eigenvalues": spectrum.eigenvalues(z, z_prime)}

    at = np.geomspace(options.first_step, options.num_steps, options.num_frames - 1)
    run = train.fit(
        train.compile_step(setup.step),
        setup.state,
        setup.images,
        num_steps=options.num_steps,
        batch_size=recipe.batch_size,
        record=lambda state: embed(state.params, state.batch_stats),
        record_at=np.unique(np.r_[0, at.round().astype(int)]),
        progress="animation",
    )
    shown = np.resize(setup.labels, num_probe)[: options.num_points]
    return {**run.records, "loss": run.metrics["loss"], "labels": shown}


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
        basis = np.concatenate([basis, np.linalg.svd(rest)[0][:, :1]], axis=1)
    return basis


def animate(options: Options, found: dict[str, np.ndarray]) -> None:
    """Draw the frames and write the file."""
    import matplotlib.pyplot as plt
    from matplotlib.animation import FuncAnimation, PillowWriter

    steps, eigenvalues = found["step"], found["eigenvalues"]
    points = found["z"] @ learned_directions(found, 3)
    with plotting.style(), plt.rc_context({"figure.constrained_layout.use": False}):
        fig = plt.figure(figsize=(7.2, 3.4))
        solid: Any = fig.add_axes((-0.02, 0.02, 0.5, 0.96), projection="3d")
        loss_ax = fig.add_axes((0.63, 0.58, 0.35, 0.36))
        modes_ax = fig.add_axes((0.63, 0.14, 0.35, 0.36))
        colors = plt.get_cmap("tab10")(found["labels"] % 10)
        dots = solid.scatter(*points[0].T, s=7, c=colors, depthshade=False)
        bound = 1.05 * float(np.quantile(np.abs(points), 0.995))
        solid.set(xlim=(-bound, bound), ylim=(-bound, bound), zlim=(-bound, bound))
        for axis, name in zip("xyz", ("first", "second", "third"), strict=True):
            getattr(solid, f"set_{axis}label")(name, labelpad=-8)
        solid.tick_params(labelbottom=False, labelleft=False, labelright=False, length=0)
        loss_ax.plot(np.arange(1, len(found["loss"]) + 1), found["loss"], color="0.4", lw=0.8)
        for j, color in enumerate(plotting.mode_colors(eigenvalues.shape[1])):
            modes_ax.plot(np.maximum(steps, 1), eigenvalues[:, j], color=color, lw=0.9)
        for ax in (loss_ax, modes_ax):
            ax.set_xscale("log")
            ax.set_xlim(options.first_step, steps[-1])
        loss_ax.set(ylabel="training loss", xticklabels=[])
        modes_ax.set(ylabel="eigenvalues of $C$", xlabel="step", ylim=(-0.05, 1.3))
        marks = [ax.axvline(1, color="black", lw=0.8) for ax in (loss_ax, modes_ax)]
        title = fig.text(0.03, 0.93, "")

        def draw(frame: int) -> None:
            dots._offsets3d = tuple(points[frame].T)
            solid.view_init(elev=18, azim=-60 + 40 * frame / len(steps))
            for mark in marks:
                mark.set_xdata([max(steps[frame], 1)] * 2)
            learned = int(np.sum(eigenvalues[frame] > 0.5))
            plural = "" if learned == 1 else "s"
            title.set_text(f"step {steps[frame]}: {learned} dimension{plural} learned")

        # The last frame stays for a while.
        frames = [*range(len(steps)), *[len(steps) - 1] * 15]
        options.out.parent.mkdir(parents=True, exist_ok=True)
        draft = options.out.with_name(f"partial-{options.out.name}")
        movie = FuncAnimation(fig, draw, frames=frames)
        movie.save(
            draft, writer=PillowWriter(fps=max(1, round(len(frames) / options.seconds))), dpi=110
        )
        plt.close(fig)
    draft.replace(options.out)


def main(options: Options) -> None:
    """Train and draw; what a user can mend is one line."""
    least = 4 * resnet_small_init.CPU.barlow_twins.dim
    try:
        require(options, at_least={"num_frames": 2, "num_points": least})
        animate(options, follow(options))
    except (OSError, ValueError, FloatingPointError) as error:
        sys.exit(f"animation: {error}")
    except KeyboardInterrupt:
        sys.exit("animation: interrupted")
    print(options.out)


if __name__ == "__main__":
    main(tyro.cli(Options, prog="python -m experiments.animation", description=__doc__))
