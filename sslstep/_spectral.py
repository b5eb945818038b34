r"""Spectral functions of C (Appendix G): transformations g of its eigenvalues, and traces of φ(C).

The losses of a batch and the landscapes of one mode use these functions.
"""

from collections.abc import Callable
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
from jax.custom_derivatives import SymbolicZero
from jax.typing import ArrayLike
from jaxtyping import Array

from sslstep import _check
from sslstep._linalg import matmul

Scalar = Callable[[Array], Array]


def sharpen(eigenvalue: ArrayLike, softening: ArrayLike = 1e-4) -> Array:
    r"""Softened square root g of an eigenvalue, which sharpens Barlow Twins' loss near zero (G.2).

    .. math:: g(\lambda) = \operatorname{sign}(\lambda)\,
        \frac{\sqrt{|\lambda| + \delta} - \sqrt\delta}{\sqrt{1 + \delta} - \sqrt\delta}

    Its slope at zero is about :math:`1 / 2\sqrt\delta` for small δ, and :math:`g(1) = 1`.
    :func:`~sslstep.losses.sharpened_barlow_twins` uses it. Compose it with other functions to build
    your own transformation.

    Args:
        eigenvalue: λ, any shape.
        softening: δ ≥ 0; traced.

    Returns:
        g(λ), same shape.

    Example:
        >>> import jax.numpy as jnp
        >>> from functools import partial
        >>> from sslstep import losses
        >>> def both(x):  # sharpen below 1, smooth above
        ...     return losses.smooth(losses.sharpen(x, 1e-3), leak=0.1)
        >>> loss_fn = partial(losses.spectral_barlow_twins, transform=both, batch_norm=False)
        >>> both(jnp.array([0.0, 0.25, 1.0, 4.0])).round(2)
        Array([0.  , 0.48, 1.  , 0.9 ], dtype=float32)
    """
    eigenvalue = _check.as_float("eigenvalue", eigenvalue)
    delta = jnp.asarray(softening, eigenvalue.dtype)
    squared = jnp.abs(eigenvalue) + delta
    squared = jnp.where(squared > 0, squared, 1)  # λ = δ = 0, where g = 0
    # The quotient above, rationalised: no difference of nearly equal numbers.
    ends = (jnp.sqrt(1 + delta) + jnp.sqrt(delta)) / (jnp.sqrt(squared) + jnp.sqrt(delta))
    return eigenvalue * ends


def smooth(eigenvalue: ArrayLike, leak: ArrayLike = 0.0) -> Array:
    r"""Leaky clipping g of an eigenvalue at 1, which flattens Barlow Twins' loss above 1 (G.3).

    .. math:: g(\lambda) = \min\big(\lambda,\; 1 + \varepsilon (1 - \lambda)\big)

    At λ = 1 the derivative is that from below, 1.
    :func:`~sslstep.losses.smoothed_barlow_twins` uses it.

    Args:
        eigenvalue: λ, any shape.
        leak: ε ≥ 0; traced.

    Returns:
        g(λ), same shape.

    Example:
        >>> import jax.numpy as jnp
        >>> from sslstep import losses
        >>> losses.smooth(jnp.array([0.5, 1.0, 3.0]), leak=0.1)
        Array([0.5, 1. , 0.8], dtype=float32)
    """
    eigenvalue = _check.as_float("eigenvalue", eigenvalue)
    epsilon = jnp.asarray(leak, eigenvalue.dtype)
    return jnp.where(eigenvalue > 1, 1 + epsilon * (1 - eigenvalue), eigenvalue)


def flatten(eigenvalue: Array, width: ArrayLike) -> Array:
    """Map [1 - w, 1 + w] to 1, and move λ outside this interval towards 1 by w."""
    w = jnp.asarray(width, eigenvalue.dtype)
    rest = eigenvalue - 1
    return 1 + jnp.where(rest > w, rest - w, jnp.where(rest < -w, rest + w, 0))


def square(eigenvalue: Array) -> Array:
    """Return g(λ) = λ (2 - λ), for which (g - 1)² = (1 - λ)⁴."""
    return eigenvalue * (2 - eigenvalue)


def squared_distance(transform: Scalar) -> Scalar:
    """Return the function φ(λ) = (g(λ) - 1)² for g = `transform`."""
    return lambda eigenvalue: (transform(eigenvalue) - 1) ** 2


def trace(function: Scalar, matrix: Array) -> Array:
    r"""Return Σ φ(λ_i) over the eigenvalues of a symmetric matrix, for φ = `function`.

    The gradient V φ'(λ) Vᵀ, with V the eigenvectors, and the second derivative, from divided
    differences of φ', are finite and exact at repeated eigenvalues. `function` may close over
    traced numbers, and the trace is differentiable by them.
    """
    converted, constants = jax.closure_convert(function, matrix[0, 0])
    return _trace(partial(_spread, converted), matrix, tuple(constants))


