r"""The linear model under preconditioned gradients (Eq. 52): its mode equation, and the gain."""

import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import ArrayLike
from jaxtyping import Array, Float, Real

from sslstep import _check, _spectral
from sslstep._bisection import bisect
from sslstep.linear._dynamics import half_rise_time, max_learning_rate

__all__ = [
    "preconditioned_eigenvalues",
    "preconditioned_half_rise_time",
    "preconditioned_max_learning_rate",
    "preconditioning_speedup",
]


def preconditioned_eigenvalues(
    t: Real[ArrayLike, " T"],
    eigenvalues: Real[ArrayLike, " d"],
    initial: Real[ArrayLike, " d"],
    alpha: Real[ArrayLike, ""] = 0.1,
    *,
    relative: bool = True,
    variances: Real[ArrayLike, " d"] | None = None,
    max_steps: int = 100_000,
) -> Float[Array, "T d"]:
    r"""Eigenvalues :math:`\lambda_j(t)` of C under preconditioned gradients (Eq. 52).

    With an aligned start, and a second moment Σ of the features that has Γ's eigenvectors, the
    embeddings' second moment stays diagonal, :math:`\sigma_j = (v_j^\top \Sigma v_j)\, s_j^2`, and

    .. math:: s_j' = 4 (1 - \gamma_j s_j^2)\, \gamma_j s_j\,
        \frac{\sigma_{\max} + \alpha}{\sigma_j + \alpha}, \qquad
        \frac{d}{dt} \mathrm{logit}\, \lambda_j
        = 8 \gamma_j \frac{\sigma_{\max} + \alpha}{\sigma_j + \alpha},

    with :math:`\alpha \sigma_{\max}` for α if it is relative. It is integrated in the second form,
    by diffrax's Tsit5. The largest mode goes its own way (Eq. 10), and the others gain from it.

    Args:
        t: effective times ≥ 0, increasing, shape ``(T,)``.
        eigenvalues: γ_j > 0, shape ``(d,)``.
        initial: s_j(0), not zero, each with :math:`\gamma_j s_j^2(0) < 1`, shape ``(d,)``.
        alpha: α > 0 of :func:`sslstep.optim.precondition`; traced.
        relative: the same.
        variances: :math:`v_j^\top \Sigma v_j \ge \gamma_j`, shape ``(d,)``. None: γ_j, as where
            both views of a sample have one embedding.
        max_steps: of the integration.

    Returns:
        λ_j(t), shape ``(T, d)``.

    Raises:
        ValueError: if shapes do not fit, or an argument is not as said.
        RuntimeError: from diffrax, when ``max_steps`` do not suffice.

    Example:
        >>> import jax.numpy as jnp
        >>> from sslstep import linear
        >>> gammas, t = jnp.array([1.0, 0.01]), jnp.array([0.0, 30.0])
        >>> learned = linear.preconditioned_eigenvalues(t, gammas, 1e-3 * jnp.ones(2))[-1]
        >>> [round(float(x), 2) for x in learned]
        [1.0, 0.54]
        >>> [round(float(x), 2) for x in linear.mode_eigenvalue(30.0, gammas, 1e-3)]
        [1.0, 0.0]
    """
    import diffrax  # here, so that theory alone needs only JAX

    t, gamma, start, alpha = _arguments(t, eigenvalues, initial, alpha)
    if t.size == 0:
        raise ValueError("t must hold at least one time, got shape (0,).")
    _check.require_at_least("t", t, 0.0)
    _check.require_increasing("t", t, strict=False)
    ratios = jnp.ones_like(gamma)
    if variances is not None:
        if _check.shape_of(variances) != gamma.shape:
            raise ValueError(
                f"variances must have the shape of eigenvalues, {gamma.shape}, got "
                f"{_check.shape_of(variances)}."
            )
        ratios = jnp.asarray(variances, gamma.dtype) / gamma
        if _check.is_concrete(ratios) and not bool((ratios >= 1 - 1e-6).all()):  # but for rounding
            raise ValueError(
                f"variances must be at least eigenvalues, got {np.asarray(variances)} and "
                f"{np.asarray(gamma)}."
            )
    tolerance = 1e2 * float(jnp.finfo(t.dtype).eps)
    solution = diffrax.diffeqsolve(
        diffrax.ODETerm(_relative_field if relative else _absolute_field),
        diffrax.Tsit5(),
        t0=jnp.zeros((), t.dtype),
        t1=jnp.maximum(t[-1], jnp.finfo(t.dtype).tiny),
        dt0=None,
        y0=_logit_of_start(gamma, start),
        args=(gamma, alpha, ratios),
        saveat=diffrax.SaveAt(ts=t),
        stepsize_controller=diffrax.PIDController(rtol=tolerance, atol=tolerance),
        max_steps=max_steps,
    )
    return jax.nn.sigmoid(solution.ys)


