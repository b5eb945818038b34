r"""Ridge regression in closed form, from one matrix decomposition of the features."""

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike
from jaxtyping import Array, Float, Integer, Real

from sslstep import _check
from sslstep._linalg import matmul
from sslstep.measure.probe._probe import Probe, require_labels, require_trained, share_right


def ridge(
    features: Float[ArrayLike, "n p"],
    targets: Real[ArrayLike, "n c"],
    regularisation: Real[ArrayLike, ""],
) -> Probe:
    r"""Fit ridge regression with an unpenalised bias.

    .. math:: \min_{W, b} \; \frac1n \sum_i \| W^\top h_i + b - y_i \|^2 + \mu \|W\|_F^2

    (scikit-learn's ``alpha`` is :math:`n \mu`.) The solution comes from a singular value
    decomposition of the centred features. Unlike the normal equations, this does not square the
    condition number. Singular values below ``10 sqrt(min(n, p)) eps`` of the largest count as zero.

    Args:
        features: h, shape ``(n, p)``.
        targets: y, shape ``(n, c)``; for classes ``jax.nn.one_hot(labels, c)``.
        regularisation: μ ≥ 0; traced. 0 gives the least-squares solution of smallest norm.

    Returns:
        :class:`Probe`, in the features' dtype, or float32 if that dtype is shorter.

    Raises:
        ValueError: if shapes do not fit, values are not finite, or μ is negative.

    Example:
        >>> import jax.numpy as jnp
        >>> from sslstep.measure import probe
        >>> features = jnp.array([[0.0], [1.0], [2.0]])
        >>> fitted = probe.ridge(features, 3 * features + 1, 0.0)
        >>> print(*(f"{v:.4f}" for v in (fitted.weights[0, 0], fitted.bias[0])))
        3.0000 1.0000
    """
    features, targets = _prepare(features, targets)
    _check.require_scalar("regularisation", regularisation, at_least=0.0)
    mean, mean_target = features.mean(axis=0), targets.mean(axis=0)
    n = features.shape[0]
    u, s, vt = _svd(features - mean[None, :])
    projections = matmul(u.T, targets - mean_target[None, :])
    penalty = n * jnp.asarray(regularisation, s.dtype)
    weights = matmul(vt.T, _filter(s, penalty)[:, None] * projections)
    fitted = Probe(weights, mean_target - matmul(mean, weights))
    return require_trained(fitted, "the features or targets are too large for their dtype.")


def loo_error(
    features: Float[ArrayLike, "n p"],
    targets: Real[ArrayLike, "n c"],
    regularisations: Real[ArrayLike, " R"],
) -> Float[Array, " R"]:
    r"""Return the leave-one-out error of :func:`ridge` for each of R regularisations μ.

    .. math:: \frac1n \sum_i \Big\| \frac{y_i - \hat y_i}{1 - H_{ii}} \Big\|^2

    is the squared error at each sample i of a probe fitted to the other n - 1 samples, averaged
    over i. :math:`\hat y_i` is the prediction of the probe fitted to all n samples, and the n x n
    matrix H maps the targets to these predictions, bias included. The total penalty
    :math:`n \mu \|W\|_F^2` keeps its factor n when a sample is left out. One decomposition serves
    all samples and all μ.

    If a single sample has some feature, numerator and denominator of its ratio vanish with μ. They
    are then computed without cancellation, from the component of the sample's unit vector outside
    the span of the features. This component is resolved down to ``10 eps`` in norm, times the
    condition number of the directions that the sample lies in; a smaller component counts as zero.

    Args:
        features: h, shape ``(n, p)``, n of at least 2.
        targets: y, shape ``(n, c)``.
        regularisations: the R values of μ > 0, shape ``(R,)``; traced.

    Returns:
        The errors, shape ``(R,)``. Choose ``regularisations[errors.argmin()]``.

    Raises:
        ValueError: if shapes do not fit, values are not finite, n < 2, or a μ is not positive.

    Example:
        >>> import jax, jax.numpy as jnp
        >>> from sslstep.measure import probe
        >>> features = jax.random.normal(jax.random.key(0), (40, 3))
        >>> grid = jnp.array([1e-4, 1e-2, 1.0])
        >>> int(probe.loo_error(features, features[:, :1], grid).argmin())
        0
    """
    features, targets = _prepare(features, targets)
    if features.shape[0] < 2:
        raise ValueError(
            f"features must hold at least 2 samples (rows), got shape {features.shape}."
        )
    _check.require_vector("regularisations", regularisations, "(R,)", least=0)
    _check.require_within("regularisations", regularisations, above=0.0)
    n = features.shape[0]
    u, s, _ = _svd(features - features.mean(axis=0, keepdims=True))
    u = jnp.where(s[None, :] > 0, u, 0)
    targets = targets - targets.mean(axis=0, keepdims=True)
    projections = matmul(u.T, targets)
    outside, free = _unreached(u, s, targets, projections)
    # With n - 1 independent features the span contains every target, up to rounding.
    reach_all = jnp.sum(s > 0) >= n - 1
    outside, free = jnp.where(reach_all, 0, outside), jnp.where(reach_all, 0, free)

    def error(regularisation):
        kept = 1 / (1 + s**2 / (n * regularisation))  # 1 - H has these eigenvalues
        residuals = outside + matmul(u, kept[:, None] * projections)
        leverages = free + matmul(u**2, kept)
        return jnp.sum((residuals / leverages[:, None]) ** 2) / n

    return jax.lax.map(error, jnp.asarray(regularisations, s.dtype))


