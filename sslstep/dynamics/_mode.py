r"""The trajectory of one mode of a linear model, and the time at which it is learned."""

from collections.abc import Callable, Sequence

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike
from jaxtyping import Array, Float, Real

from sslstep import _check
from sslstep.dynamics import _closed
from sslstep.dynamics._landscapes import Landscape, Plain, integral, jit_of_landscape

PLAIN = Plain()


def singular_value(
    t: Real[ArrayLike, "..."],
    eigenvalue: Real[ArrayLike, "..."],
    initial_singular_value: Real[ArrayLike, "..."],
    *,
    landscape: Landscape = PLAIN,
    learning_rate: Real[ArrayLike, "..."] = 0.0,
) -> Float[Array, "..."]:
    r"""Singular value :math:`s_j(t)` of an aligned model (Proposition 4.1, Eq. 10).

    .. math:: s_j(t) = \frac{e^{4\gamma_j t}}{\sqrt{s_j^{-2}(0) + (e^{8\gamma_j t} - 1)\gamma_j}},
        \qquad s_j' = 4 (1 - \gamma_j s_j^2) \gamma_j s_j \quad (\text{Eq. 12})

    As t → ∞ (Eq. 13, ``t=jnp.inf``) :math:`s_j` tends to :math:`\gamma_j^{-1/2}` if
    :math:`\gamma_j > 0`, is constant if :math:`\gamma_j = 0`, and tends to 0 if
    :math:`\gamma_j < 0`. On another landscape, with force f (Eq. 51 with its sign corrected),

    .. math:: s_j' = -\frac{d\mathcal{L}}{ds_j} = 2 \gamma_j s_j\, f(\gamma_j s_j^2) .

    The rescaled :math:`\bar s_j = \gamma_j^{1/2} s_j` of Appendix F is the singular value of a mode
    with eigenvalue 1 at the time :math:`\gamma_j t`.

    The quartic family (:func:`plain` and :func:`quartic_family`) has closed-form curves, computed
    in logarithms. Values are finite and accurate for all t ≥ 0, in float32 too, even if
    :math:`\gamma s^2(0)` underflows. Gradients are finite, because they are clipped to the range of
    the dtype. On other landscapes γ t as a function of λ, a closed form or a quadrature, is
    inverted by bisection and one Newton step. Derivatives go through the Newton step.

    Args:
        t: effective time ≥ 0, learning rate × step; any shape. All arguments broadcast.
        eigenvalue: γ; of any sign in the quartic family, otherwise ≥ 0.
        initial_singular_value: s(0), of either sign; s(t) keeps the sign. Outside the quartic
            family :math:`\gamma s^2(0)` must not exceed ``landscape.rest``.
        landscape: the mode's landscape.
        learning_rate: 0 for gradient flow, or the learning rate η of gradient descent (quartic
            family only). Small modes then grow at the rate of :func:`effective_eigenvalue`, and the
            rise is earlier by up to :math:`\tfrac34 \eta \log 2` than this rate alone predicts
            (docs/errata.md).

    Returns:
        s(t), in the broadcast shape; NaN where a time is negative, or an argument is out of range.

    Raises:
        ValueError: if a time is negative, or ``learning_rate`` is given outside the quartic family.
            JAX arrays of times are not checked.

    Example:
        >>> import jax.numpy as jnp
        >>> from sslstep import dynamics
        >>> dynamics.singular_value(jnp.inf, jnp.array([4.0, 0.0, -1.0]), 0.125)
        Array([0.5  , 0.125, 0.   ], dtype=float32)
        >>> sharp = dynamics.sharpened(1e-10)
        >>> print(f"{dynamics.singular_value(1.0, 1.0, 1e-4, landscape=sharp):.3f}")  # 1 - e^-2
        0.865
    """
    _check.require_within_on_host("t", t, at_least=0.0)
    _require_flow(landscape, learning_rate)
    return _singular_value(
        landscape, *_check.as_floats(t, eigenvalue, initial_singular_value, learning_rate)
    )


@jit_of_landscape
def _singular_value(landscape: Landscape, *mode: Array) -> Array:
    t, gamma, initial, eta, *family = _broadcast(landscape, *mode)
    if not isinstance(landscape, Plain):
        return _descended(landscape, t, gamma, initial)[0]
    t, p, q, gamma, at_once = _closed.of_mode(t, gamma, initial, eta, *family)
    value = _closed.solution(t, p, *q, initial)
    return jnp.where(at_once & (gamma > 0) & (t > 0), 0, value)


