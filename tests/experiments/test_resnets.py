"""The experiments that train ResNets: small runs, which they share, and what they count."""

import json
from dataclasses import fields, replace

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from sslstep import claims, nn, recipes
from sslstep.experiment import _code, _machine, _run, curves, find, load, results, training
from sslstep.measure import steps as measure_steps

pytestmark = pytest.mark.slow  # networks are trained

SHARED = ["--size", "8", "--num-probe", "32", "--num-records", "6", "--num-images", "64"]
SHARED += ["--num-labelled", "40", "--num-snapshots", "3", "--seeds", "0"]
TINY = {"num-steps": "12", "dim": "4", "batch-size": "16", "hidden": "8"}


def tiny(*prefixes):
    """Options that make the recipes of these names small."""
    return [
        word for p in prefixes for key, value in TINY.items() for word in (f"--{p}.{key}", value)
    ]


ALL = tiny("barlow-twins", "simclr", "vicreg")


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    """The folder of training runs that the tests here share."""
    return tmp_path_factory.mktemp("runs")


def command(experiment, runs, out, *args):
    return _run.main(experiment, [*SHARED, "--runs", str(runs), "--out", str(out), *args])


# Figure 5 where its figure does not matter.
FIG5 = load("experiments.fig5")._replace(plot=lambda *_: {})
ONE = [*tiny("barlow-twins"), "--methods", "barlow_twins", "--num-labelled", "0"]


def test_experiments_share_their_runs(runs, tmp_path):
    """A method from two initialisations is trained once each, whoever asks first."""
    methods = ["--methods", "simclr"]
    args = [*tiny("simclr"), *methods]
    assert command(load("experiments.fig5"), runs, tmp_path / "small", *args) == 0
    assert command(load("experiments.fig3_4"), runs, tmp_path / "standard", *args) == 0
    made = {path: path.stat().st_mtime_ns for path in runs.rglob("*.jsonl")}
    assert len(made) == 4
    both = tiny("small.simclr", "standard.simclr")
    assert command(load("experiments.fig7"), runs, tmp_path / "probe", *both, *methods) == 0
    assert {path: path.stat().st_mtime_ns for path in runs.rglob("*.jsonl")} == made
    arrays = results.load(tmp_path / "small").arrays
    assert arrays["simclr/0/covariance"].shape == (len(arrays["simclr/0/record_t"]), 4)
    assert arrays["simclr/0/t"][-1] == pytest.approx(12 * 0.01)
    assert {path.name for path in (tmp_path / "standard").glob("*.png")} == {
        "figure.png",
        "histograms.png",
    }
    accuracy = results.load(tmp_path / "probe").arrays["standard/simclr/0/accuracy"]
    assert ((accuracy >= 0) & (accuracy <= 1)).all()
    assert json.loads((tmp_path / "small" / "config.json").read_text())["num_probe"] == 32


def test_step_times_by_the_ntk_read_the_run_s_copies(runs, tmp_path, require_documented):
    """The last copy is the network that the run ends with."""
    args = [*tiny("barlow-twins"), "--num-pairs", "16", "--seeds", "0"]
    assert command(load("experiments.beyond.predicted_steps"), runs, tmp_path / "here", *args) == 0
    arrays = results.load(tmp_path / "here").arrays
    require_documented("predicted_steps", arrays)
    assert arrays["0/unlearned/predicted"].shape == (len(arrays["0/snapshot_t"]), 4)
    assert arrays["0/snapshot_t"][-1] == pytest.approx(0.12)
    assert (arrays["0/all/gammas"][:, 0] > 0).all()
    momentum = [*args, "--barlow-twins.momentum", "0.9"]
    with pytest.raises(ValueError, match="the theory is of plain gradient descent"):
        command(load("experiments.beyond.predicted_steps"), runs, tmp_path / "b", *momentum)
    with pytest.raises(ValueError, match="num_snapshots must be >= 2"):
        command(
            load("experiments.beyond.predicted_steps"),
            runs,
            tmp_path / "b",
            *args,
            "--num-snapshots",
            "0",
        )


