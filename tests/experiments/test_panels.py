"""Panels that figures of experiments share."""

import matplotlib.pyplot as plt
import numpy as np
import pytest
from scipy import stats

from sslstep.experiment import panels


@pytest.mark.parametrize("rms", [False, True])
def test_means_are_drawn_with_their_standard_errors(rms):
    values = np.random.default_rng(0).normal(3.0, 1.0, size=(2, 5))
    _, ax = plt.subplots()
    panels.means(ax, [1.0, 2.0], values, rms=rms, fmt="o")
    ((points, _, (bars,)),) = ax.containers
    mean, error = values.mean(axis=1), stats.sem(values, axis=1)
    if rms:  # the error of a root is that of the square over twice the root
        mean = np.sqrt(np.mean(values**2, axis=1))
        error = stats.sem(values**2, axis=1) / (2 * mean)
    np.testing.assert_allclose(points.get_ydata(), mean, rtol=1e-12)
    ends = np.stack([segment[:, 1] for segment in bars.get_segments()])
    np.testing.assert_allclose(ends, np.stack([mean - error, mean + error], axis=1), rtol=1e-12)
    plt.close()


@pytest.mark.parametrize(("scale", "ends"), [("linear", (-8.0, 15.5)), ("log", (0.1, 10**1.5))])
def test_room_for_a_legend_is_in_proportion_to_the_axis(scale, ends):
    _, ax = plt.subplots()
    ax.set(yscale=scale, ylim=(1.0, 10.0))
    panels.make_room(ax, above=0.5 if scale == "log" else 5.5 / 9, below=1.0)
    np.testing.assert_allclose(ax.get_ylim(), ends, rtol=1e-12)
    plt.close()


def test_a_legend_of_several_panels_has_each_label_once():
    _, (left, right) = plt.subplots(1, 2)
    for ax in (left, right):
        ax.errorbar([0], [1], [0.1], fmt="o", label="measured")
    line, *_ = right.plot([0], [1], label="theory")
    handles, labels = panels.legend_of((left, right))
    assert labels == ["measured", "theory"]
    assert handles[0] is right.containers[0].lines[0]
    assert handles[1] is line
    plt.close()
