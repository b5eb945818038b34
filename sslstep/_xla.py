"""What XLA is told beyond its defaults."""

import functools
from collections.abc import Callable, Sequence
from typing import Any

import jax

# Before JAX 0.12 XLA gives convolutions on CPU to a library that runs each on one thread. So told,
# it keeps that library for all else, and runs convolutions itself, on all threads.
_MANY_THREADS = {
    "xla_cpu_experimental_ynn_fusion_type": "LIBRARY_FUSION_TYPE_DOT,LIBRARY_FUSION_TYPE_REDUCE"
}


def compiler_options(devices: Sequence[jax.Device]) -> dict[str, Any] | None:
    """What ``jax.jit`` is told beyond its defaults, measured in docs/benchmarks.md."""
    on_cpu = all(device.platform == "cpu" for device in devices)
    return dict(_MANY_THREADS) if on_cpu and _needs_and_has_many_threads() else None


def jit(function: Callable[..., Any], devices: Sequence[jax.Device]) -> Any:
    """``jax.jit`` with :func:`compiler_options`; of one function always the same."""
    return _jit(function, compiler_options(devices) is not None)


@functools.cache
def _jit(function: Callable[..., Any], many_threads: bool) -> Any:
    return jax.jit(function, compiler_options=dict(_MANY_THREADS) if many_threads else None)


@functools.cache
def _needs_and_has_many_threads() -> bool:
    """Options of XLA come and go: this one is used where it is needed and accepted."""
    if jax.__version_info__ >= (0, 12):
        return False
    try:
        jax.jit(lambda x: x, compiler_options=_MANY_THREADS).lower(0.0).compile()
    except (jax.errors.JaxRuntimeError, ValueError):
        return False
    return True
