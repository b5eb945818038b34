"""Depth: a small run, and laws that it tells apart."""

import dataclasses

import pytest

from experiments.beyond.depth import claims as depth_claims
from experiments.beyond.depth.experiment import Config, run
from sslstep.experiment import load

pytestmark = pytest.mark.slow  # networks are trained

SMALL = Config(gammas=(1.0, 0.6), layers=(1, 3), scales=(1e-2, 1e-3), seeds=(0, 1, 2))


@pytest.fixture(scope="module")
def arrays():
    return run(SMALL)


def test_claims_hold_in_a_small_run(arrays, require_documented):
    require_documented("depth", arrays)
    made = depth_claims.check(SMALL, arrays)
    assert [claim.statement for claim in made if claim.holds is False] == []
    assert sum(claim.holds is True for claim in made) >= 5  # of six; three seeds may not decide
    assert load("experiments.beyond.depth").plot(SMALL, arrays) is not None


def test_the_law_of_another_depth_fails(arrays):
    """Three layers that waited as two do, or whose times are those of one."""
    of_two = {name.replace("3/", "2/", 1): value for name, value in arrays.items()}
    made = depth_claims.check(dataclasses.replace(SMALL, layers=(2,)), of_two)
    assert made[1].holds is False
    swapped = {
        **arrays,
        **{f"3/{s:g}/step_times": arrays[f"1/{s:g}/step_times"] for s in SMALL.scales},
    }
    made = depth_claims.check(dataclasses.replace(SMALL, layers=(3,)), swapped)
    assert made[0].holds is False


def test_settings():
    with pytest.raises(ValueError, match="scales must be two or more"):
        run(dataclasses.replace(SMALL, scales=(1e-2,)))
