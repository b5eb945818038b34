"""Experiments from their command line: small runs, what they leave behind, and what goes wrong."""

import base64
import dataclasses
import functools
import html
import io
import itertools
import json
import os
import re
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from matplotlib.figure import Figure
from PIL import Image

import sslstep
from experiments.beyond.animation import experiment as animation
from experiments.beyond.animation import figure as animation_figure
from experiments.fig8 import experiment as fig8
from sslstep import claims
from sslstep.experiment import (
    _code,
    _kept,
    _machine,
    _run,
    claims_table,
    cli,
    find,
    load,
    report,
    results,
)

command = functools.partial(cli.main, "experiments")
SMALL = ["--num-images", "60", "--crop", "5", "--dim", "3", "--init-scale", "1e-4"]
SMALL += ["--learning-rate", "1e-3", "--num-records", "400"]


def draw(config, arrays):
    """A figure that is drawn at once, as it has no text."""
    fig = Figure((0.5, 0.5))
    axis = fig.subplots()
    axis.plot(arrays["t"])
    axis.set_axis_off()
    return fig


# What the runner makes of an experiment, with Figure 8's settings and without its work.
QUICK = load("experiments.fig8")._replace(
    run=lambda config: {"t": np.linspace(0, 1, config.num_times)},
    plot=draw,
    check=lambda *_: [claims.close("one is one", "-", expected=1, measured=1, tolerance=0)],
)
FILES = {"config.json", "arrays.npz", "figure.png", "figure.pdf", "claims.json", "log.txt"}
FILES |= {"about.json"}


def late_and_high(arrays):
    """Steps come late, the last never, losses rest too high, distances grow with 1 / α."""
    late = 1.5 * arrays["step_times"]
    late[-1] = np.inf
    rising = {k: v.copy() for k, v in arrays.items() if k.startswith("distances_")}
    for rows in rising.values():
        rows[:, 0] = rows[::-1, 0].copy()
    return {"step_times": late, "loss": arrays["loss"] + 0.3, **rising}


#: Arrays of which no claim holds, made of those of a run.
SPOIL = {
    "fig1ab": late_and_high,
    "fig6": lambda arrays: {"full": 1.5 * arrays["full"], "distances": arrays["distances"][::-1]},
}


# Their claims in float64, the default, are those of `make quick`.
ARGS = {
    "fig6": ["--dtype", "float32"],
    "fig8": ["--num-times", "101"],
    "fig1ab": [*SMALL, "--dtype", "float32"],
}


@pytest.fixture(scope="module")
def run_once(tmp_path_factory):
    """Runs an experiment with the options above, once: its status and its folder of results."""

    @functools.cache
    def run(name):
        out = tmp_path_factory.mktemp(name) / "here"
        args = [*ARGS[name], "--out", str(out), "--strict"]
        return _run.main(load(f"experiments.{name}"), args), out

    return run


SLOW = [pytest.param(name, marks=pytest.mark.slow) for name in ("fig1ab", "fig6")]


@pytest.mark.parametrize("name", ["fig8", *SLOW])
def test_runs_write_their_folder_and_claims_hold(run_once, require_documented, name):
    status, out = run_once(name)
    assert {path.name for path in out.iterdir()} == FILES
    made = claims.load(out / "claims.json")
    assert status == 0, claims.table([("failed", [claim for claim in made if not claim.holds])])
    assert len(made) >= 3
    kind = "float64" if name == "fig8" else "float32"
    assert json.loads((out / "config.json").read_text())["dtype"] == kind
    found = results.load(out)
    experiment, config, arrays = found.experiment, found.config, found.arrays
    require_documented(name, arrays)
    floats = [array for array in arrays.values() if array.dtype.kind == "f"]
    assert np.dtype(kind) in {array.dtype for array in floats}
    assert list(out.parent.iterdir()) == [out]  # no draft
    if name != "fig8":  # which has a test of its own
        with _run.precision(config):
            spoilt = experiment.check(config, arrays | SPOIL[name](arrays))
        assert [claim.holds for claim in spoilt] == [False] * len(made)
    if name == "fig6":  # where rounding hides every distance
        last = experiment.check(config, arrays | {"distances": arrays["floors"]})[-1]
        assert "over the 0 decades" in last.statement
        assert np.isnan(last.measured)


