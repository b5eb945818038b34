"""The study of speed-ups: its tuning, what it counts, and that it goes on where it was."""

from dataclasses import replace
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from experiments.beyond.speedup import claims as speedup_claims
from experiments.beyond.speedup import experiment as speedup
from experiments.beyond.speedup import tasks
from experiments.beyond.speedup import tuning as speedup_tuning
from experiments.beyond.speedup.config import LINEAR, STANDARD
from experiments.beyond.speedup.contenders import ARMS, arms
from experiments.beyond.speedup.tasks import Linear, Search
from sslstep import losses
from sslstep.experiment import _run, load, results
from sslstep.experiment.training import Store

pytestmark = pytest.mark.slow  # networks are trained

RATES = (0.06, 0.2)
SEARCH = Search(RATES, RATES, momentum=RATES, vicreg=RATES, adam=(0.01, 0.05), lars=(5.0, 20.0))
SMALL = replace(
    speedup.Config(),
    problems=("linear",),
    arms=("plain", "adam", "preconditioned"),
    seeds=(0, 1),
    tuning_seeds=(7,),
    alphas=(0.1, 0.3, 0.5),
    linear=Linear(SEARCH, dim=3, target=3, init_scale=0.05, num_steps=400, ratio=10.0),
    settle=20,
    rounds=2,
    round_seconds=0.01,
)


def experiment(config):
    return load("experiments.beyond.speedup")._replace(presets={"cpu": config, "paper": config})


def test_a_small_study_goes_on_where_it_was(tmp_path, monkeypatch, capsys):
    args = ["--out", str(tmp_path / "here"), "--runs", str(tmp_path / "runs")]
    assert _run.main(experiment(SMALL), args) == 0
    names = {path.name for path in (tmp_path / "here").iterdir()}
    assert names >= {"figure.png", "learned.png", "table.md", "claims.json"}
    arrays = results.load(tmp_path / "here").arrays
    for name in SMALL.arms:
        assert np.isfinite(arrays[f"linear/{name}/times"]).all()
        assert (np.diff(arrays[f"linear/{name}/times"], axis=1) > 0).all()
        assert arrays[f"linear/{name}/seconds"].shape == (2,)
        # Two rates, two more near the best, then two of α or rates nearer still; none twice.
        trials = arrays[f"linear/{name}/trials"]
        assert len(trials) == 6
        assert len(np.unique(trials[:, :2], axis=0)) == len(trials)
        best = trials[np.argmin(trials[:, 2]), :2]
        np.testing.assert_array_equal(best, arrays[f"linear/{name}/chosen"])
    # A remedy that takes as many steps as plain descent is no remedy.
    slow = arrays | {
        f"linear/preconditioned/{key}": arrays[f"linear/plain/{key}"]
        for key in ("times", "eigenvalues", "finite")
    }
    assert [claim.holds for claim in speedup_claims.check(SMALL, slow)] == [False, False]
    table = (tmp_path / "here" / "table.md").read_text()
    assert "| preconditioned |" in table
    assert "### linear model" in table

    def fails(*args, **kwargs):
        raise AssertionError("trained again")

    monkeypatch.setattr(speedup_tuning.Trainer, "run", fails)
    monkeypatch.setattr(speedup_tuning, "step_seconds", fails)
    assert _run.main(experiment(SMALL), args) == 0  # all was read
    with pytest.raises(AssertionError, match="trained again"):
        _run.main(experiment(replace(SMALL, seeds=(0, 2))), args)


@pytest.fixture(scope="module")
def ordinary():
    """A small study of the ordinary initialisation."""
    problem = replace(
        STANDARD.standard, search=SEARCH, dim=4, target=2, batch_size=8, num_steps=20, hidden=(8,)
    )
    chance = 0.11  # as many of the labels as chance finds
    return replace(
        STANDARD,
        arms=("plain", "combined"),
        standard=replace(problem, accuracy=chance, averaged=1),
        seeds=(0, 1),
        tuning_seeds=(7,),
        size=16,
        num_probe=16,
        num_labelled=64,
        num_records=3,
        rounds=2,
        round_seconds=0.01,
    )


