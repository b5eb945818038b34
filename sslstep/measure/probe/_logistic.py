r"""Multinomial logistic regression, minimised by L-BFGS."""

import warnings
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax.typing import ArrayLike
from jaxtyping import Array, Float, Integer, Real

from sslstep import _check
from sslstep._linalg import matmul, power_of_two
from sslstep.measure.probe._probe import Probe, require_labels, require_trained

# Number of past steps that L-BFGS keeps. A fit usually takes a few dozen iterations.
_MEMORY = 20


def logistic(
    features: Float[ArrayLike, "n p"],
    labels: Integer[ArrayLike, " n"],
    regularisation: Real[ArrayLike, ""],
    *,
    num_classes: int,
    tol: Real[ArrayLike, ""] = 1e-4,
    max_iterations: Integer[ArrayLike, ""] = 500,
) -> Probe:
    r"""Fit multinomial logistic regression with an unpenalised bias, by L-BFGS.

    .. math:: \min_{W, b} \; f(W, b) = -\frac1n \sum_i \log \mathrm{softmax}(W^\top h_i + b)_{y_i}
        + \mu \|W\|_F^2

    The penalty applies to the weights of the given features, as in :func:`ridge`; scikit-learn's
    ``C`` is :math:`1 / (2 n \mu)`. The solver centres and whitens the features internally, for
    speed only. With Σ the covariance of the features, c the number of classes and b' the bias of
    the centred features, it iterates in the coordinates

    .. math:: V = L^\top W, \quad v = b' / \sqrt c, \qquad L L^\top = \Sigma / c + 2 \mu I.

    In them the Hessian at W = 0 is the identity, except along the shift of all logits, which leaves
    the softmax unchanged. The iteration stops when the gradient of f with respect to (V, v) has a
    norm of at most ``tol``. If the Hessian at the end is close to its initial value, f is then
    within ``tol**2 / 2`` of its minimum, for any scales and correlations of the features.
    Directions whose standard deviation is below ``sqrt(10 eps)`` of the largest (1e-3 in float32)
    are not whitened. The gradient along them is smaller, so with a loose ``tol`` the fit leaves
    them unused.

    Args:
        features: h, shape ``(n, p)``.
        labels: y, classes 0...c-1, shape ``(n,)``.
        regularisation: μ ≥ 0; traced. With μ = 0 and linearly separable classes no minimum exists,
            and the weights grow until the gradient is below ``tol``.
        num_classes: c, the number of classes, at least 2.
        tol: norm of the gradient at which the iteration stops; traced. Rounding leaves a norm of
            about 1e-5 in float32.
        max_iterations: largest number of L-BFGS iterations; traced. If they do not reach ``tol``, a
            warning states the norm reached, except under ``jax.jit`` or ``jax.vmap``.

    Returns:
        :class:`Probe`, in the features' dtype, or float32 if that dtype is shorter. The weights sum
        to zero over the classes, and so do the biases.

    Raises:
        ValueError: if shapes do not fit, or values, labels or numbers are out of range.

    Example:
        >>> import jax, jax.numpy as jnp
        >>> from sslstep.measure import probe
        >>> labels = jnp.arange(60) % 3
        >>> noise = jax.random.normal(jax.random.key(0), (60, 3))
        >>> features = jax.nn.one_hot(labels, 3) + 0.1 * noise
        >>> fitted = probe.logistic(features, labels, 1e-4, num_classes=3)
        >>> float(probe.accuracy(fitted, features, labels))
        1.0
    """
    h = _check.precise_matrix("features", features, "(n, p)")
    _check.require_within("num_classes", num_classes, at_least=2)
    labels = require_labels("labels", labels, len(h), num_classes)
    _check.require_scalar("regularisation", regularisation, at_least=0.0)
    _check.require_scalar("tol", tol, above=0.0)
    _check.require_scalar("max_iterations", max_iterations, at_least=1)
    scalars = (jnp.asarray(value, h.dtype) for value in (regularisation, tol))
    fitted, norm = _fit(h, labels, *scalars, jnp.asarray(max_iterations), num_classes)
    if not _check.is_concrete(norm, tol):
        return fitted
    require_trained(fitted, "the features, or their differences, are too large for their dtype.")
    reached, wanted = float(norm), np.asarray(tol).item()
    if not reached <= wanted:  # NaN counts as not converged
        warnings.warn(
            f"the logistic probe has not converged: after max_iterations = {max_iterations} its "
            f"gradient's norm is {reached:.3g}, above tol = {wanted:.3g}. "
            f"Allow more iterations, a larger tol, or use float64.",
            stacklevel=2,
        )
    return fitted


