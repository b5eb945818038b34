"""Recipes: where theory has the loss rest, and where it says nothing."""

import numpy as np
import pytest

from sslstep import recipes


@pytest.mark.parametrize(
    "settings",
    [
        {"variance": 1.0},
        {"variance": 15.9},
        {"covariance": 0.0},
        {"batch_size": 7},  # the chance covariance of few samples
    ],
)
def test_vicreg_without_a_closed_form_has_no_levels(settings):
    """Its plateaus are then the largest values seen; a run is not lost when it is counted."""
    recipe = recipes.VICReg(dim=2, **settings)
    assert recipe.resting_losses() is None
    seen = np.array([[1e-4, 1e-5], [0.7, 1e-4], [0.6, 0.4]])
    np.testing.assert_array_equal(recipe.plateaus(seen), [0.7, 0.4])


def test_levels_of_the_publication_s_vicreg():
    """k equal eigenvalues near d/k; the loss falls with each, to none but the softened hinge's."""
    recipe = recipes.VICReg(dim=4)
    levels = recipe.resting_losses()
    assert levels.shape == (5,)
    assert np.all(np.diff(levels) < 0)
    assert levels[0] == pytest.approx(25)
    np.testing.assert_allclose(recipe.plateaus(np.ones((2, 4))), 4 / np.arange(1, 5), rtol=0.2)
