"""Claims of the experiment `fig9`."""

import jax.numpy as jnp
import numpy as np

from experiments.fig9.experiment import Config, landscapes
from sslstep import claims
from sslstep.experiment import Arrays

#: Names of the losses compared.
NAMES = ("plain", "sharpened", "smoothed", "quartic", "hinge", "preconditioned")

#: Section or equation of the paper that proposes a loss.
PLACES = {"sharpened": "G.2", "preconditioned": "G.1, Eq. 52"}


def along(config: Config, arrays: Arrays, name: str, key: str) -> np.ndarray:
    """Return an array of a loss at every ratio of eigenvalues; of modes the last one's value."""
    return np.array([np.ravel(arrays[f"{name}/{ratio:g}/{key}"])[-1] for ratio in config.ratios])


def check(config: Config, arrays: Arrays) -> list[claims.Claim]:
    """Return the claims on predicted steps and on closed-form speed-ups of the linear model."""
    out, shown, all_losses = [], f"{config.shown:g}", landscapes(config)
    place, plain_slack = config.ratios.index(config.shown), np.zeros(len(config.ratios))
    plain = along(config, arrays, "plain", "steps")
    for name in NAMES:
        last = along(config, arrays, name, "steps")
        errors = last / along(config, arrays, name, "predicted") - 1
        growth = 2 * config.rate * along(config, arrays, name, "limit") / np.array(config.ratios)
        growth *= float(all_losses[name].force(jnp.zeros(())))
        # A step multiplies by 1 + x, flow by e^x; steps are counted to half a step.
        slack = growth / 2 + 0.5 / last
        worst = int(np.argmax(np.abs(errors) - slack))
        out.append(
            claims.below(
                f"linear model, {name}: the step by which all d modes are learned, relative error "
                f"of the mode equation (worst ratio of eigenvalues)",
                PLACES.get(name, "G.3" if name != "plain" else "Eq. 12"),
                measured=float(abs(errors[worst])),
                tolerance=float(slack[worst]),
            )
        )
        if name == "plain":
            plain_slack = slack
            continue
        measured = plain / last
        both = float(slack[place] + plain_slack[place])
        closed = float(arrays[f"{name}/{shown}/speedup"])
        out.append(
            claims.close(
                f"linear model, {name}: how many times fewer steps than plain descent, each at "
                f"{config.rate:g} of its largest rate, against the closed form "
                f"(γ_1/γ_d = {shown})",
                PLACES.get(name, "G.3"),
                expected=closed,
                measured=float(measured[place]),
                tolerance=closed * both,
            )
        )
        if name in PLACES:
            out.append(
                claims.above(
                    f"linear model, {name}: the ratio to plain descent grows with γ_1/γ_d, its "
                    f"last over its first",
                    PLACES[name],
                    expected=1.0,
                    measured=float(measured[-1] / measured[0]),
                )
            )
    return out
