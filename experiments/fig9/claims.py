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


def check(config: Config, arrays: Arrays) -> list[claims.Claim]:
    """Claims on predicted steps and on closed-form speed-ups of the linear model."""
    out, shown, all_losses = [], f"{config.shown:g}", landscapes(config)
    place, plain_slack = config.ratios.index(config.shown), [0.0] * len(config.ratios)
    last = {
        ratio: {name: arrays[f"{name}/{ratio:g}/steps"][-1] for name in NAMES}
        for ratio in config.ratios
    }
    for name in NAMES:
        errors, slack = [], []
        for ratio in config.ratios:
            key = f"{name}/{ratio:g}"
            errors.append(last[ratio][name] / arrays[f"{key}/predicted"][-1] - 1)
            growth = 2 * config.rate * float(arrays[f"{key}/limit"]) / ratio
            growth *= float(all_losses[name].force(jnp.zeros(())))
            # A step multiplies by 1 + x, flow by e^x; steps are counted to half a step.
            slack.append(growth / 2 + 0.5 / last[ratio][name])
        worst = int(np.argmax(np.abs(errors) - np.asarray(slack)))
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
        measured = np.asarray([last[r]["plain"] / last[r][name] for r in config.ratios])
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
            growing = measured[-1] / measured[0]
            out.append(
                claims.above(
                    f"linear model, {name}: the ratio to plain descent grows with γ_1/γ_d, its "
                    f"last over its first",
                    PLACES[name],
                    expected=1.0,
                    measured=float(growing),
                )
            )
    return out
