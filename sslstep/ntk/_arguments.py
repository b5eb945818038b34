"""Checks and conversions of the arguments of empirical kernels.

Among them is a test that a model maps each sample independently of the others.
"""

import sys
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.tree_util import Partial
from jax.typing import ArrayLike, DTypeLike
from jaxtyping import Array, PyTree

from sslstep import _check, _xla
from sslstep.ntk import _program

# Number of samples in the test that the model maps samples independently.
TOGETHER = 4


def samples(name: str, value: ArrayLike) -> Array:
    if isinstance(value, Mapping | str) or value is None:
        raise TypeError(f"{name} must be one array of samples, got a {type(value).__name__}.")
    try:
        array: Any = value if hasattr(value, "dtype") else np.asarray(value)
    except ValueError:
        raise ValueError(
            f"{name} must hold samples of one shape, got rows of different shapes."
        ) from None
    if not (jnp.issubdtype(array.dtype, jnp.number) or array.dtype == bool):
        raise TypeError(f"{name} must be an array of numbers, got dtype {array.dtype}.")
    if not array.shape or 0 in array.shape:
        raise ValueError(
            f"{name} must hold samples, shape (n, ...) with n >= 1, got shape {array.shape}."
        )
    _check.require_finite(name, array)
    return jnp.asarray(array)


def both_samples(x1: ArrayLike, x2: ArrayLike | None) -> tuple[Array, Array]:
    """Check and convert both sets of samples; ``x2=None`` stands for x1."""
    first = samples("x1", x1)
    if x2 is None:
        return first, first
    second = samples("x2", x2)
    for what, a, b in (
        ("shape", first.shape[1:], second.shape[1:]),
        ("dtype", first.dtype, second.dtype),
    ):
        if a != b:
            raise ValueError(f"samples of x1 and x2 must have the same {what}, got {a} and {b}.")
    return first, second


def _parameters(params: PyTree) -> PyTree:
    """Check that `params` holds floating-point parameters only, and convert them to arrays."""
    leaves = jax.tree_util.tree_leaves_with_path(params)
    if not leaves:
        raise ValueError("params holds no arrays.")
    _require_no_collections([path for path, _ in leaves])
    nnx: Any = sys.modules.get("flax.nnx")  # not imported: there are no variables of its types
    kinds = () if nnx is None else (nnx.BatchStat, nnx.Cache, nnx.Intermediate, nnx.RngState)
    for node in jax.tree.leaves(params, is_leaf=lambda node: isinstance(node, kinds)):
        if isinstance(node, kinds):
            raise ValueError(
                f"params holds a {type(node).__name__} of flax.nnx, which is not a parameter: "
                f"split the model with nnx.split(model, nnx.Param, ...), and bind the rest to "
                f"apply_fn."
            )
    for path, leaf in leaves:
        dtype = getattr(leaf, "dtype", None)
        if dtype is None and isinstance(leaf, float | int | complex):
            dtype = jnp.result_type(leaf)
        if dtype is None or not jnp.issubdtype(dtype, jnp.floating):
            found = f"is a {type(leaf).__name__}" if dtype is None else f"has dtype {dtype}"
            raise ValueError(
                f"params must hold floating-point arrays: params{jax.tree_util.keystr(path)} "
                f"{found}. Bind arrays that are not parameters to apply_fn."
            )
    if not any(np.size(leaf) for _, leaf in leaves):
        raise ValueError("params holds no numbers: all its arrays are of size 0.")
    return jax.tree.map(jnp.asarray, params)


def _require_no_collections(paths: Sequence[tuple[Any, ...]]) -> None:
    """Raise if a dictionary holds 'params' beside other keys, like flax variables."""
    names = [tuple(getattr(entry, "key", entry) for entry in path) for path in paths]
    for path in names:
        for depth, name in enumerate(path):
            if name != "params":
                continue
            beside = {o[depth] for o in names if len(o) > depth and o[:depth] == path[:depth]}
            others = ", ".join(sorted(repr(other) for other in beside - {"params"}))
            if others:
                raise ValueError(
                    f"params holds {others} beside 'params', like flax variables, and the kernel "
                    f"would treat all of them as parameters. Give variables['params'] and bind the "
                    f"rest to apply_fn with jax.tree_util.Partial. If all are parameters, rename "
                    f"the entry 'params'."
                )


