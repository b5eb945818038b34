"""Probes that are not numbers: none is scored as if it knew class 0."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from sslstep.measure import probe, spectrum, steps

LABELS = np.arange(120) % 3
FEATURES = np.eye(3, dtype=np.float32)[LABELS]


def sgd(features, labels, rate):
    protocol = probe.Protocol(rate, batch_size=32)
    return probe.sgd(jax.random.key(0), features, labels, protocol, num_classes=3)


def test_training_that_diverges_is_an_error_that_names_the_learning_rate():
    with pytest.raises(ValueError, match=r"diverged, as learning_rate = 1e\+38 is too large"):
        sgd(FEATURES, LABELS, 1e38)


def test_within_vmap_it_has_no_accuracy():
    """One rate that trains, one that diverges."""

    def accuracy(rate):
        return probe.accuracy(sgd(FEATURES, LABELS, rate), FEATURES, LABELS)

    found = jax.vmap(accuracy)(jnp.array([0.3, 1e38]))
    assert float(found[0]) == 1.0
    assert bool(jnp.isnan(found[1]))


@pytest.mark.parametrize("part", ["weights", "bias"])
@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_a_probe_that_is_not_finite_is_refused(part, value):
    sound = probe.Probe(jnp.eye(3), jnp.zeros(3))
    spoilt = sound._replace(**{part: getattr(sound, part).at[0].set(value)})
    for call in (probe.predict, lambda *args: probe.accuracy(*args, LABELS)):
        with pytest.raises(ValueError, match=rf"probe\.{part} .*NaN or infinite"):
            call(spoilt, FEATURES)
    assert bool(jnp.isnan(jax.jit(probe.accuracy)(spoilt, FEATURES, LABELS)))


def test_predictions_that_overflow_have_no_accuracy():
    large = probe.Probe(3e38 * jnp.eye(3), jnp.zeros(3))
    assert bool(jnp.isnan(probe.accuracy(large, 10 * FEATURES, LABELS)))
    scales = jnp.array([[1.0, 1, 1], [3e38, 3e38, 3e38]])
    along = probe.accuracy_along(
        10 * FEATURES, LABELS, 10 * FEATURES, LABELS, scales, 1e-3, num_classes=3
    )
    assert float(along[0]) == 1.0
    assert bool(jnp.isnan(along[1]))


def test_features_that_overflow_are_refused():
    large = 3e38 * FEATURES
    with pytest.raises(ValueError, match="too large"):
        probe.ridge(np.concatenate([large, -large]), np.eye(3)[np.tile(LABELS, 2)], 0.0)


@pytest.mark.parametrize("threshold", [np.nan, np.inf])
def test_thresholds_and_rates_that_are_no_numbers(threshold):
    times, curves = np.arange(3.0), np.ones((3, 2))
    with pytest.raises(ValueError, match="threshold"):
        spectrum.step_times(times, curves, threshold)
    with pytest.raises(ValueError, match="threshold"):
        spectrum.learned_dimensions(curves, threshold)
    with pytest.raises(ValueError, match="eigenvalues"):
        steps.growth_rate(times, threshold * curves, np.array([0.0, 1.0]))
