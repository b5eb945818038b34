r"""Spectra of embeddings, and when their eigenvalues rise."""

import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import ArrayLike
from jaxtyping import Array, Float, Int, Real

from sslstep import _check
from sslstep._linalg import centred, eigh_descending, singular_values
from sslstep.linear import cross_correlation

__all__ = [
    "alpha_req",
    "correlation_eigenvalues",
    "covariance_eigenvalues",
    "effective_rank",
    "histogram",
    "learned_dimensions",
    "nesum",
    "participation_ratio",
    "step_sharpness",
    "step_times",
]


def correlation_eigenvalues(
    z: Float[ArrayLike, "n d"], z_prime: Float[ArrayLike, "n d"]
) -> Float[Array, " d"]:
    r"""Eigenvalues of the cross-correlation C of two views' embeddings (Eq. 2, Appendix D.4).

    They are what Barlow Twins learns. For other losses and for hidden representations see
    :func:`covariance_eigenvalues`. Measure on n much larger than d: the rank is at most n. It takes
    embeddings, not a matrix C that you have: of one, ``jnp.linalg.eigvalsh``.

    Args:
        z: embeddings of one view, shape ``(n, d)``.
        z_prime: embeddings of the other views of the same samples, same shape.

    Returns:
        The eigenvalues in descending order, shape ``(d,)``, in float32 if z is in less. They may be
        negative.

    Raises:
        ValueError: if shapes do not fit, are empty, or values are not finite.

    Example:
        >>> import jax.numpy as jnp
        >>> from sslstep.measure import spectrum
        >>> z = jnp.array([[1.0, 0.0], [0.0, 2.0]])
        >>> spectrum.correlation_eigenvalues(z, -z).round(4)
        Array([-0.5, -2. ], dtype=float32)
    """
    z, z_prime = _check.as_precise("z", z), _check.as_precise("z_prime", z_prime)
    return eigh_descending(cross_correlation(z, z_prime))[0]


def covariance_eigenvalues(z: Float[ArrayLike, "n d"]) -> Float[Array, " d"]:
    r"""Eigenvalues of the centred covariance of embeddings (Appendix D.4).

    .. math:: \frac1n \sum_i (z_i - \bar z)(z_i - \bar z)^\top

    The covariance is not formed: its eigenvalues are the squared singular values of the centred
    embeddings over n, which in float32 resolves dimensions that are :math:`10^{-13}` of the largest
    instead of :math:`10^{-7}`. Those that have hardly begun to grow are as small as that.

    Args:
        z: embeddings or hidden representations, shape ``(n, d)``; of both views one after the
            other.

    Returns:
        The eigenvalues in descending order, shape ``(d,)``, in float32 if z is in less.

    Raises:
        ValueError: if z is not a matrix, is empty, or values are not finite.

    Example:
        >>> import jax.numpy as jnp
        >>> from sslstep.measure import spectrum
        >>> spectrum.covariance_eigenvalues(jnp.array([[1.0, 0.0], [-1.0, 0.0]])).round(4)
        Array([1., 0.], dtype=float32)
    """
    n, dim = _check.require_matrix("z", z, "(n, d)")
    _check.require_finite("z", z)
    z = _check.as_precise("z", z)
    singular = singular_values(z - z.mean(axis=0, keepdims=True))
    return jnp.pad(singular**2 / n, (0, dim - singular.shape[0]))


def step_times(
    times: Real[ArrayLike, " T"],
    eigenvalues: Float[ArrayLike, "T d"],
    threshold: Real[ArrayLike, ""] = 0.5,
) -> Float[Array, " d"]:
    r"""When each eigenvalue first rises to a threshold.

    Linear interpolation between records. For a logistic rise the curve is straight where it passes
    one half, so the error is third order in the spacing.

    Args:
        times: of the records, increasing, shape ``(T,)``.
        eigenvalues: at each record, shape ``(T, d)``, in descending order: each column is followed
            by itself.
        threshold: the value that counts as risen; traced.

    Returns:
        The times, shape ``(d,)``, rounded to the eigenvalues' dtype, float32 if that is shorter:
        the first record's time if an eigenvalue starts risen, ``inf`` if it never rises.

    Raises:
        ValueError: if shapes do not fit, times do not increase, or eigenvalues are not finite.

    Example:
        >>> import jax.numpy as jnp
        >>> from sslstep.measure import spectrum
        >>> curves = jnp.array([[0.0, 0.0], [1.0, 0.0], [1.0, 0.2]])
        >>> spectrum.step_times(jnp.array([0.0, 1.0, 2.0]), curves)
        Array([0.5, inf], dtype=float32)
    """
    records, _ = _check.require_matrix("eigenvalues", eigenvalues, "(T, d)")
    if _check.shape_of(times) != (records,):
        raise ValueError(
            f"times must have shape ({records},), one for each row of eigenvalues, got "
            f"{_check.shape_of(times)}."
        )
    _check.require_scalar("threshold", threshold)
    _check.require_finite("threshold", threshold)
    _check.require_finite("eigenvalues", eigenvalues)
    # As they are given: rounded to the result's dtype, close ones far from zero may be the same.
    _check.require_increasing("times", times)
    values = _check.as_precise("eigenvalues", eigenvalues)
    times, threshold = (jnp.asarray(value, values.dtype) for value in (times, threshold))
    risen = values >= threshold
    after = jnp.argmax(risen, axis=0)
    before = jnp.maximum(after - 1, 0)
    low = jnp.take_along_axis(values, before[None, :], axis=0)[0]
    high = jnp.take_along_axis(values, after[None, :], axis=0)[0]
    inside = after > 0
    fraction = jnp.where(inside, threshold - low, 0) / jnp.where(inside, high - low, 1)
    time = times[before] + fraction * (times[after] - times[before])
    return jnp.where(risen.any(axis=0), time, jnp.inf)


