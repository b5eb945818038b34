"""Dose and response: delays as the theory has them, and other accounts of them."""

import itertools
from dataclasses import replace

import jax
import numpy as np
import pytest

from experiments.beyond.dose import claims as dose_claims
from experiments.beyond.dose.experiment import Config
from sslstep.experiment import _run, load, results, training

pytestmark = pytest.mark.slow  # networks are trained

CONFIG = Config(scales=(1.0, 0.25, 1 / 64))
#: γ_k on plateau i, of dimensions that are learned in order.
ONE_KERNEL = np.triu(np.array([[4.0, 1.0, 0.9]] * 3))
CHANGING = np.array([[4.0, 0.5, 0.3], [np.nan, 3.0, 0.5], [np.nan, np.nan, 1.2]])


def made_of(gammas, shape, noise=0.01):
    """Runs whose delays have a shape, with kernels of these eigenvalues."""
    arrays = {"scales": np.array(CONFIG.scales)}
    for seed in CONFIG.seeds:
        generator = np.random.default_rng(seed)
        for method, scale in itertools.product(CONFIG.methods, CONFIG.scales):
            delay = shape(np.log(1 / scale)) * (1 + noise * generator.normal(size=3))
            rates = gammas * (1 + noise * generator.normal(size=(3, 3)))
            t = np.linspace(0.0, 6.0, 200)
            at = np.array([0.1, 0.3, 0.6]) + delay
            here = {"record_t": t, "step_times": at, "rates": 4 * rates}
            here["correlation"] = np.pad(1 / (1 + np.exp(30 * (at - t[:, None]))), ((0, 0), (0, 5)))
            arrays |= {f"{method}/{seed}/{scale:g}/{key}": value for key, value in here.items()}
    return arrays


def simulated(amount, gammas=CHANGING):
    """Delays of dormant dimensions that grow plateau by plateau: amplitudes, not the recursion."""
    waits = np.array([0.0, 1.0, 3.0, 7.0])  # of the larger start, long enough
    starts = []
    for more in (0.0, amount):
        # ln of amplitude that each dimension lacks at the beginning, for steps at these waits.
        lacks = [sum(4 * gammas[i, k] * (waits[i + 1] - waits[i]) for i in range(k + 1)) + more
                 for k in range(3)]  # fmt: skip
        times = [0.0]
        for k in range(3):
            grown = sum(4 * gammas[i, k] * (times[i + 1] - times[i]) for i in range(k))
            times.append(times[-1] + (lacks[k] - grown) / (4 * gammas[k, k]))
        starts.append(times[1:])
    return np.subtract(starts[1], starts[0])


def verdicts(arrays):
    """Verdicts on the first loss, after a check that the others' equal arrays give equal ones."""
    found = [claim.verdict for claim in dose_claims.check(CONFIG, arrays)]
    assert found == 3 * found[:14]
    return found[:14]


def test_delays_of_one_kernel():
    """Both accounts hold, and do better than every step or every wait alike."""
    arrays = made_of(ONE_KERNEL, lambda amount: amount / (4 * np.diag(ONE_KERNEL)))
    assert verdicts(arrays) == ["yes"] * 14
    assert load("experiments.beyond.dose").plot(CONFIG, arrays) is not None


def test_delays_of_a_kernel_that_changes():
    """Only growth along all plateaus accounts for them."""
    wanted = simulated(2.0)
    np.testing.assert_allclose(dose_claims._along(2.0, 4 * CHANGING), wanted, rtol=1e-12)
    found = verdicts(made_of(CHANGING, simulated))
    assert found[:2] == ["yes", "yes"]
    assert found[2] == "NO"


@pytest.mark.parametrize("shape", [[0.3, 0.3, 0.3], [0.3, 0.6, 0.9]])
def test_delays_that_do_not_depend_on_the_kernel(shape):
    """Every step, or every wait, delayed alike: the theory is not closer, and is far off."""
    made = verdicts(made_of(ONE_KERNEL, lambda amount: amount * np.array(shape)))
    assert set(made[:3]) == {"NO"}
    assert "NO" in made[3:5]
    assert "NO" in made[5:]


