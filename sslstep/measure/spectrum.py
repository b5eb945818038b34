r"""Spectra of embeddings, and when their eigenvalues rise."""

import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import ArrayLike
from jaxtyping import Array, Float, Real

from sslstep import _check
from sslstep._linalg import eigh_descending
from sslstep.linear import cross_correlation

__all__ = ["eigenvalues", "step_times"]


def eigenvalues(
    z: Float[ArrayLike, "n d"], z_prime: Float[ArrayLike, "n d"] | None = None
) -> Float[Array, " d"]:
    r"""Eigenvalues of embeddings, in descending order (Appendix D.4).

    With both views, those of the cross-correlation C (Eq. 2): for Barlow Twins. With one array,
    those of the centred covariance :math:`\frac1n \sum_i (z_i - \bar z)(z_i - \bar z)^\top`: for
    the other losses and for hidden representations. Measure on n much larger than d: the rank is at
    most n.

    Args:
        z: embeddings, shape ``(n, d)``.
        z_prime: embeddings of the other views, same shape; or None.

    Returns:
        The eigenvalues, shape ``(d,)``. Those of C may be negative.

    Raises:
        ValueError: if shapes do not fit, are empty, or values are not finite.

    Example:
        >>> import jax.numpy as jnp
        >>> from sslstep.measure import spectrum
        >>> spectrum.eigenvalues(jnp.array([[1.0, 0.0], [-1.0, 0.0]]))
        Array([1., 0.], dtype=float32)
    """
    if z_prime is not None:
        return eigh_descending(cross_correlation(z, z_prime))[0]
    n, _ = _check.require_matrix("z", z, "(n, d)")
    _check.require_finite("z", z)
    z = _check.as_float("z", z)
    centred = z - z.mean(axis=0, keepdims=True)
    covariance = jnp.matmul(centred.T, centred, precision=jax.lax.Precision.HIGHEST) / n
    return eigh_descending(covariance)[0]


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
        eigenvalues: at each record, shape ``(T, d)``; each column is followed by itself, so sort
            them in descending order, as :func:`eigenvalues` does.
        threshold: the value that counts as risen; traced.

    Returns:
        The times, shape ``(d,)``: the first record's time if an eigenvalue starts risen, ``inf``
        if it never rises.

    Raises:
        ValueError: if the shapes do not fit, times do not increase, or eigenvalues are not finite.

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
    _check.require_finite("eigenvalues", eigenvalues)
    values = _check.as_float("eigenvalues", eigenvalues)
    times = jnp.asarray(times, values.dtype)
    if _check.is_concrete(times):
        steps = np.diff(np.asarray(times))
        _check.require_at_least("the differences of times", steps, 0.0, strict=True)
    risen = values >= jnp.asarray(threshold, values.dtype)
    after = jnp.argmax(risen, axis=0)
    before = jnp.maximum(after - 1, 0)
    low = jnp.take_along_axis(values, before[None, :], axis=0)[0]
    high = jnp.take_along_axis(values, after[None, :], axis=0)[0]
    inside = after > 0
    fraction = jnp.where(inside, threshold - low, 0) / jnp.where(inside, high - low, 1)
    time = times[before] + fraction * (times[after] - times[before])
    return jnp.where(risen.any(axis=0), time, jnp.inf)
