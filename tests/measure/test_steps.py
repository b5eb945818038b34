"""Rises of eigenvalues, and the tests of their order."""

import time

import jax.numpy as jnp
import numpy as np
import pytest

from sslstep.measure import steps


def logistic(t, middles, rate=4.0):
    return 1 / (1 + np.exp(-rate * (t[:, None] - np.asarray(middles)[None, :])))


def test_rises_are_in_units_of_the_plateau():
    t = np.linspace(0, 40, 4001)
    curves = logistic(t, [5, 20]) * np.array([3.0, 0.1])
    found = steps.rises(t, curves, np.array([3.0, 0.1]))
    np.testing.assert_allclose(found.middle, [5, 20], atol=1e-3)
    # From 0.1 to 0.9 a logistic curve of rate r takes ln 81 / r.
    np.testing.assert_allclose(found.end - found.begin, np.log(81) / 4, rtol=1e-3)


def test_rises_of_half_precision():
    """In units of the plateau, one half of 0.3 is half of it, not of what bfloat16 makes of it."""
    t, curves = np.arange(3.0), jnp.asarray([[0.0], [0.1], [0.2]], jnp.bfloat16)
    found, expected = (steps.rises(t, x, 0.3) for x in (curves, curves.astype(jnp.float32)))
    assert found.middle.dtype == jnp.float32
    np.testing.assert_array_equal(found.middle, expected.middle)


def test_a_rise_that_has_only_begun_is_no_level():
    """Of logistic rises to 2, seen until t = 30, those at 10 and 20 end and that at 33 does not."""
    t = np.linspace(0, 30, 301)
    eigenvalues = 2 * logistic(t, [10, 20, 33], rate=1.0)
    assert eigenvalues[-1, 2] > 20 * eigenvalues[0, 0]  # it has grown, to a twentieth
    levels = steps.grown_levels(eigenvalues)
    np.testing.assert_allclose(levels, 2, rtol=1e-4)
    learned = np.isfinite(np.asarray(steps.rises(t, eigenvalues, levels).middle))
    np.testing.assert_array_equal(learned, [True, True, False])


def test_isolated_rises():
    t = np.linspace(0, 40, 401)
    found = steps.rises(t, logistic(t, [5, 5.3, 20, 30, 60]))
    assert steps.isolated(found).tolist() == [False, False, True, True, False]


def test_an_unfinished_rise_is_company_to_what_comes_later():
    inf = np.inf
    found = steps.Rises(np.array([1.0, 4, 8]), np.array([2.0, 5, inf]), np.array([inf, 6, inf]))
    assert steps.isolated(found).tolist() == [False, False, False]


def test_what_never_begins_is_no_company():
    rises = steps.Rises(np.array([1.0, np.inf]), np.array([2.0, np.inf]), np.full(2, np.inf))
    assert steps.isolated(rises).tolist() == [True, False]


def test_simultaneous_growth_is_not_rejected_and_stepwise_growth_is():
    """Under the null hypothesis p is uniform: over 400 draws as often below 0.05 as it should."""
    rng = np.random.default_rng(0)
    duration = np.linspace(1, 3, 8)
    p_values = []
    for _ in range(400):
        middle = 10 + duration * rng.normal(size=8)
        made = steps.Rises(middle - duration / 2, middle, middle + duration / 2)
        p_values.append(steps.simultaneity_test(made).p_value)
    assert abs(np.mean(np.array(p_values) < 0.05) - 0.05) < 4 * np.sqrt(0.05 * 0.95 / 400)
    t = np.linspace(0, 40, 4001)
    together = logistic(t, [10.0] * 8) * np.geomspace(1, 1e-3, 8)[None, :]
    assert steps.simultaneity_test(steps.rises(t, together, together[-1])).p_value > 0.999
    apart = steps.rises(t, logistic(t, [5, 10, 15, 20]))
    assert steps.simultaneity_test(apart).p_value < 1e-10


def test_what_never_gets_halfway_is_company():
    inf = np.inf
    creeping = steps.Rises(np.array([1.0, 2, 4]), np.array([inf, 2.5, 5]), np.array([inf, 3, 6]))
    assert steps.isolated(creeping).tolist() == [False, False, False]


def test_growth_rate_sees_small_dimensions():
    t = np.linspace(0, 10, 101)
    small = 1e-9 + 1e-6 * logistic(t, [5.0], 20.0)
    rate = steps.growth_rate(t, np.hstack([np.ones((101, 1)), small]), np.linspace(0, 10, 11))
    assert np.argmax(rate) in (3, 4, 5)
    assert rate.sum() == pytest.approx(np.log(small[-1, 0] / small[0, 0]))


