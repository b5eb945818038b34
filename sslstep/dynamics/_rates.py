r"""The largest learning rate of gradient descent on a landscape, and the number of steps."""

from collections.abc import Callable

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike
from jaxtyping import Array, Float, Real

from sslstep import _check
from sslstep.dynamics._landscapes import Landscape, Plain, Preconditioned, jit_of_landscape
from sslstep.dynamics._mode import PLAIN, bisect, step_time, with_derivative


def max_learning_rate(
    eigenvalues: Real[ArrayLike, " k"],
    *,
    landscape: Landscape = PLAIN,
    overshoot: Real[ArrayLike, ""] | None = None,
) -> Float[Array, ""]:
    r"""The largest learning rate at which gradient descent from a small start converges.

    For :func:`plain` the mode equation of gradient descent,
    :math:`s \leftarrow s + 4\eta(1 - \gamma s^2)\gamma s`, has slope :math:`1 - 8\eta\gamma` around
    the top spectral solution, and the off-diagonal pairs (j, k) have
    :math:`1 - 4\eta(\gamma_j + \gamma_k)`; a direction with γ < 0 has :math:`1 - 4\eta|\gamma|`
    around zero. All lie within the unit circle if and only if

    .. math:: \eta < \min\left(\frac{1}{4 \gamma_{\max}}, \frac{1}{2 |\gamma_{\min}|}\right),

    where the second applies only if :math:`\gamma_{\min} < 0`. Above the first bound the top
    spectral solution is unstable, and descent can at best end in another solution. Above the
    second, directions with γ < 0 grow instead of decaying, until the embedding is full. (The
    paper's :math:`\eta = 1/4` of G.3 is the case γ = 1.)

    On another landscape modes are treated one at a time. A step maps λ to
    :math:`F(\lambda) = \lambda (1 + 2 \eta \gamma f(\lambda))^2`, and η must satisfy three
    conditions,

    .. math:: \eta\, \gamma_{\max} < \frac{1 / h_- + 1 / h_+}{4\, \lambda_*}, \qquad
        F(F(\lambda)) < \lambda \; (\lambda_* < \lambda \le \lambda_{\mathrm{high}}), \qquad
        \eta\, |\gamma_{\min}|\, f(0) < 1

    - The minimum :math:`\lambda_*` is stable. :math:`h_\mp = -f'(\lambda_*^\mp)` is its curvature
      below and above; a step may cross the minimum, but two steps must not lead away from it. If
      the curvature of one side is zero, the condition always holds.
    - There is no 2-cycle, and then descent converges from every start (Coppel 1955).
      :math:`\lambda_{\mathrm{high}}`, a function of ηγ, is the largest λ that one step reaches from
      below the minimum. For λ between :math:`\lambda_*` and :math:`\lambda_{\mathrm{high}}` two
      steps must decrease λ, unless λ is a fixed point. With ``overshoot``,
      :math:`\lambda_{\mathrm{high}}` must not exceed 1 + overshoot.
    - Directions with γ < 0 decay.

    If the second condition fails, descent does not converge from some starts, and the set of these
    starts changes with the rate: :func:`fourth_power` at 0.4394 / γ has a 2-cycle of λ = 1.57 and
    0.20 that attracts 8% of the starts. Warm-up of the learning rate avoids such cycles.
    :func:`fourth_power` has no curvature at its minimum, so the second condition sets its limit.
    :func:`smoothed` without leak is limited by the third condition alone; give it an ``overshoot``.

    On a :func:`preconditioned` landscape the first mode descends the original landscape. The second
    condition is applied to the second mode, whose gain lets it overshoot the minimum. While the
    second mode is above 1, it is the largest, and the gain of the first mode is up to
    :math:`(\lambda_{\mathrm{high}} + \alpha) / (1 + \alpha)`. This factor times
    :math:`\eta \gamma_1` must stay below the first mode's limit. For small α and :func:`plain` the
    latter is the tighter condition, with the limit
    :math:`\eta \gamma_2 = (\alpha \gamma_2 / 16 \gamma_1)^{1/3}`. The result assumes that α is
    relative, or that α is absolute and a mode is learned, and that both views of a sample have the
    same embedding.

    Args:
        eigenvalues: eigenvalues γ of Γ, in any order, shape ``(k,)``.
        landscape: the landscape of all modes.
        overshoot: largest excess above 1 of an eigenvalue of C, > 0; traced. None: no limit.

    Returns:
        The limit of η, a scalar; ``inf`` if there is none.

    Raises:
        ValueError: if shapes do not fit, values are not finite, or an argument is out of range.

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
    start = landscape.force(jnp.zeros_like(gamma[0]))
    bounds = [
        _over(_largest(first, most, gamma.dtype), gamma[0]),
        _over(jnp.ones((), gamma.dtype), jnp.maximum(-gamma[-1] * start, -gamma[0] * start)),
    ]
    if isinstance(landscape, Preconditioned) and gamma.shape[0] > 1:
        bounds.append(_of_second(landscape, most, gamma))
    return jnp.min(jnp.stack(bounds))


def _over(limit: Array, value: Array) -> Array:
    """Return limit / value, or infinity where the value is not positive."""
    return jnp.where(value > 0, limit / jnp.where(value > 0, value, 1), jnp.inf)


def _largest(landscape: Landscape, most: Array | None, dtype: jnp.dtype) -> Array:
    """Return the largest ηγ of one mode, with λ limited to `most`."""
    if isinstance(landscape, Plain) and most is None:
        growth = jnp.asarray(landscape.growth, dtype)
        return _over(jnp.asarray(0.25, dtype), growth)
    return _on_grids(landscape, jnp.asarray(jnp.inf, dtype) if most is None else most)


@jit_of_landscape
def _on_grids(landscape: Landscape, most: Array) -> Array:
    rest = jnp.asarray(landscape.rest, most.dtype)
    beside = 4 * jnp.finfo(rest.dtype).eps
    curvature = jax.grad(lambda x: -landscape.force(x))
    below, above = (curvature(rest * (1 + e)) for e in (-beside, beside))
    # Flat on one side: no slope at rest is too steep. (An infinite bound would make gradients NaN.)
    steep = (below > 0) & (above > 0)
    ease = 1 / jnp.where(steep, below, 1) + 1 / jnp.where(steep, above, 1)
    bound = jnp.where(steep, ease / (4 * rest), jnp.inf)
    return jnp.minimum(bound, _resting_rate(landscape.force, rest, lambda _: most))


@jit_of_landscape
def _of_second(landscape: Preconditioned, most: Array | None, gamma: Array) -> Array:
    """Return the largest η at which the second mode converges without destabilising the first."""
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
    r"""Return the largest x = ηγ at which descent from every start below `rest` converges.

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

    def margin(log_x: Array) -> Array:
        """Smallest amount by which a condition holds."""
        x = jnp.exp(log_x)
        highest = jnp.max(advance(x, inside))
        above = rest + (highest - rest) * places
        once = advance(x, above)
        falls = above - jnp.maximum(once, advance(x, once))
        # Within 1% of `rest` rounding may exceed the change of two steps.
        fine = (above <= 1.01 * rest) | (once == above)
        smallest = jnp.min(jnp.where(fine, jnp.inf, falls))
        most = ceiling(x)
        limited = jnp.isfinite(most)
        below = jnp.where(limited, jnp.where(limited, most, 0) - highest, jnp.inf)
        # At a margin of 0 the first condition fails, and the second one holds.
        below += jnp.where(below == 0, jnp.finfo(x.dtype).tiny, 0)
        return jnp.minimum(smallest, below)

    limit = 12 * jnp.log(jnp.asarray(10, rest.dtype))
    low, _ = bisect(lambda log_x: margin(log_x) > 0, -limit, limit)
    unlimited = margin(limit) > 0
    root = with_derivative(jnp.where(unlimited, 0, low), margin)
    return jnp.where(unlimited, jnp.inf, jnp.exp(root))


