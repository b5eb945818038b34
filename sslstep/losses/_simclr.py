"""The loss of SimCLR."""

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike
from jaxtyping import Array, Float, Real

from sslstep import _check
from sslstep._linalg import matmul
from sslstep.losses._batch import pair, unit


def simclr(
    z: Float[ArrayLike, "n d"],
    z_prime: Float[ArrayLike, "n d"],
    *,
    temperature: Real[ArrayLike, ""] = 0.1,
) -> Float[Array, ""]:
    r"""Compute SimCLR's normalised temperature-scaled cross entropy (Chen et al. 2020).

    .. math:: \mathcal{L} = -\frac{1}{2n} \sum_{i=1}^{2n}
        \log \frac{\exp(\hat z_i \cdot \hat z_{p(i)} / \tau)}
        {\sum_{k \ne i} \exp(\hat z_i \cdot \hat z_k / \tau)}, \qquad
        \hat z = \frac{z}{\max(|z|, 10^{-12})}

    with the 2n embeddings :math:`z_i` of both views, the temperature τ, and the index p(i) of the
    other view of embedding i. Each embedding has one positive and 2n - 2 negatives. The
    publication's TensorFlow code adds the means over the two views, which gives exactly twice this
    loss.

    Args:
        z: embeddings of one view, shape ``(n, d)``, n at least 2.
        z_prime: embeddings of the other view of the same samples, same shape.
        temperature: τ > 0; traced.

    Returns:
        The loss, a scalar, float32 or float64.

    Raises:
        ValueError: if the shapes differ, are empty or are not ``(n, d)``, values are not finite, n
            is 1, or ``temperature`` is not a positive number.

    Example:
        >>> import jax.numpy as jnp
        >>> from sslstep import losses
        >>> z = jnp.eye(2)
        >>> round(float(losses.simclr(z, z, temperature=1.0)), 4)  # -log(e / (e + 2))
        0.5514
    """
    z, z_prime = pair(z, z_prime)
    _check.require_scalar("temperature", temperature, above=0.0)
    both = jnp.concatenate([unit(z), unit(z_prime)])
    logits = matmul(both, both.T) / jnp.asarray(temperature, both.dtype)
    logits = jnp.where(jnp.eye(len(both), dtype=bool), -jnp.inf, logits)
    # Index of the other view of each embedding.
    positive = jnp.roll(jnp.arange(len(both), dtype=jnp.int32), len(z))
    agreement = jnp.take_along_axis(logits, positive[:, None], axis=1)[:, 0]
    return jnp.mean(jax.nn.logsumexp(logits, axis=1) - agreement)