def accuracy_along(
    features: Float[ArrayLike, "n d"],
    labels: Integer[ArrayLike, " n"],
    features_test: Float[ArrayLike, "m d"],
    labels_test: Integer[ArrayLike, " m"],
    scales: Float[ArrayLike, "T d"],
    regularisation: Real[ArrayLike, ""] | Real[ArrayLike, " T"],
    *,
    num_classes: int,
) -> Float[Array, " T"]:
    r"""Return a ridge probe's test accuracy at T times of embeddings :math:`s(t) \odot h(x)`.

    A linear or kernel model from small initialisation has embeddings :math:`s(t) \odot h(x)`, up to
    a rotation that does not affect a probe (Eq. 40). The result at time t is the test accuracy of
    ``ridge(features * s(t), one_hot(labels), regularisation)``. One QR decomposition of the
    training features serves all times.

    With a fixed μ, dimension j contributes once :math:`s_j^2` times the variance of :math:`h_j`
    exceeds μ. For a probe independent of the embedding's overall scale, give one μ for each time,
    in proportion to the mean squared scale.

    Args:
        features: h of the n training samples, shape ``(n, d)``.
        labels: classes 0...c-1 of the training samples, shape ``(n,)``.
        features_test: h of the m test samples, shape ``(m, d)``.
        labels_test: classes 0...c-1 of the test samples, shape ``(m,)``.
        scales: s at each time, shape ``(T, d)``.
        regularisation: μ > 0 of :func:`ridge`: a scalar, or one for each time, shape ``(T,)``;
            traced.
        num_classes: c, the number of classes.

    Returns:
        The accuracies, shape ``(T,)``; NaN where predictions overflow.

    Raises:
        ValueError: if shapes do not fit, or values, labels or numbers are out of range.

    Example:
        >>> import jax.numpy as jnp
        >>> from sslstep.measure import probe
        >>> h, labels = jnp.array([[0.0, 1.0], [1.0, 2.0], [1.0, 0.0]]), jnp.array([0, 1, 1])
        >>> scales = jnp.array([[0.0, 1.0], [1.0, 1.0]])
        >>> along = probe.accuracy_along(h, labels, h, labels, scales, 1e-4, num_classes=2)
        >>> print(*(f"{a:.3f}" for a in along))
        0.667 1.000
    """
    n, dim = _check.require_matrix("features", features, "(n, d)")
    num_times, _ = _check.require_matrix("scales", scales, f"(T, {dim})", columns=dim)
    num_test, _ = _check.require_matrix("features_test", features_test, f"(m, {dim})", columns=dim)
    if _check.shape_of(regularisation) not in ((), (num_times,)):
        raise ValueError(
            f"regularisation must be a scalar or have shape ({num_times},), one for each row of "
            f"scales, got shape {_check.shape_of(regularisation)}."
        )
    _check.require_within("regularisation", regularisation, above=0.0)
    _check.require_finite("features_test", features_test)
    _check.require_finite("scales", scales)
    labels = require_labels("labels", labels, n, num_classes)
    labels_test = require_labels("labels_test", labels_test, num_test, num_classes)
    features, targets = _prepare(features, jax.nn.one_hot(labels, num_classes))
    mean, mean_target = features.mean(axis=0), targets.mean(axis=0)
    q, r = jnp.linalg.qr(features - mean[None, :])
    projections = matmul(q.T, targets - mean_target[None, :])
    test = _check.as_float("features_test", features_test).astype(r.dtype) - mean[None, :]
    # Remove the classes' common shift: adding it would round away a small embedding.
    shift = (mean_target - mean_target.mean())[None, :]

    def accuracy_at(scale_and_regularisation):
        scale, regularisation = scale_and_regularisation
        u, s, vt = _svd(r * scale[None, :])
        filtered = _filter(s, n * regularisation)[:, None] * matmul(u.T, projections)
        predictions = matmul(test, scale[:, None] * matmul(vt.T, filtered)) + shift
        return share_right(predictions, labels_test)

    each = jnp.broadcast_to(jnp.asarray(regularisation, r.dtype), (num_times,))
    return jax.lax.map(accuracy_at, (jnp.asarray(scales, r.dtype), each))


