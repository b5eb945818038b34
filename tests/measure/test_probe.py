"""Linear probes against scikit-learn, brute force, and what must not matter."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from sklearn.linear_model import LinearRegression, Ridge

from sslstep.measure import probe


def problem(seed, n=40, p=6, c=3, dtype=float):
    """Classes from noisy features of different scales and nonzero mean."""
    rng, teacher = np.random.default_rng(seed), np.random.default_rng(99).normal(size=(p, c))
    h = rng.normal(size=(n, p)) * np.arange(1, p + 1) ** -1.0
    labels = np.argmax(h @ teacher + 0.3 * rng.normal(size=(n, c)), axis=1)
    return jnp.asarray(h + 2, dtype), jnp.asarray(labels)


@pytest.mark.parametrize(("n", "p"), [(40, 6), (10, 25)])  # more samples, or more features
@pytest.mark.parametrize("mu", [1e-3, 0.5])
def test_ridge_is_that_of_scikit_learn(dtype, n, p, mu):
    h, labels = problem(0, n, p, dtype=dtype)
    targets = jax.nn.one_hot(labels, 3)
    expected = Ridge(alpha=n * mu, tol=1e-14).fit(np.asarray(h, float), np.asarray(targets, float))
    fitted = probe.ridge(h, targets, mu)
    # The condition number is at most (largest variance, < p) / mu.
    tol = 10 * p / mu * float(jnp.finfo(dtype).eps)
    np.testing.assert_allclose(fitted.weights, expected.coef_.T, atol=tol)
    np.testing.assert_allclose(fitted.bias, expected.intercept_, atol=10 * tol)
    assert fitted.weights.dtype == fitted.bias.dtype == dtype
    new = np.asarray(problem(1, 5, p, dtype=dtype)[0], float)
    predictions = probe.predict(fitted, jnp.asarray(new, dtype))
    np.testing.assert_allclose(predictions, expected.predict(new), atol=10 * tol)


@pytest.mark.parametrize(("n", "p"), [(40, 6), (10, 25)])
def test_no_regularisation_is_least_squares_of_least_norm(x64, n, p):
    h, labels = problem(0, n, p)
    # Two columns alike and one constant: rank-deficient in either case.
    h = h.at[:, 1].set(h[:, 0]).at[:, 2].set(5.0)
    targets = jax.nn.one_hot(labels, 3)
    expected = LinearRegression().fit(np.asarray(h), np.asarray(targets))
    fitted = probe.ridge(h, targets, 0.0)
    np.testing.assert_allclose(fitted.weights, expected.coef_.T, atol=1e-12)
    np.testing.assert_allclose(fitted.bias, expected.intercept_, atol=1e-11)


def test_minimises_what_it_says(x64):
    h, labels = problem(0)
    targets = jax.nn.one_hot(labels, 3)

    def objective(fitted):
        error = jnp.sum((probe.predict(fitted, h) - targets) ** 2, axis=1).mean()
        return error + 0.1 * jnp.sum(fitted.weights**2)

    gradient = jax.grad(objective)(probe.ridge(h, targets, 0.1))
    for part in gradient:
        np.testing.assert_allclose(part, jnp.zeros_like(part), atol=1e-13)


def test_ill_conditioned_features_in_float32():
    """A condition number of 3000 squared is beyond float32; features as such are not."""
    rng = np.random.default_rng(0)
    h = rng.normal(size=(200, 3)) * np.array([1.0, 3e-2, 3e-4])
    weights = np.array([[1.0], [20.0], [1000.0]])
    fitted = probe.ridge(jnp.asarray(h, jnp.float32), jnp.asarray(h @ weights, jnp.float32), 0.0)
    np.testing.assert_allclose(fitted.weights, weights, rtol=1e-2)


def test_predictions_do_not_depend_on_basis_and_shift(x64):
    h, labels = problem(0)
    targets = jax.nn.one_hot(labels, 3)
    rotation, _ = np.linalg.qr(np.random.default_rng(0).normal(size=(6, 6)))
    once = probe.predict(probe.ridge(h, targets, 0.1), h)
    turned = probe.predict(probe.ridge(h @ rotation + 5, targets, 0.1), h @ rotation + 5)
    np.testing.assert_allclose(turned, once, atol=1e-12)
    shifted = probe.predict(probe.ridge(h, 2 * targets + 3, 0.1), h)
    np.testing.assert_allclose(shifted, 2 * once + 3, atol=1e-12)
    scaled = probe.predict(probe.ridge(10 * h, targets, 0.1 * 100), 10 * h)
    np.testing.assert_allclose(scaled, once, atol=1e-12)


def leave_each_out(h, targets, grid):
    """The error of leaving one out as it is defined, by n fits in float64."""
    n, found = len(h), []
    with jax.enable_x64(True):
        h, targets = (jnp.asarray(np.asarray(part, float)) for part in (h, targets))
        for mu in np.asarray(grid, float):
            errors = []
            for i in range(n):
                rest = np.delete(np.arange(n), i)
                # The same total penalty, of which a mean over fewer samples has a larger share.
                fitted = probe.ridge(h[rest], targets[rest], mu * n / (n - 1))
                missed = probe.predict(fitted, h[i : i + 1]) - targets[i][None, :]
                errors.append(float(jnp.sum(missed**2)))
            found.append(np.mean(errors))
    return np.array(found)


@pytest.mark.parametrize(("n", "p"), [(20, 4), (8, 7), (8, 12)])  # p below, at and above n - 1
def test_leave_one_out_is_brute_force(x64, n, p):
    h, labels = problem(0, n, p)
    targets = jax.nn.one_hot(labels, 3)
    grid = jnp.array([1e-4, 1e-2, 1.0, 100.0])
    expected = leave_each_out(h, targets, grid)
    np.testing.assert_allclose(probe.loo_error(h, targets, grid), expected, rtol=1e-9)


@pytest.mark.parametrize("value", [1.0, 1000.0])
def test_leave_one_out_of_a_feature_that_one_sample_has(value):
    """That sample's prediction is its target as μ falls: of both, float32 leaves noise alone."""
    rng = np.random.default_rng(0)
    h = rng.normal(size=(40, 3))
    h[:, 2] = np.where(np.arange(40) == 5, value, 0)
    h, targets = jnp.asarray(h, jnp.float32), jnp.asarray(rng.normal(size=(40, 1)), jnp.float32)
    grid = jnp.array([1e-10, 1e-4, 1e-3])
    # u's rounding, eps, lets the residual of the other directions through, which is larger than
    # that of the feature's own by the ratio of squared singular values.
    singular = np.linalg.svd(np.asarray(h) - np.asarray(h).mean(axis=0), compute_uv=False)
    tolerance = 10 * float(jnp.finfo(h.dtype).eps) * (singular[0] / singular[-1]) ** 2
    expected = leave_each_out(h, targets, grid)
    for found in (probe.loo_error, jax.jit(probe.loo_error)):
        np.testing.assert_allclose(found(h, targets, grid), expected, rtol=tolerance)
    gradient = jax.grad(lambda h: probe.loo_error(h, targets, grid).sum())(h)
    assert bool(jnp.isfinite(gradient).all())


