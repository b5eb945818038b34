"""The infinite-width experiment: a small run, its claims, and what goes wrong."""

import numpy as np
import pytest

from experiments.beyond.infinite_width import claims as infinite_width_claims
from experiments.beyond.infinite_width import experiment as infinite_width
from sslstep import claims
from sslstep.experiment import _run, load, results

pytestmark = pytest.mark.slow  # networks are trained

SMALL = ["--num-images", "60", "--cnn-images", "24", "--num-test", "200", "--crop", "12"]
SMALL += ["--num-modes", "12", "--dim", "4", "--width", "256", "--num-seeds", "1"]
SMALL += ["--num-records", "30"]


def test_a_small_run_and_its_claims(tmp_path, require_documented):
    out = tmp_path / "here"
    status = _run.main(
        load("experiments.beyond.infinite_width"), [*SMALL, "--out", str(out), "--strict"]
    )
    made = claims.load(out / "claims.json")
    assert status == 0, claims.table([("failed", [claim for claim in made if not claim.holds])])
    assert len(made) >= 8
    arrays = results.load(out).arrays
    require_documented("infinite_width", arrays)
    assert arrays["mlp_gammas"].shape == arrays["cnn_gammas"].shape == (12,)
    dims = infinite_width_claims.dims(infinite_width.Config(num_modes=12, dim=4))
    assert (dims[0], dims[-1]) == (1, 12)
    assert 4 in dims
    assert arrays["mlp_correct"].shape == (len(dims), 200)
    # The probe's accuracy starts from that of the initial features and rises as modes are learned.
    assert arrays["network_10_accuracy"].shape == (1, len(arrays["t"]))
    assert arrays["mlp_correct"][-1].mean() > 1.5 * float(arrays["chance"])


def _claims_of_networks(shift=0.0, scatter=0.0, height=1.0, late=1.0):
    """Two laziness factors, three networks each: probes that are off, low or late eigenvalues."""
    config = infinite_width.Config()
    rng = np.random.default_rng(0)
    gammas, t = 2.0 ** -np.arange(config.num_modes), np.geomspace(0.1, 1e4, 400)
    tau = np.log(1e8) / (8 * gammas[: config.dim])
    curves = height / (1 + np.exp(-8 * gammas[: config.dim] * (t[:, None] - late * tau)))
    correct = np.zeros((len(infinite_width_claims.dims(config)), 1000), bool)
    correct[:, :400] = True
    off = shift + scatter * np.array([1.0, -1.0, 0.5])
    measured = np.stack([rng.permutation(1000) < 1000 * (0.4 + each) for each in off])
    arrays = {"mlp_correct": correct, "mlp_gammas": gammas, "t": t, "learning_rate": 0.01}
    arrays |= {"predicted_step_times": np.tile(tau, (3, 1))}
    arrays |= {"predicted_kernel_accuracy": np.full((3, len(t)), 0.4)}
    for laziness in config.laziness:
        name = f"network_{laziness:g}"
        arrays |= {f"{name}_correct": measured, f"{name}_eigenvalues": np.tile(curves, (3, 1, 1))}
        arrays |= {f"{name}_accuracy": np.outer(0.4 + off, np.ones(len(t)))}
    made = infinite_width_claims._check_networks(config, arrays)
    return made + infinite_width_claims._check_accuracy(config, arrays)


def _accuracies(shift, scatter=0.0):
    made = _claims_of_networks(shift, scatter)
    return [claim.verdict for claim in made if "accuracy" in claim.statement]


def test_networks_that_do_not_learn_or_learn_late_are_told():
    def verdicts(words, **wrong):
        return {claim.holds for claim in _claims_of_networks(**wrong) if words in claim.statement}

    assert verdicts("all d modes are learned") == verdicts("step times predicted") == {True}
    assert verdicts("all d modes are learned", height=0.9) == {False}
    assert verdicts("step times predicted", late=2.5) == {False}


def test_contrastive_eigenvalues_above_the_kernels_own_are_told():
    config = infinite_width.Config(laziness=())
    arrays = {f"{name}_gammas": np.array([2.0, 1.01]) for name in ("mlp", "cnn")}
    arrays |= {f"{name}_principal_gammas": np.array([2.0, 1.0]) for name in ("mlp", "cnn")}
    assert [claim.holds for claim in infinite_width_claims.check(config, arrays)] == [False] * 2


def test_accuracies_are_held_against_points_and_not_against_their_errors():
    good, bad, noisy = _accuracies(0.005), _accuracies(0.1), _accuracies(0.04, scatter=0.08)
    assert len(good) >= 5
    assert set(good) == {"yes"}
    assert set(bad) == {"NO"}
    assert set(noisy) == {"undecided"}


def test_without_networks_only_the_predictions(tmp_path):
    out = tmp_path / "here"
    args = [*SMALL, "--laziness", "--out", str(out), "--strict"]
    assert _run.main(load("experiments.beyond.infinite_width"), args) == 0
    assert len(claims.load(out / "claims.json")) == 2
    assert "t" not in results.load(out).arrays


@pytest.mark.parametrize(
    ("args", "message"),
    [
        (["--num-images", "10000000"], "num_images = 10000000, but photos has"),
        (["--num-modes", "25"], "num_modes must be above dim = 4 and at most 24"),
        (["--dim", "12"], "num_modes must be above dim = 12"),
        (["--crop", "13"], "crop = 13 is not a multiple of pool = 2"),
        (["--init-scale", "0"], "init_scale must be > 0"),
        (["--step-size", "1"], "step_size must lie between 0 and 1"),
        (["--num-seeds", "0"], "num_seeds must be >= 1"),
        (["--laziness", "1", "-2"], "laziness must be > 0"),
    ],
)
def test_bad_settings(tmp_path, args, message):
    with pytest.raises(ValueError, match=message):
        _run.main(
            load("experiments.beyond.infinite_width"),
            [*SMALL, *args, "--out", str(tmp_path / "here")],
        )
