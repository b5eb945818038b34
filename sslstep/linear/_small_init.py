r"""The aligned initialisation equivalent to a generic small one (Section 4.3, Appendix C)."""

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.scipy.special import betainc, betaln
from jax.typing import ArrayLike, DTypeLike
from jaxtyping import Array, Float, Key, Real, UInt32

from sslstep import _check
from sslstep._linalg import HIGHEST, matmul
from sslstep.dynamics import singular_value
from sslstep.linear._modes import Modes, leading_modes, require_weights


class Aligned(NamedTuple):
    r"""An aligned initialisation: :math:`W^*(0) = U \,\mathrm{diag}(s(0))\, V_d^\top` (Def. 4.5).

    Attributes:
        rotation: U, orthogonal, shape ``(d, d)``.
        singular_values: :math:`s_j(0) \ge 0`, shape ``(d,)``; in the order of the modes, not
            sorted.
    """

    rotation: Float[Array, "d d"]
    singular_values: Float[Array, " d"]


def init_weights(
    key: Key[Array, ""] | UInt32[Array, "2"],
    dim: int,
    num_features: int,
    init_scale: Real[ArrayLike, ""],
    dtype: DTypeLike = jnp.float32,
) -> Float[Array, "d m"]:
    r"""Draw :math:`W(0)_{ij} \sim \mathcal{N}(0, \alpha^2)` (Section 4.4).

    Args:
        key: a JAX random key.
        dim: the embedding dimension d.
        num_features: the number of features m.
        init_scale: the standard deviation α ≥ 0 of each weight.
        dtype: dtype of the weights.

    Returns:
        W(0), shape ``(d, m)``.

    Raises:
        ValueError: if α is negative, NaN or an array, or d is not in 1...m.

    Example:
        >>> import jax
        >>> from sslstep import linear
        >>> linear.init_weights(jax.random.key(0), dim=3, num_features=5, init_scale=1e-7).shape
        (3, 5)
    """
    _check.require_scalar("init_scale", init_scale, at_least=0.0)
    if not 1 <= dim <= num_features:
        raise ValueError(
            f"dim must be between 1 and num_features: got dim = {dim} with {num_features} "
            f"features. A linear model learns at most m dimensions."
        )
    return jnp.asarray(init_scale, dtype) * jax.random.normal(key, (dim, num_features), dtype)


def initial_singular_values(init_scale: Real[ArrayLike, ""], dim: int) -> Float[Array, " d"]:
    r"""Typical :math:`s_j(0)` of :math:`W \sim \mathcal{N}(0, \alpha^2)` (Eq. 21).

    .. math:: s_j(0) \approx \alpha \sqrt{d - j + 1}, \qquad j = 1 \dots d

    :math:`s_j(0)` is α times a chi variable with d − j + 1 degrees of freedom, the j-th diagonal
    element of R in :func:`align`. The returned value is its **root mean square**; at j = d the mean
    is 0.80 α and the median 0.67 α. For a given W use :func:`align`, which is exact.

    Args:
        init_scale: the standard deviation α ≥ 0 of each weight.
        dim: the embedding dimension d.

    Returns:
        s(0), shape ``(d,)``.

    Raises:
        ValueError: if α is negative, NaN or an array, or d < 1.

    Example:
        >>> from sslstep import linear
        >>> print(*(f"{s:.3f}" for s in linear.initial_singular_values(2.0, 4)))
        4.000 3.464 2.828 2.000
    """
    _check.require_scalar("init_scale", init_scale, at_least=0.0)
    _check.require_within("dim", dim, at_least=1)
    degrees = jnp.arange(dim, 0, -1, dtype=jnp.result_type(init_scale, float))
    return jnp.asarray(init_scale, degrees.dtype) * jnp.sqrt(degrees)


