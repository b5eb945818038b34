"""SIGReg and LeJEPA."""

from functools import cache, partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import ArrayLike
from jaxtyping import Array, Float, Key, Real, UInt32

from sslstep import _check
from sslstep._linalg import matmul
from sslstep.losses._batch import pair

#: Degree of the Chebyshev series. Its truncation error is below rounding in float64, for any d.
TERMS = 150


def sigreg(
    *views: Float[ArrayLike, "n d"],
    key: Key[Array, ""] | UInt32[Array, "2"] | None = None,
    num_slices: int = 256,
    cut: float = 3.0,
    num_points: int = 17,
) -> Float[Array, ""]:
    r"""Compute SIGReg, the distance of embeddings from a Gaussian (Balestriero and LeCun 2025).

    .. math:: \mathcal{L} = \mathrm{E}_a \; n \int_{-c}^{c} \Big| \frac1n \sum_i
        e^{\mathrm i t \, a \cdot z_i} - e^{-t^2/2} \Big|^2 e^{-t^2/2} \, dt

    where a is a unit direction. The result is the mean over views. The name stands for sketched
    isotropic Gaussian regularisation: the statistic of Epps and Pulley measures the distance of the
    embeddings' projections from a standard normal distribution. As in the publication, the integral
    is twice the trapezoidal rule on ``num_points`` points of 0...c.

    With a ``key``, the mean is over ``num_slices`` random directions. Derive the key from the step,
    to draw new directions in each step.

    Without a key, the mean over all directions is computed. Random directions estimate it without
    bias. :math:`\mathrm{E}_a \cos(t \, a \cdot v)` is a Bessel function of \|v\|, so the mean costs
    :math:`n^2` distances. It is invariant under rotations of the embeddings and therefore has
    growing modes (:func:`sslstep.kernel_pca.growth_modes`); a mean over few directions has none.
    Distances above :math:`(3 / c) \max(40, 6 \sqrt d)`, more than four times the distances of
    normal embeddings, are replaced by this value. The trapezoidal rule is meaningless for them: in
    one dimension it is periodic with the period 33.5.

    Args:
        views: embeddings of each view of the samples, all of one shape ``(n, d)``, n at least 2.
        key: random key of the directions; None: the mean over all directions.
        num_slices: number of random directions. The publication's minimal example has 256, and its
            larger runs have 1024.
        cut: c > 0, the upper end of the integral.
        num_points: number of quadrature points on 0...c, at least 2.

    Raises:
        ValueError: if there is no view, or a setting is out of range.

    Example:
        >>> import jax, jax.numpy as jnp
        >>> from sslstep import losses
        >>> z = jax.random.normal(jax.random.key(0), (64, 3))
        >>> bool(losses.sigreg(z) < losses.sigreg(3 * z))
        True
    """
    arrays = _views(views)
    _check.require_within("num_slices", num_slices, at_least=1)
    _check.require_scalar("cut", cut, above=0.0)
    _check.require_within("num_points", num_points, at_least=2)
    knots = np.linspace(0, cut, num_points)
    weights = np.full(num_points, 2 * cut / (num_points - 1))
    weights[[0, -1]] /= 2
    weights *= np.exp(-(knots**2) / 2)
    if key is None:
        total = sum(_mean_over_directions(z, cut, knots, weights) for z in arrays)
    else:
        directions = jax.random.normal(key, (arrays[0].shape[1], num_slices), arrays[0].dtype)
        directions /= jnp.linalg.norm(directions, axis=0, keepdims=True)
        total = sum(_along(z, directions, knots, weights) for z in arrays)
    return jnp.asarray(total / len(arrays))


def lejepa(
    *views: Float[ArrayLike, "n d"],
    key: Key[Array, ""] | UInt32[Array, "2"] | None = None,
    sigreg_weight: Real[ArrayLike, ""] = 0.02,
    num_slices: int = 256,
    cut: float = 3.0,
    num_points: int = 17,
) -> Float[Array, ""]:
    r"""Compute LeJEPA's loss, disagreement of views plus SIGReg (Balestriero and LeCun 2025).

    .. math:: \mathcal{L} = \frac{1 - \lambda}{nVd} \sum_{iv} |z_i^v - \bar z_i|^2 +
        \lambda \, \mathrm{SIGReg}

    with :math:`\bar z_i` the mean of sample i over its V views. This is the loss of the minimal
    example of Balestriero and LeCun (2025). Their larger runs have global and local views, and
    compare all of them with the mean of the global ones. SIGReg is proportional to the batch size
    n, so the stable learning rate depends on n.

    Args:
        views: embeddings of each view of the samples, all of one shape ``(n, d)``, n at least 2.
        key: random key of SIGReg's directions; None: the mean over all directions.
        sigreg_weight: λ in 0...1; traced.
        num_slices: number of random directions.
        cut: upper end c > 0 of SIGReg's integral.
        num_points: number of its quadrature points, at least 2.

    Raises:
        ValueError: in the cases in which :func:`sigreg` raises it, or if λ is not in 0...1.

    Example:
        >>> import jax, jax.numpy as jnp
        >>> from sslstep import losses
        >>> z, noise = jax.random.normal(jax.random.key(0), (2, 64, 3))
        >>> bool(losses.lejepa(z, z) < losses.lejepa(z, z + noise))
        True
    """
    _check.require_scalar("sigreg_weight", sigreg_weight, at_least=0.0, at_most=1.0)
    arrays = jnp.stack(_views(views))
    weight = jnp.asarray(sigreg_weight, arrays.dtype)
    spread = jnp.mean((arrays - arrays.mean(axis=0, keepdims=True)) ** 2)
    regular = sigreg(*arrays, key=key, num_slices=num_slices, cut=cut, num_points=num_points)
    return (1 - weight) * spread + weight * regular


