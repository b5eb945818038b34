r"""The feature cross-correlation matrix Γ, its eigenmodes, and the top spectral solution.

Also the directions that grow under any loss, and their rates.
"""

import warnings
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax.numpy as jnp
from jax.typing import ArrayLike
from jaxtyping import Array, Float, Real

from sslstep import _check
from sslstep._linalg import eigh_descending, matmul, solver_error
from sslstep._second_variation import negative_hessian


class Modes(NamedTuple):
    r"""Eigenmodes of a symmetric matrix :math:`\Gamma`, in descending order of eigenvalue.

    Attributes:
        eigenvalues: :math:`\gamma_1 \ge \dots \ge \gamma_k`, shape ``(k,)``. Γ is indefinite: its
            smallest eigenvalues are usually negative.
        eigenvectors: the orthonormal :math:`v_1 \dots v_k` as **columns**, shape ``(m, k)``, with
            arbitrary signs.
    """

    eigenvalues: Float[Array, " k"]
    eigenvectors: Float[Array, "m k"]


def cross_correlation(*views: Real[ArrayLike, "n p"], centre: bool = False) -> Float[Array, "p p"]:
    r"""Symmetrised cross-correlation of two or more views (Eqs. 2 and 4).

    The formula for two views a and b of n samples, and the one for V views :math:`x^v`, are

    .. math:: \frac{1}{2n} \sum_i \left( a_i b_i^\top + b_i a_i^\top \right), \qquad
        \frac{1}{nV(V-1)} \sum_i \sum_{v \ne v'} x_i^v x_i^{v'\top} .

    For features of positive pairs the matrix is :math:`\Gamma` (Eq. 4), for embeddings it is
    :math:`C` (Eq. 2). It is a moment, or a covariance with ``centre``. It is symmetric to the last
    bit, but need not be positive semidefinite.

    Args:
        views: two or more views of the same samples, in the same order, each of shape ``(n, p)``.
            Integers, such as pixels, are converted to the default float.
        centre: whether to subtract each view's mean first, for the cross-covariance with divisor n.

    Returns:
        The matrix, shape ``(p, p)``, in float32 or wider, because a sum in half precision can
        overflow although its mean does not.

    Raises:
        ValueError: if there are fewer than two views, their shapes differ, or values are not
            finite.

    Example:
        >>> import jax.numpy as jnp
        >>> from sslstep import linear
        >>> x = jnp.array([[1.0, 0.0], [0.0, 2.0]])
        >>> linear.cross_correlation(x, x)
        Array([[0.5, 0. ],
               [0. , 2. ]], dtype=float32)
    """
    if len(views) < 2:
        raise ValueError(f"a cross-correlation needs at least two views, got {len(views)}.")
    arrays = _views(views, centre)
    before, product = arrays[0], jnp.zeros((), arrays[0].dtype)
    for view in arrays[1:]:
        product, before = product + matmul(before.T, view), before + view
    num = len(arrays)
    return (product + product.T) / (num * (num - 1) * arrays[0].shape[0])


def second_moment(*views: Real[ArrayLike, "n p"], centre: bool = False) -> Float[Array, "p p"]:
    r"""Second moment Σ of the views: products of each view with itself, averaged over the views.

    .. math:: \Sigma = \frac{1}{nV} \sum_i \sum_v x_i^v x_i^{v\top}

    for V views :math:`x^v` of n samples. If the views are identical, Σ is the Γ of
    :func:`cross_correlation`. In losses that penalise the variance of embeddings it appears as
    :math:`W \Sigma W^\top`; see :func:`pencil_modes`.

    Args:
        views: one or more views of the same samples, each of shape ``(n, p)``.
        centre: whether to subtract each view's mean first, for the covariance with divisor n.

    Returns:
        The matrix, shape ``(p, p)``, positive semidefinite, in float32 or wider.

    Raises:
        ValueError: if there is no view, the shapes differ, or values are not finite.

    Example:
        >>> import jax.numpy as jnp
        >>> from sslstep import linear
        >>> linear.second_moment(jnp.array([[1.0], [3.0]]), jnp.array([[1.0], [1.0]]), centre=True)
        Array([[0.5]], dtype=float32)
    """
    if not views:
        raise ValueError("a second moment needs at least one view, got none.")
    arrays = _views(views, centre)
    total = sum((matmul(view.T, view) for view in arrays), jnp.zeros((), arrays[0].dtype))
    return (total + total.T) / (2 * len(arrays) * arrays[0].shape[0])


