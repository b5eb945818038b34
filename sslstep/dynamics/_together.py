r"""Modes whose curves depend on each other, with preconditioned gradients (Eq. 52) and LARS."""

import warnings
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import ArrayLike
from jaxtyping import Array, Float, Real

from sslstep import _check, _flow
from sslstep.dynamics._mode import (
    bisect,
    mode_eigenvalue,
    singular_value,
    step_time,
    with_derivative,
)


def preconditioned_eigenvalues(
    t: Real[ArrayLike, " T"],
    eigenvalues: Real[ArrayLike, " d"],
    initial_singular_values: Real[ArrayLike, " d"],
    alpha: Real[ArrayLike, ""] = 0.1,
    *,
    relative: bool = True,
    variances: Real[ArrayLike, " d"] | None = None,
    max_steps: int = 100_000,
) -> Float[Array, "T d"]:
    r"""Eigenvalues :math:`\lambda_j(t)` of C under preconditioned gradients (Eq. 52).

    The start is aligned, and the features' second moment Σ has the eigenvectors :math:`v_j` of Γ.
    The embeddings' second moment then stays diagonal, with the elements
    :math:`\sigma_j = (v_j^\top \Sigma v_j)\, s_j^2`, and

    .. math:: s_j' = 4 (1 - \gamma_j s_j^2)\, \gamma_j s_j\,
        \frac{\sigma_{\max} + \alpha}{\sigma_j + \alpha}, \qquad
        \frac{d}{dt} \mathrm{logit}\, \lambda_j
        = 8 \gamma_j \frac{\sigma_{\max} + \alpha}{\sigma_j + \alpha},

    with :math:`\alpha \sigma_{\max}` in place of α if α is relative. The second form is integrated
    by diffrax's Tsit5. The mode with the largest σ follows Eq. 10, and the others grow faster than
    Eq. 10.

    Args:
        t: effective times ≥ 0, increasing, shape ``(T,)``.
        eigenvalues: γ_j > 0, shape ``(d,)``.
        initial_singular_values: s_j(0), not zero, shape ``(d,)``; each :math:`\gamma_j s_j^2(0)` is
            below 1.
        alpha: α > 0 of :func:`sslstep.optim.precondition`; traced.
        relative: whether α is relative to the largest σ.
        variances: :math:`v_j^\top \Sigma v_j \ge \gamma_j`, shape ``(d,)``. None: γ_j, which is
            right if both views of a sample have the same embedding.
        max_steps: largest number of the integrator's steps.

    Returns:
        λ_j(t), shape ``(T, d)``.

    Raises:
        ValueError: if shapes do not fit, or an argument is out of its range.
        RuntimeError: if the integrator does not reach the last time in ``max_steps`` steps.

    Example:
        >>> import jax.numpy as jnp
        >>> from sslstep import dynamics
        >>> gammas, t = jnp.array([1.0, 0.01]), jnp.array([0.0, 30.0])
        >>> learned = dynamics.preconditioned_eigenvalues(t, gammas, 1e-3 * jnp.ones(2))[-1]
        >>> [round(float(x), 2) for x in learned]
        [1.0, 0.54]
        >>> [round(float(x), 2) for x in dynamics.mode_eigenvalue(30.0, gammas, 1e-3)]
        [1.0, 0.0]
    """
    gamma, start, times = _arguments(eigenvalues, initial_singular_values, t)
    v = _logit_of_start(gamma, start, alpha)
    ratios = jnp.ones_like(gamma)
    if variances is not None:
        _check.require_shape("variances", variances, gamma.shape, ", as eigenvalues")
        ratios = jnp.asarray(variances, gamma.dtype) / gamma
        if _check.is_concrete(ratios) and not bool((ratios >= 1 - 1e-6).all()):  # but for rounding
            raise ValueError(
                f"variances must be at least eigenvalues, got {np.asarray(variances)} and "
                f"{np.asarray(gamma)}."
            )
    tolerance = 1e2 * float(jnp.finfo(v.dtype).eps)
    args = gamma, jnp.asarray(alpha, v.dtype), ratios, jnp.asarray(relative)
    settings: Any = {"rtol": tolerance, "atol": tolerance, "max_steps": max_steps}
    return jax.nn.sigmoid(_flow.integrate(_field, v, times, args, **settings))


