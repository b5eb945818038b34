"""Signal and noise: the small preset, and results that its claims refuse."""

import dataclasses

import numpy as np
import pytest

from experiments.beyond.noise import claims as noise_claims
from experiments.beyond.noise.experiment import EXPERIMENT, kept, run
from sslstep.experiment import load

pytestmark = pytest.mark.slow  # 40,000 pairs of crops

SMALL = EXPERIMENT.presets["small"]


@pytest.fixture(scope="module")
def arrays():
    return run(SMALL)


def test_a_small_run(arrays, require_documented):
    require_documented("noise", arrays)
    assert load("experiments.beyond.noise").plot(SMALL, arrays) is not None
    # Twelve modes and few pairs: the errors of a fluctuation, half of the dimensions noise.
    assert noise_claims.eigenvalue_errors(arrays).max() < 0.4
    assert noise_claims.correlation_errors(arrays).max() < 0.2
    assert (kept(arrays["correlations"]) < SMALL.num_modes).all()
    assert (arrays["correlations"][..., -1] < 0.5).all()
    assert (arrays["stop"] > 0).all()


def verdicts(arrays):
    return [claim.verdict for claim in noise_claims.check(SMALL, arrays)]


def test_claims_hold_of_the_prediction_and_fail_of_the_population(arrays):
    tiny = 1 + 1e-6 * np.linspace(1, 1.1, 3)  # seeds that differ a little
    made = {**arrays, "accuracies": np.ones_like(arrays["accuracies"])}
    for name in ("eigenvalues", "correlations", "edges"):
        value = arrays[f"predicted_{name}"]
        for kind in noise_claims.KINDS:
            made[f"{kind}{name}"] = value[None] * tiny.reshape(3, *[1] * value.ndim)
    assert verdicts(made) == ["yes"] * len(verdicts(made))
    population = arrays["gammas"][: SMALL.num_modes] * np.ones((3, 2, 1))
    ones = np.ones_like(made["correlations"])
    late = made["accuracies"] * np.linspace(0.5, 1, made["accuracies"].shape[2])
    for name, value, numbers in (
        ("gaussian_eigenvalues", population, [0]),
        ("eigenvalues", population, [8, 16]),
        ("correlations", ones, [9, 11, 17]),
        ("edges", 1.2 * made["edges"], [10]),
        ("accuracies", late, [18]),
    ):
        apart = (1 + 1e-4 * np.arange(3)).reshape(3, *[1] * (value.ndim - 1))
        found = verdicts({**made, name: value * apart})
        assert [found[i] for i in numbers] == ["NO"] * len(numbers), (name, found)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"num_modes": 101}, "num_modes = 101 must be at most the number of features, 108, and"),
        ({"init_scale": 0.0}, "init_scale"),
    ],
)
def test_settings(change, message):
    with pytest.raises(ValueError, match=message):
        run(dataclasses.replace(SMALL, **change))
