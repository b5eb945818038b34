r"""Alignment of the subspaces that two embeddings span (Appendix E), and retrieval of views.

An embedding is a matrix ``(n, d)`` with one row for each sample. The subspace measures depend only
on the span of its columns. An invertible linear map of the embedding leaves the span unchanged, and
the span determines the accuracy of a linear probe. Columns are not centred.
"""

import jax.numpy as jnp
from jax.typing import ArrayLike
from jaxtyping import Array, Float

from sslstep import _check
from sslstep._linalg import directions, matmul, singular_values

__all__ = [
    "chance_level",
    "misalignment",
    "principal_angles",
    "retrieval_ranks",
    "subspace_alignment",
]


def subspace_alignment(a: Float[ArrayLike, "n d"], b: Float[ArrayLike, "n k"]) -> Float[Array, ""]:
    r"""Return the normalised subspace alignment of two embeddings of one set of samples (App. E).

    .. math:: a(P, P') = \frac1d \| P P'^\top \|_F^2 = \frac1d \sum_j \cos^2 \theta_j

    The rows of P and P' are orthonormal bases of the two column spans, and :math:`\theta_j` are the
    principal angles between the spans. The alignment is 1 for equal spans (the paper's text says d)
    and 0 for orthogonal spans; :func:`chance_level` gives its value for random spans. If the
    dimensions of the spans differ, d is the smaller dimension, and an alignment of 1 means that one
    span contains the other.

    Args:
        a: embeddings, shape ``(n, d)``, of rank d.
        b: embeddings of the same samples in the same order, shape ``(n, k)``, of rank k.

    Returns:
        The alignment, a scalar in [0, 1], resolved to eps; :func:`misalignment` resolves values
        near 1 more finely. Under `jit`, an embedding without full column rank gives NaN.

    Raises:
        ValueError: if the numbers of rows differ, values are not finite, or an embedding does not
            have full column rank.

    Example:
        >>> import jax.numpy as jnp
        >>> from sslstep.measure import alignment
        >>> a = jnp.array([[1.0, 0.0], [0.0, 1.0], [0.0, 0.0]])
        >>> b = jnp.array([[1.0, 0.0], [0.0, 0.0], [0.0, 1.0]])
        >>> round(float(alignment.subspace_alignment(a, b)), 6)
        0.5
    """
    p, p_prime = _bases(a, b)
    return jnp.sum(matmul(p.T, p_prime) ** 2) / p_prime.shape[1]


def misalignment(a: Float[ArrayLike, "n d"], b: Float[ArrayLike, "n k"]) -> Float[Array, ""]:
    r"""Return 1 minus the :func:`subspace_alignment` of two embeddings, without cancellation.

    .. math:: 1 - a(P, P') = \frac1d \| P' - P' P^\top P \|_F^2 = \frac1d \sum_j \sin^2 \theta_j

    The rows of P and P' are orthonormal bases of the two column spans, :math:`\theta_j` their
    principal angles, and d is the smaller dimension. Values down to eps² are resolved; computing
    ``1 - subspace_alignment`` resolves eps only. The number of dimensions and the rounding of the
    embeddings set the floor.

    Args:
        a: embeddings, shape ``(n, d)``, of rank d.
        b: embeddings of the same samples in the same order, shape ``(n, k)``, of rank k.

    Returns:
        The mean squared sine of the principal angles, a scalar in [0, 1].

    Raises:
        ValueError: under the conditions of :func:`subspace_alignment`.

    Example:
        >>> import jax.numpy as jnp
        >>> from sslstep.measure import alignment
        >>> a, b = jnp.array([[1.0], [0.0]]), jnp.array([[1.0], [1e-6]])
        >>> print(f"{alignment.misalignment(a, b):.3e}")
        1.000e-12
    """
    p, p_prime = _bases(a, b)
    return jnp.sum(_beyond(p, p_prime) ** 2) / p_prime.shape[1]


def principal_angles(
    a: Float[ArrayLike, "n d"], b: Float[ArrayLike, "n k"]
) -> Float[Array, " min(d,k)"]:
    r"""Return the principal angles between the spans of two embeddings (Björck and Golub 1973).

    The rows of P and P' are orthonormal bases of the two column spans. :math:`\cos \theta_j` are
    the singular values of :math:`P P'^\top`, and :math:`\sin \theta_j` are the singular values of
    :math:`P' - P' P^\top P`. Each angle is computed from its sine and its cosine, and is therefore
    accurate to eps near 0 and near π/2.

    Args:
        a: embeddings, shape ``(n, d)``, of rank d.
        b: embeddings of the same samples in the same order, shape ``(n, k)``, of rank k.

    Returns:
        The angles in [0, π/2], ascending, shape ``(min(d, k),)``.

    Raises:
        ValueError: under the conditions of :func:`subspace_alignment`.

    Example:
        >>> import jax.numpy as jnp
        >>> from sslstep.measure import alignment
        >>> a, b = jnp.array([[1.0], [0.0]]), jnp.array([[1.0], [1.0]])
        >>> print(*(f"{angle:.4f}" for angle in alignment.principal_angles(a, b)))
        0.7854
    """
    p, p_prime = _bases(a, b)
    cosines = singular_values(matmul(p.T, p_prime))
    sines = singular_values(_beyond(p, p_prime))[::-1]
    return jnp.arctan2(sines, cosines)


