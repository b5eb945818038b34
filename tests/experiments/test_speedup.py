"""The study of speed-ups: its tuning, what it counts, and that it goes on where it was."""

from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from experiments import _run, _speedup_training, speedup, speedup_report
from experiments._speedup_arms import ARMS, NAMES, whitened_mse
from experiments._speedup_problems import Linear, Search

RATES = (0.06, 0.2)
SEARCH = Search(descent=RATES, vicreg=RATES, adam=(0.01, 0.05), lars=(5.0, 20.0))
SMALL = replace(
    speedup.Config(),
    problems=("linear",),
    arms=("plain", "adam", "preconditioned"),
    seeds=(0, 1),
    tuning_seeds=(7,),
    alphas=(0.1, 0.3),
    linear=Linear(SEARCH, dim=3, target=3, init_scale=0.05, num_steps=400, ratio=10.0),
    settle=20,
    rounds=2,
)


def experiment(config):
    return speedup.EXPERIMENT._replace(presets={"cpu": config, "paper": config})


def test_a_small_study_goes_on_where_it_was(tmp_path, monkeypatch, capsys):
    args = ["--out", str(tmp_path / "here"), "--runs", str(tmp_path / "runs")]
    assert _run.main(experiment(SMALL), args) == 0
    names = {path.name for path in (tmp_path / "here").iterdir()}
    assert names >= {"figure.png", "learned.png", "table.md", "claims.json"}
    arrays = dict(np.load(tmp_path / "here" / "arrays.npz"))
    for name in SMALL.arms:
        assert np.isfinite(arrays[f"linear/{name}/times"]).all()
        assert (np.diff(arrays[f"linear/{name}/times"], axis=1) > 0).all()
        assert arrays[f"linear/{name}/seconds"].shape == (2,)
        # Two rates, two more near the best, then α or rates nearer still; none twice.
        trials = arrays[f"linear/{name}/trials"]
        assert len(trials) == (5 if name == "preconditioned" else 6)
        assert len(np.unique(trials[:, :2], axis=0)) == len(trials)
        best = trials[np.argmin(trials[:, 2]), :2]
        np.testing.assert_array_equal(best, arrays[f"linear/{name}/chosen"])
    table = (tmp_path / "here" / "table.md").read_text()
    assert "| preconditioned |" in table
    assert "### linear model" in table

    def fails(*args, **kwargs):
        raise AssertionError("trained again")

    monkeypatch.setattr(_speedup_training, "train_once", fails)
    monkeypatch.setattr(_speedup_training, "step_seconds", fails)
    assert _run.main(experiment(SMALL), args) == 0  # all was read
    with pytest.raises(AssertionError, match="trained again"):
        _run.main(experiment(replace(SMALL, seeds=(0, 2))), args)


@pytest.mark.parametrize("name", NAMES)
def test_every_arm_takes_a_step_that_lessens_its_loss(name):
    """With its own number and its rate traced, as the study compiles it."""
    arm = ARMS[name]
    problem = speedup.LINEAR
    built = speedup._build("linear", problem, None)
    instance = built.instance(0)
    if name == "whitening":  # views that agree in different degrees: there is something to learn
        noise = jax.random.normal(jax.random.key(1), instance.images.shape)
        instance = instance._replace(images=np.asarray(instance.images + noise))
    own = {"alphas": 0.1, "softenings": 0.1, "leaks": 0.1, "widths": 0.1}.get(arm.own, 0.0)
    compiled = _speedup_training.compile_arm(built, arm)
    state = compiled.init(instance)
    losses = []
    rate = 0.05 if arm.rates == "lars" else 1e-3
    for _ in range(20):
        numbers = (jnp.asarray(rate), jnp.asarray(own))
        state, metrics = compiled.advance(state, instance.images, *numbers)
        losses.append(float(metrics.loss))
    assert np.isfinite(losses).all()
    assert losses[-1] < losses[0]
    moved = jax.tree.map(lambda a, b: float(jnp.abs(a - b).max()), state.params, instance.state[1])
    assert max(jax.tree.leaves(moved)) > 0


def test_whitened_loss_is_what_the_correlation_leaves():
    z, z_prime = jax.random.normal(jax.random.key(0), (2, 4000, 3))
    z = z @ jnp.diag(jnp.array([1.0, 2.0, 0.5]))  # whatever the scales
    mixed = 0.6 * z + 0.8 * z_prime @ jnp.diag(jnp.array([1.0, 2.0, 0.5]))
    assert float(whitened_mse(z, z)) == 0.0
    assert float(whitened_mse(z, mixed)) == pytest.approx(2 * 3 * (1 - 0.6), rel=0.05)
    assert float(whitened_mse(10 * z, 10 * mixed)) == pytest.approx(float(whitened_mse(z, mixed)))