@pytest.mark.slow
def test_faster_losses_on_one_spectrum(tmp_path, require_documented):
    """In single precision: six trainings compile, whatever the number of spectra."""
    args = ["--ratios", "30", "--shown", "30", "--dtype", "float32", "--strict"]
    assert _run.main(load("experiments.fig9"), [*args, "--out", str(tmp_path / "here")]) == 0
    files = FILES | {"speedups.png", "speedups.pdf"}
    assert {path.name for path in (tmp_path / "here").iterdir()} == files
    arrays = results.load(tmp_path / "here").arrays
    require_documented("fig9", arrays)
    # Half as many steps of all but the plain loss, and a third of those.
    less = {
        key: steps / (3 if key.startswith("plain") else 2)
        for key, steps in arrays.items()
        if key.endswith("/steps")
    }
    config = results.load(tmp_path / "here").config
    made = load("experiments.fig9").check(config, arrays | less)
    # Of one ratio of eigenvalues nothing can grow with it.
    assert not any(claim.holds for claim in made if "grows with" not in claim.statement)
    # Of a second ratio, at which all take as long as at the first but for the remedies: a little
    # longer, relative to plain descent.
    two = dataclasses.replace(config, ratios=(30.0, 300.0))
    again = {key.replace("/30/", "/300/"): value for key, value in arrays.items()}
    for key in [key for key in again if key.endswith("/steps") and not key.startswith("plain")]:
        again[key] = again[key] * 1.1
    made = load("experiments.fig9").check(two, again | arrays)
    assert {claim.holds for claim in made if "grows with" in claim.statement} == {False}


def test_folder_names_keep_different_runs_apart(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    _run.main(QUICK, ["--num-times", "101"])
    _run.main(QUICK, ["--preset", "paper"])
    folder = tmp_path / "results" / "fig8"
    assert {path.name for path in folder.iterdir()} == {"cpu+num_times=101", "paper"}


def folder_name(*args, name="fig1ab"):
    experiment = load(f"experiments.{name}")
    return _run._folder_name(experiment, _run._parse(experiment, list(args)))


def test_folder_names_that_are_shortened_still_differ():
    assert folder_name("--data", "cifar10", "--dim", "4") == "cpu+data=cifar10+dim=4"
    options = ("--barlow-twins.num-steps", "150")
    name = folder_name(*options, name="fig5")
    assert name == "cpu+barlow_twins.num_steps=150"
    ambiguous = ("a/b_c", "a_b/c", "a_b_c", "a_b c", "a_b_ c", "a_b_c+dim=4", "a_b_c/dim=4")
    names = [folder_name("--data", data) for data in ambiguous]
    names.append(folder_name("--data", "a_b_c", "--dim", "4"))
    assert len(set(names)) == len(names)
    assert re.fullmatch("cpu.data=a_b_c-[0-9a-f]{12}", names[0])
    assert names[2] == "cpu+data=a_b_c"
    long = [folder_name("--data", f"{'a' * 300}{end}") for end in ("b/c", "b_c", "b+c")]
    assert len(set(long)) == 3
    assert max(map(len, [*names, *long])) < 200


def test_an_interrupted_run_leaves_the_old_results(tmp_path, monkeypatch):
    out = tmp_path / "here"
    args = ["--num-times", "101", "--out", str(out)]
    _run.main(QUICK, args)
    before = {path.name: path.read_bytes() for path in out.iterdir()}

    def interrupted(config):
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        _run.main(QUICK._replace(run=interrupted), args)
    assert {path.name: path.read_bytes() for path in out.iterdir()} == before
    assert _run.main(QUICK, args) == 0  # and the next run works


def test_results_that_are_done_are_left_if_asked(tmp_path, monkeypatch, capsys):
    args = ["--out", str(tmp_path / "here"), "--num-times", "101", "--skip-done"]

    experiment = QUICK

    def runs(*more, record=experiment, status=0):
        began = []
        counted = record._replace(run=lambda config: began.append(1) or record.run(config))
        assert _run.main(counted, [*args, *more]) == status
        return bool(began)

    assert runs()
    before = {path: path.stat().st_mtime_ns for path in (tmp_path / "here").iterdir()}
    capsys.readouterr()
    assert not runs()
    assert "done before" in capsys.readouterr().out
    assert {path: path.stat().st_mtime_ns for path in (tmp_path / "here").iterdir()} == before
    # Without being asked, with other settings, and by another version of the code.
    assert runs("--no-skip-done")
    assert runs("--num-times", "102")
    monkeypatch.setattr(_code, "digest", lambda *modules: "changed")
    capsys.readouterr()
    assert runs()
    said = "made again, as of commit [^ ]+( and changes)? it differs in settings, code\n"
    assert re.search(said, capsys.readouterr().out.replace(", and changes", " and changes"))
    assert not runs()
    monkeypatch.setattr(_code, "digest", lambda *modules: "changed again")
    failed = [claims.close("two is one", "-", expected=1, measured=2, tolerance=0.5)]
    assert runs(record=experiment._replace(check=lambda *_: failed))
    # What did not hold still does not.
    assert not runs("--strict", status=1)
    # Of results that are not whole.
    for name in ("arrays.npz", "figure.png"):
        assert not runs()
        (tmp_path / "here" / name).unlink()
        assert runs()
    # Results of versions that did not write what they are made from, or in one digest.
    about = tmp_path / "here" / "about.json"
    for of_old in ({}, {"made from": "0123456789ab"}):
        about.write_text(json.dumps({"experiment": "fig8"} | of_old))
        assert runs()


def test_results_depend_on_what_is_installed_and_jax_s_variables(monkeypatch):
    config = load("experiments.fig8").presets["cpu"]
    assert {"jax", "numpy", "neural-tangents"} <= set(_machine.versions(*_machine.required()))
    assert "pytest" not in _machine.required()

    def made_from(*store):
        return _kept.made_from("experiments.fig8", config, *store)

    def changed(before, now):
        return [name for name in now if now[name] != before[name]]

    here = _kept.Store(Path("here"))
    for other in (_kept.Store(Path("there")), dataclasses.replace(here, old=True)):
        assert changed(made_from(here), made_from(other)) == ["choice of training runs"]
    before = made_from()
    assert made_from() == before
    monkeypatch.setenv("JAX_DEFAULT_MATMUL_PRECISION", "bfloat16")
    assert changed(before, made_from()) == ["machine"]
    monkeypatch.setattr(_machine, "versions", lambda *_: {"jax": "0.0"})
    assert changed(before, made_from()) == ["versions", "machine"]


INTERRUPTED = """
import signal, sys
import jax
from sslstep import train
from sslstep.experiment import _run, load

# In the background of a shell it would be ignored, as it is there for whoever runs these tests.
signal.signal(signal.SIGINT, signal.default_int_handler)

def stop(config):
    print("begun")
    if sys.argv[1] == "trainer":
        raise train.Interrupted("stopped", 128 + int(sys.argv[2]))
    if sys.argv[1] == "callback":
        jax.experimental.io_callback(signal.raise_signal, None, 2)
        jax.effects_barrier()
    signal.raise_signal(int(sys.argv[2]))

sys.exit(_run.status(load("experiments.fig8")._replace(run=stop), sys.argv[3:]))
"""


@pytest.mark.slow
@pytest.mark.parametrize(
    ("who", "number", "status"),
    [
        ("user", signal.SIGINT, -signal.SIGINT),
        ("callback", signal.SIGINT, -signal.SIGINT),
        ("trainer", signal.SIGINT, -signal.SIGINT),
        ("trainer", signal.SIGTERM, 128 + signal.SIGTERM),
    ],
)
def test_a_shell_is_told_of_an_interrupt(tmp_path, who, number, status):
    """By a program that dies of it: a loop in bash would go on after any other end."""
    args = [who, str(int(number)), "--out", str(tmp_path / "here")]
    command = [sys.executable, "-c", INTERRUPTED, *args]
    ended = subprocess.run(command, capture_output=True, text=True, check=False)
    assert ended.returncode == status, ended.stderr
    assert "begun" in ended.stdout
    assert ("earlier results are as they were" in ended.stderr) == (who != "trainer")
    assert who == "callback" or "Traceback" not in ended.stderr  # there JAX has logged one
    assert list(tmp_path.iterdir()) == []


def test_a_run_that_cannot_start_leaves_no_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ValueError, match="num_times"):
        _run.main(load("experiments.fig8"), ["--num-times", "1"])
    assert list(tmp_path.iterdir()) == []
    (tmp_path / "results").mkdir()
    with pytest.raises(ValueError, match="num_times"):
        _run.main(load("experiments.fig8"), ["--num-times", "1"])
    assert list(tmp_path.rglob("*")) == [tmp_path / "results"]  # which was there