def test_the_ordinary_initialisation_is_tuned_to_an_accuracy(ordinary, tmp_path):
    args = ["--out", str(tmp_path / "here"), "--runs", str(tmp_path / "runs")]
    assert _run.main(experiment(ordinary), args) == 0
    files = {path.name for path in (tmp_path / "here").iterdir()}
    assert files >= {"figure.png", "accuracy.png", "curves.png"}
    assert "learned.png" not in files
    arrays = results.load(tmp_path / "here").arrays
    for name in ordinary.arms:
        curves, steps = arrays[f"standard/{name}/accuracy"], arrays[f"standard/{name}/record_steps"]
        assert curves.shape == (2, len(steps))
        assert len(arrays[f"standard/{name}/trials"]) == 6
    table = (tmp_path / "here" / "table.md").read_text()
    assert "steps to 11%" in table
    assert "dimensions" not in table
    # Barlow Twins gets there at step 20. The remedy never does, as late, or sooner.
    late = {"record_steps": np.array([0, 1, 20]), "accuracy": np.tile([0.0, 0.0, 0.5], (2, 1))}
    made = arrays | {
        f"standard/{arm}/{key}": value for arm in ordinary.arms for key, value in late.items()
    }
    for curve, holds in (
        ([0.0, 0.0, 0.05], [False, False]),
        ([0.0, 0.0, 0.5], [False, True]),
        ([0.0, 0.5, 0.5], [True, True]),
    ):
        made["standard/combined/accuracy"] = np.tile(curve, (2, 1))
        assert [claim.holds for claim in speedup_claims.check(ordinary, made)] == holds


def test_its_losses_are_the_publication_s_and_normalise():
    recipe = STANDARD.standard.recipe
    z, z_prime = jax.random.normal(jax.random.key(0), (2, 32, 4))
    compared = arms(recipe)
    np.testing.assert_allclose(
        compared["plain"].loss(0.0)(z, z_prime),
        losses.barlow_twins(z, z_prime, off_diagonal=5e-3, batch_norm=True, symmetrise=False),
    )
    for name in ("sharpened_smoothed", "combined"):
        loss = compared[name].loss(0.1)
        np.testing.assert_allclose(loss(7 * z + 1, z_prime), loss(z, z_prime), rtol=1e-4)
        assert abs(float(ARMS[name].loss(0.1)(7 * z + 1, z_prime) - loss(z, z_prime))) > 1
    np.testing.assert_allclose(
        compared["unweighted"].loss(0.0)(z, z_prime),
        losses.barlow_twins(z, z_prime, off_diagonal=1.0, batch_norm=True, symmetrise=False),
    )
    # Adam and LARS minimise the loss of the arm that they are compared with.
    assert compared["adam"].loss(0.0) is compared["plain"].loss(0.0)


def test_tuning_to_an_accuracy_ends_what_is_too_late(ordinary):
    problem = ordinary.standard
    curves = iter([0.05, 0.2, 0.05])  # at steps 0, 10 and 20
    built = tasks.build(problem, speedup.training.Config(size=16, num_probe=16, num_labelled=64))
    built = built._replace(accuracy=lambda state: {"accuracy": next(curves)})
    settings = speedup_tuning.Settings(measure_every=5, num_records=3, hold=5, settle=20)
    trainer = speedup_tuning.Trainer(built, ARMS["plain"], problem, settings)
    instance = built.instance(0)
    run = trainer.run(instance, speedup_tuning.Candidate(0.01, 0.0), within=7)
    assert run["pruned"]
    np.testing.assert_array_equal(run["steps"], [0, 10, 20])
    score = speedup_tuning._score(run, ARMS["plain"], problem)
    assert score == pytest.approx(20 * (2 + 0.11 - 0.05))  # missed: the last accuracy
    run["accuracy"] = np.array([0.05, 0.2, 0.2])
    assert speedup_tuning._score(run, ARMS["plain"], problem) == 10.0


