"""Fluctuations of the NTK, against simulated units and networks."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from sslstep.ntk import empirical, fluctuations, infinite


def _pairs(n=4, m=3):
    x = np.random.default_rng(1).normal(size=(n, m))
    return np.concatenate([x, x + 0.4 * np.random.default_rng(2).normal(size=(n, m))])


def _units(rng, cov, num):
    """φ(h) and φ'(h), (num, 2n)."""
    h = rng.multivariate_normal(np.zeros(len(cov)), cov, size=num)
    return np.maximum(h, 0), (h > 0).astype(float)


def test_moments_of_a_unit_are_the_limit_and_those_of_a_simulation(x64):
    x = _pairs()
    cov = np.asarray(fluctuations.covariance(jnp.asarray(x)))
    found = fluctuations.moments(jnp.asarray(cov))
    np.testing.assert_allclose(found.kernel, infinite.mlp(1)(jnp.asarray(x)), rtol=1e-7, atol=1e-9)
    phi, on = _units(np.random.default_rng(0), cov, 200_000)
    a = 2 * np.einsum("ui,uj->uij", phi, phi)
    b = 2 * cov * np.einsum("ui,uj->uij", on, on)
    for mean, values in ((found.both, (a + b) ** 2), (found.hidden, b**2)):
        error = values.std(axis=0) / len(values) ** 0.5
        assert (np.abs(mean - values.mean(axis=0)) < 5 * error + 1e-9).all()


def test_a_sample_of_zeros():
    """Such as a black crop: its kernel with any sample is 0, as in the limit."""
    x = _pairs()
    x[1] = 0
    cov = fluctuations.covariance(jnp.asarray(x, jnp.float32))
    kernel = fluctuations.moments(cov).kernel
    np.testing.assert_allclose(kernel, infinite.mlp(1)(x.astype("f")), rtol=1e-3, atol=1e-6)
    np.testing.assert_array_equal(kernel[1], 0)
    assert np.isfinite(fluctuations.distance(cov, 2)).all()


def test_products_are_in_full_precision():
    """Accelerators multiply float32 with 10 to 16 bits by default."""

    def model(weights, x):
        return jnp.matmul(x, weights, precision="highest")

    x, weights = jnp.asarray(_pairs(), jnp.float32), jnp.ones((3, 2))
    multiply = empirical.operator(model, weights, x)
    for function, *arguments in (
        (fluctuations.covariance, x),
        (lambda cov: fluctuations.movement(cov, x, 8.0, jax.random.key(0), num_units=2), x @ x.T),
        (lambda w: fluctuations.mode_deviation(model, w, x, x), weights),
        (multiply, x),
        (lambda w: empirical.sketch(model, w, x, 4, key=jax.random.key(0)), weights),
    ):
        program = str(jax.make_jaxpr(function)(*arguments))
        assert 0 < program.count("dot_general[") == program.count("precision=(Precision.HIGHEST")


def _networks_of(cov, rng, kind, dim, width):
    """One network's kernel, from its units."""
    phi, on = _units(rng, cov, width)
    v = rng.normal(size=(width, dim))
    c = v.sum(axis=1) ** 2 / dim if kind == "scalar" else np.mean(v**2, axis=1)
    return 2 * (phi.T @ phi + cov * (on.T @ (c[:, None] * on))) / width


def _span(kernel, dim):
    """The first γ and an orthonormal basis of the predicted embedding, by eigenvectors of K P."""
    values, vectors = np.linalg.eig(np.roll(kernel, len(kernel) // 2, axis=1))
    first = np.argsort(-values.real)[:dim]
    return values.real[first], np.linalg.qr(vectors.real[:, first])[0]


@pytest.mark.parametrize("kind", fluctuations.KINDS)
def test_rates_are_those_of_simulated_networks(x64, kind):
    dim, width, num = 2, 3000, 200
    cov = np.asarray(fluctuations.covariance(jnp.asarray(_pairs())))
    k = fluctuations.KINDS.index(kind)
    order = fluctuations.first_order(jnp.asarray(cov), dim, jax.random.key(0), 8192)
    kernel = np.asarray(fluctuations.moments(jnp.asarray(cov)).kernel)
    gammas, basis = _span(kernel, dim)
    rng, rows = np.random.default_rng(3), []
    for _ in range(num):
        drawn = _networks_of(cov, rng, kind, dim, width)
        values, span = _span(drawn, dim)
        rest = span - basis @ (basis.T @ span)
        distance = np.sum((drawn - kernel) ** 2) / np.sum(kernel**2)
        rows.append([distance, np.mean((values / gammas - 1) ** 2), np.sum(rest**2) / dim])
    measured, error = np.mean(rows, axis=0), np.std(rows, axis=0) / num**0.5
    expected = [
        fluctuations.distance(jnp.asarray(cov), dim)[k] ** 2,
        order.gamma[k],
        order.misalignment[k],
    ]
    own = np.array([0, order.gamma_error[k], order.misalignment_error[k]])
    np.testing.assert_array_less(
        np.abs(width * measured - expected), 4 * np.hypot(width * error, own)
    )


def test_other_samples_compile_nothing(count_compilations):
    x = np.random.default_rng(0).standard_normal((4, 5))

    def average(scale):
        cov = fluctuations.covariance(scale * x)
        fluctuations.first_order(cov, 1, jax.random.key(0), 2)

    assert count_compilations(average, [1.0, 2.0]) == 0


def test_the_hidden_part_moves_as_width_to_minus_three_quarters(x64):
    cov = fluctuations.covariance(jnp.asarray(_pairs(n=3)))
    pull = jnp.asarray(np.random.default_rng(4).normal(size=(6, 2)))
    widths = np.array([1e4, 1e6])
    squared = [
        float(fluctuations.movement(cov, pull, w, jax.random.key(5), num_units=40_000)[0])
        for w in widths
    ]
    slope = np.diff(np.log(squared))[0] / 2 / np.diff(np.log(widths))[0]
    assert slope == pytest.approx(-0.75, abs=0.04)