def test_leave_one_out_of_a_sample_far_away():
    """What features do not reach of it, 1e-8 here, is below the rounding of one, and known."""
    rng = np.random.default_rng(0)
    h, targets = rng.normal(size=(40, 3)), rng.normal(size=(40, 1))
    h[0] *= 1e4
    h, targets = jnp.asarray(h, jnp.float32), jnp.asarray(targets, jnp.float32)
    basis, _ = np.linalg.qr(np.c_[np.ones(40), np.asarray(h, float)])
    vector = np.eye(40)[0]
    for _ in range(2):
        vector = vector - basis @ (basis.T @ vector)
    # The vector, whose norm and product with the targets make the error, is known to some eps.
    tolerance = 10 * float(jnp.finfo(h.dtype).eps) / np.linalg.norm(vector)
    grid = jnp.array([1e-6, 1e-3])
    expected = leave_each_out(h, targets, grid)
    np.testing.assert_allclose(probe.loo_error(h, targets, grid), expected, rtol=tolerance)


def test_leave_one_out_in_float32_where_the_fit_interpolates():
    """Residuals and what divides them both vanish with μ; their ratio has a limit."""
    h, labels = problem(0, 10, 25)
    targets = jax.nn.one_hot(labels, 3)
    grid = jnp.array([1e-12, 1e-9, 1e-6])
    errors = probe.loo_error(h, targets, grid)
    assert bool(jnp.isfinite(errors).all())
    np.testing.assert_allclose(errors[0], errors[1], rtol=1e-3)


