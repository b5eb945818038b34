"""How all experiments are run here."""

import jax
import pytest


@pytest.fixture(autouse=True)
def relaxed_promotion():
    """Experiments run as a user runs them."""
    with jax.numpy_rank_promotion("allow"), jax.numpy_dtype_promotion("standard"):
        yield