def _log_variances(v, ratios):
    """In logarithms: small modes' ratios do not underflow."""
    log_sigma = jnp.log(ratios) + jax.nn.log_sigmoid(v)
    return log_sigma, jnp.max(log_sigma)


# Functions of the module, not of a call, so that their compilation is kept.
def _relative_field(t, v, args):
    gamma, alpha, ratios = args
    log_sigma, largest = _log_variances(v, ratios)
    return 8 * gamma * (1 + alpha) / (jnp.exp(log_sigma - largest) + alpha)


def _absolute_field(t, v, args):
    gamma, alpha, ratios = args
    log_sigma, largest = _log_variances(v, ratios)
    return 8 * gamma * (jnp.exp(largest) + alpha) / (jnp.exp(log_sigma) + alpha)


def preconditioned_half_rise_time(
    eigenvalues: Real[ArrayLike, " d"],
    initial: Real[ArrayLike, " d"],
    alpha: Real[ArrayLike, ""] = 0.1,
) -> Float[Array, " d"]:
    r"""When each mode is at one half, with an absolute α: in closed form but for one root.

    The first mode is the largest, so its gain is 1 and it rises as a logistic (Eq. 10). Of the
    others the mode equation of :func:`preconditioned_eigenvalues` separates:

    .. math:: \alpha \log \frac{\lambda}{\lambda_0}
        + (1 + \alpha) \log \frac{1 - \lambda_0}{1 - \lambda} = 8 \gamma_j \Big( \alpha t
        + \int_0^t \lambda_1 dt' \Big), \qquad
        \int_0^t \lambda_1 dt' = \frac{\log(1 + \lambda_1(0) (e^{8 \gamma_1 t} - 1))}{8 \gamma_1}

    solved for t at λ = ½ by bisection, to rounding. With an α relative to the largest eigenvalue
    the gain is there from the start, and once the first mode is learned times are
    :func:`sslstep.landscape.step_time` of :func:`sslstep.landscape.preconditioned`.

    Args:
        eigenvalues: γ_j > 0, shape ``(d,)``; the first mode's is the largest.
        initial: s_j(0), not zero, each with :math:`\gamma_j s_j^2(0) < 1`, largest at the first as
            :math:`\gamma_j s_j^2(0)`, shape ``(d,)``.
        alpha: α > 0; traced.

    Returns:
        The times, shape ``(d,)``; 0 for a mode that is past one half from the start.

    Raises:
        ValueError: if shapes do not fit, or an argument is not as said.

    Example:
        >>> import jax.numpy as jnp
        >>> from sslstep import linear
        >>> gammas = jnp.array([1.0, 0.01])
        >>> times = linear.preconditioned_half_rise_time(gammas, 1e-3 * jnp.ones(2), 0.1)
        >>> [round(float(t), 1) for t in times]
        [1.7, 30.4]
        >>> [round(float(t), 1) for t in linear.half_rise_time(gammas, 1e-3)]
        [1.7, 230.3]
    """
    _, gamma, start, alpha = _arguments(jnp.zeros(1), eigenvalues, initial, alpha)
    _require_first_largest(gamma, start)
    return _half_rise_time(gamma, start, alpha)


@jax.jit
def _half_rise_time(gamma: Array, start: Array, alpha: Array) -> Array:
    v = _logit_of_start(gamma, start)
    # log λ0 and log(1 - λ0) of λ0 = sigmoid(v).
    needed = alpha * (-jnp.log(2.0).astype(v.dtype) - jax.nn.log_sigmoid(v))
    needed += (1 + alpha) * (jnp.log(2.0).astype(v.dtype) + jax.nn.log_sigmoid(-v))

    underflows = jax.nn.sigmoid(v[0]) < jnp.finfo(v.dtype).tiny

    def gained(t):
        x = 8 * gamma[0] * t
        # log(1 + λ (e^x - 1)) = x + log(λ + (1 - λ) e^-x)
        log_rest = jnp.log(jax.nn.sigmoid(v[0]) + jax.nn.sigmoid(-v[0]) * jnp.exp(-x))
        log_rest = jnp.where(underflows, jnp.logaddexp(v[0], -x), log_rest)
        return 8 * gamma * (alpha * t + (x + log_rest) / (8 * gamma[0]))

    latest = jnp.maximum(half_rise_time(gamma, start), 0)
    low, high = bisect(lambda t: gained(t) < needed, jnp.zeros_like(latest), latest)
    return (low + high) / 2