def model(apply_fn: Callable[..., Any], params: PyTree, x: Array) -> tuple[Partial, PyTree, int]:
    """Check and convert a model and its parameters; return both and the output dimension d.

    The model must map n samples to shape (n, d).
    """
    params = _parameters(params)
    dim = _output_dim(apply_fn, params, x, 1)
    if dim != _output_dim(apply_fn, params, x, TOGETHER):
        raise ValueError("apply_fn must return shape (n, d) with d independent of n.")
    if dim == 0:
        raise ValueError("apply_fn must return embeddings of shape (n, d), got d = 0.")
    return _xla.as_partial(apply_fn), params, dim


def _output_dim(apply_fn: Callable[..., Any], params: PyTree, x: Array, num: int) -> int:
    given = jax.ShapeDtypeStruct((num, *x.shape[1:]), x.dtype)
    try:
        out = jax.eval_shape(apply_fn, params, given)
    except Exception as error:
        shape, dtype = given.shape, given.dtype
        error.add_note(f"Raised by apply_fn(params, x) with x of shape {shape} and {dtype}.")
        raise
    if not hasattr(out, "shape"):
        hint = " Select one of its arrays." if isinstance(out, tuple | list | Mapping) else ""
        raise TypeError(
            f"apply_fn must return one array of shape (n, d), got a {type(out).__name__}.{hint}"
        )
    if len(out.shape) != 2 or out.shape[0] != num:
        given_num = "one sample" if num == 1 else f"{num} samples"
        raise ValueError(
            f"apply_fn must return embeddings of shape (n, d): for {given_num} of shape "
            f"{x.shape[1:]} it returned shape {out.shape}."
        )
    if not jnp.issubdtype(out.dtype, jnp.floating):
        raise ValueError(f"apply_fn must return floating-point numbers, got dtype {out.dtype}.")
    return out.shape[1]


def num_bytes(name: str, value: Any) -> int:
    """Convert a number of bytes, such as 2e9, to an integer."""
    _check.require_scalar(name, value)
    if isinstance(value, bool) or not np.issubdtype(np.asarray(value).dtype, np.number):
        raise TypeError(f"{name} must be a number of bytes, got {value!r}.")
    if not np.isreal(value) or not 1 <= value < float("inf"):
        raise ValueError(f"{name} must be a number of bytes, at least 1, got {value!r}.")
    return int(value)


