"""The network of one hidden layer: what its experiments compute, small runs, and bad settings."""

import dataclasses
from importlib import import_module

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from experiments.beyond.mlp_readings import experiment as mlp_readings
from experiments.fig2ab import claims as fig2ab_claims
from experiments.fig2ab import experiment
from experiments.fig2ab import reading as fig2ab
from sslstep import claims, simulate
from sslstep.experiment import _run, load, results

pytestmark = pytest.mark.slow  # networks are trained

SMALL = fig2ab.Config(num_images=12, crop=6, dim=3, width=256, num_records=100)
FILES = {"config.json", "arrays.npz", "figure.png", "figure.pdf", "claims.json", "log.txt"}
FILES |= {"about.json"}


def options(config):
    """A config as options of the command."""
    given = {k: v for k, v in dataclasses.asdict(config).items() if v is not None}
    return [part for k, v in given.items() for part in (f"--{k.replace('_', '-')}", str(v))]


@pytest.mark.parametrize(
    "changes",
    [
        {"scaled": "all", "num_steps": 200},
        {"scaled": "output", "num_steps": 3000, "learning_rate": 1e-3},
    ],
    ids=lambda changes: changes["scaled"],
)
def test_runs_write_their_folder_and_claims_hold(tmp_path, require_documented, changes):
    args = [*options(dataclasses.replace(SMALL, **changes)), "--out", str(tmp_path), "--strict"]
    status = _run.main(load("experiments.fig2ab"), args)
    made = claims.load(tmp_path / "claims.json")
    assert status == 0, claims.table([("failed", [claim for claim in made if not claim.holds])])
    assert {path.name for path in tmp_path.iterdir()} == FILES
    assert len(made) >= 3
    found = results.load(tmp_path)
    require_documented("fig2ab", found.arrays)
    spoilt = load("experiments.fig2ab").check(found.config, spoil(found.arrays))
    assert [claim.holds for claim in spoilt] == [False] * len(made)


def spoil(arrays):
    """Steps come late, the last one never, losses are too high; or growth where there is none."""
    if np.isfinite(arrays["step_times"]).any():
        late = 3 * arrays["step_times"]
        late[-1] = np.inf
        changed = {"step_times": late, "singular_values": 1e-3 * arrays["singular_values"]}
    else:
        grown = arrays["singular_values"].copy()
        grown[-1] *= 100
        changed = {"step_times": 0 * arrays["gammas"], "singular_values": grown}
    return arrays | changed | {"loss": arrays["loss"] + 0.5}


def test_the_rotated_network_is_the_network():
    """Gradient descent in the basis of the samples' span is gradient descent on the pixels."""
    config = dataclasses.replace(SMALL, scaled="none", num_steps=20, dtype="float64")
    with jax.enable_x64(True):
        x = fig2ab.samples(config, jax.random.key(0))
        network = fig2ab.initial_network(config, jax.random.key(1), x)
        assert network.x.shape == (24, 24)
        measured, _ = experiment.learn(config, network, fig2ab.finite_kernel(network))

        params = network.model.init(jax.random.key(1), jnp.asarray(x))

        def loss_fn(params):
            z, z_prime = jnp.split(network.model.apply(params, jnp.asarray(x)), 2)
            c = (z.T @ z_prime + z_prime.T @ z) / (2 * len(z))
            return jnp.sum((c - jnp.eye(config.dim)) ** 2)

        step = jax.jit(jax.value_and_grad(loss_fn))
        expected = []
        for _ in range(config.num_steps + 1):
            value, grads = step(params)
            expected.append(float(value))
            params = jax.tree.map(lambda p, g: p - config.learning_rate * g, params, grads)
    at = np.rint(measured["t"] / config.learning_rate).astype(int)
    # Twenty steps, each rounded in sums of 108 and 256 products.
    np.testing.assert_allclose(measured["loss"], np.asarray(expected)[at], rtol=1e-11)


@pytest.mark.parametrize(
    ("scaled", "biases", "correlation"),
    [
        ("output", "both", "mean"),
        ("all", "hidden", "sum"),
        ("weights", "none", "mean"),
        ("first", "both", "mean"),
        ("last", "both", "mean"),
    ],
)
def test_the_infinite_kernel_is_the_limit_of_finite_ones(scaled, biases, correlation):
    """Mean of several draws, within four standard errors, relative to sqrt(K(x, x) K(x', x'))."""
    reading = {"scaled": scaled, "biases": biases, "correlation": correlation}
    config = dataclasses.replace(SMALL, num_images=3, init_scale=0.5, width=1024, **reading)
    x = fig2ab.samples(config, jax.random.key(0))
    with jax.enable_x64(True):
        expected = fig2ab.infinite_kernel(config, x)
    keys = jax.random.split(jax.random.key(1), 6)
    draws = np.stack([fig2ab.finite_kernel(fig2ab.initial_network(config, key, x)) for key in keys])
    # Entries are means over units, so that their relative deviation is of order width^-1/2: with
    # a factor of 2 for what one unit contributes to the trace, and 4 for the largest entry.
    scale = np.sqrt(np.outer(np.diag(expected), np.diag(expected)))
    error = (np.abs(draws.mean(axis=0) - expected) / scale).max()
    assert error < 4 * 2 / (len(keys) * config.width) ** 0.5


