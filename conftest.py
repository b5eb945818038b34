"""What holds for every test and every docstring example.

It lies above `tests/` and `sslstep/` because it concerns both: from within `tests/` it would not
reach the examples in `sslstep/`.
"""

import gc
import itertools
import os
import tempfile
from collections.abc import Iterator
from importlib.metadata import version
from pathlib import Path

# Read when JAX and matplotlib are first imported, so set before anything else.
os.environ.setdefault("JAX_PLATFORMS", "cpu")
os.environ["MPLBACKEND"] = "Agg"

# Tests run thousands of small programs, most of them once, and compiling them takes most of the
# time. So they are compiled quickly rather than to run quickly: without LLVM's optimisations. With
# JAX_DISABLE_MOST_OPTIMIZATIONS=0 they are compiled as for users; so are, always, the experiments
# whose claims CI checks and the documentation's code.
os.environ.setdefault("JAX_DISABLE_MOST_OPTIMIZATIONS", "1")
if version("jaxlib").startswith("0.10."):
    # Its fusions are compiled by way of MLIR, which takes 30% of a test's time. Later versions know
    # no such flag, and end a process that is given it.
    os.environ.setdefault("XLA_FLAGS", "--xla_cpu_use_fusion_emitters=false")

# A program is compiled once for all workers, tests and processes that tests start: a quarter of the
# time. The folder goes when the process that made it ends; its workers find the variable set. Not
# before jaxlib 0.10.2: there, reading a program back waits forever now and then.
if "JAX_COMPILATION_CACHE_DIR" not in os.environ and version("jaxlib") not in ("0.10.0", "0.10.1"):
    _programs = tempfile.TemporaryDirectory(prefix="sslstep-programs-", ignore_cleanup_errors=True)
    os.environ["JAX_COMPILATION_CACHE_DIR"] = _programs.name
    os.environ["JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS"] = "0"

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


# Each compiled program takes some of the 65530 areas of memory that Linux lets a process map, and
# JAX keeps it: beyond them a worker of 1000 tests crashes.
_MAPPED = Path("/proc/self/maps")
_MOST_MAPPED = 25_000
_test = itertools.count()


@pytest.fixture(autouse=True)
def programs_forgotten() -> Iterator[None]:
    """Compiled programs let go before they are too many; asked every tenth test, as it is slow."""
    yield
    if next(_test) % 10 or not _MAPPED.exists():
        return
    if _MAPPED.read_bytes().count(b"\n") > _MOST_MAPPED:
        jax.clear_caches()
        gc.collect()