def test_times_are_of_what_lasts():
    steps = np.arange(0, 60, 10)
    curve = np.array([[0.0, 0.0], [0.6, 0.0], [0.1, 0.0], [0.9, 0.4], [0.9, 0.6], [0.9, 0.6]])
    times = _speedup_training.times_of(steps, curve, np.array([0.5, 0.5]), hold=3)
    np.testing.assert_allclose(times, [25.0, np.inf])  # the first rise did not last
    times = _speedup_training.times_of(steps, curve, np.array([0.5, 0.5]), hold=2)
    np.testing.assert_allclose(times, [25.0, 35.0])
    times = _speedup_training.times_of(steps[:1], curve[:1] + 1, np.array([0.5, 0.5]), hold=1)
    np.testing.assert_allclose(times, [0.0, 0.0])


def test_tuning_prefers_what_reaches_the_target_from_every_seed():
    problem = replace(speedup.LINEAR, dim=2, target=2, num_steps=100)
    levels = np.full((1, 2), 0.9)

    def attempt(candidate, seed, within):
        """Faster with the rate; above 1 it fails from the second seed, above 4 from both."""
        ok = candidate.rate <= (4.0 if seed == 0 else 1.0)
        times = np.array([5.0, 10.0]) / candidate.rate if ok else np.array([5.0, np.inf])
        return {"times": times, "eigenvalues": levels, "finite": True}

    search = Search(descent=(0.2, 0.5, 1.9, 4.0), vicreg=(), adam=(), lars=())
    problem = replace(problem, search=search)
    chosen, trials = _speedup_training.tune(attempt, ARMS["plain"], problem, (0, 1), ())
    assert chosen.rate == 1.0  # twice the best of those that never fail
    assert len(trials) == 8


def test_what_breaks_off_later_is_not_chosen():
    problem = replace(speedup.LINEAR, dim=2, target=2, num_steps=100, search=SEARCH)
    whole_runs = []

    def attempt(candidate, seed, within):
        """The faster the larger the rate, but above 0.2 not for long."""
        if within is None:
            whole_runs.append(candidate.rate)
        times = np.array([1.0, 2.0]) / candidate.rate
        ok = within is not None or candidate.rate <= 0.2
        return {"times": times, "eigenvalues": np.full((1, 2), 0.9), "finite": ok}

    chosen, trials = _speedup_training.tune(attempt, ARMS["plain"], problem, (0, 1), ())
    assert max(trials[:, 0]) == pytest.approx(0.4 * 2**0.5)
    assert whole_runs == pytest.approx([0.4 * 2**0.5, 0.4, 0.2 * 2**0.5, 0.2, 0.2])
    assert chosen.rate == 0.2


def test_a_run_that_broke_off_has_learned_nothing():
    arrays = {
        "mlp/adam/times": np.array([[3.0, 5.0], [4.0, 6.0]]),
        "mlp/adam/finite": [True, False],
    }
    times = speedup_report.times_learned(arrays, "mlp", "adam")
    np.testing.assert_array_equal(times, [[3.0, 5.0], [np.inf, np.inf]])


def test_ratios_have_student_s_interval():
    """Against scipy's own, on paired logarithms."""
    from scipy import stats

    plain, arm = np.array([100.0, 130.0, 90.0, 110.0]), np.array([20.0, 30.0, 10.0, np.inf])
    found = speedup_report.ratio(plain, arm)
    logs = np.log(plain[:3] / arm[:3])
    low, high = stats.t.interval(0.95, 2, logs.mean(), stats.sem(logs))
    np.testing.assert_allclose(found[:3], np.exp([logs.mean(), low, high]))
    assert found.num == 3
    assert np.isnan(speedup_report.ratio(plain[:1], arm[:1]).mean)


def test_time_to_accuracy_counts_from_the_worst():
    arrays = {
        "photos/plain/record_steps": np.array([0, 10, 20, 30]),
        "photos/plain/accuracy": np.array([[0.6, 0.3, 0.5, 0.5], [0.6, 0.4, 0.49, 0.51]]),
        "photos/adam/record_steps": np.array([0, 10, 20, 30]),
        "photos/adam/accuracy": np.array([[0.6, 0.4, 0.59, 0.6], [0.6, 0.4, np.nan, np.nan]]),
    }
    # Barlow Twins ends with 0.5, of which a point is granted.
    times = speedup_report.times_to_accuracy(arrays, "photos", "adam")
    np.testing.assert_allclose(times, [10 + 10 * (0.49 - 0.4) / (0.59 - 0.4), np.inf])
    times = speedup_report.times_to_accuracy(arrays, "photos", "plain")
    np.testing.assert_allclose(times, [10 + 10 * (0.49 - 0.3) / 0.2, 20.0])


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
    ],
)
def test_bad_settings(tmp_path, args, message):
    with pytest.raises(ValueError, match=message):
        speedup.run(replace(SMALL, **args), tmp_path)