def step_sharpness(
    times: Real[ArrayLike, " T"],
    eigenvalues: Float[ArrayLike, "T d"],
    *,
    low: Real[ArrayLike, ""] = 0.1,
    high: Real[ArrayLike, ""] = 0.9,
) -> Float[Array, " d"]:
    r"""How abruptly each eigenvalue rises: when it does, in units of how long it takes.

    .. math:: \frac{t_{1/2}}{t_{\text{high}} - t_{\text{low}}}

    with the times at which it first reaches one half, ``high`` and ``low``. In the linear model an
    eigenvalue :math:`\lambda = \gamma s^2` follows a logistic curve of rate 8γ (by Eq. 10 s grows
    at 4γ), and this is

    .. math:: \frac{\ln(1 / \lambda(0) - 1)}{\ln 81} \quad (\text{for } 0.1 \text{ and } 0.9),

    the same for every mode of equal initial size: the smaller the initialisation, the sharper.

    Args:
        times: of the records, increasing, shape ``(T,)``.
        eigenvalues: at each record, shape ``(T, d)``, in descending order.
        low: where a rise begins; traced.
        high: where it ends, above ``low``; traced.

    Returns:
        Shape ``(d,)``: 0 where an eigenvalue does not reach ``high``, or is there at time 0;
        ``inf`` where it rises later, but faster than the records tell.

    Raises:
        ValueError: as :func:`step_times`, or if ``low`` is not below ``high``.

    Example:
        >>> import jax.numpy as jnp
        >>> from sslstep.measure import spectrum
        >>> times = jnp.linspace(0.0, 20.0, 201)
        >>> rise = 1 / (1 + jnp.exp(10.0 - times))  # at t = 10; takes ln 81 = 4.4
        >>> spectrum.step_sharpness(times, rise[:, None]).round(2)
        Array([2.28], dtype=float32)
    """
    _check.require_scalar("low", low)
    _check.require_scalar("high", high)
    if _check.is_concrete(low, high):
        lower, upper = (np.asarray(level).item() for level in (low, high))
        if not upper > lower:
            raise ValueError(f"high must be above low, got {upper:g} and {lower:g}.")
    begin, middle, end = (step_times(times, eigenvalues, level) for level in (low, 0.5, high))
    whole = jnp.isfinite(end)
    gradual = whole & (end > begin)
    at_once = jnp.where(whole & (middle > 0), jnp.inf, 0.0)
    return jnp.where(gradual, middle / jnp.where(gradual, end - begin, 1), at_once)


def learned_dimensions(
    eigenvalues: Float[ArrayLike, "*T d"], threshold: Real[ArrayLike, ""] = 0.5
) -> Int[Array, "*T"]:
    """How many eigenvalues have risen past a threshold.

    Args:
        eigenvalues: shape ``(..., d)``, such as one row for each record.
        threshold: the value that counts as risen; traced. One half is for Barlow Twins, whose
            eigenvalues rise to 1; other losses have other plateaus.

    Returns:
        Counts, shape ``(...)``.

    Raises:
        ValueError: if values are not finite or ``threshold`` is not a scalar.

    Example:
        >>> import jax.numpy as jnp
        >>> from sslstep.measure import spectrum
        >>> spectrum.learned_dimensions(jnp.array([[0.0, 0.0], [1.1, 0.2], [1.0, 0.9]]))
        Array([0, 1, 2], dtype=int32)
    """
    _check.require_scalar("threshold", threshold)
    _check.require_finite("threshold", threshold)
    _check.require_finite("eigenvalues", eigenvalues)
    values = _check.as_precise("eigenvalues", eigenvalues)
    return jnp.sum(values > jnp.asarray(threshold, values.dtype), axis=-1, dtype=jnp.int32)