def chance_level(dim: int, num_samples: int) -> float:
    r"""Return the expected alignment of two random d-dimensional subspaces of R^N, d / N.

    If the dimensions of the subspaces differ, d is the larger dimension. Appendix E takes both
    views of n pairs as samples, N = 2n; its tables have 50 / 2000 = 0.025 (its text says
    :math:`d^2 / 2n`).

    Args:
        dim: d, the dimension of the subspaces.
        num_samples: N ≥ d, the number of samples (rows).

    Returns:
        d / N.

    Raises:
        ValueError: unless 1 ≤ d ≤ N.

    Example:
        >>> from sslstep.measure import alignment
        >>> alignment.chance_level(50, 2000)
        0.025
    """
    if not 1 <= dim <= num_samples:
        raise ValueError(f"dim must be between 1 and num_samples = {num_samples}, got {dim}.")
    return dim / num_samples


def retrieval_ranks(
    z: Float[ArrayLike, "n d"], z_prime: Float[ArrayLike, "n d"]
) -> Float[Array, " n"]:
    r"""Return the retrieval rank of each sample's second view among the second views of all.

    .. math:: r_i = \frac{1}{n - 1} \#\{j : \cos(z_i, z'_j) > \cos(z_i, z'_i)\}

    The rank of sample i is the fraction of the other samples whose second view has a larger cosine
    with the first view of sample i than the sample's own second view has. A row of zeros has the
    cosine 0 with every row.

    Args:
        z: embeddings of the first view of n samples, shape ``(n, d)``.
        z_prime: embeddings of the second view of the samples, in the order of ``z``, shape
            ``(n, d)``.

    Returns:
        Ranks from 0 (best) to 1, shape ``(n,)``; random embeddings have the mean rank 0.5.

    Raises:
        ValueError: if the shapes differ, there are fewer than two samples, or values are not
            finite.

    Example:
        >>> import jax.numpy as jnp
        >>> from sslstep.measure import alignment
        >>> z = jnp.array([[1.0, 0.0], [0.0, 1.0], [-1.0, 0.0]])
        >>> alignment.retrieval_ranks(z, -z)
        Array([1., 1., 1.], dtype=float32)
    """
    n, _ = _check.require_matrix("z", z, "(n, d)")
    if n < 2 or _check.shape_of(z) != _check.shape_of(z_prime):
        raise ValueError(
            f"z and z_prime must be two views of the same n >= 2 samples, got shapes "
            f"{_check.shape_of(z)} and {_check.shape_of(z_prime)}."
        )
    _check.require_finite("z", z)
    _check.require_finite("z_prime", z_prime)
    views = _check.as_precise("z", z), _check.as_precise("z_prime", z_prime)
    a, b = _check.as_floats(*map(directions, views))
    similarity = matmul(a, b.T)
    better = (similarity > jnp.diagonal(similarity)[:, None]).sum(axis=1)
    return better.astype(similarity.dtype) / (n - 1)


def _bases(a: ArrayLike, b: ArrayLike) -> tuple[Array, Array]:
    """Return orthonormal bases of both column spans, as columns; the smaller basis comes second."""
    _check.require_same_samples(a, b, "embeddings")
    p, p_prime = _basis("a", a), _basis("b", b)
    return (p, p_prime) if p.shape[1] >= p_prime.shape[1] else (p_prime, p)


def _basis(name: str, value: ArrayLike) -> Array:
    """Return an orthonormal basis of a matrix's column span; ValueError without full rank."""
    rows, columns = _check.shape_of(value)
    if rows < columns:
        raise ValueError(
            f"{name} of shape {(rows, columns)} cannot have rank {columns}: fewer samples than "
            f"dimensions."
        )
    _check.require_finite(name, value)
    matrix = _check.as_precise(name, value)
    # Columns not yet learned may be smaller by many orders of magnitude; they count equally.
    largest = jnp.abs(matrix).max(axis=0, keepdims=True)
    q, r = jnp.linalg.qr(matrix / jnp.where(largest > 0, largest, 1))
    singular = singular_values(r)
    # Rounding leaves singular values of about one eps, in tall and in wide matrices.
    cutoff = 10 * columns**0.5 * jnp.finfo(matrix.dtype).eps * singular[0]
    rank = jnp.sum(singular > cutoff)
    if _check.is_concrete(rank) and int(rank) < columns:
        raise ValueError(
            f"{name} of shape {(rows, columns)} has rank {int(rank)}: the span of its columns is "
            f"not defined to rounding. Keep only dimensions that are learned."
        )
    return jnp.where(rank == columns, q, jnp.nan)


def _beyond(p: Array, p_prime: Array) -> Array:
    """Return the second basis minus its projection on the span of the first basis."""
    # Twice, as in Gram-Schmidt: the first pass leaves a part of order eps within the span.
    for _ in range(2):
        p_prime = p_prime - matmul(p, matmul(p.T, p_prime))
    return p_prime