def _field(t, v, args):
    gamma, alpha, ratios, relative = args
    log_sigma = jnp.log(ratios) + jax.nn.log_sigmoid(v)
    largest = jnp.max(log_sigma)
    # In units of the largest variance, which may underflow.
    most = jnp.log(jnp.finfo(v.dtype).max) / 2
    alpha = alpha * jnp.where(relative, 1, jnp.exp(jnp.minimum(-largest, most)))
    return 8 * gamma * (1 + alpha) / (jnp.exp(log_sigma - largest) + alpha)


def preconditioned_step_times(
    eigenvalues: Real[ArrayLike, " d"],
    initial_singular_values: Real[ArrayLike, " d"],
    alpha: Real[ArrayLike, ""] = 0.1,
) -> Float[Array, " d"]:
    r"""Times at which each :math:`\lambda_j` reaches 1/2 under preconditioning with an absolute α.

    The first mode is the largest, so its gain is 1 and it follows the logistic curve of Eq. 10. For
    each other mode the equation of :func:`preconditioned_eigenvalues` separates:

    .. math:: \alpha \log \frac{\lambda}{\lambda_0}
        + (1 + \alpha) \log \frac{1 - \lambda_0}{1 - \lambda} = 8 \gamma_j \Big( \alpha t
        + \int_0^t \lambda_1 dt' \Big), \qquad
        \int_0^t \lambda_1 dt' = \frac{\log(1 + \lambda_1(0) (e^{8 \gamma_1 t} - 1))}{8 \gamma_1}

    with :math:`\lambda_0 = \lambda(0)`. It is solved for t at λ = ½ by bisection, to rounding. With
    an α relative to the largest σ the small modes have their gain from the start; once the first
    mode is learned, :func:`step_time` on the :func:`preconditioned` landscape has the times.

    Args:
        eigenvalues: γ_j > 0, shape ``(d,)``; γ_1 is the largest.
        initial_singular_values: s_j(0), not zero, shape ``(d,)``; each :math:`\gamma_j s_j^2(0)` is
            below 1, and that of the first mode is the largest.
        alpha: absolute α > 0 of :func:`sslstep.optim.precondition`; traced.

    Returns:
        The effective times, shape ``(d,)``; 0 for a mode that starts at or above one half.

    Raises:
        ValueError: if shapes do not fit, or an argument is out of its range.

    Example:
        >>> import jax.numpy as jnp
        >>> from sslstep import dynamics
        >>> gammas = jnp.array([1.0, 0.01])
        >>> times = dynamics.preconditioned_step_times(gammas, 1e-3 * jnp.ones(2), 0.1)
        >>> [round(float(t), 1) for t in times]
        [1.7, 30.4]
        >>> [round(float(t), 1) for t in dynamics.step_time(gammas, 1e-3)]
        [1.7, 230.3]
    """
    gamma, initial = _arguments(eigenvalues, initial_singular_values)
    v = _logit_of_start(gamma, initial, alpha)
    if _check.is_concrete(v):
        values = np.asarray(v)
        # Admits the rounding of equal inputs.
        slack = 4 * float(jnp.finfo(v.dtype).eps) * np.abs(values[0])
        if not gamma[0] >= gamma.max() or values.max() > values[0] + slack:
            raise ValueError(
                f"the first mode must have the largest of eigenvalues and of C's eigenvalues at "
                f"the start, got eigenvalues {np.asarray(gamma)} and logit {values} of C's."
            )
    latest = jnp.maximum(step_time(gamma, initial), 0)
    return _step_times(gamma, v, latest, jnp.asarray(alpha, v.dtype))


