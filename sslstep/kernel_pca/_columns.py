"""Operations on blocks of columns, (N, b), on the device."""

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike
from jaxtyping import Array

from sslstep._linalg import matmul


@jax.jit
def normalised(block: Array) -> Array:
    norms = jnp.linalg.norm(block, axis=0)
    return block / jnp.where(norms > 0, norms, 1)[None, :]


@jax.jit
def orthonormal(block: Array, least: ArrayLike = 0.0) -> Array:
    """Return a nearly orthonormal basis of the columns of a block, projections of unit vectors.

    Columns shorter than `least` or 100 eps, and linearly dependent columns are replaced by zeros.
    """
    eps = float(jnp.finfo(block.dtype).eps)
    norms = jnp.linalg.norm(block, axis=0)
    kept = norms > jnp.maximum(jnp.asarray(least, block.dtype), 1e2 * eps)
    block = block * jnp.where(kept, 1 / jnp.where(kept, norms, 1), 0)[None, :]
    # A Gram matrix does not resolve directions shorter than sqrt(eps): the first pass lengthens
    # them, and the second resolves them.
    for last in (False, True):
        values, vectors = jnp.linalg.eigh(inner(block, block))
        noise = 4 * len(values) ** 0.5 * eps * jnp.maximum(1, values[-1])
        factors = jnp.maximum(values, noise) ** -0.5
        if last:
            factors = jnp.where(values > noise, factors, 0)
        block = times(block, vectors * factors[None, :])
    return block


@jax.jit
def inner(a: Array, b: Array) -> Array:
    return matmul(a.T, b)


@jax.jit
def times(a: Array, b: Array) -> Array:
    return matmul(a, b)


@jax.jit
def add_both(vectors: Array, images: Array, v: Array, w: Array, part: Array):
    return vectors + times(v, part), images + times(w, part)


@jax.jit
def subtract(block: Array, v: Array, w: Array) -> Array:
    return block - times(v, inner(w, block))


@jax.jit
def subtract_both(block: Array, image: Array, v: Array, w: Array) -> tuple[Array, Array]:
    part = inner(v, image)
    return block - times(v, part), image - times(w, part)


@jax.jit
def grams(vectors: Array, images: Array) -> tuple[Array, Array]:
    """Return the Gram matrices of a block in the inner product of K̃ and in the ordinary one."""
    return inner(vectors, images), inner(vectors, vectors)


@jax.jit
def turned_both(vectors: Array, images: Array, turn: Array):
    """Return a block and its images times a small matrix, and the norms of both products."""
    vectors, images = times(vectors, turn), times(images, turn)
    return vectors, images, jnp.linalg.norm(vectors, axis=0), jnp.linalg.norm(images, axis=0)


@jax.jit
def residual(turned: Array, vectors: Array, factors: Array) -> tuple[Array, Array, Array]:
    """Return turned - vectors * factors, the norms of its columns, and those of the vectors."""
    rest = turned - vectors * factors[None, :]
    return rest, jnp.linalg.norm(rest, axis=0), jnp.linalg.norm(vectors, axis=0)


@jax.jit
def divided(image: Array, like: Array, unit: ArrayLike) -> tuple[Array, Array]:
    """Return image / unit in the dtype of a block, and which rows of the image are finite."""
    image, finite = image.astype(like.dtype), jnp.isfinite(image).all(axis=1)
    return image * jnp.asarray(1 / unit, like.dtype), finite
