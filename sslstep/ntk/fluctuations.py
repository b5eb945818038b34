r"""Fluctuations of a finite network's NTK about its infinite-width limit, for one hidden layer.

The network has inputs of size m, N hidden units with the rectifier φ, d outputs, the NTK
parameterisation with :math:`\sigma_W^2 = 2` and no biases, like :class:`sslstep.nn.MLP` by default.
Its NTK Θ is a mean over the hidden units, which are independent at initialisation:

.. math:: \Theta = \frac1N \sum_i (a_i + c_i b_i), \qquad a_i = 2 \phi(h_i) \phi(h_i)^\top,
    \qquad b_i = 2 \Lambda \circ \phi'(h_i) \phi'(h_i)^\top,

with the pre-activations :math:`h_i \sim \mathcal N(0, \Lambda)` over the samples x, and
:math:`\Lambda = 2 x x^\top / m`. The gradient by the output weights gives :math:`a_i`, that by the
hidden weights :math:`c_i b_i`. The factor :math:`c_i` depends on the output weights of unit i only.
It is independent of :math:`h_i` and has mean 1: for ``"scalar"`` kernels it is the square of a
standard normal number, of variance 2, and for ``"trace"`` kernels the mean of d such squares, of
variance 2 / d. With K the limit of Θ, the mean of a quadratic form in Θ - K, such as the squared
norm, is therefore its mean for a single unit, divided by N. No parameter is fitted.
"""

from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import ArrayLike
from jaxtyping import Array, Float, PyTree, Real

from sslstep import _check
from sslstep._linalg import matmul

__all__ = [
    "KINDS",
    "FirstOrder",
    "Moments",
    "covariance",
    "distance",
    "first_order",
    "mode_deviation",
    "moments",
    "movement",
]

#: The kinds of NTK, in the order in which results hold them.
KINDS = ("scalar", "trace")


def _variance(kind: str, dim: int) -> float:
    """Variance of a hidden unit's factor c in the NTK of this kind, for `dim` outputs.

    The module's docstring defines c.
    """
    return 2.0 if kind == "scalar" else 2.0 / dim


def covariance(x: Float[ArrayLike, "N m"]) -> Float[Array, "N N"]:
    r"""Covariance of a hidden unit's pre-activations, :math:`\Lambda = 2 x x^\top / m`.

    Args:
        x: N samples of size m, as the network takes them, shape ``(N, m)``.

    Returns:
        Λ, shape ``(N, N)``.

    Example:
        >>> import jax.numpy as jnp
        >>> from sslstep.ntk import fluctuations
        >>> fluctuations.covariance(jnp.eye(2))
        Array([[1., 0.],
               [0., 1.]], dtype=float32)
    """
    _check.require_matrix("x", x, "(N, m)")
    x = _check.as_float("x", x)
    return 2 / x.shape[1] * matmul(x, x.T)


class Moments(NamedTuple):
    """Means over hidden units, with a and b of the module's docstring.

    Attributes:
        kernel: mean of a + b, the limit K, shape ``(N, N)``.
        both: mean of (a + b)², elementwise, shape ``(N, N)``.
        hidden: mean of b², elementwise, shape ``(N, N)``.
    """

    kernel: Float[Array, "N N"]
    both: Float[Array, "N N"]
    hidden: Float[Array, "N N"]


def moments(cov: Float[ArrayLike, "N N"]) -> Moments:
    """Compute the limit of the NTK, and second moments of the contribution of one hidden unit.

    The closed forms are arc-cosine kernels of degree 0, 1 and 2 (Cho and Saul 2009).

    Args:
        cov: Λ, from :func:`covariance`.

    Example:
        >>> import jax, jax.numpy as jnp
        >>> from sslstep.ntk import fluctuations, infinite
        >>> x = jax.random.normal(jax.random.key(0), (4, 3))
        >>> kernel = fluctuations.moments(fluctuations.covariance(x)).kernel
        >>> bool(jnp.allclose(kernel, infinite.mlp(1)(x), rtol=1e-3))
        True
    """
    cov = jnp.asarray(cov)
    size = jnp.sqrt(jnp.diag(cov))
    norms = size[:, None] * size[None, :]
    # The angle to a sample of zeros does not matter.
    cosine = jnp.clip(cov / jnp.where(norms > 0, norms, 1), -1, 1)
    theta = jnp.arccos(cosine)
    sine = jnp.sin(theta)
    zero = (jnp.pi - theta) / (2 * jnp.pi)
    one = norms * (sine + (jnp.pi - theta) * cosine) / (2 * jnp.pi)
    two = 3 * sine * cosine + (jnp.pi - theta) * (1 + 2 * cosine**2)
    two = norms**2 * two / (2 * jnp.pi)
    hidden = 4 * cov**2 * zero
    return Moments(2 * one + 2 * cov * zero, 4 * two + 8 * cov * one + hidden, hidden)


