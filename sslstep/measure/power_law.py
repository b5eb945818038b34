r"""Power laws :math:`y \propto x^p`, by least squares of logarithms."""

from typing import NamedTuple

import numpy as np
from jax.typing import ArrayLike
from jaxtyping import Float, Real

from sslstep import _check

__all__ = ["PowerLaw", "fit"]


class PowerLaw(NamedTuple):
    """A fitted power law of S series.

    Attributes:
        exponent: mean of the exponents of all series.
        standard_error: standard error of ``exponent``: from the scatter of the exponents if S > 1,
            from the residuals of the fit if S = 1; NaN for one series of two points.
        exponents: exponent of each series, shape ``(S,)``.
    """

    exponent: float
    standard_error: float
    exponents: Float[np.ndarray, " S"]


def fit(x: Real[ArrayLike, " T"], y: Real[ArrayLike, "T *S"]) -> PowerLaw:
    r"""Fit the exponent p of :math:`y = c\,x^p` by least squares of log y on log x.

    All points have equal weights. This suits values of y with equal relative errors.

    Args:
        x: T ≥ 2 positive numbers, not all equal, shape ``(T,)``.
        y: positive numbers at each x, shape ``(T,)``, or ``(T, S)`` for S independent series.

    Raises:
        ValueError: if shapes do not fit, numbers are not positive, or x is all equal.

    Example:
        >>> import numpy as np
        >>> from sslstep.measure import power_law
        >>> widths = np.array([64.0, 256.0, 1024.0])
        >>> round(power_law.fit(widths, 3 * widths**-0.5).exponent, 6)
        -0.5
    """
    x, y = np.asarray(x, float), np.asarray(y, float)
    _check.require_vector("x", x, "(T,)", least=2)
    if y.ndim not in (1, 2) or len(y) != len(x):
        raise ValueError(f"y must have shape ({len(x)},) or ({len(x)}, S), got {y.shape}.")
    _check.require_within("x", x, above=0.0)
    _check.require_within("y", y, above=0.0)
    if x.min() == x.max():
        raise ValueError(f"x must not be all equal, got {x[0]} at each of {len(x)} points.")
    rows, a = np.log(y.reshape(len(y), -1)), np.log(x) - np.log(x).mean()
    exponents = (a @ rows) / (a @ a)
    t, s = rows.shape
    if s > 1:
        error = float(exponents.std(ddof=1) / s**0.5)
    else:
        residuals = rows[:, 0] - rows.mean() - exponents[0] * a
        error = float(np.sqrt(residuals @ residuals / (t - 2) / (a @ a))) if t > 2 else np.nan
    return PowerLaw(float(exponents.mean()), error, exponents)
