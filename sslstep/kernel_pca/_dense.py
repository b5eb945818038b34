"""The modes by two eigendecompositions of the whole kernel, and their derivative."""

from collections.abc import Callable
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import ArrayLike
from jaxtyping import Array

from sslstep._linalg import eigh_descending, matmul, solver_error


@partial(jax.jit, static_argnames=("given",))
def solve(
    kernel: Array, operator: Callable[[Array], Array], scale: ArrayLike, given: np.dtype
) -> tuple[Array, Array, Array, Array, Array]:
    """γ, c, residuals and K̃ c of all modes of P K̃ c = s γ c, and the eigenvalues of K̃.

    `operator` is P, symmetric, a pytree; `scale` is s; `given` is the dtype to which K̃ was rounded
    before.
    """
    scale = jnp.asarray(scale, kernel.dtype)
    gammas, coefficients, spectrum = _all_modes(kernel, operator, scale, given)
    image = matmul(kernel, coefficients)
    norms = (
        jnp.linalg.norm(a, axis=0)
        for a in (operator(image) - coefficients * (scale * gammas)[None, :], coefficients)
    )
    residuals = next(norms) / jnp.where(gammas != 0, next(norms) * scale, 1)
    return gammas, coefficients, residuals, image, spectrum


@partial(jax.custom_jvp, nondiff_argnums=(3,))
def _all_modes(
    kernel: Array, operator: Callable[[Array], Array], scale: Array, given: np.dtype
) -> tuple[Array, Array, Array]:
    """With K̃ = B Bᵀ and Bᵀ P B y = s γ y, c = P B y / sγ: no inverse of K̃ here either."""
    size = kernel.shape[0]
    spectrum, vectors = eigh_descending(kernel)
    # The eigensolver's rounding, and that of entries to the given dtype: at most half an eps each,
    # and so that times ‖K̃‖_F.
    entries = jnp.linalg.norm(spectrum) / jnp.where(spectrum[0] > 0, spectrum[0], 1)
    entries = float(jnp.finfo(given).eps) / 2 * entries
    negligible = jnp.maximum(size * float(jnp.finfo(kernel.dtype).eps), entries)
    positive = spectrum > negligible * spectrum[0]
    root = jnp.where(positive, jnp.sqrt(jnp.where(positive, spectrum, 1)), 0)
    factor = vectors * root[None, :]
    turned = operator(factor)
    projected = matmul(factor.T, turned) / scale
    gammas, y = eigh_descending((projected + projected.T) / 2)
    usable = jnp.abs(gammas) > negligible * jnp.abs(gammas).max()
    gammas = jnp.where(usable, gammas, 0)
    scaled = y * jnp.where(usable, 1 / jnp.where(usable, scale * gammas, 1), 0)[None, :]
    return gammas, matmul(turned, scaled), spectrum


@_all_modes.defjvp
def _all_modes_jvp(given, primals, tangents):
    """Of P K̃ c = sγ c and cᵀ K̃ c = 1 themselves, where K̃ may be singular and its tangent not.

    P and s are constants.

    The left eigenvector of mode k is K̃ c_k. What they leave of P dK̃ c_j lies where P K̃ is
    nilpotent, of order two: the range of K̃ that P turns into its null space.
    """
    (kernel, operator, scale), (tangent, _, _) = primals, tangents
    size = kernel.shape[0]
    gammas, coefficients, spectrum = _all_modes(kernel, operator, scale, given)
    tangent = (tangent + tangent.T) / 2
    image = matmul(tangent, coefficients)
    inner = matmul(coefficients.T, image)  # c_kᵀ dK̃ c_j
    gaps = gammas[None, :] - gammas[:, None]
    tied = jnp.abs(gaps) <= solver_error(gammas, size)
    couplings = jnp.where(tied, 0, gammas[:, None] * inner / jnp.where(tied, 1, gaps))
    couplings -= jnp.diag(jnp.diagonal(inner)) / 2
    usable = gammas != 0
    inverse = jnp.where(usable, 1 / jnp.where(usable, scale * gammas, 1), 0)[None, :]
    rest = operator(image) - matmul(coefficients, scale * gammas[:, None] * inner)
    rest = rest * inverse
    rest += operator(matmul(kernel, rest)) * inverse
    coefficients_dot = matmul(coefficients, couplings) + rest
    spectrum_dot = jnp.zeros_like(spectrum)  # of which nothing is made
    return (gammas, coefficients, spectrum), (
        gammas * jnp.diagonal(inner),
        coefficients_dot,
        spectrum_dot,
    )