def align(weights: Float[ArrayLike, "d m"], modes: Modes) -> Aligned:
    r"""Aligned initialisation that is equivalent to a small W(0) (Definition 4.5, Result 4.6).

    .. math:: Q R = W(0) V_d, \qquad U = Q \,\mathrm{sign}(R_{jj}), \qquad s_j(0) = |R_{jj}|

    The columns of :math:`V_d` are the d leading eigenvectors :math:`v_j` of Γ. The aligned
    initialisation is :math:`W^*(0) = U \,\mathrm{diag}(s(0))\, V_d^\top`, and :math:`s_j(0)` is the
    length of the component of :math:`u_j = W(0) v_j` orthogonal to :math:`u_1 \dots u_{j-1}`.
    (Eq. 19 as printed gives it only if the :math:`u_k` are orthogonal.) The matrix A(0) of
    Appendix C (Eq. 43) is ``aligned.rotation.T @ weights @ modes.eigenvectors``.
    :func:`sslstep.kernel_pca.align` aligns embeddings of a kernel machine.

    Args:
        weights: W(0), shape ``(d, m)``.
        modes: at least the d leading modes of Γ.

    Returns:
        :class:`Aligned`, in float32 or wider.

    Raises:
        ValueError: if shapes do not fit, there are fewer than d modes, or values are not finite.

    Example:
        >>> import jax.numpy as jnp
        >>> from sslstep import linear
        >>> modes = linear.modes(jnp.diag(jnp.array([3.0, 2.0, 1.0])))
        >>> linear.align(jnp.array([[3.0, 1.0, 5.0], [4.0, 3.0, 5.0]]), modes).singular_values
        Array([5., 1.], dtype=float32)
    """
    require_weights(weights, modes.eigenvectors.shape[0])
    _check.require_finite("weights", weights)
    leading = leading_modes(modes, _check.shape_of(weights)[0])
    weights, vectors = _check.as_floats(
        _check.as_precise("weights", weights),
        _check.as_precise("modes.eigenvectors", leading.eigenvectors),
    )
    # The relative error of QR does not depend on α: no rescaling is needed.
    q, r = jnp.linalg.qr(matmul(weights, vectors))
    diagonal = jnp.diagonal(r)
    signs = jnp.where(diagonal < 0, -1, 1).astype(r.dtype)
    return Aligned(q * signs[None, :], diagonal * signs)


def small_init_trajectory(
    weights: Float[ArrayLike, "d m"],
    modes: Modes,
    *,
    learning_rate: Real[ArrayLike, ""] = 0.0,
) -> Callable[[Real[ArrayLike, "..."]], Float[Array, "... d m"]]:
    r"""Closed-form :math:`W^*(t)` from a small initialisation (Result 4.6).

    .. math:: W^*(t) = U \,\mathrm{diag}(s_1(t), \dots, s_d(t))\, V_d^\top

    with U and s(0) from :func:`align` and s(t) from Eq. 10. As the scale α of W(0) tends to 0, the
    largest distance over t between W(t) and :math:`W^*(t)` tends to 0 as :math:`\alpha^\beta`, with
    β from :func:`alignment_exponent`.

    Args:
        weights: W(0), shape ``(d, m)``.
        modes: at least the d leading modes of Γ.
        learning_rate: 0 for gradient flow, or the learning rate of gradient descent: see
            :func:`sslstep.dynamics.singular_value`.

    Returns:
        A pure function from t ≥ 0, of any shape ``(...)``, to :math:`W^*(t)`, shape
        ``(..., d, m)``.

    Raises:
        ValueError: if :func:`align` raises it, or ``learning_rate`` is an array.

    Example:
        >>> import jax, jax.numpy as jnp
        >>> from sslstep import linear
        >>> gamma = jnp.diag(jnp.array([3.0, 2.0, 1.0, 0.5]))
        >>> weights = linear.init_weights(jax.random.key(0), 2, 4, 1e-6)
        >>> trajectory = linear.small_init_trajectory(weights, linear.modes(gamma))
        >>> [round(float(linear.loss(trajectory(t), gamma))) for t in (0.0, 1.35, 10.0)]
        [2, 1, 0]
    """
    _check.require_scalar("learning_rate", learning_rate)
    rotation, initial = align(weights, modes)
    leading = leading_modes(modes, rotation.shape[0])

    def trajectory(t: Real[ArrayLike, "..."]) -> Float[Array, "... d m"]:
        _check.require_within_on_host("t", t, at_least=0.0)
        values = singular_value(
            jnp.asarray(t)[..., None], leading.eigenvalues, initial, learning_rate=learning_rate
        )
        return jnp.einsum(
            "ij,...j,kj->...ik", rotation, values, leading.eigenvectors, precision=HIGHEST
        )

    return trajectory


