"""Two bands of a spectrum: eigenvalues that have grown and eigenvalues that have not."""

from typing import NamedTuple

import diptest
import jax.numpy as jnp
import numpy as np
from jax.typing import ArrayLike
from jaxtyping import Float

from sslstep import _check
from sslstep.measure.steps._rises import Significance

# The smallest p-value of diptest's table.
_LEAST = 1e-5


class Gap(NamedTuple):
    """The widest gap of a spectrum, on a logarithmic scale.

    Attributes:
        learned: number of eigenvalues above the gap.
        threshold: geometric mean of the eigenvalues on the two sides of the gap.
        ratio: the eigenvalue above the gap, divided by the eigenvalue below it.
    """

    learned: int
    threshold: float
    ratio: float


def widest_gap(eigenvalues: Float[ArrayLike, " d"]) -> Gap:
    r"""Return the widest gap of a spectrum: the neighbouring eigenvalues with the largest ratio.

    The gap between :math:`\lambda_k` and :math:`\lambda_{k+1}` separates a band of k grown
    eigenvalues from the rest, if the spectrum has two bands. Every spectrum has a widest gap, so
    the gap does not show that there are two bands. To test for a single band, apply
    :func:`bimodality_test` to the logarithms.

    Args:
        eigenvalues: d ≥ 2 eigenvalues, in descending order, shape ``(d,)``. Values that are 0, or
            negative by rounding only, are clipped to eps of the largest, so that dead dimensions
            lie below a gap. If values are negative by more than rounding, as for a C of few
            samples, values below \|λ_min\| are noise and are clipped to it, or to the smallest
            positive value if that is larger. Leave out eigenvalues that vanish for lack of samples:
            a covariance of n samples has n - 1 nonzero eigenvalues.

    Returns:
        :class:`Gap`; ``ratio`` is 1 and ``learned`` is d if all clipped values are equal.

    Raises:
        ValueError: if there are fewer than two finite eigenvalues, or none is positive.

    Example:
        >>> import numpy as np
        >>> from sslstep.measure import steps
        >>> gap = steps.widest_gap(np.array([1.1, 0.9, 0.01, 0.005]))
        >>> gap.learned, round(gap.threshold, 3), round(gap.ratio)
        (2, 0.095, 90)
    """
    given = np.asarray(eigenvalues)
    values = given.astype(float)
    _check.require_vector("eigenvalues", values, "(d,)", least=2)
    _check.require_finite("eigenvalues", values)
    if not (values > 0).any():
        raise ValueError("eigenvalues must have one that is positive.")
    noise = max(values[values > 0].min(), -values.min())
    dtype = given.dtype if jnp.issubdtype(given.dtype, jnp.floating) else float
    rounding = float(jnp.finfo(dtype).eps) * values.max()
    if -values.min() <= rounding:  # negative by rounding only: no noise
        noise = min(noise, rounding)
    clipped = np.maximum(values, min(noise, values.max()))
    levels = np.unique(clipped)[::-1]
    if len(levels) < 2:
        return Gap(len(values), float(values.max()), 1.0)
    spacings = -np.diff(np.log(levels))
    place = int(np.argmax(spacings))
    above, below = levels[place : place + 2]
    learned = int(np.sum(clipped >= above))
    return Gap(learned, float(np.sqrt(above * below)), float(above / below))


def bimodality_test(values: Float[ArrayLike, " n"]) -> Significance:
    r"""Test the null hypothesis that values have one mode (Hartigan and Hartigan 1985).

    The statistic is the dip: the largest distance of the values' empirical distribution function
    from the nearest unimodal distribution function. The p-value is computed for the uniform
    distribution, which has the largest dips of all unimodal distributions. The test therefore
    rejects unimodal distributions at most at its nominal level, and most of them far less often.

    For a spectrum, pass the logarithms of the eigenvalues, because grown and other eigenvalues are
    decades apart. Eigenvalues of a random matrix repel each other and are more evenly spread than
    the independent values that the test assumes, which makes rejection still rarer. Report the
    p-value at the start of training too: an untrained network has one band. The dip is at most
    about half the fraction of values in the smaller band, so at the 5% level a band with less than
    :math:`2 / \sqrt n` of the values may be missed.

    Args:
        values: n ≥ 4 values, in any order, shape ``(n,)``.

    Returns:
        :class:`Significance`. The p-value is interpolated in a table of simulated dips and is at
        least 1e-5, the end of the table.

    Raises:
        ValueError: if there are fewer than 4 values, or values are not finite.

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
    _check.require_vector("values", numbers, "(n,)", least=4)
    _check.require_finite("values", numbers)
    dip, p_value = diptest.diptest(numbers)
    return Significance(float(dip), max(float(p_value), _LEAST))
