"""Two bands of a spectrum: what has grown, and what has not."""

from typing import NamedTuple

import diptest
import jax.numpy as jnp
import numpy as np
from jax.typing import ArrayLike
from jaxtyping import Float

from sslstep import _check
from sslstep.measure.steps._rises import Significance

__all__ = ["Gap", "bimodality_test", "widest_gap"]

# Where diptest's table of p-values ends.
_LEAST = 1e-5


class Gap(NamedTuple):
    """The widest gap of a spectrum, on a logarithmic scale.

    Attributes:
        learned: how many eigenvalues lie above it.
        threshold: its geometric middle.
        ratio: of the eigenvalue above it to that below.
    """

    learned: int
    threshold: float
    ratio: float


def widest_gap(eigenvalues: Float[ArrayLike, " d"]) -> Gap:
    r"""Where a spectrum falls into a band that has grown and one that has not.

    The gap between neighbours :math:`\lambda_k > \lambda_{k+1}` with the largest ratio. It
    describes a spectrum of two bands, and does not tell whether there are two: every spectrum has a
    widest gap, and many with a single band have a far wider one than log-uniform points have. The
    test of a single band is :func:`bimodality_test`, of the logarithms.

    Args:
        eigenvalues: in descending order, shape ``(d,)``, d of at least 2. Values that are 0, or
            negative by rounding, are clipped to eps of the largest, in their dtype: dead dimensions
            then lie beyond a gap. Leave out values that are 0 for want of samples only, as all but
            n - 1 of a covariance are. If some values are negative by more than rounding, as those
            of a C of few samples, values below \|λ_min\| are noise and are clipped to it, or to
            the smallest positive value if that is larger.

    Returns:
        :class:`Gap`.

    Raises:
        ValueError: if there are fewer than two, values are not finite, or none is positive.

    Example:
        >>> import numpy as np
        >>> from sslstep.measure import steps
        >>> gap = steps.widest_gap(np.array([1.1, 0.9, 0.01, 0.005]))
        >>> gap.learned, round(gap.threshold, 3), round(gap.ratio)
        (2, 0.095, 90)
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
        return Gap(len(values), float(values.max()), 1.0)
    spacings = -np.diff(np.log(levels))
    place = int(np.argmax(spacings))
    above, below = levels[place : place + 2]
    learned = int(np.sum(clipped >= above))
    return Gap(learned, float(np.sqrt(above * below)), float(above / below))


def bimodality_test(values: Float[ArrayLike, " n"]) -> Significance:
    r"""Null hypothesis: values come from a distribution with one mode (Hartigan and Hartigan 1985).

    The statistic is the dip: the largest distance of the values' distribution function from the
    nearest one with a single mode. The p-value is that of the uniform distribution, which among
    those with one mode has the largest dips: distributions with one mode are rejected no more often
    than the level says, and most of them far less often.

    Of eigenvalues, give logarithms: a band that has grown and one that has not are decades apart.
    Eigenvalues repel each other, so those of one random matrix are more evenly spread than the
    independent values that the test assumes, and are rejected still less often. Give the p-value at
    the start of training beside those along it: an untrained network has one band. The dip is at
    most about half the share of the smaller band, so at 5% a band that holds less than
    :math:`2 / \sqrt n` of the values may be missed.

    Args:
        values: n of at least 4, in any order.

    Returns:
        :class:`Significance`. The p-value is interpolated in a table of simulated dips, which ends
        at 1e-5: it is no smaller.

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
    return Significance(float(dip), max(float(p_value), _LEAST))
