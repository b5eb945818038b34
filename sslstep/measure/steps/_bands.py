"""Two bands of a spectrum: what has grown, and what has not."""

import math
from fractions import Fraction
from typing import NamedTuple

import diptest
import jax.numpy as jnp
import numpy as np
from jax.typing import ArrayLike
from jaxtyping import Float

from sslstep import _check
from sslstep.measure.steps._rises import Significance

__all__ = ["Gap", "bimodality_test", "widest_gap"]


class Gap(NamedTuple):
    """The widest gap of a spectrum, on a logarithmic scale.

    Attributes:
        learned: how many eigenvalues lie above it.
        threshold: its geometric middle.
        ratio: of the eigenvalue above it to that below.
        p_value: how probable a ratio so large is if the eigenvalues between the largest and the
            smallest lie uniformly on a logarithmic scale.
    """

    learned: int
    threshold: float
    ratio: float
    p_value: float


def widest_gap(eigenvalues: Float[ArrayLike, " d"]) -> Gap:
    r"""Where a spectrum falls into a band that has grown and one that has not.

    The gap between neighbours :math:`\lambda_k > \lambda_{k+1}` with the largest ratio. Every
    spectrum has one; whether it is wider than chance is told by the distribution of the largest of
    m spacings of uniform points, which, as a fraction x of the whole range, exceed it with
    probability (Darling 1953)

    .. math:: \sum_{i = 1}^{\lfloor 1 / x \rfloor} (-1)^{i + 1} \binom{m}{i} (1 - i x)^{m - 1}.

    Args:
        eigenvalues: in descending order, shape ``(d,)``, d of at least 2. What is 0, or negative by
            rounding, counts as eps of the largest, in the dtype that is given, so that dimensions
            that are dead lie beyond a gap. Leave out what is 0 for want of samples only, as all but
            n - 1 of a covariance are. Where some are negative by more, as those of a C of few
            samples, what is below the size of the most negative is noise, as is what is not above
            0, and counts as of that size, or as the smallest above 0 if that is larger.

    Returns:
        :class:`Gap`.

    Raises:
        ValueError: if there are fewer than two, values are not finite, or none is positive.

    Example:
        >>> import numpy as np
        >>> from sslstep.measure import steps
        >>> gap = steps.widest_gap(np.array([1.1, 0.9, 0.01, 0.005]))
        >>> gap.learned, round(gap.threshold, 3), round(gap.ratio), round(gap.p_value, 2)
        (2, 0.095, 90, 0.08)
    """
    given = np.asarray(eigenvalues)
    values = given.astype(float)
    if values.ndim != 1 or len(values) < 2:
        raise ValueError(f"eigenvalues must have shape (d,), d >= 2, got {values.shape}.")
    _check.require_finite("eigenvalues", values)
    if not (values > 0).any():
        raise ValueError("eigenvalues must have one that is positive.")
    noise = max(values[values > 0].min(), -values.min())
    dtype = given.dtype if jnp.issubdtype(given.dtype, jnp.floating) else float
    rounding = float(jnp.finfo(dtype).eps) * values.max()
    if -values.min() <= rounding:  # nothing tells of noise
        noise = min(noise, rounding)
    clipped = np.maximum(values, min(noise, values.max()))
    levels = np.unique(clipped)[::-1]
    if len(levels) < 2:
        return Gap(len(values), float(values.max()), 1.0, 1.0)
    spacings = -np.diff(np.log(levels))
    place = int(np.argmax(spacings))
    above, below = levels[place : place + 2]
    learned = int(np.sum(clipped >= above))
    p_value = _largest_spacing(float(spacings[place] / spacings.sum()), len(spacings))
    return Gap(learned, float(np.sqrt(above * below)), float(above / below), p_value)


def _largest_spacing(fraction: float, num: int) -> float:
    """Probability that the largest of `num` spacings exceeds a fraction of the range."""
    if num * fraction <= 1:
        return 1.0  # one of them must
    # The terms are huge and cancel: in exact integers.
    x = Fraction(fraction)
    terms = range(1, min(num, int(1 / x)) + 1)
    total = sum(
        ((-1) ** (i + 1) * math.comb(num, i) * (1 - i * x) ** (num - 1) for i in terms),
        start=Fraction(0),
    )
    return float(min(max(total, Fraction(0)), Fraction(1)))


def bimodality_test(values: Float[ArrayLike, " n"]) -> Significance:
    r"""Null hypothesis: values come from a distribution with one mode (Hartigan and Hartigan 1985).

    The statistic is the dip: the largest distance of the values' distribution function from the
    nearest one with a single mode. The p-value is that of the uniform distribution, which among
    those with one mode has the largest dips. Of eigenvalues, give logarithms: a band that has grown
    and one that has not are decades apart.

    Args:
        values: n of at least 4, in any order.

    Returns:
        :class:`Significance`.

    Raises:
        ValueError: if there are fewer than 4, or values are not finite.

    Example:
        >>> import numpy as np
        >>> from sslstep.measure import steps
        >>> bands = np.concatenate([np.linspace(-6, -5, 40), np.linspace(0, 1, 24)])
        >>> steps.bimodality_test(bands).p_value < 0.01
        True
        >>> steps.bimodality_test(np.linspace(-6, 1, 64)).p_value > 0.9
        True
    """
    numbers = np.asarray(values, float)
    if numbers.ndim != 1 or len(numbers) < 4:
        raise ValueError(f"values must have shape (n,), n >= 4, got {numbers.shape}.")
    _check.require_finite("values", numbers)
    dip, p_value = diptest.diptest(numbers)
    return Significance(float(dip), float(p_value))
