"""Losses with positive and negative pairs: spectral contrastive, InfoNCE and SimCLR."""

from typing import Literal

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike
from jaxtyping import Array, Float, Real

from sslstep import _check
from sslstep._linalg import matmul
from sslstep.losses._batch import pair, unit


def spectral_contrastive(
    z: Float[ArrayLike, "n d"],
    z_prime: Float[ArrayLike, "n d"],
    *,
    negatives: Literal["others", "all"] = "others",
    radius: Real[ArrayLike, ""] | None = None,
) -> Float[Array, ""]:
    r"""Compute the spectral contrastive loss (HaoChen et al. 2021).

    .. math:: \mathcal{L} = -\frac2n \sum_i z_i \cdot z_i' + \mathrm{E} \, (z \cdot z^-)^2, \qquad
        \mathrm{E} \, (z \cdot z^-)^2 = \frac{1}{n(n-1)} \sum_{i \ne j} (z_i \cdot z_j')^2

    with the embeddings :math:`z_i, z_i'` of both views of sample i. With ``negatives="others"``, as
    in the publication's code, the expectation is over pairs of one embedding of each view from
    different samples. With ``negatives="all"`` it is over all pairs of the 2n embeddings,
    :math:`\| \frac{1}{2n} \sum z z^\top \|_F^2`, which differs by O(1/n).

    Theory solves the second form. For a linear model with weights W it is
    :math:`-2 \mathrm{Tr}(W \Gamma W^\top) + \|W \Sigma W^\top\|_F^2`, where Γ is the
    cross-correlation of the views and Σ the second moment of all 2n inputs. A mode with eigenvalue
    γ of Γ first grows at rate 4γ. Training ends at the modes of
    :func:`sslstep.linear.pencil_modes`.

    Args:
        z: embeddings of one view, shape ``(n, d)``, n at least 2.
        z_prime: embeddings of the other view of the same samples, same shape.
        negatives: pairs of the second term: ``"others"`` or ``"all"``.
        radius: radius r > 0; traced. Embeddings longer than r are shortened to r, and the loss is
            divided by r². The publication's code uses r = 1. Default: neither.

    Raises:
        ValueError: if ``negatives`` is unknown, or ``radius`` is not a positive number.

    Example:
        >>> import jax.numpy as jnp
        >>> from sslstep import losses
        >>> z = jnp.array([[1.0, 0.0], [1.0, 1.0]])
        >>> float(losses.spectral_contrastive(z, z))  # -2 (1 + 2) / 2 + 1
        -2.0
    """
    z, z_prime = pair(z, z_prime)
    _check.require_one_of("negatives", negatives, ("others", "all"))
    scale = jnp.ones((), z.dtype)
    if radius is not None:
        _check.require_scalar("radius", radius, above=0.0)
        scale = jnp.asarray(radius, z.dtype)
        z, z_prime = (_within(view, scale) for view in (z, z_prime))
    n = z.shape[0]
    agreement = jnp.sum(z * z_prime, axis=1)
    if negatives == "others":
        # The sum of all n² squared products is Tr(Zᵀ Z Z'ᵀ Z').
        squares = jnp.sum(matmul(z.T, z) * matmul(z_prime.T, z_prime)) - jnp.sum(agreement**2)
        repulsion = squares / (n * (n - 1))
    else:
        repulsion = jnp.sum(((matmul(z.T, z) + matmul(z_prime.T, z_prime)) / (2 * n)) ** 2)
    return (repulsion - 2 * jnp.mean(agreement)) / scale**2


def _within(z: Array, radius: Array) -> Array:
    squares = jnp.sum(z**2, axis=1, keepdims=True)
    far = squares > radius**2
    return z * jnp.where(far, radius * jax.lax.rsqrt(jnp.where(far, squares, 1)), 1)


def info_nce(
    z: Float[ArrayLike, "n d"],
    z_prime: Float[ArrayLike, "n d"],
    *,
    temperature: Real[ArrayLike, ""] = 0.07,
    normalise: bool = True,
) -> Float[Array, ""]:
    r"""Compute symmetric InfoNCE between two views or towers, as in CLIP (Radford et al. 2021).

    .. math:: \mathcal{L} = -\frac{1}{2n} \sum_i \left[
        \log \frac{e^{\ell_{ii}}}{\sum_j e^{\ell_{ij}}} +
        \log \frac{e^{\ell_{ii}}}{\sum_j e^{\ell_{ji}}} \right], \qquad
        \ell_{ij} = \frac{\hat z_i \cdot \hat z_j'}{\tau}, \qquad
        \hat z = \frac{z}{\max(|z|, 10^{-12})}

    with the embeddings :math:`z_i, z_i'` of both views of sample i and the temperature τ. The
    negatives of an embedding are the embeddings of the other view. (In :func:`simclr` they are
    those of both views.) CLIP learns τ, starting at 0.07. To learn it, make s a parameter and pass
    ``temperature=jnp.exp(-s)``; CLIP's code bounds :math:`e^s` by 100.

    Without normalisation (:math:`\hat z = z`) the loss has an expansion at zero embeddings. Its
    first term for a linear model with weights W is
    :math:`-\frac1\tau \mathrm{Tr}(W \Gamma W^\top)`, where Γ is the centred cross-correlation of
    the views. A mode with eigenvalue γ of Γ first grows at rate 2γ/τ. With normalisation there is
    no such expansion.

    Args:
        z: embeddings of one view, shape ``(n, d)``, n at least 2.
        z_prime: embeddings of the other view of the same samples, same shape.
        temperature: τ > 0; traced and differentiable.
        normalise: whether to divide each embedding by its length.

    Raises:
        ValueError: if ``temperature`` is not a positive number.

    Example:
        >>> import jax.numpy as jnp
        >>> from sslstep import losses
        >>> z = jnp.eye(2)
        >>> round(float(losses.info_nce(z, z, temperature=1.0)), 4)  # -log(e / (e + 1))
        0.3133
    """
    z, z_prime = pair(z, z_prime)
    _check.require_scalar("temperature", temperature, above=0.0)
    if normalise:
        z, z_prime = unit(z), unit(z_prime)
    logits = matmul(z, z_prime.T) / jnp.asarray(temperature, z.dtype)
    spread = jax.nn.logsumexp(logits, axis=1) + jax.nn.logsumexp(logits, axis=0)
    return jnp.mean(spread / 2 - jnp.diagonal(logits))


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

    Raises:
        ValueError: if ``temperature`` is not a positive number.

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