def mode_eigenvalue(
    t: Real[ArrayLike, "..."],
    eigenvalue: Real[ArrayLike, "..."],
    initial_singular_value: Real[ArrayLike, "..."],
    *,
    landscape: Landscape = PLAIN,
    learning_rate: Real[ArrayLike, "..."] = 0.0,
) -> Float[Array, "..."]:
    r"""Eigenvalue :math:`\lambda_j(t) = \gamma_j s_j^2(t)` of C: a logistic curve for γ > 0.

    .. math:: \lambda_j(t) = \mathrm{sigmoid}(8\gamma_j t + \mathrm{logit}\,\lambda_j(0))

    These are the curves of Figure 1(B). The formula is for :func:`plain`; on any landscape
    :math:`s_j(t)` is that of :func:`singular_value`.

    Args:
        t: effective time ≥ 0; any shape. All arguments broadcast.
        eigenvalue: γ; of any sign in the quartic family, otherwise ≥ 0.
        initial_singular_value: s(0), of either sign.
        landscape: the mode's landscape.
        learning_rate: 0 for gradient flow, or the learning rate of gradient descent (quartic family
            only): see :func:`singular_value`.

    Returns:
        λ(t), in the broadcast shape; NaN where a time is negative, or an argument is out of range.

    Raises:
        ValueError: under the conditions of :func:`singular_value`.

    Example:
        >>> from sslstep import dynamics
        >>> tau = dynamics.step_time(2.0, 1e-7)
        >>> print(f"{dynamics.mode_eigenvalue(tau, 2.0, 1e-7):.3f}")
        0.500
    """
    _check.require_within_on_host("t", t, at_least=0.0)
    _require_flow(landscape, learning_rate)
    return _mode_eigenvalue(
        landscape, *_check.as_floats(t, eigenvalue, initial_singular_value, learning_rate)
    )


@jit_of_landscape
def _mode_eigenvalue(landscape: Landscape, *mode: Array) -> Array:
    t, gamma, initial, eta, *family = _broadcast(landscape, *mode)
    if not isinstance(landscape, Plain):
        return _descended(landscape, t, gamma, initial)[1]
    t, p, q, gamma, infinite = _closed.of_mode(t, gamma, initial, eta, *family)
    if type(landscape) is Plain:
        value = _closed.eigenvalue(t, gamma, initial)
    else:
        s = _closed.solution(t, p, *q, initial)
        value = (gamma * s) * s
    return jnp.where(infinite & (t == 0) & (initial != 0), jnp.sign(gamma) * jnp.inf, value)


def step_time(
    eigenvalue: Real[ArrayLike, "..."],
    initial_singular_value: Real[ArrayLike, "..."],
    *,
    level: Real[ArrayLike, "..."] = 0.5,
    landscape: Landscape = PLAIN,
    learning_rate: Real[ArrayLike, "..."] = 0.0,
) -> Float[Array, "..."]:
    r"""Effective time at which a mode is learned: its λ first reaches ``level``, by default 1/2.

    .. math:: t = \frac{1}{4 \gamma} \int_{\gamma s^2(0)}^{\mathrm{level}}
        \frac{d\lambda}{\lambda f(\lambda)}, \qquad \text{for plain descent } \;
        \frac{-\mathrm{logit}(\gamma s^2(0))}{8 \gamma} \; \text{ at one half}

    The time is exact; Eq. 16, :func:`critical_time`, differs by :math:`O(\lambda(0) / \gamma)`.

    Args:
        eigenvalue: γ, of any sign. All arguments broadcast.
        initial_singular_value: s(0), of either sign.
        level: the value of λ to reach. At ``landscape.rest`` and above, the time is infinite.
        landscape: the mode's landscape.
        learning_rate: 0 for gradient flow, or the learning rate of gradient descent (quartic family
            only). The mode then grows at the rate of :func:`effective_eigenvalue`, and the time is
            earlier by up to half a step than this rate alone predicts.

    Returns:
        The time, in the broadcast shape. It is ``inf`` for a mode that is never learned (γ ≤ 0 or
        s(0) = 0), and 0 for a mode that starts at or above the level.

    Raises:
        ValueError: if ``learning_rate`` is given with a landscape outside the quartic family.

    Example:
        >>> from sslstep import dynamics
        >>> times = dynamics.step_time(1.0, 0.1), dynamics.critical_time(1.0, 0.1)
        >>> print(*(f"{t:.4f}" for t in times))
        0.5744 0.5756
    """
    _require_flow(landscape, learning_rate)
    return _step_time(
        landscape, *_check.as_floats(eigenvalue, initial_singular_value, level, learning_rate)
    )


