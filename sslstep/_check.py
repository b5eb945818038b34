"""Checks of arguments, shared by the public functions.

Shapes are known even while JAX traces, so they are always checked. Values are known only for
concrete arrays: the checks that look at values pass silently under `jit`, `vmap` and `grad`. Inside
a traced function even operations on concrete arrays are traced, unless told otherwise: hence
`ensure_compile_time_eval`.
"""

import inspect
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

#: What to do about a Γ that is not symmetric.
OF_DATA = " For data use cross_correlation(x, x_prime), which symmetrises."


def is_concrete(*values: Any) -> bool:
    """Whether none of the values is being traced."""
    return not any(isinstance(value, jax.core.Tracer) for value in values)


def is_traced(*values: Any) -> bool:
    """Whether any of the values is being traced, or whatever is computed now."""
    return not is_concrete(jnp.zeros(()), *values)


def shape_of(value: Any) -> tuple[int, ...]:
    """The shape of anything array-like, without copying it."""
    return tuple(np.shape(value))


def as_float(name: str, value: Any) -> jax.Array:
    """An array of floating dtype; bytes and integers are converted: their products would wrap."""
    array = jnp.asarray(value)
    if jnp.issubdtype(array.dtype, jnp.floating):
        return array
    if jnp.issubdtype(array.dtype, jnp.integer):
        return array.astype(jnp.result_type(float))
    raise ValueError(f"{name} must hold real numbers, got dtype {array.dtype}.")


def as_precise(name: str, value: Any) -> jax.Array:
    """As :func:`as_float`, in float32 at least: decompositions know no shorter type."""
    array = as_float(name, value)
    return array if jnp.finfo(array.dtype).bits >= 32 else array.astype(jnp.float32)


def as_floats(*values: Any) -> list[jax.Array]:
    """Arrays of one floating dtype; Python numbers and integers adapt to the others."""
    default = jnp.result_type(float)
    values = tuple(v if _is_float_or_number(v) else jnp.asarray(v, default) for v in values)
    dtype = jnp.result_type(*values)
    if not jnp.issubdtype(dtype, jnp.floating):
        dtype = default
    return [jnp.asarray(value, dtype) for value in values]


def _is_float_or_number(value: Any) -> bool:
    dtype = getattr(value, "dtype", None)
    return isinstance(value, int | float) if dtype is None else jnp.issubdtype(dtype, jnp.floating)


def require_available(dtype: Any, otherwise: str = "") -> None:
    """Raise if JAX would compute in less than this dtype, as in place of float64 without x64."""
    if jax.dtypes.canonicalize_dtype(dtype) != jnp.dtype(dtype):
        raise ValueError(f"dtype = {jnp.dtype(dtype)} needs x64 enabled{otherwise}.")


def require_matrix(name: str, value: Any, wanted: str) -> tuple[int, int]:
    """Check that `value` is a non-empty matrix and return its shape."""
    shape = shape_of(value)
    if len(shape) != 2:
        raise ValueError(f"{name} must be a matrix of shape {wanted}, got shape {shape}.")
    if 0 in shape:
        raise ValueError(f"{name} is empty: shape {shape}, wanted {wanted} with every size >= 1.")
    return shape


def require_vector(name: str, value: Any, wanted: str, *, least: int = 1) -> None:
    """Check that `value` is a vector of at least so many numbers."""
    shape = shape_of(value)
    if len(shape) != 1:
        raise ValueError(f"{name} must be a vector of shape {wanted}, got shape {shape}.")
    if shape[0] < least:
        raise ValueError(f"{name} must hold at least {least} number(s), got shape {shape}.")


def require_finite(name: str, value: Any) -> None:
    """Raise if a concrete array holds NaN or infinity."""
    if not is_concrete(value):
        return
    with jax.ensure_compile_time_eval():
        finite = jnp.isfinite(jnp.asarray(value))
        good = bool(finite.all())
    if not good:
        bad = int((~np.asarray(finite)).sum())
        first = tuple(int(i) for i in np.argwhere(~np.asarray(finite))[0])
        raise ValueError(
            f"{name} of shape {shape_of(value)} holds {bad} value(s) that are NaN or infinite, "
            f"the first at index {first}."
        )


def require_scalar(
    name: str,
    value: Any,
    *,
    at_least: float | None = None,
    above: float | None = None,
    at_most: float | None = None,
    below: float | None = None,
) -> None:
    """Check that `value` is one number: an array would broadcast into another problem."""
    if isinstance(value, Mapping | str):
        raise TypeError(f"{name} must be a number, got a {type(value).__name__}.")
    shape = shape_of(value)
    if shape != ():
        raise ValueError(f"{name} must be a number, got shape {shape}.")
    require_within(name, value, at_least=at_least, above=above, at_most=at_most, below=below)


