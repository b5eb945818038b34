r"""Descent of a landscape: when, along which curve, and with what learning rate."""

import jax
import jax.numpy as jnp
from jax.scipy.special import logit
from jax.typing import ArrayLike
from jaxtyping import Array, Float, Real

from sslstep import _check, _spectral
from sslstep._bisection import bisect
from sslstep.landscape._modewise import ModewiseLoss, integral, plain


def step_time(
    loss: ModewiseLoss,
    eigenvalue: Real[ArrayLike, "..."],
    initial: Real[ArrayLike, "..."],
    level: Real[ArrayLike, "..."] = 0.5,
) -> Float[Array, "..."]:
    r"""When the eigenvalue :math:`\lambda = \bar s^2` of a mode rises past a level.

    .. math:: t = \frac{1}{4 \gamma} \int_{\bar s_0^2}^{\mathrm{level}}
        \frac{d\lambda}{\lambda f(\lambda)}

    Args:
        loss: what it descends.
        eigenvalue: γ; the arguments broadcast.
        initial: :math:`\bar s(0)`, of either sign.
        level: below ``loss.rest``; not reached from there on.

    Returns:
        The time; ``inf`` if γ ≤ 0 or the start is zero, 0 if it is past the level already, so that
        no step is ahead.

    Example:
        >>> from sslstep import landscape, linear
        >>> times = landscape.step_time(landscape.plain(), 2.0, 2.0**0.5 * 1e-3)
        >>> round(float(times / linear.half_rise_time(2.0, 1e-3)), 5)
        1.0
    """
    return _step_time(loss, *_check.as_floats(eigenvalue, initial, level))


@jax.jit
def _step_time(loss: ModewiseLoss, *numbers: Array) -> Array:
    gamma, initial, level = jnp.broadcast_arrays(*numbers)
    rest = jnp.asarray(loss.rest, initial.dtype)
    moves = (initial != 0) & (gamma > 0) & (level < rest)
    # Without the square, which may underflow.
    past = (level <= 0) | (jnp.abs(initial) >= jnp.sqrt(jnp.maximum(level, 0)))
    rises = moves & ~past
    begin = _logit_of_start(jnp.where(rises, initial, jnp.sqrt(rest / 4)), rest)
    product = _elapsed(loss, begin, logit(jnp.where(rises, level, rest / 2) / rest))
    time = jnp.where(past, 0, product / jnp.where(rises, gamma, 1))
    return jnp.where(moves, time, jnp.where(jnp.isnan(gamma + initial + level), jnp.nan, jnp.inf))


def trajectory(
    loss: ModewiseLoss,
    t: Real[ArrayLike, "..."],
    eigenvalue: Real[ArrayLike, "..."],
    initial: Real[ArrayLike, "..."],
) -> Float[Array, "..."]:
    r"""Descent of a landscape from a small start, the curves of Figure 8 for those of Figure 9.

    .. math:: \bar s' = -\gamma \frac{d\mathcal{L}}{d\bar s}, \qquad \bar s(0)^2 < \mathrm{rest}

    found by solving the closed form of γ t for λ, by bisection and a last Newton step, through
    which it is differentiated.

    Args:
        loss: what is descended.
        t: effective time ≥ 0; the arguments broadcast.
        eigenvalue: γ ≥ 0.
        initial: :math:`\bar s(0)`, of either sign, not above the resting level in size.

    Returns:
        :math:`\bar s(t)`, in the broadcast shape; NaN for a start beyond the resting level, and
        where a time or γ is negative.

    Raises:
        ValueError: if a time or γ is negative, in a number or an array of NumPy's.

    Example:
        >>> import jax.numpy as jnp
        >>> from sslstep import landscape
        >>> t, supervised = jnp.array([0.1, 1.0]), landscape.supervised_trajectory
        >>> sharp = landscape.trajectory(landscape.sharpened(1e-10), t, 1.0, 1e-4)
        >>> bool(jnp.allclose(sharp, supervised(t, 1.0, 1e-4), rtol=1e-3))  # footnote 26
        True
    """
    _check.require_at_least("t", t, 0.0, on_host=True)
    _check.require_at_least("eigenvalue", eigenvalue, 0.0, on_host=True)
    return _trajectory(loss, *_check.as_floats(t, eigenvalue, initial))