def _views(views: Sequence[ArrayLike], centre: bool) -> list[Array]:
    """Check the views, convert them to one floating dtype, and subtract means if asked."""
    arrays = _check.views_of_one_shape(views)
    return [a - a.mean(axis=0, keepdims=True) if centre else a for a in arrays]


def loss(weights: Real[ArrayLike, "d m"], gamma_matrix: Real[ArrayLike, "m m"]) -> Float[Array, ""]:
    r"""The simplified Barlow Twins loss of a linear model (Eqs. 1 and 5).

    .. math:: \mathcal{L}(W) = \| W \Gamma W^\top - I_d \|_F^2

    Its gradient is :math:`4 (W \Gamma W^\top - I) W \Gamma` (Eq. 6).

    Args:
        weights: W, shape ``(d, m)``.
        gamma_matrix: Γ, symmetric, shape ``(m, m)``.

    Returns:
        The loss, a scalar, in float32 or wider: d at W = 0, and 0 when all dimensions are learned.
        With d > m the loss is at least d - m.

    Raises:
        ValueError: if the shapes do not fit, Γ is not symmetric, or values are not finite.

    Example:
        >>> import jax.numpy as jnp
        >>> from sslstep import linear
        >>> float(linear.loss(jnp.zeros((3, 5)), jnp.eye(5)))
        3.0
    """
    _check.require_symmetric("gamma_matrix", gamma_matrix, _check.OF_DATA)
    require_weights(weights, _check.shape_of(gamma_matrix)[0])
    _check.require_finite("weights", weights)
    weights, gamma_matrix = _check.as_floats(
        _check.as_precise("weights", weights), _check.as_precise("gamma_matrix", gamma_matrix)
    )
    images = matmul(weights, gamma_matrix)
    correlation = matmul(images, weights.T)
    return jnp.sum((correlation - jnp.eye(weights.shape[0], dtype=correlation.dtype)) ** 2)


def modes(gamma_matrix: Real[ArrayLike, "m m"], num: int | None = None) -> Modes:
    r"""Eigenmodes of :math:`\Gamma` in descending order of eigenvalue.

    The derivative is finite at repeated eigenvalues too. Eigenvalues that differ by at most
    ``(8 + 4 sqrt(m)) eps max|γ|`` count as tied. Tied eigenvectors have no derivative, and its
    components within their span are set to zero. Derivatives of symmetric functions of the tied
    eigenvalues, and of the projector on their span, are then right. Derivatives of matrix
    functions, such as :math:`\sum_j \gamma_j v_j v_j^\top` or the top spectral solution's
    :math:`W^\top W`, are wrong at an exact tie: they miss the coupling of the tied directions.

    Args:
        gamma_matrix: Γ, symmetric, shape ``(m, m)``; from :func:`cross_correlation`.
        num: number of leading modes to keep; None: all m. Any number costs a full
            eigendecomposition.

    Returns:
        :class:`Modes` with ``k = num`` (or m) modes.

    Raises:
        ValueError: if Γ is not square, symmetric and finite, or ``num`` is not in 1...m.

    Example:
        >>> import jax.numpy as jnp
        >>> from sslstep import linear
        >>> linear.modes(jnp.diag(jnp.array([1.0, 3.0, -2.0])), num=2).eigenvalues
        Array([3., 1.], dtype=float32)
    """
    _check.require_symmetric("gamma_matrix", gamma_matrix, _check.OF_DATA)
    gamma_matrix = _check.as_precise("gamma_matrix", gamma_matrix)
    size = gamma_matrix.shape[0]
    if num is not None and not 1 <= num <= size:
        raise ValueError(f"num must be between 1 and m = {size}, the size of Γ, got {num}.")
    eigenvalues, eigenvectors = eigh_descending(gamma_matrix)
    return Modes(eigenvalues[:num], eigenvectors[:, :num])