@partial(jax.jit, static_argnames="num_classes")
def _fit(h, labels, regularisation, tol, max_iterations, num_classes):
    """Minimise the objective; return the probe and the norm of the last gradient."""
    n, p = h.shape
    num = min(n, p)  # number of directions
    # Scale to order one against under- and overflow; a power of two leaves the digits unchanged.
    unit = power_of_two(1 / jnp.maximum(jnp.abs(h).max(), jnp.sqrt(regularisation)))
    h, regularisation = h * unit, regularisation * unit * unit
    mean = h.mean(axis=0)
    h = h - mean[None, :]
    if num < p:  # the weights are in the samples' span: no (p, p) covariance
        basis, coordinates = jnp.linalg.qr(h.T)
        h = coordinates.T
    covariance = matmul(h.T, h) / n
    # The floor only affects preconditioning: far above rounding, far below relevant variances.
    floor = 10 * jnp.finfo(h.dtype).eps * jnp.trace(covariance) / num_classes
    diagonal = 2 * regularisation + jnp.where(floor > 0, floor, 1)
    triangle = jnp.linalg.cholesky(
        covariance / num_classes + diagonal * jnp.eye(num, dtype=h.dtype)
    )

    def probe_of(v: Array) -> Probe:
        """Return the probe of the centred features at the whitened coordinates v = (V, v)."""
        weights = jax.scipy.linalg.solve_triangular(triangle, v[:-1], trans=1, lower=True)
        return Probe(weights, v[-1] * num_classes**0.5)

    def objective(v: Array) -> Array:
        weights, bias = probe_of(v)
        logits = matmul(h, weights) + bias[None, :]
        losses = optax.softmax_cross_entropy_with_integer_labels(logits, labels)
        return losses.mean() + regularisation * jnp.sum(weights**2)

    lbfgs = optax.lbfgs(memory_size=_MEMORY)
    value_and_grad = optax.value_and_grad_from_state(objective)

    def go_on(carry: Any) -> Array:
        iteration, _, _, gradient = carry
        return (iteration < max_iterations) & (jnp.linalg.norm(gradient) > tol)

    def iterate(carry: Any) -> Any:
        iteration, v, state, _ = carry
        value, gradient = value_and_grad(v, state=state)
        # optax mixes int32 and JAX's default integers, which strict promotion forbids under x64.
        with jax.numpy_dtype_promotion("standard"):
            update, state = lbfgs.update(
                gradient, state, v, value=value, grad=gradient, value_fn=objective
            )
        gradient = optax.tree_utils.tree_get(state, "grad")
        return iteration + 1, optax.apply_updates(v, update), state, gradient

    v = jnp.zeros((num + 1, num_classes), h.dtype)
    start = (jnp.zeros_like(max_iterations), v, lbfgs.init(v), jax.grad(objective)(v))
    _, v, _, gradient = jax.lax.while_loop(go_on, iterate, start)
    weights, bias = probe_of(v)
    if num < p:
        weights = matmul(basis, weights)
    fitted = Probe(weights * unit, bias - matmul(mean, weights))
    return fitted, jnp.linalg.norm(gradient)
