"""What XLA is told beyond its defaults."""

import functools
from collections.abc import Callable, Sequence
from typing import Any

import jax
from jaxtyping import PyTree

from sslstep import _check, _convolutions

# Before JAX 0.12 XLA gives convolutions on CPU to a library that runs each on one thread. So told,
# it keeps that library for all else, and runs convolutions itself, on all threads.
_MANY_THREADS = {
    "xla_cpu_experimental_ynn_fusion_type": "LIBRARY_FUSION_TYPE_DOT,LIBRARY_FUSION_TYPE_REDUCE"
}


def devices_of(tree: PyTree) -> list[jax.Device]:
    """Where its arrays lie, of those not traced; if there are none, where they may come to lie."""
    leaves = [leaf for leaf in jax.tree.leaves(tree) if isinstance(leaf, jax.Array)]
    found = {device for a in leaves if _check.is_concrete(a) for device in a.devices()}
    return list(found) or jax.devices()


def on_cpu(devices: Sequence[jax.Device]) -> bool:
    """Whether all are CPUs."""
    return all(device.platform == "cpu" for device in devices)


def prepared(function: Callable[..., Any], for_cpu: bool) -> Callable[..., Any]:
    """The function as it is to be compiled: on CPUs with the convolutions of its loops in order."""
    return _convolutions.in_order(function) if for_cpu else function


def compiler_options(devices: Sequence[jax.Device]) -> dict[str, Any] | None:
    """What ``jax.jit`` is told beyond its defaults, measured in docs/benchmarks.md."""
    return _options_on_cpu() if on_cpu(devices) else None


def jit(function: Callable[..., Any], devices: Sequence[jax.Device]) -> Any:
    """``jax.jit`` of what is prepared, with these options; of one function always the same."""
    return _jit(function, on_cpu(devices))


@functools.cache
def _jit(function: Callable[..., Any], for_cpu: bool) -> Any:
    options = _options_on_cpu() if for_cpu else None
    return jax.jit(prepared(function, for_cpu), compiler_options=options)


@functools.cache
def _options_on_cpu() -> dict[str, Any] | None:
    """Options of XLA come and go: this one is used where it is needed and accepted."""
    if jax.__version_info__ >= (0, 12):
        return None
    try:
        jax.jit(lambda x: x, compiler_options=_MANY_THREADS).lower(0.0).compile()
    except (jax.errors.JaxRuntimeError, ValueError):
        return None
    return dict(_MANY_THREADS)
