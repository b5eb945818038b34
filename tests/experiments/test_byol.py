"""BYOL and SimSiam: linear networks, laws that the claims tell apart, and the recipe."""

from dataclasses import replace

import jax
import numpy as np
import pytest

from experiments.beyond.byol import claims as byol_claims
from experiments.beyond.byol.experiment import PREDICTORS, Config
from sslstep import recipes
from sslstep.experiment import load, training

pytestmark = pytest.mark.slow  # networks are trained

CONFIG = Config(gammas=(1.0, 0.6), scales=(1e-2, 1e-3))


@pytest.fixture(scope="module")
def arrays():
    return load("experiments.beyond.byol").run(CONFIG)


def verdicts(arrays):
    return [claim.verdict for claim in byol_claims.check(CONFIG, arrays)]


def test_claims_hold_of_linear_networks(arrays, require_documented):
    require_documented("byol", arrays)
    assert verdicts(arrays) == ["yes"] * 4
    assert load("experiments.beyond.byol").plot(CONFIG, arrays) is not None


def test_the_law_of_the_other_predictor_fails(arrays):
    """Waits that would be logarithmic from a small predictor, and powers from one of order one."""
    keys = [f"{scale:g}/{key}" for scale in CONFIG.scales for key in ("step_times", "random")]
    exchanged = {
        f"{one}/{key}": arrays[f"{other}/{key}"]
        for one, other in (PREDICTORS, PREDICTORS[::-1])
        for key in keys
    }
    assert verdicts(arrays | exchanged) == ["NO"] * 4


def test_the_predictor_has_a_scale_of_its_own():
    """α multiplies the network, and leaves the predictor at its own scale."""
    plain = recipes.SelfDistillation(dim=4, hidden=(8,), predictor=(8,), init_scale=1.0)
    params = []
    for recipe in (plain, replace(plain, init_scale=0.1, predictor_scale=0.5)):
        config = training.Config(size=8, num_images=64, num_probe=256)
        setup = training.prepare(config, replace(recipe, batch_size=16), 0)
        params.append(setup.state.params)
    for part, wanted in (("network", 0.1), ("predictor", 0.5)):
        for old, new in zip(
            jax.tree.leaves(params[0][part]), jax.tree.leaves(params[1][part]), strict=True
        ):
            np.testing.assert_allclose(new, wanted * old, rtol=1e-6)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"scales": (1e-2,)}, "scales must be two or more"),
        ({"predictor": 0.9}, r"predictor = 0.9 must be below the largest of gammas"),
    ],
)
def test_settings(change, message):
    with pytest.raises(ValueError, match=message):
        load("experiments.beyond.byol").run(replace(CONFIG, **change))
