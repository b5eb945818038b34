"""Claims of the experiment `any_loss`."""

import numpy as np

from experiments.beyond.any_loss.experiment import Config
from experiments.beyond.any_loss.losses import LOSSES
from sslstep import claims
from sslstep.experiment import Arrays

WHERE = "beyond the paper"


def check(config: Config, arrays: Arrays) -> list[claims.Claim]:
    """Claims on step times, plateaus and first rates; on SimCLR from zero; on three baselines.

    The baselines are equal waits, the prediction of simplified Barlow Twins, and the estimate from
    saddle to saddle.
    """
    out = []
    for name in config.losses:
        loss = LOSSES[name]
        for what, errors, allowed in (
            ("step times, largest relative error", step_errors(arrays, name), loss.within),
            (
                "loss at the end of each plateau, largest error relative to what training lowers",
                plateau_errors(arrays, name),
                0.01,
            ),
            (
                "relative error of the first growth rate, as the loss's second variation gives it",
                np.abs(arrays[f"{name}/predicted_rate"] / arrays[f"{name}/rate"] - 1),
                1e-3,
            ),
        ):
            out.append(
                claims.over_seeds(
                    f"{loss.title}: {what}",
                    "Eq. 10" if name == "simplified" else WHERE,
                    "<=",
                    measured=errors.tolist(),
                    tolerance=allowed,
                )
            )
    if "simclr" in config.losses:
        alone = arrays["simclr/alone"] / config.dim
        out += [
            claims.over_seeds(
                "SimCLR from its first saddle: the fraction of dimensions that rises alone, "
                "trained less predicted",
                WHERE,
                "=",
                measured=(alone - arrays["simclr/predicted_alone"] / config.dim).tolist(),
                tolerance=0.5 / config.dim,
            ),
            claims.over_seeds(
                "SimCLR from zero, where it has no growth rates: the fraction of dimensions that "
                "rises alone, less that from its first saddle",
                "Section 6, beyond the paper",
                "<=",
                measured=(arrays["simclr/zero_alone"] / config.dim - alone).tolist(),
                tolerance=-0.5 / config.dim,
            ),
        ]
    others = [name for name in config.losses if name not in ("simplified", "simclr")]
    even = np.stack([constant_wait_errors(arrays, name) for name in config.losses])

    def add_baseline(what: str, errors: np.ndarray) -> None:
        statement = f"step times {what}"
        out.append(
            claims.over_seeds(statement, WHERE, ">=", expected=0.05, measured=errors.tolist())
        )

    add_baseline(
        "if all waits were as long as the first: largest relative error, of the loss where it "
        "is least",
        even.min(axis=0),
    )
    if "simplified" in config.losses and others:
        wrong = np.stack([step_errors(arrays, name, "simplified") for name in others])
        add_baseline(
            "by the prediction of simplified Barlow Twins: largest relative error, median over "
            "the other losses",
            np.median(wrong, axis=0),
        )
        saddles = [np.nanmax(np.abs(saddle_errors(arrays, name)), axis=1) for name in others
                   if np.isfinite(arrays[f"{name}/saddle_step_times"]).any()]  # fmt: skip
        if saddles:
            add_baseline(
                "by the estimate from saddle to saddle: largest relative error, median over "
                "the other losses that have one",
                np.median(saddles, axis=0),
            )
    return out


def step_errors(arrays: Arrays, name: str, predicted: str | None = None) -> np.ndarray:
    """Return the largest relative error of predicted step times over dimensions, shape (seeds,).

    `predicted` names the loss whose prediction is compared, by default the trained loss. The error
    is infinite if prediction and training do not learn the same dimensions.
    """
    found, measured = (
        arrays[f"{predicted or name}/predicted_step_times"],
        arrays[f"{name}/step_times"],
    )
    neither, one = np.isinf(found) & np.isinf(measured), np.isinf(found) ^ np.isinf(measured)
    with np.errstate(invalid="ignore"):
        errors = np.where(neither, 0.0, np.where(one, np.inf, np.abs(found / measured - 1)))
    largest: np.ndarray = errors.max(axis=1)
    return largest


def saddle_errors(arrays: Arrays, name: str) -> np.ndarray:
    """Return the relative errors of the estimate from saddle to saddle, shape (seeds, d).

    The error is NaN for a dimension that is not learned, and for losses without this estimate.
    """
    times = arrays[f"{name}/step_times"]
    errors: np.ndarray = arrays[f"{name}/saddle_step_times"] / times - 1
    return np.where(np.isfinite(times), errors, np.nan)


def constant_wait_errors(arrays: Arrays, name: str) -> np.ndarray:
    """Return the largest relative error if all waits equal the first, shape (seeds,)."""
    times = arrays[f"{name}/step_times"]
    even = times[:, :1] * np.arange(1, times.shape[1] + 1)
    errors: np.ndarray = np.where(np.isinf(times), 0, np.abs(even / times - 1)).max(axis=1)
    return errors


def plateau_errors(arrays: Arrays, name: str) -> np.ndarray:
    """Return the largest error of the predicted plateau losses, shape (seeds,).

    Errors are relative to the decrease of the loss over the whole training.
    """
    level = arrays[f"{name}/loss"]
    errors = np.abs(arrays[f"{name}/predicted_rests"] - arrays[f"{name}/rests"]).max(axis=1)
    relative: np.ndarray = errors / (level[:, 0] - level[:, -1])
    return relative
