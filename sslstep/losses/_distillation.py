"""Errors of predictions: of the other view's embeddings, and of hidden pixels."""

import jax.numpy as jnp
from jax.typing import ArrayLike
from jaxtyping import Array, Float

from sslstep import _check
from sslstep.losses._batch import pair, unit


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