def test_leave_one_out_finds_the_noise_level(x64):
    """The regularisation chosen does within 5% as well on new data as the best of the grid."""
    rng = np.random.default_rng(0)
    weights, grid = rng.normal(size=(30, 1)) / 30**0.5, jnp.geomspace(1e-4, 1e2, 13)

    def draw(n):
        h = rng.normal(size=(n, 30))
        return jnp.asarray(h), jnp.asarray(h @ weights + rng.normal(size=(n, 1)))

    (h, y), (h_test, y_test) = draw(60), draw(4000)

    def test_error(mu):
        return jnp.mean((probe.predict(probe.ridge(h, y, mu), h_test) - y_test) ** 2)

    errors = np.array([test_error(mu) for mu in grid])
    chosen = int(probe.loo_error(h, y, grid).argmin())
    assert errors[chosen] < 1.05 * errors.min()
    assert errors.max() > 1.3 * errors.min()


@pytest.mark.parametrize("per_time", [False, True])
@pytest.mark.parametrize("n", [40, 5])
def test_accuracy_along_is_a_probe_at_each_time(dtype, per_time, n):
    h, labels = problem(0, n, dtype=dtype)
    h_test, labels_test = problem(1, 60, dtype=dtype)
    times = jnp.linspace(0, 3, 7, dtype=dtype)
    rates = jnp.asarray([4.0, 2.0, 1.0, 0.5, 0.2, 0.0], dtype)
    scales = jnp.expm1(times[:, None] * rates[None, :]) * 0.1
    mu = 1e-3 * (1 + times) if per_time else jnp.asarray(1e-3, dtype)
    along = probe.accuracy_along(h, labels, h_test, labels_test, scales, mu, num_classes=3)
    for i, scale in enumerate(scales):
        now = mu[i] if per_time else mu
        fitted = probe.ridge(h * scale[None, :], jax.nn.one_hot(labels, 3), now)
        if i:  # at scale zero all classes tie but for their frequency
            single = probe.accuracy(fitted, h_test * scale[None, :], labels_test)
            assert abs(float(along[i]) - float(single)) < 1e-6
    frequent = jnp.argmax(jnp.bincount(labels, length=3))
    assert float(along[0]) == pytest.approx(float((labels_test == frequent).mean()))
    if n == 40:  # enough to learn from
        assert float(along[-1]) > float(along[0]) + 0.2


def test_accuracy_along_of_a_tiny_embedding_in_float32():
    """With regularisation in proportion the overall scale does not matter, however small."""
    h, labels = problem(0, 60, dtype=jnp.float32)
    order = jnp.argsort(labels)  # as many of each class, so that their frequencies do not decide
    counts = int(jnp.bincount(labels, length=3).min())
    keep = jnp.concatenate([order[labels[order] == k][:counts] for k in range(3)])
    h, labels = h[keep], labels[keep]
    size = jnp.array([1.0, 1e-3, 1e-7])
    scales = size[:, None] * jnp.ones((1, 6))
    along = probe.accuracy_along(h, labels, h, labels, scales, 1e-3 * size**2, num_classes=3)
    assert float(along[0]) > 0.6
    np.testing.assert_allclose(along, along[0])


def test_regularisation_and_scales_are_traced():
    h, labels = problem(0, dtype=jnp.float32)
    calls = []

    @jax.jit
    def along(scales, mu):
        calls.append(mu)
        fitted = probe.ridge(h, jax.nn.one_hot(labels, 3), mu)
        single = probe.accuracy(fitted, h, labels)
        return probe.accuracy_along(h, labels, h, labels, scales, mu, num_classes=3), single

    for mu in (1e-3, 1e-1):
        several, single = along(jnp.ones((2, 6)), mu)
        np.testing.assert_allclose(several, single, rtol=1e-6)
    assert len(calls) == 1