def test_what_was_computed_before_an_error_is_kept_and_named(tmp_path, capsys):
    def wrong(config, arrays):
        raise ValueError("no claims")

    experiment = QUICK._replace(check=wrong)
    args = ["--num-times", "101", "--out", str(tmp_path / "here")]
    with pytest.raises(ValueError, match="no claims"):
        _run.main(experiment, args)
    assert f"what was computed is in {tmp_path / 'here'}.partial" in capsys.readouterr().err
    with np.load(tmp_path / "here.partial" / "arrays.npz") as found:
        assert found["t"].shape == (101,)


def test_a_claim_that_changes_sides_is_said_and_counts_under_strict(tmp_path, capsys):
    """A failure that is not declared, and a declared one that holds."""
    args = ["--num-times", "101", "--out", str(tmp_path / "here")]
    fails = claims.close("two is one", "-", expected=1, measured=2, tolerance=0.5)
    holds = fails._replace(measured=1.0, holds=True)
    because = "two is more"
    for claim, failing, strict in (
        (fails, True, 1),
        (fails.known_to_fail(because), True, 0),
        (holds, False, 0),
        (holds.known_to_fail(because), False, 1),
        (holds._replace(holds=None).known_to_fail(because), False, 0),
    ):
        experiment = QUICK._replace(check=lambda *_, claim=claim: [claim])
        assert _run.main(experiment, args) == 0
        said = capsys.readouterr().err
        assert ("1 claim(s) do not hold" in said) == failing
        assert ("holds, but does not hold, because two is more" in said) == (strict and not failing)
        assert _run.main(experiment, [*args, "--skip-done", "--strict"]) == strict
        capsys.readouterr()


