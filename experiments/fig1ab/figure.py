"""Figures of the experiment `fig1ab`."""

from typing import Any

from experiments.fig1ab.experiment import Config
from sslstep import plotting
from sslstep.experiment import Arrays, panels


def plot(config: Config, arrays: Arrays) -> Any:
    """Draw the loss, the eigenvalues, and the errors of the predicted step times."""
    fig, (loss, eigenvalues, error) = plotting.subplots(
        3, 1, figsize=(5.0, 6.2), height_ratios=(3, 3, 2)
    )
    measured = "gradient descent"
    panels.loss(loss, arrays, experiment=measured, theory=r"predicted step time $\tau_j$")
    panels.eigenvalues(
        eigenvalues, arrays, experiment=measured, theory=r"predicted $\gamma_j s_j^2(t)$"
    )
    eigenvalues.legend(loc="center", bbox_to_anchor=(0.33, 0.45))
    left = 0.3 * arrays["predicted_step_times"][0]
    for ax in (loss, eigenvalues):
        ax.set(xscale="log", xlim=(left, arrays["t"][-1]))
    eigenvalues.set_xlabel(panels.TIME)
    kinds = (
        ("predicted_step_times_flow", "s", 7, "white", r"Eq. 16, gradient flow"),
        ("predicted_step_times", "o", 3.5, panels.BLUE, "with the rate of gradient descent"),
    )
    panels.step_time_errors(error, arrays, kinds)
    error.set(ylim=(min(-3, error.get_ylim()[0]), max(3, error.get_ylim()[1])))
    error.legend(loc="lower right")
    plotting.mode_key(eigenvalues, arrays["eigenvalues"].shape[1])
    plotting.label_panels((loss, eigenvalues, error))
    return fig