def test_a_step_that_does_not_come_is_left_out():
    arrays = made_of(ONE_KERNEL, lambda amount: amount / (4 * np.diag(ONE_KERNEL)))
    for seed in CONFIG.seeds:
        for method in CONFIG.methods:
            here = f"{method}/{seed}/{CONFIG.scales[-1]:g}"
            arrays[f"{here}/step_times"][2] = np.inf
            arrays[f"{here}/rates"][2] = np.nan
    assert verdicts(arrays) == ["yes"] * 14


def test_a_small_run(tmp_path, require_documented):
    """From the command line; the last layer alone is scaled, and its delay is of the first step."""
    args = ["--size", "8", "--num-images", "64", "--num-probe", "32", "--num-pairs", "16"]
    args += ["--seeds", "0", "--scales", "1", "0.1", "--num-records", "12", "--num-snapshots", "6"]
    small = {"num-steps": "40", "dim": "4", "batch-size": "16", "hidden": "8"}
    for method in ("barlow-twins", "spectral", "info-nce"):
        args += [word for key, value in small.items() for word in (f"--{method}.{key}", value)]
    experiment = load("experiments.beyond.dose")
    folders = ["--runs", str(tmp_path / "runs"), "--out", str(tmp_path / "here")]
    assert _run.main(experiment, [*args, *folders]) == 0
    arrays = results.load(tmp_path / "here").arrays
    require_documented("dose", arrays)
    for method in CONFIG.methods:
        first, last = (arrays[f"{method}/0/{scale}/correlation"][0] for scale in ("1", "0.1"))
        np.testing.assert_allclose(last, 0.01 * first, rtol=1e-4)


def test_starts_differ_in_the_last_layer_only_and_share_a_compiled_step():
    config = replace(CONFIG, num_images=300, size=16)
    recipes = [replace(config.spectral, output_scale=scale, num_steps=9) for scale in (1, 0.25)]
    large, small = (training.prepare(config, recipe, 0) for recipe in recipes)
    assert large.parts is small.parts
    for change in ({"learning_rate": 0.1}, {"dim": 8}, {"schedule": "warmup_cosine"}):
        assert large.parts is not training.parts(config, replace(recipes[0], **change))
    falling = replace(recipes[0], schedule="warmup_cosine")
    longer = replace(falling, num_steps=10)
    assert training.parts(config, falling) is not training.parts(config, longer)
    starts = jax.tree_util.tree_leaves_with_path((large.state.params, small.state.params))
    half = len(starts) // 2
    factors = {}
    for (path, a), (_, b) in zip(starts[:half], starts[half:], strict=True):
        factors[jax.tree_util.keystr(path)] = 0.25 if np.array_equal(0.25 * a, b) and a.any() else 1
        np.testing.assert_array_equal(b, factors[jax.tree_util.keystr(path)] * a)
    assert [name for name in factors if factors[name] != 1] == [
        "[0]['projector']['output']['kernel']"
    ]


def test_a_run_is_of_its_recipe_s_code_too(tmp_path):
    """A loss that was changed in `dose` would have been read from the run of the old one."""

    class Asked(training.Store):
        def place(self, name, settings, *modules, ending=""):
            raise LookupError(modules)

    config = replace(CONFIG, size=8, num_images=16, num_probe=16)
    recipe = replace(CONFIG.spectral, dim=4, batch_size=16, hidden=(8,))
    with pytest.raises(LookupError, match=r"experiments\.beyond\.dose\.recipes"):
        training.fit(config, "spectral", recipe, 0, Asked(tmp_path))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"scales": (0.1, 1.0)}, "scales must be two or more, decreasing"),
        ({"num_steps_compared": 17}, "num_steps_compared = 17 is above dim = 16"),
        (
            {"barlow_twins": replace(CONFIG.barlow_twins, momentum=0.9)},
            "the theory is of plain gradient descent",
        ),
    ],
)
def test_settings(change, message):
    with pytest.raises(ValueError, match=message):
        load("experiments.beyond.dose").run(replace(CONFIG, **change), None)
