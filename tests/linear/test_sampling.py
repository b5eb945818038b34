"""Modes of a sampled Γ: against draws, Marchenko and Pastur's law, and free convolution."""

import numpy as np
import pytest

from sslstep import linear


def draws(gammas, variances, num_pairs, count):
    """Eigenvalues and population C_jj of sampled Γ, in descending order, each (count, m)."""
    rng = np.random.default_rng(0)
    eigenvalues, correlations = [], []
    for _ in range(count):
        shared = rng.standard_normal((num_pairs, len(gammas))) * np.sqrt(gammas)
        x, x_prime = (
            shared + rng.standard_normal(shared.shape) * np.sqrt(variances - gammas)
            for _ in range(2)
        )
        cross = x.T @ x_prime / num_pairs
        values, vectors = np.linalg.eigh((cross + cross.T) / 2)
        eigenvalues.append(values[::-1])
        own = np.einsum("aj,a,aj->j", vectors, gammas, vectors) / values
        correlations.append(own[::-1])
    return np.array(eigenvalues), np.array(correlations)


@pytest.mark.parametrize("num_pairs", [40, 400])
def test_the_mean_of_draws(num_pairs):
    m, dim = 80, 12
    variances = np.arange(1, m + 1) ** -1.0
    gammas = 0.8 * variances * np.arange(1, m + 1) ** -0.5
    found = linear.sampled_modes(np.diag(gammas), np.diag(variances), num_pairs, dim)
    every = draws(gammas, variances, num_pairs, 60)
    for predicted, drawn in zip(found, every, strict=True):
        drawn = drawn[:, :dim]
        error = drawn.std(axis=0) / 60**0.5
        # Terms of order 1/n are beyond this theory: a tenth of a fluctuation of single draws.
        allowed = 4 * error + 0.3 * drawn.std(axis=0)
        assert (np.abs(predicted - drawn.mean(axis=0)) <= allowed).all()
    # The population's own numbers are no such prediction.
    assert every[1][:, dim - 1].mean() < 0.7
    assert every[0][:, dim - 1].mean() > 1.3 * gammas[dim - 1]


def test_equal_views_have_marchenko_and_pastur_s_law():
    m, n = 100, 400
    found = linear.sampled_modes(np.eye(m), np.eye(m), n, m - 1)
    low, high = (1 - (m / n) ** 0.5) ** 2, (1 + (m / n) ** 0.5) ** 2
    x = np.linspace(low, high, 200_001)[::-1]
    density = np.sqrt((high - x) * (x - low)) / (2 * np.pi * (m / n) * x)
    above = np.append(0, np.cumsum((density[1:] + density[:-1]) / 2 * (x[:-1] - x[1:])))
    wanted = np.interp((np.arange(m - 1) + 0.5) / m, above, x)
    np.testing.assert_allclose(found.eigenvalues, wanted, rtol=5e-3)
    np.testing.assert_allclose(found.correlations, 1 / wanted, rtol=5e-3)


def test_the_edge_of_noise_is_that_of_the_free_difference():
    m, n, scale = 100, 250, 3.0
    noise = linear.sampled_modes(np.zeros((m, m)), scale * np.eye(m), n, 1)
    (found,) = noise.eigenvalues
    # Half the difference of two free Wishart matrices: the sum of their R-transforms.
    g = np.linspace(1e-4, 2 * n / m, 1_000_000)[:-1]
    half = m / n * g / 2
    edge = scale * (half / (1 - half**2) + 1 / g).min()
    # The first mode's place is below the edge by a fraction of order m^(-2/3).
    assert edge * (1 - 2 * m ** (-2 / 3)) < found < edge


def test_many_pairs_have_the_population_s_modes():
    gammas = np.array([0.5, 0.1, -0.2])
    found = linear.sampled_modes(np.diag(gammas), np.eye(3), 10**8, 2)
    np.testing.assert_allclose(found.eigenvalues, gammas[:2], rtol=3e-3)  # the step of the search
    np.testing.assert_allclose(found.correlations, 1, rtol=3e-3)


@pytest.mark.parametrize(
    ("gamma", "sigma", "options", "message"),
    [
        (np.ones(2), np.eye(2), {}, "gamma_matrix"),
        (np.eye(2), np.eye(3), {}, r"must have one shape, got \(2, 2\)"),
        (np.eye(2), 0.5 * np.eye(2), {}, "must have no negative eigenvalues"),
        (np.zeros((2, 2)), np.zeros((2, 2)), {}, "not only zeros"),
        (np.eye(2), np.eye(2), {"num_pairs": 0}, "num_pairs must be >= 1"),
        (np.eye(2), np.eye(2), {"dim": 0}, "dim must be >= 1"),
        (np.diag([1.0, -0.5]), np.eye(2), {"dim": 2}, "dim = 2 must be at most the number of pos"),
    ],
)
def test_bad_arguments(unchecked, gamma, sigma, options, message):
    with pytest.raises(ValueError, match=message):
        linear.sampled_modes(gamma, sigma, **{"num_pairs": 10**6, "dim": 1, **options})


def test_moments_that_do_not_commute():
    """As draws of them, and not as with the moments along Γ's own modes."""
    m, num_pairs, dim = 40, 200, 4
    rng = np.random.default_rng(1)
    turn = np.linalg.qr(rng.standard_normal((m, m)))[0]
    shared = np.diag(np.arange(1, m + 1) ** -1.5)
    own = turn @ np.diag(4 * np.arange(1, m + 1) ** -1.0) @ turn.T
    roots = [np.linalg.cholesky(each + 1e-12 * np.eye(m)) for each in (shared, own)]
    tops = []
    for _ in range(100):
        common = rng.standard_normal((num_pairs, m)) @ roots[0].T
        x, x_prime = (common + rng.standard_normal((num_pairs, m)) @ roots[1].T for _ in range(2))
        cross = x.T @ x_prime / num_pairs
        tops.append(np.linalg.eigvalsh((cross + cross.T) / 2)[::-1][:dim])
    tops = np.array(tops)
    found = linear.sampled_modes(shared, shared + own, num_pairs, dim).eigenvalues
    allowed = 0.4 * tops.std(axis=0) + 0.4 * tops.std(axis=0)[0] / 10
    assert (np.abs(found - tops.mean(axis=0)) <= allowed).all()
    along = linear.sampled_modes(shared, np.diag(np.diag(shared + own)), num_pairs, dim)
    assert (np.abs(along.eigenvalues - tops.mean(axis=0)) > allowed).any()
