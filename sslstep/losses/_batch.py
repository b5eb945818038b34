"""Checks and normalisations of embeddings that the losses share."""

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike
from jaxtyping import Array

from sslstep import _check
from sslstep._linalg import matmul


def pair(z: ArrayLike, z_prime: ArrayLike) -> list[Array]:
    """Check the embeddings of both views, and convert them to float32 or float64."""
    samples, _ = _check.require_matrix("z", z, "(n, d)")
    _check.require_matrix("z_prime", z_prime, "(n, d)")
    _check.require_one_shape("z and z_prime, embeddings of the same samples,", z, z_prime)
    if samples < 2:
        raise ValueError(
            f"z must hold a batch of at least 2 samples, because the losses compare samples, got "
            f"shape {_check.shape_of(z)}."
        )
    _check.require_finite("z", z)
    _check.require_finite("z_prime", z_prime)
    views = _check.as_floats(z, z_prime)
    dtype = jnp.float64 if views[0].dtype == jnp.float64 else jnp.float32
    return [view.astype(dtype) for view in views]


def deviations(z: Array) -> Array:
    """Subtract each dimension's mean over the batch.

    It is subtracted twice, because the mean of equal numbers is rounded: a constant dimension would
    keep one small number in all rows, which a normalisation enlarges. Unlike ``_linalg.centred``
    this keeps the gradient of dimensions that have collapsed.
    """
    rest = z - z.mean(axis=0, keepdims=True)
    return rest - rest.mean(axis=0, keepdims=True)


def normalised(z: Array, eps: ArrayLike) -> Array:
    """Shift and scale each dimension to mean 0 and variance 1 over the batch."""
    rest = deviations(z)
    variance = jnp.mean(rest**2, axis=0, keepdims=True)
    return rest * jax.lax.rsqrt(variance + jnp.asarray(eps, z.dtype))


def correlation(
    z: ArrayLike, z_prime: ArrayLike, batch_norm: bool, eps: ArrayLike, *, symmetrise: bool
) -> Array:
    """Compute C = Zᵀ Z' / n, shape (d, d), after checks and an optional batch norm."""
    z, z_prime = pair(z, z_prime)
    _check.require_scalar("eps", eps, at_least=0.0)
    if batch_norm:
        z, z_prime = (normalised(view, eps) for view in (z, z_prime))
    c = matmul(z.T, z_prime) / z.shape[0]
    return (c + c.T) / 2 if symmetrise else c


def unit(z: Array) -> Array:
    """Divide each embedding by its length, or by 1e-12 if the length is smaller."""
    return z * jax.lax.rsqrt(jnp.maximum(jnp.sum(z**2, axis=1, keepdims=True), 1e-24))
