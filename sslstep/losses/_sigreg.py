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

__all__ = ["lejepa", "sigreg"]

#: Of the series in a squared distance. It leaves out less than rounding in float64, for any d.
TERMS = 150


def sigreg(
    *views: Float[ArrayLike, "n d"],
    key: Key[Array, ""] | UInt32[Array, "2"] | None = None,
    num_slices: int = 256,
    cut: float = 3.0,
    num_points: int = 17,
) -> Float[Array, ""]:
    r"""Sketched isotropic Gaussian regularisation (Balestriero and LeCun 2025).

    .. math:: \mathcal{L} = \mathrm{E}_a \; n \int_{-c}^{c} \Big| \frac1n \sum_i
        e^{\mathrm i t \, a \cdot z_i} - e^{-t^2/2} \Big|^2 e^{-t^2/2} \, dt

    over directions a, the mean over views: how far projections of the embeddings are from a
    standard normal distribution, by the test of Epps and Pulley. As published the integral is by
    the trapezoidal rule on ``num_points`` points of 0...c, doubled.

    With a ``key`` the directions are ``num_slices`` random ones, new in each step: give one derived
    from the step. Without, the mean over all directions is taken itself, which random ones estimate
    without bias and which gradient descent with new ones in each step follows:
    :math:`\mathrm{E}_a \cos(t \, a \cdot v)` is a function of \|v\|, a Bessel function, so that it
    costs :math:`n^2` distances. It does not change when embeddings are rotated, and so has modes
    that grow (:func:`sslstep.kernel_pca.growth_modes`), which a sketch with few directions has not.
    Without a key, distances beyond :math:`(3 / c) \max(40, 6 \sqrt d)` count as that distance. It
    is more than four times that of normal embeddings, and the trapezoidal rule says nothing about
    embeddings so far apart: in one dimension it repeats itself at 33.5.

    Args:
        views: embeddings of each view of the same samples, of one shape ``(n, d)``, n at least 2.
        key: of the directions.
        num_slices: how many; 256 in the publication's minimal example, 1024 in its larger runs.
        cut: c > 0.
        num_points: on 0...c, at least 2.

    Returns:
        The loss, a scalar, float32 or float64.

    Raises:
        ValueError: if there is no view, the shapes differ or are not ``(n, d)``, are empty, values
            are not finite, the batch is of one sample, or a setting is out of range.

    Example:
        >>> import jax, jax.numpy as jnp
        >>> from sslstep import losses
        >>> z = jax.random.normal(jax.random.key(0), (64, 3))
        >>> bool(losses.sigreg(z) < losses.sigreg(3 * z))
        True
    """
    arrays = _views(views)
    _check.require_at_least("num_slices", num_slices, 1)
    _check.require_scalar("cut", cut, above=0.0)
    _check.require_at_least("num_points", num_points, 2)
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
    r"""LeJEPA (Balestriero and LeCun 2025): views that agree, and embeddings that are Gaussian.

    .. math:: \mathcal{L} = \frac{1 - \lambda}{nVd} \sum_{iv} |z_i^v - \bar z_i|^2 +
        \lambda \, \mathrm{SIGReg}

    with :math:`\bar z_i` the mean of a sample's views. (The publication trains with global and
    local views and compares all with the mean of the global ones; its minimal example is this.)
    SIGReg is n times a distance: a step's size is right for one batch size.

    Args:
        views: embeddings of each view of the same samples, of one shape ``(n, d)``, n at least 2.
        key: as for :func:`sigreg`.
        sigreg_weight: λ in 0...1; traced.
        num_slices: as for :func:`sigreg`.
        cut: as for :func:`sigreg`.
        num_points: as for :func:`sigreg`.

    Returns:
        The loss, a scalar, float32 or float64.

    Raises:
        ValueError: as :func:`sigreg`, or if λ is not in 0...1.

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
    """Σ_t w_t E_a cos(t a·v) of |v|², elementwise, by its Chebyshev series in |v|².

    It is constant beyond the largest |v| of the series.
    """
    largest = 3 / cut * max(40.0, 6 * dim**0.5)
    x = jnp.minimum(squares / largest**2, 1) * 2 - 1
    return _sum(x, _series(dim, largest, tuple(knots.tolist()), tuple(weights.tolist())))


@partial(jax.custom_jvp, nondiff_argnums=(1,))
def _sum(x: Array, coefficients: tuple[float, ...]) -> Array:
    """The value of a Chebyshev series at x, by Clenshaw's recurrence."""

    def add(pair: tuple[Array, Array], coefficient: Array) -> tuple[tuple[Array, Array], None]:
        later, latest = pair
        return (2 * x * later - latest + coefficient, later), None

    start = jnp.zeros_like(x), jnp.zeros_like(x)
    (later, latest), _ = jax.lax.scan(add, start, jnp.asarray(coefficients[::-1], x.dtype))
    return later - x * latest


@_sum.defjvp
def _sum_jvp(coefficients, primals, tangents):
    """The derivative is a series too, and keeps no step of the recurrence."""
    (x,), (tangent,) = primals, tangents
    slope = tuple(np.polynomial.chebyshev.chebder(coefficients).tolist())
    return _sum(x, coefficients), _sum(x, slope) * tangent


@cache
def _series(
    dim: int, largest: float, knots: tuple[float, ...], weights: tuple[float, ...]
) -> tuple[float, ...]:
    # One component of a random direction is sin θ, and θ has the density (cos θ)^(d-2).
    nodes, amounts = np.polynomial.legendre.leggauss(400)
    component = np.sin(np.pi / 2 * nodes) if dim > 1 else np.ones(1)
    share = amounts * np.cos(np.pi / 2 * nodes) ** (dim - 2) if dim > 1 else np.ones(1)

    def exact(x: Any) -> Any:
        lengths = largest * np.sqrt((x + 1) / 2)
        waves = np.cos(np.multiply.outer(lengths, np.outer(knots, component)))
        return waves @ (share / share.sum()) @ np.array(weights)

    found = np.polynomial.chebyshev.chebinterpolate(exact, TERMS)
    return tuple(found.tolist())