def test_claims_table(tmp_path, capsys, monkeypatch):
    assert claims_table.main(root=tmp_path) == 1
    assert "run `make figures` first" in capsys.readouterr().err
    for name in ("one/cpu", "one/cpu.partial", "two/cpu"):
        folder = tmp_path / "results" / name
        folder.mkdir(parents=True)
        claim = claims.close(f"of {name}", "Eq. 1", expected=1, measured=1, tolerance=0)
        claims.save(folder / "claims.json", [claim])
    assert claims_table.main(root=tmp_path / "results") == 0
    assert "2 of 2 claims hold." in capsys.readouterr().out
    monkeypatch.chdir(tmp_path)
    assert command(["claims", "two"]) == 0
    shown = capsys.readouterr().out
    assert "of two/cpu" in shown
    assert "of one/cpu" not in shown
    assert command(["claims", "two", "three"]) == 1
    assert "nothing of three in" in capsys.readouterr().err
    with pytest.raises(SystemExit, match="2"):
        command(["claims", "--strict"])
    assert "unrecognized arguments: --strict" in capsys.readouterr().err
    about = tmp_path / "results" / "two" / "cpu" / "about.json"
    about.write_text('{"module": "experiments.fig8", "commit": "abc"}')  # without digests
    assert command(["claims", "two"]) == 0
    assert "of other code than today's: two/cpu, made at commit abc." in capsys.readouterr().out
    about.write_text("{torn")
    assert [command(["claims"]), command(["report"])] == [1, 1]
    assert capsys.readouterr().err.count("about.json is broken") == 2


def learned_one_by_one():
    """Embeddings that fill three directions, one after the other."""
    rng = np.random.default_rng(0)
    basis = np.linalg.qr(rng.normal(size=(5, 5)))[0]
    samples = np.linalg.qr(rng.normal(size=(50, 5)))[0] * 50**0.5
    sizes = np.array([[1e-3] * 5, [1, 0.1, 0, 0, 0], [1, 0.9, 0.1, 0, 0], [1, 0.9, 0.8, 0, 0]])
    z = np.stack([samples @ np.diag(size) @ basis.T for size in sizes])
    found = {"z": z, "z_prime": z, "eigenvalues": -np.sort(-(sizes**2), axis=1)}
    found |= {"step": np.array([0, 2, 4, 8]), "loss": np.linspace(5, 2, 8)}
    return {**found, "labels": np.zeros(50, int)}, basis


def test_directions_come_in_the_order_in_which_they_are_learned():
    found, basis = learned_one_by_one()
    directions = animation_figure.learned_directions(found, 3)
    np.testing.assert_allclose(np.abs(np.diag(basis[:, :3].T @ directions)), 1, atol=1e-6)
    with pytest.raises(ValueError, match="only 3 dimensions were learned: give a larger num_steps"):
        animation_figure.learned_directions(found, 4)


def test_dimensions_learned_together_are_no_line_and_no_plane():
    found = learned_one_by_one()[0]
    together = found | {"eigenvalues": found["eigenvalues"][[0, 3, 3, 3]]}
    check = load("experiments.beyond.animation").check
    assert [check(None, each)[0].holds for each in (found, together)] == [True, False]


@pytest.mark.slow
def test_an_animation_is_a_result_like_others(tmp_path):
    arrays = learned_one_by_one()[0]
    out = tmp_path / "here"
    experiment = load("experiments.beyond.animation")._replace(run=lambda config: arrays)
    assert _run.main(experiment, ["--seconds", "1", "--out", str(out), "--strict"]) == 0
    assert {path.name for path in out.iterdir()} == FILES | {"embeddings.gif"}
    with Image.open(out / "embeddings.gif") as movie:
        assert movie.n_frames >= 4  # equal ones at the end may be one that lasts longer
    assert results.load(out).config.seconds == 1


@pytest.mark.slow
def test_an_animation_is_of_a_network_in_training(tmp_path, monkeypatch, require_documented):
    """Of a small one: what is recorded, and that too few dimensions are said to be too few."""
    recipe = dataclasses.replace(
        animation.recipes.SMALL_INIT.barlow_twins, dim=3, batch_size=16, hidden=(8,)
    )
    small = dataclasses.replace(animation.recipes.SMALL_INIT, barlow_twins=recipe)
    monkeypatch.setattr(animation.recipes, "SMALL_INIT", small)
    args = ["--num-points", "20", "--num-frames", "3", "--num-steps", "4"]
    with pytest.raises(ValueError, match="0 dimensions were learned: give a larger num_steps"):
        _run.main(load("experiments.beyond.animation"), [*args, "--out", str(tmp_path / "here")])
    with np.load(tmp_path / "here.partial" / "arrays.npz") as found:
        assert found["z"].shape == (3, 20, 3)
        assert found["step"].tolist() == [0, 2, 4]
        require_documented("animation", found)
    with pytest.raises(ValueError, match="num_points must be >= 12, got 2"):
        _run.main(
            load("experiments.beyond.animation"),
            ["--num-points", "2", "--out", str(tmp_path / "here")],
        )


