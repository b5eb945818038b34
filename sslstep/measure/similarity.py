r"""How alike two representations of the same samples are, up to rotation and scale.

Unlike :mod:`sslstep.measure.alignment`, which compares spans, these weigh a direction by how much
the samples vary along it. Columns are centred.
"""

import jax.numpy as jnp
from jax.typing import ArrayLike
from jaxtyping import Array, Float

from sslstep import _check
from sslstep._linalg import centred, matmul, singular_values

__all__ = ["linear_cka", "procrustes_distance"]


def linear_cka(a: Float[ArrayLike, "n d"], b: Float[ArrayLike, "n k"]) -> Float[Array, ""]:
    r"""Linear centred kernel alignment of two representations (Kornblith et al. 2019).

    .. math:: \frac{\|B^\top A\|_F^2}{\|A^\top A\|_F\, \|B^\top B\|_F}

    with the columns of A and B centred. It costs n (d + k) max(d, k), or n² (d + k) if n is less.
    Independent Gaussian representations do not have 0, but
    :math:`\sqrt{dk / ((n + d)(n + k))}`: take n many times d.

    Args:
        a: a representation, shape ``(n, d)``.
        b: another one of the same samples in the same order, shape ``(n, k)``.

    Returns:
        A scalar in [0, 1]: 1 if the two differ by a rotation and a scale. NaN if one of them is
        constant, which is alike to nothing and unlike nothing.

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
    r"""The orthogonal Procrustes distance of two representations, as Ding et al. (2021) have it.

    .. math:: \min_{R^\top R = I} \|A - B R\|_F^2 = 2 - 2 \|A^\top B\|_*

    with the columns of A and B centred, each matrix brought to Frobenius norm 1, and the one of
    fewer columns filled up with zeros: a squared distance, from 0 to 2. It costs n d k and the
    singular values of a matrix (d, k). Independent Gaussian representations of d dimensions each
    are at about :math:`2 - 1.7 \sqrt{d / n}` for n above d.

    Args:
        a: a representation, shape ``(n, d)``.
        b: another one of the same samples in the same order, shape ``(n, k)``.

    Returns:
        A scalar in [0, 2], to within rounding of 0. NaN if one of them is constant.

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
    """Both centred and of Frobenius norm 1; NaN if nothing is left."""
    _check.require_same_samples(a, b, "representations")
    _check.require_finite("a", a)
    _check.require_finite("b", b)
    found = []
    for value in _check.as_floats(_check.as_precise("a", a), _check.as_precise("b", b)):
        rest = centred(value)
        largest = jnp.abs(rest).max()
        scaled = rest / jnp.where(largest > 0, largest, 1)
        norm = jnp.linalg.norm(scaled)
        found.append(jnp.where(norm > 0, scaled / jnp.where(norm > 0, norm, 1), jnp.nan))
    return found
