r"""Similarity of two representations of one set of samples, invariant to rotation and scale.

:mod:`sslstep.measure.alignment` compares only the spans of the columns. The measures of this module
weight each direction by the variance of the samples along it. Columns are centred.
"""

import jax.numpy as jnp
from jax.typing import ArrayLike
from jaxtyping import Array, Float

from sslstep import _check
from sslstep._linalg import centred, matmul, singular_values

__all__ = ["linear_cka", "procrustes_distance"]


def linear_cka(a: Float[ArrayLike, "n d"], b: Float[ArrayLike, "n k"]) -> Float[Array, ""]:
    r"""Return the linear centred kernel alignment of two representations (Kornblith et al. 2019).

    .. math:: \frac{\|B^\top A\|_F^2}{\|A^\top A\|_F\, \|B^\top B\|_F}

    The columns of A and B are centred. The cost is O(n (d + k) max(d, k)), or O(n² (d + k)) if
    n < max(d, k). For independent Gaussian representations the value is not 0 but about
    :math:`\sqrt{dk / ((n + d)(n + k))}`, so choose n much larger than d and k.

    Args:
        a: the representation A, shape ``(n, d)``.
        b: the representation B of the samples of ``a`` in the order of ``a``, shape ``(n, k)``.

    Returns:
        A scalar in [0, 1]: 1 if A and B differ by a rotation and a scale; NaN if A or B is
        constant.

    Raises:
        ValueError: if the numbers of rows differ, a shape is empty, or values are not finite.

    Example:
        >>> import jax
        >>> from sslstep.measure import similarity
        >>> a = jax.random.normal(jax.random.key(0), (100, 3))
        >>> round(float(similarity.linear_cka(a, -2 * a[:, ::-1])), 4)
        1.0
    """
    a, b = _units(a, b)
    if a.shape[0] < max(a.shape[1], b.shape[1]):
        first, second = matmul(a, a.T), matmul(b, b.T)
        shared = jnp.sum(first * second)
    else:
        first, second = matmul(a.T, a), matmul(b.T, b)
        shared = jnp.sum(matmul(b.T, a) ** 2)
    return shared / (jnp.linalg.norm(first) * jnp.linalg.norm(second))


def procrustes_distance(a: Float[ArrayLike, "n d"], b: Float[ArrayLike, "n k"]) -> Float[Array, ""]:
    r"""Return the squared orthogonal Procrustes distance of two representations (Ding et al. 2021).

    .. math:: \min_{R^\top R = I} \|A - B R\|_F^2 = 2 - 2 \|A^\top B\|_*

    The columns of A and B are centred, each matrix is scaled to Frobenius norm 1, and the matrix
    with fewer columns is padded with zeros. The cost is O(n d k) and the singular values of a
    matrix ``(d, k)``. Two independent Gaussian representations of d < n dimensions have a distance
    of about :math:`2 - 1.7 \sqrt{d / n}`.

    Args:
        a: the representation A, shape ``(n, d)``.
        b: the representation B of the samples of ``a`` in the order of ``a``, shape ``(n, k)``.

    Returns:
        A scalar in [0, 2], up to rounding; NaN if A or B is constant.

    Raises:
        ValueError: if the numbers of rows differ, a shape is empty, or values are not finite.

    Example:
        >>> import jax
        >>> from sslstep.measure import similarity
        >>> a = jax.random.normal(jax.random.key(0), (100, 3))
        >>> bool(similarity.procrustes_distance(a, 5 * a[:, ::-1]) < 1e-5)
        True
    """
    a, b = _units(a, b)
    return 2 - 2 * jnp.sum(singular_values(matmul(a.T, b)))


def _units(a: ArrayLike, b: ArrayLike) -> list[Array]:
    """Return both matrices centred and scaled to Frobenius norm 1; NaN for a constant matrix."""
    _check.require_same_samples(a, b, "representations")
    found = []
    precise = _check.precise_matrix("a", a, "(n, d)"), _check.precise_matrix("b", b, "(n, k)")
    for value in _check.as_floats(*precise):
        rest = centred(value)
        largest = jnp.abs(rest).max()
        scaled = rest / jnp.where(largest > 0, largest, 1)
        norm = jnp.linalg.norm(scaled)
        found.append(jnp.where(norm > 0, scaled / jnp.where(norm > 0, norm, 1), jnp.nan))
    return found
