"""Figure of the experiment `animation`."""

from pathlib import Path
from typing import Any

import numpy as np

from experiments.beyond.animation.experiment import Config
from sslstep import plotting
from sslstep.experiment import Arrays


def learned_directions(found: dict[str, np.ndarray], num: int) -> np.ndarray:
    """Return an orthonormal basis (d, num) of the first learned directions, in order of learning.

    At the first record with k eigenvalues of C above one half, the k leading eigenvectors of C
    contain one direction orthogonal to the k - 1 directions found before.
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
    """The figure, with the artists that change from frame to frame."""

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
        solid.tick_params(labelsize=5, pad=-4, length=0)
        loss = arrays["loss"]
        loss_ax.plot(np.arange(1, len(loss) + 1), loss, color="0.4", lw=0.8)
        for j, color in enumerate(plotting.mode_colors(self.eigenvalues.shape[1])):
            modes_ax.plot(np.maximum(self.steps, 1), self.eigenvalues[:, j], color=color, lw=0.9)
        for ax in (loss_ax, modes_ax):
            ax.set(xscale="log", xlim=(config.first_step, self.steps[-1]))
        loss_ax.set(ylabel="training loss", xticklabels=[])
        modes_ax.set(ylabel="eigenvalues of $C$", xlabel="step", ylim=(-0.05, 1.3))
        self.marks = [ax.axvline(1, color="black", lw=0.8) for ax in (loss_ax, modes_ax)]
        self.solid, self.title = solid, self.fig.text(0.03, 0.93, "")

    def show(self, frame: int) -> None:
        """Update the figure to the record of one frame."""
        step = self.steps[frame]
        self.dots._offsets3d = tuple(self.points[frame].T)
        self.solid.view_init(elev=18, azim=-60 + 40 * frame / len(self.steps))
        for mark in self.marks:
            mark.set_xdata([max(step, 1)] * 2)
        learned = int(np.sum(self.eigenvalues[frame] > 0.5))
        plural = "" if learned == 1 else "s"
        self.title.set_text(f"step {step}: {learned} dimension{plural} learned")


def plot(config: Config, arrays: Arrays) -> Any:
    """Draw the last frame of the animation."""
    scene = Scene(config, arrays)
    scene.show(len(scene.steps) - 1)
    return scene.fig


def movie(config: Config, arrays: Arrays, folder: Path) -> Path:
    """Write the animation to embeddings.gif in a folder; return its path."""
    import matplotlib.pyplot as plt
    from matplotlib.animation import FuncAnimation, PillowWriter

    scene = Scene(config, arrays)
    # Repeat the last frame.
    frames = [*range(len(scene.steps)), *[len(scene.steps) - 1] * 15]
    writer = PillowWriter(fps=max(1, round(len(frames) / config.seconds)))
    draft = folder / "partial-embeddings.gif"
    FuncAnimation(scene.fig, scene.show, frames=frames).save(draft, writer=writer, dpi=110)
    plt.close(scene.fig)
    return draft.replace(folder / "embeddings.gif")
