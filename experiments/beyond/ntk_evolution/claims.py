"""Claims of the experiment `ntk_evolution`: exponents and constants of theory."""

import numpy as np

from experiments.beyond.ntk_evolution.experiment import Config
from sslstep import claims
from sslstep.experiment import Arrays, prediction

WHERE = "Section 5, beyond the paper"
# Tolerance of the ratio of a squared movement to theory's, without a fit: a sanity bound.
CONSTANT_MARGIN = 0.25


def check(config: Config, arrays: Arrays) -> list[claims.Claim]:
    """Return the claims on the kernel's movement and on predictions of learned embeddings."""
    return [*_check_movement(config, arrays), *_check_learned(config, arrays)]


def _check_movement(config, arrays) -> list[claims.Claim]:
    """Return the claims on the exponents and constants of the kernel's movement."""
    hidden, output, _ = np.moveaxis(arrays["lazy_movement"], -1, 0)
    theory, theory_error = np.moveaxis(arrays["lazy_theory"], -1, 0)
    own = float(np.sqrt(np.sum(theory_error[-1] ** 2)) / np.sum(theory[-1]))
    called, small = "movement of the NTK in lazy training", arrays["small_movement"]
    exponents = (
        (f"{called}, part of the output weights", output, -1.0),
        (f"{called}, part of the hidden weights", hidden, -0.75),
        ("movement from small weights, α² width^1/2 fixed", small, 0.0),
    )
    widths, fit_from = arrays["widths"], config.fit_from
    return [
        *(
            claim
            for what, values, expected in exponents
            for claim in prediction.exponent_claims(
                what, WHERE, widths, values, fit_from=fit_from, expected=expected
            )
        ),
        claims.over_seeds(
            f"{called}, part of the hidden weights, squared, at width {widths[-1]}: mean over "
            f"theory's, without a fit, theory's own error {own:.3f} (sanity bound)",
            WHERE,
            "=",
            expected=1.0,
            measured=(hidden[-1] ** 2 / theory[-1]).tolist(),
            # Reduced by twice the standard error of theory's constant.
            tolerance=max(CONSTANT_MARGIN - 2 * own, 0.0),
        ),
        claims.above(
            "from small weights the kernel moves by more than its own size, as κ < 1: least "
            "movement",
            WHERE,
            expected=1.0,
            measured=float(small.min()),
        ),
    ]


def _check_learned(config, arrays) -> list[claims.Claim]:
    """Return the claims on predictions of the learned embeddings."""
    wide = arrays["widths"] >= config.fit_from
    initial, final, _ = np.moveaxis(arrays["small_misalignment"], -1, 0)
    lazy, floor = arrays["lazy_misalignment"][-1, :, 2], arrays["lazy_floor"][-1]
    return [
        claims.above(
            f"from small weights, width >= {config.fit_from}, the final NTK predicts what was "
            f"learned better than the initial one: least ratio of their misalignments",
            "App. E",
            expected=1.0,
            measured=float((initial / final)[wide].min()),
        ),
        claims.over_seeds(
            f"lazy networks of width {arrays['widths'][-1]} miss the infinite-width kernel's "
            f"prediction by as much as its own descent from α = {config.init_scale} does "
            f"(misalignment {floor.mean():.3f}): difference",
            "Eq. 49",
            "=",
            expected=0.0,
            measured=(lazy - floor).tolist(),
            tolerance=0.01,  # of embeddings whose squared length is 1
        ),
    ]