def pencil_modes(
    gamma_matrix: Real[ArrayLike, "m m"], sigma_matrix: Real[ArrayLike, "m m"], num: int
) -> Modes:
    r"""Generalised eigenmodes of the matrix pencil (Γ, Σ), in descending order.

    .. math:: \Gamma v_j = \mu_j \Sigma v_j, \qquad v_i^\top \Sigma v_j = \delta_{ij}

    Training on a loss of :math:`W \Gamma W^\top` and :math:`W \Sigma W^\top` starts along the modes
    of Γ and ends along these modes. For example, :func:`sslstep.losses.spectral_contrastive` ends
    with the eigenvalues :math:`\mu_1 \dots \mu_d` of :math:`W \Sigma W^\top`. The μ are canonical
    correlations of the views, and at most 1 if Γ and Σ are of the same data.

    Args:
        gamma_matrix: Γ, symmetric, shape ``(m, m)``: see :func:`cross_correlation`.
        sigma_matrix: Σ, symmetric and positive semidefinite, shape ``(m, m)``: see
            :func:`second_moment`.
        num: number of leading modes to keep, at most the rank of Σ.

    Returns:
        :class:`Modes` with the eigenvalues μ. The eigenvectors are orthonormal in the inner product
        of Σ, and lie in its range. Eigenvalues of Σ up to ``(8 + 4 sqrt(m)) eps`` times the
        largest, the eigensolver's error, count as zero. Under a trace, where ``num`` is not
        checked, modes beyond the rank of Σ are zero.

    Raises:
        ValueError: if a matrix is not as described or not finite, or ``num`` is not in 1...rank.

    Example:
        >>> import jax.numpy as jnp
        >>> from sslstep import linear
        >>> gamma, sigma = jnp.diag(jnp.array([2.0, 3.0])), jnp.diag(jnp.array([4.0, 4.0]))
        >>> linear.pencil_modes(gamma, sigma, 1)
        Modes(eigenvalues=Array([0.75], dtype=float32), eigenvectors=Array([[0. ],
               [0.5]], dtype=float32))
    """
    for name, matrix in (("gamma_matrix", gamma_matrix), ("sigma_matrix", sigma_matrix)):
        _check.require_symmetric(name, matrix)
    _check.require_one_shape("gamma_matrix and sigma_matrix", gamma_matrix, sigma_matrix)
    gamma, sigma = _check.as_floats(
        _check.as_precise("gamma_matrix", gamma_matrix),
        _check.as_precise("sigma_matrix", sigma_matrix),
    )
    spectrum, vectors = eigh_descending(sigma)
    cutoff = solver_error(spectrum, len(spectrum))
    positive = spectrum > cutoff
    if _check.is_concrete(spectrum):
        if float(spectrum[-1]) < -float(cutoff):
            raise ValueError(
                f"sigma_matrix must be positive semidefinite, but has the eigenvalue "
                f"{float(spectrum[-1]):.3g} where its largest is {float(spectrum[0]):.3g}."
            )
        if not 1 <= num <= int(positive.sum()):
            raise ValueError(
                f"num must be between 1 and {int(positive.sum())}, the rank of sigma_matrix, got "
                f"{num}."
            )
    whitening = vectors * jnp.where(positive, jnp.where(positive, spectrum, 1) ** -0.5, 0)[None, :]
    projected = matmul(whitening.T, matmul(gamma, whitening))
    # In Σ's null space the pencil has no eigenvalue: put a value below all others there.
    below = 2 * jnp.abs(projected).sum() + 1
    projected = projected - jnp.diag(jnp.where(positive, 0, below))
    eigenvalues, turn = eigh_descending((projected + projected.T) / 2)
    known = jnp.arange(len(spectrum)) < positive.sum()
    eigenvalues, eigenvectors = jnp.where(known, eigenvalues, 0), matmul(whitening, turn)
    return Modes(eigenvalues[:num], eigenvectors[:, :num])


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