def test_alignment_of_what_was_learned_with_the_ntk(runs, tmp_path, require_documented):
    """Both tables, of the runs that Figure 5 trains."""
    methods = ["--methods", "barlow_twins", "simclr"]
    args = [*tiny("barlow-twins", "simclr"), *methods]
    args += ["--num-pairs", "32", "--num-along", "32", "--num-held-out", "8"]  # compiled once
    args += ["--seeds", "0"]
    assert command(load("experiments.tables"), runs, tmp_path / "here", *args) == 0
    table = (tmp_path / "here" / "table.md").read_text().splitlines()
    assert "|  | Barlow Twins | SimCLR |" in table
    assert table.count("| *the paper's* | *0.615* | *0.517* |") == 1
    assert "| *the paper's* | *0.504* |" in table  # of the only two methods
    arrays = results.load(tmp_path / "here").arrays
    require_documented("tables", arrays)
    for key in ("final NTK", "top modes", "initial NTK", "random", "trace, fewer pairs"):
        assert 0 < arrays[f"simclr/0/{key}"] < 1
    assert arrays["barlow_twins/simclr/0"] > 4 / 64
    assert arrays["simclr/0/cosine"][-1] == pytest.approx(1)
    np.testing.assert_array_equal(arrays["simclr/0/numbers"], [12, 24])
    assert 0 <= arrays["simclr/0/learned"] <= 4
    made = claims.load(tmp_path / "here" / "claims.json")
    assert {claim.verdict for claim in made} <= {"undecided", "NO"}  # of one seed
    with pytest.raises(ValueError, match="num_pairs = 4 must lie between 2 dim = 8"):
        command(load("experiments.tables"), runs, tmp_path / "b", *args, "--num-pairs", "4")
    with pytest.raises(ValueError, match="memory_gib must be > 0, got -1"):
        command(load("experiments.tables"), runs, tmp_path / "b", *args, "--memory-gib", "-1")
    with pytest.raises(ValueError, match="num_held_out = 32 leaves 0 of num_probe = 32 pairs"):
        command(load("experiments.tables"), runs, tmp_path / "b", *args, "--num-held-out", "32")


def test_the_resnet18_s_figures_and_claims_are_those_of_the_experiments(runs, tmp_path):
    """The composition, with the small network of the other tests."""
    args = ["--backbone", "small", "--stem", "small_stride2", "--methods", "barlow_twins"]
    args += [*tiny("small.barlow-twins", "standard.barlow-twins"), "--num-pairs", "16"]
    for kind in ("small", "standard"):
        args += [f"--{kind}.barlow-twins.views", "crops"]
    out = tmp_path / "out"
    assert command(load("experiments.beyond.resnet18"), runs, out, *args) == 0
    names = ["small", "standard", "standard_histograms", "accuracy", "alignment", "predicted_steps"]
    assert sorted(path.stem for path in out.glob("*.png")) == sorted(names)
    assert "### Table 1" in (out / "table.md").read_text(encoding="utf-8")
    statements = [claim.statement for claim in claims.load(out / "claims.json")]
    for told in ("dimensions learned", "one band", "small initialisation ends", "initial NTK"):
        assert any(told in statement for statement in statements), told
    assert results.load(out).arrays["small/barlow_twins/0/loss"].shape == (12,)


def test_an_interrupted_run_goes_on_where_it_was(tmp_path, monkeypatch):
    args = ["--checkpoint-every", "4", *ONE]
    runs, out = tmp_path / "runs", tmp_path / "here"
    kept = training._keep

    def interrupted(folder, state):
        if int(state.step) == 12:
            raise KeyboardInterrupt
        kept(folder, state)

    monkeypatch.setattr(training, "_keep", interrupted)
    with pytest.raises(KeyboardInterrupt):
        command(FIG5, runs, out, *args)
    monkeypatch.setattr(training, "_keep", kept)
    metrics = next(runs.rglob("metrics.jsonl"))
    before = metrics.read_bytes()
    assert not (out / "claims.json").exists()
    assert command(FIG5, runs, out, *args) == 0
    assert metrics.read_bytes() == before
    assert len(before.splitlines()) == 12


