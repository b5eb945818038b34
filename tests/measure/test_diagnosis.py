"""What is said of a run; of each statement a run of which it is not so."""

import subprocess
import sys

import jax.numpy as jnp
import matplotlib.pyplot as plt
import numpy as np
import pytest

from sslstep import diagnose as command
from sslstep import dynamics, kernel_pca, linear, losses, measure, simulate, train

TIMES = np.linspace(0.0, 60.0, 241)


def rising_at(*at, rate=1.0):
    """Logistic curves that are at one half at these times."""
    return 1 / (1 + np.exp(-rate * (TIMES[:, None] - np.array(at))))


def staircase(curves):
    return np.sum((1 - curves) ** 2, axis=1)


def of(curves, loss=None, method="barlow_twins", **settings):
    return measure.diagnose(TIMES, curves, loss, method=method, **settings)


def test_a_run_of_the_linear_model(x64):
    """Times, sharpness, plateaus and the next step in closed form; rates from a kernel too."""
    gammas = np.array([1.0, 0.55, 0.3, 0.2])
    modes = linear.Modes(jnp.asarray(gammas), jnp.eye(4))
    start = np.full(4, 1e-3)
    times = jnp.linspace(0.0, 8.0, 400)
    flow = simulate.gradient_flow(jnp.diag(jnp.asarray(start)), modes, times)
    found = measure.diagnose(times, flow.eigenvalues, flow.loss, method="barlow_twins")
    expected = np.asarray(dynamics.step_time(jnp.asarray(gammas), jnp.asarray(start)))
    assert found.learned.tolist() == found.alone.tolist() == [True, True, True, False]
    np.testing.assert_allclose(found.rises.middle[:3], expected[:3], rtol=1e-3)
    initial = gammas * start**2
    sharpness = np.log(1 / initial - 1) / (np.log(9) + np.log(7 / 3))
    np.testing.assert_allclose(found.sharpness[:3], sharpness[:3], rtol=0.01)
    assert [rest.num_learned for rest in found.rests] == [0, 1, 2, 3]
    assert all(rest.agrees for rest in found.rests)
    assert found.next_step.dimension == 3
    np.testing.assert_allclose(found.next_step, (3, 8 * 0.2, expected[3]), rtol=1e-3)
    from_kernel = measure.diagnose(
        times, flow.eigenvalues, method="barlow_twins", rates=8 * gammas
    ).next_step
    np.testing.assert_allclose(from_kernel, (3, 8 * 0.2, expected[3]), rtol=1e-4)
    two = measure.diagnose(times[-2:], flow.eigenvalues[-2:], method="barlow_twins").next_step
    np.testing.assert_allclose(two, (3, 8 * 0.2, expected[3]), rtol=1e-2)


def test_times_may_begin_anywhere():
    """Such as seconds since 1970, which float32 rounds to 128."""
    curves, start = rising_at(10, 30, 80), 1.7e9
    here, there = (measure.diagnose(TIMES + at, curves) for at in (0.0, start))
    np.testing.assert_allclose(there.rises.middle[:2] - start, [10, 30], atol=1e-3)
    np.testing.assert_allclose(there.rises.begin - start, here.rises.begin, atol=1e-6)
    assert there.alone.tolist() == [True, True, False]


def test_a_flat_run():
    """Nothing is learned, nor collapsed, nor in sight, whatever its level and noise."""
    noise = 1e-4 * np.random.default_rng(0).normal(size=(len(TIMES), 3))
    for level, method in ((1e-3, "barlow_twins"), (0.2, None), (1e-3, None)):
        flat = np.sort(level * (1 + noise / level * 1e-1))[:, ::-1]
        found = of(flat, method=method)
        assert not (found.learned | found.collapsed | found.rising).any()
        assert found.next_step is None
        assert found.simultaneity is None
        text = str(found)
        for line in ("Learned: none.", "Waiting: 1 to 3.", "Collapsed: none.", "none in sight"):
            assert line in text.replace("Rising: none.\n", ""), (line, text)
    below = -np.ones((len(TIMES), 2)) * 1e-6
    assert of(below).next_step is None
    assert not of(below).collapsed.any()
    assert of(np.zeros((len(TIMES), 2)), method=None).learned.sum() == 0


def test_two_dimensions_at_once():
    alone = of(rising_at(10, 25, 40))
    assert alone.alone.tolist() == [True] * 3
    assert "One at a time: 3 of 3 rise alone.\nThat all rise at one time is rejected" in str(alone)
    together = of(rising_at(10, 25, 25.5))
    assert together.alone.tolist() == [True, False, False]
    assert "One at a time: 1 of 3" in str(together)
    all_at_once = of(rising_at(25, 25.5, 26))
    assert not all_at_once.alone.any()
    assert "That all rise at one time is not rejected" in str(all_at_once)