def alignment_exponent(eigenvalues: Real[ArrayLike, " k"], dim: int) -> Float[Array, ""]:
    r"""The exponent β of Result 4.6: :math:`\sup_t \|W(t) - W^*(t)\|_F = \Theta(\alpha^\beta)`.

    Here α is the scale of W(0), and :math:`W^*` is :func:`small_init_trajectory`. By Eq. 48 the
    element (j, k) of :math:`A = U^\top W V` is of order :math:`\alpha^{1 - \gamma_k / \gamma_j}` at
    the end of training. The largest of these belongs to a learned mode j and the mode after it:

    .. math:: \beta = 1 - \max_{j \le d} \gamma_{j+1} / \gamma_j

    Args:
        eigenvalues: γ in descending order, the first d positive, shape ``(k,)``.
        dim: the embedding dimension d ≤ k.

    Returns:
        β, a scalar in [0, 1]; zero if two modes tie, and then Result 4.6 does not apply. With
        ``k = d`` the last mode counts as having no mode after it.

    Raises:
        ValueError: if ``eigenvalues`` or ``dim`` is not as described.

    Example:
        >>> import jax.numpy as jnp
        >>> from sslstep import linear
        >>> print(f"{linear.alignment_exponent(jnp.array([1.0, 0.5, 0.4, -0.3]), 2):.3f}")
        0.200
    """
    _check.require_vector("eigenvalues", eigenvalues, "(k,)")
    eigenvalues = jnp.asarray(eigenvalues)
    if not 1 <= dim <= eigenvalues.shape[0]:
        raise ValueError(
            f"dim must be between 1 and the number of eigenvalues, {eigenvalues.shape[0]}, got "
            f"{dim}."
        )
    _require_descending(eigenvalues, dim)
    behind = jnp.maximum(eigenvalues[1 : dim + 1], 0)
    return 1 - jnp.max(behind / eigenvalues[: behind.shape[0]], initial=0)


def elements(
    t: Real[ArrayLike, "..."],
    eigenvalues: Float[ArrayLike, " m"],
    initial: Float[ArrayLike, "d m"],
) -> Float[Array, "... d m"]:
    r"""Elements of A(t) from a small upper-triangular A(0), approximated by Eqs. 47 and 48.

    .. math:: A_{jj}(t) = s_j(t), \qquad
        A_{jk}(t) = A_{jk}(0) \left( \frac{s_j(t)}{s_j(0)} \right)^{\gamma_k / \gamma_j} (j < k),
        \qquad A_{jk} = 0 \; (j > k)

    where :math:`W = U A V^\top` (Eq. 44). The time t is that of Section 4; Appendix C's time is 4t.
    The approximation is accurate for k > d. For j < k ≤ d the elements change again when
    :math:`s_k` grows: see :func:`coupled_elements`.

    Args:
        t: effective time ≥ 0, any shape ``(...)``.
        eigenvalues: γ in descending order, the first d positive, shape ``(m,)``.
        initial: A(0), upper triangular, shape ``(d, m)``; ``U.T @ W(0) @ V`` with U from
            :func:`align`. Elements below the diagonal are ignored.

    Returns:
        A(t), shape ``(..., d, m)``.

    Raises:
        ValueError: if shapes do not fit, a time is negative, or γ or A(0) is not as described.

    Example:
        >>> import jax.numpy as jnp
        >>> from sslstep import linear
        >>> gammas = jnp.array([0.5, 0.25])
        >>> linear.elements(jnp.inf, gammas, jnp.array([[1e-4, 1e-4]])).round(4)
        Array([[1.4142, 0.0119]], dtype=float32)
    """
    _check.require_within_on_host("t", t, at_least=0.0)
    eigenvalues, initial = _require_elements(eigenvalues, initial)
    dim, size = initial.shape
    leading, start = eigenvalues[:dim], jnp.diagonal(initial)
    values = singular_value(jnp.asarray(t, initial.dtype)[..., None], leading, start)
    # The power of s(t) / s(0) could overflow: multiply the small A(0) by three cube roots of it.
    log_growth = jnp.log(values) - _expand(jnp.log(start), values)
    # Keep the ratio for j < k only: below the diagonal it exceeds 1, and the power would overflow.
    ratio = jnp.triu(eigenvalues[None, :] / leading[:, None], 1)
    growth = jnp.exp(log_growth[..., None] * _expand(ratio, log_growth[..., None]) / 3)
    upper = _expand(jnp.triu(initial, 1), growth) * growth * growth * growth
    return upper + values[..., None] * _expand(jnp.eye(dim, size, dtype=initial.dtype), growth)


