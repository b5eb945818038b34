"""Any loss, and what VICReg learns first: small runs, and arrays that each claim refuses."""

import dataclasses

import jax
import numpy as np
import pytest

from experiments.beyond.any_loss import claims as any_loss_claims
from experiments.beyond.any_loss.experiment import Config, run
from experiments.beyond.any_loss.features import features
from experiments.beyond.any_loss.losses import LOSSES
from experiments.beyond.vicreg_first import claims as first_claims
from experiments.beyond.vicreg_first import experiment as first
from sslstep.experiment import load

pytestmark = pytest.mark.slow  # networks are trained

SMALL = Config(
    losses=("simplified", "spectral"),
    num_images=40,
    components=4,
    dim=2,
    crop=8,
    init_scale=1e-6,
    num_seeds=2,
    num_records=300,
)
FIRST = first.Config(num_images=40, components=4, dim=2, crop=8, eps=(1e-6, 0.5), num_seeds=2)


@pytest.fixture(scope="module")
def arrays():
    return run(SMALL)


def test_every_error_is_within_its_bound_in_a_small_run(arrays):
    made = any_loss_claims.check(SMALL, arrays)
    # Two seeds seldom decide a mean; each value is what the claim wants of it.
    for claim in made:
        sign = 1 if claim.relation == "<=" else -1
        margin = sign * (np.array(claim.seeds) - claim.expected)
        assert (margin <= claim.tolerance).all(), claim
    assert len(made) == 3 * len(SMALL.losses) + 3
    assert load("experiments.beyond.any_loss").plot(SMALL, arrays) is not None


def _refused(arrays, config=SMALL):
    """Statements that arrays of equal seeds contradict."""
    same = {name: np.stack([value[0]] * 2) for name, value in arrays.items()}
    return {c.statement for c in any_loss_claims.check(config, same) if c.holds is False}


def test_each_claim_refuses_what_contradicts_it(arrays):
    assert _refused(arrays) == set()
    late = arrays["spectral/predicted_step_times"] * np.array([1, 1.06])
    assert _refused({**arrays, "spectral/predicted_step_times": late}) == {
        "spectral contrastive: step times, largest relative error"
    }
    never = np.where([True, False], late, np.inf)
    assert len(_refused({**arrays, "spectral/predicted_step_times": never})) == 1
    lowered = arrays["spectral/loss"][:, :1] - arrays["spectral/loss"][:, -1:]
    off = arrays["spectral/predicted_rests"] + 0.011 * lowered
    (refused,) = _refused({**arrays, "spectral/predicted_rests": off})
    assert refused.startswith("spectral contrastive: loss at the end of each plateau")
    fast = 1.002 * arrays["spectral/rate"]
    (refused,) = _refused({**arrays, "spectral/rate": fast})
    assert refused.startswith("spectral contrastive: relative error of the first growth rate")
    exact = {**arrays, "spectral/saddle_step_times": arrays["spectral/step_times"]}
    (refused,) = _refused(exact)
    assert "from saddle to saddle" in refused
    # Waits that are all alike; and a loss that steps as simplified Barlow Twins does.
    for name in SMALL.losses:
        arrays = {
            **arrays,
            f"{name}/step_times": arrays["simplified/step_times"][:, :1] * np.array([1, 2]),
        }
    assert any(each.startswith("step times if all waits") for each in _refused(arrays))
    arrays = {**arrays, "simplified/predicted_step_times": arrays["spectral/step_times"]}
    assert any("by the prediction of simplified" in statement for statement in _refused(arrays))


def test_simclr_rises_alone_from_a_saddle_only():
    config = dataclasses.replace(SMALL, losses=("simclr",), dim=3)
    own = {"step_times": [[1, 2, 4]], "predicted_step_times": [[1, 2, 4]], "loss": [[2, 1]],
           "rests": [[1.5, 1]], "predicted_rests": [[1.5, 1]], "rate": [1], "predicted_rate": [1],
           "alone": [3], "predicted_alone": [3], "zero_alone": [1]}  # fmt: skip
    arrays = {f"simclr/{name}": np.array(value, float) for name, value in own.items()}
    assert _refused(arrays, config) == set()
    for name, value in (("predicted_alone", 2), ("zero_alone", 3)):
        assert len(_refused({**arrays, f"simclr/{name}": np.array([value])}, config)) == 1


def test_views_are_of_mean_square_one_and_lit_each_by_itself(x64):
    dark, lit = (features(FIRST, jax.random.key(0), light=light) for light in (0.0, 5.0))
    for views in (dark, lit):
        assert np.mean(np.sum(np.concatenate(views) ** 2, axis=1)) == pytest.approx(1)

    def shared(views):
        a, b = (np.asarray(view)[:, 0] for view in views)
        return np.corrcoef(a, b)[0, 1]

    assert shared(dark) > 0.5  # crops of one image
    assert abs(shared(lit)) < 4 / np.sqrt(FIRST.num_images)  # the slope that the views do not share


def test_vicreg_first_in_a_small_run_and_its_controls():
    found = first.run(FIRST)
    made = first_claims.check(FIRST, found)
    assert all(min(claim.seeds) >= claim.expected for claim in made)
    assert load("experiments.beyond.vicreg_first").plot(FIRST, found) is not None
    same = {name: np.stack([value[0]] * 2) for name, value in found.items()}
    assert [claim.holds for claim in first_claims.check(FIRST, same)] == [True] * 3
    across = {**same, "0.5/along": np.zeros(2)}
    early = {**same, "1e-06/early": same["1e-06/end"]}
    late = {**same, "1e-06/end": same["1e-06/early"]}
    for i, wrong in enumerate((across, early, late)):
        assert first_claims.check(FIRST, wrong)[i].holds is False
    short = first.run(dataclasses.replace(FIRST, end=0.1))
    assert np.isinf(short["0.5/passes"]).all()  # too short to learn anything
    assert load("experiments.beyond.vicreg_first").plot(FIRST, short) is not None


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"losses": ("byol",)}, "losses must be of simplified, barlow_twins"),
        ({"losses": ()}, "losses must be of"),
        ({"dim": 5}, "dim = 5 must be at most components = 4"),
        ({"init_scale": 2.0}, "init_scale must lie between 0 and 1"),
    ],
)
def test_settings(settings, message):
    with pytest.raises(ValueError, match=message):
        run(dataclasses.replace(SMALL, **settings))


def test_settings_of_vicreg_first():
    with pytest.raises(ValueError, match="eps must be one or more, increasing"):
        first.run(dataclasses.replace(FIRST, eps=(0.1, 0.01)))


def test_each_loss_has_the_bound_of_its_kind():
    assert {name for name, loss in LOSSES.items() if loss.within == 0.03} == {
        "simplified", "barlow_twins",
    }  # fmt: skip
    assert {loss.within for loss in LOSSES.values()} == {0.03, 0.05}


def test_another_number_of_learned_dimensions_is_an_infinite_error():
    for found, measured, error in (
        ([1.0, 2.0], [1.0, np.inf], np.inf),
        ([1.0, np.inf], [1.0, 2.0], np.inf),
        ([1.1, np.inf], [1.0, np.inf], 0.1),
    ):
        arrays = {"a/predicted_step_times": np.array([found]), "a/step_times": np.array([measured])}
        np.testing.assert_allclose(any_loss_claims.step_errors(arrays, "a"), [error])
