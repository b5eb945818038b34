r"""Spectra of embeddings, their effective dimensions, and the times at which eigenvalues rise."""

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
    r"""Return the eigenvalues of the cross-correlation C of two views (Eq. 2, Appendix D.4).

    Barlow Twins drives these eigenvalues to 1. For other losses and for hidden representations see
    :func:`covariance_eigenvalues`. Choose n much larger than d, because the rank of C is at most
    2n. For a given matrix C use ``jnp.linalg.eigvalsh``.

    Args:
        z: embeddings of one view, shape ``(n, d)``.
        z_prime: embeddings of the other view, with the samples in the order of ``z``, shape
            ``(n, d)``.

    Returns:
        The eigenvalues in descending order, shape ``(d,)``, in the dtype of z, or float32 if that
        dtype is shorter. They may be negative.

    Raises:
        ValueError: if shapes differ or are empty, or values are not finite.

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
    r"""Return the eigenvalues of the centred covariance of embeddings (Appendix D.4).

    .. math:: \frac1n \sum_i (z_i - \bar z)(z_i - \bar z)^\top

    The eigenvalues are the squared singular values of the centred embeddings, divided by n. In
    float32 this resolves eigenvalues of :math:`10^{-13}` of the largest, as dimensions have when
    they begin to grow; forming the covariance would resolve :math:`10^{-7}`.

    Args:
        z: embeddings or hidden representations, shape ``(n, d)``; concatenate the two views along
            the samples.

    Returns:
        The eigenvalues in descending order, shape ``(d,)``, in the dtype of z, or float32 if that
        dtype is shorter.

    Raises:
        ValueError: if z is not a matrix, is empty, or values are not finite.

    Example:
        >>> import jax.numpy as jnp
        >>> from sslstep.measure import spectrum
        >>> spectrum.covariance_eigenvalues(jnp.array([[1.0, 0.0], [-1.0, 0.0]])).round(4)
        Array([1., 0.], dtype=float32)
    """
    z = _check.precise_matrix("z", z, "(n, d)")
    rest = z - z.mean(axis=0, keepdims=True)
    # Once more, because the first mean is rounded to the size of z.
    singular = singular_values(rest - rest.mean(axis=0, keepdims=True))
    return jnp.pad(singular**2 / z.shape[0], (0, z.shape[1] - singular.shape[0]))


def step_times(
    times: Real[ArrayLike, " T"],
    eigenvalues: Float[ArrayLike, "T d"],
    threshold: Real[ArrayLike, ""] = 0.5,
) -> Float[Array, " d"]:
    r"""Return the time at which each eigenvalue first reaches a threshold.

    Times are interpolated linearly between records. A logistic curve has an inflection point at one
    half of its plateau, so at that threshold the error is third order in the spacing of records.

    Args:
        times: times of the T records, increasing, shape ``(T,)``.
        eigenvalues: eigenvalues at each record, in descending order, shape ``(T, d)``; each column
            is evaluated independently.
        threshold: the value to reach; traced.

    Returns:
        The times, shape ``(d,)``, in the eigenvalues' dtype, or float32 if that dtype is shorter:
        the first record's time if an eigenvalue is at the threshold from the start, ``inf`` if it
        never reaches it.

    Raises:
        ValueError: if shapes do not fit, times do not increase, or eigenvalues are not finite.

    Example:
        >>> import jax.numpy as jnp
        >>> from sslstep.measure import spectrum
        >>> curves = jnp.array([[0.0, 0.0], [1.0, 0.0], [1.0, 0.2]])
        >>> spectrum.step_times(jnp.array([0.0, 1.0, 2.0]), curves)
        Array([0.5, inf], dtype=float32)
    """
    _check.require_scalar("threshold", threshold)
    _check.require_finite("threshold", threshold)
    values = _check.precise_matrix("eigenvalues", eigenvalues, "(T, d)")
    _check.require_shape("times", times, (len(values),), ", one for each row of eigenvalues")
    # Checked before conversion: rounded to the result's dtype, neighbouring times may coincide.
    _check.require_increasing("times", times)
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
    r"""Return the sharpness of each eigenvalue's rise: its time divided by its duration.

    .. math:: \frac{t_{1/2}}{t_{\text{high}} - t_{\text{low}}}

    The three times are the first at which the eigenvalue reaches one half, ``high`` and ``low``. In
    the linear model, mode γ of the data's correlation with weight s has the eigenvalue
    :math:`\lambda = \gamma s^2`. It follows a logistic curve of rate 8γ (s grows at the rate 4γ,
    Eq. 10), so its sharpness is

    .. math:: \frac{\ln(1 / \lambda(0) - 1)}{\ln 81}

    for ``low`` = 0.1 and ``high`` = 0.9. Modes of equal :math:`\lambda(0)` have equal sharpness,
    and a smaller initialisation makes rises sharper.

    Args:
        times: times of the T records, increasing, shape ``(T,)``.
        eigenvalues: eigenvalues at each record, in descending order, shape ``(T, d)``.
        low: eigenvalue at which a rise begins; traced.
        high: eigenvalue at which a rise ends, above ``low`` and at least 1/2; traced.

    Returns:
        The sharpness, shape ``(d,)``: 0 where an eigenvalue does not reach ``high``, or where
        ``low`` and ``high`` are reached at once with one half at time 0; ``inf`` where they are
        reached at once later.

    Raises:
        ValueError: if shapes do not fit, values are not finite, or an argument is out of range.

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
        if upper < 0.5:
            raise ValueError(f"high must be at least 1/2, the level of the time, got {upper:g}.")
    begin, middle, end = (step_times(times, eigenvalues, level) for level in (low, 0.5, high))
    whole = jnp.isfinite(end)
    gradual = whole & (end > begin)
    at_once = jnp.where(whole & (middle > 0), jnp.inf, 0.0)
    return jnp.where(gradual, middle / jnp.where(gradual, end - begin, 1), at_once)