def test_runs_of_other_code_are_used_only_if_asked(tmp_path, monkeypatch):
    runs, out = tmp_path / "runs", tmp_path / "here"

    def said(*more):
        """What the log says of other code; and the runs that the results are of."""
        assert command(FIG5, runs, out, *ONE, "--skip-done", *more) == 0
        log = (out / "log.txt").read_text()
        return "made by other code" in log, results.load(out).about["training runs"]

    monkeypatch.setattr(_machine, "commit", lambda: "first")
    other, ((name, commits),) = (found := said())[0], found[1].items()
    assert (other, commits) == (False, ["first"])
    (made,) = json.loads((runs / name / "about.json").read_text())
    assert {"code", "commit", "date", "host", "device", "jax", "sslstep"} <= set(made)
    assert said() == (False, {name: ["first"]})  # nothing was run
    monkeypatch.setattr(_code, "digest", lambda *modules: "changed")
    monkeypatch.setattr(_machine, "commit", lambda: "second")
    before = (runs / name / "metrics.jsonl").stat().st_mtime_ns
    assert said("--old-runs") == (True, {name: ["first"]})
    assert (runs / name / "metrics.jsonl").stat().st_mtime_ns == before
    other, used = said()
    assert (other, list(used.values())) == (True, [["second"]])
    assert {path.name for path in runs.iterdir()} == {name, *used}
    # Of today's code there is one now, and there are no versions of others to be told.
    assert said("--old-runs") == (False, used)


def test_what_other_code_goes_on_with_is_of_both(tmp_path, monkeypatch):
    store = training.Store(tmp_path)
    for commit, code in (("first", "one"), ("first", "one"), ("second", "two")):
        monkeypatch.setattr(_machine, "commit", lambda commit=commit: commit)
        monkeypatch.setattr(_code, "digest", lambda *modules, code=code: code)
        store.sign(tmp_path / "run", "module")
    assert store.used == {"run": ["first", "second"]}
    (tmp_path / "run" / "about.json").unlink()  # of an older version
    store.note(tmp_path / "run")
    assert store.used == {"run": ["unknown"]}


def test_the_paper_s_settings_run_too(tmp_path):
    """Appendix D.2 with a small network on small images: optimisers, schedules, views, bfloat16."""
    paper = FIG5.presets["paper"]
    shortened = {}
    for method in recipes.METHODS:
        recipe = paper.recipes.of(method)
        scale = 12 / recipe.num_steps
        shortened[method] = replace(
            recipe,
            dim=4,
            batch_size=16,
            num_steps=12,
            warmup_steps=round(scale * recipe.warmup_steps),
        )
    config = replace(
        paper,
        data="photos",
        backbone="small",
        size=16,
        num_images=64,
        num_probe=32,
        num_labelled=0,
        num_records=6,
        recipes=recipes.Recipes(**shortened),
    )
    shrunk = FIG5._replace(presets={"cpu": config})
    out = tmp_path / "here"
    assert _run.main(shrunk, ["--runs", str(tmp_path / "runs"), "--out", str(out)]) == 0
    arrays = results.load(out).arrays
    for method in recipes.METHODS:
        assert np.isfinite(arrays[f"{method}/0/loss"]).all()


