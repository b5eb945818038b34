"""Figure of the experiment `mlp_readings`."""

from typing import Any

import numpy as np

from experiments.beyond.mlp_readings.experiment import READINGS, Config, Reading
from sslstep import plotting
from sslstep.experiment import Arrays


def plot(config: Config, arrays: Arrays) -> Any:
    """Draw measured and predicted step times in a row for each reading."""
    fig, ax = plotting.subplots(figsize=(7.0, 0.6 + 0.22 * len(READINGS)))
    blue, rows = plotting.CATEGORIES[0], np.arange(len(READINGS))
    last = 100 * config.num_steps
    for row in rows:
        predicted, steps = arrays["predicted_steps"][row], arrays["steps"][row]
        shown = predicted[predicted < last]
        ax.plot(shown, np.full(len(shown), row), "|", color="black", markersize=9)
        learned = steps[np.isfinite(steps)]
        ax.plot(learned, np.full(len(learned), row), "o", color=blue, markersize=3.5)
        start, end = arrays["losses"][row]
        text = f"{start:.2f} to {end:.2f}" if np.isfinite(end) else "diverges"
        ax.annotate(text, (1.02, row), xycoords=("axes fraction", "data"), va="center", fontsize=7)
    ax.plot([], [], "|", color="black", markersize=9, label="predicted from the initial NTK")
    ax.plot([], [], "o", color=blue, markersize=3.5, label="network")
    ax.axvline(config.num_steps, color="0.5", linewidth=0.8, label="end of training")
    ax.annotate("loss", (1.02, -1), xycoords=("axes fraction", "data"), va="center", fontsize=7)
    ax.set(xscale="log", xlim=(1, last), ylim=(len(READINGS) - 0.4, -1.4))
    ax.set_xlabel("step at which a mode is learned")
    ax.set_yticks(rows, [_label(reading) for reading in READINGS])
    ax.legend(loc="upper left")
    return fig


def _label(reading: Reading) -> str:
    """Return the label of a reading."""
    of = {
        "output": "embeddings",
        "all": "all parameters",
        "weights": "weights, not biases",
        "first": "first layer",
        "last": "last layer",
        "none": "nothing",
    }[reading.scaled]
    pixels = {"unit": "in [0, 1]", "symmetric": "in [-1, 1]", "bytes": "in 0...255"}
    biases = {"both": "", "hidden": ", no output bias", "none": ", no biases"}[reading.biases]
    of_c = "; C summed" if reading.correlation == "sum" else ""
    return f"{of}; pixels {pixels.get(reading.pixels, reading.pixels)}{biases}{of_c}"