def test_time_to_the_mean_of_successive_accuracies():
    """One probe below the goal does not undo it, and one above it is not enough."""
    steps, accuracy = [0, 10, 20, 30, 40, 50], [0.0, 0.6, 0.0, 0.6, 0.5, 0.6]
    time = partial(speedup_tuning.time_to_accuracy, steps, accuracy)
    assert (time(0.5), time(0.5, 2), time(0.36, 3), time(0.1)) == (30.0, 30.0, 10.0, 30.0)
    assert time(0.1, 2) == 1.0
    assert time(0.6, 3) == time(0.1, 7) == np.inf


def test_arms_side_by_side_are_as_one_after_the_other(tmp_path):
    one, several = (
        speedup.run(replace(SMALL, jobs=jobs), Store(tmp_path / str(jobs))) for jobs in (1, 3)
    )
    assert list(one) == list(several)
    for name, value in one.items():
        if not name.endswith("/seconds"):
            np.testing.assert_array_equal(several[name], value, err_msg=name)


def test_a_failing_arm_ends_the_others_at_their_next_run(tmp_path, monkeypatch):
    once, begun = speedup_tuning.Trainer.run, []

    def interrupted(trainer, *args, **kwargs):
        begun.append(trainer.arm.label)
        if trainer.arm.label == "Adam":
            raise KeyboardInterrupt
        return once(trainer, *args, **kwargs)

    monkeypatch.setattr(speedup_tuning.Trainer, "run", interrupted)
    with pytest.raises(KeyboardInterrupt):
        speedup.run(replace(SMALL, jobs=2), Store(tmp_path))
    assert begun.count("Adam") == 1
    assert begun.count("preconditioned") <= 1  # it may have begun before the failure was seen
    assert not list(tmp_path.rglob("*preconditioned*"))
    monkeypatch.setattr(speedup_tuning.Trainer, "run", once)
    assert np.isfinite(speedup.run(SMALL, Store(tmp_path))["linear/adam/times"]).all()


@pytest.mark.parametrize("name", ARMS)
def test_every_arm_takes_a_step_that_lessens_its_loss(name):
    """With its own number and its rate traced, as the study compiles it."""
    arm = ARMS[name]
    built = tasks.build(LINEAR, None)
    instance = built.instance(0)
    if name == "whitening":  # views that agree in different degrees: there is something to learn
        noise = jax.random.normal(jax.random.key(1), instance.images.shape)
        instance = instance._replace(images=np.asarray(instance.images + noise))
    own = {"alphas": 0.1, "softenings": 0.1, "leaks": 0.1, "widths": 0.1}.get(arm.own, 0.0)
    trainer = speedup_tuning.Trainer(built, arm, LINEAR, None)
    state = trainer.start(instance)
    losses = []
    rate = 0.05 if arm.rates == "lars" else 1e-3
    for _ in range(20):
        numbers = (jnp.asarray(rate), jnp.asarray(own))
        state, metrics = trainer.advance(state, instance.images, *numbers)
        losses.append(float(metrics.loss))
    assert np.isfinite(losses).all()
    assert losses[-1] < losses[0]
    moved = jax.tree.map(lambda a, b: float(jnp.abs(a - b).max()), state.params, instance.state[1])
    assert max(jax.tree.leaves(moved)) > 0


