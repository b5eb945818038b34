r"""What grows in a linear model under any loss."""

from collections.abc import Callable, Sequence
from typing import Any

import jax.numpy as jnp
from jax.typing import ArrayLike
from jaxtyping import Float, Real

from sslstep import _check
from sslstep._linalg import eigh_descending, matmul
from sslstep._second_variation import negative_hessian
from sslstep.linear._modes import Modes

__all__ = ["growth_modes"]


def growth_modes(
    loss_fn: Callable[..., Any],
    views: Sequence[Real[ArrayLike, "n m"]],
    num: int,
    *,
    embeddings: Float[ArrayLike, "N k"] | None = None,
    dim: int | None = None,
) -> Modes:
    r"""The directions that grow in a linear model under any loss, and their rates.

    With X the views' features, one view after the other, one more row w of W has the embedding
    :math:`u = X w`, and while it is small it moves by

    .. math:: w' = -X^\top H X \, w

    with H the second variation of the loss, as for :func:`sslstep.kernel_pca.growth_modes`, which
    is this where features are too many for a matrix. Of the simplified Barlow Twins loss at zero
    the matrix is 4Γ, of others that of :func:`second_moment` or a sum of both.

    Args:
        loss_fn: as for :func:`sslstep.kernel_pca.growth_modes`.
        views: features of each view of the same samples, each of shape ``(n, m)``.
        num: how many modes, at most m.
        embeddings: those learned so far, as rows, one view after the other, shape ``(N, k)``;
            default: none.
        dim: the embedding dimension d that the loss sees, more than k; default: ``num``, or k + 1
            if that is more. It matters to losses that take means over dimensions, as VICReg.

    Returns:
        :class:`Modes`: the rates ρ, and the directions in feature space as columns.

    Raises:
        ValueError: if shapes do not fit, and as :func:`sslstep.kernel_pca.growth_modes` about
            ``loss_fn``.

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
    shapes = {_check.require_matrix(f"views[{v}]", x, "(n, m)") for v, x in enumerate(views)}
    if len(shapes) != 1:
        raise ValueError(f"views must have one shape (n, m), got {sorted(shapes)}.")
    for v, view in enumerate(views):
        _check.require_finite(f"views[{v}]", view)
    precise = (_check.as_precise(f"views[{v}]", view) for v, view in enumerate(views))
    x = jnp.concatenate(_check.as_floats(*precise))
    size, features = x.shape
    if not 1 <= num <= features:
        raise ValueError(f"num must be between 1 and m = {features}, got {num}.")
    if dim is None:
        dim = max(num, 1 if embeddings is None else _check.shape_of(embeddings)[-1] + 1)
    hessian = negative_hessian(loss_fn, embeddings, size, dim, num_views=len(views), dtype=x.dtype)
    growth = matmul(x.T, hessian(x))
    eigenvalues, eigenvectors = eigh_descending((growth + growth.T) / 2)
    return Modes(eigenvalues[:num], eigenvectors[:, :num])
