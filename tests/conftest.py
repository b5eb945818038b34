"""Fixtures for tests. What also concerns docstring examples is in the conftest.py above."""

from collections.abc import Iterator

import jax
import jax.numpy as jnp
import pytest


@pytest.fixture
def x64() -> Iterator[None]:
    """Double precision within one test."""
    with jax.enable_x64(True):
        yield


@pytest.fixture(params=["float32", "float64"])
def dtype(request: pytest.FixtureRequest) -> Iterator[jnp.dtype]:
    """Each floating-point type, the one of two with double precision enabled."""
    with jax.enable_x64(request.param == "float64"):
        yield jnp.dtype(request.param)
