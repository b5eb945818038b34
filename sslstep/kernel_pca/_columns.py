"""Operations on blocks of columns, (N, b), on the device."""

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array

from sslstep._linalg import matmul


@jax.jit
def normalised(block: Array) -> Array:
    norms = jnp.linalg.norm(block, axis=0)
    return block / jnp.where(norms > 0, norms, 1)[None, :]


def orthonormal(block: Array, least: float | None = None) -> Array:
    """Return a nearly orthonormal basis of the columns of a block, projections of unit vectors.

    Columns shorter than `least`, by default 100 eps, and linearly dependent columns are replaced by
    zeros.
    """
    eps = float(jnp.finfo(block.dtype).eps)
    least = 1e2 * eps if least is None else least
    norms = np.asarray(jnp.linalg.norm(block, axis=0), np.float64)
    scale = np.where(norms > least, 1 / np.where(norms > 0, norms, 1), 0)
    block = times(block, jnp.asarray(np.diag(scale), block.dtype))
    # A Gram matrix does not resolve directions shorter than sqrt(eps): the first pass lengthens
    # them, and the second resolves them.
    for last in (False, True):
        values, vectors = np.linalg.eigh(np.asarray(inner(block, block), np.float64))
        noise = 4 * len(values) ** 0.5 * eps * max(1.0, values[-1])
        turn = vectors * np.maximum(values, noise) ** -0.5
        if last:
            turn = np.where(values > noise, turn, 0)
        block = times(block, jnp.asarray(turn, block.dtype))
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
