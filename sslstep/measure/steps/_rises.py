"""Rises of eigenvalues, and the tests of their order."""

from typing import NamedTuple

import jax.numpy as jnp
import numpy as np
import scipy.ndimage
import scipy.stats
from jax.typing import ArrayLike
from jaxtyping import Array, Bool, Float, Real

from sslstep import _check
from sslstep.measure import spectrum

# Relative positions of trial intervals between a rise's neighbours; finer than the records.
_PLACES = (np.arange(200) + 0.5) / 200


class Rises(NamedTuple):
    """Times of the rises of d eigenvalues; ``inf`` where an eigenvalue stays below the level.

    Attributes:
        begin: time at which each eigenvalue first reaches a small fraction of its plateau, shape
            ``(d,)``.
        middle: time at which each eigenvalue first reaches half its plateau, shape ``(d,)``.
        end: time at which each eigenvalue first reaches a large fraction of its plateau, shape
            ``(d,)``.
    """

    begin: Float[Array | np.ndarray, " d"]
    middle: Float[Array | np.ndarray, " d"]
    end: Float[Array | np.ndarray, " d"]


class Significance(NamedTuple):
    """The result of a statistical test.

    Attributes:
        statistic: test statistic; larger values are stronger evidence against the null hypothesis.
        p_value: probability of a statistic at least this large under the null hypothesis.
    """

    statistic: float
    p_value: float


def rises(
    times: Real[ArrayLike, " T"],
    eigenvalues: Float[ArrayLike, "T d"],
    plateau: Real[ArrayLike, "*d"] = 1.0,
    *,
    low: Real[ArrayLike, ""] = 0.1,
    high: Real[ArrayLike, ""] = 0.9,
) -> Rises:
    r"""Return the times at which each eigenvalue reaches ``low``, 1/2 and ``high`` of its plateau.

    Each time is the first crossing, interpolated linearly between records; ``inf`` if there is
    none (:func:`sslstep.measure.spectrum.step_times`).

    Args:
        times: times of the T records, increasing, shape ``(T,)``.
        eigenvalues: eigenvalues at each record, in descending order, shape ``(T, d)``.
        plateau: value that each eigenvalue rises to, positive; a scalar or shape ``(d,)``. It is 1
            for Barlow Twins; for a loss without a known plateau give the final eigenvalues.
        low: fraction of the plateau at which a rise begins, below 1/2.
        high: fraction of the plateau at which a rise ends, above 1/2.

    Raises:
        ValueError: if shapes do not fit, values are not finite, or an argument is out of range.

    Example:
        >>> import jax.numpy as jnp
        >>> from sslstep.measure import steps
        >>> times = jnp.linspace(0.0, 40.0, 401)
        >>> curves = 1 / (1 + jnp.exp(jnp.array([[10.0, 30.0, 60.0]]) - times[:, None]))
        >>> steps.rises(times, curves).middle.round(2)
        Array([10., 30., inf], dtype=float32)
    """
    _, dim = _check.require_matrix("eigenvalues", eigenvalues, "(T, d)")
    if _check.shape_of(plateau) not in ((), (dim,)):
        raise ValueError(
            f"plateau must be a scalar or have shape ({dim},), one for each column of eigenvalues, "
            f"got shape {_check.shape_of(plateau)}."
        )
    _check.require_within("plateau", plateau, above=0.0)
    _check.require_scalar("low", low, below=0.5)
    _check.require_scalar("high", high, above=0.5)
    values = _check.as_precise("eigenvalues", eigenvalues)
    levels = jnp.broadcast_to(jnp.asarray(plateau, values.dtype), values.shape[1:])
    relative = values / levels[None, :]
    return Rises(*(spectrum.step_times(times, relative, level) for level in (low, 0.5, high)))


