"""Losses without negative pairs: VICReg, W-MSE, and errors of predictions.

Predictions are of the other view's embeddings, or of hidden pixels.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike
from jaxtyping import Array, Float, Real

from sslstep import _check
from sslstep._linalg import matmul
from sslstep.losses._batch import deviations, pair, unit


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
            constant over the batch makes the gradient NaN or, by rounding, arbitrary.

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
        rest = deviations(view)
        cov = matmul(rest.T, rest) / (len(view) - 1)
        variances = jnp.diagonal(cov)
        deviation = jnp.sqrt(variances + jnp.asarray(eps, view.dtype))
        off = jnp.where(jnp.eye(len(cov), dtype=bool), 0.0, cov)
        return jnp.mean(jax.nn.relu(1 - deviation)), jnp.sum(off**2) / len(cov)

    (v, c), (v_prime, c_prime) = hinge_and_covariance(z), hinge_and_covariance(z_prime)
    return VICRegTerms(jnp.mean((z - z_prime) ** 2), (v + v_prime) / 2, c + c_prime)


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
            covariance makes the loss NaN or, by rounding, arbitrary.

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
    rest = deviations(both)
    covariance = matmul(rest.T, rest) / len(both)
    d = covariance.shape[0]
    shift = jnp.asarray(ridge, z.dtype) * jnp.trace(covariance) / d
    factor = jnp.linalg.cholesky(covariance + shift * jnp.eye(d, dtype=z.dtype))
    difference = (z - z_prime).T
    white = jax.scipy.linalg.solve_triangular(factor, difference, lower=True)
    return jnp.sum(white**2) / len(z)


def prediction_error(
    q: Float[ArrayLike, "n d"],
    q_prime: Float[ArrayLike, "n d"],
    t: Float[ArrayLike, "n d"],
    t_prime: Float[ArrayLike, "n d"],
    *,
    normalise: bool = True,
) -> Float[Array, ""]:
    r"""Compute BYOL's loss: each view predicts the other view's target (Grill et al. 2020).

    .. math:: \mathcal{L} = \frac{1}{n} \sum_i \left( |\hat q_i - \hat t'_i|^2
        + |\hat q'_i - \hat t_i|^2 \right), \qquad
        \hat v = \frac{v}{\max(|v|, 10^{-12})}

    with the predictions q, q' and the targets t, t' of both views. SimSiam's loss, the mean
    negative cosine over both views, equals :math:`\mathcal{L} / 4 - 1`. This function passes
    gradients to the targets; :class:`sslstep.train.SelfDistillation` stops them.

    Args:
        q: predictions from one view, shape ``(n, d)``, n at least 2.
        q_prime: predictions from the other view of the same samples, same shape.
        t: targets from the first view, same shape.
        t_prime: targets from the other view, same shape.
        normalise: whether to divide each vector by its length. If not, the loss of a linear model
            is quartic in its weights, and :func:`sslstep.dynamics.self_distillation` solves its
            dynamics.

    Example:
        >>> import jax.numpy as jnp
        >>> from sslstep import losses
        >>> z = jnp.eye(2)
        >>> float(losses.prediction_error(z, z, z, z)), float(losses.prediction_error(z, z, -z, z))
        (0.0, 4.0)
    """
    q, t_prime = pair(q, t_prime)
    q_prime, t = pair(q_prime, t)
    vectors = [q, q_prime, t, t_prime]
    _check.require_one_shape("q and q_prime", q, q_prime)
    if normalise:
        vectors = [unit(vector) for vector in vectors]
    q, q_prime, t, t_prime = vectors
    return jnp.mean(jnp.sum((q - t_prime) ** 2 + (q_prime - t) ** 2, axis=1))


def reconstruction_error(
    prediction: Float[ArrayLike, "n p"],
    truth: Float[ArrayLike, "n p"],
    hidden: Float[ArrayLike, "n p"],
) -> Float[Array, ""]:
    r"""Compute the mean squared error on hidden pixels of masked autoencoders (He et al. 2022).

    .. math:: \mathcal{L} = \frac{\sum_{i, a} w_{ia} (\hat x_{ia} - x_{ia})^2}{\sum_{i, a} w_{ia}}

    with image i, pixel value a, its prediction :math:`\hat x` and the weights w. The outputs of
    :class:`sslstep.train.Reconstruction` are the arguments of this loss. If the weights sum to less
    than 1, the loss is the numerator.

    Args:
        prediction: predicted pixel values, shape ``(n, p)``, n at least 2.
        truth: true pixel values, same shape.
        hidden: weights w ≥ 0, same shape: 1 for values that the network did not see, else 0.

    Returns:
        The loss, a scalar, float32 or float64; 0 if nothing is hidden.

    Example:
        >>> import jax.numpy as jnp
        >>> from sslstep import losses
        >>> truth = jnp.array([[1.0, 2.0], [3.0, 4.0]])
        >>> float(losses.reconstruction_error(0 * truth, truth, (truth > 2).astype(float)))
        12.5
    """
    prediction, truth = pair(prediction, truth)
    (weights,) = _check.as_floats(hidden)
    _check.require_shape("hidden", weights, truth.shape, ", as truth")
    weights = weights.astype(truth.dtype)
    total = jnp.sum(weights * (prediction - truth) ** 2)
    return total / jnp.maximum(jnp.sum(weights), 1)
