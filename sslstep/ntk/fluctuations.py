r"""Fluctuations of a finite network's NTK about its limit, for one hidden layer and without a fit.

In the NTK parameterisation with :math:`\sigma_W^2 = 2` and no biases, that of
:class:`sslstep.nn.MLP` as it is by default, the NTK is a mean over the N hidden units, which at
initialisation are independent:

.. math:: \Theta = \frac1N \sum_i (a_i + c_i b_i), \qquad a_i = 2 \phi(h_i) \phi(h_i)^\top,
    \qquad b_i = 2 \Lambda \circ \phi'(h_i) \phi'(h_i)^\top,

with :math:`h_i \sim \mathcal N(0, \Lambda)` over the samples, :math:`\Lambda = 2 x x^\top / m`, and
φ the rectifier. a comes from the output weights, b from the hidden ones. The output weights of unit
i leave c, independent of h and of mean 1: the square of a standard normal number for ``"scalar"``
kernels, of variance 2, and the mean of d of them for ``"trace"``, of variance 2 / d. The mean of a
quadratic form in Θ - K, such as the squared norm, is therefore that of one unit, over N.
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
    """Variance of the factor c of one hidden unit; the module's docstring defines c."""
    return 2.0 if kind == "scalar" else 2.0 / dim


def covariance(x: Float[ArrayLike, "N m"]) -> Float[Array, "N N"]:
    r"""Covariance of a hidden unit's pre-activations, :math:`\Lambda = 2 x x^\top / m`.

    Args:
        x: samples, as the network takes them.

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
    return 2 / x.shape[1] * jnp.matmul(x, x.T)


class Moments(NamedTuple):
    """Means over hidden units.

    Attributes:
        kernel: of a + b, the limit K, shape ``(N, N)``.
        both: of (a + b)², elementwise, shape ``(N, N)``.
        hidden: of b², elementwise, shape ``(N, N)``.
    """

    kernel: Float[Array, "N N"]
    both: Float[Array, "N N"]
    hidden: Float[Array, "N N"]


def moments(cov: Float[ArrayLike, "N N"]) -> Moments:
    """The limit of the NTK, and second moments of one unit's share of it.

    In closed form: arc-cosine kernels of degree 0, 1 and 2 (Cho and Saul 2009).

    Args:
        cov: Λ, from :func:`covariance`.

    Returns:
        :class:`Moments`.

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
    cosine = jnp.clip(cov / norms, -1, 1)
    theta = jnp.arccos(cosine)
    sine = jnp.sin(theta)
    zero = (jnp.pi - theta) / (2 * jnp.pi)
    one = norms * (sine + (jnp.pi - theta) * cosine) / (2 * jnp.pi)
    two = 3 * sine * cosine + (jnp.pi - theta) * (1 + 2 * cosine**2)
    two = norms**2 * two / (2 * jnp.pi)
    hidden = 4 * cov**2 * zero
    return Moments(2 * one + 2 * cov * zero, 4 * two + 8 * cov * one + hidden, hidden)


def distance(cov: Float[ArrayLike, "N N"], dim: int) -> np.ndarray:
    r"""How far a network's NTK is from its limit, :math:`\sqrt{N\,\mathrm E\|\Theta-K\|^2}/\|K\|`.

    Exact at any width N.

    Args:
        cov: Λ, from :func:`covariance`.
        dim: number of outputs d.

    Returns:
        A value for each of :data:`KINDS`, shape ``(2,)``. Over the root of the width it is the root
        mean square of the relative distance in the Frobenius norm.

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
    """P v."""
    return jnp.roll(v, len(v) // 2, axis=0)


class FirstOrder(NamedTuple):
    """Width times means that hold to first order in Θ - K, each ``(2,)``, a value for a kind.

    Attributes:
        gamma: mean squared relative change of the first d eigenvalues.
        gamma_error: its standard error.
        misalignment: of the embeddings that the two kernels predict.
        misalignment_error: its standard error.
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
    kernel = moments(cov).kernel
    values, vectors = jnp.linalg.eigh(kernel)
    root = vectors * jnp.sqrt(jnp.maximum(values, values[-1] * _jitter(cov)))[None]
    gammas, u = jnp.linalg.eigh(root.T @ _swapped(root))
    gammas, y = gammas[::-1], jnp.matmul(root, u[:, ::-1])
    q, r = jnp.linalg.qr(y[:, :dim])
    return _Modes(
        root=_root(cov),
        coefficients=_swapped(y) / gammas[None],
        gap=gammas[None, :dim] / (gammas[None, :dim] - gammas[dim:, None]),
        rest=y[:, dim:] - q @ (q.T @ y[:, dim:]),
        inverse=jnp.linalg.inv(r),
    )


def _jitter(cov: Array) -> float:
    """Relative to the largest eigenvalue: what keeps a singular matrix's root a number."""
    return max(1e-12, 10 * float(jnp.finfo(cov.dtype).eps))


def _root(cov: Array) -> Array:
    eye = jnp.eye(len(cov), dtype=cov.dtype)
    return jnp.linalg.cholesky(cov + _jitter(cov) * jnp.trace(cov) * eye)


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


