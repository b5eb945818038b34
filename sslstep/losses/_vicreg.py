"""The loss of VICReg and its terms."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike
from jaxtyping import Array, Float, Real

from sslstep import _check
from sslstep._linalg import matmul
from sslstep.losses._batch import pair


class VICRegTerms(NamedTuple):
    """The terms of VICReg's loss, without their weights.

    Attributes:
        invariance: mean squared difference of the two views.
        variance: mean hinge loss of the dimensions' standard deviations, averaged over both views.
        covariance: sum of squared covariances of different dimensions, divided by d and added over
            both views. It is 0 for collapsed embeddings too: read it with the variance term.
    """

    invariance: Float[Array, ""]
    variance: Float[Array, ""]
    covariance: Float[Array, ""]


def vicreg(
    z: Float[ArrayLike, "n d"],
    z_prime: Float[ArrayLike, "n d"],
    *,
    invariance: Real[ArrayLike, ""] = 25.0,
    variance: Real[ArrayLike, ""] = 25.0,
    covariance: Real[ArrayLike, ""] = 1.0,
    eps: Real[ArrayLike, ""] = 1e-4,
) -> Float[Array, ""]:
    r"""Compute the loss of VICReg (Bardes et al. 2022), as in the publication's code.

    .. math:: \mathcal{L} = \lambda\, s + \mu\, \frac{v(z) + v(z')}{2}
        + \nu\, \big(c(z) + c(z')\big)

    with the terms s, v and c of :func:`vicreg_terms`. The publication's text has no ½ in the
    variance term: ``variance=50`` gives the loss of the text.

    Args:
        z: embeddings of one view, shape ``(n, d)``, n at least 2.
        z_prime: embeddings of the other view of the same samples, same shape.
        invariance: λ ≥ 0, the weight of the invariance term; traced.
        variance: μ ≥ 0, the weight of the variance term; traced.
        covariance: ν ≥ 0, the weight of the covariance term; traced.
        eps: ε ≥ 0, added to each variance before the square root; traced.

    Raises:
        ValueError: if a weight is negative or an array.

    Example:
        >>> import jax.numpy as jnp
        >>> from sslstep import losses
        >>> z = jnp.array([[3.0, 0.0], [-3.0, 0.0]])
        >>> bool(losses.vicreg(z, z) == 25 * losses.vicreg_terms(z, z).variance)
        True
    """
    weights = {"invariance": invariance, "variance": variance, "covariance": covariance}
    for name, weight in weights.items():
        _check.require_scalar(name, weight, at_least=0.0)
    terms = vicreg_terms(z, z_prime, eps=eps)._asdict()
    return sum(
        (jnp.asarray(weight, terms[name].dtype) * terms[name] for name, weight in weights.items()),
        start=jnp.zeros((), terms["variance"].dtype),
    )


def vicreg_terms(
    z: Float[ArrayLike, "n d"],
    z_prime: Float[ArrayLike, "n d"],
    *,
    eps: Real[ArrayLike, ""] = 1e-4,
) -> VICRegTerms:
    r"""Compute the three terms of VICReg's loss, without their weights.

    .. math:: s = \frac{1}{nd} \sum_{bi} (z_{bi} - z'_{bi})^2, \qquad
        v(z) = \frac1d \sum_i \max\Big(0,\, 1 - \sqrt{\mathrm{Cov}_{ii} + \epsilon}\Big), \qquad
        c(z) = \frac1d \sum_{i \ne j} \mathrm{Cov}_{ij}^2

    with sample b, dimension i, and the unbiased covariance Cov of z, shape ``(d, d)``.

    Args:
        z: embeddings of one view, shape ``(n, d)``, n at least 2.
        z_prime: embeddings of the other view of the same samples, same shape.
        eps: ε ≥ 0, added to each variance before the square root; traced. At 0 a dimension that is
            constant over the batch makes the gradient NaN.

    Returns:
        :class:`VICRegTerms`: s, (v(z) + v(z')) / 2, and c(z) + c(z').

    Raises:
        ValueError: if ``eps`` is negative or an array.

    Example:
        >>> import jax.numpy as jnp
        >>> from sslstep import losses
        >>> z = jnp.array([[3.0, 0.0], [-3.0, 0.0]])
        >>> [round(float(term), 3) for term in losses.vicreg_terms(z, z)]
        [0.0, 0.495, 0.0]
    """
    z, z_prime = pair(z, z_prime)
    _check.require_scalar("eps", eps, at_least=0.0)

    def hinge_and_covariance(view: Array) -> tuple[Array, Array]:
        centred = view - view.mean(axis=0, keepdims=True)
        cov = matmul(centred.T, centred) / (len(view) - 1)
        variances = jnp.diagonal(cov)
        deviation = jnp.sqrt(variances + jnp.asarray(eps, view.dtype))
        off = jnp.where(jnp.eye(len(cov), dtype=bool), 0.0, cov)
        return jnp.mean(jax.nn.relu(1 - deviation)), jnp.sum(off**2) / len(cov)

    (v, c), (v_prime, c_prime) = hinge_and_covariance(z), hinge_and_covariance(z_prime)
    return VICRegTerms(jnp.mean((z - z_prime) ** 2), (v + v_prime) / 2, c + c_prime)
