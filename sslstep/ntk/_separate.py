"""Test that a model maps each sample independently of the others."""

from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
from jax.tree_util import Partial
from jaxtyping import Array, PyTree

from sslstep import _check, _xla

# Number of samples in the test.
TOGETHER = 4


def require_separate(apply_fn: Partial, params: PyTree, x: Array, consts: Sequence[Any]) -> None:
    """Raise if outputs, or their derivatives by the parameters, depend on other samples.

    The test compares results for four samples at once with results for each of them alone. The
    relative tolerance is sqrt(eps), plus ten times the effect of perturbing parameters and samples
    by a relative eps.
    """
    if not _check.is_concrete(x, *consts, *jax.tree.leaves((apply_fn, params))):
        return
    with jax.ensure_compile_time_eval(), jax.default_matmul_precision("highest"):
        chosen = x[jnp.arange(TOGETHER) % len(x)]
        compiled = _xla.jit(_interaction, _xla.devices_of(chosen))
        found, rounding = (float(value) for value in compiled(apply_fn, params, chosen))
    if found > rounding:
        raise ValueError(
            f"apply_fn must map each sample independently: for {TOGETHER} samples at once, outputs "
            f"or derivatives differ from those of each sample alone by a relative {found:.2g} "
            f"(rounding explains {rounding:.1g}). Use batch norm with running averages, and no "
            f"dropout."
        )


def _interaction(apply_fn: Partial, params: PyTree, x: Array) -> tuple[Array, Array]:
    """Return the relative difference between samples together and alone, and its tolerance."""
    keys = jax.random.split(jax.random.key(0), 3)
    x = _unlike(keys[0], x)

    def together(params, x):
        return apply_fn(params, x)

    def alone(params, x):
        return jax.lax.map(lambda sample: apply_fn(params, sample[None])[0], x)

    def of(function, params, x):
        z, backward = jax.vjp(lambda params: function(params, x), params)
        cotangent = jax.random.normal(keys[1], z.shape, jnp.float32).astype(z.dtype)
        return z, backward(cotangent)[0]

    eps = _coarsest(jax.make_jaxpr(together)(params, x))
    leaves, tree = jax.tree.flatten((params, x))
    signs = jax.random.split(keys[2], len(leaves))
    rounded = [_rounded(eps, key, leaf) for key, leaf in zip(signs, leaves, strict=True)]
    pairs = [jnp.stack(pair) for pair in zip(leaves, rounded, strict=True)]
    twice = jax.lax.map(lambda leaves: of(alone, *jax.tree.unflatten(tree, leaves)), pairs)
    expected, moved = (jax.tree.map(lambda leaf, i=i: leaf[i], twice) for i in (0, 1))
    apart = zip(of(together, params, x), moved, expected, strict=True)
    found, noise = jnp.array([(_apart(a, c), _apart(b, c)) for a, b, c in apart]).T
    allowed = eps**0.5 + 10 * noise
    worst = jnp.argmax(found / allowed)
    return found[worst], allowed[worst]


def _unlike(key: Array, x: Array) -> Array:
    """Make samples distinct, even equal ones: scale floats at random, shift other types."""
    if not jnp.issubdtype(x.dtype, jnp.floating):
        shifts = [jnp.roll(sample.ravel(), place) for place, sample in enumerate(x)]
        return jnp.stack(shifts).reshape(x.shape)
    factors = jax.random.uniform(key, x.shape, jnp.float32, 0.5, 1.0).astype(x.dtype)
    return jnp.where(jnp.any(x != 0), x * factors, factors)


def _rounded(eps: float, key: Array, leaf: Array) -> Array:
    if not jnp.issubdtype(leaf.dtype, jnp.floating):
        return leaf
    change = eps * jax.random.rademacher(key, leaf.shape, jnp.float32)
    dtype = jnp.float64 if leaf.dtype == jnp.float64 else jnp.float32
    return (leaf.astype(dtype) * (1 + change.astype(dtype))).astype(leaf.dtype)


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
    """Largest eps among the floating types in a program."""
    return max(float(jnp.finfo(dtype).eps) for dtype in _dtypes(program.jaxpr))


def _dtypes(jaxpr: Any) -> set[Any]:
    variables = [*jaxpr.invars, *(var for equation in jaxpr.eqns for var in equation.outvars)]
    dtypes = {getattr(var.aval, "dtype", None) for var in variables}
    dtypes = {d for d in dtypes if d is not None and jnp.issubdtype(d, jnp.floating)}
    for equation in jaxpr.eqns:
        for inner in jax.tree.leaves(
            list(equation.params.values()), is_leaf=lambda node: hasattr(node, "eqns")
        ):
            if hasattr(inner, "eqns"):
                dtypes |= _dtypes(inner)
    return dtypes