def coupled_elements(
    t: Real[ArrayLike, "..."],
    eigenvalues: Float[ArrayLike, " m"],
    initial: Float[ArrayLike, "d m"],
) -> Float[Array, "... d m"]:
    r"""Elements of A(t), with the coupling of learned modes that Eq. 48 neglects.

    While :math:`s_k` grows (k ≤ d), the elements :math:`A_{jk}` and :math:`A_{kj}` of a learned
    mode j < k change together, and drive the cross-correlation :math:`C_{jk}` to zero. To first
    order in these elements, with :math:`r = \gamma_j / \gamma_k`, :math:`\lambda = \lambda_k(t)`,
    and :math:`A_{jk}^{(48)}` the value of Eq. 48 (:func:`elements`),

    .. math:: A_{jk} = A_{jk}^{(48)}
        \left[ (1 - \lambda)^{(r-1)/2} + \sqrt\lambda\, g(\lambda) \right],
        \quad A_{kj} = -\sqrt{\gamma_k / \gamma_j}\; A_{jk}^{(48)}
        \left[ \sqrt\lambda\, (1 - \lambda)^{(r-1)/2} + g(\lambda) \right],

    .. math:: g(\lambda) = (r - 1) \int_0^{\sqrt\lambda} (1 - v^2)^{(r-3)/2}\, dv
        = \frac{\sqrt\pi\, \Gamma(\frac{r+1}{2})}{\Gamma(\frac r2)}\,
        I_\lambda\left(\tfrac12, \tfrac{r-1}{2}\right)

    where Γ(·) is the gamma function and I the regularised incomplete beta function. At the end of
    training :math:`A_{jk}` is :math:`g(1)` times the value of Eq. 48 (π/2 times at r = 2), and
    :math:`A_{kj} = -\sqrt{\gamma_k / \gamma_j} A_{jk}`. Elements below the diagonal therefore do
    not stay zero; they vanish with the initial scale at the same rate as those above it.

    The formula assumes that mode j is learned before mode k starts. Its relative error is about
    :math:`\epsilon = (\sqrt{\gamma_j}\, s_j(0))^{1 - \gamma_k / \gamma_j}`, the size that mode k
    has reached when mode j is learned. From :math:`s(0) = 10^{-8}` it is 0.1% at
    :math:`\gamma_k / \gamma_j = 0.65`, 2% at 0.8, 14% at 0.9 and 62% at 0.97. For closer modes use
    a smaller start, or :func:`sslstep.simulate.gradient_flow`. The function is not meant to be
    differentiated: JAX has no derivative of I by its parameters, and other derivatives are not
    finite once λ has rounded to 1. docs/errata.md has the derivation.

    Args:
        t: effective time ≥ 0, any shape ``(...)``.
        eigenvalues: γ in descending order, the first d positive and distinct, shape ``(m,)``.
        initial: A(0), upper triangular, shape ``(d, m)``. Elements below the diagonal are ignored.

    Returns:
        A(t), shape ``(..., d, m)``.

    Raises:
        ValueError: under the conditions of :func:`elements`, or if γ ties within the first d.

    Example:
        >>> import jax.numpy as jnp
        >>> from sslstep import linear
        >>> gammas = jnp.array([0.5, 0.25])
        >>> start = jnp.array([[1e-4, 1e-4], [0.0, 1e-4]])
        >>> linear.coupled_elements(jnp.inf, gammas, start).round(4)
        Array([[ 1.4142,  0.0187],
               [-0.0132,  2.    ]], dtype=float32)
    """
    eigenvalues, initial = _require_elements(eigenvalues, initial, distinct=True)
    dim, size = initial.shape
    first = elements(t, eigenvalues, initial)
    leading = eigenvalues[:dim]
    square = first[..., :, :dim]
    values = jnp.diagonal(square, 0, -2, -1)
    lam = jnp.clip(_expand(leading, values) * values * values, 0, 1)  # γ s², without s²
    pairs = jnp.triu(jnp.ones((dim, dim), bool), 1)  # j < k <= d
    ratio = jnp.where(pairs, leading[:, None] / leading[None, :], 2)  # r; 2 stands where unused
    limit = jnp.pi * jnp.exp(-betaln(0.5, ratio / 2))  # g(1), as π / B(½, r/2)
    lam, half = jnp.broadcast_to(lam[..., None, :], square.shape), jnp.full_like(square, 0.5)
    power = jnp.broadcast_to(_expand((ratio - 1) / 2, square), square.shape)
    g = _expand(limit, square) * betainc(half, power, lam)
    fading = (1 - lam) ** power
    plateau = jnp.where(pairs, square, 0)
    upper = plateau * (fading + jnp.sqrt(lam) * g)
    below = -plateau * (jnp.sqrt(lam) * fading + g) / _expand(jnp.sqrt(ratio), square)
    keep = _expand(~jnp.eye(dim, size, dtype=bool) & (jnp.arange(size)[None, :] < dim), first)
    coupled = upper + jnp.swapaxes(below, -2, -1)
    padded = jnp.pad(coupled, [(0, 0)] * (coupled.ndim - 1) + [(0, size - dim)])
    return jnp.where(keep, padded, first)