def test_results_are_read_back_and_drawn_anew(tmp_path, capsys, run_once, monkeypatch):
    folder = shutil.copytree(run_once("fig8")[1], tmp_path / "result")
    found = results.load(folder)
    assert found.experiment == load("experiments.fig8")
    assert found.config == fig8.Config(num_times=101)
    with _run.precision(found.config):
        assert found.experiment.check(found.config, found.arrays) == found.claims

    (folder / "figure.png").unlink()
    capsys.readouterr()
    assert command(["plot", str(folder)]) == 0
    assert capsys.readouterr().out.split() == [str(folder / f"figure.{e}") for e in ("png", "pdf")]
    assert (folder / "figure.png").is_file()
    assert command(["plot", str(folder), "--out", str(tmp_path / "new" / "place")]) == 0
    assert (tmp_path / "new" / "place" / "figure.pdf").is_file()
    monkeypatch.setenv("HOME", str(tmp_path))  # a shell leaves --out=~/here as it is
    assert command(["plot", "~/result", "--out=~/here"]) == 0
    assert (tmp_path / "here" / "figure.pdf").is_file()

    settings = json.loads((folder / "config.json").read_text())
    del settings["num_times"]  # as if added since
    (folder / "config.json").write_text(json.dumps(settings))
    assert results.load(folder).config == fig8.Config()
    (folder / "config.json").write_text("{torn")
    capsys.readouterr()
    with pytest.raises(ValueError, match=r"config\.json is broken"):
        results.load(folder)
    shutil.copytree(folder, tmp_path / "fig8" / "cpu")
    assert report.main(root=tmp_path) == 1
    assert "config.json is broken" in capsys.readouterr().err
    (folder / "config.json").write_text(json.dumps(settings | {"of_old": 1}))
    with pytest.raises(ValueError, match=r"other settings: of_old\.$"):
        results.load(folder)
    (folder / "config.json").write_text(json.dumps(settings))
    about = json.loads((folder / "about.json").read_text())
    (folder / "about.json").write_text(json.dumps(about | {"preset": "of old"}))
    with pytest.raises(ValueError, match="of the preset of old, which does not exist now"):
        results.load(folder)
    (folder / "about.json").write_text(json.dumps(about))
    (folder / "arrays.npz").write_bytes((folder / "arrays.npz").read_bytes()[:99])
    with pytest.raises(ValueError, match=r"arrays\.npz is broken"):
        results.load(folder)
    (folder / "arrays.npz").unlink()
    with pytest.raises(FileNotFoundError, match=r"no folder of results: it has no arrays\.npz"):
        results.load(folder)
    with pytest.raises(FileNotFoundError, match="there is no folder"):
        results.load(tmp_path / "nowhere")


@pytest.mark.parametrize("name", find("experiments"))
def test_settings_survive_json(tmp_path, name):
    for default in load(find("experiments")[name]).presets.values():
        stored = json.loads(json.dumps(dataclasses.asdict(default)))
        assert results._config(default, stored, tmp_path) == default


def test_list_names_every_experiment(capsys):
    assert command(["list"]) == 0
    lines = dict(line.split(maxsplit=1) for line in capsys.readouterr().out.splitlines())
    assert set(lines) == set(TARGETS)
    assert lines["fig9"].startswith("Figure 9: ")
    with pytest.raises(SystemExit, match="0"):
        command(["dry", "--help"])
    assert "--tflops" in capsys.readouterr().out
    assert command(["run", "nothing"]) == 2
    assert "one of fig1ab, fig2ab, " in capsys.readouterr().err
    assert command([]) == 2


@pytest.mark.parametrize("asked", ["--help", "-h"])
def test_help_of_every_command(capsys, asked):
    for args in ([], ["run"], ["list"]):
        assert command([*args, asked]) == 0
        shown = capsys.readouterr()
        assert "python -m experiments run NAME [options]" in shown.out
        assert shown.err == ""
    for name in ("report", "claims", "plot"):
        with pytest.raises(SystemExit, match="0"):
            command([name, asked])
        assert f"usage: python -m experiments {name}" in capsys.readouterr().out
    assert command(["run"]) == 2
    with pytest.raises(SystemExit, match="2"):
        command(["report", "somewhere"])
    assert "unrecognized arguments: somewhere" in capsys.readouterr().err


def test_the_report_is_one_page_of_everything(tmp_path, capsys):
    assert report.main(root=tmp_path) == 1
    assert "run `make figures` first" in capsys.readouterr().err
    args = ["--num-times", "101", "--out", str(tmp_path / "fig8" / "cpu")]
    _run.main(QUICK, args)
    (tmp_path / "other" / "cpu.partial").mkdir(parents=True)
    claims.save(tmp_path / "other" / "cpu.partial" / "claims.json", [])
    assert report.main(root=tmp_path) == 0
    text = (tmp_path / "index.html").read_text()
    assert "fig8/cpu" in text
    assert "other/" not in text
    made = claims.load(tmp_path / "fig8" / "cpu" / "claims.json")
    held = sum(claim.holds for claim in made)
    assert f"{held} of {len(made)} claims hold." in text
    for claim in made:
        assert html.escape(claim.statement) in text
        assert f"{claim.measured:.4g}" in text
    figure = (tmp_path / "fig8" / "cpu" / "figure.png").read_bytes()
    assert base64.b64encode(figure).decode() in text
    assert "&quot;num_times&quot;: 101" in text
    title, command_line, explanation = fig8.__doc__.strip().split("\n\n")
    assert text.count(html.escape(title)) == 2  # in the list and in the section
    assert f"<pre>{command_line.strip()}</pre>" in text
    assert f"<p>{html.escape(explanation)}</p>" in text
    assert "training runs\nthat it found done and read from disk are not in them." in text
    assert "http" not in text  # nothing to fetch


