"""Claims of the experiment `width_sweep`."""

from experiments.beyond.width_sweep.experiment import PARAMETERIZATIONS, Config
from sslstep import claims
from sslstep.experiment import Arrays, prediction

TITLES = {"simclr": "SimCLR", "vicreg": "VICReg"}


def check(config: Config, arrays: Arrays) -> list[claims.Claim]:
    """Claims on the exponents of the distances as powers of the width."""
    of = "" if config.loss == "barlow_twins" else f", {TITLES[config.loss]}"
    return [
        claim
        for p, name in enumerate(PARAMETERIZATIONS)
        for i, measure in enumerate(prediction.MEASURES)
        for claim in prediction.exponent_claims(
            f"distance of the {measure} from the infinite-width prediction, {name} "
            f"parameterisation{of}",
            "Section 5, beyond the paper",
            arrays["widths"],
            arrays["distances"][p, :, :, i],
            fit_from=config.fit_from,
            expected=-0.5,
        )
    ]
