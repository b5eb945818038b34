"""The width sweep: a small run, its parts against independent references, and bad settings."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from experiments.beyond.width_sweep.experiment import Config, run
from sslstep import claims, gram, linear
from sslstep.experiment import _run, load, prediction, results
from sslstep.ntk import infinite

pytestmark = pytest.mark.slow  # networks are trained

SMALL = ["--num-images", "16", "--num-test", "8", "--crop", "8", "--dim", "2", "--num-seeds", "4"]
SMALL += ["--widths", "64", "1024", "--fit-from", "64"]


def test_claims_hold_in_a_small_run(tmp_path, require_documented):
    out = tmp_path / "here"
    # Four networks leave exponents undecided or not; none is off.
    status = _run.main(
        load("experiments.beyond.width_sweep"), [*SMALL, "--out", str(out), "--strict"]
    )
    made = claims.load(out / "claims.json")
    failed = [claim for claim in made if claim.holds is False]
    assert status == 0, claims.table([("failed", failed)])
    exponents = [claim for claim in made if "exponent" in claim.statement]
    assert len(exponents) == 2 * len(prediction.MEASURES)  # 64 is where the fit starts anyway
    assert all(len(claim.seeds) == 4 for claim in exponents)
    arrays = results.load(out).arrays
    require_documented("width_sweep", arrays)
    distances = arrays["distances"]
    assert distances.shape == (2, 2, 4, len(prediction.MEASURES))
    assert (distances > 0).all()


def test_plateaus_are_between_steps_that_are_far_apart():
    gammas = np.array([1.0, 0.5, 0.25, 0.125]) / 8  # time constants 1, 2, 4, 8
    tau = np.array([10.0, 26.0, 55.0, np.inf])
    assert prediction.plateaus(tau, gammas) == [(1, pytest.approx(10 + 16 / 3))]
    assert prediction.plateaus(tau[:1], gammas[:1]) == []


def _exponent_claims(power, scatter, seeds=8):
    """Of distances that are a power of the width but for scatter, or but for narrow networks."""
    widths = np.array([64, 128, 256, 512, 1024, 2048])
    noise = np.random.default_rng(0).normal(size=(6, seeds))
    noise -= noise.mean(axis=1, keepdims=True)  # no more than an error: the mean is right
    distances = widths[:, None] ** power * np.exp(scatter * noise)
    return [
        claim.verdict
        for claim in prediction.exponent_claims(
            "distance", "-", widths, distances, fit_from=512, expected=-0.5
        )
    ]


def test_scatter_never_makes_an_exponent_hold():
    """A tolerance of three of its own errors let any exponent pass that was measured badly."""
    assert _exponent_claims(-0.5, 0.05) == ["yes", "yes"]
    assert _exponent_claims(-0.5, 1.0) == ["undecided", "undecided"]
    assert _exponent_claims(-0.7, 0.05) == ["NO", "NO"]
    for scatter in (0.3, 1.0, 3.0):
        assert "yes" not in _exponent_claims(-0.7, scatter)


def test_narrow_networks_are_said_beside_the_wide_ones():
    widths = np.array([64, 128, 256, 512, 1024, 2048])
    noise = np.exp(0.05 * np.random.default_rng(0).normal(size=(6, 8)))
    distances = noise * (widths**-0.5 * (1 + 400 / widths))[:, None]
    wide, every = prediction.exponent_claims(
        "distance", "-", widths, distances, fit_from=1024, expected=-0.5, tolerance=0.3
    )
    assert (wide.verdict, every.verdict) == ("yes", "NO")
    assert "from 1024 to 2048" in wide.statement
    assert "from 64 to 2048" in every.statement


def _small_limit():
    """A limit on random pairs, the kernel, and initial embeddings of training and test points."""
    keys = jax.random.split(jax.random.key(1), 4)
    x = jax.random.normal(keys[0], (8, 5))
    x_prime, x_test = x + 0.3 * jax.random.normal(keys[1], (8, 5)), x[:4] + 0.1
    kernel_fn = infinite.mlp()
    kernel = gram.pairs(kernel_fn, x, x_prime, progress=False)
    k_test_train = gram.to_pairs(kernel_fn, x_test, x, x_prime, progress=False)
    initial = 0.3 * jax.random.normal(keys[2], (16, 2))
    initial_test = 0.3 * jax.random.normal(keys[3], (4, 2))
    return prediction.limit(kernel, k_test_train, 2, 0.2), kernel, (initial, initial_test)


def test_kernel_descent_is_gradient_descent_in_function_space(x64):
    """F <- F - η K dL/dF, on training and test points, by automatic differentiation."""
    limit, kernel, (z, z_test) = _small_limit()
    steps, eta = 40, limit.learning_rate

    def loss(z):
        c = linear.cross_correlation(*jnp.split(z, 2))
        return jnp.sum((c - jnp.eye(2)) ** 2)

    predicted = prediction.kernel_descent(limit, z, z_test, eta * jnp.array([0, steps]))
    for _ in range(steps):
        gradient = jax.grad(loss)(z)
        z, z_test = z - eta * kernel @ gradient, z_test - eta * limit.k_test_train @ gradient
    np.testing.assert_allclose(predicted.train, z, rtol=1e-8, atol=1e-8)
    np.testing.assert_allclose(predicted.test, z_test, rtol=1e-8, atol=1e-8)


def test_closed_form_approaches_kernel_flow_as_the_start_shrinks(x64):
    limit, _, (initial, _) = _small_limit()
    found = [prediction.closed_form_error(limit, s * initial) for s in (1e-2, 1e-6, 1e-10)]
    assert (np.diff([measured for measured, _ in found]) < 0).all()
    measured, first_order = found[-1]
    assert measured == pytest.approx(first_order, rel=1e-2)


def test_distances_leave_out_what_starts_learned_and_count_what_is_never_learned():
    embeddings, curves = np.ones((4, 2)), np.zeros((3, 2))
    a = prediction.Outcome(embeddings, embeddings, curves, np.array([0.0, np.inf]))
    b = prediction.Outcome(2 * embeddings, embeddings, curves, np.array([0.0, 5.0]))
    assert prediction.distances(a, b, 10.0) == pytest.approx([0.5, 0.0, 0.0, 1.0])
    none = b._replace(step_times=np.zeros(2))
    assert np.isnan(prediction.distances(none, b, 10.0)[3])  # and a claim on it does not hold


@pytest.mark.parametrize(
    ("args", "message"),
    [
        (["--num-test", "0"], "num_test must be >= 1"),
        (["--num-seeds", "1"], "num_seeds must be >= 2"),
        (["--step-size", "1"], "step_size must lie between 0 and 1"),
        (["--init-scale", "0"], "init_scale must lie between 0 and 1"),
        (["--widths", "64", "32"], "widths must be two or more, increasing"),
        (["--fit-from", "1024"], "leaves fewer than two of the widths"),
        (["--num-images", "10000000"], "photos has"),
    ],
)
def test_bad_settings(tmp_path, args, message):
    with pytest.raises(ValueError, match=message):
        _run.main(
            load("experiments.beyond.width_sweep"), [*SMALL, *args, "--out", str(tmp_path / "here")]
        )


def test_the_loss_is_one_that_it_knows_and_its_curves_are_in_units_of_the_end(x64):
    with pytest.raises(ValueError, match="loss must be one of barlow_twins, simclr, vicreg"):
        run(Config(loss="byol"))  # type: ignore[arg-type]
    times, curves = np.arange(4.0), np.array([[0.0], [1.0], [3.0], [4.0]])
    found = prediction.relative_to(
        np.array([4.0]), prediction.outcome(np.ones((2, 1)), np.ones((1, 1)), curves, times), times
    )
    np.testing.assert_allclose(found.curves, curves / 4)
    assert 1 < found.step_times[0] < 2  # half of 4; the half of 1 comes before
