"""Argument checks shared by the public functions.

Shapes are static under JAX's transformations and are always checked. Values are known only for
concrete arrays: checks of values pass under `jit`, `vmap` and `grad`. Inside a traced function JAX
traces operations on concrete arrays too, so these checks run in `ensure_compile_time_eval`.
"""

import inspect
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

#: Hint of the error for an asymmetric Γ.
OF_DATA = " For data use cross_correlation(x, x_prime), which symmetrises."

_RELATIONS: Mapping[str, tuple[str, Callable[..., Any]]] = {
    "at_least": (">=", np.greater_equal),
    "above": (">", np.greater),
    "at_most": ("<=", np.less_equal),
    "below": ("<", np.less),
}


def is_concrete(*values: Any) -> bool:
    """True if no value is a tracer."""
    return not any(isinstance(value, jax.core.Tracer) for value in values)


def is_traced(*values: Any) -> bool:
    """True if any value is a tracer, or if JAX is tracing the current operations."""
    return not is_concrete(jnp.zeros(()), *values)


def shape_of(value: Any) -> tuple[int, ...]:
    """Shape of an array-like value, without a copy."""
    return tuple(np.shape(value))


def as_float(name: str, value: Any) -> jax.Array:
    """Convert to a floating-point array; products of bytes or integers would overflow."""
    array = jnp.asarray(value)
    if jnp.issubdtype(array.dtype, jnp.floating):
        return array
    if jnp.issubdtype(array.dtype, jnp.integer):
        return array.astype(jnp.result_type(float))
    raise ValueError(f"{name} must hold real numbers, got dtype {array.dtype}.")


def as_precise(name: str, value: Any) -> jax.Array:
    """Convert to an array of float32 or wider, the types that decompositions support."""
    array = as_float(name, value)
    return array if jnp.finfo(array.dtype).bits >= 32 else array.astype(jnp.float32)


def as_floats(*values: Any) -> list[jax.Array]:
    """Convert to arrays of one common floating dtype; Python numbers do not widen it."""
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
    """Raise if JAX would replace this dtype by a narrower one: float64 without x64."""
    if jax.dtypes.canonicalize_dtype(dtype) != jnp.dtype(dtype):
        raise ValueError(f"dtype = {jnp.dtype(dtype)} needs x64 enabled{otherwise}.")


def require_shape(name: str, value: Any, shape: tuple[int, ...], what: str = "") -> None:
    """Raise if `value` has another shape; `what` tells where the shape comes from."""
    if shape_of(value) != shape:
        raise ValueError(f"{name} must have shape {shape}{what}, got {shape_of(value)}.")


def require_one_shape(names: str, a: Any, b: Any, hint: str = "") -> None:
    """Raise if two arrays differ in shape."""
    if shape_of(a) != shape_of(b):
        raise ValueError(f"{names} must have one shape, got {shape_of(a)} and {shape_of(b)}{hint}.")


def require_matrix(
    name: str, value: Any, wanted: str, what: str = "", *, rows: int = -1, columns: int = -1
) -> tuple[int, int]:
    """Check that `value` is a non-empty matrix and return its shape; `wanted` describes it.

    `rows` and `columns` are the numbers that it must have, if any, and `what` tells why.
    """
    shape = shape_of(value)
    if len(shape) != 2:
        raise ValueError(f"{name} must be a matrix of shape {wanted}, got shape {shape}.")
    if 0 in shape:
        raise ValueError(f"{name} is empty: shape {shape}, wanted {wanted} with every size >= 1.")
    if rows not in (-1, shape[0]) or columns not in (-1, shape[1]):
        raise ValueError(f"{name} must have shape {wanted}{what}, got {shape}.")
    return shape


def precise_matrix(name: str, value: Any, wanted: str, *, least: int = 1) -> jax.Array:
    """Check a finite matrix of at least `least` rows, and convert it to float32 or wider."""
    rows, _ = require_matrix(name, value, wanted)
    if rows < least:
        raise ValueError(f"{name} must have at least {least} rows, got {rows}.")
    require_finite(name, value)
    return as_precise(name, value)


def views_of_one_shape(views: Sequence[Any]) -> list[jax.Array]:
    """Check one or more finite matrices of one shape, and convert them to one dtype."""
    shapes = [require_matrix(f"views[{v}]", view, "(n, p)") for v, view in enumerate(views)]
    for v, shape in enumerate(shapes):
        if shape != shapes[0]:
            raise ValueError(
                f"views must have one shape (n, p), got {shapes[0]} for views[0] and {shape} for "
                f"views[{v}]."
            )
        require_finite(f"views[{v}]", views[v])
    return as_floats(*(as_precise(f"views[{v}]", view) for v, view in enumerate(views)))