@jax.jit
def _step_times(gamma: Array, v: Array, latest: Array, alpha: Array) -> Array:
    """Solve the equation of `preconditioned_step_times` at λ = ½ by bisection in 0...`latest`.

    `v` holds the logit of λ(0) of each mode, whose λ(0) may underflow.
    """
    # With log λ0 = log_sigmoid(v) and log(1 - λ0) = log_sigmoid(-v).
    needed = alpha * (-jnp.log(2.0).astype(v.dtype) - jax.nn.log_sigmoid(v))
    needed += (1 + alpha) * (jnp.log(2.0).astype(v.dtype) + jax.nn.log_sigmoid(-v))

    underflows = jax.nn.sigmoid(v[0]) < jnp.finfo(v.dtype).tiny

    def gained(t):
        x = 8 * gamma[0] * t
        # log(1 + λ (e^x - 1)) = x + log(λ + (1 - λ) e^-x)
        log_rest = jnp.log(jax.nn.sigmoid(v[0]) + jax.nn.sigmoid(-v[0]) * jnp.exp(-x))
        log_rest = jnp.where(underflows, jnp.logaddexp(v[0], -x), log_rest)
        return 8 * gamma * (alpha * t + (x + log_rest) / (8 * gamma[0]))

    low, high = bisect(lambda t: gained(t) < needed, jnp.zeros_like(latest), latest)
    found = (low + high) / 2
    inside = (found > 0) & jnp.isfinite(found)
    root = with_derivative(jnp.where(inside, found, 1), lambda t: gained(t) - needed)
    return jnp.where(inside, root, jax.lax.stop_gradient(found))


def lars_steps(
    t: Real[ArrayLike, " T"],
    eigenvalues: Real[ArrayLike, " d"],
    initial_singular_values: Real[ArrayLike, " d"],
    relative_rate: Real[ArrayLike, ""],
) -> Float[Array, " T"]:
    r"""Number of steps LARS takes to reach the weights of gradient flow at time t.

    (Beyond the paper.) Each step of LARS has the length :math:`\rho \|W\|`, for any size of the
    gradient. On a single array of weights LARS follows the path of gradient flow (Eq. 10) at
    another speed. It reaches W(t) after k(t) steps,

    .. math:: k(t) = \frac1\rho \int_0^t \frac{\|\nabla \mathcal{L}(W(t'))\|_F}{\|W(t')\|_F} dt',
        \qquad \|\nabla \mathcal{L}\|_F^2 = \sum_j \big(4 (1 - \gamma_j s_j^2) \gamma_j s_j\big)^2 .

    The first mode is learned after about :math:`\ln(s(\infty) / s(0)) / \rho` steps, for any γ. A
    later mode that grows alone covers the distance :math:`\gamma_j^{-1/2}` in W, so its plateau
    lasts about :math:`\gamma_j^{-1/2} / (\rho \|W\|)` steps. Gradient descent instead waits for
    :math:`\tau_j` (Eq. 16), which is proportional to :math:`1 / \gamma_j` and depends on the
    initial scale.

    The formula holds for short steps. Steps of a fixed length do not converge: on a plateau LARS
    oscillates in :math:`s_1` with a gradient of order :math:`\rho \sqrt{\gamma_1}`. A mode with a
    smaller gradient then grows exponentially, with a time constant of order
    :math:`\gamma_1 / \gamma_j` steps. k is too small by 5% at
    :math:`\gamma_1 / \gamma_j = 0.1 / \rho`, by 10 to 13% at :math:`0.3 / \rho`, by 31 to 51% at
    :math:`1 / \rho`, and by a factor of five to seven at :math:`10 / \rho` (two modes, ρ from 5e-4
    to 5e-3, s(0) from 1e-6 to 1e-3).

    Args:
        t: effective times ≥ 0 of gradient flow, increasing, shape ``(T,)``. The integral uses the
            trapezoidal rule on them, and starts at the first of them.
        eigenvalues: γ_j of the modes that grow, shape ``(d,)``.
        initial_singular_values: s_j(0), shape ``(d,)``.
        relative_rate: ρ, the learning rate times the trust coefficient, divided by 1 - μ with
            momentum μ.

    Returns:
        k(t), shape ``(T,)``; 0 at the first time.

    Raises:
        ValueError: if shapes do not fit, values are not finite, or an argument is out of range.

    Warns:
        UserWarning: if by the last time a mode with :math:`\gamma_1 / \gamma_j > 0.3 / \rho` is
            learned.

    Example:
        >>> import jax.numpy as jnp
        >>> from sslstep import dynamics
        >>> t = jnp.linspace(0.0, 4.0, 2001)
        >>> [round(float(dynamics.lars_steps(t, jnp.ones(1), s0 * jnp.ones(1), 1e-2)[-1]))
        ...  for s0 in (1e-2, 1e-3)]
        [461, 691]
    """
    _check.require_scalar("relative_rate", relative_rate, above=0.0)
    gamma, start, times = _arguments(eigenvalues, initial_singular_values, t)
    rate = jnp.asarray(relative_rate, times.dtype)
    if _check.is_concrete(start) and start.size and not bool((start != 0).any()):
        raise ValueError("initial_singular_values must not all be zero: from zero nothing grows.")
    mode = times[:, None], gamma[None, :], start[None, :]
    s, eigenvalues_of_c = singular_value(*mode), mode_eigenvalue(*mode)
    _warn_if_long(gamma, eigenvalues_of_c, rate)
    gradient = 4 * (1 - eigenvalues_of_c) * (gamma[None, :] * s)
    # Plain sums of squares would underflow while the modes are small.
    ratio = _norm(gradient) / _norm(s)
    steps = jnp.diff(times) * (ratio[1:] + ratio[:-1]) / 2
    return jnp.concatenate([jnp.zeros(1, times.dtype), jnp.cumsum(steps)]) / rate