def test_coincidence():
    """Series with common bursts pass, those with bursts elsewhere do not, and p is calibrated."""
    rng = np.random.default_rng(1)
    bursts = np.exp(-0.5 * ((np.arange(80)[:, None] - np.array([9, 30, 61])) / 2) ** 2).sum(1)
    noisy = bursts + 0.1 * rng.normal(size=80)
    assert steps.coincidence_test(bursts, noisy).p_value < 0.03
    assert steps.coincidence_test(bursts, np.roll(noisy, 17)).p_value > 0.05
    p_values = [steps.coincidence_test(*rng.normal(size=(2, 50))).p_value for _ in range(300)]
    assert abs(np.mean(np.array(p_values) <= 0.1) - 0.1) < 4 * np.sqrt(0.09 / 300)
    # Bursts of one busy time in the middle, independent of each other.
    envelope = np.exp(-0.5 * ((np.arange(60) - 30) / 12) ** 2)
    p_values = [
        steps.coincidence_test(*(envelope * rng.exponential(size=(2, 60)))).p_value
        for _ in range(300)
    ]
    assert abs(np.mean(np.array(p_values) <= 0.1) - 0.1) < 4 * np.sqrt(0.09 / 300)


def test_widest_gap():
    gap = steps.widest_gap(np.array([5.0, 4.0, 1e-3, 5e-4, -1e-9]))
    assert gap.learned == 2
    assert gap.threshold == pytest.approx(np.sqrt(4e-3))
    assert gap.ratio == pytest.approx(4000)
    # Noise of 1e-2 on either side of 0 has no gap, however small its smallest positive part.
    noisy = steps.widest_gap(np.array([5.0, 4.0, 1e-2, 1e-9, -1e-2]))
    assert noisy.learned == 2
    assert noisy.ratio == pytest.approx(400)
    assert steps.widest_gap(np.array([1.0, 1.0])).ratio == 1
    # What is resolved below eps of the largest, as squares of singular values are, is no zero.
    small = steps.widest_gap(np.array([1.0, 0.5, 1e-9, 5e-10, 0.0], np.float32))
    assert (small.learned, small.ratio) == (2, pytest.approx(0.5e9))


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("dead", [0.0, -1e-20, 1e-12])
def test_dead_dimensions_are_beyond_the_widest_gap(dtype, dead):
    """Exact zeros too: they count as rounding of the largest."""
    gap = steps.widest_gap(np.array([1.0, 0.95, 0.9, dead, dead, dead], dtype))
    assert gap.learned == 3
    below = dead if dead > 0 else np.finfo(dtype).eps
    assert gap.ratio == pytest.approx(0.9 / below, rel=1e-6)
    assert steps.widest_gap(np.array([1.0, dead, dead], dtype)).learned == 1


def test_the_widest_gap_of_a_wide_head_takes_no_time():
    """Of 8192 eigenvalues it took minutes, in exact integers."""
    drawn = -np.sort(-np.exp(np.random.default_rng(0).uniform(-9, 0, 8192)))
    start = time.perf_counter()
    gap = steps.widest_gap(drawn)
    assert time.perf_counter() - start < 1
    assert gap.ratio == pytest.approx((drawn[:-1] / drawn[1:]).max())


def _wishart(rng, num):
    """Eigenvalues of a sample covariance whose true one falls as a power."""
    samples = rng.normal(size=(4 * num, num)) / np.arange(1, num + 1)
    return np.linalg.eigvalsh(samples.T @ samples)


@pytest.mark.parametrize("num", [16, 64])
@pytest.mark.parametrize(
    "one_band",
    [
        lambda rng, num: np.exp(rng.uniform(-9, 0, num)),
        lambda rng, num: np.exp(rng.normal(size=num)),
        lambda rng, num: np.exp(rng.exponential(size=num)),
        lambda rng, num: np.exp(-rng.exponential(size=num)),
        lambda rng, num: rng.exponential(size=num),
        _wishart,
    ],
    ids=["uniform", "normal", "exponential", "reflected", "values", "wishart"],
)
def test_a_single_band_is_rejected_no_more_often_than_the_level_says(one_band, num):
    """Whatever its shape: a test of log-uniform values rejects most of these at 5%."""
    rng = np.random.default_rng(0)
    draws = 200 if one_band is _wishart else 1000
    p_values = np.array(
        [steps.bimodality_test(np.log(one_band(rng, num))).p_value for _ in range(draws)]
    )
    for level in (0.05, 0.1):
        allowed = level + 3 * np.sqrt(level * (1 - level) / draws)  # three standard errors
        assert np.mean(p_values <= level) <= allowed


