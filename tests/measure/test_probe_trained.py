"""Probes that are iterated: to the minimum, or for so many epochs."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from jax.tree_util import Partial
from sklearn.linear_model import LogisticRegression

from sslstep import data, nn
from sslstep.measure import probe

KEY = jax.random.key(0)


def problem(seed, n=400, p=6, c=3, dtype=jnp.float32, noise=0.5):
    """Overlapping classes from features of very different scales and nonzero mean."""
    rng, teacher = np.random.default_rng(seed), np.random.default_rng(99).normal(size=(p, c))
    h = rng.normal(size=(n, p))
    labels = np.argmax(h @ teacher + noise * rng.normal(size=(n, c)), axis=1)
    return jnp.asarray(h * np.geomspace(1, 1e-2, p) + 2, dtype), jnp.asarray(labels)


def objective(fitted, h, labels, mu):
    logits = probe.predict(fitted, h)
    losses = optax.softmax_cross_entropy_with_integer_labels(logits, labels)
    return losses.mean() + mu * jnp.sum(fitted.weights**2)


@pytest.mark.parametrize(("n", "p"), [(400, 6), (20, 30)])  # more samples, or more features
@pytest.mark.parametrize("mu", [1e-3, 0.1])
def test_logistic_is_that_of_scikit_learn(x64, n, p, mu):
    h, labels = problem(0, n, p, dtype=float)
    tol = 1e-8
    fitted = probe.logistic(h, labels, mu, num_classes=3, tol=tol)
    reference = LogisticRegression(C=1 / (2 * n * mu), tol=1e-12, solver="newton-cg")
    expected = reference.fit(np.asarray(h), np.asarray(labels))
    # f is strongly convex in W, by 2 mu. The criterion's gradient g is by V = L^T W, so that by W
    # is L g, and |W - W*| <= |L| |g| / (2 mu); |L|^2 is the largest eigenvalue of L L^T.
    covariance = np.cov(h.T, bias=True)
    largest = np.linalg.eigvalsh(covariance)[-1] / 3 + 2 * mu
    bound = largest**0.5 * tol / (2 * mu)
    off = np.linalg.norm(fitted.weights - expected.coef_.T)
    assert off < 1.1 * bound + 1e-9
    # Both gauges of the biases sum to zero.
    np.testing.assert_allclose(fitted.bias.sum(), 0, atol=1e-12)
    centre = np.asarray(h).mean(axis=0)
    centred = expected.intercept_ + expected.coef_ @ centre
    off = np.linalg.norm(fitted.bias + centre @ fitted.weights - centred)
    assert off < 100 * bound + 1e-8  # |b' - b'*| <= sqrt(c) |g| / the Hessian's share of b'


@pytest.mark.parametrize("scale", [1e-3, 1e3])
def test_logistic_stops_where_the_gradient_is_small(dtype, scale):
    """In either precision, whatever the features' scale; the penalty scales with them."""
    h, labels = problem(0, dtype=dtype)
    mu = 1e-3 * scale**2
    fitted = probe.logistic(h * scale, labels, mu, num_classes=3)
    with jax.enable_x64(True):
        wide = [jnp.asarray(np.asarray(a, float)) for a in (*fitted, h * scale)]
        value, gradient = jax.value_and_grad(objective)(probe.Probe(*wide[:2]), wide[2], labels, mu)
        centred = wide[2] - wide[2].mean(axis=0)[None, :]
        square = centred.T @ centred / (3 * len(labels)) + 2 * mu * jnp.eye(6)
        # By V, at fixed b' = b + W^T mean: dW = L^-T dV, db = -mean dW.
        by_weights = gradient.weights - wide[2].mean(axis=0)[:, None] * gradient.bias[None, :]
        norm = jnp.trace(by_weights.T @ jnp.linalg.solve(square, by_weights))
        norm = jnp.sqrt(norm + 3 * jnp.sum(gradient.bias**2))
        best = probe.logistic(wide[2], labels, mu, num_classes=3, tol=1e-10)
        # Rounding of the probe to float32 adds to what was found.
        assert float(norm) < 1e-4 + 100 * float(jnp.finfo(dtype).eps)
        assert float(value - objective(best, wide[2], labels, mu)) < 1e-6
    assert fitted.weights.dtype == fitted.bias.dtype == dtype