def top_spectral(modes: Modes, dim: int, *, tol: float | None = None) -> Float[Array, "d m"]:
    r"""The top spectral solution, to which small initialisation leads (Definition 4.2).

    .. math:: W = \mathrm{diag}(\gamma_j^{-1/2} 1_{\gamma_j > 0}) \, V_d^\top

    Here the rotation U of Definition 4.2 is the identity; U W is a solution for any orthogonal U.
    These solutions have the smallest Frobenius norm of all W with zero loss (Proposition 4.3):
    :math:`\|W\|_F^2 = \sum_j 1 / \gamma_j`.

    If Γ has fewer than d positive eigenvalues, the remaining rows of W are zero, the loss is their
    number, and a warning is issued.

    Args:
        modes: at least ``dim`` leading modes of Γ.
        dim: the embedding dimension d.
        tol: eigenvalues at or below ``tol`` count as zero. Default:
            ``(8 + 4 sqrt(m)) eps max|γ|``, a bound on the eigensolver's error. Use 0 for modes that
            are known exactly.

    Returns:
        W, shape ``(d, m)``.

    Raises:
        ValueError: if ``dim`` is not between 1 and the number of modes, or ``tol`` is an array.

    Example:
        >>> import jax.numpy as jnp
        >>> from sslstep import linear
        >>> modes = linear.modes(jnp.diag(jnp.array([4.0, 1.0, -1.0])))
        >>> linear.top_spectral(modes, 2)
        Array([[0.5, 0. , 0. ],
               [0. , 1. , 0. ]], dtype=float32)
    """
    leading = leading_modes(modes, dim)
    if tol is None:
        cutoff = solver_error(modes.eigenvalues, leading.eigenvectors.shape[0])
    else:
        _check.require_scalar("tol", tol)
        cutoff = jnp.asarray(tol, leading.eigenvalues.dtype)
    positive = leading.eigenvalues > cutoff
    if _check.is_concrete(positive) and not bool(positive.all()):
        missing = int(dim - positive.sum())
        warnings.warn(
            f"only {dim - missing} of the top {dim} eigenvalues are positive: {missing} row(s) "
            f"of the solution are zero and its loss is {missing}.",
            stacklevel=2,
        )
    root = jnp.where(positive, jnp.where(positive, leading.eigenvalues, 1) ** -0.5, 0)
    return (leading.eigenvectors * root[None, :]).T


def leading_modes(modes: Modes, dim: int) -> Modes:
    """Return the first `dim` modes; raise ValueError if there are fewer or values not finite."""
    _check.require_finite("modes.eigenvalues", modes.eigenvalues)
    _check.require_finite("modes.eigenvectors", modes.eigenvectors)
    available = modes.eigenvalues.shape[0]
    features = modes.eigenvectors.shape[0]
    if not 1 <= dim <= available:
        raise ValueError(
            f"dim must be between 1 and the number of modes: got dim = {dim} with {available} "
            f"mode(s) of Γ on {features} features (m). A linear model learns at most m dimensions."
        )
    return Modes(modes.eigenvalues[:dim], modes.eigenvectors[:, :dim])


def require_weights(weights: ArrayLike, features: int) -> None:
    rows, columns = _check.require_matrix("weights", weights, "(d, m)")
    if columns != features:
        raise ValueError(
            f"weights of shape {(rows, columns)} do not fit Γ on {features} features: wanted "
            f"(d, {features})."
        )
