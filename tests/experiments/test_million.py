"""A million views: the small preset, and results that its claims refuse."""

import dataclasses

import numpy as np
import pytest

from experiments.beyond.million import claims as million_claims
from experiments.beyond.million.experiment import EXPERIMENT, run
from sslstep.experiment import load

pytestmark = pytest.mark.slow  # networks are trained

SMALL = EXPERIMENT.presets["small"]


@pytest.fixture(scope="module")
def arrays():
    return run(SMALL)


def verdicts(arrays):
    return [claim.verdict for claim in million_claims.check(SMALL, arrays)]


def test_a_small_run(arrays, require_documented):
    assert verdicts(arrays) == ["yes"] * 7
    require_documented("million", arrays)
    assert arrays["correct"].shape == (len(arrays["dims"]), SMALL.num_test)
    assert arrays["columns"] <= SMALL.rank
    assert np.all(np.diff(arrays["step_times"]) > 0)
    assert load("experiments.beyond.million").plot(SMALL, arrays) is not None


@pytest.mark.parametrize(
    ("number", "changed"),
    [
        (0, {"upper": lambda a: 1.2 * a["upper"]}),  # one mode that is not certified is enough
        (0, {"lower": lambda a: -a["lower"]}),  # a bound below 0 says nothing
        (1, {"exact_gammas": lambda a: 1.1 * a["exact_gammas"]}),
        (2, {"exact_gammas": lambda a: 1.1 * a["exact_gammas"]}),
        (3, {"check_alignment": lambda a: a["check_alignment"] - 1 / 8}),  # another eighth mode
        (4, {"pixels_correct": lambda a: np.ones(SMALL.num_test, bool)}),
        (5, {"cpu_seconds": lambda a: 1801.0}),
        (6, {"peak_bytes": lambda a: 13 * 2**30}),
    ],
)
def test_claims_can_fail(arrays, number, changed):
    assert verdicts(arrays | {k: np.asarray(f(arrays)) for k, f in changed.items()})[number] == "NO"


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"pool": 3}, "crop = 28 is not a multiple of pool = 3"),
        ({"num_exact": 3000}, "num_exact = 3000 must lie between num_modes = 8 and num_pairs"),
        ({"tol": 0.0}, "tol must be > 0"),
    ],
)
def test_settings(changed, message):
    with pytest.raises(ValueError, match=message):
        run(dataclasses.replace(SMALL, **changed))
