"""The claims, and the numbers that they compare."""

from experiments.beyond.width_sweep.experiment import PARAMETERIZATIONS, Config
from sslstep import claims
from sslstep.experiment import Arrays, prediction


def check(config: Config, arrays: Arrays) -> list[claims.Claim]:
    """The exponents, and that nothing but width limits the agreement."""
    results = []
    for p, name in enumerate(PARAMETERIZATIONS):
        for i, measure in enumerate(prediction.MEASURES):
            results += prediction.exponent_claims(
                f"distance of the {measure} from the infinite-width prediction, {name} "
                f"parameterisation",
                "Section 5, beyond the paper",
                arrays["widths"],
                arrays["distances"][p, :, :, i],
                fit_from=config.fit_from,
                expected=-0.5,
            )
    return [*results, *_check_closed_form(config, arrays)]


def _check_closed_form(config: Config, arrays: Arrays) -> list[claims.Claim]:
    scales, measured, first_order = arrays["closed_form"].T
    return [
        claims.close(
            f"at infinite width, the closed form's distance from gradient flow of the kernel "
            f"is that of the elements it leaves out: ratio at α = {scales[-1]:.0e}, where the "
            f"distance is {measured[-1]:.2g}",
            "Eq. 42, Result 4.6",
            expected=1.0,
            measured=float(measured[-1] / first_order[-1]),
            # What is of second order in the elements, d of which are of this size.
            tolerance=config.dim * float(scales[-1] ** arrays["alignment_exponent"]),
        ),
        claims.below(
            "and it falls with α without exception: largest ratio of successive distances",
            "Eq. 42, Result 4.6",
            measured=float((measured[1:] / measured[:-1]).max()),
            tolerance=1.0,
        ),
    ]