def effective_rank(z: Float[ArrayLike, "n d"]) -> Float[Array, ""]:
    r"""RankMe: how many dimensions embeddings fill, in a smooth sense (Garrido et al. 2023).

    .. math:: \exp\Big(-\sum_k p_k \ln p_k\Big), \qquad p_k = \frac{\sigma_k}{\sum_l \sigma_l}

    with the singular values σ of the matrix of embeddings, not centred, as the publication has it.
    Between 1 and min(n, d): compare runs of equal n and d, and take n several times d. Scale does
    not matter, so the embeddings of a network at its start, however small, have their full rank:
    for how many dimensions are learned see :func:`learned_dimensions`.

    The publication adds 1e-7 to each :math:`p_k`; here 0 ln 0 is 0.

    Args:
        z: embeddings or representations, shape ``(n, d)``.

    Returns:
        A scalar.

    Raises:
        ValueError: if z is not a matrix, is empty, or all zero, or values are not finite.

    Example:
        >>> import jax.numpy as jnp
        >>> from sslstep.measure import spectrum
        >>> float(spectrum.effective_rank(jnp.eye(8, 4)).round(4))
        4.0
    """
    _check.require_matrix("z", z, "(n, d)")
    _check.require_finite("z", z)
    z = _check.as_precise("z", z)
    if _check.is_concrete(z) and not np.asarray(z).any():
        raise ValueError("z is all zero: it has no effective rank.")
    singular = singular_values(z)
    p = singular / singular.sum()
    return jnp.exp(-jnp.sum(jax.scipy.special.xlogy(p, p)))


def participation_ratio(z: Float[ArrayLike, "n d"]) -> Float[Array, ""]:
    r"""How many dimensions hold the variance of embeddings (Gao et al. 2017).

    .. math:: \frac{(\sum_j \lambda_j)^2}{\sum_j \lambda_j^2}

    with the eigenvalues λ of the centred covariance. It costs the singular values of z, n d². Scale
    does not matter. Of n Gaussian samples with equal variances it is about :math:`n d / (n + d)`,
    not d.

    Args:
        z: embeddings or representations, shape ``(n, d)``.

    Returns:
        A scalar from 1 to min(n - 1, d); 0 if z is constant, as nothing varies.

    Raises:
        ValueError: if z is not a matrix, is empty, or values are not finite.

    Example:
        >>> import jax.numpy as jnp
        >>> from sslstep.measure import spectrum
        >>> z = jnp.array([[1.0, 0.0], [-1.0, 0.0], [0.0, 1.0], [0.0, -1.0]])
        >>> float(spectrum.participation_ratio(z).round(4))
        2.0
    """
    shares = _relative_variances(z)
    squares = jnp.sum(shares**2)
    return jnp.sum(shares) ** 2 / jnp.where(squares > 0, squares, 1)


def nesum(z: Float[ArrayLike, "n d"]) -> Float[Array, ""]:
    r"""NESum: the variance of embeddings in units of its largest direction (He and Ozay 2022).

    .. math:: \sum_j \frac{\lambda_j}{\lambda_1}

    with the eigenvalues λ of the centred covariance: 1 for one dimension, d for whitened ones. It
    costs n d². Scale does not matter. Of n Gaussian samples with equal variances it is about
    :math:`d / (1 + \sqrt{d / n})^2`, not d.

    Args:
        z: embeddings or representations, shape ``(n, d)``.

    Returns:
        A scalar from 1 to min(n - 1, d); 0 if z is constant, as 0/0 is 0 in the publication.

    Raises:
        ValueError: if z is not a matrix, is empty, or values are not finite.

    Example:
        >>> import jax.numpy as jnp
        >>> from sslstep.measure import spectrum
        >>> z = jnp.array([[2.0, 0.0], [-2.0, 0.0], [0.0, 1.0], [0.0, -1.0]])
        >>> float(spectrum.nesum(z).round(4))
        1.25
    """
    return jnp.sum(_relative_variances(z))


