r"""The largest learning rate of a landscape, and how many steps one saves."""

from collections.abc import Callable

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike
from jaxtyping import Array, Float, Real

from sslstep import _check
from sslstep.dynamics._landscapes import Landscape, Plain, Preconditioned
from sslstep.dynamics._mode import PLAIN, bisect, step_time


def max_learning_rate(
    eigenvalues: Real[ArrayLike, " k"],
    *,
    landscape: Landscape = PLAIN,
    overshoot: Real[ArrayLike, ""] | None = None,
) -> Float[Array, ""]:
    r"""The largest learning rate with which gradient descent from a small start comes to rest.

    For :func:`plain` the mode equation of gradient descent,
    :math:`s \leftarrow s + 4\eta(1 - \gamma s^2)\gamma s`, has slope :math:`1 - 8\eta\gamma` around
    the top spectral solution, and the off-diagonal pairs (j, k) have
    :math:`1 - 4\eta(\gamma_j + \gamma_k)`; a direction with γ < 0 has :math:`1 - 4\eta|\gamma|`
    around zero. All lie within the unit circle if and only if

    .. math:: \eta < \min\left(\frac{1}{4 \gamma_{\max}}, \frac{1}{2 |\gamma_{\min}|}\right),

    the second only if :math:`\gamma_{\min} < 0`. Above the first bound the top spectral solution is
    unstable, and descent can at best end in another one; above the second, what should decay grows
    until the embedding is full. (The paper's :math:`\eta = 1/4` of G.3 is its case γ = 1.)

    On another landscape a step takes λ to :math:`F(\lambda) = \lambda (1 + 2 \eta \gamma
    f(\lambda))^2`, modes are taken one at a time, and the least of three bounds is

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

    Above the second bound some starts never rest, and which do varies with the rate:
    :func:`fourth_power` at 0.4394 / γ has a 2-cycle of λ = 1.57 and 0.20 that takes 8% of them.
    :func:`smoothed` without leak has no bound but the third, and wants an ``overshoot``.
    :func:`fourth_power` has no curvature, and its bound is the second. Warm-up of the learning rate
    avoids the second.

    On a :func:`preconditioned` landscape the first mode descends the original, and the second
    bound is asked of the second mode, which a step with its gain throws beyond the minimum. Nor may
    the second drive the first away: while it is above 1, it is the larger, and the gain of the
    first is up to :math:`(\lambda_{\mathrm{high}} + \alpha) / (1 + \alpha)`; :math:`\eta\,
    \gamma_1` times that stays below the first's bound. For small α and :func:`plain` this is the
    tighter, :math:`\eta \gamma_2 = (\alpha \gamma_2 / 16 \gamma_1)^{1/3}`. It is for an α that is
    relative, or absolute once a mode is learned; both views of a sample are taken to have one
    embedding.

    Args:
        eigenvalues: of Γ, in any order, shape ``(k,)``.
        landscape: what modes descend.
        overshoot: how far above 1 an eigenvalue of C may go, > 0; traced. None: no bound.

    Returns:
        The limit, a scalar; ``inf`` if there is none.

    Raises:
        ValueError: if ``overshoot`` is not positive or an array, or ``eigenvalues`` is no vector,
            empty, or not finite.

    Example:
        >>> import jax.numpy as jnp
        >>> from sslstep import dynamics
        >>> gammas = jnp.array([1.0, 0.5, -0.1])
        >>> plain = dynamics.plain()
        >>> losses = (plain, dynamics.fourth_power(), dynamics.preconditioned(plain, 0.1))
        >>> [round(float(dynamics.max_learning_rate(gammas, landscape=loss)), 3) for loss in losses]
        [0.25, 0.439, 0.229]
    """
    if overshoot is not None:
        _check.require_scalar("overshoot", overshoot, above=0.0)
    _check.require_vector("eigenvalues", eigenvalues, "(k,)")
    _check.require_finite("eigenvalues", eigenvalues)
    (gamma,) = _check.as_floats(eigenvalues)
    gamma = jnp.sort(gamma, descending=True)
    most = None if overshoot is None else 1 + jnp.asarray(overshoot, gamma.dtype)
    first = landscape.first if isinstance(landscape, Preconditioned) else landscape
    bounds = [
        _over(_largest(first, most, gamma.dtype), gamma[0]),
        _over(jnp.ones((), gamma.dtype), landscape.force(jnp.zeros_like(gamma[0])) * -gamma[-1]),
    ]
    if isinstance(landscape, Preconditioned) and gamma.shape[0] > 1:
        bounds.append(_of_second(landscape, most, gamma))
    return jnp.min(jnp.stack(bounds))


def _over(limit: Array, value: Array) -> Array:
    """The quotient, infinite unless the value is positive."""
    return jnp.where(value > 0, limit / jnp.where(value > 0, value, 1), jnp.inf)


