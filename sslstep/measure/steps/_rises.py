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

__all__ = [
    "Rises",
    "Significance",
    "coincidence_test",
    "growth_rate",
    "isolated",
    "pauses",
    "rises",
    "simultaneity_test",
    "spread",
]


class Rises(NamedTuple):
    """When each of d eigenvalues rises; ``inf`` where it does not get so far.

    Attributes:
        begin: when it first exceeds a small fraction of its plateau, shape ``(d,)``.
        middle: when it first exceeds half of it.
        end: when it first exceeds most of it.
    """

    begin: Float[Array | np.ndarray, " d"]
    middle: Float[Array | np.ndarray, " d"]
    end: Float[Array | np.ndarray, " d"]


class Significance(NamedTuple):
    """A statistical test's outcome.

    Attributes:
        statistic: the larger, the less the null hypothesis fits.
        p_value: how probable one so large is under the null hypothesis.
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
    r"""When each eigenvalue passes ``low``, one half, and ``high``, in units of its plateau.

    Args:
        times: of the records, increasing, shape ``(T,)``.
        eigenvalues: at each record, shape ``(T, d)``, in descending order.
        plateau: what each rises to: 1 for Barlow Twins; for losses without such a value the
            eigenvalues at the end. A scalar, or shape ``(d,)``; positive.
        low: where a rise begins.
        high: where it ends.

    Returns:
        :class:`Rises`.

    Raises:
        ValueError: as :func:`sslstep.measure.spectrum.step_times`, if a plateau is not positive or
            ``plateau`` has another shape, or not low < 1/2 < high.

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
    _check.require_scalar("high", high)
    _check.require_at_least("plateau", plateau, 0.0, strict=True)
    _check.require_scalar("low", low, below=0.5)
    _check.require_at_least("high", high, 0.5, strict=True)
    values = _check.as_precise("eigenvalues", eigenvalues)
    levels = jnp.broadcast_to(jnp.asarray(plateau, values.dtype), values.shape[1:])
    relative = values / levels[None, :]
    return Rises(*(spectrum.step_times(times, relative, level) for level in (low, 0.5, high)))


def grown_levels(
    eigenvalues: Real[ArrayLike, "T d"], factor: Real[ArrayLike, ""] = 20.0
) -> Float[np.ndarray, " d"]:
    """What each eigenvalue rises to, where no theory says.

    The largest value that each has, of those that outgrow the largest initial eigenvalue so many
    times; for the others, the median of these.

    Args:
        eigenvalues: T records of d of them, in descending order, shape ``(T, d)``.
        factor: how many times.

    Returns:
        Levels, shape ``(d,)``; ``inf`` if no eigenvalue outgrows the start.

    Example:
        >>> import numpy as np
        >>> from sslstep.measure import steps
        >>> steps.grown_levels(np.array([[0.02, 0.01, 0.01], [3.0, 0.9, 0.02]]))
        array([3.  , 0.9 , 1.95])
    """
    values = np.asarray(eigenvalues, float)
    largest: np.ndarray = values.max(axis=0)
    grown = largest > factor * values[0, 0]
    rest = np.median(largest[grown]) if grown.any() else np.inf
    return np.where(grown, largest, rest)


def isolated(rises: Rises) -> Bool[np.ndarray, " d"]:
    r"""Which dimensions are learned alone: no other rises between their begin and their end.

    A dimension that has begun and not reached its end counts as rising from its begin on. One that
    never reaches its middle is not learned and never alone; once it has begun, it prevents others
    from being alone.

    Args:
        rises: from :func:`rises`.

    Returns:
        Shape ``(d,)``.

    Example:
        >>> import jax.numpy as jnp
        >>> from sslstep.measure import steps
        >>> begin, end = jnp.array([1.0, 2.0, 5.0]), jnp.array([3.0, 4.0, 6.0])
        >>> steps.isolated(steps.Rises(begin, (begin + end) / 2, end))
        array([False, False,  True])
    """
    begin, middle, end = (np.asarray(part, float) for part in rises)
    started = np.isfinite(begin)
    # Of the intervals that begin before another ends, all but those that are over before it begins.
    met = np.searchsorted(np.sort(begin[started]), end, side="right")
    met -= np.searchsorted(np.sort(end[started]), begin, side="left")
    alone: np.ndarray = np.isfinite(middle) & (met == 1)  # itself
    return alone