def test_collapses():
    """One dimension that was learned; all of them; and all of an ordinary start."""
    healthy = rising_at(10, 25, 70)
    one = healthy * np.array([1.0, 1.0, 1.0])
    one[:, 1] *= 1 - rising_at(45)[:, 0]
    found = of(one)
    assert found.collapsed.tolist() == [False, True, False]
    assert found.next_step is None
    assert found.rests == ()
    assert "Collapsed: 2." in str(found)
    assert of(healthy * (1 - rising_at(45))).collapsed.tolist() == [True, True, False]
    ordinary = np.exp(-TIMES / 10)[:, None] * np.array([[0.4, 0.3, 0.2]])
    for method in ("barlow_twins", None):
        assert of(ordinary, method=method).collapsed.all()
    assert not of(healthy).collapsed.any()
    assert "Collapsed: none." in str(of(healthy))


def test_vicreg_comes_down_without_a_collapse():
    """Its first eigenvalue falls from d to 1 while others rise: twentyfold."""
    dim, at = 20, np.linspace(5, 50, 20)
    levels = dynamics.vicreg_plateau(np.arange(dim + 1), dim)
    learned = (at[None, :] < TIMES[:, None]).sum(axis=1)
    curves = np.where(
        at[None, :] < TIMES[:, None], np.asarray(levels.eigenvalue)[learned, None], 1e-5
    )
    found = of(curves, np.asarray(levels.loss)[learned], method="vicreg")
    assert found.learned.all()
    assert not found.collapsed.any()
    assert all(rest.agrees for rest in found.rests)
    assert not of(curves, method=None).collapsed.any()
    half = np.where(TIMES[:, None] > 55, 0.05, curves)
    assert of(half, method="vicreg").collapsed.all()


def test_losses_that_do_not_rest_where_theory_has_them():
    curves = rising_at(10, 30, 80)
    good, bad = (of(curves, staircase(curves) + shift) for shift in (0.0, 0.5))
    assert [rest.agrees for rest in good.rests] == [True] * 3
    assert [rest.agrees for rest in bad.rests] == [False] * 3
    assert "in theory 2: as expected" in str(good)
    assert "in theory 2: not as expected" in str(bad)
    assert "in theory" not in str(of(curves))  # no loss
    assert "in theory" not in str(of(curves, staircase(curves), method=None))  # no theory


def test_levels_of_any_loss(x64):
    """From kernel_pca.plateaus, instead of a method's."""
    x = np.random.default_rng(0).normal(size=(40, 3))
    x[20:] = x[:20]
    levels = kernel_pca.plateaus(jnp.asarray(x @ x.T), losses.simplified_barlow_twins, 3)
    curves = rising_at(10, 30, 80)
    found = of(curves, staircase(curves), method=None, levels=levels, plateau=1.0)
    assert [rest.agrees for rest in found.rests] == [True] * 3
    np.testing.assert_allclose([rest.expected for rest in found.rests], [3, 2, 1], atol=1e-3)


def test_levels_that_nobody_knows_are_what_has_grown():
    found = of(7 * rising_at(10, 30, 90), method=None)
    assert found.learned.tolist() == [True, True, False]
    np.testing.assert_allclose(found.plateau, 7, rtol=1e-6)
    np.testing.assert_allclose(found.rises.middle[:2], [10, 30], rtol=0.01)
    assert found.next_step.time == pytest.approx(90, rel=0.01)


def test_the_next_step_is_that_of_the_first_that_waits():
    begun = of(rising_at(10, 61))
    assert begun.rising.tolist() == [False, True]
    assert begun.next_step.time == pytest.approx(61, rel=1e-3)
    assert [rest.num_learned for rest in begun.rests] == [0, 1]
    assert of(rising_at(10, 30)).next_step is None  # none waits
    falling = rising_at(10, 100)
    falling[:, 1] = 1e-3 * np.exp(-TIMES / 100)
    assert of(falling).next_step is None
    assert of(falling, rates=np.array([1.0, -1.0])).next_step is None
    assert of(falling, rates=np.array([1.0, 1.0])).next_step.rate == 1.0
    started = of(np.maximum(rising_at(30), 0.6))
    assert started.from_start.all()
    assert "1 of them from the start" in str(started)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda c: measure.diagnose(TIMES[:3], c), "times must have shape"),
        (lambda c: measure.diagnose(TIMES[::-1], c), "times must increase"),
        (lambda c: of(c, np.ones(3)), r"loss must have shape \(241,\), got \(3,\)"),
        (lambda c: of(c, np.full(241, np.nan)), "loss of shape .* NaN"),
        (lambda c: of(c, levels=np.ones(2)), r"levels must have shape \(3,\), of k = 0...2"),
        (lambda c: of(c, levels=np.full(3, np.nan)), "levels of shape .* NaN"),
        (lambda c: of(c, rates=np.ones(3)), r"rates must have shape \(2,\)"),
        (lambda c: of(c, plateau=0.0), "plateau must be > 0"),
        (lambda c: of(c, method="byol"), "method must be one of 'barlow_twins', 'vicreg'"),
        (lambda c: of(c, high=0.4), "high must be > 0.5"),
    ],
)
def test_rejects(call, message, unchecked):
    with pytest.raises(ValueError, match=message):
        call(rising_at(10, 30))


