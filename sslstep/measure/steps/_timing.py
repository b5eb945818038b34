"""Test of whether another quantity grows at the times at which dimensions are learned."""

import numpy as np
import scipy.stats
from jax.typing import ArrayLike
from jaxtyping import Float, Real

from sslstep import _check
from sslstep.measure.steps._rises import Rises, Significance, isolated

__all__ = ["timing_test"]

# Relative positions of trial intervals between a rise's neighbours; finer than the records.
_PLACES = (np.arange(200) + 0.5) / 200


def timing_test(
    rises: Rises, times: Real[ArrayLike, " T"], level: Float[ArrayLike, " T"]
) -> Significance:
    r"""Test the null hypothesis that a quantity grows at times unrelated to the rises.

    The quantity x(t) is, for example, the log det of the hidden representations' covariance, or a
    probe's accuracy. Let dimension j rise alone from :math:`b_j` to :math:`e_j`, after the end
    :math:`e_{j-1}` of the rise before it and before the begin :math:`b_{j+1}` of the rise after it.
    The growth of x during the rise is compared with its growth over an equally long interval at a
    random place between these two rises:

    .. math:: u_j = P\big(x(s + w_j) - x(s) < x(e_j) - x(b_j)\big), \qquad
        s \text{ uniform from } e_{j-1} \text{ to } b_{j+1} - w_j, \quad w_j = e_j - b_j .

    A tie counts one half. The statistic is the mean of the :math:`u_j` over the K dimensions that
    rise alone between two other rises; it is 1 if x grows fastest at every rise. Under the null
    hypothesis each :math:`u_j` is uniform on [0, 1], and the p-value follows from the normal
    approximation with the mean 1/2 and the variance 1 / (12 K). Uniform growth of x between
    neighbouring rises does not contribute. Dimensions that rise together are left out.

    Two quantities of one network at one record share noise. **Compute the rises from every second
    record and the quantity from the other records.** Noise that is independent between records then
    never affects both.

    Args:
        rises: begin, middle and end of each dimension's rise, from :func:`rises`, in the units of
            ``times``.
        times: times of the T records, increasing, shape ``(T,)``, for example the logarithm of
            effective time.
        level: the quantity x at each record, shape ``(T,)``; interpolated linearly.

    Returns:
        :class:`Significance`; its statistic lies in [0, 1]. The statistic is NaN and the p-value 1
        if no dimension rises alone between two other rises.

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
        raise ValueError(f"level must have the shape of times, {clock.shape}, got {values.shape}.")
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