def alpha_req(z: Float[ArrayLike, "n d"], *, first: int = 4, last: int = 100) -> Float[Array, ""]:
    r"""α-ReQ: the exponent of the decay of a spectrum (Agrawal et al. 2022).

    The eigenvalues of the centred covariance are fitted by :math:`\lambda_j \propto j^{-\alpha}`:
    α is minus the slope of :math:`\ln \lambda_j` against :math:`\ln j` by least squares, each rank
    with the weight 1/j, as in the publication's code, whose ranks are 4 to 100. It costs n d². A
    whitened embedding has α = 0, and n Gaussian samples with equal variances more, as their sampled
    eigenvalues differ: about 0.25 for 64 dimensions at n = 1000.

    Args:
        z: embeddings or representations, shape ``(n, d)``.
        first: the first rank that is fitted, from 1; static.
        last: the last one; static. Ranks above d, and eigenvalues that are zero to rounding, are
            left out.

    Returns:
        A scalar. NaN if fewer than two eigenvalues are left, as of rank one or a constant: a line
        needs two points.

    Raises:
        ValueError: if z is not a matrix, is empty, or values are not finite, or not
            1 ≤ first < last.

    Example:
        >>> import jax.numpy as jnp
        >>> from sslstep.measure import spectrum
        >>> deviations = jnp.diag(jnp.arange(1.0, 9.0) ** -1)
        >>> z = jnp.concatenate([deviations, -deviations])
        >>> float(spectrum.alpha_req(z, first=1).round(4))
        2.0
    """
    _check.require_at_least("first", first, 1)
    _check.require_at_least("last", last, first, strict=True)
    shares = _relative_variances(z)[first - 1 : last]
    if shares.shape[0] < 2:
        return jnp.asarray(jnp.nan, shares.dtype)
    # Singular values are good to some eps of the largest.
    real = shares > (10 * shares.shape[0] ** 0.5 * jnp.finfo(shares.dtype).eps) ** 2
    ranks = jnp.arange(first, first + shares.shape[0], dtype=shares.dtype)
    weights = jnp.where(real, 1 / ranks, 0)
    x, y = -jnp.log(ranks), jnp.log(jnp.where(real, shares, 1))
    total = jnp.where(real.any(), weights.sum(), 1)
    x -= jnp.sum(weights * x) / total
    spread = jnp.sum(weights * x * x)
    alpha = jnp.sum(weights * x * y) / jnp.where(real.sum() > 1, spread, 1)
    return jnp.where(real.sum() > 1, alpha, jnp.nan)


def _relative_variances(z: ArrayLike) -> Array:
    """Eigenvalues of the centred covariance, in units of the largest; zeros of a constant."""
    _, dim = _check.require_matrix("z", z, "(n, d)")
    _check.require_finite("z", z)
    singular = singular_values(centred(_check.as_precise("z", z)))
    singular = jnp.pad(singular, (0, dim - singular.shape[0]))
    return (singular / jnp.where(singular[0] > 0, singular[0], 1)) ** 2


def histogram(
    eigenvalues: Float[ArrayLike, "T d"], edges: Real[ArrayLike, " m"]
) -> Int[Array, "T m-1"]:
    r"""How many eigenvalues lie in each bin, at each record: a spectrum over training.

    Args:
        eigenvalues: at each record, shape ``(T, d)``.
        edges: of the bins, increasing, shape ``(m,)``, such as ``jnp.geomspace(1e-6, 10, 61)``. A
            bin holds its lower edge; the last one its upper edge too.

    Returns:
        Counts, shape ``(T, m - 1)``. What lies outside of all bins is not counted.

    Raises:
        ValueError: if shapes do not fit, values are not finite, edges do not increase, or edges
            coincide after conversion to the eigenvalues' dtype (float32 if that is shorter).

    Example:
        >>> import jax.numpy as jnp
        >>> from sslstep.measure import spectrum
        >>> spectrum.histogram(jnp.array([[2e-3, 1e-3], [0.9, 2e-3]]), jnp.geomspace(1e-4, 1.0, 5))
        Array([[0, 2, 0, 0],
               [0, 1, 0, 1]], dtype=int32)
    """
    _check.require_matrix("eigenvalues", eigenvalues, "(T, d)")
    _check.require_finite("eigenvalues", eigenvalues)
    values = _check.as_precise("eigenvalues", eigenvalues)
    if len(_check.shape_of(edges)) != 1 or _check.shape_of(edges)[0] < 2:
        raise ValueError(f"edges must be a vector of at least 2, got {_check.shape_of(edges)}.")
    _check.require_increasing("edges", edges)
    edges = jnp.asarray(edges, values.dtype)
    _check.require_increasing(f"edges as {edges.dtype}", edges)
    bins = edges.shape[0] - 1
    place = jnp.searchsorted(edges, values, side="right") - 1
    place = jnp.where(values == edges[-1], bins - 1, place)
    place = jnp.where((place < 0) | (place >= bins), bins, place)  # one more, of the rest
    rows = jnp.arange(values.shape[0], dtype=place.dtype)[:, None]
    counts = jnp.zeros((values.shape[0], bins + 1), jnp.int32).at[rows, place].add(1)
    return counts[:, :-1]