@pytest.mark.parametrize("num", [16, 64, 8192])
def test_two_bands_are_found(num):
    """Half of the spectrum grown, and the share below which one may be missed."""
    rng = np.random.default_rng(0)
    for grown in (num // 2, int(2 * num**0.5)):
        p_values = []
        for _ in range(20):
            drawn = [rng.normal(size=grown), rng.normal(size=num - grown) - 12]
            p_values.append(steps.bimodality_test(np.concatenate(drawn)).p_value)
        assert max(p_values) < 0.05


def test_p_values_end_where_the_table_does():
    bands = np.concatenate([np.linspace(-9, -8, 400), np.linspace(0, 1, 400)])
    assert steps.bimodality_test(bands).p_value == 1e-5


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: steps.rises(np.arange(3.0), np.ones((3, 2)), 0.0), "plateau"),
        (
            lambda: steps.rises(np.arange(3.0), np.ones((3, 3)), np.ones(2)),
            r"plateau must be a scalar or have shape \(3,\), .*, got shape \(2,\)",
        ),
        (lambda: steps.rises(np.arange(3.0), np.ones((3, 2)), low=np.zeros(2)), "low must be a nu"),
        (lambda: steps.rises(np.arange(3.0), np.ones((3, 2)), high=np.ones(2)), "high must be a n"),
        (
            lambda: steps.coincidence_test(np.arange(5.0), np.arange(5.0), smooth=np.ones(2)),
            "smooth must be a number",
        ),
        (lambda: steps.rises(np.arange(3.0), np.ones(3)), r"shape \(T, d\)"),
        (
            lambda: steps.rises(np.arange(3.0), np.ones((3, 2)), low=0.9),
            "low must be < 0.5, got 0.9",
        ),
        (lambda: steps.rises(np.arange(3.0), np.ones((3, 2)), high=0.1), "high must be > 0.5"),
        (lambda: steps.simultaneity_test(steps.Rises(*np.ones((3, 1)))), "got 1"),
        (lambda: steps.simultaneity_test(steps.Rises(*np.ones((3, 2)))), "last for some time"),
        (lambda: steps.coincidence_test(np.ones(5), np.arange(5.0)), "a is constant"),
        (lambda: steps.coincidence_test(np.arange(2.0), np.arange(2.0)), "at least 3"),
        # A Gaussian, cut off at 4 standard deviations, is one entry wide,
        (
            lambda: steps.coincidence_test(np.arange(9.0), np.arange(9.0) ** 2, smooth=0.1),
            "smooth = 0.1 is too small: the trend of a equals the series",
        ),
        # or its neighbours, of weight exp(-1 / 2 smooth²) = 1e-13, are lost in rounding.
        (
            lambda: steps.coincidence_test(
                np.sin(np.arange(9.0)), 1e6 + np.arange(9.0) ** 2, smooth=0.13
            ),
            "smooth = 0.13 is too small: the trend of b equals the series",
        ),
        (lambda: steps.bimodality_test(np.ones(3)), "at least 4"),
        (lambda: steps.bimodality_test(np.array([0, 1, 2, np.nan])), "values"),
        (lambda: steps.widest_gap(np.zeros(4)), "one that is positive"),
        (lambda: steps.widest_gap(np.ones(1)), "eigenvalues must hold at least 2"),
        (
            lambda: steps.growth_rate(np.arange(3.0), np.zeros((3, 2)), np.array([0.0, 1.0])),
            "eigenvalues must be > 0",
        ),
        (
            lambda: steps.growth_rate(np.arange(3.0), np.ones((3, 2)), np.array([1.0, 3.0])),
            "at must lie within times, 0 to 2, got 1 to 3",
        ),
        (
            lambda: steps.growth_rate(-np.arange(3.0), np.ones((3, 2)), np.array([-1.0, 0.0])),
            "times must increase",
        ),
        (
            lambda: steps.growth_rate(np.arange(2.0), np.ones((3, 2)), np.array([0.0, 1.0])),
            r"times must have shape \(3,\)",
        ),
    ],
)
def test_bad_input(unchecked, call, message):
    with pytest.raises(ValueError, match=message):
        call()


def test_noise_around_zero_has_not_grown():
    assert steps.grown_levels(np.array([[-1e-5], [1e-5], [2e-5]])) == np.inf
    assert steps.grown_levels(np.array([[-1e-5], [1e-5], [3e-4]])) == 3e-4