def write_result(folder, made=(), about=None):
    """A folder of results without figures."""
    folder.mkdir(parents=True)
    claims.save(folder / "claims.json", made)
    if about is not None:
        (folder / "about.json").write_text(json.dumps(about))


def git(folder, *args):
    given = ["-c", "user.name=a", "-c", "user.email=a@b", *args]
    done = subprocess.run(["git", *given], cwd=folder, check=True, capture_output=True, text=True)
    return done.stdout.strip()


def test_results_say_what_machine_and_code_made_them(tmp_path, monkeypatch):
    """The commit of the checkout, not of a repository around it, and whether it was changed."""
    git(tmp_path, "init")
    inner = tmp_path / "inner"
    inner.mkdir()
    (inner / "file").write_text("as committed")
    git(tmp_path, "add", "inner")
    git(tmp_path, "commit", "-m", "outer")
    monkeypatch.setattr(_machine, "ROOT", inner)
    assert _machine.commit() == "unknown"
    monkeypatch.setattr(_machine, "ROOT", tmp_path)
    commit = git(tmp_path, "rev-parse", "--short", "HEAD")
    assert _machine.commit() == commit
    (inner / "file").write_text("changed")
    out = tmp_path / "results" / "fig8" / "cpu"
    _run.main(QUICK, ["--num-times", "101", "--out", str(out)])
    about = results.load(out).about
    assert about["commit"] == f"{commit}, and changes"
    assert about["sslstep"] == sslstep.__version__
    assert about["host"] == _machine.host()
    assert report.main(root=tmp_path / "results") == 0
    text = (tmp_path / "results" / "index.html").read_text()
    for key in ("commit", "sslstep", "host", "device", "jax"):
        assert html.escape(f"{key}: {about[key]}") in text


def test_the_processor_is_told_from_others_of_its_name(tmp_path, monkeypatch):
    path = tmp_path / "cpuinfo"
    monkeypatch.setattr(_machine, "CPUINFO", path)
    assert _machine.host().endswith(" cores")
    path.write_text("cpu family\t: 25\nmodel\t\t: 1\nmodel name\t: A B\n\nmodel name\t: C\n")
    assert _machine.host().startswith("A B (cpu family 25, model 1), ")
    path.write_text("model name : A B\n")
    assert _machine.host().startswith("A B, ")


def test_the_report_reads_what_earlier_versions_wrote(tmp_path):
    """Which said less of themselves, or nothing."""
    write_result(tmp_path / "mlp" / "cpu", about={"what": "All `of` it & more.", "jax": "0.1"})
    write_result(tmp_path / "older" / "cpu")  # without any
    assert report.main(root=tmp_path) == 0
    text = (tmp_path / "index.html").read_text()
    assert text.count("All <code>of</code> it &amp; more.") == 2
    assert "jax: 0.1" in text
    assert "<p></p>" not in text


def test_the_report_names_the_data(tmp_path):
    write_result(tmp_path / "mlp" / "cpu")
    (tmp_path / "mlp" / "cpu" / "config.json").write_text('{"data": "my <photos>", "dim": 3}')
    assert report.main(root=tmp_path) == 0
    text = (tmp_path / "index.html").read_text()
    assert '<p class="about">data: my &lt;photos&gt;</p>' in text


def test_the_report_shows_animations(tmp_path):
    write_result(tmp_path / "animation" / "cpu")
    Image.new("L", (3, 2)).save(tmp_path / "animation" / "cpu" / "embeddings.gif")
    assert report.main(root=tmp_path) == 0
    (shown,) = re.findall(
        r'<img alt="embeddings" src="data:image/gif;base64,(.*?)">',
        (tmp_path / "index.html").read_text(),
    )
    with Image.open(io.BytesIO(base64.b64decode(shown))) as movie:
        assert (movie.format, movie.size) == ("GIF", (3, 2))


