"""Compilation by XLA with options and program changes that are faster on CPUs."""

import functools
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
from jax.tree_util import Partial
from jaxtyping import PyTree

from sslstep import _check, _convolutions

# Before JAX 0.12 XLA runs convolutions on CPU by a library that uses one thread for each. With this
# option XLA uses the library for other operations only, and runs convolutions on all threads.
_MANY_THREADS = {
    "xla_cpu_experimental_ynn_fusion_type": "LIBRARY_FUSION_TYPE_DOT,LIBRARY_FUSION_TYPE_REDUCE"
}


def devices_of(tree: PyTree) -> list[jax.Device]:
    """Return the devices of the tree's concrete arrays, or all devices if it has none."""
    leaves = [leaf for leaf in jax.tree.leaves(tree) if isinstance(leaf, jax.Array)]
    found = {device for a in leaves if _check.is_concrete(a) for device in a.devices()}
    return list(found) or jax.devices()


def on_cpu(devices: Sequence[jax.Device]) -> bool:
    """Return whether all devices are CPUs."""
    return all(device.platform == "cpu" for device in devices)


def prepared(function: Callable[..., Any], for_cpu: bool) -> Callable[..., Any]:
    """Return the function itself, or for CPUs one with a fast axis order of convolutions in loops.

    The result is to be compiled. Its values differ from the function's by rounding only.
    """
    return _convolutions.in_order(function) if for_cpu else function


def compiler_options(devices: Sequence[jax.Device]) -> dict[str, Any] | None:
    """Return options for ``jax.jit`` on these devices, or None; see docs/benchmarks.md."""
    return _options_on_cpu() if on_cpu(devices) else None


def for_threads(function: Callable[..., Any]) -> Callable[..., Any]:
    """Return the function to call in threads, with the settings of this one: JAX's are local."""
    x64 = jnp.result_type(float) == jnp.float64
    precision = getattr(jax.config, "jax_default_matmul_precision")  # noqa: B009 (not typed)

    def call(*args: Any) -> Any:
        with jax.enable_x64(x64), jax.default_matmul_precision(precision):
            return function(*args)

    return call


def jit(function: Callable[..., Any], devices: Sequence[jax.Device]) -> Any:
    """Compile a function for devices, with the program changes and options of this module.

    Calls with one function return one compiled function.
    """
    return _jit(function, on_cpu(devices))


def as_partial(function: Callable[..., Any]) -> Partial:
    """Return a Partial of the function, whose leaves are all arrays that Partials bind to it.

    JAX treats a Partial that is bound to another one as a part of the program. Its arrays are then
    constants, and every call compiles anew.
    """
    if not isinstance(function, Partial):
        return Partial(function)
    inner = getattr(function.func, "fun", None)
    if not isinstance(inner, Partial):
        return function
    inner = as_partial(inner)
    keywords = {**inner.keywords, **function.keywords}
    return Partial(inner.func, *inner.args, *function.args, **keywords)


@functools.cache
def _jit(function: Callable[..., Any], for_cpu: bool) -> Any:
    options = _options_on_cpu() if for_cpu else None
    return jax.jit(prepared(function, for_cpu), compiler_options=options)


@functools.cache
def _options_on_cpu() -> dict[str, Any] | None:
    """Return the CPU option before JAX 0.12, or None if this version of XLA rejects it."""
    if jax.__version_info__ >= (0, 12):
        return None
    try:
        jax.jit(lambda x: x, compiler_options=_MANY_THREADS).lower(0.0).compile()
    except (jax.errors.JaxRuntimeError, ValueError):
        return None
    return dict(_MANY_THREADS)
