"""Linear algebra that several modules share."""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

#: The precision of a product's own dtype: by default accelerators use less.
HIGHEST = jax.lax.Precision.HIGHEST


def matmul(a: Array, b: Array) -> Array:
    """A matrix product in the precision of its dtype: by default accelerators use less."""
    return jnp.matmul(a, b, precision=HIGHEST)


def singular_values(matrix: Array) -> Array:
    """Singular values, in descending order, in memory of the matrix's own size.

    Unless told otherwise, svd makes room for square bases, (n, n) and (d, d), wanted or not.
    """
    return jnp.linalg.svd(matrix, full_matrices=False, compute_uv=False)


def computed_in(dtype: jnp.dtype) -> jnp.dtype:
    """What a decomposition of a matrix of this dtype is computed in: float32 at least."""
    return dtype if jnp.finfo(dtype).bits >= 32 else jnp.dtype(jnp.float32)


def rounding(eigenvalues: Float[Array, " k"], factor: float) -> Float[Array, ""]:
    """`factor` times the eps of what computed them, relative to the largest eigenvalue."""
    eps = float(jnp.finfo(computed_in(eigenvalues.dtype)).eps)
    return factor * eps * jnp.abs(eigenvalues).max()


def solver_error(eigenvalues: Float[Array, " k"], size: int) -> Float[Array, ""]:
    """How far an eigensolver's values may lie from those of a matrix of `size` rows, at most.

    eigh spreads an eigenvalue of multiplicity m over some sqrt(m) eps of the largest (measured: 8
    at m = 5, 30 at m = 300), and returns zeros of low rank as 10 eps or less (up to m = 1200).
    """
    return rounding(eigenvalues, 8 + 4 * size**0.5)


@jax.custom_jvp
def eigh_descending(matrix: Array) -> tuple[Array, Array]:
    """Eigendecomposition in descending order whose derivative is finite at repeated eigenvalues."""
    eigenvalues, eigenvectors = jnp.linalg.eigh(matrix)
    return eigenvalues[::-1], eigenvectors[:, ::-1]


@eigh_descending.defjvp
def _eigh_descending_jvp(primals, tangents):
    (matrix,), (tangent,) = primals, tangents
    eigenvalues, eigenvectors = eigh_descending(matrix)
    tangent = (tangent + tangent.T) / 2
    inner = matmul(matmul(eigenvectors.T, tangent), eigenvectors)
    gaps = eigenvalues[None, :] - eigenvalues[:, None]
    tied = jnp.abs(gaps) <= solver_error(eigenvalues, matrix.shape[0])
    couplings = jnp.where(tied, 0, inner / jnp.where(tied, 1, gaps))
    eigenvectors_dot = matmul(eigenvectors, couplings)
    return (eigenvalues, eigenvectors), (jnp.diagonal(inner), eigenvectors_dot)