def require_same_samples(a: Any, b: Any, what: str) -> None:
    """Check that `a` and `b` are matrices with the same number of rows, one for each sample."""
    rows, _ = require_matrix("a", a, "(n, d)")
    others, _ = require_matrix("b", b, "(n, k)")
    if rows != others:
        raise ValueError(
            f"a and b hold {what} of the same samples, one row each: got {rows} and {others} rows."
        )


def require_vector(name: str, value: Any, wanted: str, *, least: int = 1) -> None:
    """Check that `value` is a vector of at least `least` numbers."""
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


def require_scalar(name: str, value: Any, **bounds: float) -> None:
    """Raise if `value` is not a scalar, or if a concrete value is outside the bounds."""
    if isinstance(value, Mapping | str):
        raise TypeError(f"{name} must be a number, got a {type(value).__name__}.")
    shape = shape_of(value)
    if shape != ():
        raise ValueError(f"{name} must be a number, got shape {shape}.")
    require_within(name, value, **bounds)


def require_symmetric(name: str, value: Any, hint: str = "") -> None:
    """Raise if a matrix is not square, or if its concrete values are not finite and symmetric."""
    rows, columns = require_matrix(name, value, "(m, m)")
    if rows != columns:
        raise ValueError(f"{name} must be square, of shape (m, m), got shape {(rows, columns)}.")
    require_finite(name, value)
    require_transpose(name, value, value, hint)


def require_transpose(
    name: str, value: Any, other: Any, hint: str = "", *, beside: Any = 0.0
) -> None:
    """Raise if a concrete `value` is not the transpose of `other`, up to rounding.

    Rounding is relative to the largest entry of `value` and `beside`. If both arguments are blocks
    of a matrix, `beside` holds the block with its largest entries.
    """
    if not is_concrete(value, other):
        return
    with jax.ensure_compile_time_eval():
        eps = float(jnp.finfo(as_float(name, value).dtype).eps)
        matrices = (as_precise(name, array) for array in (value, other, beside))
        gap, scale = (float(number) for number in _asymmetry(*matrices))
    # Two sums of n products, accumulated in float32 or wider, differ by about sqrt(n) eps: 1e3 eps
    # admit n of a million. Rounding to the matrix's own type adds one eps of that type, and a power
    # or an exponential of the sums adds a few.
    admitted = 1e3 * min(eps, float(jnp.finfo(jnp.float32).eps)) + 4 * eps
    if gap > admitted * scale:
        raise ValueError(
            f"{name} must be symmetric: it differs from its transpose by up to {gap:.3g} where its "
            f"largest entry is {scale:.3g}.{hint}"
        )


@jax.jit
def _asymmetry(matrix: jax.Array, other: jax.Array, beside: jax.Array) -> tuple[Any, Any]:
    """Return max |matrix - other^T|, and the largest entry of `matrix` and `beside`."""
    largest = jnp.abs(matrix).max(), jnp.abs(beside).max().astype(matrix.dtype)
    return jnp.abs(matrix - other.T).max(), jnp.maximum(*largest)


def require_one_of(name: str, value: Any, allowed: Iterable[Any]) -> None:
    """Raise if the value is not among the allowed ones."""
    allowed = tuple(allowed)
    if value not in allowed:
        raise ValueError(f"{name} must be one of {', '.join(map(repr, allowed))}, got {value!r}.")


def require_increasing(name: str, values: Any, *, strict: bool = True) -> None:
    """Raise if a concrete sequence does not increase; repeats are allowed if not `strict`."""
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


def require_within(name: str, value: Any, **bounds: float) -> None:
    """Raise if any element of a concrete value violates a bound; `_RELATIONS` has their names."""
    if not is_concrete(value):
        return
    array = np.asarray(value)
    for kind, bound in bounds.items():
        relation, compare = _RELATIONS[kind]
        good = compare(array, bound)  # NaN fails
        if not good.all():
            shown = array.item() if array.ndim == 0 else array[~good].flat[0].item()
            raise ValueError(f"{name} must be {relation} {bound:g}, got {shown:g}.")


def require_within_on_host(name: str, value: Any, **bounds: float) -> None:
    """Check bounds in elementwise functions: pass JAX arrays, as reading one waits for a device."""
    if not isinstance(value, jax.Array):
        require_within(name, value, **bounds)


def require_key(name: str, value: Any) -> None:
    """Raise if the value is neither a typed nor a raw random key; a seed is not a key."""
    dtype = getattr(value, "dtype", None)
    if dtype is None or not (jnp.issubdtype(dtype, jax.dtypes.prng_key) or dtype == jnp.uint32):
        raise TypeError(f"{name} must be a random key, such as jax.random.key(0), got {value!r}.")


def takes(function: Callable[..., Any], *args: Any, **settings: Any) -> bool:
    """True if the signature accepts the call, or if the callable has no readable signature."""
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
    """Parameter list of a function in parentheses, without types."""
    bare = [
        each.replace(annotation=inspect.Parameter.empty)
        for each in inspect.signature(function).parameters.values()
    ]
    return str(inspect.Signature(bare))