def grown_levels(
    eigenvalues: Real[ArrayLike, "T d"], factor: Real[ArrayLike, ""] = 20.0
) -> Float[np.ndarray, " d"]:
    """Estimate the plateau of each eigenvalue from its records, for a loss without known plateaus.

    An eigenvalue has grown if it exceeds ``factor`` times the largest size of an eigenvalue of the
    first record, and a tenth of the median of the eigenvalues that do. An eigenvalue below that
    tenth has not begun to rise: its last value is no level. The level of a grown eigenvalue is its
    largest value. The level of each other eigenvalue is the median of the grown eigenvalues'
    levels.

    Args:
        eigenvalues: eigenvalues at each of T records, in descending order, shape ``(T, d)``.
        factor: growth, relative to the largest initial eigenvalue, above which one has grown.

    Returns:
        Levels, shape ``(d,)``; all ``inf`` if no eigenvalue has grown.

    Example:
        >>> import numpy as np
        >>> from sslstep.measure import steps
        >>> steps.grown_levels(np.array([[1e-4, 1e-4, 1e-4], [3.0, 0.9, 0.02]]))
        array([3.  , 0.9 , 1.95])
    """
    values = np.asarray(eigenvalues, float)
    largest: np.ndarray = values.max(axis=0)
    grown = largest > factor * np.abs(values[0]).max()
    if grown.any():
        grown &= largest >= np.median(largest[grown]) / 10
    rest = np.median(largest[grown]) if grown.any() else np.inf
    return np.where(grown, largest, rest)


def isolated(rises: Rises) -> Bool[np.ndarray, " d"]:
    r"""Return which dimensions are learned alone: no other rise overlaps with their own.

    The rise of a dimension lasts from its begin to its end, or forever if it never reaches its end.
    A dimension that never reaches its midpoint is not isolated, but once begun it prevents others
    from being so.

    Args:
        rises: begin, middle and end of each dimension's rise, from :func:`rises`.

    Returns:
        Mask of the isolated dimensions, shape ``(d,)``.

    Example:
        >>> import jax.numpy as jnp
        >>> from sslstep.measure import steps
        >>> begin, end = jnp.array([1.0, 2.0, 5.0]), jnp.array([3.0, 4.0, 6.0])
        >>> steps.isolated(steps.Rises(begin, (begin + end) / 2, end))
        array([False, False,  True])
    """
    begin, middle, end = (np.asarray(part, float) for part in rises)
    started = np.isfinite(begin)
    # Number of overlapping rises: those begun by this one's end, less those over by its begin.
    met = np.searchsorted(np.sort(begin[started]), end, side="right")
    met -= np.searchsorted(np.sort(end[started]), begin, side="left")
    alone: np.ndarray = np.isfinite(middle) & (met == 1)  # the one is its own
    return alone


def simultaneity_test(rises: Rises) -> Significance:
    r"""Test the null hypothesis that all dimensions are learned at one time, up to their durations.

    For K dimensions that rise completely, with half-rise times :math:`t_j` and durations
    :math:`w_j` (begin to end), the statistic is

    .. math:: X^2 = \sum_j \Big(\frac{t_j - \bar t}{w_j}\Big)^2, \qquad
        \bar t = \frac{\sum_j t_j / w_j^2}{\sum_j 1 / w_j^2} .

    Under the null hypothesis the :math:`t_j` scatter about a common time with the standard
    deviations :math:`w_j`, and :math:`X^2` has the :math:`\chi^2` distribution with K - 1 degrees
    of freedom. The scatter granted to the null hypothesis is generous: curves proportional to each
    other have :math:`X^2 = 0`. Rejection excludes simultaneous growth; :func:`isolated` shows which
    dimensions rise one at a time.

    Args:
        rises: begin, middle and end of each dimension's rise, from :func:`rises`. Dimensions that
            do not reach their end are left out.

    Raises:
        ValueError: if fewer than two dimensions rise from begin to end, or a duration is zero.

    Example:
        >>> import jax.numpy as jnp
        >>> from sslstep.measure import steps
        >>> middle = jnp.array([10.0, 20.0, 30.0, 40.0])
        >>> test = steps.simultaneity_test(steps.Rises(middle - 1, middle, middle + 1))
        >>> round(test.statistic), test.p_value < 1e-20
        (125, True)
    """
    begin, middle, end = (np.asarray(part, float) for part in rises)
    whole = np.isfinite(end) & np.isfinite(middle)
    if whole.sum() < 2:
        raise ValueError(
            f"rises must have two dimensions that rise from begin to end, got {whole.sum()}."
        )
    duration = end[whole] - begin[whole]
    if not (duration > 0).all():
        raise ValueError("rises must last for some time: the end of one is not after its begin.")
    weights = duration**-2
    mean = np.sum(weights * middle[whole]) / weights.sum()
    statistic = float(np.sum(weights * (middle[whole] - mean) ** 2))
    return Significance(statistic, float(scipy.stats.chi2.sf(statistic, whole.sum() - 1)))


