"""Transpose convolutions in loops to the order of axes for which XLA:CPU has fast code.

XLA:CPU transposes convolutions to this order itself, except in the bodies of loops and
conditionals. Gradients of convolutions have other orders, and there take up to 200 times as long
(docs/benchmarks.md). This module inserts the missing transpositions.
"""

from collections.abc import Callable
from functools import wraps
from typing import Any

import jax
from jax import lax
from jax.extend import core
from jax.extend.core import primitives

from sslstep import _check

_Jaxpr = core.Jaxpr | core.ClosedJaxpr


def in_order(function: Callable[..., Any]) -> Callable[..., Any]:
    """Return the function to compile for CPU, with transposed convolutions in its loops.

    Values change only by rounding. Differentiate before the conversion: gradients of the result
    have JAX's order of axes again. If no argument is traced, as when JAX searches for the origin of
    a NaN, the function is called unchanged.
    """

    @wraps(function)
    def ordered(*args, **kwargs):
        leaves = jax.tree.leaves((args, kwargs))
        if not _check.is_traced(*leaves):
            return function(*args, **kwargs)
        program, out = jax.make_jaxpr(function, return_shape=True)(*args, **kwargs)
        rewritten = _rewritten(program.jaxpr, False, {})
        values = jax.core.eval_jaxpr(rewritten, program.consts, *leaves)
        return jax.tree.unflatten(jax.tree.structure(out), values)

    return ordered


def _rewritten(program: Any, in_loop: bool, known: dict[tuple[int, bool], Any]) -> Any:
    """Rewrite a program (jaxpr), recursively; `known` maps programs to their rewritten forms.

    An unchanged program is returned as the same object, and all calls of one program share one
    rewritten object, because JAX lowers each object once.
    """
    key = id(program), in_loop
    if key not in known:
        body = getattr(program, "jaxpr", program)
        if body is not program:  # before JAX 0.12: a closed jaxpr, with its constants
            new = _rewritten(body, in_loop, known)
            known[key] = program if new is body else program.replace(jaxpr=new)
        else:
            before = list(program.eqns)
            after = [new for old in before for new in _equations(old, in_loop, known)]
            same = list(map(id, before)) == list(map(id, after))
            known[key] = program if same else program.replace(eqns=after)
    return known[key]


def _equations(equation: Any, in_loop: bool, known: dict[tuple[int, bool], Any]) -> list[Any]:
    """Return the equations that replace an equation."""
    name, params = equation.primitive.name, equation.params
    if name == "conv_general_dilated":
        return _transposed(equation) if in_loop else [equation]
    # A conditional on the platform is decided while compiling.
    conditional = name == "cond" and params.get("branches_platforms") is None
    in_loop = in_loop or conditional or name in ("scan", "while")

    def inner(value: Any) -> Any:
        return _rewritten(value, in_loop, known) if isinstance(value, _Jaxpr) else value

    changed = {}
    for key, value in params.items():
        parts, tree = jax.tree.flatten(value, is_leaf=lambda part: isinstance(part, _Jaxpr))
        new = list(map(inner, parts))
        if list(map(id, new)) != list(map(id, parts)):
            changed[key] = jax.tree.unflatten(tree, new)
    return [equation.replace(params=params | changed)] if changed else [equation]


def _transposed(equation: Any) -> list[Any]:
    """Return equations for the convolution with transposed operands.

    The orders are (batch, space, channels) and, for the kernel, (window, channels in, channels
    out).
    """
    numbers = equation.params["dimension_numbers"]
    lhs, rhs, out = (channels_last(spec) for spec in numbers)
    rhs = (*rhs[1:], rhs[0])  # a kernel's first axis is its channels out
    num = len(out)
    in_place = tuple(range(num))
    (x, kernel), (y,) = equation.invars, equation.outvars
    # For depthwise convolutions XLA's general code is faster.
    depthwise = equation.params["feature_group_count"] > 1 and kernel.aval.shape[rhs[-2]] == 1
    if lhs == rhs == out == in_place or depthwise:
        return [equation]
    spec = (0, num - 1, *range(1, num - 1))
    ordered = lax.ConvDimensionNumbers(spec, (num - 1, num - 2, *range(num - 2)), spec)
    moved_x, moved_kernel, moved_y = _moved(x, lhs), _moved(kernel, rhs), _moved(y, out)
    convolution = equation.replace(
        invars=[moved_x, moved_kernel],
        outvars=[moved_y],
        params=equation.params | {"dimension_numbers": ordered},
    )
    back = tuple(out.index(axis) for axis in in_place)
    return [
        _transposition(equation, x, lhs, moved_x),
        _transposition(equation, kernel, rhs, moved_kernel),
        convolution,
        _transposition(equation, moved_y, back, y),
    ]


def _transposition(equation: Any, source: Any, axes: tuple[int, ...], target: Any) -> Any:
    return equation.replace(
        primitive=primitives.transpose_p,
        params={"permutation": axes},
        invars=[source],
        outvars=[target],
    )


def _moved(var: Any, axes: tuple[int, ...]) -> Any:
    """Return a new variable of the type of `var`, with permuted axes."""
    aval = var.aval
    spec = jax.sharding.PartitionSpec(*(aval.sharding.spec[axis] for axis in axes))
    shape = tuple(aval.shape[axis] for axis in axes)
    return core.Var(aval.update(shape=shape, sharding=aval.sharding.update(spec=spec)))


def channels_last(spec: tuple[int, ...]) -> tuple[int, ...]:
    """Reorder a specification of axes from (batch, channels, space) to (batch, space, channels).

    The axes of a kernel are reordered from (channels out, channels in, window) to (channels out,
    window, channels in).
    """
    return (spec[0], *spec[2:], spec[1])
