"""What measurements take of memory: no square of the number of samples, dimensions or records."""

import tracemalloc

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from sslstep.measure import alignment, probe, spectrum, steps

LARGE, FEW = 20_000, 3
TALL, WIDE = (LARGE, FEW), (FEW, LARGE)
EDGES = np.geomspace(1e-6, 10, 61)


def compiled_bytes(function, *shapes):
    """What a compiled function takes beside its arguments, without running it."""
    arguments = [jax.ShapeDtypeStruct(shape, jnp.float32) for shape in shapes]
    memory = jax.jit(function).lower(*arguments).compile().memory_analysis()
    return memory.temp_size_in_bytes + memory.output_size_in_bytes


def labels_of(features):
    return jnp.zeros(features.shape[0], jnp.int32)


@pytest.mark.parametrize(
    ("function", "shapes"),
    [
        (spectrum.covariance_eigenvalues, [TALL]),
        (spectrum.covariance_eigenvalues, [WIDE]),
        (spectrum.correlation_eigenvalues, [TALL, TALL]),
        (spectrum.effective_rank, [TALL]),
        (spectrum.effective_rank, [WIDE]),
        (alignment.principal_angles, [TALL, TALL]),
        (alignment.misalignment, [TALL, TALL]),
        (alignment.subspace_alignment, [TALL, TALL]),
        (lambda curves: spectrum.histogram(curves, EDGES), [(2000, 512)]),
        (lambda curves: spectrum.step_times(np.arange(LARGE), curves), [TALL]),
        (lambda curves: spectrum.step_sharpness(np.arange(FEW), curves), [WIDE]),
        (lambda h: probe.ridge(h, h[:, :2], 1e-3), [TALL]),
        (lambda h: probe.ridge(h, h[:, :2], 1e-3), [WIDE]),
        (lambda h: probe.loo_error(h, h[:, :2], jnp.ones(2)), [TALL]),
        (lambda h: probe.loo_error(h, h[:, :2], jnp.ones(2)), [WIDE]),
        (lambda h: probe.logistic(h, labels_of(h), 1e-3, num_classes=2), [TALL]),
        (lambda h: probe.logistic(h, labels_of(h), 1e-3, num_classes=2), [WIDE]),
        (
            lambda h: probe.accuracy_along(
                h, labels_of(h), h, labels_of(h), jnp.ones((2, h.shape[1])), 1e-3, num_classes=2
            ),
            [TALL],
        ),
    ],
)
def test_programs_take_a_few_times_their_arguments(function, shapes):
    """A square of `LARGE` would be thousands of times as much, and L-BFGS keeps 40 vectors."""
    size = 4 * sum(int(np.prod(shape)) for shape in shapes)
    assert compiled_bytes(function, *shapes) < 60 * size


@pytest.mark.parametrize(
    "call",
    [
        lambda series: steps.coincidence_test(series, series[::-1]),
        lambda series: steps.isolated(steps.Rises(series, series + 1, series + 2)),
        lambda series: steps.widest_gap(np.sort(np.exp(series))[::-1]),
        lambda series: steps.bimodality_test(series),
    ],
)
def test_of_a_series_too(call):
    series = np.random.default_rng(0).normal(size=LARGE)
    call(series[:100])  # what is imported on the way
    tracemalloc.start()
    call(series)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 20 * series.nbytes


def test_histograms_and_shifts_are_those_of_numpy():
    """The values, by loops that keep little."""
    rng = np.random.default_rng(0)
    curves = np.exp(rng.normal(size=(7, 40))).astype(np.float32)
    edges = np.geomspace(0.1, 3, 9).astype(np.float32)
    curves[0, :9] = edges  # on the edges
    expected = [np.histogram(row, edges)[0] for row in curves]
    np.testing.assert_array_equal(spectrum.histogram(curves, edges), expected)
    a, b = rng.normal(size=(2, 101))
    found = steps.coincidence_test(a, b, smooth=0)
    shifted = [
        np.corrcoef(a.argsort().argsort(), np.roll(b, k).argsort().argsort())[0, 1]
        for k in range(101)
    ]
    assert found.statistic == pytest.approx(shifted[0], abs=1e-14)
    assert found.p_value == np.mean(np.array(shifted) >= shifted[0] - 1e-12)


def test_isolated_rises_by_comparing_all_pairs():
    rng = np.random.default_rng(0)
    begin = np.sort(rng.uniform(0, 40, 60)).round()  # with ties
    end = begin + rng.integers(0, 3, 60)
    end[rng.uniform(size=60) < 0.1] = np.inf
    begin[-5:], end[-5:] = np.inf, np.inf
    middle = np.where(np.isfinite(end), (begin + end) / 2, np.inf)
    alone = [
        np.isfinite(middle[j])
        and not any(
            i != j and np.isfinite(begin[i]) and begin[i] <= end[j] and end[i] >= begin[j]
            for i in range(60)
        )
        for j in range(60)
    ]
    assert steps.isolated(steps.Rises(begin, middle, end)).tolist() == alone