def _views(views: tuple[ArrayLike, ...]) -> list[Array]:
    if not views:
        raise ValueError("a loss needs at least one view, got none.")
    return [pair(view, views[0])[0] for view in views]


def _along(z: Array, directions: Array, knots: np.ndarray, weights: np.ndarray) -> Array:
    projected = matmul(z, directions)

    def add(total: Array, point: Array) -> tuple[Array, None]:
        t, weight = point
        real = jnp.mean(jnp.cos(t * projected), axis=0) - jnp.exp(-(t**2) / 2)
        imaginary = jnp.mean(jnp.sin(t * projected), axis=0)
        return total + weight * jnp.mean(real**2 + imaginary**2), None

    points = jnp.asarray(np.stack([knots, weights], axis=1), z.dtype)
    return len(z) * jax.lax.scan(add, jnp.zeros((), z.dtype), points)[0]


def _mean_over_directions(z: Array, cut: float, knots: np.ndarray, weights: np.ndarray) -> Array:
    """SIGReg's statistic, averaged exactly over all unit directions; a scalar.

    The squared modulus of the empirical characteristic function is a mean over pairs of samples,
    and `_radial` averages each pair over directions. `knots` and `weights` are the quadrature over
    frequencies.
    """
    n, dim = z.shape
    squares = jnp.sum(z**2, axis=1)
    distances = squares[:, None] + squares[None, :] - 2 * matmul(z, z.T)
    normal = np.exp(-(knots**2) / 2)
    both = _radial(distances, dim, cut, knots, weights)
    one = _radial(squares, dim, cut, knots, weights * normal)
    return n * (jnp.mean(both) - 2 * jnp.mean(one) + float(np.sum(weights * normal**2)))


def _radial(squares: Array, dim: int, cut: float, knots: np.ndarray, weights: np.ndarray) -> Array:
    """Return Σ_t w_t E_a cos(t a·v) as a function of |v|², elementwise, by a Chebyshev series.

    It is constant beyond the largest |v| of the series.
    """
    largest = 3 / cut * max(40.0, 6 * dim**0.5)
    x = jnp.minimum(squares / largest**2, 1) * 2 - 1
    return _sum(x, _series(dim, largest, tuple(knots.tolist()), tuple(weights.tolist())))


@partial(jax.custom_jvp, nondiff_argnums=(1,))
def _sum(x: Array, coefficients: tuple[float, ...]) -> Array:
    """Return the value of a Chebyshev series at x, elementwise, by Clenshaw's recurrence."""

    def add(pair: tuple[Array, Array], coefficient: Array) -> tuple[tuple[Array, Array], None]:
        later, latest = pair
        return (2 * x * later - latest + coefficient, later), None

    start = jnp.zeros_like(x), jnp.zeros_like(x)
    (later, latest), _ = jax.lax.scan(add, start, jnp.asarray(coefficients[::-1], x.dtype))
    return later - x * latest


@_sum.defjvp
def _sum_jvp(coefficients, primals, tangents):
    """Differentiate the series exactly: its derivative is a Chebyshev series too.

    No intermediate value of the recurrence is stored.
    """
    (x,), (tangent,) = primals, tangents
    slope = tuple(np.polynomial.chebyshev.chebder(coefficients).tolist())
    return _sum(x, coefficients), _sum(x, slope) * tangent


@cache
def _series(
    dim: int, largest: float, knots: tuple[float, ...], weights: tuple[float, ...]
) -> tuple[float, ...]:
    # A component of a random unit vector is sin θ, where θ has the density (cos θ)^(d-2). Beyond
    # θ² = 82 / (d - 2) the density is below exp(-41) of its largest value. Within it t |v| sin θ
    # has a bound that does not grow with d, so the number of nodes need not grow either.
    nodes, amounts = np.polynomial.legendre.leggauss(400)
    angles = min(np.pi / 2, np.sqrt(82 / max(dim - 2, 1))) * nodes
    component = np.sin(angles) if dim > 1 else np.ones(1)
    share = amounts * np.cos(angles) ** (dim - 2) if dim > 1 else np.ones(1)

    def exact(x: Any) -> Any:
        lengths = largest * np.sqrt((x + 1) / 2)
        waves = np.cos(np.multiply.outer(lengths, np.outer(knots, component)))
        return waves @ (share / share.sum()) @ np.array(weights)

    found = np.polynomial.chebyshev.chebinterpolate(exact, TERMS)
    return tuple(found.tolist())
