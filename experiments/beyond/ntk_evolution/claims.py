"""What `ntk_evolution` claims: exponents and constants of theory, over networks."""

import numpy as np

from experiments.beyond.ntk_evolution import ntk_rate
from experiments.beyond.ntk_evolution.experiment import Config
from sslstep import claims
from sslstep.experiment import Arrays, prediction

WHERE = "Section 5, beyond the paper"
MISALIGNMENT = "misalignment of the predicted embedding"
# Of a squared distance over theory's: that of the scalar NTK and that of the trace NTK, of which
# theory says how they differ, do so by about as much.
CONSTANT_MARGIN = 0.25


def check(config: Config, arrays: Arrays) -> list[claims.Claim]:
    """Rates at initialisation, movement in training, and predictions of what is learned."""
    return [
        *_check_initial(config, arrays),
        *_check_movement(config, arrays),
        *_check_learned(config, arrays),
    ]


def _exponents(config, arrays, what: str, values, expected: float) -> list[claims.Claim]:
    # Of a square, the misalignment, the exponent and its margin are twice as large.
    tolerance = prediction.EXPONENT_MARGIN * (2 if what.endswith(MISALIGNMENT) else 1)
    return prediction.exponent_claims(
        what,
        WHERE,
        arrays["widths"],
        values,
        fit_from=config.fit_from,
        expected=expected,
        tolerance=tolerance,
    )


def _constant(what: str, values, theory_error: float = 0.0) -> claims.Claim:
    """A square over theory's, one value of each network: the mean is 1.

    Squares are skewed as that of one normal number is, so that of few networks the interval covers
    the mean somewhat less often than it says.
    """
    own = f", theory's own error {theory_error:.3f}" if theory_error else ""
    return claims.over_seeds(
        f"{what}: mean over theory's, without a fit{own}",
        WHERE,
        "=",
        expected=1.0,
        measured=values.tolist(),
        # What theory does not know better is taken off.
        tolerance=max(CONSTANT_MARGIN - 2 * theory_error, 0.0),
    )


def _check_initial(config, arrays) -> list[claims.Claim]:
    widths = arrays["widths"][:, None].astype(float)
    rates = arrays["distance_rate"] ** 2
    results, squares = [], []
    for k, kind in enumerate(ntk_rate.KINDS):
        distance, deviation, angle = (
            arrays[name][..., k] for name in ("distance", "deviation", "misalignment")
        )
        called = f"{kind} NTK's distance from the infinite-width kernel"
        squares.append((widths * distance**2).mean(axis=0))
        results += [
            *_exponents(config, arrays, called, distance, -0.5),
            _constant(f"{called}, squared, all widths", squares[-1] / rates[k]),
        ]
        forms = (
            ("rms relative distance of the first eigenvalues", "gamma", deviation, 2, -0.5),
            (MISALIGNMENT, "misalignment", angle, 1, -1.0),
        )
        for what, name, values, power, exponent in forms:
            rate, own = arrays[f"rate_{name}"][k], arrays[f"rate_{name}_error"][k]
            called = f"{kind} NTK: {what}"
            squared = ", squared" if power == 2 else ""
            # To first order, so at the widest: modes mix where they are closer than they fluctuate.
            ratios = widths[-1] * values[-1] ** power / rate
            results += [
                *_exponents(config, arrays, called, values, exponent),
                _constant(
                    f"{called}{squared}, at width {arrays['widths'][-1]}",
                    ratios,
                    float(own / rate),
                ),
            ]
    expected = float(rates[1] / rates[0] - 1)
    results.append(
        claims.over_seeds(
            f"the trace NTK is closer to the limit than the scalar one, for d = {config.dim}: "
            f"difference of their squared distances, over the scalar one's in theory",
            WHERE,
            "=",
            expected=expected,
            measured=((squares[1] - squares[0]) / rates[0]).tolist(),
            tolerance=abs(expected) / 2,  # nearer to theory's than to none
        )
    )
    return results


def _check_movement(config, arrays) -> list[claims.Claim]:
    hidden, output, _ = np.moveaxis(arrays["lazy_movement"], -1, 0)
    theory, theory_error = np.moveaxis(arrays["lazy_theory"], -1, 0)
    own = float(np.sqrt(np.sum(theory_error[-1] ** 2)) / np.sum(theory[-1]))
    called = "movement of the NTK in lazy training"
    small = arrays["small_movement"]
    return [
        *_exponents(config, arrays, f"{called}, part of the output weights", output, -1.0),
        *_exponents(config, arrays, f"{called}, part of the hidden weights", hidden, -0.75),
        _constant(
            f"the latter, squared, at width {arrays['widths'][-1]}",
            hidden[-1] ** 2 / theory[-1],
            own,
        ),
        *_exponents(config, arrays, "movement from small weights, α² width^1/2 fixed", small, 0.0),
        claims.above(
            "and there the kernel moves by more than its own size, as κ < 1: least movement",
            WHERE,
            expected=1.0,
            measured=float(small.min()),
        ),
    ]


def _check_learned(config, arrays) -> list[claims.Claim]:
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
