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
    found = linear.sampled_modes(gammas, variances, num_pairs, dim)
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
    m, n = 200, 800
    found = linear.sampled_modes(np.ones(m), np.ones(m), n, m)
    low, high = (1 - (m / n) ** 0.5) ** 2, (1 + (m / n) ** 0.5) ** 2
    x = np.linspace(low, high, 200_001)[::-1]
    density = np.sqrt((high - x) * (x - low)) / (2 * np.pi * (m / n) * x)
    above = np.append(0, np.cumsum((density[1:] + density[:-1]) / 2 * (x[:-1] - x[1:])))
    wanted = np.interp((np.arange(m) + 0.5) / m, above, x)
    np.testing.assert_allclose(found.eigenvalues, wanted, rtol=2e-3)
    np.testing.assert_allclose(found.correlations, 1 / wanted, rtol=2e-3)


def test_the_edge_of_noise_is_that_of_the_free_difference():
    m, n, scale = 2000, 5000, 3.0
    (found,) = linear.sampled_modes(np.zeros(m), np.full(m, scale), n, 1).eigenvalues
    # Half the difference of two free Wishart matrices: the sum of their R-transforms.
    g = np.linspace(1e-4, 2 * n / m, 1_000_000)[:-1]
    half = m / n * g / 2
    edge = scale * (half / (1 - half**2) + 1 / g).min()
    # The first mode's place is below the edge by a fraction of order m^(-2/3).
    assert edge * (1 - 2 * m ** (-2 / 3)) < found < edge


def test_many_pairs_have_the_population_s_modes():
    gammas = np.array([0.5, 0.1, -0.2])
    found = linear.sampled_modes(gammas, np.ones(3), 10**8, 2)
    np.testing.assert_allclose(found.eigenvalues, gammas[:2], rtol=3e-3)  # the step of the search
    np.testing.assert_allclose(found.correlations, 1, rtol=3e-3)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (([[1.0]], [1.0], 2, 1), "eigenvalues must"),
        (([1.0], [1.0, 2.0], 2, 1), r"variances must have the shape of eigenvalues \(1,\)"),
        (([1.0], [0.5], 2, 1), "variances must be at least the absolute eigenvalues"),
        (([0.0], [0.0], 2, 1), "not all zero"),
        (([np.nan], [1.0], 2, 1), "eigenvalues"),
        (([1.0], [1.0], 0, 1), "num_pairs must be >= 1"),
        (([1.0], [1.0], 2, 0), "dim must be >= 1"),
        (([1.0, -0.5], [1.0, 1.0], 10**6, 2), "dim = 2 must be at most the number of positive"),
    ],
)
def test_bad_arguments(unchecked, arguments, message):
    with pytest.raises(ValueError, match=message):
        linear.sampled_modes(*arguments)