def test_claims_of_part_of_a_run_count_once(tmp_path, capsys):
    """As those of one method where all have been run, but not those of another seed."""
    made = [
        claims.close(f"claim {number}", "-", expected=1, measured=measured, tolerance=0.5)
        for number, measured in enumerate((1.0, np.nan, 1.25))
    ]
    folder = tmp_path / "resnet"
    write_result(folder / "cpu+methods=one", made[:2])
    write_result(folder / "cpu", made)
    write_result(folder / "cpu+out=same", made)
    write_result(folder / "cpu+seeds=1", [made[0], made[2]._replace(measured=1.5)])
    write_result(tmp_path / "another" / "cpu", made[:2])
    write_result(tmp_path / "none" / "cpu")
    write_result(tmp_path / "none" / "paper")
    assert claims_table.main(root=tmp_path) == 0
    shown = capsys.readouterr().out
    assert "5 of 7 claims hold." in shown
    assert [line for line in shown.splitlines() if line.startswith("counted once")] == [
        f"counted once: all claims of resnet/{name} are among those of resnet/cpu"
        for name in ("cpu+out=same", "cpu+methods=one")
    ]
    assert report.main(root=tmp_path) == 0
    text = (tmp_path / "index.html").read_text()
    assert "<p>5 of 7 claims hold.<br>Counted once: all claims of resnet/cpu+out=same are" in text
    assert '<h2 id="resnet-cpu+methods=one">' in text  # its figures differ


def test_the_report_says_what_was_not_run(tmp_path):
    folder = tmp_path / "fig7" / "cpu"
    folder.mkdir(parents=True)
    (folder / report.SKIPPED).write_text("no labels in <here>\n")
    assert report.main(root=tmp_path) == 0  # though nothing else is there
    text = (tmp_path / "index.html").read_text()
    assert "<td>fig7/cpu</td><td>no labels in &lt;here&gt;</td>" in text
    write_result(tmp_path / "mlp" / "cpu")
    assert report.main(root=tmp_path) == 0
    text = (tmp_path / "index.html").read_text()
    assert text.index("mlp/cpu") < text.index("no labels") < text.index('<h2 id="mlp-cpu">')


@pytest.mark.slow
def test_blocks_of_the_documentation(tmp_path, monkeypatch, plain_blocks, run_once):
    """They read runs of several seeds back."""
    monkeypatch.chdir(tmp_path)
    for more in ("", "+seed=1", "+seed=2"):
        shutil.copytree(run_once("fig1ab")[1], Path("results/fig1ab", f"cpu{more}"))
    trained = Path("results/fig5/cpu/arrays.npz")
    trained.parent.mkdir(parents=True)
    np.savez(trained, **{f"barlow_twins/{seed}/loss": np.full(5, seed) for seed in range(3)})
    names = {"np": np}
    for block in plain_blocks("howto/seeds.md"):
        exec(block, names)
    np.testing.assert_array_equal(names["losses"], np.arange(3)[:, None] * np.ones(5))
    assert names["times"].shape == (3, 3)


@pytest.mark.parametrize(
    ("args", "error", "message"),
    [
        (["--dim", "80"], ValueError, r"dim = 80 with 75 features"),
        (["--init-scale", "-1"], ValueError, "init_scale must be > 0"),
        (["--learning-rate", "0"], ValueError, "learning_rate must be > 0"),
        (["--num-records", "1"], ValueError, "num_records must be >= 2"),
        (["--num-images", "10000000"], ValueError, "num_images = 10000000, but photos has"),
        (["--crop", "33"], ValueError, "33"),
        (["--dim", "75"], ValueError, r"of the 75 modes can be learned"),
    ],
)
def test_bad_settings(tmp_path, args, error, message):
    with pytest.raises(error, match=message):
        _run.main(load("experiments.fig1ab"), [*SMALL, *args, "--out", str(tmp_path / "here")])
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("experiment", "args", "message"),
    [
        (load("experiments.fig8"), ["--initial", "0"], "initial must lie between 0 and 1, got 0.0"),
        (
            load("experiments.fig8"),
            ["--initial", "-1e-3"],
            "initial must lie between 0 and 1, got -0.001",
        ),
        (load("experiments.fig9"), ["--curves-initial", "0"], "curves_initial must be > 0, got 0"),
        (load("experiments.fig9"), ["--curves", "0"], "curves must be > 0, got 0"),
        (load("experiments.fig9"), ["--curves"], "curves must be one or more, each once"),
        (load("experiments.fig9"), ["--leak", "0"], "leak must be > 0, got 0"),
        (load("experiments.fig9"), ["--rate", "0"], "rate must be > 0, got 0"),
        (load("experiments.fig6"), ["--num-times", "1"], "num_times must be >= 2, got 1"),
        (
            load("experiments.fig6"),
            ["--init-scale", "0"],
            "init_scale must lie between 0 and 1, or be 1",
        ),
        (
            load("experiments.fig6"),
            ["--init-scale", "10"],
            "init_scale must lie between 0 and 1, or be 1",
        ),
        (
            load("experiments.fig6"),
            ["--scales", "1", "0.1", "0.01", "0"],
            "scales must lie between 0 and",
        ),
    ],
    ids=lambda value: getattr(value, "name", str(value)),
)
def test_bad_settings_of_what_has_no_images(tmp_path, experiment, args, message):
    with pytest.raises(ValueError, match=message):
        _run.main(experiment, [*args, "--out", str(tmp_path / "here")])
    assert list(tmp_path.iterdir()) == []