def test_whitened_loss_is_what_the_correlation_leaves():
    z, z_prime = jax.random.normal(jax.random.key(0), (2, 4000, 3))
    z = z @ jnp.diag(jnp.array([1.0, 2.0, 0.5]))  # whatever the scales
    mixed = 0.6 * z + 0.8 * z_prime @ jnp.diag(jnp.array([1.0, 2.0, 0.5]))
    assert float(losses.w_mse(z, z)) == 0.0
    assert float(losses.w_mse(z, mixed)) == pytest.approx(2 * 3 * (1 - 0.6), rel=0.05)
    # A power of two, so that nothing rounds otherwise.
    assert float(losses.w_mse(8 * z, 8 * mixed)) == float(losses.w_mse(z, mixed))


def test_times_are_of_what_lasts():
    steps, ones = np.arange(0, 60, 10), np.ones(2)
    curve = np.array([[0.0, 0.0], [0.6, 0.0], [0.1, 0.0], [0.9, 0.4], [0.9, 0.6], [0.9, 0.6]])
    times = speedup_tuning.times_of(steps, curve, ones, hold=3)
    np.testing.assert_allclose(times, [25.0, np.inf])  # the first rise did not last
    times = speedup_tuning.times_of(steps, curve, ones, hold=2)
    np.testing.assert_allclose(times, [25.0, 35.0])
    times = speedup_tuning.times_of(steps[:1], curve[4:5], ones, hold=1)
    np.testing.assert_allclose(times, [0.0, 0.0])
    assert np.isinf(speedup_tuning.times_of(steps[:1], curve[4:5], ones, hold=2)).all()


def test_what_is_thrown_too_far_is_not_learned():
    steps, ones = np.arange(0, 50, 10), np.ones(2)
    curve = np.array([[0.0, 0.0], [40.0, 0.8], [12.5, 0.9], [7.5, 0.9], [1.0, 1.0]])
    times = speedup_tuning.times_of(steps, curve, ones, hold=2)
    np.testing.assert_allclose(times, [30.0, 30.0])  # the second waits for the first to be back


def test_levels_of_vicreg_are_of_as_many_equal_ones():
    levels = speedup_tuning.levels_of(ARMS["vicreg"], 4)
    assert (np.diff(levels) < 0).all()
    for k, level in enumerate(levels, start=1):
        spectrum = np.r_[np.full(k, level), np.zeros(4 - k)]
        assert speedup_tuning.learned(spectrum, levels)[:k].all()
        assert not speedup_tuning.learned(spectrum, levels)[k:].any()


def fake(problem, reached, lasts, seen, whole=False):
    """Runs that take `reached(candidate, seed)` steps, and break off later unless `lasts`.

    `whole` says whether trials go to the last step.
    """

    def attempt(candidate, seed, within):
        seen.append((candidate.rate, seed, within))
        time = reached(candidate, seed)
        pruned = within is not None and time > within
        finite = within is not None or lasts(candidate)
        times = np.array([time / 2, np.inf if pruned else time])
        last = np.array([[0.9, 0.1 if pruned or np.isinf(time) else 0.9]])
        ended = {"finite": finite, "pruned": pruned, "whole": whole or within is None}
        return {"times": times, "eigenvalues": last, **ended}

    return attempt


def test_tuning_prefers_what_reaches_the_target_from_every_seed():
    problem = replace(LINEAR, dim=2, target=2, num_steps=100)
    problem = replace(problem, search=replace(SEARCH, descent=(0.2, 0.5, 1.9, 4.0)))

    def reached(candidate, seed):
        """Sooner with the rate; above 1 never from the second seed, above 4 from neither."""
        return 10 / candidate.rate if candidate.rate <= (4.0 if seed == 0 else 1.0) else np.inf

    seen = []
    attempt = fake(problem, reached, lambda candidate: True, seen)
    found = speedup_tuning.tune(attempt, ARMS["plain"], problem, (0, 1), ())
    assert found["chosen"][0] == 1.0  # twice the best of those that never fail
    assert found["lasts"]
    assert len(found["trials"]) == 8
    # At the end, and only then, to the end.
    assert [rate for rate, _, within in seen if within is None] == [1.0, 1.0]
    assert max(within for _, _, within in seen[:-2]) <= 200
    seen.clear()
    attempt = fake(problem, reached, lambda candidate: True, seen, whole=True)
    again = speedup_tuning.tune(attempt, ARMS["plain"], problem, (0, 1), ())
    assert again["chosen"][0] == 1.0
    assert None not in [within for _, _, within in seen]  # nothing is trained twice