@jax.jit
def _trajectory(loss: ModewiseLoss, *numbers: Array) -> Array:
    t, gamma, initial = jnp.broadcast_arrays(*numbers)
    rest = jnp.asarray(loss.rest, t.dtype)
    moves = initial != 0
    begin = _logit_of_start(jnp.where(moves, initial, 1e-3), rest)
    wanted = jnp.where((gamma == 0) & jnp.isinf(t), 0, t) * gamma

    # Beyond this λ is at rest to rounding.
    end = jnp.full_like(begin, 2 - jnp.log(jnp.finfo(t.dtype).eps))
    fixed = jax.lax.stop_gradient((begin, jnp.maximum(begin, end)))
    v, _ = jax.lax.stop_gradient(bisect(lambda v: _elapsed(loss, begin, v) < wanted, *fixed))
    value, speed = jax.jvp(lambda v: _elapsed(loss, begin, v), (v,), (jnp.ones_like(v),))
    ended = v >= end * (1 - 1e-3)
    step = (wanted - value) / jax.lax.stop_gradient(jnp.where(ended, 1, speed))
    v = v + jnp.where(ended, 0, step)
    # Below the floor s has no λ in this type, but is e^{v / 2} itself.
    floor = _floor(rest)
    size = jnp.sqrt(rest * jax.nn.sigmoid(jnp.maximum(v, floor)))
    size = size * jnp.exp(jnp.minimum(v - floor, 0) / 2)
    size = jnp.where((t < 0) | (gamma < 0), jnp.nan, size)
    return jnp.where(moves, jnp.sign(initial) * size, 0)


def max_learning_rate(
    loss: ModewiseLoss,
    eigenvalues: Real[ArrayLike, " k"],
    *,
    overshoot: Real[ArrayLike, ""] = jnp.inf,
) -> Float[Array, ""]:
    r"""The largest learning rate with which gradient descent on this loss comes to rest.

    A step takes λ to :math:`F(\lambda) = \lambda (1 + 2 \eta \gamma f(\lambda))^2`. The least of
    three bounds:

    .. math:: \eta\, \gamma_{\max} < \frac{1 / h_- + 1 / h_+}{4\, \lambda_*}, \qquad
        F(F(\lambda)) < \lambda \; (\lambda_* < \lambda \le \lambda_{\mathrm{high}}), \qquad
        \eta\, |\gamma_{\min}|\, f(0) < 1

    - The minimum λ⁎ is stable, :math:`h_\mp = -f'(\lambda_*^\mp)` being its curvatures below and
      above: each step may cross it, and two must not lead farther away. Without curvature on one
      side this is no bound.
    - No start goes back and forth for ever. :math:`\lambda_{\mathrm{high}}`, a function of ηγ, is
      the highest that one step leads to from below the minimum. Up to there two steps lead closer,
      unless λ rests: without a 2-cycle every start comes to rest (Coppel 1955). With ``overshoot``
      it must not exceed 1 + overshoot either.
    - What Γ's negative eigenvalues should shrink does so.

    Above the second bound some starts never rest, and which do varies with the rate: a quartic loss
    at 0.4394 / γ has a 2-cycle of λ = 1.57 and 0.20 that takes 8% of them.

    For :func:`plain` it is :func:`sslstep.linear.max_learning_rate`; :func:`smoothed` without leak
    has no bound but the third, and wants an ``overshoot``. A :func:`quartic` has no curvature, and
    its bound is the second. Modes are taken one at a time, at the top spectral solution. Warm-up of
    the learning rate avoids the second.

    Args:
        loss: the landscape. A :func:`preconditioned` one is that of all modes but the first: for
            all together see :func:`sslstep.linear.preconditioned_max_learning_rate`.
        eigenvalues: of Γ, in any order, shape ``(k,)``.
        overshoot: how far above 1 an eigenvalue of C may go, > 0; traced.

    Returns:
        The limit, a scalar; ``inf`` if there is none.

    Raises:
        ValueError: if ``overshoot`` is not positive or an array, or ``eigenvalues`` is no vector,
            empty, or not finite.

    Example:
        >>> import jax.numpy as jnp
        >>> from sslstep import landscape
        >>> gammas = jnp.array([1.0, 0.1])
        >>> losses = (landscape.plain(), landscape.sharpened(), landscape.quartic())
        >>> [round(float(landscape.max_learning_rate(loss, gammas)), 2) for loss in losses]
        [0.25, 0.98, 0.44]
    """
    _check.require_scalar("overshoot", overshoot, above=0.0)
    _check.require_vector("eigenvalues", eigenvalues, "(k,)")
    _check.require_finite("eigenvalues", eigenvalues)
    (eigenvalues,) = _check.as_floats(eigenvalues)
    return _max_learning_rate(loss, eigenvalues, jnp.asarray(overshoot, eigenvalues.dtype))