def preconditioning_speedup(
    eigenvalues: Real[ArrayLike, " d"],
    initial: Real[ArrayLike, " d"],
    alpha: Real[ArrayLike, ""] = 0.1,
    *,
    relative: bool = True,
) -> Float[Array, " d"]:
    r"""How many times earlier each mode is learned, at the same learning rate, in closed form.

    .. math:: \frac{t_{\mathrm{plain}}}{t} = \frac{(1 + \alpha)\, \mathrm{logit}(1 - \lambda_0)}
        {\alpha \log \frac{1}{2\lambda_0} + (1 + \alpha) \log 2 (1 - \lambda_0) + w}, \qquad
        w = \frac{\gamma_j}{\gamma_1} \mathrm{logit}(1 - \lambda_1(0))

    with :math:`\lambda_0 = \gamma_j s_j^2(0)`. The last term is the wait for the first mode,
    before which an absolute α gains nothing; with a relative one there is none. The ratio grows
    with :math:`\gamma_1 / \gamma_j`, towards

    .. math:: \Big( \frac{\alpha}{1 + \alpha} + \frac{\log 2}{\log 1 / \lambda_0} \Big)^{-1} ,

    less than the gain 1 + 1/α of a small direction, and than :math:`\log_2 1 / \lambda_0`: what is
    saved is the wait, while the rise itself takes its time :math:`1 / \gamma_j`. It is right for
    modes that are learned after the first.

    Args:
        eigenvalues: γ_j > 0, shape ``(d,)``; the first mode's is the largest.
        initial: s_j(0), not zero, each with :math:`\gamma_j s_j^2(0) < 1/2`, shape ``(d,)``.
        alpha: α > 0; traced.
        relative: whether α is relative to the largest eigenvalue.

    Returns:
        The ratios, shape ``(d,)``.

    Raises:
        ValueError: if shapes do not fit, or an argument is not as said.

    Example:
        >>> import jax.numpy as jnp
        >>> from sslstep import linear
        >>> ratios = linear.preconditioning_speedup(jnp.array([1.0, 0.1, 1e-3]), 1e-3 * jnp.ones(3))
        >>> [round(float(ratio), 1) for ratio in ratios[1:]]
        [7.7, 8.2]
    """
    _, gamma, start, alpha = _arguments(jnp.zeros(1), eigenvalues, initial, alpha)
    _require_first_largest(gamma)
    _require_below(0.5, gamma, start)
    v = _logit_of_start(gamma, start)
    log_two = jnp.log(2.0).astype(v.dtype)
    wait = jnp.zeros_like(v) if relative else -v[0] * gamma / gamma[0]
    slow = -alpha * (log_two + jax.nn.log_sigmoid(v))
    rise = (1 + alpha) * (log_two + jax.nn.log_sigmoid(-v))
    return -(1 + alpha) * v / (slow + rise + wait)


def preconditioned_max_learning_rate(
    eigenvalues: Real[ArrayLike, " k"], alpha: Real[ArrayLike, ""] = 0.1
) -> Float[Array, ""]:
    r"""The largest learning rate with which preconditioned gradient descent comes to rest.

    .. math:: \eta < \min\left( \frac{1}{4 \gamma_1},\;
        \frac{1}{2 |\gamma_{\min}| (1 + 1/\alpha)},\; \frac{c(\alpha)}{\gamma_2} \right)

    The first two are those of :func:`max_learning_rate`, with the gain of small directions in the
    second. The third is of the second mode, which a step with its gain throws beyond the minimum,
    up to :math:`\lambda_{\mathrm{high}}`. It must not go back and forth for ever, as of
    :func:`sslstep.landscape.max_learning_rate`. Nor may it drive the first mode away: while the
    second is above 1, the first is the smaller, with a gain of its own of up to
    :math:`(\lambda_{\mathrm{high}} + \alpha) / (1 + \alpha)`, and
    :math:`4 \eta\, \gamma_1` times that has to stay below 1. For small α this is the tighter, and
    c goes as :math:`(\alpha \gamma_2 / 16 \gamma_1)^{1/3}`; it is found numerically. For α
    relative, or absolute once a mode is learned; both views of a sample are taken to have one
    embedding.

    Args:
        eigenvalues: of Γ, in any order, shape ``(k,)``.
        alpha: α > 0; traced.

    Returns:
        The limit, a scalar.

    Raises:
        ValueError: if α is not positive or an array, or ``eigenvalues`` is no vector, empty, or not
            finite.

    Example:
        >>> import jax.numpy as jnp
        >>> from sslstep import linear
        >>> gammas = jnp.array([1.0, 0.5, -0.1])
        >>> [round(float(linear.preconditioned_max_learning_rate(gammas, a)), 3)
        ...  for a in (1.0, 0.1)]
        [0.25, 0.229]
    """
    _check.require_scalar("alpha", alpha, above=0.0)
    _check.require_vector("eigenvalues", eigenvalues, "(k,)")
    _check.require_finite("eigenvalues", eigenvalues)
    return _max_learning_rate(*_check.as_floats(eigenvalues, alpha))


