"""The flow from small starts: against fixed small steps of the same models, and closed forms."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from sslstep import _stepwise, dynamics, kernel_pca, linear, losses

NUM, FEATURES, DIM = 40, 8, 3


def contrastive(z, z_prime):
    """Spectral contrastive."""
    both = jnp.concatenate([z, z_prime])
    return -2 * jnp.mean((z * z_prime).sum(1)) + jnp.sum((both.T @ both / len(both)) ** 2)


def info_nce(z, z_prime):
    logits = z @ z_prime.T
    both = (logits, logits.T)
    return sum(jnp.mean(jax.nn.logsumexp(a, 1) - jnp.diagonal(a)) for a in both) / 2


def of_second_moments(seed):
    """A random smooth even function of C and S."""
    a, b, c, e, g = np.random.default_rng(seed).uniform(0.5, 1.5, 5)

    def loss(z, z_prime):
        both = jnp.concatenate([z, z_prime])
        corr, s = z.T @ z_prime / len(z), both.T @ both / len(both)
        corr = (corr + corr.T) / 2
        one = jnp.eye(len(s), dtype=s.dtype)
        growth = -2 * a * jnp.trace(corr) + 0.1 * b * jnp.linalg.slogdet(one + s)[1]
        return growth + c * jnp.sum(s**2) + e * jnp.sum(corr**2) + 0.1 * g * jnp.trace(s @ s @ s)

    return loss


LOSSES = {
    "simplified Barlow Twins": losses.simplified_barlow_twins,
    "Barlow Twins": partial(losses.barlow_twins, batch_norm=False, off_diagonal=0.1),
    "spectral contrastive": contrastive,
    "InfoNCE": info_nce,
    "random": of_second_moments(0),
    "VICReg": losses.vicreg,
}


def features(seed=0):
    """Two views whose Γ and Σ do not commute."""
    rng = np.random.default_rng(seed)
    mix = rng.standard_normal((FEATURES, FEATURES)) * np.geomspace(1.5, 0.5, FEATURES)
    common = rng.standard_normal((NUM, FEATURES)) @ mix
    return [
        (common + 0.6 * rng.standard_normal((NUM, FEATURES)) * np.linspace(1, 2, FEATURES)) / 3
        for _ in range(2)
    ]


def start(alpha, seed=3):
    return alpha * np.random.default_rng(seed).standard_normal((FEATURES, DIM))


def fixed_steps(loss, x, weights, times, rate):
    """Runge and Kutta's, ten steps for each time constant of the fastest mode."""
    substeps = int(np.ceil((times[1] - times[0]) * rate * 10))
    h = (times[1] - times[0]) / substeps

    def field(w):
        return -jax.grad(lambda w: loss(*jnp.split(x @ w, 2)))(w)

    def step(_, w):
        a = field(w)
        b = field(w + h / 2 * a)
        c = field(w + h / 2 * b)
        return w + h / 6 * (a + 2 * b + 2 * c + field(w + h * c))

    def record(w, _):
        w = jax.lax.fori_loop(0, substeps, step, w)
        return w, w

    run = jax.jit(lambda w: jax.lax.scan(record, w, None, length=len(times) - 1)[1])
    return np.concatenate([weights[None], run(jnp.asarray(weights))])


def descent(loss, x, weights, rate, every, num):
    """Gradient descent: the weights at the start, and num times after so many steps."""

    def step(_, w):
        return w - rate * jax.grad(lambda w: loss(*jnp.split(x @ w, 2)))(w)

    def record(w, _):
        w = jax.lax.fori_loop(0, every, step, w)
        return w, w

    run = jax.jit(lambda w: jax.lax.scan(record, w, None, length=num)[1])
    return np.concatenate([weights[None], run(jnp.asarray(weights))])


def spectra(z):
    return np.linalg.svd(z, compute_uv=False) ** 2 / z.shape[1]


def half_rises(times, eigenvalues):
    """When each reaches half of what it ends with, interpolated in its logarithm."""
    found = []
    for row in eigenvalues.T:
        k = int(np.argmax(row >= row[-1] / 2))
        a, b, wanted = np.log([row[k - 1], row[k], row[-1] / 2])
        found.append(times[k - 1] + (times[k] - times[k - 1]) * (wanted - a) / (b - a))
    return np.array(found)


