r"""Modes of a Γ of n samples, in expectation: what of them belongs to the population."""

from typing import NamedTuple

import numpy as np
from jax.typing import ArrayLike
from jaxtyping import Float, Real

from sslstep import _check

__all__ = ["SampledModes", "sampled_modes"]

#: Largest relative step of the eigenvalue, and its relative imaginary part.
STEP, SMALL = 2e-3, 3e-4


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
    eigenvalues: Real[ArrayLike, " m"],
    variances: Real[ArrayLike, " m"],
    num_pairs: int,
    dim: int,
) -> SampledModes:
    r"""Predict eigenvalues of a Γ of n pairs, and how far its modes are those of the population.

    Both views of n independent pairs are Gaussian. Their cross-correlation Γ and their second
    moment Σ commute, with eigenvalues :math:`\gamma_a` and :math:`\sigma_a`. The sampled
    cross-correlation is then half the difference of two independent Wishart matrices, those of
    :math:`(x \pm x') / \sqrt 2`, whose covariances are Σ ± Γ. For large n and m its resolvent is
    diagonal, with the elements

    .. math:: g_a(z) = \left( z - \frac{\sigma_a + \gamma_a}{2 + e_+} +
        \frac{\sigma_a - \gamma_a}{2 - e_-} \right)^{-1}, \qquad
        e_\pm = -\frac{1}{n} \sum_a (\sigma_a \pm \gamma_a) \, g_a .

    Their imaginary parts on the real axis are the density of eigenvalues, and the shares of the
    population's modes in a sampled mode. Mode j lies where j - 1/2 eigenvalues are larger. A
    learned mode has C = 1 on the sample, and :math:`C_{jj} = v^\top \Gamma v / \hat\gamma` in the
    population. With γ = 0 the first eigenvalue is the edge of the noise. Modes of the sample below
    it cannot be told from noise.

    Args:
        eigenvalues: γ, eigenvalues of the population's Γ, shape ``(m,)``.
        variances: σ ≥ \|γ\|, the second moments of single views along the same modes,
            shape ``(m,)``.
        num_pairs: n.
        dim: number of modes. The sampled Γ must have that many positive eigenvalues.

    Returns:
        :class:`SampledModes`, in float64. Each eigenvalue is accurate to about its fluctuation,
        :math:`\sigma_a / \sqrt n`. The computation is on the host and takes about a second for
        m = 1000.

    Raises:
        ValueError: if shapes differ, variances are smaller than eigenvalues or all zero, or
            ``num_pairs`` or ``dim`` is too small or ``dim`` too large.

    Example:
        >>> import numpy as np
        >>> from sslstep import linear
        >>> ones = np.ones(200)  # equal views: Wishart matrices, up to (1 + (m / n)^(1/2))^2 = 2.25
        >>> linear.sampled_modes(ones, ones, 800, 1).eigenvalues.round(1)
        array([2.2])
        >>> noise = linear.sampled_modes(0 * ones, ones, 800, 1)
        >>> noise.eigenvalues.round(1), noise.correlations + 0.0
        (array([0.7]), array([0.]))
    """
    _check.require_vector("eigenvalues", eigenvalues, "(m,)")
    if np.shape(variances) != np.shape(eigenvalues):
        raise ValueError(
            f"variances must have the shape of eigenvalues {np.shape(eigenvalues)}, got "
            f"{np.shape(variances)}."
        )
    gamma, sigma = (np.asarray(a, np.float64) for a in (eigenvalues, variances))
    _check.require_finite("eigenvalues", gamma)
    _check.require_finite("variances", sigma)
    if not (sigma >= np.abs(gamma) * (1 - 1e-6)).all() or not sigma.any():
        raise ValueError("variances must be at least the absolute eigenvalues, and not all zero.")
    _check.require_at_least("num_pairs", num_pairs, 1)
    _check.require_at_least("dim", dim, 1)
    plus, minus = (sigma + gamma) / num_pairs, (sigma - gamma) / num_pairs
    model = (plus, minus, num_pairs)
    mean = sigma.sum() / num_pairs
    x = 2 * (np.abs(gamma).max() + 2 * np.sqrt(sigma.max() * mean) + mean)
    e = -np.array([plus.sum(), minus.sum()]) / (x * (1 + SMALL * 1j))
    e, g = _resolvent(x, model, e)
    places, counts, shares, density = [x], [0.0], [_share(g, gamma, x)], -g.imag.sum() / np.pi
    lowest, step = 1e-8 * x, STEP
    while counts[-1] < dim - 0.4:  # the last mode lies at dim - 0.5
        x = places[-1] * np.exp(-step)
        if x < lowest:
            raise ValueError(
                f"dim = {dim} must be at most the number of positive eigenvalues that the sampled "
                f"cross-correlation has, {counts[-1]:.0f}."
            )
        there, g = _resolvent(x, model, e)
        change = abs(np.log(-g.imag.sum() / np.pi / density))
        if change > 0.4 and step > SMALL / 3:
            step /= 2
            continue
        before, density, e = density, -g.imag.sum() / np.pi, there
        counts.append(counts[-1] + (before + density) / 2 * (places[-1] - x))
        places.append(x)
        shares.append(_share(g, gamma, x))
        step = min(2 * step, STEP) if change < 0.1 else step
    at = np.interp(np.arange(dim) + 0.5, counts, np.arange(len(counts)))
    found = (np.interp(at, np.arange(len(counts)), each) for each in (np.log(places), shares))
    logarithms, correlations = found
    return SampledModes(np.exp(logarithms), correlations)


def _share(g, gamma, x):
    """Return C_jj of a mode at x: the mean γ of the population's modes in it, over x."""
    return (g.imag @ gamma) / g.imag.sum() / x


def _resolvent(x, model, e):
    """Return e± and g at z = x (1 + i SMALL), from their values at the last x.

    Newton's method may find a solution that is not a resolvent, whose imaginary part is negative.
    Then it is followed from a large imaginary part of z, where iteration converges.
    """
    e, g, found = _newton(x * (1 + SMALL * 1j), model, e)
    if found:
        return e, g
    e = -np.array([model[0].sum(), model[1].sum()]) / (x * 1j)
    for _ in range(200):
        e = (e + _image(x * (1 + 1j), model, e)[0]) / 2
    for imaginary in np.geomspace(1, SMALL, 60):
        e, g, _ = _newton(x * (1 + imaginary * 1j), model, e)
    return e, g


def _image(z, model, e):
    """Return the e± that the resolvent g at these e± gives, g, and the derivative of the former."""
    plus, minus, num_pairs = model
    above, below = plus / (2 + e[0]), minus / (2 - e[1])
    g = 1 / (z - num_pairs * (above - below))
    slopes = np.stack([above / (2 + e[0]), below / (2 - e[1])]) * num_pairs * g**2
    return -np.array([plus @ g, minus @ g]), g, np.stack([slopes @ plus, slopes @ minus])


def _newton(z, model, e):
    for _ in range(30):
        image, g, slopes = _image(z, model, e)
        change = np.linalg.solve(np.eye(2) - slopes, e - image)
        e = e - change
        if np.abs(change).max() <= 1e-10 * np.abs(e).max():
            return e, g, bool((g.imag < 0).all())
    return e, g, False