def test_momentum_is_the_publication_s():
    """Nesterov's where settings are as published."""
    gradient, weight = jnp.ones(3), jnp.full(3, 2.0)
    for experiment in (
        load("experiments.fig5"),
        load("experiments.fig3_4"),
        load("experiments.tables"),
    ):
        config = experiment.presets["paper"]
        recipe = config.recipes.simclr
        optimizer = recipe.make_optimizer()
        state = optimizer.init(weight)
        momentum = 0.0
        for _ in range(2):
            decayed = gradient + recipe.weight_decay * weight
            momentum = 0.9 * momentum + decayed
            step, state = optimizer.update(gradient, state, weight)
            expected = -recipe.learning_rate * (0.9 * momentum + decayed)
            np.testing.assert_allclose(step, expected, rtol=1e-6)
        assert not config.recipes.barlow_twins.nesterov


def test_settled_statistics_are_those_of_the_images():
    """However small a network's activations are beside the variance 1 that it starts with."""
    config = training.Config(size=8, num_probe=64)
    recipe = recipes.BarlowTwins(dim=4, batch_size=16, hidden=(8,), init_scale=0.1)
    network = training.network(config, recipe)
    x = jnp.asarray(np.random.default_rng(0).normal(size=(64, 8, 8, 3)), jnp.float32)
    params = nn.scale_init(network.init(jax.random.key(0), x, train=False)["params"], 0.1)
    started = network.init(jax.random.key(0), x, train=False)["batch_stats"]
    settled = training.settled(network, params, started, x)
    variables = {"params": params, "batch_stats": settled}
    own, updated = network.apply(variables, x, train=True, mutable=["batch_stats"])
    for kept, moved in zip(*map(jax.tree.leaves, (settled, updated["batch_stats"])), strict=True):
        np.testing.assert_allclose(moved, kept, rtol=1e-6)
    found = training.evaluated(network, params, settled, x).z
    # A running variance is 64 / 63 of the images' in each of the last layers.
    assert np.linalg.norm(found - own.z) < 0.05 * np.linalg.norm(own.z)


def test_figure_7_without_labels(tmp_path):
    with pytest.raises(ValueError, match="probes need labelled images"):
        command(load("experiments.fig7"), tmp_path / "runs", tmp_path / "b", "--num-labelled", "0")


@pytest.mark.parametrize(
    ("args", "message"),
    [
        (["--scales", "1e-3"], "scales must be two or more"),
        (["--scales", "1e-3", "1e-3"], "scales must be two or more"),
        (["--scales", "1e-3", "-1"], "scales must be > 0, got -1"),
        (["--num-modes", "1"], "num_modes must be >= 2, got 1"),
        (["--relative-rate", "0"], "relative_rate must be > 0, got 0"),
        (["--exponent", "inf"], "exponent must be finite, got inf"),
        (["--learning-rate", "-1"], "learning_rate must be > 0, got -1"),
    ],
)
def test_bad_settings_of_the_linear_model(tmp_path, args, message):
    with pytest.raises(ValueError, match=message):
        command(load("experiments.beyond.lars_steps"), tmp_path, tmp_path / "here", *args)


@pytest.mark.parametrize(
    "experiment",
    [load("experiments.beyond.lars_steps"), load("experiments.beyond.predicted_steps")],
)
def test_what_trains_one_method_takes_no_other(tmp_path, capsys, experiment):
    with pytest.raises(SystemExit):
        command(experiment, tmp_path, tmp_path / "here", "--methods", "vicreg")
    assert "--methods" in capsys.readouterr().err


def test_a_batch_of_low_rank_has_levels_of_its_own():
    """With d above the batch's size, eigenvalues do not rise to 1 nor the loss to d - k."""
    recipe = recipes.PAPER_SMALL_INIT.barlow_twins
    assert not recipe.few_dimensions
    assert recipe.resting_losses() is None
    t = np.linspace(0, 40, 401)
    z = 1e-4 + 0.11 / (1 + np.exp(-4 * (t[:, None] - np.array([5, 20, 70]))))
    counted = curves.count(recipe, {"record_t": t, "correlation": z})
    assert (counted.learned, counted.alone) == (2, 2)
    np.testing.assert_allclose(counted.plateaus, 0.11, rtol=1e-2)