def test_standard_error_is_that_of_repeated_draws():
    draws = np.random.default_rng(0).binomial(500, 0.8, size=4000) / 500
    expected = float(probe.standard_error(0.8, 500))
    assert abs(draws.std() / expected - 1) < 5 / (2 * 4000) ** 0.5
    np.testing.assert_array_equal(probe.standard_error(jnp.array([0.0, 1.0]), 3), [0.0, 0.0])


FITTED = probe.Probe(jnp.ones((2, 3)), jnp.zeros(3))
H, LABELS, SCALES = jnp.ones((4, 2)), jnp.array([0, 1, 2, 0]), jnp.ones((5, 2))


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: probe.ridge(H, jnp.ones((3, 1)), 0.1), "one row for each of 4 samples, got 3"),
        (lambda: probe.ridge(H, jnp.ones((4, 1)), -0.1), "regularisation must be >= 0"),
        (lambda: probe.ridge(H * jnp.nan, jnp.ones((4, 1)), 0.1), "features of .* NaN"),
        (lambda: probe.predict(FITTED, jnp.ones((4, 3))), r"features must have shape \(n, 2\)"),
        (lambda: probe.accuracy(FITTED, H, LABELS[:3]), r"labels must have shape \(4,\)"),
        (
            lambda: probe.accuracy(FITTED, H, LABELS + 1),
            r"labels must be classes 0...2, got 1 to 3",
        ),
        (
            lambda: probe.ridge(H, jnp.ones((4, 1)), jnp.array([1e-3, 0.1])),
            r"regularisation must be a number, got shape \(2,\)",
        ),
        (lambda: probe.loo_error(H, H, jnp.ones(())), r"regularisations must be a vector .* \(\)"),
        (lambda: probe.loo_error(H, H, jnp.array([0.0])), "regularisations must be > 0"),
        (
            lambda: probe.loo_error(H[:1], H[:1], jnp.array([1.0])),
            "features must hold at least 2 samples",
        ),
        (lambda: probe.standard_error(0.5, 0), "num_samples must be >= 1"),
        (lambda: probe.standard_error(29.8, 9), "accuracy must be <= 1, got 29.8"),
        (
            lambda: probe.accuracy_along(H, LABELS, H, LABELS, SCALES[:, :1], 1.0, num_classes=3),
            r"scales must have shape \(T, 2\)",
        ),
        (
            lambda: probe.accuracy_along(H, LABELS, H[:, :1], LABELS, SCALES, 1.0, num_classes=3),
            r"features_test must have shape \(m, 2\)",
        ),
        (
            lambda: probe.accuracy_along(H, LABELS, H, LABELS, SCALES, jnp.ones(4), num_classes=3),
            r"regularisation must be a scalar or have shape \(5,\)",
        ),
        (
            lambda: probe.accuracy_along(H, LABELS, H, LABELS, SCALES, 0.0, num_classes=3),
            "regularisation must be > 0",
        ),
        (
            lambda: probe.accuracy_along(H, LABELS, H, LABELS, SCALES, 1.0, num_classes=2),
            "labels must be classes 0...1, got 0 to 2",
        ),
        (
            lambda: probe.accuracy(
                probe.ridge(H, jnp.ones((len(H), 3)), 1.0), H, LABELS.astype(float)
            ),
            "labels must be integers, got dtype float",
        ),
    ],
)
def test_rejects(call, message, unchecked):
    with pytest.raises(ValueError, match=message):
        call()


@pytest.mark.parametrize("short", [jnp.bfloat16, jnp.float16])
def test_half_precision_is_fitted_in_float32(short):
    features = jax.random.normal(jax.random.key(0), (90, 4)).astype(short)
    labels = jnp.arange(90) % 3
    targets, scales = jax.nn.one_hot(labels, 3), jnp.ones((1, 4))

    def fits(h):
        along = probe.accuracy_along(h, labels, h, labels, scales, 1e-2, num_classes=3)
        errors = probe.loo_error(h, targets, jnp.ones(1))
        fitted = probe.ridge(h, targets, 1e-2), probe.logistic(h, labels, 1e-2, num_classes=3)
        return jax.tree.leaves((along, errors, fitted))

    for ours, theirs in zip(fits(features), fits(features.astype(jnp.float32)), strict=True):
        assert ours.dtype == jnp.float32
        np.testing.assert_array_equal(ours, theirs)