@jit_of_landscape
def _step_time(landscape: Landscape, *numbers: Array) -> Array:
    gamma, initial, level, eta, *family = _broadcast(landscape, *numbers)
    rest = _rest(landscape, gamma)
    log_start, log_level = _log_eigenvalue(gamma, initial), _closed.log_abs(level)
    # With weight decay a small mode may fall, even where the landscape has no level of rest.
    falls = landscape.force(jnp.exp(log_start)) < 0
    past = (level <= 0) | (log_start >= log_level)
    moves = (initial != 0) & (gamma > 0) & (level < rest) & (past | ~falls)
    rises = moves & ~past
    gamma, eta = _closed.capped(jnp.where(rises, gamma, 1)), jnp.where(rises, eta, 0)
    log_rest = jnp.log(_closed.capped(jnp.where(rises, rest, 1)))
    begin = _logit(jnp.where(rises, log_start - log_rest, -2))
    end = _logit(jnp.where(rises, log_level - log_rest, -1))
    if isinstance(landscape, Plain):
        time = _descent_time(gamma * jnp.where(rises, family[0], 1), begin, end, eta)
    else:
        time = _elapsed(landscape, begin, end) / gamma
    time = jnp.where(past, 0, jnp.maximum(time, 0))
    never = jnp.where(jnp.isnan(log_start + initial + level), jnp.nan, jnp.inf)
    return jnp.where(moves, time, never)


def critical_time(
    eigenvalue: Real[ArrayLike, "..."],
    initial_singular_value: Real[ArrayLike, "..."],
    *,
    level: Real[ArrayLike, "..."] = 1.0,
    learning_rate: Real[ArrayLike, "..."] = 0.0,
) -> Float[Array, "..."]:
    r"""Effective time at which a mode is learned from a small initialisation (Eq. 16).

    .. math:: \tau_j = \frac{-\log(s_j^2(0) \gamma_j)}{8 \gamma_j}

    At this time exponential growth without saturation would reach λ = 1, and
    :math:`\lambda_j(\tau_j) = \tfrac12` up to :math:`O(\lambda_j(0))`; :func:`step_time` is exact.
    With a smaller ``level`` :math:`\epsilon^2` it is the time to escape from a ball of radius ε
    around the origin (footnote 23, which prints an additional minus sign):

    .. math:: \tau_j^{(\epsilon)} = \frac{\log(\epsilon / |\bar s_j(0)|)}{4 \gamma_j}, \qquad
        \bar s_j^2 = \lambda_j

    Args:
        eigenvalue: γ, of any sign. All arguments broadcast.
        initial_singular_value: s(0), of either sign.
        level: the value of λ > 0 that exponential growth reaches at τ.
        learning_rate: 0 for gradient flow, or the learning rate of gradient descent. The latter
            replaces the γ of the denominator by :func:`effective_eigenvalue`, but not that of the
            logarithm, and makes the time earlier by up to half a step.

    Returns:
        τ, in the broadcast shape. It is ``inf`` for a mode with γ ≤ 0 or s(0) = 0, and 0 for a mode
        that starts at or above the level, or at λ ≥ 1/2, where Eq. 16 does not apply.

    Raises:
        ValueError: if ``level`` is a number or NumPy array that is not positive throughout.

    Example:
        >>> from sslstep import dynamics
        >>> print(f"{dynamics.critical_time(1.0, 1e-7):.4f}")
        4.0295
    """
    _check.require_within_on_host("level", level, above=0.0)
    return _critical_time(
        *_check.as_floats(eigenvalue, initial_singular_value, level, learning_rate)
    )


