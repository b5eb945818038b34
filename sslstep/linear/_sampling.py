r"""Modes of a Γ of n samples, in expectation: what of them belongs to the population."""

from typing import NamedTuple

import numpy as np
from jax.typing import ArrayLike
from jaxtyping import Float, Real

from sslstep import _check

#: Largest relative step of the eigenvalue, and its relative imaginary part.
STEP, SMALL = 5e-3, 3e-4


class SampledModes(NamedTuple):
    """Expected modes of the Γ of n pairs.

    Attributes:
        eigenvalues: expected eigenvalues of the sampled Γ, in descending order, shape ``(dim,)``.
        correlations: population C_jj of the embedding that the sample's mode j gives when learned,
            shape ``(dim,)``. It is 1 on the sample, and 0 for noise.
    """

    eigenvalues: Float[np.ndarray, " dim"]
    correlations: Float[np.ndarray, " dim"]


def sampled_modes(
    gamma_matrix: Real[ArrayLike, "m m"],
    sigma_matrix: Real[ArrayLike, "m m"],
    num_pairs: int,
    dim: int,
) -> SampledModes:
    r"""Predict eigenvalues of a Γ of n pairs, and how far its modes are those of the population.

    Both views of n independent pairs are Gaussian, with the cross-correlation Γ and the second
    moment Σ. The sampled cross-correlation is half the difference of two independent Wishart
    matrices, those of :math:`(x \pm x') / \sqrt 2`, whose covariances are Σ ± Γ. For large n and m
    its resolvent is

    .. math:: G(z) = \left( z - \frac{\Sigma + \Gamma}{2 + e_+} + \frac{\Sigma - \Gamma}{2 - e_-}
        \right)^{-1}, \qquad e_\pm = -\frac{1}{n} \operatorname{tr} (\Sigma \pm \Gamma) \, G .

    Imaginary parts on the real axis give the density of eigenvalues, :math:`-\operatorname{tr} G /
    \pi`, and the mean :math:`v^\top \Gamma v` of sampled modes, the ratio of the imaginary parts of
    :math:`\operatorname{tr} \Gamma G` and :math:`\operatorname{tr} G`. Mode j lies where j - 1/2
    eigenvalues are larger. A learned mode has C = 1 on the sample, and
    :math:`C_{jj} = v^\top \Gamma v / \hat\gamma` in the population. With Γ = 0 the first
    eigenvalue is the edge of the noise. Modes of the sample below it cannot be told from noise.

    Args:
        gamma_matrix: the population's Γ, shape ``(m, m)``.
        sigma_matrix: the population's second moment Σ of single views, same shape; Σ ± Γ have no
            negative eigenvalues.
        num_pairs: n.
        dim: number of modes. The sampled Γ must have that many positive eigenvalues.

    Returns:
        :class:`SampledModes`, in float64. Each eigenvalue is accurate to about its fluctuation in a
        single sample. The computation is on the host, and solves some thousands of systems of m
        linear equations.

    Raises:
        ValueError: if the matrices do not fit, or a number is out of range.

    Example:
        >>> import numpy as np
        >>> from sslstep import linear
        >>> one = np.eye(60)  # equal views: Wishart matrices, up to (1 + (m / n)^(1/2))^2 = 2.25
        >>> linear.sampled_modes(one, one, 240, 1).eigenvalues.round(1)
        array([2.2])
        >>> noise = linear.sampled_modes(0 * one, one, 240, 1)
        >>> noise.eigenvalues.round(1), noise.correlations.round(3) + 0.0
        (array([0.7]), array([0.]))
    """
    _check.require_symmetric("gamma_matrix", gamma_matrix)
    _check.require_symmetric("sigma_matrix", sigma_matrix)
    _check.require_one_shape("gamma_matrix and sigma_matrix", gamma_matrix, sigma_matrix)
    gamma, sigma = (np.asarray(a, np.float64) for a in (gamma_matrix, sigma_matrix))
    _check.require_within("num_pairs", num_pairs, at_least=1)
    _check.require_within("dim", dim, at_least=1)
    pair = np.stack([sigma + gamma, sigma - gamma])
    ends = np.linalg.eigvalsh(pair)
    if ends[:, 0].min() < -1e-6 * ends.max() or ends.max() <= 0:
        raise ValueError(
            f"sigma_matrix plus and minus gamma_matrix must have no negative eigenvalues, and not "
            f"only zeros; the smallest is {ends.min():.3g}, the largest {ends.max():.3g}."
        )
    mean, largest = np.trace(sigma) / num_pairs, ends.max()
    x = 2 * (largest + 2 * np.sqrt(largest * mean) + mean)
    e = -np.trace(pair, axis1=1, axis2=2) / num_pairs / (x * (1 + SMALL * 1j))
    e, trace = _resolvent(x, pair, num_pairs, e)
    places, counts, density = [x], [0.0], -trace.imag / np.pi
    shares = [_share(e, trace, num_pairs, x)]
    lowest, step = 1e-8 * x, STEP
    while counts[-1] < dim - 0.4:  # the last mode lies at dim - 0.5
        x = places[-1] * np.exp(-step)
        if x < lowest:
            raise ValueError(
                f"dim = {dim} must be at most the number of positive eigenvalues that the sampled "
                f"cross-correlation has, {counts[-1]:.0f}."
            )
        there, trace = _resolvent(x, pair, num_pairs, e)
        change = abs(np.log(-trace.imag / np.pi / density))
        if change > 0.4 and step > SMALL / 3:
            step /= 2
            continue
        before, density, e = density, -trace.imag / np.pi, there
        counts.append(counts[-1] + (before + density) / 2 * (places[-1] - x))
        places.append(x)
        shares.append(_share(e, trace, num_pairs, x))
        step = min(2 * step, STEP) if change < 0.1 else step
    at = np.interp(np.arange(dim) + 0.5, counts, np.arange(len(counts)))
    found = (np.interp(at, np.arange(len(counts)), each) for each in (np.log(places), shares))
    logarithms, correlations = found
    return SampledModes(np.exp(logarithms), correlations)


