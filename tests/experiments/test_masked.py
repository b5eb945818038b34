"""Masked images: the linear model, a small network, and claims that can fail."""

from dataclasses import replace

import numpy as np
import pytest

from experiments.beyond.masked import claims as masked_claims
from experiments.beyond.masked.experiment import Config
from sslstep.experiment import _run, load, results

pytestmark = pytest.mark.slow  # networks are trained

CONFIG = Config(scales=(1e-2, 1e-3), dim=3)
SMALL = ["--size", "4", "--dim", "3", "--scales", "1e-2", "1e-3", "--width", "8", "--seeds", "0"]
SMALL += ["--num-steps", "20", "--num-records", "6", "--num-probe", "64", "--batch-size", "32"]


@pytest.fixture(scope="module")
def arrays(tmp_path_factory):
    """Of a small run from the command line."""
    out = tmp_path_factory.mktemp("masked")
    folders = ["--runs", str(out / "runs"), "--out", str(out / "here")]
    assert _run.main(load("experiments.beyond.masked"), [*SMALL, *folders]) == 0
    return results.load(out / "here").arrays


def with_networks(arrays, at, width=0.03):
    """The linear part for three seeds, and networks whose hidden dimensions rise at these times."""
    t = np.concatenate([[0.0], np.geomspace(0.01, 25.0, 200)])
    out = dict(arrays)
    for seed in CONFIG.seeds:
        for scale in CONFIG.scales:
            out[f"linear/{scale:g}/random/{seed}"] = arrays[f"linear/{scale:g}/random/0"]
        for start, moments in (("small", at), ("ordinary", np.full(4, 2.0))):
            place = np.log(np.maximum(t, 0.005))[:, None] - np.log(moments) - 0.01 * seed
            size = width if start == "small" else 0.3
            rises = (1 + np.tanh(place / (2 * size))) / 2
            out[f"{start}/{seed}/record_t"] = t
            out[f"{start}/{seed}/hidden"] = 1e-3 + rises
    return out


STEPS = np.array([1.0, 2.0, 4.0, 8.0])


def verdicts(arrays):
    return [claim.verdict for claim in masked_claims.check(CONFIG, arrays)]


def test_claims_hold_of_linear_models_and_of_steps(arrays, require_documented):
    require_documented("masked", arrays)
    assert verdicts(with_networks(arrays, STEPS)) == ["yes"] * 5
    assert load("experiments.beyond.masked").plot(replace(CONFIG, seeds=(0,)), arrays) is not None


def test_waits_of_another_law_fail(arrays):
    """Step times that are a tenth late, and a wait that does not depend on the start."""
    made = with_networks(arrays, STEPS)
    for scale in CONFIG.scales:
        made[f"linear/{scale:g}/step_times"] = 1.1 * made[f"linear/{scale:g}/step_times"]
        for seed in CONFIG.seeds:
            made[f"linear/{scale:g}/random/{seed}"] = np.ones(3)
    assert verdicts(made)[:2] == ["NO", "NO"]


def test_networks_without_steps_fail(arrays):
    assert verdicts(with_networks(arrays, np.full(4, 2.0), width=0.3))[2:] == ["NO"] * 3
    assert verdicts(with_networks(arrays, np.full(4, 1e9)))[2:] == ["NO"] * 3


def test_settings():
    with pytest.raises(ValueError, match="scales must be two or more"):
        load("experiments.beyond.masked").run(replace(CONFIG, scales=(1e-2,)), None)