def test_counting_steps():
    t = np.linspace(0, 40, 401)
    rise = lambda at: 1 / (1 + np.exp(-4 * (t - at)))  # noqa: E731
    z = np.stack([rise(5), rise(5.3), rise(20), rise(30), rise(60)], axis=1)
    run = {"record_t": t, "correlation": z, "covariance": 0.01 * z + 1e-9}
    for recipe in (recipes.BarlowTwins(), recipes.SimCLR()):
        counted = curves.count(recipe, run)
        assert (counted.learned, counted.alone) == (4, 2)
        level = 1 if recipe.measured == "correlation" else 0.01
        np.testing.assert_allclose(counted.plateaus, level, rtol=1e-6)
    found = measure_steps.pauses(counted.rises)
    assert [k for k, _, _ in found] == [2, 3]
    np.testing.assert_allclose([(a + b) / 2 for _, a, b in found], [12.6, 25], atol=0.3)
    assert measure_steps.spread(counted.rises) > 5
    higher = curves.count(recipes.BarlowTwins(), run, high=0.99)
    assert (higher.learned, higher.alone) == (4, 2)
    assert (higher.rises.end[2] - higher.rises.begin[2]) > 1.5
    nothing = curves.count(recipes.BarlowTwins(), run | {"correlation": 0 * z})
    assert (nothing.learned, nothing.alone) == (0, 0)
    assert measure_steps.pauses(nothing.rises) == []
    assert measure_steps.spread(nothing.rises) == 0


def test_records_and_copies_are_denser_at_first():
    steps = training.record_steps(1000, 40)
    assert steps[0] == 0
    assert steps[-1] == 1000
    assert len(steps) <= 40
    assert (np.diff(steps[:5]) == 1).all()
    copied = training.snapshot_steps(steps, 6)
    assert {0, 1000} <= copied <= set(steps.tolist())
    assert 4 <= len(copied) <= 6
    assert training.snapshot_steps(steps, 0) == set()


@pytest.mark.parametrize(
    ("args", "message"),
    [
        (["--vicreg.dim", "0"], "vicreg.dim must be >= 1"),
        (["--simclr.learning-rate", "0"], "simclr.learning_rate must be > 0"),
        (["--num-records", "2"], "num_records must be >= 3"),
        (
            ["--num-probe", "20"],
            "num_probe = 20 must be a multiple of barlow_twins.batch_size = 16",
        ),
        (["--num-images", "100000"], "num_images = 100000, but photos has"),
        (["--seeds", "1", "1"], "seeds must be one or more, each once"),
        (
            ["--simclr.bias-learning-rate", "0.1"],
            "simclr.bias_learning_rate = 0.1 has no effect without optimizer lars",
        ),
        (
            ["--vicreg.warmup-steps", "2"],
            "vicreg.warmup_steps = 2 has no effect without schedule warmup_cosine",
        ),
        (
            ["--barlow-twins.nesterov"],
            "barlow_twins.nesterov = True has no effect without optimizer sgd and a momentum",
        ),
    ],
)
def test_bad_settings(tmp_path, args, message):
    with pytest.raises(ValueError, match=message):
        command(load("experiments.fig5"), tmp_path, tmp_path / "here", *ALL, *args)


def recipes_of(config):
    """The recipes of a config, and of the recipes of all methods in it, by their names."""
    for field in fields(config):
        value = getattr(config, field.name)
        if isinstance(value, recipes.Recipe):
            yield field.name, value
        elif isinstance(value, recipes.Recipes):
            yield from recipes_of(value)


@pytest.mark.parametrize("name", find("experiments"))
def test_all_settings_of_presets_have_an_effect(name):
    for config in load(find("experiments")[name]).presets.values():
        for method, recipe in recipes_of(config):
            recipe.require_effect(method)
