"""Whether something else grows when dimensions are learned."""

import numpy as np
import scipy.stats
from jax.typing import ArrayLike
from jaxtyping import Float, Real

from sslstep import _check
from sslstep.measure.steps._rises import Rises, Significance, isolated

__all__ = ["timing_test"]

# Places between two neighbours at which a rise is tried: finer than records are.
_PLACES = (np.arange(200) + 0.5) / 200


def timing_test(
    rises: Rises, times: Real[ArrayLike, " T"], level: Float[ArrayLike, " T"]
) -> Significance:
    r"""Null hypothesis: a quantity grows at times that have nothing to do with the rises.

    Such a quantity is log det of the hidden representations' covariance, or a probe's accuracy. Of
    each dimension that is learned alone, between one that has been learned and one that has not
    begun, the quantity's growth during the rise is compared with its growth over as long a time
    anywhere between these two:

    .. math:: u_j = P\big(x(s + w_j) - x(s) < x(e_j) - x(b_j)\big), \qquad
        s \text{ uniform from } e_{j-1} \text{ to } b_{j+1} - w_j, \quad w_j = e_j - b_j ,

    where a tie counts one half. The statistic is the mean of the K values: 1 if the quantity grows
    fastest at every rise. Under the null hypothesis each rise could as well be anywhere between its
    neighbours, so each :math:`u_j` is uniform, of mean 1/2 and variance 1/12; the p-value is the
    normal one. A course that is smooth from rise to rise is the same for all places and does not
    count. Where dimensions rise together nothing is compared.

    Two quantities of one network at one record share its noise. **Read the rises off every second
    record and the quantity off the others.** Then noise that is independent from record to record
    never enters both.

    Args:
        rises: from :func:`rises`, on the clock of ``times``.
        times: increasing, such as the logarithm of effective time, shape ``(T,)``.
        level: the quantity, shape ``(T,)``. Interpolated linearly between records.

    Returns:
        :class:`Significance`; its statistic lies in [0, 1]. It is NaN, and the p-value 1, if no
        dimension is learned alone between two others.

    Raises:
        ValueError: if shapes do not fit, values are not finite, ``times`` does not increase, or
            ``level`` is constant.

    Example:
        >>> import numpy as np
        >>> from sslstep.measure import steps
        >>> times = np.linspace(0.0, 40.0, 161)
        >>> at = np.array([2.0, 7.0, 11.0, 16.0, 23.0, 31.0, 38.0])
        >>> curves = 1 / (1 + np.exp(-8 * (times[:, None] - at)))
        >>> rises = steps.rises(times[::2], curves[::2])
        >>> test = steps.timing_test(rises, times[1::2], curves.sum(axis=1)[1::2])
        >>> round(test.statistic, 2), test.p_value < 0.001
        (0.98, True)
    """
    _check.require_vector("times", times, "(T,)", least=2)
    clock, values = np.asarray(times, float), np.asarray(level, float)
    if values.shape != clock.shape:
        raise ValueError(f"level must have shape {clock.shape}, as times has, got {values.shape}.")
    _check.require_finite("times", clock)
    _check.require_increasing("times", clock)
    _check.require_finite("level", values)
    if np.ptp(values) == 0:
        raise ValueError("level is constant: it has no timing.")
    begin, _, end = (np.asarray(part, float) for part in rises)
    alone = isolated(rises) & np.isfinite(end) & (end > begin)
    places = []
    for first, last in zip(begin[alone], end[alone], strict=True):
        earliest = np.max(end[end < first], initial=-np.inf)
        latest = np.min(begin[begin > last], initial=np.inf)
        if clock[0] <= earliest and latest <= clock[-1]:
            starts = earliest + _PLACES * (latest - earliest - (last - first))
            shifted = np.append(starts, first)
            ends = np.interp(shifted + (last - first), clock, values)
            grown = ends - np.interp(shifted, clock, values)
            elsewhere, then = grown[:-1], grown[-1]
            tie = np.abs(elsewhere - then) <= 1e-12 * np.abs(values).max()
            places.append(np.mean(np.where(tie, 0.5, elsewhere < then)))
    if not places:
        return Significance(np.nan, 1.0)
    mean = float(np.mean(places))
    return Significance(mean, float(scipy.stats.norm.sf((mean - 0.5) * (12 * len(places)) ** 0.5)))