def require_symmetric(name: str, value: Any, hint: str = "") -> None:
    """Raise if a matrix is not square or, where its values are known, not symmetric."""
    rows, columns = require_matrix(name, value, "(m, m)")
    if rows != columns:
        raise ValueError(f"{name} must be square, of shape (m, m), got shape {(rows, columns)}.")
    require_finite(name, value)
    require_transpose(name, value, value, hint)


def require_transpose(
    name: str, value: Any, other: Any, hint: str = "", *, beside: Any = 0.0
) -> None:
    """Raise if concrete values are not the transpose of the others, up to rounding.

    Both may be parts of a matrix whose largest entries are `beside` them: rounding is relative to
    these.
    """
    if not is_concrete(value, other):
        return
    with jax.ensure_compile_time_eval():
        eps = float(jnp.finfo(as_float(name, value).dtype).eps)
        matrix, other = as_precise(name, value), as_precise(name, other)
        gap = float(jnp.abs(matrix - other.T).max())
        scale = max(float(jnp.abs(array).max()) for array in (matrix, as_precise(name, beside)))
    # Two sums of n products, added up in float32 at least, differ by some sqrt(n) of its eps: 1e3
    # eps admit n of about a million. Each is then rounded to the matrix's own type, which lets
    # them differ by one eps of that, and a power or an exponential of them by a few.
    admitted = 1e3 * min(eps, float(jnp.finfo(jnp.float32).eps)) + 4 * eps
    if gap > admitted * scale:
        raise ValueError(
            f"{name} must be symmetric: it differs from its transpose by up to {gap:.3g} where its "
            f"largest entry is {scale:.3g}.{hint}"
        )


def require_one_of(name: str, value: Any, allowed: Iterable[Any]) -> None:
    """Raise if the value is none of those allowed."""
    allowed = tuple(allowed)
    if value not in allowed:
        raise ValueError(f"{name} must be one of {', '.join(map(repr, allowed))}, got {value!r}.")


def require_increasing(name: str, values: Any, *, strict: bool = True) -> None:
    """Raise if concrete numbers, in a row, do not increase (or, if not strict, decrease)."""
    if not is_concrete(values):
        return
    row = np.asarray(values)
    before, after = row[:-1], row[1:]
    good = after > before if strict else after >= before  # NaN fails either
    if not good.all():
        first = int(np.argmin(good))
        raise ValueError(
            f"{name} must {'increase' if strict else 'not decrease'}, got {before[first]:g} and "
            f"then {after[first]:g} at index {first + 1}."
        )


def require_at_least(
    name: str,
    value: Any,
    bound: float,
    *,
    strict: bool = False,
    at_most: float | None = None,
    below: float | None = None,
    on_host: bool = False,
) -> None:
    """Raise if a concrete number, or any element of an array, lies below the bound (or on it).

    `on_host` is for elementwise functions: they look at numbers and arrays of NumPy's alone, since
    reading one of JAX's means waiting for a device.
    """
    if on_host and isinstance(value, jax.Array):
        return
    lower = {"above": bound} if strict else {"at_least": bound}
    require_within(name, value, **lower, at_most=at_most, below=below)


def require_within(
    name: str,
    value: Any,
    *,
    at_least: float | None = None,
    above: float | None = None,
    at_most: float | None = None,
    below: float | None = None,
) -> None:
    """Raise if a concrete number, or any element of an array, lies beyond one of the bounds."""
    if not is_concrete(value):
        return
    array = np.asarray(value)
    for relation, compare, bound in (
        (">=", np.greater_equal, at_least),
        (">", np.greater, above),
        ("<=", np.less_equal, at_most),
        ("<", np.less, below),
    ):
        if bound is None:
            continue
        good = compare(array, bound)  # NaN fails each
        if not good.all():
            shown = array.item() if array.ndim == 0 else array[~good].flat[0].item()
            raise ValueError(f"{name} must be {relation} {bound:g}, got {shown:g}.")


def require_key(name: str, value: Any) -> None:
    """Raise if the value is no random key, typed or of the old kind, such as a seed."""
    dtype = getattr(value, "dtype", None)
    if dtype is None or not (jnp.issubdtype(dtype, jax.dtypes.prng_key) or dtype == jnp.uint32):
        raise TypeError(f"{name} must be a random key, such as jax.random.key(0), got {value!r}.")


def takes(function: Callable[..., Any], *args: Any, **settings: Any) -> bool:
    """Whether a function can be called so, by its signature; what shows none is believed."""
    try:
        signature = inspect.signature(function)
    except ValueError:
        return True
    try:
        signature.bind(*args, **settings)
    except TypeError:
        return False
    return True


def parameters(function: Callable[..., Any]) -> str:
    """What a function takes, in parentheses, without types."""
    bare = [
        each.replace(annotation=inspect.Parameter.empty)
        for each in inspect.signature(function).parameters.values()
    ]
    return str(inspect.Signature(bare))
