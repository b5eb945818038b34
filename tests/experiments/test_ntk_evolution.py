"""The NTK's evolution: a small run, its claims, and bad settings."""

import numpy as np
import pytest

from experiments.beyond.ntk_evolution import claims as ntk_evolution_claims
from experiments.beyond.ntk_evolution import experiment as ntk_evolution
from sslstep.experiment import _run, load, results

pytestmark = pytest.mark.slow  # networks are trained

SMALL = ["--num-images", "8", "--crop", "6", "--dim", "2", "--widths", "64", "256"]
SMALL += ["--fit-from", "64", "--num-draws", "6", "--num-lazy", "2", "--num-small", "2"]
SMALL += ["--num-units", "1024", "--num-modes", "4"]


def test_a_small_run_measures_what_theory_says(tmp_path, require_documented):
    out = tmp_path / "here"
    assert _run.main(load("experiments.beyond.ntk_evolution"), [*SMALL, "--out", str(out)]) == 0
    arrays = results.load(out).arrays
    require_documented("ntk_evolution", arrays)
    assert arrays["distance"].shape == (2, 6, 2)
    # The kernel is the sum of its layers' parts, and from small weights it moves much further.
    hidden, output, both = np.moveaxis(arrays["lazy_movement"], -1, 0)
    assert (both <= hidden + output + 1e-12).all()
    assert arrays["small_movement"].min() > 5 * both.max()


def _arrays(scatter, power=0.0, constant=1.0):
    """What a run finds whose networks follow theory but for scatter, a power and a constant."""
    widths = np.array([64, 128, 256, 512, 1024, 2048])
    rng = np.random.default_rng(0)

    def networks(exponent):
        noise = rng.normal(size=(6, 6))
        noise -= noise.mean(axis=1, keepdims=True)
        power_law = widths[:, None] ** (exponent + power)
        return constant * power_law * np.exp(scatter * noise - scatter**2)  # mean square 1

    misaligned = 0.1 * (1 + 0.1 * rng.random((6, 4, 1))) * np.array([1.0, 0.2, 1.0])
    return {
        "widths": widths,
        "lazy_movement": np.stack([networks(-0.75), networks(-1.0), networks(-0.75)], axis=-1),
        "lazy_theory": (widths**-1.5)[:, None, None] * np.tile([1.0, 0.02], (6, 1)),
        "small_movement": 3.5 * networks(0.0),
        "small_misalignment": misaligned,
        "lazy_misalignment": np.full((6, 6, 3), 0.08) + 1e-3 * rng.normal(size=(6, 6, 3)),
        "lazy_floor": np.full((6, 6), 0.08),
    }


def _verdicts(**given):
    made = ntk_evolution_claims.check(ntk_evolution.Config(), _arrays(**given))
    return {claim.statement: claim.verdict for claim in made}


def test_claims_say_yes_and_no_and_scatter_never_says_yes():
    """By networks that are as theory says, and that are not."""
    good = _verdicts(scatter=0.02)
    assert set(good.values()) == {"yes"}, good
    exponents = [name for name in good if "exponent" in name]
    constants = [name for name in good if "without a fit" in name]
    assert (len(exponents), len(constants)) == (6, 1)
    steep, large = _verdicts(scatter=0.02, power=-0.3), _verdicts(scatter=0.02, constant=1.5)
    noisy = _verdicts(scatter=0.3, power=-0.3, constant=1.5)
    assert {steep[name] for name in exponents} == {"NO"}
    assert {large[name] for name in constants} == {"NO"}
    assert not {noisy[name] for name in exponents} & {"yes"}
    little = _verdicts(scatter=0.02, constant=0.1)
    assert little[next(name for name in good if "least movement" in name)] == "NO"


def test_claims_of_predictions_can_fail():
    """Where the final NTK is no better than the initial one, and lazy networks miss the descent."""
    arrays = _arrays(scatter=0.02)
    arrays["small_misalignment"] = np.full((6, 4, 3), 0.1) * np.array([1.0, 1.1, 1.0])
    arrays["lazy_misalignment"] = arrays["lazy_misalignment"] + 0.05
    made = ntk_evolution_claims.check(ntk_evolution.Config(), arrays)
    assert [claim.verdict for claim in made[-2:]] == ["NO", "NO"]


@pytest.mark.parametrize(
    ("args", "message"),
    [
        (["--num-draws", "1"], "num_draws must be >= 2"),
        (["--num-lazy", "9"], "num_draws = 6, but 9 of them"),
        (["--num-modes", "8"], "num_modes = 8 must be below num_images"),
        (["--widths", "64", "32"], "widths must be two or more, increasing"),
        (["--fit-from", "128"], "leaves fewer than two of the widths"),
        (["--step-size", "2"], "step_size must lie between 0 and 1"),
        (["--small-scale", "0"], "small_scale must be > 0"),
    ],
)
def test_bad_settings(tmp_path, args, message):
    with pytest.raises(ValueError, match=message):
        _run.main(
            load("experiments.beyond.ntk_evolution"),
            [*SMALL, *args, "--out", str(tmp_path / "here")],
        )