@pytest.mark.parametrize(("exponent", "mu"), [(-100, 0), (-60, 0), (60, 0), (60, 1e-3), (100, 0)])
def test_logistic_of_features_whose_squares_are_no_floats(exponent, mu):
    """Times a power of two the weights have the same digits, the penalty being in proportion."""
    h, labels = problem(0)
    factor = 2.0**exponent
    settings = {"num_classes": 3, "tol": 1e-2}
    one = probe.logistic(h, labels, mu, **settings)
    other = probe.logistic(h * factor, labels, mu * factor**2, **settings)
    np.testing.assert_array_equal(other.weights * factor, one.weights)
    np.testing.assert_array_equal(other.bias, one.bias)
    assert float(probe.accuracy(other, h * factor, labels)) > 0.7


def test_logistic_of_a_penalty_far_above_the_features():
    """The weights vanish, and the squares of features and penalty do not become NaN."""
    h, labels = problem(0)
    fitted = probe.logistic(1e-18 * h, labels, 1e30, num_classes=3)
    np.testing.assert_array_equal(fitted.weights, 0)


def test_logistic_of_separable_classes_and_dead_features():
    h, labels = problem(0, noise=0.0)
    h = jnp.concatenate([h, jnp.ones((400, 1)), jnp.zeros((400, 1)), h[:, :1]], axis=1)
    fitted = probe.logistic(h, labels, 0.0, num_classes=3)
    assert float(probe.accuracy(fitted, h, labels)) > 0.99
    np.testing.assert_array_equal(fitted.weights[6:8], 0)


def test_logistic_without_features_knows_the_frequencies():
    """Constant features: the predictions are the classes' frequencies."""
    labels = jnp.asarray([0] * 5 + [1] * 3 + [2] * 2)
    fitted = probe.logistic(jnp.full((10, 2), 7.0), labels, 1e-3, num_classes=3, tol=1e-5)
    chances = jax.nn.softmax(probe.predict(fitted, jnp.full((1, 2), 7.0))[0])
    np.testing.assert_allclose(chances, [0.5, 0.3, 0.2], atol=1e-4)


def test_logistic_that_has_not_converged_warns():
    h, labels = problem(0)
    with pytest.warns(UserWarning, match="not converged: after max_iterations = 1 its gradient's"):
        probe.logistic(h, labels, 1e-3, num_classes=3, max_iterations=1)


def test_logistic_sweeps_without_compiling_again():
    h, labels = problem(0)
    calls = []

    @jax.jit
    def fit(mu):
        calls.append(mu)
        return probe.logistic(h, labels, mu, num_classes=3)

    norms = [float(jnp.linalg.norm(fit(mu).weights)) for mu in (1e-4, 1e-2, 1.0)]
    assert len(calls) == 1
    assert norms == sorted(norms, reverse=True)
    h, labels = problem(0, n=123)
    before = probe._logistic._fit._cache_size()
    for mu, tol in ((1e-3, 1e-4), (1e-1, 1e-3)):
        probe.logistic(h, labels, mu, num_classes=3, tol=tol, max_iterations=300)
    assert probe._logistic._fit._cache_size() <= before + 1  # less if evicted


def test_sgd_is_as_accurate_as_the_minimum():
    h, labels = problem(0, 4000)
    h_test, labels_test = problem(1, 4000)
    mean, scale = h.mean(axis=0, keepdims=True), h.std(axis=0, keepdims=True)
    h, h_test = (h - mean) / scale, (h_test - mean) / scale
    best = probe.logistic(h, labels, 1e-6, num_classes=3)
    trained = probe.sgd(KEY, h, labels, probe.Protocol(0.3, num_epochs=30), num_classes=3)
    expected, found = (float(probe.accuracy(it, h_test, labels_test)) for it in (best, trained))
    assert expected > 0.7
    assert abs(found - expected) < float(probe.standard_error(expected, 4000))