def spread(rises: Rises) -> float:
    """Return the scatter of step times about their common time, in units of the rises' durations.

    The spread is the square root of :func:`simultaneity_test`'s chi-square per degree of freedom.
    It is at most about 1 if all dimensions are learned at one time.

    Args:
        rises: begin, middle and end of each dimension's rise, from :func:`rises`. Dimensions that
            do not reach their end, or rise within no time, are left out.

    Returns:
        The spread; 0 if fewer than two dimensions remain.

    Example:
        >>> import jax.numpy as jnp
        >>> from sslstep.measure import steps
        >>> middle = jnp.array([10.0, 20.0, 30.0, 40.0])
        >>> round(steps.spread(steps.Rises(middle - 1, middle, middle + 1)), 2)
        6.45
    """
    begin, middle, end = (np.asarray(part, float) for part in rises)
    rose = np.isfinite(end) & (end > begin)
    if rose.sum() < 2:
        return 0.0
    test = simultaneity_test(Rises(begin[rose], middle[rose], end[rose]))
    return float(np.sqrt(test.statistic / (rose.sum() - 1)))


def pauses(rises: Rises) -> list[tuple[int, float, float]]:
    """Return the pauses: the time intervals between rises, in which no dimension rises.

    Args:
        rises: begin, middle and end of each dimension's rise, from :func:`rises`. Dimensions that
            do not reach their middle are left out.

    Returns:
        A tuple for each pause: the number of dimensions learned before it, its start, its end.

    Example:
        >>> import jax.numpy as jnp
        >>> from sslstep.measure import steps
        >>> middle = jnp.array([10.0, 11.0, 30.0])
        >>> steps.pauses(steps.Rises(middle - 1, middle, middle + 1))
        [(2, 12.0, 29.0)]
    """
    begin, middle, end = (np.asarray(part, float) for part in rises)
    learned = np.isfinite(middle)
    order = np.argsort(begin[learned])
    begin, end = begin[learned][order], end[learned][order]
    done = np.maximum.accumulate(end)
    pairs = enumerate(zip(done[:-1], begin[1:], strict=True), start=1)
    return [(k, float(a), float(b)) for k, (a, b) in pairs if a < b]


def growth_rate(
    times: Real[ArrayLike, " T"],
    eigenvalues: Float[ArrayLike, "T d"],
    at: Real[ArrayLike, " m"],
) -> Float[np.ndarray, " m-1"]:
    r"""Return the growth rate of a spectrum's :math:`\log\det` between neighbouring times.

    .. math:: \frac{1}{\Delta t} \sum_j \Delta \log \lambda_j

    Learning a dimension multiplies its eigenvalue :math:`\lambda_j`, so steps of small and of large
    eigenvalues count equally. :math:`\log\det` is interpolated linearly between records.

    Args:
        times: times of the T records, increasing, shape ``(T,)``.
        eigenvalues: positive eigenvalues at each record, shape ``(T, d)``.
        at: m times, increasing, within ``times``, shape ``(m,)``.

    Returns:
        Growth rates from each time of ``at`` to the next, shape ``(m - 1,)``.

    Raises:
        ValueError: if shapes do not fit, values are not finite, or an argument is out of range.

    Example:
        >>> import numpy as np
        >>> from sslstep.measure import steps
        >>> times = np.linspace(0.0, 1.0, 11)
        >>> curves = np.exp(times[:, None] * np.array([[2.0, 1.0]]))
        >>> steps.growth_rate(times, curves, np.array([0.0, 0.5, 1.0])).round(6).tolist()
        [3.0, 3.0]
    """
    records, _ = _check.require_matrix("eigenvalues", eigenvalues, "(T, d)")
    values, places = np.asarray(eigenvalues, float), np.asarray(at, float)
    _check.require_shape("times", times, (records,), ", one for each row of eigenvalues")
    _check.require_finite("eigenvalues", values)
    _check.require_within("eigenvalues", values, above=0.0)
    _check.require_increasing("at", places)
    known = np.asarray(times, float)
    _check.require_increasing("times", known)
    if places.size and not known[0] <= places[0] <= places[-1] <= known[-1]:
        raise ValueError(
            f"at must lie within times, {known[0]:g} to {known[-1]:g}, got {places[0]:g} to "
            f"{places[-1]:g}."
        )
    volume = np.log(values).sum(axis=1)
    rate: np.ndarray = np.diff(np.interp(places, known, volume))
    return rate / np.diff(places)


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
        ValueError: if shapes do not fit, values are not finite, or an argument is out of range.

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
    _check.require_shape("level", values, clock.shape, ", as times")
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