def test_claims_of_figure_8_can_fail(run_once):
    """By a supervised curve that waits too, and one that ends on one side from both starts."""
    found = results.load(run_once("fig8")[1])
    fig8, config, arrays = found.experiment, found.config, found.arrays
    with _run.precision(config):
        exchanged = {
            "self_supervised_integrated": arrays["supervised_integrated"],
            "self_supervised_negative_integrated": arrays["supervised_integrated"],
            "supervised_integrated": arrays["self_supervised_integrated"],
        }
        assert [claim.holds for claim in fig8.check(config, arrays | exchanged)] == [False] * 3
        # Learned from the first record on: there is no rate, and no yes.
        late = {"self_supervised_integrated": np.ones((101, 4))}
        made = fig8.check(config, arrays | late)
    assert [claim.holds for claim in made] == [True, False, True]


def test_a_folder_that_is_not_a_result_is_never_replaced(tmp_path, monkeypatch):
    treasure = tmp_path / "thesis" / "chapter.tex"
    treasure.parent.mkdir()
    treasure.write_text("all of it")
    with pytest.raises(ValueError, match="holds files that no experiment wrote"):
        _run.main(QUICK, ["--out", str(treasure.parent)])
    with pytest.raises(ValueError, match="is a file"):
        _run.main(QUICK, ["--out", str(treasure)])
    here = tmp_path / "empty" / "here"
    here.mkdir(parents=True)
    monkeypatch.chdir(here)
    for place in (".", "..", str(here)):
        with pytest.raises(ValueError, match="holds the folder in which the command runs"):
            _run.main(QUICK, ["--out", place])
    monkeypatch.setenv("HOME", str(tmp_path))
    with pytest.raises(ValueError, match="holds files that no experiment wrote"):
        _run.main(QUICK, ["--out=~/thesis"])  # which a shell leaves as it is
    assert treasure.read_text() == "all of it"


def test_a_full_disk_leaves_the_makers_of_a_run_readable(tmp_path, monkeypatch):
    store, folder = _kept.Store(tmp_path), tmp_path / "run"

    def torn(file):
        os.truncate(file, 9)
        raise OSError("no space left")

    with monkeypatch.context() as patched:
        patched.setattr(os, "fsync", torn)
        with pytest.raises(OSError, match="no space left"):
            store.sign(folder, "experiments.fig8")
    store.sign(folder, "experiments.fig8")
    assert store.used == {"run": [_machine.commit()]}


def test_a_result_of_another_experiment_is_never_replaced(tmp_path):
    args = ["--num-times", "101", "--out", str(tmp_path / "here")]
    _run.main(QUICK, args)
    with pytest.raises(ValueError, match="holds the results of fig8"):
        _run.main(load("experiments.fig9"), ["--out", str(tmp_path / "here")])
    assert _run.main(QUICK, args) == 0


def test_a_folder_of_data_that_nothing_is_taken_from(tmp_path):
    args = ["--data-dir", str(tmp_path), "--out", str(tmp_path / "here")]
    with pytest.raises(ValueError, match="data_dir is where cifar10 and stl10 lie, but data is ph"):
        _run.main(load("experiments.fig1ab"), args)


def test_missing_data(tmp_path):
    args = ["--data", "cifar10", "--data-dir", str(tmp_path), "--out", str(tmp_path / "here")]
    with pytest.raises(FileNotFoundError, match="make data NAME=cifar10"):
        _run.main(load("experiments.fig1ab"), args)
    assert list(tmp_path.iterdir()) == []


TARGETS = find("experiments")


ALSO = {"infinite_width": ("--laziness",)}


@pytest.mark.parametrize("name", TARGETS)
def test_help_breaks_no_sentence(name):
    """tyro joins the lines of a paragraph, but for those that do not begin with a letter."""
    lines = load(find("experiments")[name]).doc.splitlines()
    for before, line in itertools.pairwise(lines):
        assert not before.strip() or not line or line[0].isalpha() or line[0] == "`", line


@pytest.mark.parametrize("name", TARGETS)
def test_help(capsys, name):
    """--help explains every option, and an unknown preset names the ones there are."""
    with pytest.raises(SystemExit, match="0"):
        command(["run", name, "--help"])
    shown = capsys.readouterr().out
    assert " ".join(shown.split()).startswith(f"usage: python -m experiments run {name} ")
    for option in ("--preset", "--strict", "--out", *ALSO.get(name, ())):
        assert option in shown
    on_images = hasattr(load(find("experiments")[name]).presets["cpu"], "data_dir")
    assert on_images == ("--skip-unfit" in shown)
    with pytest.raises(SystemExit, match="2"):
        command(["run", name, "--preset", "gpu"])
    errors = capsys.readouterr().err
    assert "paper" in errors
    assert " ".join(errors.split()).startswith(f"usage: python -m experiments run {name} ")
    assert re.search(r"--preset \{cpu,paper[a-z_,]*\}", shown)