@pytest.mark.parametrize(("cosine", "nesterov"), [("epoch", False), ("step", True)])
def test_sgd_is_that_of_pytorch(cosine, nesterov):
    """On one batch an epoch, the order of samples does not matter."""
    torch = pytest.importorskip("torch")
    h, labels = problem(0, 64)
    # Of the key only the initial weights are used.
    still = probe.Protocol(0.0, batch_size=64, num_epochs=1)
    start = probe.sgd(KEY, h, labels, still, num_classes=3)
    assert 0.005 < float(jnp.sqrt(jnp.mean(start.weights**2))) < 0.02
    np.testing.assert_array_equal(start.bias, 0)
    protocol = probe.Protocol(
        0.1, batch_size=64, num_epochs=20, weight_decay=0.01, nesterov=nesterov, cosine=cosine
    )
    trained = probe.sgd(KEY, h, labels, protocol, num_classes=3)
    model = torch.nn.Linear(6, 3)
    with torch.no_grad():
        model.weight.copy_(torch.tensor(np.array(start.weights.T)))
        model.bias.zero_()
    optimizer = torch.optim.SGD(
        model.parameters(), 0.1, momentum=0.9, nesterov=nesterov, weight_decay=0.01
    )
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, 20)
    features, targets = torch.tensor(np.array(h)), torch.tensor(np.array(labels)).long()
    for _ in range(20):
        optimizer.zero_grad()
        torch.nn.functional.cross_entropy(model(features), targets).backward()
        optimizer.step()
        schedule.step()
    np.testing.assert_allclose(trained.weights, model.weight.detach().T, atol=1e-5)
    np.testing.assert_allclose(trained.bias, model.bias.detach(), atol=1e-5)


def test_sgd_falls_by_epochs_or_by_steps():
    """With two epochs of two batches and no momentum the rates add up to what the bias moves."""
    h, labels = jnp.zeros((4, 1)), jnp.asarray([0, 0, 0, 0])
    small = 1e-4  # so that the gradient, -1/2 and 1/2, hardly changes

    def moved(cosine):
        settings = {"momentum": 0.0, "weight_decay": 0.0, "cosine": cosine}
        protocol = probe.Protocol(small, num_epochs=2, batch_size=2, **settings)
        fitted = probe.sgd(KEY, h, labels, protocol, num_classes=2)
        return float(fitted.bias[0]) / (small / 2)

    assert moved("epoch") == pytest.approx(2 + 2 * 0.5, rel=1e-3)
    steps = [(1 + np.cos(np.pi * k / 4)) / 2 for k in range(4)]
    assert moved("step") == pytest.approx(sum(steps), rel=1e-3)


def test_sgd_is_traced_and_reproducible():
    h, labels = problem(0, n=300)

    def fit(rate, key=KEY):
        return probe.sgd(key, h, labels, probe.Protocol(rate, num_epochs=2), num_classes=3)

    before = probe._sgd._train._cache_size()
    first, *_ = [fit(rate) for rate in (0.1, 0.3)]
    assert probe._sgd._train._cache_size() <= before + 1  # less if evicted
    for a, b in zip(first, fit(0.1), strict=True):
        np.testing.assert_array_equal(a, b)
    other = fit(0.1, jax.random.key(1))
    assert float(jnp.abs(other.weights - first.weights).max()) > 0