def coincidence_test(
    a: Float[ArrayLike, " m"], b: Float[ArrayLike, " m"], *, smooth: float = 5.0
) -> Significance:
    r"""Test the null hypothesis that two growth rates along training have no common timing.

    A Gaussian filter of standard deviation ``smooth`` gives the trend of each series. The statistic
    is Spearman's rank correlation of the two series minus their trends; a common trend, such as
    growth in the middle of training, does not count. Under the null hypothesis, a cyclic shift of
    one series in time leaves the distribution of the statistic unchanged. The p-value is the
    fraction of the m cyclic shifts, including the shift by 0, with a correlation at least as large.
    It is at least 1/m.

    The noise of the two series must be independent. Two quantities of one network at one record
    share noise, which this test mistakes for common timing; use :func:`timing_test` for them.

    Args:
        a: first series, shape ``(m,)``, for example the :func:`growth_rate` of embeddings.
        b: second series at the times of ``a``, shape ``(m,)``, for example the :func:`growth_rate`
            of hidden representations.
        smooth: standard deviation of the filter in entries of the series, a few times the duration
            of a step; 0 keeps the trend.

    Returns:
        :class:`Significance`; its statistic is in [-1, 1].

    Raises:
        ValueError: if shapes do not fit, m < 3, values are not finite, or a series is constant or
            equals its trend up to rounding, as always if ``smooth`` is below 1/8.

    Example:
        >>> import numpy as np
        >>> from sslstep.measure import steps
        >>> a = np.random.default_rng(0).normal(size=200)
        >>> test = steps.coincidence_test(a, a + 0.1)
        >>> round(test.statistic, 6), round(test.p_value, 6)
        (1.0, 0.005)
    """
    first, second = np.asarray(a, float), np.asarray(b, float)
    if first.ndim != 1 or first.shape != second.shape or len(first) < 3:
        raise ValueError(
            f"a and b must be two series of one length, at least 3, got shapes {first.shape} and "
            f"{second.shape}."
        )
    _check.require_finite("a", first)
    _check.require_finite("b", second)
    _check.require_scalar("smooth", smooth, at_least=0.0)
    rests = []
    for name, series in (("a", first), ("b", second)):
        if np.ptp(series) == 0:
            raise ValueError(f"{name} is constant: it has no timing.")
        rest = series
        if smooth:
            rest = series - scipy.ndimage.gaussian_filter1d(series, smooth, mode="nearest")
            # A narrow Gaussian sums three terms, accurate to 2 eps in either direction.
            if np.ptp(rest) <= 4 * np.finfo(float).eps * np.abs(series).max():
                raise ValueError(
                    f"smooth = {smooth:g} is too small: the trend of {name} equals the series. "
                    f"Give a larger number, or 0 to subtract no trend."
                )
        rests.append(scipy.stats.rankdata(rest))
    ranks, others = rests
    ranks, others = ranks - ranks.mean(), others - others.mean()
    # Correlations at all cyclic shifts, by the fast Fourier transform.
    product = np.fft.rfft(ranks) * np.conj(np.fft.rfft(others))
    correlations = np.fft.irfft(product, len(ranks))
    correlations /= np.sqrt(np.sum(ranks**2) * np.sum(others**2))
    rounding = 1e-12
    return Significance(
        float(np.clip(correlations[0], -1, 1)),
        float(np.mean(correlations >= correlations[0] - rounding)),
    )