def _share(e, trace, num_pairs, x):
    """Return C_jj of a mode at x: its mean Γ, from tr ΓG = n (e₋ - e₊) / 2, over x."""
    return num_pairs / 2 * (e[1] - e[0]).imag / trace.imag / x


def _resolvent(x, pair, num_pairs, e):
    """Return e± and tr G at z = x (1 + i SMALL), from their values at the last x.

    Newton's method may find a solution that is not a resolvent, whose imaginary part is negative.
    Then it is followed from a large imaginary part of z, where iteration converges.
    """
    there, trace, found = _newton(x * (1 + SMALL * 1j), pair, num_pairs, e)
    if found:
        return there, trace
    e = -np.trace(pair, axis1=1, axis2=2) / num_pairs / (x * 1j)
    for _ in range(200):
        e = (e + _image(x * (1 + 1j), pair, num_pairs, e)[0]) / 2
    for imaginary in np.geomspace(1, SMALL, 60):
        e, trace, _ = _newton(x * (1 + imaginary * 1j), pair, num_pairs, e)
    return e, trace


def _image(z, pair, num_pairs, e):
    """Return the e± that the G at these e± gives, tr G, and the derivative of the former."""
    factors = np.array([1 / (2 + e[0]), 1 / (2 - e[1])])
    size = len(pair[0])
    inverse = z * np.eye(size) - factors[0] * pair[0] + factors[1] * pair[1]
    products = np.linalg.solve(inverse, np.hstack(pair)).reshape(size, 2, size).swapaxes(0, 1)
    traces = np.trace(products, axis1=1, axis2=2)
    trace = (size + factors[0] * traces[0] - factors[1] * traces[1]) / z
    slopes = np.einsum("iab,jba->ij", products, products) * factors[None, :] ** 2 / num_pairs
    return -traces / num_pairs, trace, slopes


def _newton(z, pair, num_pairs, e):
    for _ in range(30):
        image, trace, slopes = _image(z, pair, num_pairs, e)
        change = np.linalg.solve(np.eye(2) - slopes, e - image)
        e = e - change
        if np.abs(change).max() <= 1e-8 * np.abs(e).max():
            # Of equal views Σ - Γ and e₋ are 0.
            return e, trace, bool(trace.imag < 0 and (e.imag >= 0).all())
    return e, trace, False
