r"""What grows under any loss, and where it rests."""

from collections.abc import Callable
from typing import Any, Literal

import jax.numpy as jnp
from jaxtyping import Array, Float, Key, UInt32

from sslstep import _check
from sslstep._linalg import computed_in
from sslstep._second_variation import negative_hessian
from sslstep.kernel_pca._modes import (
    Kernel,
    KernelModes,
    Options,
    leading_modes,
    require_dim,
    require_kernel,
    warn_if_few,
)

__all__ = ["growth_modes"]


def growth_modes(
    kernel: Kernel,
    loss_fn: Callable[..., Any],
    dim: int,
    *,
    num_views: int = 2,
    embeddings: Float[Any, "N k"] | None = None,
    solver: Literal["auto", "krylov", "dense"] = "auto",
    num_pairs: int | None = None,
    dtype: Any = None,
    tol: float | None = None,
    max_iterations: int = 100,
    block_size: int | None = None,
    key: Key[Array, ""] | UInt32[Array, "2"] | None = None,
) -> KernelModes:
    r"""The modes that grow under any loss, from the embeddings that are learned so far.

    Let k dimensions have the embeddings z, and let u, one more, be small. A loss that is even in
    each dimension is :math:`L([z, u]) = L(z) + \tfrac12 u^\top H u + \dots`, and a kernel machine
    moves u by :math:`u' = -\tilde K H u`. With :math:`u = \tilde K c` its modes are

    .. math:: -H \tilde K c_j = \rho_j c_j, \qquad c_j^\top \tilde K c_j = 1,

    and :math:`u = e^{\rho_j t} \tilde K c_j` grows from any small start. It is the problem of
    :func:`contrastive_modes` with another symmetric operator: of the simplified Barlow Twins loss H
    is :math:`-(2/n) P` at zero, and ρ is 4γ. H is never formed: a block is multiplied by it in one
    derivative of the loss's gradient for each ``dim`` - k columns.

    From zero it gives the first rates. From the embeddings of a plateau it gives what grows there;
    :func:`plateaus` has those.

    Args:
        kernel: K̃ over all views of n samples, one view after the other, N = V n; in any form that
            :func:`contrastive_modes` takes.
        loss_fn: from one array ``(n, d)`` for each view to a scalar, in JAX, of d = ``dim``
            dimensions. It must be even in each dimension, treat all of them alike, and not see the
            order of the samples.
        dim: the embedding dimension d, and how many modes are found. With k dimensions learned,
            the first d - k of these have a place.
        num_views: V.
        embeddings: those learned, as rows in the kernel's order, shape ``(N, k)`` with k < d: one
            column for each dimension; default: none. Where learned dimensions are rotated into
            others, rotate them back first (the columns of :math:`Z V` where :math:`Z = U S V^\top`)
            if the loss allows it. They are constants: no derivative is taken by them.
        solver: as for :func:`contrastive_modes`.
        num_pairs: n, for a kernel given as a function.
        dtype: as for :func:`contrastive_modes`.
        tol: as for :func:`contrastive_modes`.
        max_iterations: as for :func:`contrastive_modes`.
        block_size: as for :func:`contrastive_modes`.
        key: as for :func:`contrastive_modes`.

    Returns:
        :class:`KernelModes` with k = d, whose eigenvalues are the rates ρ. A mode that does not
        grow has a rate of zero or less.

    Raises:
        ValueError: as :func:`contrastive_modes`; and if ``loss_fn`` does not return a scalar, sees
            the order of the samples, is odd in a dimension, treats dimensions differently, is not
            differentiable twice, is not finite, or has no expansion at zero, as losses that
            normalise each embedding (they have one with ``embeddings``).
        sslstep.kernel_pca.ConvergenceError: as :func:`contrastive_modes`.

    Example:
        >>> import jax, jax.numpy as jnp
        >>> from sslstep import kernel_pca, losses
        >>> x = jax.random.normal(jax.random.key(0), (40, 6))
        >>> modes = kernel_pca.growth_modes(x @ x.T, losses.simplified_barlow_twins, 2)
        >>> wanted = 4 * kernel_pca.contrastive_modes(x @ x.T, 2).eigenvalues
        >>> bool(jnp.allclose(modes.eigenvalues, wanted, rtol=1e-5))
        True
    """
    _check.require_at_least("num_views", num_views, 1)
    size = require_kernel(kernel, num_views, num_pairs)
    require_dim(dim, size // num_views)
    if callable(kernel):
        given = jnp.dtype(jnp.result_type(float) if dtype is None else dtype)
    else:
        given = _check.as_float("kernel", kernel[:1, :1]).dtype
    hessian = negative_hessian(
        loss_fn, embeddings, size, dim, num_views=num_views, dtype=computed_in(given)
    )
    options = Options(solver, dtype, tol, max_iterations, block_size, key)
    modes = leading_modes(kernel, size, dim, options, hessian, 1.0)
    warn_if_few(modes.eigenvalues)
    return modes
