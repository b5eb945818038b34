"""SimCLR."""

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
    r"""SimCLR's normalised temperature-scaled cross entropy, NT-Xent (Chen et al. 2020).

    .. math:: \mathcal{L} = -\frac{1}{2n} \sum_{i=1}^{2n}
        \log \frac{\exp(\hat z_i \cdot \hat z_{p(i)} / \tau)}
        {\sum_{k \ne i} \exp(\hat z_i \cdot \hat z_k / \tau)}, \qquad
        \hat z = \frac{z}{\max(|z|, 10^{-12})}

    over the 2n embeddings of both views, p(i) being the other view of i: one positive and 2n - 2
    negatives for each. The publication's TensorFlow code adds the two views' means and so has
    exactly twice this.

    Args:
        z: embeddings of one view, shape ``(n, d)``, n at least 2.
        z_prime: embeddings of the other view of the same samples, same shape.
        temperature: τ > 0; traced.

    Returns:
        The loss, a scalar, float32 or float64.

    Raises:
        ValueError: if the shapes differ or are not ``(n, d)``, are empty, values are not finite,
            the batch is of one sample, or τ is not positive or an array.

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
    # The other view of each.
    positive = jnp.roll(jnp.arange(len(both), dtype=jnp.int32), len(z))
    agreement = jnp.take_along_axis(logits, positive[:, None], axis=1)[:, 0]
    return jnp.mean(jax.nn.logsumexp(logits, axis=1) - agreement)
