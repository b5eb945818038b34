r"""Growing modes of a kernel machine, and plateaus of its loss, for any loss."""

import os
from collections.abc import Callable
from functools import partial
from typing import Any, Literal

import jax
import jax.numpy as jnp
import numpy as np
import scipy.optimize
from jax.typing import ArrayLike
from jaxtyping import Array, Float, Key, Real, UInt32

from sslstep import _check
from sslstep._linalg import computed_in, matmul
from sslstep._second_variation import negative_hessian, value
from sslstep.kernel_pca._machine import factorised
from sslstep.kernel_pca._modes import (
    Kernel,
    KernelModes,
    Options,
    block_dtype,
    leading_modes,
    require_dim,
    require_kernel,
    warn_if_few,
)

#: Number of random new dimensions from which the search for each plateau starts.
NUM_STARTS = 4

Shapes = tuple[tuple[int, int], tuple[int, int]]


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
    folder: str | os.PathLike[str] | None = None,
    progress: bool | None = None,
) -> KernelModes:
    r"""Modes that grow under any loss, given the embeddings learned so far, and their rates.

    Let z be the embeddings in the k learned dimensions, and u a small additional dimension. A loss
    that is even in each dimension expands as
    :math:`L([z, u]) = L(z) + \tfrac12 u^\top H u + \dots`, and gradient flow of a kernel machine
    moves u by :math:`u' = -\tilde K H u`. With :math:`u = \tilde K c` the modes are

    .. math:: -H \tilde K c_j = \rho_j c_j, \qquad c_j^\top \tilde K c_j = 1,

    and :math:`u = e^{\rho_j t} \tilde K c_j` grows from any small start if ρ > 0. This is the
    problem of :func:`contrastive_modes` with another symmetric operator in place of its P: for the
    simplified Barlow Twins loss, without learned dimensions, H is :math:`-(2/n) P` and ρ is 4γ. H
    is never formed: each ``dim`` - k columns of a product cost one derivative of the loss's
    gradient.

    Without ``embeddings`` the rates are those of the first step. With the embeddings of a plateau
    they are those of the next step.

    Args:
        kernel: K̃ over all views of n samples, one view after the other, N = V n: an array
            ``(N, N)``, or a function from a block ``(N, b)`` to its product with K̃. See
            :func:`contrastive_modes`.
        loss_fn: a JAX function from one array ``(n, d)`` for each view to a scalar. It must be even
            in each dimension, treat all dimensions alike, and not depend on the order of the
            samples.
        dim: the embedding dimension d, and the number of modes. With k dimensions learned, only the
            first d - k modes can still be learned.
        num_views: V.
        embeddings: the learned embeddings, as rows in the kernel's order, shape ``(N, k)`` with
            k < d, one column for each learned dimension; default: none. If the learned dimensions
            Z are rotated over more than k columns, and the loss is invariant under rotations,
            rotate them back: take k columns of :math:`Z V`, where :math:`Z = U S V^\top`. The
            embeddings are constants: derivatives do not go through them.
        solver: ``"auto"``, ``"krylov"`` or ``"dense"``: see :func:`contrastive_modes`.
        num_pairs: n, for a kernel given as a function.
        dtype: dtype of the blocks, for a kernel given as a function; None: the default float.
        tol: largest residual of a mode, relative to ρ, in the Krylov solver.
        max_iterations: largest number of products of a block with the kernel.
        block_size: number of columns of a block, more than ``dim``.
        key: random key of the first block; a fixed key by default.
        folder: folder that keeps the products, to continue an interrupted solve: see
            :func:`contrastive_modes`. Products do not depend on the loss.
        progress: whether to show a progress bar; None: on a terminal, after 10 s.

    Returns:
        :class:`KernelModes` with d modes, whose eigenvalues are the rates ρ. A mode that does not
        grow has a rate of zero or less.

    Raises:
        ValueError: if :func:`contrastive_modes` rejects the kernel or the options; or if
            ``loss_fn`` does not return a scalar, depends on the order of the samples, is not even
            in each dimension, treats dimensions differently, is not twice differentiable, is not
            finite, or has no expansion at zero. Losses that normalise each embedding have none at
            zero, but have one with ``embeddings``.
        TypeError: if JAX cannot trace ``loss_fn`` as a function of the views.
        sslstep.kernel_pca.ConvergenceError: if the Krylov solver does not meet ``tol``.

    Example:
        >>> import jax, jax.numpy as jnp
        >>> from sslstep import kernel_pca, losses
        >>> x = jax.random.normal(jax.random.key(0), (40, 6))
        >>> modes = kernel_pca.growth_modes(x @ x.T, losses.simplified_barlow_twins, 2)
        >>> wanted = 4 * kernel_pca.contrastive_modes(x @ x.T, 2).eigenvalues
        >>> bool(jnp.allclose(modes.eigenvalues, wanted, rtol=1e-5))
        True
    """
    _check.require_within("num_views", num_views, at_least=1)
    size = require_kernel(kernel, num_views, num_pairs)
    require_dim(dim, size // num_views)
    options = Options(solver, dtype, tol, max_iterations, block_size, key, folder, progress)
    given = computed_in(block_dtype(kernel, dtype))
    hessian = negative_hessian(loss_fn, embeddings, size, dim, num_views=num_views, dtype=given)
    modes = leading_modes(kernel, size, dim, options, hessian, 1.0)
    free = dim - hessian.learned.shape[1]
    warn_if_few(modes.eigenvalues[:free], "do not grow from here")
    return modes


def plateaus(
    kernel: Real[ArrayLike, "N N"],
    loss_fn: Callable[..., Any],
    dim: int,
    *,
    num_views: int = 2,
    max_iterations: int = 3000,
) -> Float[Array, " levels"]:
    r"""Levels of the loss's plateaus: its minimum over embeddings of rank k, for k = 0...d.

    While k dimensions are learned, the embeddings have rank k, and gradient flow rests at a minimum
    of the loss over embeddings of this rank in the kernel's range:

    .. math:: L_k = \min_{B, D} L(A B D), \qquad \tilde K = A A^\top, \quad
        B \in \mathbb{R}^{r \times k}, \; D \in \mathbb{R}^{k \times d}

    For the simplified Barlow Twins loss it is d - k, as long as γ is positive. If the loss is not
    invariant under rotations, as for VICReg, the learned dimensions may be spread over all d
    coordinates or lie along k of them. Both are tried, and the lower loss is returned. VICReg's
    weights may therefore have any ratio, unlike in the closed form
    :func:`sslstep.dynamics.vicreg_plateau`.

    From the kernel's rank on the levels are equal. The minimum is the lowest that L-BFGS finds, in
    float64, starting from the minimum for k - 1 and a small random dimension, several times. If the
    loss has a kink, such as VICReg's hinge, L-BFGS stops short of the minimum. It then starts where
    Adam with a decaying learning rate ends, and the minimum is accurate to 1%. Gradient flow
    reaches it once its slowest direction has converged; if the kernel has small eigenvalues, the
    next step may come earlier.

    Args:
        kernel: K̃ over all views of n samples, one view after the other, shape ``(N, N)``.
        loss_fn: a JAX function from one array ``(n, d)`` for each view to a scalar.
        dim: the embedding dimension d.
        num_views: V, with N = V n.
        max_iterations: largest number of iterations of L-BFGS, and number of Adam's, in a search.

    Returns:
        The losses :math:`L_0 \dots L_d`, shape ``(d + 1,)``; they do not increase.

    Raises:
        ValueError: if the kernel or ``dim`` does not fit, or the loss of zeros is not finite.

    Example:
        >>> import jax
        >>> from sslstep import kernel_pca, losses
        >>> x = jax.random.normal(jax.random.key(0), (40, 4))
        >>> x = x.at[20:].set(x[:20])
        >>> kernel_pca.plateaus(x @ x.T, losses.simplified_barlow_twins, 2).round(3) + 0.0
        Array([2., 1., 0.], dtype=float32)
    """
    _check.require_symmetric("kernel", kernel)
    size = require_kernel(kernel, num_views, None)
    require_dim(dim, size // num_views)
    factor, _ = factorised(np.asarray(kernel, np.float64))
    # With columns of equal length the minimum is the same, and small eigenvalues do not slow the
    # search. Elements of B are of order one.
    rank = factor.shape[1]
    factor *= (size / max(rank, 1)) ** 0.5 / np.linalg.norm(factor, axis=0)
    rng = np.random.default_rng(0)
    options: Any = {
        "maxiter": max_iterations,
        "maxfun": 4 * max_iterations,
        "ftol": 1e-13,
        "gtol": 1e-10,
    }
    bases = {"own": np.eye(dim), "turned": np.linalg.qr(rng.standard_normal((dim, dim)))[0]}
    with jax.enable_x64(True):
        zero = float(value(loss_fn, num_views, jnp.zeros((size, dim))))
        if not np.isfinite(zero):
            raise ValueError(f"loss_fn must be finite for embeddings of zeros, got {zero}.")
        given = loss_fn, num_views, jnp.asarray(factor)
        graded, annealed = partial(_graded, *given), partial(_annealed, *given)

        def minimum(start: np.ndarray, shapes: Shapes) -> Any:
            return scipy.optimize.minimize(
                graded, start, args=(shapes,), jac=True, method="L-BFGS-B", options=options
            )

        found = [zero]
        runs = {which: (np.zeros((rank, 0)), axes[:0]) for which, axes in bases.items()}
        highest = min(dim, rank)
        kink = False  # whether a search ended at one
        for k in range(1, highest + 1):
            # At the kernel's rank k bounds nothing: more columns of B leave fewer local minima.
            width = dim if k == rank else k
            shapes = (rank, width), (width, dim)
            lowest = []
            for which, axes in bases.items():
                before, mix = runs[which]
                starts = []
                for _ in range(NUM_STARTS):
                    new = rng.standard_normal((rank, width - k + 1))
                    new *= 0.1 / np.sqrt(np.mean((factor @ new) ** 2))
                    start = np.hstack([before, new]), np.vstack([mix, axes[k - 1 : width]])
                    starts.append(np.concatenate([part.ravel() for part in start]))
                results = [] if kink else [minimum(start, shapes) for start in starts]
                kink = kink or _is_kink(_lowest(results), graded(starts[0], shapes)[1])
                if kink:
                    ends = annealed(np.stack(starts), shapes, max_iterations)
                    results += [minimum(np.asarray(end), shapes) for end in ends]
                best = _lowest(results)
                runs[which] = _split(best.x, shapes)
                lowest.append(float(best.fun))
            found.append(min(found[-1], *lowest))
    found += found[-1:] * (dim - highest)
    return jnp.asarray(found, computed_in(_check.as_float("kernel", kernel).dtype))


def _loss(
    loss_fn: Callable[..., Any], num_views: int, features: Array, variables: Array, shapes: Shapes
) -> Array:
    b, d = _split(variables, shapes)
    return value(loss_fn, num_views, matmul(matmul(features, b), d))


_graded = jax.jit(jax.value_and_grad(_loss, argnums=3), static_argnums=(0, 1, 4))


def _split(variables: Any, shapes: Shapes) -> Any:
    """Return B and D, which are flattened in `variables`."""
    (rows, rank), _ = shapes
    return variables[: rows * rank].reshape(shapes[0]), variables[rows * rank :].reshape(shapes[1])


def _lowest(results: list[Any]) -> Any:
    """Return the result of the lowest loss; one that is NaN comes last."""
    return min(results, key=lambda result: np.nan_to_num(float(result.fun), nan=np.inf))


def _is_kink(best: Any, first: Array) -> bool:
    """Whether the gradient at the lowest result is not small beside the gradient at a start."""
    return bool(np.abs(best.jac).max() > 1e-4 * np.abs(first).max())


@partial(jax.jit, static_argnums=(0, 1, 4, 5))
def _annealed(
    loss_fn: Callable[..., Any],
    num_views: int,
    features: Array,
    starts: Array,
    shapes: Shapes,
    num_steps: int,
) -> Array:
    """Minimise from each start by Adam, its rate decaying to 1e-5: kinks do not stop it."""
    import optax

    optimizer = optax.adam(optax.exponential_decay(0.1, num_steps, 1e-4), b2=0.99)

    def from_one(start: Array) -> Array:
        def step(_: int, carry: Any) -> Any:
            variables, state = carry
            gradient = jax.grad(_loss, argnums=3)(loss_fn, num_views, features, variables, shapes)
            with jax.numpy_dtype_promotion("standard"):  # optax relies on it
                updates, state = optimizer.update(gradient, state)
            return variables + updates, state

        return jax.lax.fori_loop(0, num_steps, step, (start, optimizer.init(start)))[0]

    return jax.vmap(from_one)(starts)
