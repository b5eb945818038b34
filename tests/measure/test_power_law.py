"""Power laws: against NumPy's least squares, and errors of synthetic scatter."""

import numpy as np
import pytest

from sslstep.measure import power_law

X = np.array([64.0, 128.0, 256.0, 512.0])


def test_an_exact_law():
    found = power_law.fit(X, 3.0 * X[:, None] ** -0.7 * np.ones(4))
    np.testing.assert_allclose(found.exponents, np.full(4, -0.7), atol=1e-12)
    assert found.standard_error == pytest.approx(0, abs=1e-12)


def test_the_mean_exponent_is_that_of_ordinary_least_squares():
    y = X[:, None] ** -0.5 * np.exp(0.3 * np.random.default_rng(0).normal(size=(4, 5)))
    expected = np.polyfit(np.repeat(np.log(X), 5), np.log(y).ravel(), 1)[0]
    assert power_law.fit(X, y).exponent == pytest.approx(expected, rel=1e-9)


def test_standard_errors_are_those_of_repeated_fits():
    """Of one series by its residuals, of five by their scatter: the root mean square is right."""
    noise = np.exp(0.2 * np.random.default_rng(0).normal(size=(2000, 4, 5)))
    for y in (X**2 * noise[..., 0], (X**2)[:, None] * noise):
        found = [power_law.fit(X, each) for each in y]
        spread = np.std([each.exponent for each in found])
        mean_square = np.mean([each.standard_error**2 for each in found])
        # Of 2000 fits a variance is known to 2 (1 + degrees of freedom's share) / 2000: 5%.
        assert mean_square**0.5 == pytest.approx(spread, rel=0.1)
    assert np.isnan(power_law.fit(X[:2], X[:2]).standard_error)


@pytest.mark.parametrize(
    ("x", "y", "message"),
    [
        (X, X[:3], "y must have shape"),
        (X[:1], X[:1], "x must hold at least 2"),
        (X - 64, X, "x must be > 0"),
        (0 * X + 3, X, "x must not be all equal, got 3.0 at each of"),
        (X, -X, "y must be > 0"),
    ],
)
def test_rejects(x, y, message, unchecked):
    with pytest.raises(ValueError, match=message):
        power_law.fit(x, y)
