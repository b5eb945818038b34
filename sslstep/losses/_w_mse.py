"""The loss W-MSE, on whitened embeddings."""

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike
from jaxtyping import Array, Float, Real

from sslstep import _check
from sslstep._linalg import matmul
from sslstep.losses._batch import pair


def w_mse(
    z: Float[ArrayLike, "n d"],
    z_prime: Float[ArrayLike, "n d"],
    *,
    ridge: Real[ArrayLike, ""] = 1e-3,
) -> Float[Array, ""]:
    r"""Compute W-MSE, the mean squared distance of whitened embeddings (Ermolov et al. 2021).

    .. math:: \mathcal{L} = \frac1n \sum_i |\hat z_i - \hat z_i'|^2 = 2 (d - \mathrm{Tr}\, C),
        \qquad \hat z = L^{-1} (z - \bar z), \qquad L L^\top = \mathrm{Cov} + r \,
        \frac{\mathrm{Tr}\,\mathrm{Cov}}{d} I

    with the mean :math:`\bar z` and the covariance Cov of all 2n embeddings, a lower triangular L,
    and the correlation :math:`C = \frac1n \sum_i \hat z_i \hat z_i'^\top`. The second form is exact
    for r = 0. The publication's code whitens each view separately, in parts of the batch, and may
    then normalise each embedding.

    The loss does not change when all embeddings are multiplied by a number. It therefore has no
    expansion at zero embeddings.

    Args:
        z: embeddings of one view, shape ``(n, d)``, 2n more than d.
        z_prime: embeddings of the other view of the same samples, same shape.
        ridge: r ≥ 0, in units of the covariance's mean eigenvalue; traced. At 0 a singular
            covariance makes the loss NaN.

    Raises:
        ValueError: if ``ridge`` is negative or an array.

    Example:
        >>> import jax, jax.numpy as jnp
        >>> from sslstep import losses
        >>> z = jax.random.normal(jax.random.key(0), (64, 3))
        >>> float(losses.w_mse(z, z))
        0.0
    """
    z, z_prime = pair(z, z_prime)
    _check.require_scalar("ridge", ridge, at_least=0.0)
    both = jnp.concatenate([z, z_prime])
    centred = both - both.mean(axis=0, keepdims=True)
    covariance = matmul(centred.T, centred) / len(both)
    d = covariance.shape[0]
    shift = jnp.asarray(ridge, z.dtype) * jnp.trace(covariance) / d
    factor = jnp.linalg.cholesky(covariance + shift * jnp.eye(d, dtype=z.dtype))
    difference = (z - z_prime).T
    white = jax.scipy.linalg.solve_triangular(factor, difference, lower=True)
    return jnp.sum(white**2) / len(z)