def simultaneity_test(rises: Rises) -> Significance:
    r"""Null hypothesis: all dimensions are learned at one time, give or take how long a rise takes.

    Of K learned dimensions with half-rise times :math:`t_j` and durations :math:`w_j` (begin to
    end), the statistic

    .. math:: X^2 = \sum_j \Big(\frac{t_j - \bar t}{w_j}\Big)^2, \qquad
        \bar t = \frac{\sum_j t_j / w_j^2}{\sum_j 1 / w_j^2}

    follows :math:`\chi^2` with K - 1 degrees of freedom if the times scatter about a common one
    with the whole duration of their own rise as standard deviation. That is generous to the null:
    curves that grow in proportion to each other have :math:`X^2 = 0`. What it rejects is
    simultaneous growth; how far growth is one dimension at a time is told by :func:`isolated`.

    Args:
        rises: from :func:`rises`. Dimensions that do not reach their end are left out.

    Returns:
        :class:`Significance`.

    Raises:
        ValueError: if fewer than two dimensions rise from begin to end, or one does within no time.

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
        raise ValueError("rises must take some time: an end is not after its begin.")
    weights = duration**-2
    mean = np.sum(weights * middle[whole]) / weights.sum()
    statistic = float(np.sum(weights * (middle[whole] - mean) ** 2))
    return Significance(statistic, float(scipy.stats.chi2.sf(statistic, whole.sum() - 1)))


def spread(rises: Rises) -> float:
    """Scatter of step times about a common one, in units of how long rises take.

    The root of :func:`simultaneity_test`'s chi-square per degree of freedom: about 1 at most where
    all dimensions are learned at one time.

    Args:
        rises: from :func:`rises`. Dimensions that do not reach their end, or start there, are left
            out.

    Returns:
        The spread; 0 where fewer than two dimensions rise.

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
    """The times between rises, while none is under way.

    Args:
        rises: from :func:`rises`. Dimensions that are never learned are left out.

    Returns:
        For each pause the number of dimensions learned before it, its start and its end.

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
    r"""How fast a spectrum grows: the rate of :math:`\log\det` between given times.

    .. math:: \frac{1}{\Delta t} \sum_j \Delta \log \lambda_j

    A dimension that is learned multiplies its eigenvalue, however small it is beside the largest,
    so that every step counts alike. Interpolated linearly between records.

    Args:
        times: of the records, increasing, shape ``(T,)``.
        eigenvalues: at each record, shape ``(T, d)``; positive.
        at: increasing, within the times of the records, shape ``(m,)``.

    Returns:
        Rates between neighbours, shape ``(m - 1,)``.

    Raises:
        ValueError: if shapes do not fit, eigenvalues are not positive, or ``times`` or ``at`` does
            not increase or ``at`` is not within ``times``.

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
    if np.shape(times) != (records,):
        raise ValueError(
            f"times must have shape ({records},), one for each row of eigenvalues, got "
            f"{np.shape(times)}."
        )
    _check.require_finite("eigenvalues", values)
    _check.require_at_least("eigenvalues", values, 0.0, strict=True)
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


def coincidence_test(
    a: Float[ArrayLike, " m"], b: Float[ArrayLike, " m"], *, smooth: float = 5.0
) -> Significance:
    r"""Null hypothesis: two growth rates along training have no common timing.

    The statistic is Spearman's rank correlation of the two series less their own smooth course,
    which is the series under a Gaussian of standard deviation ``smooth``: that both are busy in the
    middle of training is no coincidence of steps. Under the null hypothesis one series could as
    well be shifted in time against the other, around the end, so the p-value is the fraction of all
    m cyclic shifts, that by nothing included, with a correlation at least as large. It is no
    smaller than 1/m.

    The noise of the two series must be independent. What one network measures twice at one record
    has noise in common, which this test takes for common timing: :func:`timing_test` does not.

    Args:
        a: such as :func:`growth_rate` of embeddings' eigenvalues, shape ``(m,)``.
        b: such as that of hidden representations' at the same times, shape ``(m,)``.
        smooth: in entries of the series; a few times as long as a step takes. 0 keeps the course.

    Returns:
        :class:`Significance`; its statistic is in [-1, 1].

    Raises:
        ValueError: if shapes do not fit, values are not finite, or a series is constant, or is its
            own smooth course but for rounding, as every one is if ``smooth`` is below 1/8.

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
            # Of a Gaussian so narrow the course is a sum of three, good to 2 eps on either side.
            if np.ptp(rest) <= 4 * np.finfo(float).eps * np.abs(series).max():
                raise ValueError(
                    f"smooth = {smooth:g} leaves nothing of {name}: the smooth course is the "
                    f"series. Give a larger one, or 0 to keep the course."
                )
        rests.append(scipy.stats.rankdata(rest))
    ranks, others = rests
    ranks, others = ranks - ranks.mean(), others - others.mean()
    # With every cyclic shift of the other, by way of their spectra.
    product = np.fft.rfft(ranks) * np.conj(np.fft.rfft(others))
    correlations = np.fft.irfft(product, len(ranks))
    correlations /= np.sqrt(np.sum(ranks**2) * np.sum(others**2))
    rounding = 1e-12
    return Significance(
        float(np.clip(correlations[0], -1, 1)),
        float(np.mean(correlations >= correlations[0] - rounding)),
    )
