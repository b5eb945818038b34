"""Imports neural_tangents 0.6.5, which by itself fails to import on JAX after 0.5.

The release uses names that JAX has moved to `jax.extend.core` or removed. They are added to JAX's
modules during the import and removed afterwards. The release's TensorFlow exporter is replaced by
an empty module.
"""

import functools
import importlib
import importlib.metadata
import importlib.util
import sys
import types
import warnings
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

import jax
import jax.extend.core
from jax.interpreters import ad

from sslstep import _extras

_EXPORTER = "neural_tangents.experimental"


@functools.cache
def load_neural_tangents() -> types.ModuleType:
    """Import neural_tangents, which by itself fails to import on JAX after 0.5.

    Names that JAX has moved or removed are added to it during the import only. The exporter to
    TensorFlow is left out. Kernels, ``nt.batch`` and linearisation work;
    ``NtkImplementation.AUTO`` and ``STRUCTURED_DERIVATIVES`` do not: use
    :func:`sslstep.ntk.empirical.ntk`.

    Returns:
        The package. If it has been imported before, that module is returned. A later ``import
        neural_tangents`` finds it.

    Raises:
        ModuleNotFoundError: if neural_tangents is not installed; the message names the extra.
        ImportError: if it is incompatible with the installed JAX.

    Example:
        >>> import jax, jax.numpy as jnp
        >>> from sslstep import gram
        >>> from sslstep.ntk import infinite
        >>> stax = infinite.load_neural_tangents().stax
        >>> kernel_fn = stax.serial(stax.Dense(1), stax.Gelu(), stax.Dense(1))[2]
        >>> gram.matrix(jax.jit(kernel_fn), jnp.ones((3, 5))).shape
        (3, 3)
    """
    imported = sys.modules.get("neural_tangents")
    if imported is not None:
        return imported
    _extras.require(
        "neural_tangents", by="an infinitely wide network with convolutions", extra="infinite"
    )
    _forget()
    try:
        with _lent_names(), warnings.catch_warnings():
            warnings.simplefilter("ignore")  # warnings about JAX, which users cannot resolve
            return importlib.import_module("neural_tangents")
    except (ImportError, AttributeError) as error:
        _forget()
        raise ImportError(
            f"neural_tangents {_version('neural-tangents')} does not import on JAX "
            f"{jax.__version__} (Python {sys.version.split()[0]}): {error}. Infinite-width kernels "
            f"of images need it. neural_tangents 0.6.5 works with JAX 0.10 to 0.12. Install one of "
            f"these, or use your own kernel function."
        ) from error


@contextmanager
def _lent_names() -> Iterator[None]:
    """Add names that neural_tangents needs and JAX lacks to JAX's modules during the block."""
    with ExitStack() as at_the_end:

        def lend(module: types.ModuleType, name: str, value: Any) -> None:
            setattr(module, name, value)
            at_the_end.callback(delattr, module, name)

        def lend_module(module: types.ModuleType) -> None:
            sys.modules[module.__name__] = module
            at_the_end.callback(sys.modules.pop, module.__name__, None)

        for name in ("Jaxpr", "JaxprEqn", "Literal", "Primitive", "Var"):
            if not _has(jax.core, name):
                lend(jax.core, name, getattr(jax.extend.core, name))
        if not _has(ad, "zeros_like_p"):
            lend(ad, "zeros_like_p", jax.extend.core.Primitive("zeros_like"))
        if importlib.util.find_spec("jax.util") is None:
            lend_module(_module("jax.util", safe_map=_safe_map, safe_zip=_safe_zip))
        if _EXPORTER not in sys.modules:
            lend_module(_module(_EXPORTER))
        yield


def _has(module: types.ModuleType, name: str) -> bool:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # a deprecated name still works
        return hasattr(module, name)


def _module(name: str, **members: Any) -> types.ModuleType:
    module = types.ModuleType(name)
    vars(module).update(members)
    return module


def _safe_zip(*sequences: Any) -> list[tuple[Any, ...]]:
    return list(zip(*sequences, strict=True))


def _safe_map(function: Any, *sequences: Any) -> list[Any]:
    return [function(*values) for values in _safe_zip(*sequences)]


def _forget() -> None:
    """Remove modules that a failed import left in `sys.modules`."""
    for name in [m for m in sys.modules if m.split(".")[0] == "neural_tangents"]:
        del sys.modules[name]


def _version(distribution: str) -> str:
    try:
        return importlib.metadata.version(distribution)
    except importlib.metadata.PackageNotFoundError:
        return "(not installed)"
