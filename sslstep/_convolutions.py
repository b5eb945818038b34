"""Convolutions in the bodies of loops, with their axes in the order XLA's CPU has fast code for.

XLA:CPU brings the axes of a program's convolutions into that order, but not in the bodies of its
loops and conditionals. There the gradients that JAX derives, whose axes come in others, take up to
200 times as long (docs/benchmarks.md). So the same transpositions are made here.
"""

from collections.abc import Callable
from functools import wraps
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax
from jax.extend import core

_Jaxpr = core.Jaxpr | core.ClosedJaxpr


def in_order(function: Callable[..., Any]) -> Callable[..., Any]:
    """The function to compile for CPU, traced and its loops rewritten; the rest stays as it is.

    Its values are the same. Differentiate before: gradients of the result are in JAX's order.
    """

    @wraps(function)
    def ordered(*args, **kwargs):
        program, out = jax.make_jaxpr(function, return_shape=True)(*args, **kwargs)
        values = jax.core.eval_jaxpr(
            _rewritten(program.jaxpr, False), program.consts, *jax.tree.leaves((args, kwargs))
        )
        return jax.tree.unflatten(jax.tree.structure(out), values)

    return ordered


def _rewritten(program: Any, in_loop: bool) -> Any:
    body = getattr(program, "jaxpr", program)
    if body is not program:  # before JAX 0.12, where it comes with its constants
        return program.replace(jaxpr=_rewritten(body, in_loop))
    return program.replace(eqns=[_equation(equation, in_loop) for equation in program.eqns])


def _equation(equation: Any, in_loop: bool) -> Any:
    name, params = equation.primitive.name, equation.params
    if name == "conv_general_dilated":
        return _transposed(equation) if in_loop else equation
    # A conditional on the platform is decided while compiling.
    conditional = name == "cond" and params.get("branches_platforms") is None
    in_loop = in_loop or conditional or name in ("scan", "while")

    def inner(value: Any) -> Any:
        return _rewritten(value, in_loop) if isinstance(value, _Jaxpr) else value

    def of_param(value: Any) -> Any:
        return jax.tree.map(inner, value, is_leaf=lambda leaf: isinstance(leaf, _Jaxpr))

    return equation.replace(params={key: of_param(value) for key, value in params.items()})


def _transposed(equation: Any) -> Any:
    """The convolution of (batch, space, channels) with (window, channels in, channels out)."""
    numbers = equation.params["dimension_numbers"]
    lhs, rhs, out = (_last(spec) for spec in numbers)
    rhs = (*rhs[1:], rhs[0])  # a kernel's first axis is its channels out
    num = len(out)
    in_place = tuple(range(num))
    if lhs == rhs == out == in_place:
        return equation
    spec = (0, num - 1, *range(1, num - 1))
    kernel_spec = (num - 1, num - 2, *range(num - 2))
    ordered = lax.ConvDimensionNumbers(spec, kernel_spec, spec)

    def convolution(x, kernel):
        x, kernel = jnp.transpose(x, lhs), jnp.transpose(kernel, rhs)
        params = equation.params | {"dimension_numbers": ordered}
        y = equation.primitive.bind(x, kernel, **params)
        return jnp.transpose(y, [out.index(axis) for axis in in_place])

    shapes = (jax.ShapeDtypeStruct(v.aval.shape, v.aval.dtype) for v in equation.invars)
    (call,) = jax.make_jaxpr(jax.jit(convolution))(*shapes).eqns
    return call.replace(invars=equation.invars, outvars=equation.outvars)


def _last(spec: tuple[int, ...]) -> tuple[int, ...]:
    """The axes in the order batch, space, channels; of a kernel: channels out, window, in."""
    return (spec[0], *spec[2:], spec[1])