def speedup(
    eigenvalues: Real[ArrayLike, " k"],
    eigenvalue: Real[ArrayLike, "..."],
    initial_singular_value: Real[ArrayLike, "..."],
    *,
    landscape: Landscape,
    overshoot: Real[ArrayLike, ""] | None = None,
) -> Float[Array, "..."]:
    r"""Number of steps to learn a mode on :func:`plain`, divided by that on another landscape.

    .. math:: \frac{t_{\mathrm{plain}}}{t}\, \frac{\eta_{\max}}{\eta_{\max, \mathrm{plain}}}

    with t from :func:`step_time` and :math:`\eta_{\max}` from :func:`max_learning_rate`, so each
    landscape has its largest learning rate. Gradient descent is approximated by gradient flow,
    which is accurate for modes with γ far below the largest.

    Args:
        eigenvalues: all eigenvalues of Γ that limit the learning rate, shape ``(k,)``.
        eigenvalue: γ of the mode; broadcasts with ``initial_singular_value``.
        initial_singular_value: s(0) of the mode.
        landscape: the landscape to compare with :func:`plain`.
        overshoot: largest excess above 1 of an eigenvalue of C, for both landscapes; None: no
            limit. See :func:`max_learning_rate`.

    Returns:
        The ratio, in the broadcast shape; NaN for a mode whose step times are both 0 or both
        ``inf``.

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