@pytest.mark.parametrize("name", LOSSES)
def test_it_is_the_trained_linear_model(x64, name):
    loss, views = LOSSES[name], features()
    x, weights = np.concatenate(views), start(1e-6)
    rates = linear.growth_modes(loss, views, DIM).eigenvalues
    times = np.linspace(0, 2 * np.log(1e6) / float(rates[-1]), 300)
    run = kernel_pca.stepwise_flow(x @ x.T, loss, x @ weights, times)
    trained = fixed_steps(loss, x, weights, times, float(rates[0]))
    found, wanted = spectra(run.embeddings(x @ x.T, x @ weights)), spectra(x @ trained)
    np.testing.assert_allclose(half_rises(times, found), half_rises(times, wanted), rtol=2e-3)
    # Curves as steep as these differ by their slope times such an error in time.
    steepest = np.abs(np.diff(wanted, axis=0)).max(axis=0) / (times[1] - times[0])
    late = 2e-3 * times[-1] * steepest
    assert (np.abs(found - wanted) <= late + 1e-3 * wanted.max()).all()
    # New points, and the loss.
    new = np.random.default_rng(5).standard_normal((4, FEATURES))
    elsewhere = run.embeddings(new @ x.T, new @ weights)[-1]
    np.testing.assert_allclose(
        elsewhere, new @ trained[-1], atol=2e-2 * np.abs(new @ trained[-1]).max()
    )
    np.testing.assert_allclose(run.loss[-1], loss(*np.split(x @ trained[-1], 2)), atol=1e-3)


@pytest.mark.parametrize("learning_rate", [0.0, 0.2])
def test_any_start_at_one_price(x64, monkeypatch, learning_rate):
    """From 1e-6 and from 1e-60, by the closed form, in units of the fastest rate."""
    x, x_prime = features()
    both = np.concatenate([x, x_prime])
    modes = linear.modes(linear.cross_correlation(x, x_prime), DIM)
    eta = learning_rate / (4 * float(modes.eigenvalues[0]))
    steps, counts = [], []
    monkeypatch.setattr(_stepwise._Walk, "_step", _counted(_stepwise._Walk._step, steps))
    for alpha in (1e-6, 1e-60):
        weights = start(alpha)
        aligned = linear.align(weights.T, modes)
        rise = dynamics.step_time(modes.eigenvalues, aligned.singular_values, learning_rate=eta)
        times = np.concatenate([[0], np.sort(np.outer(rise, np.linspace(0.9, 1.1, 21)).ravel())])
        times = np.append(times, 1.5 * float(rise[-1]))
        run = kernel_pca.stepwise_flow(
            both @ both.T,
            losses.simplified_barlow_twins,
            both @ weights,
            times,
            learning_rate=eta,
        )
        counts.append(len(steps))
        steps.clear()
        z = np.split(run.embeddings(both @ both.T, both @ weights), 2, axis=1)
        eigenvalues = [np.linalg.eigvalsh(linear.cross_correlation(*pair))[::-1] for pair in
                       zip(*z, strict=True)]  # fmt: skip
        found = half_rises(np.asarray(run.times), np.array(eigenvalues))
        # α to the power of the alignment exponent is what remains; and steps are whole.
        np.testing.assert_allclose(found, rise, rtol=5e-3, atol=eta)
    # At most two steps for each growth by e^20, of each dimension.
    assert counts[1] - counts[0] <= 2 * DIM * np.log(1e54) / _stepwise.LARGEST_GROWTH


def test_few_steps_where_coordinates_share_a_dimension(x64, monkeypatch):
    """Barlow Twins with λ ≠ 1 turns what is learned: far larger than the dimension that waits."""
    rng = np.random.default_rng(0)
    common = rng.standard_normal((NUM, 4)) * np.array([2.0, 0.5, 0.2, 0.1])
    views = [common + 0.05 * rng.standard_normal((NUM, 4)) for _ in range(2)]
    x, weights, loss = np.concatenate(views), start(1e-6)[:4, :2], LOSSES["Barlow Twins"]
    rates = linear.growth_modes(loss, views, 2).eigenvalues
    times = np.linspace(0, 6 * np.log(1e6) / float(rates[1]), 300)
    counts = []
    monkeypatch.setattr(_stepwise._Walk, "_step", _counted(_stepwise._Walk._step, counts))
    run = kernel_pca.stepwise_flow(x @ x.T, loss, x @ weights, times)
    wanted = spectra(x @ fixed_steps(loss, x, weights, times, float(rates[0])))
    found = spectra(run.embeddings(x @ x.T, x @ weights))
    np.testing.assert_allclose(half_rises(times, found), half_rises(times, wanted), rtol=2e-3)
    assert len(counts) < 200  # in the axes at rest it was 30,000


def _counted(step, counts):
    def counted(*args):
        counts.append(1)
        return step(*args)

    return counted


def test_descent_of_a_loss_that_turns_what_is_learned(x64):
    """Gradient descent at η ρ = 0.1, for which gradient flow of the axes errs by a factor."""
    views, loss, weights = features(), LOSSES["Barlow Twins"], start(1e-6)
    x = np.concatenate(views)
    rates = linear.growth_modes(loss, views, DIM).eigenvalues
    eta = 0.1 / float(rates[0])
    every = int(2 * np.log(1e6) / float(rates[-1]) / eta / 300)
    trained = descent(loss, x, weights, eta, every, 300)
    times = eta * every * np.arange(301)
    run = kernel_pca.stepwise_flow(x @ x.T, loss, x @ weights, times, learning_rate=eta)
    found = spectra(run.embeddings(x @ x.T, x @ weights))
    # Nine digits of the first eigenvalue above the dimensions that wait.
    np.testing.assert_allclose(found, spectra(x @ trained), rtol=0.02)


