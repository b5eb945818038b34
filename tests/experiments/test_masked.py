"""Masked images: the linear model, and claims that can fail."""

from dataclasses import replace

import numpy as np
import pytest

from experiments.beyond.masked import claims as masked_claims
from experiments.beyond.masked.experiment import Config
from sslstep.experiment import load

pytestmark = pytest.mark.slow  # networks are trained

CONFIG = Config(scales=(1e-2, 1e-3), dim=3, size=4)


@pytest.fixture(scope="module")
def arrays():
    return load("experiments.beyond.masked").run(CONFIG)


def verdicts(arrays):
    return [claim.verdict for claim in masked_claims.check(CONFIG, arrays)]


def test_claims_hold_of_linear_models(arrays, require_documented):
    require_documented("masked", arrays)
    assert "NO" not in verdicts(arrays)
    assert verdicts(arrays)[0] == "yes"
    assert load("experiments.beyond.masked").plot(CONFIG, arrays) is not None


def test_waits_of_another_law_fail(arrays):
    """Step times that are a tenth late, and a wait that does not depend on the start."""
    made = dict(arrays)
    for scale in CONFIG.scales:
        made[f"linear/{scale:g}/step_times"] = 1.1 * made[f"linear/{scale:g}/step_times"]
        for seed in CONFIG.seeds:
            made[f"linear/{scale:g}/random/{seed}"] = np.ones(3)
    assert verdicts(made) == ["NO", "NO"]


def test_settings():
    with pytest.raises(ValueError, match="scales must be two or more"):
        load("experiments.beyond.masked").run(replace(CONFIG, scales=(1e-2,)))
