"""SimCLR."""

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike
from jaxtyping import Array, Float, Real

from sslstep import _check
from sslstep._linalg import matmul
from sslstep.losses._batch import AxisName, axes, mean_of_devices, num_devices, pair


def simclr(
    z: Float[ArrayLike, "n d"],
    z_prime: Float[ArrayLike, "n d"],
    *,
    temperature: Real[ArrayLike, ""] = 0.1,
    axis_name: AxisName = None,
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
        z: embeddings of one view, shape ``(n, d)``, n of the whole batch at least 2.
        z_prime: embeddings of the other view of the same samples, same shape.
        temperature: τ > 0; traced.
        axis_name: of the devices that share the batch, as at the head of :mod:`sslstep.losses`.

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
    z, z_prime = pair(z, z_prime, axis_name)
    _check.require_scalar("temperature", temperature, above=0.0)
    here = jnp.concatenate([_unit(z), _unit(z_prime)])
    others, first = here, jnp.zeros((), jnp.int32)
    n = z.shape[0]
    total = n * num_devices(axis_name)
    if axis_name is not None:
        names, views = axes(axis_name), here.reshape(2, n, -1)
        others = jax.lax.all_gather(views, names, axis=1, tiled=True).reshape(2 * total, -1)
        first = jax.lax.axis_index(names) * n
    # Where this device's embeddings, and the other views of them, are among all.
    places = jnp.arange(2 * total, dtype=jnp.int32)
    own = first + jnp.concatenate([places[:n], total + places[:n]])
    positive = (own + total) % (2 * total)
    logits = matmul(here, others.T) / jnp.asarray(temperature, here.dtype)
    itself = own[:, None] == places[None, :]
    logits = jnp.where(itself, -jnp.inf, logits)
    agreement = jnp.take_along_axis(logits, positive[:, None], axis=1)[:, 0]
    loss = jnp.mean(jax.nn.logsumexp(logits, axis=1) - agreement)
    return mean_of_devices(loss, axis_name)


def _unit(z: Array) -> Array:
    return z * jax.lax.rsqrt(jnp.maximum(jnp.sum(z**2, axis=1, keepdims=True), 1e-24))
