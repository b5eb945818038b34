"""The loss of Barlow Twins, and the paper's simplification of it."""

import jax.numpy as jnp
from jax.typing import ArrayLike
from jaxtyping import Array, Float, Real

from sslstep import _check
from sslstep.losses._batch import correlation


def barlow_twins(
    z: Float[ArrayLike, "n d"],
    z_prime: Float[ArrayLike, "n d"],
    *,
    off_diagonal: Real[ArrayLike, ""] = 5e-3,
    batch_norm: bool = True,
    symmetrise: bool = False,
    eps: Real[ArrayLike, ""] = 1e-5,
) -> Float[Array, ""]:
    r"""Compute the loss of Barlow Twins (Zbontar et al. 2021).

    .. math:: \mathcal{L} = \sum_i (C_{ii} - 1)^2 + \lambda \sum_{i \ne j} C_{ij}^2, \qquad
        C = \frac1n \sum_i z_i z_i'^\top

    with the embeddings :math:`z_i, z_i'` of both views of sample i. The sums are not divided by d.
    The defaults are those of the publication. With ``off_diagonal=1, batch_norm=False,
    symmetrise=True`` the loss is :func:`simplified_barlow_twins`.

    Args:
        z: embeddings of one view, shape ``(n, d)``, n at least 2.
        z_prime: embeddings of the other view of the same samples, same shape.
        off_diagonal: λ ≥ 0, the weight of the off-diagonal terms; traced.
        batch_norm: whether to normalise each dimension of each view over the batch first:
            :math:`(z - \bar z) / \sqrt{\mathrm{var} + \epsilon}`, with the biased variance (divided
            by n) and without learned scale and shift.
        symmetrise: whether to replace C by :math:`(C + C^\top) / 2`.
        eps: ε ≥ 0 of the batch norm; traced. At 0 a dimension that is constant over the batch makes
            the loss NaN.

    Raises:
        ValueError: if ``off_diagonal`` or ``eps`` is negative or an array.

    Example:
        >>> import jax.numpy as jnp
        >>> from sslstep import losses
        >>> z = jnp.array([[1.0, 0.0], [0.0, 1.0]])
        >>> float(losses.barlow_twins(z, z, batch_norm=False))  # C = I / 2
        0.5
    """
    _check.require_scalar("off_diagonal", off_diagonal, at_least=0.0)
    c = correlation(z, z_prime, batch_norm, eps)
    if symmetrise:
        c = (c + c.T) / 2
    diagonal = jnp.eye(c.shape[0], dtype=bool)
    off = jnp.asarray(off_diagonal, c.dtype)
    return jnp.sum(jnp.where(diagonal, (c - 1) ** 2, off * c**2))


def simplified_barlow_twins(
    z: Float[ArrayLike, "n d"],
    z_prime: Float[ArrayLike, "n d"],
) -> Float[Array, ""]:
    r"""Compute the simplified Barlow Twins loss of the paper's theory (Eqs. 1 and 2).

    .. math:: \mathcal{L} = \| C - I \|_F^2, \qquad
        C = \frac{1}{2n} \sum_i \left( z_i z_i'^\top + z_i' z_i^\top \right)

    with the embeddings :math:`z_i, z_i'` of both views of sample i. For a linear model it equals
    :func:`sslstep.linear.loss` (Eq. 5).

    Args:
        z: embeddings of one view, shape ``(n, d)``, n at least 2.
        z_prime: embeddings of the other view of the same samples, same shape.

    Example:
        >>> import jax.numpy as jnp
        >>> from sslstep import losses
        >>> z = jnp.array([[1.0, 0.0], [0.0, 1.0]])
        >>> z_prime = jnp.array([[1.0, 0.0], [1.0, 1.0]])
        >>> float(losses.simplified_barlow_twins(z, z_prime))  # C = [[1/2, 1/4], [1/4, 1/2]]
        0.625
    """
    return barlow_twins(z, z_prime, off_diagonal=1.0, batch_norm=False, symmetrise=True)