def blocks(x: Array, batch_size: int) -> Array:
    """Split samples into blocks of equal size, padding the last block with the last sample."""
    num = -(-len(x) // batch_size)
    filler = jnp.broadcast_to(x[-1:], (num * batch_size - len(x), *x.shape[1:]))
    return jnp.concatenate([x, filler]).reshape(num, batch_size, *x.shape[1:])


def accumulator(dtype: DTypeLike | None, params: PyTree) -> np.dtype:
    """Dtype of sums: the given one, or the widest dtype of the parameters and float32."""
    widest = max((jnp.result_type(leaf) for leaf in jax.tree.leaves(params)), key=_bits)
    if dtype is None:
        return np.dtype(widest if _bits(widest) >= 32 else np.float32)
    if not jnp.issubdtype(dtype, jnp.floating) or _bits(dtype) < 32:
        raise ValueError(f"dtype must be float32 or float64, got {jnp.dtype(dtype)}.")
    _check.require_available(dtype)
    return np.dtype(dtype)


def _bits(dtype: DTypeLike) -> int:
    return int(jnp.finfo(dtype).bits)


def require_count(name: str, value: Any) -> None:
    """Raise if the value is not an integer of at least 1."""
    if isinstance(value, bool) or not isinstance(value, int | np.integer):
        raise ValueError(f"{name} must be a whole number, got {value!r}.")
    _check.require_within(name, value, at_least=1)


def require_separate(apply_fn: Partial, params: PyTree, x: Array, consts: Sequence[Any]) -> None:
    """Raise if outputs, or their derivatives by the parameters, depend on other samples.

    The test compares results for four samples at once with results for each of them alone. The
    relative tolerance is sqrt(eps), plus ten times the effect of perturbing parameters and samples
    by a relative eps.
    """
    if not _check.is_concrete(x, *consts, *jax.tree.leaves((apply_fn, params))):
        return
    with jax.ensure_compile_time_eval(), jax.default_matmul_precision("highest"):
        chosen, key = x[jnp.arange(TOGETHER) % len(x)], jax.random.key(0)
        compiled = _xla.jit(_interaction, _xla.devices_of(chosen))
        found, rounding = (float(value) for value in compiled(apply_fn, params, chosen, key))
    if found > rounding:
        raise ValueError(
            f"apply_fn must map each sample independently: for {TOGETHER} samples at once, outputs "
            f"or derivatives differ from those of each sample alone by a relative {found:.2g} "
            f"(rounding explains {rounding:.1g}). Use batch norm with running averages, and no "
            f"dropout."
        )


def _interaction(apply_fn: Partial, params: PyTree, x: Array, key: Array) -> tuple[Array, Array]:
    """Return the relative difference between samples together and alone, and its tolerance."""
    keys = jax.random.split(key, 3)
    x = _unlike(keys[0], x)

    def alone(params, x):
        return jax.lax.map(lambda sample: apply_fn(params, sample[None])[0], x)

    def of(function, params, x):
        z, backward = jax.vjp(lambda params: function(params, x), params)
        cotangent = jax.random.normal(keys[1], z.shape, jnp.float32).astype(z.dtype)
        return z, backward(cotangent)[0]

    eps = _coarsest(jax.make_jaxpr(apply_fn)(params, x).jaxpr)
    leaves, tree = jax.tree.flatten((params, x))
    ends = np.cumsum([leaf.size for leaf in leaves])
    signs = jnp.split(jax.random.rademacher(keys[2], (ends[-1],), jnp.float32), ends[:-1])
    rounded = [_rounded(eps, own, leaf) for own, leaf in zip(signs, leaves, strict=True)]
    pairs = [jnp.stack(pair) for pair in zip(leaves, rounded, strict=True)]
    twice = jax.lax.map(lambda leaves: of(alone, *jax.tree.unflatten(tree, leaves)), pairs)
    expected, moved = (jax.tree.map(lambda leaf, i=i: leaf[i], twice) for i in (0, 1))
    apart = zip(of(apply_fn, params, x), moved, expected, strict=True)
    found, noise = jnp.array([(_apart(a, c), _apart(b, c)) for a, b, c in apart]).T
    allowed = eps**0.5 + 10 * noise
    worst = jnp.argmax(found / allowed)
    return found[worst], allowed[worst]


def _unlike(key: Array, x: Array) -> Array:
    """Make samples distinct, even equal ones: scale floats at random, shift other types."""
    if not jnp.issubdtype(x.dtype, jnp.floating):
        shifts = [jnp.roll(sample.ravel(), place) for place, sample in enumerate(x)]
        return jnp.stack(shifts).reshape(x.shape)
    # Flat draws compile in a tenth of the time of draws with four axes.
    factors = jax.random.uniform(key, (x.size,), jnp.float32, 0.5, 1.0)
    factors = factors.reshape(x.shape).astype(x.dtype)
    return jnp.where(jnp.any(x != 0), x * factors, factors)


def _rounded(eps: float, signs: Array, leaf: Array) -> Array:
    """Change each number of an array by a relative ±eps; `signs` are flat."""
    if not jnp.issubdtype(leaf.dtype, jnp.floating):
        return leaf
    dtype = jnp.float64 if leaf.dtype == jnp.float64 else jnp.float32
    change = 1 + eps * signs.reshape(leaf.shape).astype(dtype)
    return (leaf.astype(dtype) * change).astype(leaf.dtype)


def _apart(a: PyTree, b: PyTree) -> Array:
    """Relative distance |a - b| / max(|a|, |b|) of two trees, over entries finite in both."""
    wide = jnp.result_type(float)
    a, b = (
        jnp.concatenate([leaf.ravel().astype(wide) for leaf in jax.tree.leaves(tree)])
        for tree in (a, b)
    )
    finite = jnp.isfinite(a) & jnp.isfinite(b)
    a, b = jnp.where(finite, a, 0.0), jnp.where(finite, b, 0.0)
    largest = jnp.maximum(jnp.abs(a).max(), jnp.abs(b).max())
    safe = jnp.where(largest > 0, largest, 1.0)
    a, b = a / safe, b / safe
    norm = jnp.maximum(jnp.linalg.norm(a), jnp.linalg.norm(b))
    return jnp.linalg.norm(a - b) / jnp.where(norm > 0, norm, 1.0)


def _coarsest(program: Any) -> float:
    """Largest eps among the floating types in a program; 0 if it has none."""
    variables = [*program.invars, *(var for equation in program.eqns for var in equation.outvars)]
    dtypes: set[Any] = {getattr(var.aval, "dtype", None) for var in variables} - {None}
    found = [float(jnp.finfo(d).eps) for d in dtypes if jnp.issubdtype(d, jnp.floating)]
    for equation in program.eqns:
        found += map(_coarsest, _program.bodies(equation))
    return max(found, default=0.0)
