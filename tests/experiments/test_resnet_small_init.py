"""Figure 1 (C, D): a small run, interrupted and gone on with, and how steps are counted."""

import json

import numpy as np
import pytest

from experiments import _run, _training, resnet_small_init

SMALL = ["--num-steps", "20", "--hidden", "8", "--dim", "3", "--batch-size", "16", "--size", "8"]
SMALL += ["--num-probe", "32", "--num-records", "6", "--num-images", "64"]


def test_an_interrupted_run_goes_on_where_it_was(tmp_path):
    out = tmp_path / "here"
    args = [*SMALL, "--out", str(out)]

    def interrupted(config, folder):
        resnet_small_init.run(config, folder)
        raise KeyboardInterrupt

    experiment = resnet_small_init.EXPERIMENT
    with pytest.raises(KeyboardInterrupt):
        _run.main(experiment._replace(run=interrupted), args)
    kept = tmp_path / "here.partial" / "training" / "metrics.jsonl"
    made = kept.stat().st_mtime_ns
    assert len(kept.read_text().splitlines()) == 20
    assert _run.main(experiment, args) == 0
    assert list(tmp_path.iterdir()) == [out]
    assert (out / "training" / "metrics.jsonl").stat().st_mtime_ns == made
    arrays = np.load(out / "arrays.npz")
    assert arrays["t"][-1] == pytest.approx(0.2)
    assert arrays["correlation"].shape == (len(arrays["record_t"]), 3)
    assert json.loads((out / "config.json").read_text())["dim"] == 3


def test_the_publication_s_settings_run_too(tmp_path):
    """LARS with its schedule, the whole pipeline of views, bfloat16: Appendix D.2 in small."""
    args = [*SMALL, "--optimizer", "lars", "--bias-learning-rate", "0.001", "--views"]
    args += ["barlow_twins", "--dtype", "bfloat16", "--warmup-steps", "5", "--no-symmetrise"]
    assert _run.main(resnet_small_init.EXPERIMENT, [*args, "--out", str(tmp_path / "a")]) == 0
    arrays = np.load(tmp_path / "a" / "arrays.npz")
    rates = np.diff(arrays["t"], prepend=0.0)
    assert np.argmax(rates) == 5
    assert rates[0] == 0


def test_steps_are_counted():
    t = np.linspace(0, 40, 401)
    rise = lambda at: 1 / (1 + np.exp(-4 * (t - at)))  # noqa: E731
    curves = np.stack([rise(5), rise(5.3), rise(20), rise(30), rise(60)], axis=1)
    learned, apart, amid = resnet_small_init.steps(t, curves)
    assert (learned, apart) == (4, 2)
    np.testing.assert_allclose(t[amid], [12.6, 25], atol=0.2)
    nothing = resnet_small_init.steps(t, np.zeros((401, 2)))
    assert nothing[:2] == (0, 0)
    assert len(nothing[2]) == 0


def test_records_are_denser_at_first():
    steps = _training.record_steps(1000, 40)
    assert steps[0] == 0
    assert steps[-1] == 1000
    assert len(steps) <= 40
    assert (np.diff(steps[:5]) == 1).all()


@pytest.mark.parametrize(
    ("args", "message"),
    [
        (["--dim", "0"], "dim must be >= 1"),
        (["--learning-rate", "0"], "learning_rate must be > 0"),
        (["--num-probe", "20"], "num_probe = 20 must be a multiple of batch_size = 16"),
        (["--num-images", "100000"], "num_images = 100000, but photos has"),
    ],
)
def test_bad_settings(tmp_path, args, message):
    with pytest.raises(ValueError, match=message):
        _run.main(resnet_small_init.EXPERIMENT, [*SMALL, *args, "--out", str(tmp_path / "here")])