@jax.jit
def _critical_time(*numbers: Array) -> Array:
    gamma, initial, level, eta = jnp.broadcast_arrays(*numbers)
    log_start = _log_eigenvalue(gamma, initial)
    learned = (gamma > 0) & (initial != 0)
    ahead = learned & (log_start < jnp.log(jnp.minimum(level, 0.5)))
    gamma, eta = _closed.capped(jnp.where(ahead, gamma, 1)), jnp.where(ahead, eta, 0)
    begin = jnp.where(ahead, log_start, -1)
    time = _descent_time(gamma, begin, jnp.log(jnp.where(ahead, level, 1)), eta, small=True)
    time = jnp.where(ahead, jnp.maximum(time, 0), 0)
    time = jnp.where(learned, time, jnp.inf)
    return jnp.where(jnp.isnan(log_start + initial) | ~(level > 0), jnp.nan, time)


def effective_eigenvalue(
    eigenvalue: Real[ArrayLike, "..."], learning_rate: Real[ArrayLike, "..."]
) -> Float[Array, "..."]:
    r"""Effective eigenvalue: the growth rate of a small mode under gradient descent.

    .. math:: \gamma^{\mathrm{eff}} = \frac{\log(1 + 4 \eta \gamma)}{4 \eta}

    A step of gradient descent multiplies a small mode by :math:`1 + 4\eta\gamma`, where gradient
    flow multiplies it by :math:`e^{4\eta\gamma}` in the same time η. With
    :math:`\gamma^{\mathrm{eff}}` in the exponents of Eqs. 10 and 16 (not in the final value
    :math:`\gamma^{-1/2}`) the predictions hold at finite learning rate. The fastest mode of the
    paper's linear run is learned 2 to 3% later than Eq. 16 predicts with γ, and less than 1% later
    with :math:`\gamma^{\mathrm{eff}}`.

    Args:
        eigenvalue: γ, of any sign. All arguments broadcast.
        learning_rate: η ≥ 0; 0 gives γ.

    Returns:
        :math:`\gamma^{\mathrm{eff}}`, in the broadcast shape.

    Example:
        >>> from sslstep import dynamics
        >>> print(f"{dynamics.effective_eigenvalue(282.0, 5e-5):.1f}")
        274.3
    """
    gamma, eta = jnp.broadcast_arrays(*_check.as_floats(eigenvalue, learning_rate))
    return gamma * _closed.slowdown(gamma, eta)


def settling_time(
    eigenvalue: Real[ArrayLike, "..."], *, landscape: Landscape = PLAIN
) -> Float[Array, "..."]:
    r"""Time constant :math:`\tau'` of a mode's final approach to the minimum of its landscape.

    .. math:: \tau' = \frac{1}{4 \gamma\, \lambda_*\, |f'(\lambda_*)|}, \qquad
        |s - s(\infty)| \propto e^{-t / \tau'}

    with :math:`\lambda_*` = ``landscape.rest`` and f the force. For :func:`plain` it is 1/8γ.
    (Appendix F prints 1/4γ.)

    Args:
        eigenvalue: γ, of any sign and shape.
        landscape: the mode's landscape; f' is taken from below the minimum.

    Returns:
        τ', effective time in the shape of ``eigenvalue``; ``inf`` where γ ≤ 0, f' is zero or
        the landscape has no level of rest.

    Example:
        >>> from sslstep import dynamics
        >>> float(dynamics.settling_time(0.5))
        0.25
    """
    (gamma,) = _check.as_floats(eigenvalue)
    rest = _rest(landscape, gamma)
    rests = jnp.isfinite(rest)
    rest = jnp.where(rests, rest, 1)
    below = rest * (1 - 4 * jnp.finfo(gamma.dtype).eps)
    _, slope = jax.jvp(landscape.force, (below,), (jnp.ones_like(below),))
    rate = jnp.where(rests, -4 * gamma * rest * slope, 0)
    rate = jnp.where(rate <= jnp.finfo(gamma.dtype).eps * gamma, 0, rate)
    return jnp.where(rate == 0, jnp.inf, 1 / jnp.where(rate == 0, 1, rate))