def _svd(centred: Array) -> tuple[Array, Array, Array]:
    """Return (u, s, vt) of the singular value decomposition; rounding errors in s are set to 0."""
    u, s, vt = jnp.linalg.svd(centred, full_matrices=False)
    # Rounding leaves singular values of about one eps, in tall and in wide matrices.
    cutoff = 10 * s.shape[0] ** 0.5 * jnp.finfo(s.dtype).eps * s[0]
    return u, jnp.where(s > cutoff, s, 0), vt


def _unreached(u: Array, s: Array, targets: Array, projections: Array) -> tuple[Array, Array]:
    """Return (1 - P) y, shape (n, c), and |(1 - P) e_i|², shape (n,), of centred targets y.

    P is the projection on the span of the vector 1 and the columns of u; e_i is a unit vector.
    """
    n, rank = u.shape
    outside = targets - matmul(u, projections)
    free = 1 - 1 / n - jnp.sum(u**2, axis=1)
    # Where free is below a tenth, both differences cancel and (1 - P) e_i is computed explicitly.
    # |P e_i|² sums to rank + 1, so fewer than 10/9 (rank + 1) samples have free below a tenth.
    _, at = jax.lax.top_k(-free, min(n, 10 * (rank + 1) // 9 + 1))
    rest = jax.nn.one_hot(at, n, dtype=u.dtype)
    # Twice, as in Gram-Schmidt: the first pass leaves a part of order eps within the span.
    for _ in range(2):
        rest = rest - rest.mean(axis=1, keepdims=True)
        rest = rest - matmul(matmul(rest, u), u.T)
    square, product = jnp.sum(rest**2, axis=1), matmul(rest, targets)
    # To first order, a change E of the features moves P e_i by (1 - P) sum_j E v_j u_ij / s_j.
    # Rounding of the features and of their decomposition is below |E| = 2 eps s_0 (measured).
    steepness = jnp.where(s > 0, s[0] / jnp.where(s > 0, s, 1), 0)
    moved = 1 + jnp.sum((u[at] * steepness[None, :]) ** 2, axis=1)
    known = square > (10 * jnp.finfo(u.dtype).eps) ** 2 * moved
    square, product = jnp.where(known, square, 0), jnp.where(known[:, None], product, 0)
    cancels = free[at] < 0.1
    outside = outside.at[at].set(jnp.where(cancels[:, None], product, outside[at]))
    return outside, free.at[at].set(jnp.where(cancels, square, free[at]))


def _filter(s: Array, penalty: Array) -> Array:
    """Return s / (s² + penalty), the regularised inverse of s; 0 where s is 0."""
    return jnp.where(s > 0, 1 / (jnp.where(s > 0, s, 1) + penalty / jnp.where(s > 0, s, 1)), 0)


def _prepare(features: ArrayLike, targets: ArrayLike) -> tuple[Array, Array]:
    """Check features and targets; return both in the dtype of the computation."""
    h = _check.precise_matrix("features", features, "(n, p)")
    rows, _ = _check.require_matrix("targets", targets, "(n, c)")
    if rows != len(h):
        raise ValueError(f"targets must have one row for each of {len(h)} samples, got {rows}.")
    _check.require_finite("targets", targets)
    return h, _check.as_float("targets", targets).astype(h.dtype)