@jax.jit
def _max_learning_rate(gamma: Array, alpha: Array) -> Array:
    gamma = jnp.sort(gamma, descending=True)
    # The gain of directions that have not grown acts on the negative eigenvalues alone.
    repelled = jnp.where(gamma < 0, gamma * (1 + 1 / alpha), gamma)
    limit = max_learning_rate(repelled)
    if gamma.shape[0] == 1:
        return limit

    def force(x):
        return 2 * (1 - x) * (1 + alpha) / (jnp.clip(x, 0, 1) + alpha)

    second = jnp.where(gamma[1] > 0, gamma[1], 1)

    def ceiling(x):
        return (1 + alpha) / (4 * x * gamma[0] / second) - alpha

    thrown = _spectral.resting_rate(force, jnp.ones((), gamma.dtype), ceiling) / second
    return jnp.where(gamma[1] > 0, jnp.minimum(limit, thrown), limit)


def _arguments(t, eigenvalues, initial, alpha) -> list[Array]:
    """Checked, and of one type."""
    shapes = [_check.shape_of(part) for part in (eigenvalues, initial)]
    if shapes[0] != shapes[1] or len(shapes[0]) != 1 or len(_check.shape_of(t)) != 1:
        raise ValueError(
            f"t must have shape (T,), eigenvalues and initial one shape (d,), got "
            f"{_check.shape_of(t)}, {shapes[0]} and {shapes[1]}."
        )
    _check.require_at_least("eigenvalues", eigenvalues, 0.0, strict=True)
    _check.require_scalar("alpha", alpha, above=0.0)
    t, gamma, start, alpha = _check.as_floats(t, eigenvalues, initial, alpha)
    if _check.is_concrete(start) and not (np.abs(start) > 0).all():
        raise ValueError(f"initial must not be zero or NaN, got {np.asarray(start)}.")
    _require_below(1.0, gamma, start)
    return [t, gamma, start, alpha]


def _log_start(gamma: Array, start: Array) -> np.ndarray:
    """log λ(0), of known numbers."""
    return np.log(np.asarray(gamma, float)) + 2 * np.log(np.abs(np.asarray(start, float)))


def _require_below(level: float, gamma: Array, start: Array) -> None:
    """Refuse a start whose eigenvalue γ s(0)² is not below the level."""
    if _check.is_concrete(gamma, start):
        values = _log_start(gamma, start)
        if not (values < np.log(level)).all():
            raise ValueError(
                f"initial is too large: eigenvalues of C have to start below {level:g}, and the "
                f"largest starts at {np.exp(values.max()):.3g}."
            )


def _require_first_largest(gamma: Array, start: Array | None = None) -> None:
    if not _check.is_concrete(gamma, start):
        return
    first = int(np.argmax(np.asarray(gamma)))
    if not gamma[0] >= gamma[first]:
        raise ValueError(
            f"eigenvalues must have the largest first, got {float(gamma[0]):g} before "
            f"{float(gamma[first]):g}."
        )
    if start is not None:
        values = _log_start(gamma, start)
        # Rounding of inputs that tie.
        if values.max() > values[0] + 4 * float(jnp.finfo(gamma.dtype).eps):
            raise ValueError(
                f"initial must make the first eigenvalue of C the largest at the start, got "
                f"{np.exp(values[0]):.3g} before {np.exp(values.max()):.3g}."
            )


def _logit_of_start(gamma: Array, start: Array) -> Array:
    log_lambda = jnp.log(gamma) + 2 * jnp.log(jnp.abs(start))
    return log_lambda - jnp.log1p(-jnp.exp(log_lambda))
