r"""How far two embeddings span the same space of functions (Appendix E), or match views.

Of embeddings as a matrix ``(n, d)``, a row for each sample, what counts is the span of its columns:
it does not change under an invertible linear map of the embedding, and determines what a linear
probe can do. Nothing is centred.
"""

import jax.numpy as jnp
from jax.typing import ArrayLike
from jaxtyping import Array, Float

from sslstep import _check
from sslstep._linalg import matmul, singular_values

__all__ = [
    "chance_level",
    "misalignment",
    "principal_angles",
    "retrieval_ranks",
    "subspace_alignment",
]


def subspace_alignment(a: Float[ArrayLike, "n d"], b: Float[ArrayLike, "n k"]) -> Float[Array, ""]:
    r"""The normalised subspace alignment of two embeddings of the same samples (Appendix E).

    .. math:: a(P, P') = \frac1d \| P P'^\top \|_F^2 = \frac1d \sum_j \cos^2 \theta_j

    with the rows of P and P' orthonormal bases of the two spans and :math:`\theta_j` their
    principal angles. It is 1 for equal spans and 0 for orthogonal ones (the paper's text has d for
    the former); for random ones see :func:`chance_level`. Of spans of different dimension, d is the
    smaller, and 1 means that one contains the other.

    Args:
        a: embeddings, shape ``(n, d)``, of rank d.
        b: embeddings of the same samples in the same order, shape ``(n, k)``, of rank k.

    Returns:
        The alignment, in [0, 1]. Near 1 it is rounded: see :func:`misalignment`. Under `jit`,
        embeddings that lack rank give NaN.

    Raises:
        ValueError: if shapes do not fit, values are not finite, or an embedding lacks rank.

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
    r"""What :func:`subspace_alignment` lacks to 1, without cancellation.

    .. math:: 1 - a(P, P') = \frac1d \| P' - P' P^\top P \|_F^2 = \frac1d \sum_j \sin^2 \theta_j

    Near 0 it is resolved down to eps², where ``1 - subspace_alignment`` ends at eps. The dimensions
    and the rounding of the embeddings themselves set the floor.

    Args:
        a: embeddings, shape ``(n, d)``, of rank d.
        b: embeddings of the same samples in the same order, shape ``(n, k)``, of rank k.

    Returns:
        The distance, in [0, 1]: the mean squared sine of the principal angles.

    Raises:
        ValueError: as :func:`subspace_alignment`.

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
    r"""The principal angles between the spans of two embeddings (Björck and Golub 1973).

    With orthonormal bases, :math:`\cos \theta_j` are the singular values of :math:`P P'^\top` and
    :math:`\sin \theta_j` those of :math:`P' - P' P^\top P`. Both are computed and the angle taken
    from the two, so that it is good to eps near 0 and near π/2.

    Args:
        a: embeddings, shape ``(n, d)``, of rank d.
        b: embeddings of the same samples in the same order, shape ``(n, k)``, of rank k.

    Returns:
        The angles in [0, π/2], ascending, shape ``(min(d, k),)``.

    Raises:
        ValueError: as :func:`subspace_alignment`.

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
    r"""The expected alignment of random subspaces of dimension d in N: d / N.

    With the n pairs' both views as samples N = 2n, and Appendix E's tables have 50 / 2000 = 0.025
    (its text :math:`d^2 / 2n`). If dimensions differ, it is the larger that counts.

    Args:
        dim: d.
        num_samples: N ≥ d, the number of rows.

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
    r"""Where each sample's other view ranks among those of all samples, by cosine.

    .. math:: r_i = \frac{1}{n - 1} \#\{j : \cos(z_i, z'_j) > \cos(z_i, z'_i)\}

    Args:
        z: embeddings of one view of n samples.
        z_prime: embeddings of the other view, in the same order.

    Returns:
        Ranks from 0, the best, to 1, shape ``(n,)``; their mean is 0.5 by chance.

    Raises:
        ValueError: if the shapes differ, or there are fewer than two samples.

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
    views = _check.as_floats(z, z_prime)
    a, b = (view / jnp.linalg.norm(view, axis=1, keepdims=True) for view in views)
    similarity = matmul(a, b.T)
    better = (similarity > jnp.diagonal(similarity)[:, None]).sum(axis=1)
    return better.astype(similarity.dtype) / (n - 1)


def _bases(a: ArrayLike, b: ArrayLike) -> tuple[Array, Array]:
    """Orthonormal bases of the columns' spans as columns, the smaller one last."""
    _check.require_same_samples(a, b, "embeddings")
    p, p_prime = _basis("a", a), _basis("b", b)
    return (p, p_prime) if p.shape[1] >= p_prime.shape[1] else (p_prime, p)


def _basis(name: str, value: ArrayLike) -> Array:
    rows, columns = _check.shape_of(value)
    if rows < columns:
        raise ValueError(
            f"{name} of shape {(rows, columns)} cannot have rank {columns}: fewer samples than "
            f"dimensions."
        )
    _check.require_finite(name, value)
    matrix = _check.as_precise(name, value)
    # Dimensions not yet learned may be smaller by many orders of magnitude; they count as much.
    largest = jnp.abs(matrix).max(axis=0, keepdims=True)
    q, r = jnp.linalg.qr(matrix / jnp.where(largest > 0, largest, 1))
    singular = singular_values(r)
    # Rounding leaves about one eps, in tall and wide matrices alike.
    cutoff = 10 * columns**0.5 * jnp.finfo(matrix.dtype).eps * singular[0]
    rank = jnp.sum(singular > cutoff)
    if _check.is_concrete(rank) and int(rank) < columns:
        raise ValueError(
            f"{name} of shape {(rows, columns)} has rank {int(rank)}: the span of its columns is "
            f"not defined to rounding. Keep only dimensions that are learned."
        )
    return jnp.where(rank == columns, q, jnp.nan)


def _beyond(p: Array, p_prime: Array) -> Array:
    """The part of the second basis outside the span of the first."""
    # Twice, as in Gram-Schmidt: what the first pass leaves within the span is of order eps.
    for _ in range(2):
        p_prime = p_prime - matmul(p, matmul(p.T, p_prime))
    return p_prime
