"""Figures of the experiment `fig2ab`."""

from typing import Any

import numpy as np

from experiments.fig2ab.reading import Config
from sslstep import plotting
from sslstep.experiment import Arrays, panels


def plot(config: Config, arrays: Arrays) -> Any:
    """Draw the loss, eigenvalues, amplitudes, and errors of the predicted step times."""
    fig, axes = plotting.subplots(2, 2, figsize=(7.0, 4.8))
    (loss, eigenvalues), (amplitudes, error) = axes
    t, names = arrays["t"], {"experiment": "network", "theory": "initial NTK"}
    panels.loss(loss, arrays, experiment="network", theory="predicted step times")
    panels.eigenvalues(eigenvalues, arrays, **names)
    eigenvalues.legend(loc="center left")
    root = arrays["gammas"] ** 0.5
    measured, predicted = (
        root * arrays[name] for name in ("singular_values", "predicted_singular_values")
    )
    plotting.mode_curves(amplitudes, t, measured, predicted, **names)
    amplitudes.set(ylabel=r"amplitude $\sqrt{\gamma_j}\, s_j$", yscale="log", ylim=(1e-7, 3))
    risen = arrays["predicted_step_times"][0]
    for ax in (loss, eigenvalues, amplitudes):
        left = max(0.1 * risen, t[1]) if risen < t[-1] else t[1]
        ax.set(xscale="log", xlim=(left, t[-1]), xlabel=panels.TIME)
    kinds = (
        ("infinite_predicted_step_times", "s", 7, "white", "infinite-width NTK"),
        ("predicted_step_times", "o", 4, panels.BLUE, "initial NTK"),
        ("updated_step_times", "x", 5, panels.BLUE, "initial NTK, from the step before"),
    )
    panels.step_time_errors(error, arrays, kinds)
    panels.make_room(error, above=0.4)
    error.legend(loc="upper left")
    if not np.isfinite(arrays["step_times"]).any():
        error.text(0.5, 0.3, "no mode is learned", transform=error.transAxes, ha="center")
    plotting.mode_key([eigenvalues, error], arrays["eigenvalues"].shape[1])
    plotting.label_panels(axes.flat)
    return fig