def _spread(function, x, args):
    return function(x, *args)


def _slope(function, x, args):
    return jax.grad(function)(x, args)


def _change(function, x, args):
    """Return the derivative of φ along the tangents of all its arguments except x."""
    args, tangents = args
    return jax.jvp(partial(function, x), (args,), (tangents,))[1]


def _map(function, x, args):
    return jax.vmap(function, (0, None))(x, args)


# The next two functions take every traced value as an argument; `function` closes over none.
@partial(jax.custom_jvp, nondiff_argnums=(0,))
def _trace(function, matrix, args):
    return jnp.sum(_map(function, jnp.linalg.eigvalsh(matrix), args))


@partial(_trace.defjvp, symbolic_zeros=True)
def _trace_jvp(function, primals, tangents):
    (matrix, args), (matrix_dot, args_dot) = primals, tangents
    value, gradient = _value_and_gradient(function, matrix, args)
    tangent = jnp.zeros_like(value)
    if not _is_zero(matrix_dot):
        tangent += jnp.sum(gradient * matrix_dot)
    if (moving := _moving(args, args_dot)) is not None:
        tangent += _trace(partial(_change, function), matrix, moving)
    return value, tangent


@partial(jax.custom_jvp, nondiff_argnums=(0,))
def _value_and_gradient(function, matrix, args):
    eigenvalues, vectors = jnp.linalg.eigh(matrix)
    slopes = _map(partial(_slope, function), eigenvalues, args)
    return jnp.sum(_map(function, eigenvalues, args)), matmul(vectors * slopes[None], vectors.T)


@partial(_value_and_gradient.defjvp, symbolic_zeros=True)
def _value_and_gradient_jvp(function, primals, tangents):
    (matrix, args), (matrix_dot, args_dot) = primals, tangents
    eigenvalues, vectors = jnp.linalg.eigh(matrix)
    slope = partial(_slope, function)
    gradient = matmul(vectors * _map(slope, eigenvalues, args)[None], vectors.T)
    value = jnp.sum(_map(function, eigenvalues, args))
    value_dot, gradient_dot = jnp.zeros_like(value), jnp.zeros_like(matrix)
    if not _is_zero(matrix_dot):
        value_dot += jnp.sum(gradient * matrix_dot)
        inner = matmul(matmul(vectors.T, (matrix_dot + matrix_dot.T) / 2), vectors)
        inner = _divided_differences(slope, eigenvalues, args) * inner
        gradient_dot += matmul(matmul(vectors, inner), vectors.T)
    if (moving := _moving(args, args_dot)) is not None:
        changes = _value_and_gradient(partial(_change, function), matrix, moving)
        value_dot, gradient_dot = value_dot + changes[0], gradient_dot + changes[1]
    return (value, gradient), (value_dot, gradient_dot)


def _is_zero(tangent):
    return isinstance(tangent, SymbolicZero)


def _moving(args, tangents):
    """Return the arguments and their tangents, with arrays for symbolic zeros.

    Return None if all tangents are symbolic zeros.
    """
    leaves, structure = jax.tree.flatten(args)
    dots = jax.tree.leaves(tangents, is_leaf=_is_zero)
    if all(map(_is_zero, dots)):
        return None
    dots = [
        jnp.zeros_like(x) if _is_zero(dot) else dot for x, dot in zip(leaves, dots, strict=True)
    ]
    return args, jax.tree.unflatten(structure, dots)


def _divided_differences(slope: Callable[..., Array], eigenvalues: Array, args: Any) -> Array:
    """Return (h(λ_i) - h(λ_j)) / (λ_i - λ_j) for h = `slope`; for close eigenvalues the mean h'."""
    eps = float(jnp.finfo(eigenvalues.dtype).eps)
    values = _map(slope, eigenvalues, args)
    low, high = eigenvalues[None, :], eigenvalues[:, None]
    gaps, size = high - low, jnp.abs(high) + jnp.abs(low)
    # Eigenvalues are known to a few eps of the largest; the quadrature's error is of order gap^6.
    near = jnp.abs(gaps) <= jnp.maximum(eps ** (1 / 3) * size, 100 * eps * jnp.max(size))
    differences = (values[:, None] - values[None, :]) / jnp.where(near, 1, gaps)

    def curvature(x):
        flat = _map(jax.grad(slope), x.reshape(-1), args)
        return flat.reshape(x.shape)

    # Three-point Gauss-Legendre quadrature.
    offset = gaps * (0.6**0.5 / 2)
    middle = (low + high) / 2
    mean = (5 * curvature(middle - offset) + 5 * curvature(middle + offset)) / 18
    return jnp.where(near, mean + 8 * curvature(middle) / 18, differences)
