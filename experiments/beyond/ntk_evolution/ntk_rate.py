r"""How fast the NTK of a finite network of one hidden layer tends to its limit, without a fit.

In the NTK parameterisation with :math:`\sigma_W^2 = 2` and no biases the NTK is a mean over the N
hidden units, which at initialisation are independent:

.. math:: \Theta = \frac1N \sum_i (a_i + c_i b_i), \qquad a_i = 2 \phi(h_i) \phi(h_i)^\top,
    \qquad b_i = 2 \Lambda \circ \phi'(h_i) \phi'(h_i)^\top,

with :math:`h_i \sim \mathcal N(0, \Lambda)` over the samples, Λ = 2 x x' / m, and φ the rectifier.
a comes from the output weights, b from the hidden ones. Of the output weights of unit i remains c,
independent of h and of mean 1: the square of a standard normal number for ``"scalar"`` and the mean
of d of them for ``"trace"``, so of variance 2 or 2 / d. What is quadratic in Θ - K, such as its
squared norm, therefore has for mean that of one unit, over N.
"""

from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

KINDS = ("scalar", "trace")


def variance(kind: str, dim: int) -> float:
    """Of c."""
    return 2.0 if kind == "scalar" else 2.0 / dim


def covariance(x) -> jax.Array:
    """Λ, of inputs as the model takes them, (2n, m)."""
    return 2 / x.shape[1] * jnp.matmul(x, x.T)


class Squares(NamedTuple):
    """The limit K, and the means over units of (a + b)² and of b², all (2n, 2n)."""

    kernel: jax.Array
    both: jax.Array
    hidden: jax.Array


def squares(cov) -> Squares:
    """In closed form: arc-cosine kernels of degree 0, 1 and 2 (Cho and Saul 2009)."""
    size = jnp.sqrt(jnp.diag(cov))
    norms = size[:, None] * size[None, :]
    cosine = jnp.clip(cov / norms, -1, 1)
    theta = jnp.arccos(cosine)
    sine = jnp.sin(theta)
    zero = (jnp.pi - theta) / (2 * jnp.pi)
    one = norms * (sine + (jnp.pi - theta) * cosine) / (2 * jnp.pi)
    two = 3 * sine * cosine + (jnp.pi - theta) * (1 + 2 * cosine**2)
    two = norms**2 * two / (2 * jnp.pi)
    hidden = 4 * cov**2 * zero
    return Squares(2 * one + 2 * cov * zero, 4 * two + 8 * cov * one + hidden, hidden)


def distance(cov, dim: int) -> np.ndarray:
    """The root of N times the mean squared relative distance, for each of KINDS: exact at any N."""
    kernel, both, hidden = squares(cov)
    norm = jnp.sum(kernel**2)
    each = [jnp.sum(both + variance(kind, dim) * hidden) / norm - 1 for kind in KINDS]
    return np.sqrt(each)