def supervised_trajectory(
    t: Real[ArrayLike, "..."],
    eigenvalue: Real[ArrayLike, "..."],
    initial_coefficient: Real[ArrayLike, "..."],
    target: Real[ArrayLike, "..."] = 1.0,
) -> Float[Array, "..."]:
    r"""A mode's coefficient in supervised kernel learning: it grows at once (Figure 8B and D).

    .. math:: \mathcal{L}_j = (\bar c^* - \bar c)^2, \qquad
        \bar c' = -\gamma \frac{d\mathcal{L}}{d\bar c} = 2\gamma (\bar c^* - \bar c),
        \qquad \bar c(t) = \bar c_0 + (\bar c^* - \bar c_0) (1 - e^{-2\gamma t})

    with the rescaled coefficient :math:`\bar c = \gamma_j c_j` (Appendix F).

    Args:
        t: effective time ≥ 0; any shape. All arguments broadcast.
        eigenvalue: γ ≥ 0.
        initial_coefficient: :math:`\bar c(0)`.
        target: :math:`\bar c^*`.

    Returns:
        :math:`\bar c(t)`, in the broadcast shape; NaN where a time is negative.

    Raises:
        ValueError: if t is a number or NumPy array with a negative time.

    Example:
        >>> from sslstep import dynamics
        >>> round(float(dynamics.supervised_trajectory(0.5, 1.0, 0.0)), 3)
        0.632
    """
    _check.require_within_on_host("t", t, at_least=0.0)
    t, rate, initial, target = jnp.broadcast_arrays(
        *_check.as_floats(t, eigenvalue, initial_coefficient, target)
    )
    end = jnp.isinf(t)  # here 2γt and its derivatives may be 0 times infinity
    elapsed = 2 * rate * jnp.where(end, 0, t)
    c = initial - (target - initial) * jnp.expm1(-elapsed)
    return jnp.where(t < 0, jnp.nan, jnp.where(end & (rate > 0), target, c))


def _require_flow(landscape: Landscape, learning_rate: ArrayLike) -> None:
    flow = isinstance(learning_rate, int | float) and learning_rate == 0
    if not flow and not isinstance(landscape, Plain):
        raise ValueError(
            "learning_rate must be 0 on landscapes other than plain() and quartic_family(): only "
            "their gradient flow is implemented."
        )


def _broadcast(landscape: Landscape, *numbers: Array) -> Sequence[Array]:
    """Broadcast the numbers, and in the quartic family append growth and saturation."""
    family = (landscape.growth, landscape.saturation) if isinstance(landscape, Plain) else ()
    parts = [jnp.asarray(part, numbers[0].dtype) for part in family]
    return jnp.broadcast_arrays(*numbers, *parts)


def _rest(landscape: Landscape, like: Array) -> Array:
    return jnp.broadcast_to(jnp.asarray(landscape.rest, like.dtype), like.shape)


def _log_eigenvalue(gamma: Array, singular_value: Array) -> Array:
    """Return log λ of a mode; λ itself may underflow or overflow."""
    return _closed.log_abs(gamma) + 2 * _closed.log_abs(singular_value)


def _logit(log_ratio: Array) -> Array:
    return log_ratio - jnp.log1p(-jnp.exp(log_ratio))


def _descent_time(
    gamma: Array, begin: Array, end: Array, eta: Array, *, small: bool = False
) -> Array:
    """Return the time in which plain descent takes logit λ from `begin` to `end`.

    With `small`, `begin` and `end` are values of log λ, and saturation is neglected at `begin`.
    """
    # Under gradient flow v = logit λ grows linearly in time; under gradient descent
    # v + x log(1 + e^v) does, with x = 6 η γ. Newton's method converges to rounding, because this
    # function is convex.
    x = 6 * eta * gamma
    end = end + x * (0 if small else jax.nn.softplus(begin))
    root = end - x * jax.nn.softplus(end) / (1 + x * jax.nn.sigmoid(end))
    for _ in range(6):
        root = root - (root + x * jax.nn.softplus(root) - end) / (1 + x * jax.nn.sigmoid(root))
    return (root - begin) / (8 * gamma * _closed.slowdown(gamma, eta))


