"""Contrastive losses besides SimCLR: the spectral one, and InfoNCE between two towers."""

from typing import Literal

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike
from jaxtyping import Array, Float, Real

from sslstep import _check
from sslstep._linalg import matmul
from sslstep.losses._batch import pair, unit

__all__ = ["info_nce", "spectral_contrastive"]


def spectral_contrastive(
    z: Float[ArrayLike, "n d"],
    z_prime: Float[ArrayLike, "n d"],
    *,
    negatives: Literal["others", "all"] = "others",
    radius: Real[ArrayLike, ""] | None = None,
) -> Float[Array, ""]:
    r"""The spectral contrastive loss (HaoChen et al. 2021).

    .. math:: \mathcal{L} = -\frac2n \sum_i z_i \cdot z_i' + \mathrm{E} \, (z \cdot z^-)^2, \qquad
        \mathrm{E} \, (z \cdot z^-)^2 = \frac{1}{n(n-1)} \sum_{i \ne j} (z_i \cdot z_j')^2

    with one embedding of each view from different samples as negatives, as the publication's code
    has it; it divides both terms by the square of ``radius``. With ``negatives="all"`` the
    expectation is over all pairs of the 2n embeddings,
    :math:`\| \frac{1}{2n} \sum z z^\top \|_F^2`, which differs from it by O(1/n) and is the form
    that theory solves: of a linear model
    :math:`-2 \mathrm{Tr}(W \Gamma W^\top) + \|W \Sigma W^\top\|_F^2`, whose first rates are 4γ and
    which ends at the modes of :func:`sslstep.linear.pencil_modes`.

    Args:
        z: embeddings of one view, shape ``(n, d)``, n at least 2.
        z_prime: embeddings of the other view of the same samples, same shape.
        negatives: ``"others"`` or ``"all"``.
        radius: embeddings longer than this are first brought to it, and the loss is divided by its
            square, as in the publication's code, with 1; traced. Default: neither.

    Returns:
        The loss, a scalar, float32 or float64.

    Raises:
        ValueError: if the shapes differ or are not ``(n, d)``, are empty, values are not finite,
            the batch is of one sample, ``negatives`` is unknown, or ``radius`` is not positive.

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
        # Of the (n, n) products no more than their squares' sum is needed: Tr(Zᵀ Z Z'ᵀ Z').
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
    r"""InfoNCE between two views or towers, both ways, as CLIP has it (Radford et al. 2021).

    .. math:: \mathcal{L} = -\frac{1}{2n} \sum_i \left[
        \log \frac{e^{\ell_{ii}}}{\sum_j e^{\ell_{ij}}} +
        \log \frac{e^{\ell_{ii}}}{\sum_j e^{\ell_{ji}}} \right], \qquad
        \ell_{ij} = \frac{\hat z_i \cdot \hat z_j'}{\tau}, \qquad
        \hat z = \frac{z}{\max(|z|, 10^{-12})}

    An embedding's negatives are the other view's; :func:`simclr` has both views' among them. CLIP
    learns τ, from 0.07: make it a parameter :math:`s` and give ``temperature=jnp.exp(-s)``; its
    code keeps :math:`e^s` at 100 at most.

    Without normalisation, :math:`\hat z = z`, it has an expansion at zero:
    :math:`-\frac1\tau \mathrm{Tr}(W \Gamma W^\top)` in a linear model, Γ centred, so that the first
    rates are 2γ/τ. With it there is none.

    Args:
        z: embeddings of one view, shape ``(n, d)``, n at least 2.
        z_prime: embeddings of the other view of the same samples, same shape.
        temperature: τ > 0; traced, and the loss can be differentiated by it.
        normalise: whether embeddings are brought to length 1.

    Returns:
        The loss, a scalar, float32 or float64.

    Raises:
        ValueError: if the shapes differ or are not ``(n, d)``, are empty, values are not finite,
            the batch is of one sample, or τ is not positive or an array.

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
