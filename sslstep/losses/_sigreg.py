"""SIGReg and LeJEPA."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import scipy.special
from jax.typing import ArrayLike
from jaxtyping import Array, Float, Key, Real, UInt32

from sslstep import _check
from sslstep._linalg import matmul
from sslstep.losses._batch import pair

__all__ = ["lejepa", "sigreg"]


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
        total = sum(_mean_over_directions(z, knots, weights) for z in arrays)
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


def _mean_over_directions(z: Array, knots: np.ndarray, weights: np.ndarray) -> Array:
    """The square of the mean is a mean over pairs of samples."""
    n, dim = z.shape
    squares = jnp.sum(z**2, axis=1)
    distances = squares[:, None] + squares[None, :] - 2 * matmul(z, z.T)
    normal = np.exp(-(knots**2) / 2)
    both = _radial(distances, dim, _frozen(knots), _frozen(weights))
    one = _radial(squares, dim, _frozen(knots), _frozen(weights * normal))
    return n * (jnp.mean(both) - 2 * jnp.mean(one) + float(np.sum(weights * normal**2)))


def _frozen(values: np.ndarray) -> tuple[float, ...]:
    return tuple(float(value) for value in values)


@partial(jax.custom_jvp, nondiff_argnums=(1, 2, 3))
def _radial(
    squares: Array, dim: int, knots: tuple[float, ...], weights: tuple[float, ...]
) -> Array:
    """Σ_t w_t E_a cos(t a·v) of |v|², elementwise: smooth there, where it is not in |v|.

    The component of a along v has density (1 - x²)^((d-3)/2), for which there is a quadrature.
    """
    lengths = jnp.sqrt(jnp.maximum(squares, 0))  # rounding can make them negative
    x, share = _component(dim)
    frequencies = jnp.asarray(np.outer(knots, x).ravel(), squares.dtype)
    amounts = jnp.asarray(np.outer(weights, share).ravel(), squares.dtype)

    def add(total: Array, wave: tuple[Array, Array]) -> tuple[Array, None]:
        frequency, amount = wave
        return total + amount * jnp.cos(frequency * lengths), None

    return jax.lax.scan(add, jnp.zeros_like(squares), (frequencies, amounts))[0]


@_radial.defjvp
def _radial_jvp(dim, knots, weights, primals, tangents):
    """By |v|² it is the same in two dimensions more."""
    (squares,), (tangent,) = primals, tangents
    value = _radial(squares, dim, knots, weights)
    moved = _frozen(-np.square(knots) * np.array(weights) / (2 * dim))
    return value, _radial(squares, dim + 2, knots, moved) * tangent


def _component(dim: int) -> tuple[np.ndarray, np.ndarray]:
    """Values x ≥ 0 of one component of a random direction, and their shares.

    Exact to 1e-7 for arguments up to 40: c = 3 times a distance of 13.
    """
    if dim == 1:
        return np.ones(1), np.ones(1)
    x, share = scipy.special.roots_gegenbauer(48, dim / 2 - 1)
    return x[24:], 2 * share[24:] / share.sum()