def _largest(landscape: Landscape, most: Array | None, dtype: jnp.dtype) -> Array:
    """The largest ηγ of one mode."""
    if isinstance(landscape, Plain) and most is None:
        growth = jnp.asarray(landscape.growth, dtype)
        return _over(jnp.asarray(0.25, dtype), growth)
    return _on_grids(landscape, jnp.asarray(jnp.inf, dtype) if most is None else most)


@jax.jit
def _on_grids(landscape: Landscape, most: Array) -> Array:
    rest = jnp.asarray(landscape.rest, most.dtype)
    beside = 4 * jnp.finfo(rest.dtype).eps
    curvature = jax.grad(lambda x: -landscape.force(x))
    ease = sum(1 / jnp.maximum(curvature(rest * (1 + e)), 0) for e in (-beside, beside))
    return jnp.minimum(ease / (4 * rest), _resting_rate(landscape.force, rest, lambda _: most))


@jax.jit
def _of_second(landscape: Preconditioned, most: Array | None, gamma: Array) -> Array:
    """The largest η of the second mode, with its gain and with what it gives the first."""
    alpha, rest = (jnp.asarray(part, gamma.dtype) for part in (landscape.alpha, landscape.rest))
    first = _largest(landscape.first, most, gamma.dtype)
    ratio = gamma[0] / jnp.where(gamma[1] > 0, gamma[1], 1)

    def ceiling(x: Array) -> Array:
        highest = first * (1 + alpha) / (x * ratio) - alpha
        return highest if most is None else jnp.minimum(highest, most)

    return _over(_resting_rate(landscape.force, rest, ceiling), gamma[1])


def _resting_rate(
    force: Callable[[Array], Array], rest: Array, ceiling: Callable[[Array], Array]
) -> Array:
    r"""Largest x = ηγ at which gradient descent from every start below `rest` converges.

    `rest` is the smallest λ at which the loss is minimal. A step maps λ to
    F(λ) = λ (1 + 2 x force(λ))². From starts in [0, rest] all iterates stay in [0, highest], where
    highest is the maximum of F on [0, rest]. A continuous map of an interval without a 2-cycle
    takes every start to a fixed point (Coppel 1955). The first condition is therefore F(F(λ)) < λ
    for all λ > rest that are not fixed points. The second condition is highest ≤ ``ceiling(x)``.
    Both are tested on grids, and x has a relative error of about 1e-5. The caller tests the slope
    of F at `rest`.
    """
    inside = rest * jax.nn.sigmoid(jnp.linspace(-40, 40, 10_001, dtype=rest.dtype))
    places = jnp.linspace(0, 1, 4001, dtype=rest.dtype)[1:]

    def advance(x: Array, at: Array) -> Array:
        return at * (1 + 2 * x * force(at)) ** 2

    def holds(x: Array) -> Array:
        highest = jnp.max(advance(x, inside))
        above = rest + (highest - rest) * places
        once = advance(x, above)
        returns = (once < above) & (advance(x, once) < above)
        # Closer to `rest` than 1% the change of two steps may drown in rounding.
        fine = (above <= 1.01 * rest) | (once == above) | returns
        return fine.all() & (highest <= ceiling(x))

    limit = 12 * jnp.log(jnp.asarray(10, rest.dtype))
    low, _ = bisect(lambda log_x: holds(jnp.exp(log_x)), -limit, limit)
    return jnp.where(holds(jnp.exp(limit)), jnp.inf, jnp.exp(low))


def speedup(
    eigenvalues: Real[ArrayLike, " k"],
    eigenvalue: Real[ArrayLike, "..."],
    initial_singular_value: Real[ArrayLike, "..."],
    *,
    landscape: Landscape,
    overshoot: Real[ArrayLike, ""] | None = None,
) -> Float[Array, "..."]:
    r"""How many times fewer steps a mode takes than with :func:`plain`, each at its largest rate.

    .. math:: \frac{t_{\mathrm{plain}}}{t}\, \frac{\eta_{\max}}{\eta_{\max, \mathrm{plain}}}

    with :func:`step_time` and :func:`max_learning_rate`. It takes a step of gradient descent for
    flow, so it is right for modes with γ far below the largest.

    Args:
        eigenvalues: of Γ, all that count for the learning rate, shape ``(k,)``.
        eigenvalue: γ of the mode; it and its start broadcast.
        initial_singular_value: its s(0).
        landscape: what it descends.
        overshoot: as of :func:`max_learning_rate`; for both.

    Returns:
        The ratio, in the broadcast shape; NaN for a mode without a step ahead, of which both times
        are 0 or both ``inf``.

    Example:
        >>> import jax.numpy as jnp
        >>> from sslstep import dynamics
        >>> gammas, loss = jnp.array([1.0, 0.01]), dynamics.sharpened()
        >>> round(float(dynamics.speedup(gammas, 0.01, 1e-3, landscape=loss)), 1)
        14.5
    """
    steps = [
        step_time(eigenvalue, initial_singular_value, landscape=each)
        / max_learning_rate(eigenvalues, landscape=each, overshoot=overshoot)
        for each in (PLAIN, landscape)
    ]
    return steps[0] / steps[1]
