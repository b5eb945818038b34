"""What holds for every test and every docstring example.

It lies above `tests/` and `sslstep/` because it concerns both: from within `tests/` it would not
reach the examples in `sslstep/`.
"""

import contextlib
import functools
import gc
import itertools
import os
import platform
import re
import signal
import zlib
from collections.abc import Iterator
from importlib.metadata import version
from pathlib import Path

# Read when JAX and matplotlib are first imported, so set before anything else.
os.environ.setdefault("JAX_PLATFORMS", "cpu")
os.environ["MPLBACKEND"] = "Agg"

# As many workers as cores, and small matrices: more threads only wait for each other, and make such
# products ten times as expensive. For the processes that are started from here; for this one, which
# has NumPy already, below.
os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")

# Tests run thousands of small programs, most of them once, and compiling them takes most of the
# time. So they are compiled quickly rather than to run quickly: without LLVM's optimisations. With
# JAX_DISABLE_MOST_OPTIMIZATIONS=0 they are compiled as for users. So are, in any case, the figures
# whose claims CI checks (`make quick`) and the documentation's code (`make check`): pytest starts
# neither, and nothing else sets this variable.
os.environ.setdefault("JAX_DISABLE_MOST_OPTIMIZATIONS", "1")
if version("jaxlib").startswith("0.10."):
    # Its fusions are compiled by way of MLIR, which takes 30% of a test's time. Later versions know
    # no such flag, and end a process that is given it.
    # In one part each: a thread for each part gains nothing in a program as small as a test's.
    os.environ.setdefault(
        "XLA_FLAGS",
        "--xla_cpu_use_fusion_emitters=false --xla_cpu_parallel_codegen_split_count=1",
    )

# Compiled programs are kept for the processes that tests start, for the other workers, and for the
# next session in this clone or another: compiling takes a third of the time. Of more than 1 GiB the
# oldest go. Not before jaxlib 0.10.2: there, reading a program back now and then waits forever.
if "JAX_COMPILATION_CACHE_DIR" not in os.environ and version("jaxlib") not in ("0.10.0", "0.10.1"):
    _programs = Path(__file__).parent / ".pytest_cache" / "programs"
    with contextlib.suppress(OSError, RuntimeError):  # no home, or one that cannot be written to
        _shared = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "sslstep-tests"
        _shared.mkdir(parents=True, exist_ok=True)
        if os.access(_shared, os.W_OK):
            _programs = _shared
    _kept = sorted((file.stat().st_mtime, file) for file in _programs.glob("*/*-cache"))
    _size = sum(file.stat().st_size for _, file in _kept)
    for _, file in _kept:
        if _size <= 2**30:
            break
        _size -= file.stat().st_size
        file.unlink(missing_ok=True)
    # Machine code runs on the machine that it was made for.
    _cpu = Path("/proc/cpuinfo")
    _flags = re.findall("^flags.*|^Features.*", _cpu.read_text(), re.M)[:1] if _cpu.exists() else []
    _machine = f"{platform.node()}-{zlib.crc32(str(_flags).encode()):x}"
    os.environ["JAX_COMPILATION_CACHE_DIR"] = f"{_programs}/jaxlib-{version('jaxlib')}-{_machine}"
    os.environ["JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS"] = "0"

# A shell's background jobs ignore it, and so would the processes that tests send it to.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)

import jaxtyping

# Before any import of sslstep: only modules imported afterwards have their signatures checked. As
# for static checkers, an int will do where a float is wanted.
jaxtyping.install_import_hook(
    "sslstep", "beartype.beartype(conf=beartype.BeartypeConf(is_pep484_tower=True))"
)

# A function within another would be decorated anew by each call of that one, in 0.3 ms: half of the
# time in which a gradient is traced. It is not public, so its signature stays unchecked.
_checked = jaxtyping.jaxtyped


def _checked_if_outermost(*, typechecker):
    check = _checked(typechecker=typechecker)
    return lambda each: each if "<locals>" in each.__qualname__ else check(each)


jaxtyping.jaxtyped = _checked_if_outermost

import jax
import pytest
import scipy.linalg  # noqa: F401, whose threads are limited too
import threadpoolctl
from jax._src.interpreters import mlir

threadpoolctl.threadpool_limits(int(os.environ["OPENBLAS_NUM_THREADS"]), user_api="blas")


def pytest_collection_finish() -> None:
    """What is there by now stays: garbage is looked for among what tests make, and less often."""
    gc.collect()
    gc.freeze()
    gc.set_threshold(20_000, 20, 100)


@pytest.fixture(autouse=True)
def strict_promotion() -> Iterator[None]:
    """Ranks and dtypes never promoted silently."""
    with jax.numpy_rank_promotion("raise"), jax.numpy_dtype_promotion("strict"):
        yield


# JAX makes an MLIR context for each program and keeps it with the program: 1.2 MB and 3 ms each,
# most of the memory and a fifth of the time of a small program. One serves them all, but for
# programs that JAX compiles while it lowers another, which would be written into that one.
_new_context = getattr(mlir, "make_ir_context", None)
_shared_context = functools.cache(_new_context or (lambda: None))
if _new_context is not None:

    def _context() -> mlir.ir.Context:
        return _new_context() if mlir.ir.Context.current else _shared_context()

    mlir.make_ir_context = _context

# JAX keeps each compiled program, with some of the 65530 areas of memory that Linux lets a process
# map: beyond them a worker crashes.
_PROC = Path("/proc/self")
_MOST_MAPPED, _MOST_PAGES = 25_000, 2 * 2**30 // os.sysconf("SC_PAGE_SIZE")
_test = itertools.count()


@pytest.fixture(autouse=True)
def programs_forgotten() -> Iterator[None]:
    """Compiled programs let go before they are too many; asked every tenth test, as it is slow."""
    yield
    if next(_test) % 10 or not (_PROC / "maps").exists():
        return
    resident = int((_PROC / "statm").read_text().split()[1])
    if resident > _MOST_PAGES or (_PROC / "maps").read_bytes().count(b"\n") > _MOST_MAPPED:
        jax.clear_caches()
        _shared_context.cache_clear()
        gc.collect()
