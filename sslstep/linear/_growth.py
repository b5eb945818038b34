r"""Growing directions of a linear model, and their rates, under any loss."""

from collections.abc import Callable, Sequence
from typing import Any

import jax.numpy as jnp
from jax.typing import ArrayLike
from jaxtyping import Float, Real

from sslstep import _check
from sslstep._linalg import eigh_descending, matmul
from sslstep._second_variation import negative_hessian
from sslstep.linear._modes import Modes


def growth_modes(
    loss_fn: Callable[..., Any],
    views: Sequence[Real[ArrayLike, "n m"]],
    num: int,
    *,
    embeddings: Float[ArrayLike, "N k"] | None = None,
    dim: int | None = None,
) -> Modes:
    r"""The directions that grow in a linear model under any loss, and their rates.

    A further row w of the model's weights gives one more embedding dimension :math:`u = X w`, where
    X holds the features of all views. While w is small, gradient flow moves it by

    .. math:: \frac{dw}{dt} = -X^\top H X \, w ,

    where H is the second derivative of the loss by u at zero. For the simplified Barlow Twins loss
    without learned embeddings, :math:`-X^\top H X = 4 \Gamma`. For other losses the matrix may
    contain the features' second moment (:func:`second_moment`). With too many features for an
    (m, m) matrix, use :func:`sslstep.kernel_pca.growth_modes`, which takes a kernel.

    Args:
        loss_fn: a JAX function from one array ``(n, d)`` for each view to a scalar. It must be even
            in each dimension, treat all dimensions alike, and not depend on the order of the
            samples.
        views: features of each view of the same samples, each of shape ``(n, m)``.
        num: number of modes, at most m.
        embeddings: embeddings of the k dimensions learned so far, one view after the other, shape
            ``(N, k)`` with N = n × number of views; default: none.
        dim: the embedding dimension d that the loss sees, more than k; default: the larger of
            ``num`` and k + 1. It matters to losses that take means over dimensions, such as VICReg.

    Returns:
        :class:`Modes`: the growth rates, in descending order, and the directions in feature space
        as unit columns. A direction with a negative rate decays.

    Raises:
        ValueError: if shapes do not fit, or ``loss_fn`` is not as described, not twice
            differentiable or not finite.

    Example:
        >>> import jax, jax.numpy as jnp
        >>> from sslstep import linear, losses
        >>> x, x_prime = jax.random.normal(jax.random.key(0), (2, 20, 6))
        >>> rates = linear.growth_modes(losses.simplified_barlow_twins, (x, x_prime), 3).eigenvalues
        >>> gammas = linear.modes(linear.cross_correlation(x, x_prime), 3).eigenvalues
        >>> bool(jnp.allclose(rates, 4 * gammas, rtol=1e-4))
        True
    """
    if not views:
        raise ValueError("views must hold at least one array of features (n, m).")
    x = jnp.concatenate(_check.views_of_one_shape(views))
    size, features = x.shape
    if not 1 <= num <= features:
        raise ValueError(f"num must be between 1 and m = {features}, got {num}.")
    if dim is None:
        dim = max(num, 1 if embeddings is None else _check.shape_of(embeddings)[-1] + 1)
    hessian = negative_hessian(loss_fn, embeddings, size, dim, num_views=len(views), dtype=x.dtype)
    growth = matmul(x.T, hessian(x))
    eigenvalues, eigenvectors = eigh_descending((growth + growth.T) / 2)
    return Modes(eigenvalues[:num], eigenvectors[:, :num])