def learned_dimensions(
    eigenvalues: Float[ArrayLike, "*T d"], threshold: Real[ArrayLike, ""] = 0.5
) -> Int[Array, "*T"]:
    """Count the eigenvalues above a threshold.

    Args:
        eigenvalues: d eigenvalues along the last axis, shape ``(..., d)``, for example one row for
            each record.
        threshold: the value to exceed; traced. The default suits Barlow Twins, whose eigenvalues
            rise to 1; other losses have other plateaus.

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
    r"""Return RankMe, the effective rank of embeddings (Garrido et al. 2023).

    .. math:: \exp\Big(-\sum_k p_k \ln p_k\Big), \qquad p_k = \frac{\sigma_k}{\sum_l \sigma_l}

    :math:`\sigma_k` are the singular values of the matrix of embeddings, which is not centred. The
    value lies between 1 and min(n, d): compare runs of equal n and d, and choose n several times d.
    It does not depend on the scale of the embeddings, so untrained networks of small initialisation
    have a large effective rank; :func:`learned_dimensions` counts the dimensions learned.

    The publication adds 1e-7 to each :math:`p_k`; this function sets 0 ln 0 = 0 instead.

    Args:
        z: embeddings or representations, shape ``(n, d)``.

    Returns:
        A scalar from 1 to min(n, d).

    Raises:
        ValueError: if z is not a matrix, is empty, or all zero, or values are not finite.

    Example:
        >>> import jax.numpy as jnp
        >>> from sslstep.measure import spectrum
        >>> float(spectrum.effective_rank(jnp.eye(8, 4)).round(4))
        4.0
    """
    z = _check.precise_matrix("z", z, "(n, d)")
    if _check.is_concrete(z) and not np.asarray(z).any():
        raise ValueError("z is all zero: it has no effective rank.")
    singular = singular_values(z)
    p = singular / singular.sum()
    return jnp.exp(-jnp.sum(jax.scipy.special.xlogy(p, p)))


def participation_ratio(z: Float[ArrayLike, "n d"]) -> Float[Array, ""]:
    r"""Return the participation ratio, the number of dimensions of the variance (Gao et al. 2017).

    .. math:: \frac{(\sum_j \lambda_j)^2}{\sum_j \lambda_j^2}

    :math:`\lambda_j` are the eigenvalues of the centred covariance. The cost is O(n d²). The value
    does not depend on the scale of z. For n Gaussian samples with equal variances it is about
    :math:`n d / (n + d)`, not d.

    Args:
        z: embeddings or representations, shape ``(n, d)``.

    Returns:
        A scalar from 1 to min(n - 1, d); 0 if z is constant.

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
    r"""Return NESum, the total variance divided by the largest variance (He and Ozay 2022).

    .. math:: \sum_j \frac{\lambda_j}{\lambda_1}

    :math:`\lambda_j` are the eigenvalues of the centred covariance, in descending order. The value
    is 1 for embeddings of one dimension and d for whitened embeddings, and does not depend on the
    scale of z. The cost is O(n d²). For n Gaussian samples with equal variances it is about
    :math:`d / (1 + \sqrt{d / n})^2`, not d.

    Args:
        z: embeddings or representations, shape ``(n, d)``.

    Returns:
        A scalar from 1 to min(n - 1, d); 0 if z is constant (the publication sets 0/0 = 0).

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
    r"""Return α-ReQ, the decay exponent α of a spectrum (Agrawal et al. 2022).

    A power law :math:`\lambda_j \propto j^{-\alpha}` is fitted to the eigenvalues
    :math:`\lambda_j` of the centred covariance, in descending order. α is minus the slope of
    :math:`\ln \lambda_j` against :math:`\ln j` by least squares with the weights 1/j. Weights and
    default ranks are those of the publication's code. The cost is O(n d²). A whitened embedding has
    α = 0. For n Gaussian samples with equal variances α is positive, because sampled eigenvalues
    differ: about 0.25 for 64 dimensions at n = 1000.

    Args:
        z: embeddings or representations, shape ``(n, d)``.
        first: first rank j that is fitted, counted from 1; static.
        last: last rank j that is fitted; static. Ranks above d, and eigenvalues that are zero up to
            rounding, are left out.

    Returns:
        A scalar; NaN if fewer than two eigenvalues remain for the fit.

    Raises:
        ValueError: unless 1 ≤ ``first`` < ``last`` and z is a finite matrix.

    Example:
        >>> import jax.numpy as jnp
        >>> from sslstep.measure import spectrum
        >>> deviations = jnp.diag(jnp.arange(1.0, 9.0) ** -1)
        >>> z = jnp.concatenate([deviations, -deviations])
        >>> float(spectrum.alpha_req(z, first=1).round(4))
        2.0
    """
    _check.require_within("first", first, at_least=1)
    _check.require_within("last", last, above=first)
    shares = _relative_variances(z)[first - 1 : last]
    if shares.shape[0] < 2:
        return jnp.asarray(jnp.nan, shares.dtype)
    # Singular values are accurate to a few eps of the largest.
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
    """Return the centred covariance's eigenvalues over the largest, shape (d,); 0 if constant."""
    z = _check.precise_matrix("z", z, "(n, d)")
    singular = singular_values(centred(z))
    singular = jnp.pad(singular, (0, z.shape[1] - singular.shape[0]))
    return (singular / jnp.where(singular[0] > 0, singular[0], 1)) ** 2


