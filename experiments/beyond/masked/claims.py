"""Claims of the experiment `masked`."""

import numpy as np

from experiments.beyond.masked.experiment import STARTS, Config
from sslstep import claims
from sslstep.experiment import Arrays, curves
from sslstep.measure import steps


def check(config: Config, arrays: Arrays) -> list[claims.Claim]:
    """Claims on step times and waits of the linear model, and on steps of the network."""
    here = [f"linear/{scale:g}" for scale in config.scales]
    predicted, measured = (
        np.stack([arrays[f"{each}/{key}"] for each in here]) for key in ("predicted", "step_times")
    )
    first = np.stack([[arrays[f"{e}/random/{seed}"][0] for seed in config.seeds] for e in here])
    # Layers of the scale α have a product of α², which grows at 4 σ.
    slopes = np.polyfit(np.log(1 / arrays["scales"]), first, 1)[0] * 2 * arrays["sigmas"][0]
    out = [
        claims.below(
            "linear, whitened, aligned: step times, largest relative error of the prediction",
            "Section 7, beyond the paper",
            measured=float(np.abs(measured / predicted - 1).max()),
            tolerance=0.01,
        ),
        claims.over_seeds(
            "linear, whitened, random: the wait for the first dimension; its slope, in units of "
            "ln(1/α) / 2σ_1",
            "Section 7, beyond the paper",
            "=",
            expected=1.0,
            measured=[float(slope) for slope in slopes],
            tolerance=0.05,
        ),
    ]
    counts = {start: [rises_of(arrays, start, seed) for seed in config.seeds] for start in STARTS}
    small, ordinary = (
        [float(steps.isolated(rises).sum()) for rises in counts[start]] for start in STARTS
    )
    alone = claims.over_seeds(
        "network, small start: dimensions of the hidden representation that rise alone, from 0.1 "
        "to 0.7 of their level while no other does",
        "Section 7",
        ">=",
        expected=2,
        measured=small,
    )
    if config.data == "photos":
        alone = alone.known_to_fail(
            "eigenvalues drift upwards after their jump, and reach half of their largest value "
            "when others rise"
        )
    out += [
        alone,
        claims.over_seeds(
            "network: by how many more rise alone from the small start than from the ordinary one",
            "Section 7",
            ">=",
            expected=1,
            measured=np.subtract(small, ordinary).tolist(),
        ),
        curves.spread_claim(
            "network, small start: they do not rise all at once", "Section 7", counts["small"]
        ),
    ]
    return out


def rises_of(arrays: Arrays, start: str, seed: int) -> steps.Rises:
    """Return the rises of the hidden dimensions that outgrow the start, to their largest value."""
    t, hidden = (arrays[f"{start}/{seed}/{key}"] for key in ("record_t", "hidden"))
    levels = steps.grown_levels(hidden)
    if not np.isfinite(levels).any():  # no dimension grows
        levels = np.full(len(levels), 1e9 * hidden.max())
    found = steps.rises(t, hidden, levels, high=0.7)
    return steps.Rises(*(np.asarray(part) for part in found))