def test_what_breaks_off_later_is_not_chosen_and_what_it_outran_gets_its_turn():
    problem = replace(LINEAR, dim=2, target=2, num_steps=100)
    problem = replace(problem, search=replace(SEARCH, descent=(0.4, 0.2, 0.1, 0.05)))
    seen = []

    def reached(candidate, seed):
        return 10 / candidate.rate

    attempt = fake(problem, reached, lambda candidate: candidate.rate < 0.3, seen)
    found = speedup_tuning.tune(attempt, ARMS["plain"], problem, (0, 1), ())
    # 0.8 is fastest, then 0.8 times and over √2, and 0.4: all break off. 0.2 had been given up, and
    # is compared with other arms by the time of its second turn.
    assert max(found["trials"][:, 0]) == pytest.approx(0.8 * 2**0.5)
    scores = dict(found["trials"][:, [0, 2]])
    assert (scores[0.8], scores[0.4], scores[0.2]) == (np.inf, np.inf, 50.0)
    assert found["chosen"][0] == 0.2
    attempt = fake(problem, reached, lambda candidate: False, seen)
    assert not speedup_tuning.tune(attempt, ARMS["plain"], problem, (0, 1), ())["lasts"]


@pytest.mark.parametrize("dim", [8, 65, 200])
def test_levels_of_the_covariance_in_many_dimensions(dim):
    """VICReg's level of one eigenvalue is above that of d, which is the variance it asks for."""
    levels = speedup_tuning.levels_of(ARMS["vicreg"], dim)
    assert (levels > 0.9).all()
    assert speedup_tuning.learned(levels[-1:].repeat(dim), levels)[-1]


def test_a_run_that_broke_off_has_learned_nothing():
    arrays = {
        "mlp/adam/times": np.array([[3.0, 5.0], [4.0, 6.0], [4.0, 6.0]]),
        "mlp/adam/finite": np.array([True, False, True]),
        "mlp/adam/eigenvalues": np.array([[[1.0, 1.0]], [[np.nan, np.nan]], [[1.1, 0.3]]]),
    }
    times = speedup_claims.Case(SMALL, arrays, "mlp").learned("adam")
    np.testing.assert_array_equal(times, [[3.0, 5.0], [np.inf, np.inf], [4.0, np.inf]])


def test_as_accurate_is_within_a_point_whatever_the_spread():
    def verdict(*differences):
        return speedup_claims._as_accurate("it", np.array(differences)).verdict

    assert verdict(0.002, -0.003, 0.001, 0.0, -0.001) == "yes"
    assert verdict(-0.05, -0.06, -0.055, -0.05, -0.058) == "NO"
    assert verdict(-0.1, 0.09, 0.02, -0.08, 0.05) == "undecided"  # was within one deviation
    assert verdict(0.0, np.nan, 0.0) == "NO"  # a run that broke off


def test_ratios_have_student_s_interval():
    """Against scipy's own, on paired logarithms."""
    from scipy import stats

    plain, arm = np.array([100.0, 130.0, 90.0, 110.0]), np.array([20.0, 30.0, 10.0, np.inf])
    found = speedup_claims.ratio(plain, arm)
    logs = np.log(plain[:3] / arm[:3])
    low, high = stats.t.interval(0.95, 2, logs.mean(), stats.sem(logs))
    np.testing.assert_allclose(found[:3], np.exp([logs.mean(), low, high]))
    assert found.num == 3
    assert np.isnan(speedup_claims.ratio(plain[:1], arm[:1]).mean)