def test_descent_where_the_loss_is_nearly_singular(x64):
    """SimCLR from a constant: embeddings pass near zero, and the method takes single steps.

    After 280 steps descent itself is chaotic, and differs by 1% when sums are in another order.
    """
    views = [np.hstack([np.ones((NUM, 1)), view]) for view in features()]
    x, loss = np.concatenate(views), partial(losses.simclr, temperature=0.2)
    weights = np.block(
        [[np.ones((1, 1)), np.zeros((1, 2))], [np.zeros((FEATURES, 1)), start(1e-3)[:, :2]]]
    )
    eta, every = 0.02, 20
    trained = descent(loss, x, weights, eta, every, 13)
    times = eta * every * np.arange(14)
    run = kernel_pca.stepwise_flow(x @ x.T, loss, x @ weights, times, learning_rate=eta, tol=1e-5)
    wanted = spectra(x @ trained)
    found = spectra(run.embeddings(x @ x.T, x @ weights))
    np.testing.assert_allclose(found, wanted, rtol=1e-3)


def test_a_kernel_machine(x64):
    """Of a kernel that is full of small directions: an integrator's answer."""
    x = np.concatenate(features())[:, :3]
    kernel = np.exp(-((x[:, None] - x[None]) ** 2).sum(-1))
    initial = 1e-3 * np.random.default_rng(1).standard_normal((len(x), 2))
    rate = kernel_pca.growth_modes(kernel, info_nce, 2).eigenvalues[1]
    times = np.linspace(0, 20 / float(rate), 5)
    found = kernel_pca.stepwise_flow(kernel, info_nce, initial, times)
    wanted = kernel_pca.flow(kernel, info_nce, initial, times)
    scale = np.abs(wanted).max()
    np.testing.assert_allclose(found.embeddings(kernel, initial), wanted, atol=3e-3 * scale)


def test_times_that_are_all_zero():
    x = np.random.default_rng(0).normal(size=(12, 3))
    run = kernel_pca.stepwise_flow(x @ x.T, losses.simplified_barlow_twins, x[:, :2], np.zeros(2))
    assert run.times.tolist() == [0.0, 0.0]
    assert not run.coefficients.any()
    assert run.loss[0] == run.loss[1] == losses.simplified_barlow_twins(*np.split(x[:, :2], 2))


def test_another_kernel_compiles_nothing(count_compilations):
    x = np.random.default_rng(0).standard_normal((8, 2))

    def start(scale):
        kernel = scale * x @ x.T
        kernel_pca.stepwise_flow(kernel, losses.simplified_barlow_twins, x[:, :1], np.zeros(1))

    assert count_compilations(start, [1.0, 2.0]) == 0


def test_rotations_keep_the_digits_of_small_columns():
    rng = np.random.default_rng(0)
    basis = np.linalg.qr(rng.standard_normal((6, 3)))[0]
    scales = np.array([1.0, 1e-20, 1e-60])
    mixed = (basis @ (np.eye(3) + 0.1 * rng.standard_normal((3, 3)))) * scales
    w, turn = _stepwise.aligned(mixed)
    np.testing.assert_allclose(turn.T @ turn, np.eye(3), atol=1e-14)
    unit = w / np.linalg.norm(w, axis=0)
    np.testing.assert_allclose(unit.T @ unit, np.eye(3), atol=1e-11)
    # In the limit of scales far apart it is Gram and Schmidt's process.
    q, r = np.linalg.qr(mixed / scales)
    np.testing.assert_allclose(np.linalg.norm(w, axis=0), np.abs(np.diag(r)) * scales, rtol=1e-10)
    np.testing.assert_allclose(np.abs(unit.T @ q), np.eye(3), atol=1e-10)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"times": [1.0, 0.5]}, "times must not decrease"),
        ({"times": [-1.0]}, "times must be >= 0"),
        ({"learning_rate": -1.0}, "learning_rate must be >= 0"),
        ({"tol": 0.0}, "tol must be > 0"),
        ({"num_views": 5}, "num_views = 5"),
        ({"kernel": np.zeros((12, 12))}, "kernel must have a positive eigenvalue"),
    ],
)
def test_bad_arguments(unchecked, options, message):
    arguments = {"kernel": np.eye(12), "times": [0.0, 1.0], **options}
    with pytest.raises(ValueError, match=message):
        kernel_pca.stepwise_flow(
            loss_fn=losses.simplified_barlow_twins, initial=np.ones((12, 2)), **arguments
        )
