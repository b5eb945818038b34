"""Linear algebra shared by several modules."""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

#: Multiply in the full precision of the dtype; accelerators default to less.
HIGHEST = jax.lax.Precision.HIGHEST


def matmul(a: Array, b: Array) -> Array:
    """Matrix product in the full precision of its dtype; accelerators default to less."""
    return jnp.matmul(a, b, precision=HIGHEST)


def singular_values(matrix: Array) -> Array:
    """Singular values in descending order.

    ``full_matrices=False`` keeps svd from allocating square bases, (n, n) and (d, d).
    """
    return jnp.linalg.svd(matrix, full_matrices=False, compute_uv=False)


def centred(z: Float[Array, "n d"]) -> Float[Array, "n d"]:
    """Subtract the mean row; return zeros if all differences are within rounding."""
    rest = z - z.mean(axis=0, keepdims=True)
    rounding = 10 * jnp.finfo(z.dtype).eps * jnp.abs(z).max()
    return jnp.where(jnp.abs(rest).max() > rounding, rest, 0)


def directions(z: Float[Array, "n d"]) -> Float[Array, "n d"]:
    """Divide each row by its length, for lengths of any size; a row of zeros stays zero."""
    largest = jax.lax.stop_gradient(jnp.abs(z).max(axis=1, keepdims=True))
    scaled = z / jnp.where(largest > 0, largest, 1)
    squares = jnp.sum(scaled**2, axis=1, keepdims=True)
    return scaled * jax.lax.rsqrt(jnp.where(squares > 0, squares, 1))


def power_of_two(value: Array) -> Array:
    """Return the nearest power of two, by which multiplication is exact."""
    info = jnp.finfo(value.dtype)
    within = jnp.clip(value, info.tiny, 1 / info.tiny)  # value and inverse stay normal
    return jax.lax.reduce_precision(within, exponent_bits=info.nexp, mantissa_bits=0)


def of_order_one(z: Array) -> Array:
    """Divide by the power of two next to the largest entry, so that squares stay in range."""
    return z * jax.lax.stop_gradient(power_of_two(1 / jnp.abs(z).max()))


def computed_in(dtype: jnp.dtype) -> jnp.dtype:
    """Return the dtype in which a matrix of this dtype is decomposed: float32 or wider."""
    return dtype if jnp.finfo(dtype).bits >= 32 else jnp.dtype(jnp.float32)


def rounding(eigenvalues: Float[Array, " k"], factor: float) -> Float[Array, ""]:
    """Return `factor` times eps of the eigensolver's dtype, times the largest |eigenvalue|."""
    eps = float(jnp.finfo(computed_in(eigenvalues.dtype)).eps)
    return factor * eps * jnp.abs(eigenvalues).max()


def solver_error(eigenvalues: Float[Array, " k"], size: int) -> Float[Array, ""]:
    """Return a bound on the absolute error of eigh's eigenvalues for a matrix of `size` rows.

    eigh spreads an eigenvalue of multiplicity m over about sqrt(m) eps times the largest eigenvalue
    (measured: 8 eps at m = 5, 30 eps at m = 300). It returns zero eigenvalues as at most 10 eps
    times the largest (measured up to m = 1200).
    """
    return rounding(eigenvalues, 8 + 4 * size**0.5)


@jax.custom_jvp
def eigh_descending(matrix: Array) -> tuple[Array, Array]:
    """Eigendecomposition in descending order, with finite derivatives at repeated eigenvalues."""
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
