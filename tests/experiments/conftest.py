"""How all experiments are run here, and what docs say of their arrays."""

import re
from collections.abc import Callable, Collection
from pathlib import Path

import jax
import pytest

PAGE = Path(__file__).parents[2] / "docs" / "howto" / "results.md"


@pytest.fixture(autouse=True)
def relaxed_promotion():
    """Experiments run as a user runs them."""
    with jax.numpy_rank_promotion("allow"), jax.numpy_dtype_promotion("standard"):
        yield


@pytest.fixture
def require_documented() -> Callable[[str, Collection[str]], None]:
    """Fails unless an experiment's arrays have the names that the docs' table has of them."""

    def require(experiment: str, arrays: Collection[str]) -> None:
        rows = re.findall(rf"^\| `{experiment}` \| ([^|]*) \|", PAGE.read_text(), re.MULTILINE)
        names = [name for row in rows for name in re.findall("`([^`]*)`", row)]
        assert names
        for name in names:
            pattern = re.sub(r"\\{\w+\\}", "[^/]+", re.escape(name))
            assert any(re.fullmatch(pattern, array) for array in arrays), name

    return require