def histogram(
    eigenvalues: Float[ArrayLike, "T d"], edges: Real[ArrayLike, " m"]
) -> Int[Array, "T m-1"]:
    r"""Count the eigenvalues in each bin at each record.

    Args:
        eigenvalues: eigenvalues at each of T records, shape ``(T, d)``.
        edges: m ≥ 2 edges of the bins, increasing, shape ``(m,)``, for example
            ``jnp.geomspace(1e-6, 10, 61)``. A bin includes its lower edge; the last bin also
            includes its upper edge.

    Returns:
        Counts, shape ``(T, m - 1)``. Eigenvalues outside the edges are not counted.

    Raises:
        ValueError: if shapes do not fit, values are not finite, or edges do not increase in the
            eigenvalues' dtype (float32 if that is shorter).

    Example:
        >>> import jax.numpy as jnp
        >>> from sslstep.measure import spectrum
        >>> spectrum.histogram(jnp.array([[2e-3, 1e-3], [0.9, 2e-3]]), jnp.geomspace(1e-4, 1.0, 5))
        Array([[0, 2, 0, 0],
               [0, 1, 0, 1]], dtype=int32)
    """
    values = _check.precise_matrix("eigenvalues", eigenvalues, "(T, d)")
    _check.require_vector("edges", edges, "(m,)", least=2)
    _check.require_increasing("edges", edges)
    edges = jnp.asarray(edges, values.dtype)
    _check.require_increasing(f"edges as {edges.dtype}", edges)
    counts = jax.vmap(lambda record: jnp.histogram(record, edges)[0])(values)
    return counts.astype(jnp.int32)
