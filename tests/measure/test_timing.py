"""Whether something else grows at the steps: the test's null hypothesis keeps shared noise."""

import numpy as np
import pytest
import scipy.special
import scipy.stats

from sslstep import claims, recipes
from sslstep.experiment import curves, training
from sslstep.measure import steps

RECORDS = 0.01 * training.record_steps(2500, 120)
RECIPE = recipes.BarlowTwins()
LEVEL = 0.05


def step_times(rng):
    """Ten, in log t, with pauses of a factor of 1.1 to 1.6 between them."""
    return np.log(1.2) + np.cumsum(rng.uniform(0.1, 0.47, size=10))


def run(rng, *, shared, noise):
    """A run's spectra, with noise of every record that embeddings and hidden ones have in common.

    The latter grow by a factor of ten at a step, at steps of the former or at times of their own.
    """
    log_t = np.log(np.maximum(RECORDS, 0.005))
    common = np.exp(noise * rng.normal(size=len(log_t)))[:, None]
    ours, others = step_times(rng), step_times(rng)
    others = ours if shared else others

    def spectrum(at, dim, start):
        curves = np.geomspace(start, start / 3, dim) * np.linspace(1, 2, len(log_t))[:, None]
        width = 0.02 * rng.uniform(0.6, 1.8, size=len(at))
        curves[:, : len(at)] += scipy.special.expit((log_t[:, None] - at) / width)
        own = np.exp(0.003 * rng.normal(size=curves.shape))
        return -np.sort(-curves * common * own, axis=1)

    made = {"record_t": RECORDS, "correlation": spectrum(ours, 16, 1e-3)}
    return {**made, "covariance": made["correlation"], "hidden": spectrum(others, 40, 0.1)}


def timing_of(made):
    return curves.timing(RECIPE, made, curves.hidden_volume(RECIPE, made))


def verdicts_of(shares):
    """Of claims over three seeds each."""
    parts = [list(shares[i : i + 3]) for i in range(0, len(shares), 3)]
    made = [claims.over_seeds("-", "-", ">=", expected=0.5, measured=part) for part in parts]
    return [claim.verdict for claim in made]


@pytest.mark.parametrize("noise", [0.0, 0.02, 0.3])
def test_shared_noise_is_no_common_timing(noise):
    """Independent step times: rejected no more often than the level says, by run and by claim."""
    rng, num = np.random.default_rng(0), 150
    found = [timing_of(run(rng, shared=False, noise=noise)) for _ in range(num)]
    rejected = np.mean([test.p_value <= LEVEL for test in found])
    assert rejected <= LEVEL + 3 * np.sqrt(LEVEL * (1 - LEVEL) / num)
    shares = np.array([test.statistic for test in found])
    assert abs(shares.mean() - 0.5) < 3 * shares.std() / np.sqrt(num)
    verdicts = verdicts_of(shares)
    # Of a two-sided interval of 95%.
    assert verdicts.count("yes") / len(verdicts) <= 0.025 + 3 * np.sqrt(0.025 / len(verdicts))


def test_cyclic_shifts_take_shared_noise_for_common_timing():
    """What the earlier test did, whose series are of the same records: the noise is its timing."""
    rng, num = np.random.default_rng(0), 60
    places = np.linspace(np.log(RECORDS[1]), np.log(RECORDS[-1]), 61)
    rejected = 0
    for _ in range(num):
        made = run(rng, shared=False, noise=0.02)
        rates = [
            steps.growth_rate(np.log(RECORDS[1:]), made[name][1:, :32], places)
            for name in ("covariance", "hidden")
        ]
        rejected += steps.coincidence_test(*rates).p_value <= 1 / 60
    assert rejected > num / 3


@pytest.mark.parametrize("noise", [0.0, 0.005])
def test_common_steps_are_seen(noise):
    rng = np.random.default_rng(1)
    found = [timing_of(run(rng, shared=True, noise=noise)) for _ in range(60)]
    assert np.mean([test.p_value <= LEVEL for test in found]) > 0.9
    verdicts = verdicts_of([test.statistic for test in found])
    assert verdicts.count("yes") > 0.8 * len(verdicts)
    assert verdicts.count("NO") == 0


def test_a_drift_is_no_common_timing():
    """An accuracy that grows smoothly while dimensions are learned, and a bit of noise."""
    rng, num = np.random.default_rng(2), 120
    p_values = []
    for _ in range(num):
        made = run(rng, shared=False, noise=0.0)
        drift = 0.3 + 0.05 * np.log(1 + RECORDS) + 0.005 * rng.normal(size=len(RECORDS))
        p_values.append(curves.timing(RECIPE, made, drift).p_value)
    assert np.mean(np.array(p_values) <= LEVEL) <= LEVEL + 3 * np.sqrt(LEVEL / num)


def test_what_cannot_be_tested_is_nan():
    """No step between two others, or nothing that grows: a claim about it does not hold."""
    made = run(np.random.default_rng(0), shared=True, noise=0.0)
    assert np.isnan(curves.timing(RECIPE, made, np.full(len(RECORDS), 0.3)).statistic)
    made["correlation"] = np.full((len(RECORDS), 16), 1e-3)
    found = timing_of(made)
    assert np.isnan(found.statistic)
    assert found.p_value == 1
    measured = [found.statistic] * 3
    assert claims.over_seeds("-", "-", ">=", expected=0.5, measured=measured).verdict == "NO"


def at_times(begin, duration=1.0):
    begin = np.asarray(begin, float)
    return steps.Rises(begin, begin + duration / 2, begin + duration)


def test_a_rise_is_compared_with_all_places_between_its_neighbours():
    """Of rate 1 for a while and of rate 0 elsewhere, in closed form."""
    times = np.arange(61.0)
    level = np.clip(times - 30.0, 0, 10)
    rises = at_times([9, 35, 50])  # of which the second has neighbours: from 10 to 50
    # It grows by 1, as it does wherever it lies from 30 to 39: ties. Elsewhere it grows by less.
    found = steps.timing_test(rises, times, level)
    assert found.statistic == pytest.approx(1 - 0.5 * 9 / 39, abs=0.5 / 200)
    tail = scipy.stats.norm.sf(12**0.5 * (found.statistic - 0.5))  # of one uniform value
    assert found.p_value == pytest.approx(tail)
    # Companions, and what never ends, are no rises alone, but they are neighbours.
    assert np.isnan(steps.timing_test(at_times([9, 35, 35.5, 50]), times, level).statistic)
    creeping = steps.Rises(*(np.append(part, np.inf) for part in at_times([9, 35])))
    creeping.begin[-1] = 50
    assert steps.timing_test(creeping, times, level) == found
    # Records that end before a neighbour do not tell.
    assert np.isnan(steps.timing_test(rises, times[:45], level[:45]).statistic)


TIMES, GROWING = np.arange(10.0), np.arange(10.0) ** 2


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"times": -TIMES}, "times must increase"),
        ({"level": np.full(10, 3.0)}, "level is constant"),
        ({"level": np.full(10, np.nan)}, "level"),
        ({"times": np.full(10, np.inf)}, "times"),
    ],
)
def test_what_is_refused(change, message):
    given = {"rises": at_times([1, 3, 6], 0.2), "times": TIMES, "level": GROWING, **change}
    with pytest.raises(ValueError, match=message):
        steps.timing_test(**given)