def test_the_command_writes_text_and_page(tmp_path, monkeypatch, capsys):
    """Of files that a recorder has written; a closed pipe costs no page, a lost page no text."""
    z = np.random.default_rng(1).normal(size=(200, 3))
    z = np.linalg.qr(z - z.mean(axis=0))[0] * 200**0.5
    curves = rising_at(10, 30, 80)
    with train.Recorder(tmp_path, metrics={"mean": lambda first, _: first.z.mean()}) as recorder:
        for step, row in enumerate(curves):
            if step % 4 == 0:
                recorder.record(step, z * np.sqrt(row), z * np.sqrt(row))
            recorder.log(step + 1, loss=np.sum((1 - row) ** 2))
    case = command.of_run(tmp_path, method="barlow_twins")
    direct = measure.diagnose(TIMES[::4] * 4, curves[::4], method="barlow_twins")
    np.testing.assert_allclose(case.diagnosis.rises.middle, direct.rises.middle, rtol=1e-4)
    assert [rest.agrees for rest in case.diagnosis.rests] == [True] * 3
    arguments = ["diagnose", str(tmp_path), "--method", "barlow_twins"]
    monkeypatch.setattr("sys.argv", arguments)
    command.main()
    said = capsys.readouterr().out
    assert str(case) in said
    assert str(case.diagnosis) in str(case)
    assert str(case).startswith("Spectrum: correlation. Levels: theory's.")
    alone = str(command.of_run(tmp_path))
    assert alone.startswith("Spectrum: covariance. Levels: each dimension's largest eigenvalue")
    assert said.endswith("diagnosis.html\n")
    page = (tmp_path / "diagnosis.html").read_text()
    assert "dimension 3 at about t = 3" in page
    assert "data:image/png;base64," in page
    for arguments, message in (
        (["diagnose", str(tmp_path / "none")], "has no run"),
        (["diagnose", str(tmp_path), "--spectrum", "hidden"], "has no records of 'hidden': it has"),
    ):
        monkeypatch.setattr("sys.argv", arguments)
        with pytest.raises(SystemExit):
            command.main()
        assert message in capsys.readouterr().err
    with monkeypatch.context() as patched:
        patched.setattr("sys.argv", ["diagnose", str(tmp_path)])
        patched.setitem(sys.modules, "matplotlib.pyplot", None)
        with pytest.raises(SystemExit):
            command.main()
    assert capsys.readouterr().out == f"{alone}\n"  # the page is lost, the text is not
    page = tmp_path / "piped.html"
    line = f"'{sys.executable}' -m sslstep.diagnose '{tmp_path}' --page '{page}' | head -n 1"
    ended = subprocess.run(line, shell=True, capture_output=True, text=True, check=True)
    assert (ended.stdout, ended.stderr) == (alone.splitlines(keepends=True)[0], "")
    assert "data:image/png;base64," in page.read_text()


def test_the_loss_is_that_of_the_steps_that_have_one(tmp_path):
    """A loop may log other numbers at further steps, or later at the same step."""
    z = np.random.default_rng(1).normal(size=(20, 2))
    with train.Recorder(tmp_path) as recorder:
        for step in (0, 10, 20):
            recorder.record(step, 1e-3 * z)
            recorder.log(step + 1, loss=step + 4.0)
            recorder.log(step + 1, accuracy=0.5)
            recorder.log(step + 2, accuracy=0.5)
    case = command.of_run(tmp_path)
    np.testing.assert_array_equal(case.metrics["loss"], [4, np.nan, 14, np.nan, 24, np.nan])
    np.testing.assert_array_equal(case.metrics["accuracy"], [0.5] * 6)
    assert [rest.measured for rest in case.diagnosis.rests] == [14]
    fig = command._figure(case)
    np.testing.assert_array_equal(fig.axes[1].lines[0].get_xydata(), [[1, 4], [11, 14], [21, 24]])
    plt.close(fig)