def _swapped(v):
    """P v."""
    return jnp.roll(v, len(v) // 2, axis=0)


class FirstOrder(NamedTuple):
    """N times what holds to first order in Θ - K, and standard errors: (2,), a value for a kind.

    Attributes:
        gamma: mean squared relative change of the first d eigenvalues.
        misalignment: of the embeddings that the two kernels predict.
    """

    gamma: np.ndarray
    gamma_error: np.ndarray
    misalignment: np.ndarray
    misalignment_error: np.ndarray


class _Modes(NamedTuple):
    """What perturbs the contrastive modes, as matrices."""

    root: jax.Array  # of Λ
    coefficients: jax.Array  # c of all modes, columns
    gap: jax.Array  # γ_j / (γ_j - γ_k)
    rest: jax.Array  # y_k less what the first d span
    inverse: jax.Array  # of R, with Q R the first d of y


def _modes(cov, dim: int) -> _Modes:
    kernel = squares(cov).kernel
    values, vectors = jnp.linalg.eigh(kernel)
    root = vectors * jnp.sqrt(jnp.maximum(values, values[-1] * 1e-12))
    gammas, u = jnp.linalg.eigh(root.T @ _swapped(root))
    gammas, y = gammas[::-1], jnp.matmul(root, u[:, ::-1])
    q, r = jnp.linalg.qr(y[:, :dim])
    return _Modes(
        root=_root(cov),
        coefficients=_swapped(y) / gammas,
        gap=gammas[:dim] / (gammas[:dim] - gammas[dim:, None]),
        rest=y[:, dim:] - q @ (q.T @ y[:, dim:]),
        inverse=jnp.linalg.inv(r),
    )


def _root(cov):
    return jnp.linalg.cholesky(cov + 1e-12 * jnp.trace(cov) * jnp.eye(len(cov)))


def _unit(modes: _Modes, dim: int, noise):
    """Cᵀ a C and Cᵀ b C of one unit, of all modes with the first d."""
    h = modes.root @ noise
    image = modes.coefficients.T @ jnp.maximum(h, 0)
    active = modes.root.T @ (modes.coefficients * jnp.where(h > 0, 1.0, 0.0)[:, None])
    return 2 * jnp.outer(image, image[:dim]), 2 * active.T @ active[:, :dim]


def _changes(modes: _Modes, dim: int, change) -> tuple[jax.Array, jax.Array]:
    """Of the first d eigenvalues, and out of the subspace; given Cᵀ D C. Mean squares count."""
    outside = modes.rest @ (modes.gap * change[dim:]) @ modes.inverse
    return jnp.diag(change[:dim]) / dim**0.5, outside.ravel() / dim**0.5


def first_order(cov, dim: int, key, num_units: int) -> FirstOrder:
    r"""Perturbation of the contrastive modes, averaged over units drawn at random.

    With :math:`\tilde K P y_j = s \gamma_j y_j`, :math:`P y_j = s \gamma_j c_j` and
    :math:`c_j^\top y_k = \delta_{jk}`, a change D of the kernel changes

    .. math:: \frac{\delta \gamma_j}{\gamma_j} = c_j^\top D c_j, \qquad
        \delta y_j = \sum_{k \ne j} y_k \frac{\gamma_j}{\gamma_j - \gamma_k} c_k^\top D c_j.
    """
    modes = _modes(cov, dim)

    def forms(change):
        return jnp.stack([jnp.sum(part**2) for part in _changes(modes, dim, change)])

    def of_unit(noise):
        output, hidden = _unit(modes, dim, noise)
        mean = jnp.eye(len(output), dim)  # Cᵀ K C
        return forms(output + hidden - mean), forms(hidden)

    noise = jax.random.normal(key, (num_units, len(cov)))
    both, hidden = jax.jit(partial(jax.lax.map, of_unit, batch_size=64))(noise)
    each = jnp.stack([both + variance(kind, dim) * hidden for kind in KINDS])
    means, errors = each.mean(1), each.std(1) / num_units**0.5
    return FirstOrder(*np.asarray(jnp.stack([means, errors]).transpose(2, 0, 1).reshape(4, -1)))


@partial(jax.jit, static_argnames="num_units")
def lazy_movement(cov, pull, width, key, *, num_units: int):
    r"""Mean squared movement of a wide network's trace NTK in training, by independent units.

    Gradient descent that adds :math:`K g` to the embeddings moves a unit, to first order, by

    .. math:: \delta h_i = \sqrt{2 / N}\, \Lambda\, \phi'(h_i) \circ g v_i, \qquad
        \delta v_i = \sqrt{2 / N}\, g^\top \phi(h_i).

    It moves b by steps of size 1, for the :math:`O(N^{-1/2})` of all units in which it carries
    h through 0. Both changes are odd in v, so units add up at random, and the part of the hidden
    weights moves by :math:`N^{-1/2} (N^{-1/2})^{1/2} = N^{-3/4}`. (Left out are means over units,
    of second order: O(1 / N), as is all of the part of the output weights.)

    Args:
        cov: Λ.
        pull: g, shape ``(2n, d)``.
        width: N.
        key: for the units.
        num_units: how many to average over.

    Returns:
        Of the hidden weights' part, and its standard error.
    """
    root = _root(cov)

    def of_unit(noise):
        h, v = root @ noise[: len(cov)], noise[len(cov) :]
        on = jnp.where(h > 0, 1.0, 0.0)
        moved = h + (2 / width) ** 0.5 * cov @ (on * (pull @ v))
        v_moved = v + (2 / width) ** 0.5 * jnp.maximum(h, 0) @ pull
        on_moved = jnp.where(moved > 0, 1.0, 0.0)
        after = jnp.mean(v_moved**2) * jnp.outer(on_moved, on_moved)
        change = 2 * cov * (after - jnp.mean(v**2) * jnp.outer(on, on))
        return jnp.sum(change**2)

    noise = jax.random.normal(key, (num_units, len(cov) + pull.shape[1]))
    each = jax.lax.map(of_unit, noise, batch_size=64) / width
    return each.mean(), each.std() / num_units**0.5