def test_time_to_accuracy_is_when_it_stays():
    steps = np.array([0, 10, 20, 30])
    arrays = {
        "photos/plain/record_steps": steps,
        "photos/plain/accuracy": np.array([[0.2, 0.3, 0.49, 0.49], [0.3, 0.4, 0.5, 0.52]]),
        "photos/adam/record_steps": steps,
        "photos/adam/accuracy": np.array(
            [[0.6, 0.4, 0.59, 0.6], [0.6, 0.6, np.nan, np.nan], [0.5, 0.5, 0.5, 0.5]]
        ),
    }
    # Barlow Twins ends with 0.49 and 0.51, and their standard deviation, 0.014, is granted.
    case = speedup_claims.Case(SMALL, arrays, "photos")
    np.testing.assert_allclose(case.times_to_accuracy("adam"), [20.0, np.inf, 1.0])
    arrays["photos/adam/accuracy"][0, 2:] = 0.5 - 0.02 / 2**0.5 + np.array([-1e-6, 1e-6])
    np.testing.assert_allclose(case.times_to_accuracy("adam"), [30.0, np.inf, 1.0])
    assert case.times_accuracy
    arrays["photos/plain/accuracy"][:, 0] = [0.2, 0.6]  # on average nothing is gained for sure
    assert not case.times_accuracy


def test_seconds_have_the_spread_of_their_timing_too():
    arrays = {
        "mlp/plain/seconds": np.array([1.0, 2.0, 1.0, 1.0]),
        "mlp/adam/seconds": np.array([2.0, 4.0, 2.0, 3.0]),
    }
    mean, error = speedup_claims.Case(SMALL, arrays, "mlp").cost("adam")
    assert mean == pytest.approx((2 * 2 * 2 * 3) ** 0.25)
    assert error > 0
    narrow = speedup_claims.ratio(np.array([4.0, 8.0]), np.array([2.0, 4.0]))
    wide = speedup_claims.ratio(np.array([4.0, 8.0]), np.array([2.0, 4.0]), error=error)
    assert narrow.low == pytest.approx(2.0)
    np.testing.assert_allclose([wide.low, wide.high], 2 * np.exp([-error, error]))


@pytest.mark.parametrize(
    ("args", "message"),
    [
        ({"arms": ("adam",)}, "must include plain"),
        ({"seeds": (0, 0)}, "seeds must be one or more, each once"),
        ({"tuning_seeds": (1,)}, "must not be among seeds"),
        ({"linear": replace(SMALL.linear, target=4)}, r"linear.target = 4 must lie within 1...lin"),
        ({"linear": replace(SMALL.linear, num_steps=401)}, "multiple of measure_every = 5"),
        (
            {"linear": replace(SMALL.linear, search=replace(SEARCH, adam=(0.1,)))},
            "as many learning rates for each arm",
        ),
        ({"measure_every": 0}, "measure_every must be >= 1, got 0"),
        ({"hold": 0}, "hold must be >= 1, got 0"),
        ({"num_records": 2}, "num_records must be >= 3, got 2"),
        ({"alphas": (0.1, 0.1, 0.2)}, "alphas must be three or more, each once"),
        ({"num_probe": 4}, "num_probe = 4 must be at least 4 linear.dim = 12"),
        ({"arms": ("plain", "whitening"), "num_labelled": 0}, "num_labelled must be >= 1"),
        ({"problems": ("standard",), "num_labelled": 0}, "num_labelled must be >= 1"),
        (
            {"problems": ("standard",), "standard": replace(STANDARD.standard, accuracy=28)},
            "standard.accuracy must lie between 0 and 1, got 28",
        ),
    ],
)
def test_bad_settings(tmp_path, args, message):
    with pytest.raises(ValueError, match=message):
        speedup.run(replace(SMALL, **args), Store(tmp_path))
