"""What holds for every test and every docstring example.

It lies beside `tests/` and `sslstep/` because pytest reads both: a conftest in `tests/` would not reach
the examples in `sslstep/`.
"""

import os
from collections.abc import Iterator

# Read when JAX and matplotlib are first imported, so set before anything else.
os.environ.setdefault("JAX_PLATFORMS", "cpu")
os.environ["MPLBACKEND"] = "Agg"

from jaxtyping import install_import_hook

# Before any import of sslstep: only modules imported afterwards have their signatures checked.
install_import_hook("sslstep", "beartype.beartype")

import jax
import pytest


@pytest.fixture(autouse=True)
def strict_promotion() -> Iterator[None]:
    """Ranks and dtypes never promoted silently."""
    with jax.numpy_rank_promotion("raise"), jax.numpy_dtype_promotion("strict"):
        yield