@functools.cache
def small_resnet():
    """A network with running averages of its own, and its function of variables and images."""
    network = nn.ResNet(stage_sizes=(1,), width=8, stem="small_stride2")
    x = jnp.asarray(data.photos().images[:256], jnp.float32) / 255
    variables = jax.jit(functools.partial(network.init, train=False))(jax.random.key(0), x)
    forward = jax.jit(functools.partial(network.apply, train=True, mutable=["batch_stats"]))
    for _ in range(20):
        variables = variables | forward(variables, x)[1]

    def embed(variables, x):
        return network.apply(variables, x, train=False)

    return embed, variables


@pytest.mark.slow
def test_linear_evaluation_of_a_resnet():
    """Above chance by far, and the same bits for the same key."""
    embed, variables = small_resnet()
    frozen = Partial(embed, variables)
    train, test = data.load("photos", "train"), data.load("photos", "test")
    at = np.random.default_rng(0).permutation(len(train.images))[:512]
    images, labels = train.images[at], train.labels[at]
    c = len(train.label_names)
    h, h_test = (probe.embed_images(frozen, x) for x in (images, test.images))
    np.testing.assert_allclose(  # the last batch is not a whole one
        h_test[-3:], embed(variables, jnp.asarray(test.images[-3:], jnp.float32) / 255), atol=1e-5
    )
    minimum = probe.logistic(h, labels, 1e-4, num_classes=c)
    before = probe._evaluation._epoch._cache_size()

    def run(rate, embed_fn=frozen):
        return probe.linear_evaluation(
            jax.random.key(0),
            embed_fn,
            images,
            labels,
            probe.Protocol(rate, num_epochs=2, batch_size=64),
            num_classes=c,
            augmentation=data.Augmentation(32, scale=(0.5, 1.0)),
        )

    trained = run(1.0)
    assert probe._evaluation._epoch._cache_size() <= before + 1  # less if evicted
    expected, found = (
        float(probe.accuracy(fitted, h_test, test.labels)) for fitted in (minimum, trained)
    )
    error = float(probe.standard_error(expected, len(test.labels)))
    frequent = float(np.bincount(test.labels).max()) / len(test.labels)
    assert expected > frequent + 3 * error
    assert found > frequent + 3 * error
    for a, b in zip(trained, run(1.0), strict=True):
        np.testing.assert_array_equal(a, b)
    # Other rates and other variables are other arguments of the same program.
    moved = jax.tree.map(lambda value: value * jnp.asarray(1.01, value.dtype), variables)
    run(0.3, Partial(embed, moved))
    assert probe._evaluation._epoch._cache_size() <= before + 1  # less if evicted


def pixels(x):
    return x.reshape(x.shape[0], -1)[:, ::97]


def test_without_augmentation_it_is_sgd():
    images = data.photos().images[:64]
    labels = jnp.arange(64) % 3
    plain = data.Augmentation(32, scale=None, flip=0.0)
    protocol = probe.Protocol(0.1, num_epochs=3, batch_size=16)
    trained = probe.linear_evaluation(
        KEY, pixels, images, labels, protocol, augmentation=plain, num_classes=3
    )
    h = probe.embed_images(pixels, images, batch_size=48)
    for a, b in zip(trained, probe.sgd(KEY, h, labels, protocol, num_classes=3), strict=True):
        np.testing.assert_allclose(a, b, atol=1e-6)


def test_several_learning_rates_at_once():
    images, labels = data.photos().images[:64], jnp.arange(64) % 3

    def fit(rate):
        return probe.linear_evaluation(
            jax.random.key(0),
            pixels,
            images,
            labels,
            probe.Protocol(rate, num_epochs=2, batch_size=32),
            num_classes=3,
            augmentation=data.Augmentation(24, scale=None),
            progress=True,
        )

    rates = jnp.asarray([0.01, 0.1])
    several = jax.vmap(fit)(rates)
    for i, rate in enumerate(rates):
        for a, b in zip(several, fit(rate), strict=True):
            np.testing.assert_allclose(a[i], b, atol=1e-6)
    assert float(jnp.abs(several.weights[0] - several.weights[1]).max()) > 1e-3