def _descended(landscape: Landscape, t: Array, gamma: Array, initial: Array) -> tuple[Array, ...]:
    """Return s(t) and λ(t): solve γ t = `_elapsed(...)` for v = logit(λ / rest)."""
    rest, moves = _rest(landscape, t), (initial != 0) & (gamma > 0)
    log_ratio = _log_eigenvalue(gamma, initial) - jnp.log(rest)
    eps = jnp.finfo(t.dtype).eps
    beyond = moves & (log_ratio > 8 * eps)
    begin = _logit(jnp.minimum(jnp.where(moves, log_ratio, -1), -eps))
    wanted = jnp.where((gamma == 0) & jnp.isinf(t), 0, t) * gamma

    # At v beyond this end λ equals `rest`, up to rounding.
    end = jnp.full_like(begin, 2 - jnp.log(eps))
    fixed = jax.lax.stop_gradient((begin, jnp.maximum(begin, end)))
    v, _ = jax.lax.stop_gradient(bisect(lambda v: _elapsed(landscape, begin, v) < wanted, *fixed))
    value, speed = jax.jvp(lambda v: _elapsed(landscape, begin, v), (v,), (jnp.ones_like(v),))
    ended = v >= end * (1 - 1e-3)
    step = (wanted - value) / jax.lax.stop_gradient(jnp.where(ended, 1, speed))
    v = jnp.where(moves, v + jnp.where(ended, 0, step), begin)
    # s(t) / s(0) in four factors: the ratio itself may overflow where s(0) is small.
    grown = jnp.exp((jax.nn.log_sigmoid(v) - jax.nn.log_sigmoid(begin)) / 8)
    valid = ~beyond & (t >= 0) & (gamma >= 0)
    s = jnp.where(valid, initial * grown * grown * grown * grown, jnp.nan)
    return s, jnp.where(moves & valid, rest * jax.nn.sigmoid(v), 0 * s)


def _elapsed(landscape: Landscape, begin: Array, end: Array) -> Array:
    """Return γ t between v = `begin` and v = `end`, with λ = rest × sigmoid(v)."""
    rest = _rest(landscape, begin)
    # At v ≥ floor λ and λ / rest are normal numbers. At v < floor v grows at the rate 4 γ f, where
    # f is proportional to a power of λ, the power 0 if a mode grows exponentially from the start.
    tiny = jnp.finfo(rest.dtype).tiny
    floor = jnp.log(tiny) + 3 - jnp.log(jnp.minimum(rest, 1))
    forces = (landscape.force(rest * jax.nn.sigmoid(floor + ahead)) for ahead in (0, 8))
    here, later = (jnp.where(force == 0, tiny, force) for force in forces)
    early = jnp.minimum(end, floor) - jnp.minimum(begin, floor)
    power = jnp.log(later / here) / 8
    x = power * early
    straight = jnp.abs(x) < jnp.finfo(x.dtype).eps
    mean = jnp.where(straight, 1 + x / 2, jnp.expm1(x) / jnp.where(straight, 1, x))
    early = early * mean * jnp.exp(power * (floor - jnp.minimum(end, floor))) / (4 * here)
    begin, end = jnp.maximum(begin, floor), jnp.maximum(end, floor)
    since, until = (landscape.time(rest * jax.nn.sigmoid(v)) for v in (begin, end))
    if since is not None and until is not None:
        return early + (until - since)
    rest = rest[None]

    def slowness(v: Array) -> Array:
        # dλ = λ (1 - λ / rest) dv; this factor cancels the zero of the force at `rest`. Near `rest`
        # rounding may give a force of -0, and a time of minus infinity.
        force = landscape.force(rest * jax.nn.sigmoid(v))
        return jax.nn.sigmoid(-v) / (4 * jnp.where(force > 0, force, 0))

    return early + integral(slowness, begin, end)


def bisect(holds: Callable[[Array], Array], low: Array, high: Array) -> tuple[Array, Array]:
    """Bisects 60 times, elementwise; returns brackets whose lower ends satisfy `holds`."""

    def halve(_, ends):
        low, high = ends
        middle = (low + high) / 2
        good = holds(middle)
        return jnp.where(good, middle, low), jnp.where(good, high, middle)

    return jax.lax.fori_loop(0, 60, halve, (low, high))


def with_derivative(root: Array, residual: Callable[[Array], Array]) -> Array:
    """Return the root of `residual`, elementwise, with its derivative: bisection has none.

    By the implicit function theorem it is minus the derivative of the residual by its parameters,
    divided by that by the root. Where the residual jumps, the root is constant.
    """
    at = jax.lax.stop_gradient(root)
    value, slope = jax.jvp(residual, (at,), (jnp.ones_like(at),))
    slope = jax.lax.stop_gradient(slope)
    smooth = jnp.isfinite(value) & jnp.isfinite(slope) & (slope != 0)
    value = jnp.where(smooth, value, 0)
    return at - (value - jax.lax.stop_gradient(value)) / jnp.where(smooth, slope, 1)