def test_scaled_outputs_start_small_with_the_kernel_unchanged():
    networks = {}
    for scaled in ("output", "none"):
        config = dataclasses.replace(SMALL, scaled=scaled)
        x = fig2ab.samples(config, jax.random.key(0))
        networks[scaled] = fig2ab.initial_network(config, jax.random.key(1), x)
    whole, small = networks["none"], networks["output"]
    np.testing.assert_array_equal(fig2ab.finite_kernel(small), fig2ab.finite_kernel(whole))
    z = np.asarray(whole.model.apply(whole.params, whole.x))
    left = np.asarray(small.model.apply(small.params, small.x) - small.offset)
    np.testing.assert_allclose(left, 1e-4 * z, atol=4 * np.finfo(np.float32).eps * np.abs(z).max())


@pytest.mark.parametrize("pixels", ["standardised", "unit", "symmetric", "centred", "bytes"])
def test_pixels(pixels):
    config = dataclasses.replace(SMALL, pixels=pixels)
    x = fig2ab.samples(config, jax.random.key(0))
    assert x.shape == (24, 108)
    assert x.dtype == np.float64
    low, high = {"unit": (0, 1), "symmetric": (-1, 1), "centred": (-1, 1), "bytes": (0, 255)}.get(
        pixels, (-9, 9)
    )
    assert low <= x.min() < x.max() <= high
    assert x.max() - x.min() > (high - low) / 9
    if pixels == "centred":
        np.testing.assert_allclose(x.mean(axis=0), 0, atol=1e-14)
    if pixels == "standardised":
        channels = x.reshape(-1, 3)
        np.testing.assert_allclose(channels.mean(axis=0), 0, atol=1e-12)
        np.testing.assert_allclose(channels.std(axis=0), 1, atol=1e-12)


def test_readings(tmp_path, monkeypatch, require_documented):
    """A row for each reading; one that diverges is NaN and does not stop the others."""
    readings = load("experiments.beyond.mlp_readings")  # before its modules' READINGS are replaced
    chosen = [mlp_readings.Reading("all", "unit"), mlp_readings.Reading("none", "bytes")]
    for part in ("experiment", "figure", "claims"):
        module = import_module(f"experiments.beyond.mlp_readings.{part}")
        if hasattr(module, "READINGS"):
            monkeypatch.setattr(module, "READINGS", tuple(chosen))
    args = ["--num-images", "12", "--crop", "6", "--dim", "3", "--width", "256"]
    args += ["--num-steps", "50", "--learning-rate", "1e-2", "--out", str(tmp_path)]
    assert _run.main(readings, args) == 0
    arrays = results.load(tmp_path).arrays
    require_documented("mlp_readings", arrays)
    assert np.isnan(arrays["losses"]).tolist() == [[False, False], [True, True]]
    np.testing.assert_allclose(arrays["losses"][0], 3, atol=1e-6)
    made = claims.load(tmp_path / "claims.json")
    assert [claim.holds for claim in made] == [True, True, True, True]


def test_claims_of_readings_say_yes_and_no():
    """All readings as they should be; and the other way round."""
    config = mlp_readings.Config(dim=3)
    kinds = [(reading.scaled, reading.pixels) for reading in mlp_readings.READINGS]
    chosen = np.array([kind == ("output", "standardised") for kind in kinds])
    none = np.array([scaled == "none" for scaled, _ in kinds])
    check = load("experiments.beyond.mlp_readings").check

    def holds(learned, small):
        steps = np.where(learned[:, None], 1.0, np.inf) * np.ones(3)
        losses = np.where(small, 3.0, 9.0)[:, None] * np.ones(2)
        ratios = np.full(len(kinds), 0.5)
        arrays = {"steps": steps, "losses": losses, "learning_rate_ratios": ratios}
        return [claim.holds for claim in check(config, arrays)]

    assert holds(chosen, ~none) == [True] * 4
    assert holds(~chosen, none | ~chosen) == [False] * 4


@pytest.mark.parametrize(
    ("changes", "error", "message"),
    [
        ({"num_images": 10**7}, ValueError, "num_images = 10000000, but photos has"),
        ({"num_images": 0}, ValueError, "num_images must be >= 1"),
        ({"num_records": 1}, ValueError, "num_records must be >= 2"),
        ({"num_steps": 0}, ValueError, "num_steps must be >= 1"),
        ({"init_scale": 0.0}, ValueError, "init_scale must be > 0"),
        ({"learning_rate": -1.0}, ValueError, "learning_rate must be > 0"),
        ({"width": 0}, ValueError, "width"),
        ({"crop": 33}, ValueError, "33"),
        ({"dim": 13}, ValueError, "13"),
        ({"pixels": "bytes", "num_steps": 100}, simulate.DivergenceError, "choose a smaller one"),
    ],
    ids=lambda value: "-".join(value) if isinstance(value, dict) else "",
)
def test_bad_settings(changes, error, message):
    with pytest.raises(error, match=message):
        experiment.run(dataclasses.replace(SMALL, **changes))


def test_errors_of_no_mode_are_infinite():
    assert fig2ab_claims._largest(np.array([0.1, -3.0]), np.array([True, False])) == 0.1
    assert fig2ab_claims._largest(np.array([0.1, -3.0]), np.array([False, False])) == np.inf