@jax.jit
def _max_learning_rate(loss: ModewiseLoss, eigenvalues: Array, overshoot: Array) -> Array:
    rest = jnp.asarray(loss.rest, eigenvalues.dtype)
    beside = 4 * jnp.finfo(rest.dtype).eps
    curvature = jax.grad(lambda x: -loss.force(x))
    ease = sum(1 / jnp.maximum(curvature(rest * (1 + e)), 0) for e in (-beside, beside))
    bounded = _spectral.resting_rate(loss.force, rest, lambda _: 1 + overshoot)
    largest = jnp.minimum(ease / (4 * rest), bounded)
    top, bottom = jnp.maximum(eigenvalues.max(), 0), jnp.maximum(-eigenvalues.min(), 0)
    repelled = loss.force(jnp.zeros_like(rest)) * bottom
    return jnp.minimum(
        jnp.where(top > 0, largest / jnp.where(top > 0, top, 1), jnp.inf),
        jnp.where(repelled > 0, 1 / jnp.where(repelled > 0, repelled, 1), jnp.inf),
    )


def speedup(
    loss: ModewiseLoss,
    eigenvalues: Real[ArrayLike, " k"],
    eigenvalue: Real[ArrayLike, "..."],
    initial: Real[ArrayLike, "..."],
    *,
    overshoot: Real[ArrayLike, ""] = jnp.inf,
) -> Float[Array, "..."]:
    r"""How many times fewer steps a mode takes than with :func:`plain`, each at its best rate.

    .. math:: \frac{t_{\mathrm{plain}}}{t}\, \frac{\eta_{\max}}{\eta_{\max, \mathrm{plain}}}

    with :func:`step_time` and :func:`max_learning_rate`. It does not see that a step of gradient
    descent is finite, so it is right for modes with γ far below the largest.

    Args:
        loss: the landscape.
        eigenvalues: of Γ, all that count for the learning rate, shape ``(k,)``.
        eigenvalue: γ of the mode; it and ``initial`` broadcast.
        initial: its :math:`\bar s(0)`.
        overshoot: as of :func:`max_learning_rate`; for both.

    Returns:
        The ratio, in the broadcast shape; NaN for a mode without a step ahead, of which both times
        are 0 or both ``inf``.

    Example:
        >>> import jax.numpy as jnp
        >>> from sslstep import landscape
        >>> gammas = jnp.array([1.0, 0.01])
        >>> round(float(landscape.speedup(landscape.sharpened(), gammas, 0.01, 1e-4)), 1)
        14.5
    """
    time = step_time(plain(), eigenvalue, initial) / step_time(loss, eigenvalue, initial)
    rates = [max_learning_rate(each, eigenvalues, overshoot=overshoot) for each in (loss, plain())]
    return time * rates[0] / rates[1]


def _elapsed(loss: ModewiseLoss, begin: Array, end: Array) -> Array:
    """γ t between two λ = rest × sigmoid(v)."""
    rest = jnp.asarray(loss.rest, begin.dtype)
    floor = _floor(rest)
    # Below it v grows at a constant speed, 4 γ f(0).
    early = jnp.minimum(end, floor) - jnp.minimum(begin, floor)
    early = early / (4 * loss.force(rest * jax.nn.sigmoid(floor)))
    begin, end = jnp.maximum(begin, floor), jnp.maximum(end, floor)
    if loss.time is not None:
        late = loss.time(rest * jax.nn.sigmoid(end)) - loss.time(rest * jax.nn.sigmoid(begin))
        return early + late

    def slowness(v):
        # dλ = λ (1 - λ / rest) dv, which takes away the zero of the force.
        return jax.nn.sigmoid(-v) / (4 * loss.force(rest * jax.nn.sigmoid(v)))

    return early + integral(slowness, begin, end)


def _floor(rest: Array) -> Array:
    """The v = logit(λ / rest) from which on λ and λ / rest are normal numbers."""
    return jnp.log(jnp.finfo(rest.dtype).tiny) + 3 - jnp.log(jnp.minimum(rest, 1))


def _logit_of_start(initial: Array, rest: Array) -> Array:
    """logit(s² / rest), for s whose squares underflow too; NaN beyond the resting level."""
    ratio = initial**2 / rest
    tiny = ratio < jnp.finfo(rest.dtype).tiny
    by_logarithm = 2 * jnp.log(jnp.abs(jnp.where(tiny, initial, 1))) - jnp.log(rest)
    return jnp.where(tiny, by_logarithm, logit(jnp.where(tiny, 0.5, ratio)))
