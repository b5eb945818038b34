"""Random features of a ResNet's NTK: the small preset, and results that its claims refuse."""

import dataclasses

import numpy as np
import pytest

from experiments.beyond.sketch import claims as sketch_claims
from experiments.beyond.sketch.experiment import EXPERIMENT, run
from sslstep.experiment import load

pytestmark = pytest.mark.slow  # gradients of a network

SMALL = EXPERIMENT.presets["small"]


@pytest.fixture(scope="module")
def arrays():
    return run(SMALL)


def verdicts(arrays):
    return [claim.verdict for claim in sketch_claims.check(SMALL, arrays)]


def test_a_small_run(arrays, require_documented):
    assert "NO" not in verdicts(arrays)
    require_documented("sketch", arrays)
    assert arrays["errors"].shape == (2, 4, 4)
    assert load("experiments.beyond.sketch").plot(SMALL, arrays) is not None


@pytest.mark.parametrize(
    ("number", "changed"),
    [
        (0, {"errors": lambda a: np.sign(a["errors"]) * 0.1}),  # an error that no p reduces
        (1, {"errors": lambda a: 3 * a["errors"]}),
        (2, {"errors": lambda a: a["errors"] + 1.0}),  # a bias that all keys share
        (3, {"alignment": lambda a: np.full_like(a["alignment"], 0.8)}),
        (4, {"gammas": lambda a: a["gammas"] * np.array([[1.0], [2.0]])}),
    ],
)
def test_claims_can_fail(arrays, number, changed):
    assert verdicts(arrays | {k: f(arrays) for k, f in changed.items()})[number] == "NO"


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"features": (64,)}, "features must hold two numbers or more"),
        ({"features": (4, 64)}, "each at least 2 num_modes = 8"),
        ({"num_exact": 201}, "num_exact = 201 must be at most num_pairs = 200"),
        ({"num_keys": 1}, "num_keys must be >= 2"),
    ],
)
def test_settings(changed, message):
    with pytest.raises(ValueError, match=message):
        run(dataclasses.replace(SMALL, **changed))