def distance(cov: Float[ArrayLike, "N N"], dim: int) -> np.ndarray:
    r"""Distance of a network's NTK from its limit, :math:`\sqrt{N\,\mathrm E\|\Theta-K\|^2}/\|K\|`.

    N is the width of the hidden layer, E the mean over initial weights, and the norm is the
    Frobenius norm. The value does not depend on N.

    Args:
        cov: Λ, from :func:`covariance`.
        dim: number of outputs d.

    Returns:
        A value for each of :data:`KINDS`, shape ``(2,)``. Divided by the root of the width, it is
        the root mean square of the relative distance.

    Example:
        >>> import jax
        >>> from sslstep.ntk import fluctuations
        >>> x = jax.random.normal(jax.random.key(0), (6, 4))
        >>> scalar, trace = fluctuations.distance(fluctuations.covariance(x), dim=4)
        >>> bool(trace < scalar)
        True
    """
    kernel, both, hidden = moments(cov)
    norm = jnp.sum(kernel**2)
    each = [jnp.sum(both + _variance(kind, dim) * hidden) / norm - 1 for kind in KINDS]
    return np.sqrt(each)


def _swapped(v: Array) -> Array:
    """Return P v, which exchanges the two views."""
    return jnp.roll(v, len(v) // 2, axis=0)


class FirstOrder(NamedTuple):
    """Mean squared changes of contrastive modes, times the width, to first order in Θ - K.

    Each array has shape ``(2,)``, with a value for each of :data:`KINDS`.

    Attributes:
        gamma: mean squared relative change of the first d eigenvalues.
        gamma_error: standard error of ``gamma``.
        misalignment: misalignment of the embeddings that the network's NTK and its limit predict.
        misalignment_error: standard error of ``misalignment``.
    """

    gamma: np.ndarray
    gamma_error: np.ndarray
    misalignment: np.ndarray
    misalignment_error: np.ndarray


class _Modes(NamedTuple):
    """Matrices for the perturbation of contrastive modes; :func:`first_order` defines c and y."""

    root: jax.Array  # Cholesky factor of Λ
    coefficients: jax.Array  # c of all modes, as columns
    gap: jax.Array  # γ_j / (γ_j - γ_k)
    rest: jax.Array  # y_k, projected orthogonally to the first d modes' y
    inverse: jax.Array  # inverse of R, where Q R are the first d columns of y


def _modes(cov, dim: int) -> _Modes:
    kernel = moments(cov).kernel
    values, vectors = jnp.linalg.eigh(kernel)
    root = vectors * jnp.sqrt(jnp.maximum(values, values[-1] * _jitter(cov)))[None]
    gammas, u = jnp.linalg.eigh(matmul(root.T, _swapped(root)))
    gammas, y = gammas[::-1], matmul(root, u[:, ::-1])
    q, r = jnp.linalg.qr(y[:, :dim])
    return _Modes(
        root=_root(cov),
        coefficients=_swapped(y) / gammas[None],
        gap=gammas[None, :dim] / (gammas[None, :dim] - gammas[dim:, None]),
        rest=y[:, dim:] - matmul(q, matmul(q.T, y[:, dim:])),
        inverse=jnp.linalg.inv(r),
    )


def _jitter(cov: Array) -> float:
    """Return the relative shift of eigenvalues that keeps the root of a singular matrix finite."""
    return max(1e-12, 10 * float(jnp.finfo(cov.dtype).eps))


def _root(cov: Array) -> Array:
    eye = jnp.eye(len(cov), dtype=cov.dtype)
    return jnp.linalg.cholesky(cov + _jitter(cov) * jnp.trace(cov) * eye)


def _unit(modes: _Modes, dim: int, noise):
    """Return Cᵀ a C and Cᵀ b C of one hidden unit: rows for all modes, columns for the first d."""
    h = matmul(modes.root, noise)
    image = matmul(modes.coefficients.T, jnp.maximum(h, 0))
    on = jnp.where(h > 0, 1.0, 0.0)
    active = matmul(modes.root.T, modes.coefficients * on[:, None])
    return 2 * jnp.outer(image, image[:dim]), matmul(2 * active.T, active[:, :dim])


def _changes(modes: _Modes, dim: int, change) -> tuple[jax.Array, jax.Array]:
    """Return the changes of the first d eigenvalues and of their subspace, given Cᵀ D C.

    Both are divided by sqrt(d), so that sums of their squares are means over the modes.
    """
    outside = matmul(matmul(modes.rest, modes.gap * change[dim:]), modes.inverse)
    return jnp.diag(change[:dim]) / dim**0.5, outside.ravel() / dim**0.5


def first_order(cov: Float[ArrayLike, "N N"], dim: int, key: Array, num_units: int) -> FirstOrder:
    r"""Differences of a network's contrastive modes from those of its limit, to first order.

    The modes of the limit K̃ have the eigenvalues :math:`\gamma_j`, the images
    :math:`y_j = \tilde K c_j` and the coefficients :math:`c_j`, with P the exchange of views and s
    the number of samples: :math:`\tilde K P y_j = s \gamma_j y_j`,
    :math:`P y_j = s \gamma_j c_j` and :math:`c_j^\top y_k = \delta_{jk}`. A change D of the kernel
    changes them by

    .. math:: \frac{\delta \gamma_j}{\gamma_j} = c_j^\top D c_j, \qquad
        \delta y_j = \sum_{k \ne j} y_k \frac{\gamma_j}{\gamma_j - \gamma_k} c_k^\top D c_j.

    The result is an average over random hidden units. First order is accurate if the differences
    between eigenvalues exceed their fluctuations.

    Args:
        cov: Λ of the samples ``[X, X']``, from :func:`covariance`.
        dim: the embedding dimension d.
        key: random key of the hidden units.
        num_units: number of hidden units to average over.

    Raises:
        ValueError: if ``num_units`` is below two, too few for a standard error.

    Example:
        >>> import jax
        >>> from sslstep.ntk import fluctuations
        >>> cov = fluctuations.covariance(jax.random.normal(jax.random.key(0), (8, 5)))
        >>> fluctuations.first_order(cov, 2, jax.random.key(1), 256).gamma.shape
        (2,)
    """
    _check.require_within("num_units", num_units, at_least=2)
    cov = jnp.asarray(cov)
    noise = jax.random.normal(key, (num_units, len(cov)), cov.dtype)
    both, hidden = _forms(_modes(cov, dim), noise, dim=dim)
    each = jnp.stack([both + _variance(kind, dim) * hidden for kind in KINDS])
    means, errors = each.mean(1), each.std(1) / num_units**0.5
    return FirstOrder(*np.asarray(jnp.stack([means, errors]).transpose(2, 0, 1).reshape(4, -1)))


@partial(jax.jit, static_argnames="dim")
def _forms(modes: _Modes, noise: Array, *, dim: int) -> tuple[Array, Array]:
    """Return the squares of :func:`_changes` by each unit's a + b, and by its b alone."""

    def forms(change):
        return jnp.stack([jnp.sum(part**2) for part in _changes(modes, dim, change)])

    def of_unit(noise):
        output, hidden = _unit(modes, dim, noise)
        mean = jnp.eye(len(output), dim, dtype=output.dtype)  # Cᵀ K C
        return forms(output + hidden - mean), forms(hidden)

    return jax.lax.map(of_unit, noise, batch_size=64)


def movement(
    cov: Float[ArrayLike, "N N"],
    pull: Float[ArrayLike, "N d"],
    width: Real[ArrayLike, ""],
    key: Array,
    *,
    num_units: int,
) -> tuple[Array, Array]:
    r"""Mean squared change of a lazy network's trace NTK in training, by its hidden weights.

    Let gradient descent add :math:`K g` to the embeddings. To first order it changes the
    pre-activations h and the output weights v of a hidden unit i by

    .. math:: \delta h_i = \sqrt{2 / N}\, \Lambda\, \phi'(h_i) \circ g v_i, \qquad
        \delta v_i = \sqrt{2 / N}\, g^\top \phi(h_i).

    Where h changes sign, :math:`b_i` changes by a step of order 1; this happens in a fraction
    :math:`O(N^{-1/2})` of the units. Both changes are odd in v, so the signs of the units'
    contributions are random, and the hidden weights' part of the NTK changes by
    :math:`N^{-1/2} (N^{-1/2})^{1/2} = N^{-3/4}`. Two terms of order 1 / N are neglected: the means
    over units, and the output weights' part.

    Args:
        cov: Λ, from :func:`covariance`.
        pull: g, such as the coefficients of :func:`sslstep.kernel_pca.gradient_descent`, shape
            ``(N, d)`` for the samples of ``cov``.
        width: number N of hidden units; traced.
        key: random key of the hidden units.
        num_units: number of hidden units to average over.

    Returns:
        The mean of the squared Frobenius norm of the change, and its standard error.

    Example:
        >>> import jax
        >>> from sslstep.ntk import fluctuations
        >>> x = jax.random.normal(jax.random.key(0), (8, 5))
        >>> cov = fluctuations.covariance(x)
        >>> mean, error = fluctuations.movement(cov, x[:, :2], 1e4, jax.random.key(1), num_units=64)
        >>> mean.shape, error.shape
        ((), ())
    """
    cov = jnp.asarray(cov)
    pull, width = jnp.asarray(pull, cov.dtype), jnp.asarray(width, cov.dtype)
    return _movement(cov, pull, width, key, num_units=num_units)


@partial(jax.jit, static_argnames="num_units")
def _movement(cov, pull, width, key, *, num_units):
    root = _root(cov)

    def of_unit(noise):
        h, v = matmul(root, noise[: len(cov)]), noise[len(cov) :]
        on = jnp.where(h > 0, 1.0, 0.0)
        moved = h + matmul((2 / width) ** 0.5 * cov, on * matmul(pull, v))
        v_moved = v + matmul((2 / width) ** 0.5 * jnp.maximum(h, 0), pull)
        on_moved = jnp.where(moved > 0, 1.0, 0.0)
        after = jnp.mean(v_moved**2) * jnp.outer(on_moved, on_moved)
        change = 2 * cov * (after - jnp.mean(v**2) * jnp.outer(on, on))
        return jnp.sum(change**2)

    noise = jax.random.normal(key, (num_units, len(cov) + pull.shape[1]), cov.dtype)
    each = jax.lax.map(of_unit, noise, batch_size=64) / width
    return each.mean(), each.std() / num_units**0.5


def mode_deviation(
    apply_fn: Callable[..., Any],
    params: PyTree,
    x: PyTree,
    coefficients: Float[ArrayLike, "N k"],
) -> Array:
    r"""Distance of a network's NTK from its limit, on the contrastive modes of the limit.

    The distance is the spectral norm of the matrix with elements
    :math:`c_j^\top (\Theta_{ab} - \delta_{ab} \tilde K) c_k`, over the given modes j, k and the
    outputs a, b. Θ is the NTK with a block for each pair of outputs, K̃ is the limit, and
    :math:`c_j` are the coefficients of its modes. Modes with positive γ have
    :math:`c_j^\top \tilde K c_k = \delta_{jk}`. To first order the diagonal of the matrix is
    :math:`\delta\gamma_j / \gamma_j`.

    Args:
        apply_fn: a function from ``(params, x)`` to the embeddings of all views, ``(N, d)``.
        params: parameters, a pytree of arrays.
        x: the second argument of ``apply_fn``, such as samples, or the inputs of several towers.
        coefficients: coefficients of modes with positive γ, from
            :func:`sslstep.kernel_pca.contrastive_modes`, shape ``(N, k)``.

    Returns:
        The spectral norm, a scalar; 0 for the limit itself.

    Example:
        >>> import jax, jax.numpy as jnp
        >>> from sslstep import kernel_pca, nn
        >>> from sslstep.ntk import fluctuations, infinite
        >>> x = jax.random.normal(jax.random.key(0), (8, 5))
        >>> modes = kernel_pca.contrastive_modes(infinite.mlp(1)(x), 2)
        >>> for width in (64, 4096):
        ...     model = nn.MLP(2, width)
        ...     params = model.init(jax.random.key(1), x)
        ...     off = fluctuations.mode_deviation(model.apply, params, x, modes.coefficients)
        ...     print(bool(off < 0.2))
        False
        True
    """

    def images(params: PyTree) -> Array:
        z = apply_fn(params, x)
        return matmul(jnp.asarray(coefficients, z.dtype).T, z).ravel()

    jacobian = jax.jacrev(images)(params)
    rows = [leaf.reshape(len(leaf), -1) for leaf in jax.tree.leaves(jacobian)]
    form: Any = sum(matmul(leaf, leaf.T) for leaf in rows)
    return jnp.linalg.norm(form - jnp.eye(len(form), dtype=form.dtype), 2)