def _arguments(eigenvalues: ArrayLike, initial: ArrayLike, t: Any = None) -> list[Array]:
    """Check the arguments' shapes and times, and convert them to one floating dtype."""
    shape = _check.shape_of(eigenvalues)
    if len(shape) != 1 or _check.shape_of(initial) != shape:
        raise ValueError(
            f"eigenvalues and initial_singular_values must have one shape (d,), got {shape} and "
            f"{_check.shape_of(initial)}."
        )
    if t is None:
        return _check.as_floats(eigenvalues, initial)
    gamma, initial, times = _check.as_floats(eigenvalues, initial, t)
    return [gamma, initial, _flow.recorded_times("t", times, times.dtype)]


def _logit_of_start(gamma: Array, initial: Array, alpha: ArrayLike) -> Array:
    """Return logit λ(0) of each mode, after a check that 0 < λ(0) < 1 and α > 0."""
    _check.require_scalar("alpha", alpha, above=0.0)
    _check.require_within("eigenvalues", gamma, above=0.0)
    log_lambda = jnp.log(gamma) + 2 * jnp.log(jnp.abs(initial))
    if _check.is_concrete(log_lambda) and not np.all(np.isfinite(log_lambda) & (log_lambda < 0)):
        raise ValueError(
            f"initial_singular_values must make eigenvalues γ s(0)² of C between 0 and 1, got "
            f"{np.asarray(jnp.exp(log_lambda))}."
        )
    return log_lambda - jnp.log1p(-jnp.exp(log_lambda))


def _warn_if_long(gamma: Array, eigenvalues_of_c: Array, rate: Array) -> None:
    """Warn if LARS's steps are too long for the formula of `lars_steps`, unless traced."""
    if not _check.is_concrete(eigenvalues_of_c, rate) or not eigenvalues_of_c.size:
        return
    learned = np.asarray(gamma)[np.asarray(eigenvalues_of_c[-1] >= 0.5)]
    if learned.size and learned.max() / learned.min() > 0.3 / float(rate):
        warnings.warn(
            f"relative_rate = {float(rate):.3g} is too long a step for eigenvalues from "
            f"{learned.max():.3g} to {learned.min():.3g}: LARS takes more than 10% more steps than "
            f"this, as it bounces on plateaus.",
            stacklevel=3,
        )


def _norm(rows: Array) -> Array:
    """Return the Euclidean norm of each row, without underflow."""
    largest = jnp.max(jnp.abs(rows), axis=1, keepdims=True)
    scale = jnp.where(largest > 0, largest, 1)
    return scale[:, 0] * jnp.sqrt(jnp.sum((rows / scale) ** 2, axis=1))