def _require_elements(
    eigenvalues: ArrayLike, initial: ArrayLike, *, distinct: bool = False
) -> tuple[Array, Array]:
    rows, columns = _check.require_matrix("initial", initial, "(d, m)")
    if rows > columns or _check.shape_of(eigenvalues) != (columns,):
        raise ValueError(
            f"initial must have shape (d, m) with d <= m and eigenvalues shape (m,), got "
            f"{(rows, columns)} and {_check.shape_of(eigenvalues)}."
        )
    eigenvalues = _check.as_float("eigenvalues", eigenvalues)
    initial = _check.as_float("initial", initial)
    _require_descending(eigenvalues, rows, distinct=distinct)
    if _check.is_concrete(initial):
        diagonal = np.diagonal(np.asarray(initial))
        if not (diagonal > 0).all():
            raise ValueError(f"initial must be positive on its diagonal, got {diagonal}.")
    return eigenvalues, initial


def _require_descending(eigenvalues: Array, dim: int, *, distinct: bool = False) -> None:
    """Raise ValueError if eigenvalues do not descend, or the first `dim` are not all positive.

    With `distinct`, also raise if two of the first `dim` are equal. Traced values are not checked.
    """
    if not _check.is_concrete(eigenvalues):
        return
    row = np.asarray(eigenvalues)
    if not (row[:-1] >= row[1:]).all():
        raise ValueError(f"eigenvalues must be in descending order, got {row}.")
    if not row[dim - 1] > 0:
        raise ValueError(f"eigenvalues must have the first d = {dim} positive, got {row[:dim]}.")
    if distinct and not (row[: dim - 1] > row[1:dim]).all():
        raise ValueError(f"eigenvalues must have the first d = {dim} distinct, got {row[:dim]}.")


def _expand(value: Array, like: Array) -> Array:
    """Prepend axes of size 1 to `value`, up to the rank of `like`."""
    return value.reshape((1,) * (like.ndim - value.ndim) + value.shape)
