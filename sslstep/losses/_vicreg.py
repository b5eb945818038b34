"""VICReg."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike
from jaxtyping import Array, Float, Real

from sslstep import _check
from sslstep._linalg import matmul
from sslstep.losses._batch import pair


class VICRegTerms(NamedTuple):
    """The parts of VICReg's loss, before they are weighted.

    Attributes:
        invariance: mean squared distance of the two views.
        variance: hinge on each dimension's standard deviation.
        covariance: squared covariances of different dimensions. It falls to 0 in a collapse too:
            watch it together with the variance term.
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
    r"""VICReg (Bardes et al. 2022), as its code computes it.

    .. math:: \mathcal{L} = \lambda\, s + \mu\, \frac{v(z) + v(z')}{2}
        + \nu\, \big(c(z) + c(z')\big)

    with the terms of :func:`vicreg_terms`. The publication's text has no ½ in the variance: for it,
    give ``variance=50``.

    Args:
        z: embeddings of one view, shape ``(n, d)``, n at least 2.
        z_prime: embeddings of the other view of the same samples, same shape.
        invariance: λ ≥ 0; traced.
        variance: μ ≥ 0; traced.
        covariance: ν ≥ 0; traced.
        eps: as in :func:`vicreg_terms`; traced.

    Returns:
        The loss, a scalar, float32 or float64.

    Raises:
        ValueError: as :func:`vicreg_terms`, or if a weight is negative or an array.

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
    r"""The parts of VICReg's loss, to be logged.

    .. math:: s = \frac{1}{nd} \sum_{bi} (z_{bi} - z'_{bi})^2, \qquad
        v(z) = \frac1d \sum_i \max\Big(0,\, 1 - \sqrt{\mathrm{Cov}_{ii} + \epsilon}\Big), \qquad
        c(z) = \frac1d \sum_{i \ne j} \mathrm{Cov}_{ij}^2

    with the unbiased covariance of z, divided by n - 1.

    Args:
        z: embeddings of one view, shape ``(n, d)``, n at least 2.
        z_prime: embeddings of the other view of the same samples, same shape.
        eps: ε ≥ 0; traced. At 0 a dimension that is constant over the batch makes the gradient NaN,
            as the root has no slope there.

    Returns:
        :class:`VICRegTerms`: s, (v(z) + v(z')) / 2, and c(z) + c(z').

    Raises:
        ValueError: if the shapes differ or are not ``(n, d)``, are empty, values are not finite,
            the batch is of one sample, or ε is negative or an array.

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
