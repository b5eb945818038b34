"""BYOL and SimSiam: linear networks, small ResNets, and laws that the claims tell apart."""

from dataclasses import replace

import jax
import numpy as np
import pytest

from experiments.beyond.byol import claims as byol_claims
from experiments.beyond.byol.experiment import PREDICTORS, Config
from sslstep import recipes
from sslstep.experiment import _run, load, results, training

pytestmark = pytest.mark.slow  # networks are trained

CONFIG = Config(gammas=(1.0, 0.6), scales=(1e-2, 1e-3))
SMALL = ["--size", "8", "--num-images", "64", "--num-probe", "32", "--num-labelled", "0"]
SMALL += ["--num-records", "6", "--num-snapshots", "0", "--seeds", "0"]
SMALL += ["--gammas", "1", "0.6", "--scales", "1e-2", "1e-3"]
TINY = {"num-steps": "12", "dim": "4", "batch-size": "16", "hidden": "8"}
METHODS = ("barlow-twins", "plain", "simsiam", "byol")


@pytest.fixture(scope="module")
def arrays(tmp_path_factory):
    """Of a small run from the command line."""
    out = tmp_path_factory.mktemp("byol")
    args = [w for m in METHODS for key, value in TINY.items() for w in (f"--{m}.{key}", value)]
    args += ["--byol.predictor", "8", "--simsiam.predictor", "8"]
    folders = ["--runs", str(out / "runs"), "--out", str(out / "here")]
    assert _run.main(load("experiments.beyond.byol"), [*SMALL, *args, *folders]) == 0
    return results.load(out / "here").arrays


def with_resnets(arrays, at, width=0.03, others=0.3):
    """The linear part for three seeds, and networks whose dimensions are learned at these times.

    Rises take a multiple `width` of the time, and `others` where embeddings are normalised.
    """
    t = 0.01 * training.record_steps(2500, 120)
    out = {name: np.repeat(v, 3) if name.endswith("random") else v for name, v in arrays.items()}
    for method in CONFIG.methods:
        for seed in CONFIG.seeds:
            log_t, log_at = np.log(np.maximum(t, 0.005))[:, None], np.log(at) + 0.01 * seed
            size = others if method in ("simsiam", "byol") else width
            z = 1e-3 + (1 + np.tanh((log_t - log_at) / (2 * size))) / 2
            out |= {f"{method}/{seed}/{key}": z for key in ("correlation", "covariance")}
            out[f"{method}/{seed}/record_t"] = t
    return out


STEPS = np.array([1.0, 2.0, 4.0, 8.0])


def verdicts(arrays):
    return [claim.verdict for claim in byol_claims.check(CONFIG, arrays)]


def test_claims_hold_of_linear_networks_and_of_steps(arrays, require_documented):
    require_documented("byol", arrays)
    made = with_resnets(arrays, STEPS)
    assert verdicts(made) == ["yes"] * 9
    assert load("experiments.beyond.byol").plot(CONFIG, made) is not None


def test_the_law_of_the_other_predictor_fails(arrays):
    """Waits that would be logarithmic from a small predictor, and powers from one of order one."""
    keys = [f"{scale:g}/{key}" for scale in CONFIG.scales for key in ("step_times", "random")]
    exchanged = {
        f"{one}/{key}": arrays[f"{other}/{key}"]
        for one, other in (PREDICTORS, PREDICTORS[::-1])
        for key in keys
    }
    made = with_resnets(arrays | exchanged, STEPS)
    assert verdicts(made)[:4] == ["NO"] * 4


def test_networks_that_learn_all_at_once_or_nothing_or_alike_fail(arrays):
    at_once = verdicts(with_resnets(arrays, np.full(4, 2.0), width=0.3))
    assert at_once[4:] == ["yes"] + ["NO"] * 4
    nothing = verdicts(with_resnets(arrays, np.full(4, 1e9)))
    assert nothing[4:] == ["NO"] * 5
    alike = verdicts(with_resnets(arrays, STEPS, others=0.03))
    assert alike[4:] == ["yes"] * 3 + ["NO"] * 2


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
        load("experiments.beyond.byol").run(replace(CONFIG, **change), None)