def first_order(cov: Float[ArrayLike, "N N"], dim: int, key: Array, num_units: int) -> FirstOrder:
    r"""How much a network's contrastive modes differ from those of its limit, by perturbation.

    With :math:`\tilde K P y_j = s \gamma_j y_j`, :math:`P y_j = s \gamma_j c_j` and
    :math:`c_j^\top y_k = \delta_{jk}`, a change D of the kernel changes

    .. math:: \frac{\delta \gamma_j}{\gamma_j} = c_j^\top D c_j, \qquad
        \delta y_j = \sum_{k \ne j} y_k \frac{\gamma_j}{\gamma_j - \gamma_k} c_k^\top D c_j.

    Means over units drawn at random. First order holds where modes are further apart than they
    fluctuate.

    Args:
        cov: Λ of the samples ``[X, X']``, from :func:`covariance`.
        dim: embedding dimension d.
        key: for the units.
        num_units: how many to average over.

    Returns:
        :class:`FirstOrder`.

    Raises:
        ValueError: if there are fewer than two units, of which there is no standard error.

    Example:
        >>> import jax
        >>> from sslstep.ntk import fluctuations
        >>> cov = fluctuations.covariance(jax.random.normal(jax.random.key(0), (8, 5)))
        >>> fluctuations.first_order(cov, 2, jax.random.key(1), 256).gamma.shape
        (2,)
    """
    _check.require_at_least("num_units", num_units, 2)
    cov = jnp.asarray(cov)
    modes = _modes(cov, dim)

    def forms(change):
        return jnp.stack([jnp.sum(part**2) for part in _changes(modes, dim, change)])

    def of_unit(noise):
        output, hidden = _unit(modes, dim, noise)
        mean = jnp.eye(len(output), dim, dtype=output.dtype)  # Cᵀ K C
        return forms(output + hidden - mean), forms(hidden)

    noise = jax.random.normal(key, (num_units, len(cov)), cov.dtype)
    both, hidden = jax.jit(partial(jax.lax.map, of_unit, batch_size=64))(noise)
    each = jnp.stack([both + _variance(kind, dim) * hidden for kind in KINDS])
    means, errors = each.mean(1), each.std(1) / num_units**0.5
    return FirstOrder(*np.asarray(jnp.stack([means, errors]).transpose(2, 0, 1).reshape(4, -1)))


def movement(
    cov: Float[ArrayLike, "N N"],
    pull: Float[ArrayLike, "N d"],
    width: Real[ArrayLike, ""],
    key: Array,
    *,
    num_units: int,
) -> tuple[Array, Array]:
    r"""Mean squared movement of a lazy network's trace NTK in training, its hidden weights' part.

    Gradient descent that adds :math:`K g` to the embeddings moves a unit, to first order, by

    .. math:: \delta h_i = \sqrt{2 / N}\, \Lambda\, \phi'(h_i) \circ g v_i, \qquad
        \delta v_i = \sqrt{2 / N}\, g^\top \phi(h_i).

    It moves b by steps of size 1, for the :math:`O(N^{-1/2})` of all units in which it carries
    h through 0. Both changes are odd in v, so units add up at random, and the part of the hidden
    weights moves by :math:`N^{-1/2} (N^{-1/2})^{1/2} = N^{-3/4}`. Means over units are left out, of
    second order: O(1 / N), as is all of the part of the output weights.

    Args:
        cov: Λ, from :func:`covariance`.
        pull: g, such as the coefficients of :func:`sslstep.kernel_pca.gradient_descent`.
        width: N; traced.
        key: for the units.
        num_units: how many to average over.

    Returns:
        The mean of the squared Frobenius norm, and its standard error.

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
        h, v = root @ noise[: len(cov)], noise[len(cov) :]
        on = jnp.where(h > 0, 1.0, 0.0)
        moved = h + (2 / width) ** 0.5 * cov @ (on * (pull @ v))
        v_moved = v + (2 / width) ** 0.5 * jnp.maximum(h, 0) @ pull
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
    r"""How far a network's NTK is from its limit on the limit's contrastive modes.

    The spectral norm of :math:`c_j^\top (\Theta_{ab} - \delta_{ab} \tilde K) c_k` over all k modes
    and d outputs, Θ being the NTK with a block for each pair of outputs. Modes of positive γ have
    :math:`c_j^\top \tilde K c_k = \delta_{jk}`, and to first order the diagonal of the form is
    :math:`\delta\gamma_j / \gamma_j`.

    Args:
        apply_fn: from ``(params, x)`` to the embeddings of all views, ``(N, d)``.
        params: parameters, as a pytree of arrays.
        x: what ``apply_fn`` takes, such as the inputs of several towers.
        coefficients: of modes of positive γ, from :func:`sslstep.kernel_pca.contrastive_modes`.

    Returns:
        A scalar, 0 for the limit.

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
        return (jnp.asarray(coefficients, z.dtype).T @ z).ravel()

    jacobian = jax.jacrev(images)(params)
    rows = [leaf.reshape(len(leaf), -1) for leaf in jax.tree.leaves(jacobian)]
    form = sum(leaf @ leaf.T for leaf in rows)
    return jnp.linalg.norm(form - jnp.eye(len(form), dtype=form.dtype), 2)