H, LABELS = jnp.ones((4, 2)), jnp.array([0, 1, 2, 0])
IMAGES = np.zeros((4, 8, 8, 3), np.uint8)


def logistic(**changed):
    settings = {"features": H, "labels": LABELS, "regularisation": 1.0, "num_classes": 3}
    return lambda: probe.logistic(**settings | changed)


def sgd(**changed):
    return _with(probe.sgd, {"features": H}, changed)


def evaluation(**changed):
    settings = {"embed_fn": pixels, "images": IMAGES}
    settings |= {"augmentation": data.Augmentation(8, scale=None)}
    return _with(probe.linear_evaluation, settings, changed)


def _with(function, settings, changed):
    of_protocol = {k: v for k, v in changed.items() if k in probe.Protocol._fields}
    rest = {k: v for k, v in changed.items() if k not in of_protocol}
    numbers = {"learning_rate": 0.1, "batch_size": 2, "num_epochs": 1} | of_protocol
    settings = {"labels": LABELS, "num_classes": 3} | settings | rest
    return lambda: function(KEY, protocol=probe.Protocol(**numbers), **settings)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (logistic(features=H[0]), r"features must be a matrix of shape \(n, p\), got shape \(2,\)"),
        (logistic(labels=LABELS[:3]), r"labels must have shape \(4,\).* got \(3,\)"),
        (logistic(labels=LABELS + 1), "labels must be classes 0...2, got 1 to 3"),
        (logistic(features=H * jnp.nan), r"features of shape \(4, 2\) .* NaN"),
        (logistic(regularisation=-1.0), "regularisation must be >= 0"),
        (logistic(regularisation=jnp.ones(2)), r"regularisation must be a number, .* \(2,\)"),
        (logistic(tol=jnp.ones(2)), "tol must be a number"),
        (logistic(max_iterations=jnp.array([5, 6])), "max_iterations must be a number"),
        (logistic(tol=0.0), "tol must be > 0"),
        (logistic(max_iterations=0), "max_iterations must be >= 1"),
        (logistic(labels=LABELS * 0, num_classes=1), "num_classes must be >= 2"),
        (sgd(features=H[:3]), r"labels must have shape \(3,\).* got \(4,\)"),
        (sgd(batch_size=5), "batch_size must lie between 1 and the 4 samples of features, got 5"),
        (sgd(num_epochs=0), "num_epochs must be >= 1"),
        (sgd(cosine="never"), "cosine must be one of 'epoch', 'step', got 'never'"),
        (sgd(learning_rate=jnp.ones(3)), r"learning_rate must be a scalar, got shape \(3,\)"),
        (sgd(weight_decay=-1.0), "weight_decay must be >= 0"),
        (evaluation(images=IMAGES[0]), r"images must have shape .* got shape \(8, 8, 3\)"),
        (evaluation(images=IMAGES.astype(int)), "images must be bytes .* got int32 of shape"),
        (evaluation(batch_size=5), "between 1 and the 4 samples of images, got 5"),
        (
            evaluation(augmentation=data.Augmentation(9, scale=None)),
            "size must be at least 1 and at most 8",
        ),
        (
            evaluation(embed_fn=lambda x: x),
            r"shape \(2, p\) for images of shape \(2, 8, 8, 3\), got shape \(2, 8, 8, 3\)",
        ),
        (evaluation(embed_fn=lambda x: (pixels(x), 1)), r"shape \(2, p\) .*, got a tuple"),
        (evaluation(embed_fn=lambda x: pixels(x) / 0), "are NaN or infinite: embed_fn gives NaN"),
        (lambda: probe.embed_images(lambda x: x[0], IMAGES), r"shape \(4, p\) .*, got shape"),
        (lambda: probe.embed_images(pixels, IMAGES, batch_size=0), "batch_size must be >= 1"),
    ],
)
def test_rejects(call, message, unchecked):
    with pytest.raises(ValueError, match=message):
        call()
