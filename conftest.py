"""What holds for every test and every docstring example.

It lies above `tests/` and `sslstep/` because it concerns both: from within `tests/` it would not
reach the examples in `sslstep/`.
"""

import os
from collections.abc import Iterator

# Read when JAX and matplotlib are first imported, so set before anything else.
os.environ.setdefault("JAX_PLATFORMS", "cpu")
os.environ["MPLBACKEND"] = "Agg"

# Tests run thousands of small programs, most of them once, and compiling them takes most of the
# time. So they are compiled quickly rather than to run quickly: without LLVM's optimisations. With
# JAX_DISABLE_MOST_OPTIMIZATIONS=0 they are compiled as for users; so are, always, the experiments
# whose claims CI checks and the documentation's code.
os.environ.setdefault("JAX_DISABLE_MOST_OPTIMIZATIONS", "1")

from jaxtyping import install_import_hook

# Before any import of sslstep: only modules imported afterwards have their signatures checked. As
# for static checkers, an int will do where a float is wanted.
install_import_hook(
    "sslstep", "beartype.beartype(conf=beartype.BeartypeConf(is_pep484_tower=True))"
)

import jax
import pytest


@pytest.fixture(autouse=True)
def strict_promotion() -> Iterator[None]:
    """Ranks and dtypes never promoted silently."""
    with jax.numpy_rank_promotion("raise"), jax.numpy_dtype_promotion("strict"):
        yield
