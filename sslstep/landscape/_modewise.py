r"""The landscapes of Appendix G."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.scipy.special import logit
from jax.tree_util import Partial
from jax.typing import ArrayLike
from jaxtyping import Array, Real

from sslstep import _check, _spectral


class _Parts(NamedTuple):
    value: Callable[[Any], Array]
    force: Callable[[Any], Array]
    rest: Real[ArrayLike, ""] = 1.0
    time: Callable[[Any], Array] | None = None


class ModewiseLoss(_Parts):
    r"""What one mode descends, as functions of its eigenvalue :math:`\lambda = \bar s^2` of C.

    .. math:: \lambda' = 4 \gamma \lambda\, f(\lambda), \qquad f = -\frac{d\mathcal{L}}{d\lambda}

    A pytree: its parameters are leaves and its functions static, so it passes through `jit`,
    `vmap` and `grad`, and functions of it compile once for all parameters. Functions of one's own
    are made static; parameters of theirs become leaves as those of a
    :class:`jax.tree_util.Partial`.

    Attributes:
        value: the loss :math:`\mathcal{L}(\lambda)`, elementwise.
        force: f, elementwise: positive below the minimum.
        rest: the least λ > 0 without force, where small starts end.
        time: an antiderivative of :math:`1 / 4 \lambda f(\lambda)`, elementwise, on (0, rest): the
            closed form of γ t. None: by quadrature.

    Example:
        >>> import jax
        >>> from sslstep import landscape
        >>> when = jax.jit(landscape.step_time)
        >>> [round(float(when(landscape.sharpened(d), 1.0, 1e-6)), 2) for d in (1e-2, 1e-4)]
        [1.02, 0.65]
    """

    __slots__ = ()

    def __new__(cls, value, force, rest=1.0, time=None):
        """Functions that are no pytrees become such."""
        return super().__new__(cls, _static(value), _static(force), rest, _static(time))


def _static(function: Any) -> Any:
    if callable(function) and not isinstance(function, Partial):
        return Partial(function)
    return function


def plain() -> ModewiseLoss:
    r"""Barlow Twins, :math:`(1 - \lambda)^2` (Figure 9A).

    .. math:: \gamma t = \tfrac18 \mathrm{logit}\, \lambda

    Returns:
        The landscape of :func:`self_supervised`.

    Example:
        >>> import jax.numpy as jnp
        >>> from sslstep import landscape
        >>> landscape.plain().value(jnp.array([0.0, 1.0, 2.0]))
        Array([1., 0., 1.], dtype=float32)
    """
    return _landscape(_plain_value, _plain_force, time=_plain_time)


def _plain_value(x):
    return (1 - x) ** 2


def _plain_force(x):
    return 2 * (1 - x)


def _plain_time(x):
    return logit(x) / 8


def sharpened(softening: Real[ArrayLike, ""] = 1e-4) -> ModewiseLoss:
    r"""The loss of :func:`sslstep.losses.sharpened_barlow_twins` (G.2, Figure 9B).

    With :math:`c = \sqrt\delta,\; N = \sqrt{1 + \delta} - \sqrt\delta` and
    :math:`u = \sqrt{\lambda + \delta}`,

    .. math:: \mathcal{L} = \frac{(u - \sqrt{1 + \delta})^2}{N^2}, \qquad
        \gamma t = \frac{N^2}{2} \left[ \frac{c}{2N} \log(u - c) - \frac{c N}{2} \log(u + c)
        - (1 + \delta) \log(\sqrt{1 + \delta} - u) \right]

    As δ → 0 the solution is that of footnote 26:
    :math:`\bar s = 1 - (1 - \bar s_0)\, e^{-2 \gamma t}`, without a wait. Otherwise the wait lasts
    about :math:`c \log(\delta / \lambda_0) / 4\gamma`.

    Args:
        softening: δ > 0; traced.

    Returns:
        The landscape.

    Raises:
        ValueError: if δ is not positive or an array.

    Example:
        >>> from sslstep import landscape
        >>> waits = [landscape.step_time(loss, 1.0, 1e-6)
        ...          for loss in (landscape.plain(), landscape.sharpened(1e-4))]
        >>> [round(float(t), 2) for t in waits]
        [3.45, 0.65]
    """
    _check.require_scalar("softening", softening, above=0.0)

    return _landscape(_sharpened_value, _sharpened_force, 1.0, _sharpened_time, softening)


def _sharpened_value(softening, x):
    return _spectral.squared_distance(lambda x: _spectral.sharpen(x, softening))(x)


def _sharpened_parts(softening, x):
    delta = jnp.asarray(softening, x.dtype)
    c, top = jnp.sqrt(delta), jnp.sqrt(1 + delta)
    return delta, c, top, 1 / (top + c)


def _sharpened_force(softening, x):
    delta, _, _, n = _sharpened_parts(softening, x)
    u = jnp.sqrt(jnp.abs(x) + delta)
    return (1 - _spectral.sharpen(x, softening)) / (n * u)


def _sharpened_time(softening, x):
    delta, c, top, n = _sharpened_parts(softening, x)
    u = jnp.sqrt(x + delta)
    # u - c and top - u, without the differences.
    rise, gap = jnp.log(x / (u + c)), jnp.log((1 - x) / (top + u))
    slow = c / (2 * n) * rise - c * n / 2 * jnp.log(u + c)
    return n**2 / 2 * (slow - (1 + delta) * gap)


def smoothed(leak: Real[ArrayLike, ""] = 0.0) -> ModewiseLoss:
    r"""The loss of :func:`sslstep.losses.smoothed_barlow_twins` (G.3, Figure 9C).

    .. math:: \mathcal{L} = (1 - \lambda)^2 \; (\lambda \le 1), \quad
        \epsilon^2 (1 - \lambda)^2 \; (\lambda > 1)

    A small start goes as with :func:`plain`; what differs is the learning rate it bears.

    Args:
        leak: ε ≥ 0; traced.

    Returns:
        The landscape.

    Raises:
        ValueError: if ε is negative or an array.

    Example:
        >>> import jax.numpy as jnp
        >>> from sslstep import landscape
        >>> landscape.smoothed(0.5).value(jnp.array([0.0, 1.0, 2.0]))
        Array([1.  , 0.  , 0.25], dtype=float32)
    """
    _check.require_scalar("leak", leak, at_least=0.0)

    return _landscape(_smoothed_value, _smoothed_force, 1.0, _smoothed_time, leak)


def _weight(leak, x):
    return jnp.where(x > 1, jnp.asarray(leak, x.dtype) ** 2, 1)


def _smoothed_value(leak, x):
    return _weight(leak, x) * (1 - x) ** 2


def _smoothed_force(leak, x):
    return 2 * _weight(leak, x) * (1 - x)


def _smoothed_time(_, x):
    return logit(x) / 8


def quartic() -> ModewiseLoss:
    r"""The loss of :func:`sslstep.losses.quartic_barlow_twins` (G.3, Figure 9D).

    .. math:: \mathcal{L} = (1 - \lambda)^4, \qquad \gamma t = \tfrac1{16} \left[
        \mathrm{logit}\, \lambda + \frac{1}{1 - \lambda} + \frac{1}{2 (1 - \lambda)^2} \right]

    It leaves zero twice as fast as :func:`plain`, and comes to 1 as :math:`t^{-1/2}` only. No
    relation to :func:`sslstep.linear.quartic`, the family of mode equations named after plain
    Barlow Twins' own quartic in s.

    Returns:
        The landscape.

    Example:
        >>> from sslstep import landscape
        >>> float(landscape.quartic().value(0.5))
        0.0625
    """
    return _landscape(_quartic_value, _quartic_force, time=_quartic_time)


def _quartic_value(x):
    return (1 - x) ** 4


def _quartic_force(x):
    return 4 * (1 - x) ** 3


def _quartic_time(x):
    rest = 1 - x
    return (logit(x) + 1 / rest + 1 / (2 * rest**2)) / 16


def hinge(width: Real[ArrayLike, ""] = 0.1) -> ModewiseLoss:
    r"""The loss of :func:`sslstep.losses.hinge_barlow_twins` (G.3).

    .. math:: \mathcal{L} = \max(0, |\lambda - 1| - w)^2, \qquad
        \gamma t = \frac{1}{8 a} \mathrm{logit}\, \frac{\lambda}{a}, \quad a = 1 - w

    Args:
        width: w in [0, 1); traced.

    Returns:
        The landscape; small starts end at 1 - w.

    Raises:
        ValueError: if w is not within [0, 1) or an array.

    Example:
        >>> import jax.numpy as jnp
        >>> from sslstep import landscape
        >>> landscape.hinge(0.5).value(jnp.array([0.0, 1.0, 1.5, 2.5]))
        Array([0.25, 0.  , 0.  , 1.  ], dtype=float32)
    """
    _check.require_scalar("width", width, at_least=0.0, below=1.0)
    number: Any = width
    rest = 1 - number  # in the precision of what it is used with, if it is a Python number
    return _landscape(_hinge_value, _hinge_force, rest, _hinge_time, width)


def _excess(width, x):
    return _spectral.flatten(x, width) - 1


def _hinge_value(width, x):
    return _excess(width, x) ** 2


def _hinge_force(width, x):
    return -2 * _excess(width, x)


def _hinge_time(width, x):
    a = 1 - jnp.asarray(width, x.dtype)
    return logit(x / a) / (8 * a)


def modewise(transform: Callable[[Array], Array], rest: Real[ArrayLike, ""] = 1.0) -> ModewiseLoss:
    r"""The loss :math:`(g(\lambda) - 1)^2` of :func:`sslstep.losses.spectral_barlow_twins`.

    Args:
        transform: g, from a scalar to a scalar, in JAX.
        rest: the least λ > 0 where g is 1; traced.

    Returns:
        The landscape; its times are found by quadrature, to rounding where g is smooth.

    Raises:
        ValueError: if ``rest`` is not positive or an array.

    Example:
        >>> from sslstep import landscape
        >>> loss = landscape.modewise(lambda x: x * (2 - x))
        >>> float(loss.value(0.5)), float(landscape.quartic().value(0.5))
        (0.0625, 0.0625)
    """
    _check.require_scalar("rest", rest, above=0.0)
    return _landscape(_modewise_value, _modewise_force, rest, None, _static(transform))


def _modewise_value(transform, x):
    return jnp.vectorize(_spectral.squared_distance(transform))(x)


def _modewise_force(transform, x):
    return -jnp.vectorize(jax.grad(_spectral.squared_distance(transform)))(x)


def preconditioned(loss: ModewiseLoss, alpha: Real[ArrayLike, ""] = 0.1) -> ModewiseLoss:
    r"""What a mode descends under :func:`sslstep.optim.precondition`, once another is learned.

    Let a mode be learned, at λ = 1, and let both views of a sample have one embedding, so that
    their second moment S is C. Then the gradient of another mode is multiplied by its gain,

    .. math:: f \to f\, \frac{1 + \alpha}{\min(\lambda, 1) + \alpha} ,

    whether α is relative or absolute, and it descends the integral of that. For :func:`plain`,

    .. math:: \gamma t = \tfrac18 \left[ \frac{\alpha}{1 + \alpha} \log \lambda
        - \log(1 - \lambda) \right] .

    The mode that is learned first descends its own landscape; for all modes together see
    :func:`sslstep.linear.preconditioned_eigenvalues`.

    Args:
        loss: what is preconditioned.
        alpha: α > 0; traced.

    Returns:
        The landscape; its times are found by quadrature.

    Raises:
        ValueError: if α is not positive or an array.

    Example:
        >>> from sslstep import landscape
        >>> faster = landscape.preconditioned(landscape.plain(), 0.1)
        >>> [round(float(landscape.step_time(loss, 1.0, 1e-6)), 2)
        ...  for loss in (landscape.plain(), faster)]
        [3.45, 0.39]
    """
    _check.require_scalar("alpha", alpha, above=0.0)

    return _landscape(_gained_value, _gained_force, loss.rest, None, loss, alpha)


def _gained_force(loss, alpha, x):
    a = jnp.asarray(alpha, x.dtype)
    return loss.force(x) * (1 + a) / (jnp.clip(x, 0, 1) + a)


def _gained_value(loss, alpha, x):
    a, rest = jnp.asarray(alpha, x.dtype), jnp.asarray(loss.rest, x.dtype)
    # The integral of f from x to its zero, over log(λ + α), where it is smooth; below 0 the
    # gain is (1 + α) / α.
    low = jnp.log(jnp.clip(x, 0, rest) + a)
    work = integral(lambda y: loss.force(jnp.exp(y) - a) * (1 + a), low, jnp.log(rest + a))
    below = (1 + a) / a * (loss.value(jnp.minimum(x, 0)) - loss.value(jnp.zeros_like(x)))
    return jnp.where(x < rest, work + below, loss.value(x))


def _landscape(
    value: Callable[..., Array],
    force: Callable[..., Array],
    rest: Real[ArrayLike, ""] = 1.0,
    time: Callable[..., Array] | None = None,
    *parameters: Any,
) -> ModewiseLoss:
    """Of functions of the parameters and an array: they then take numbers too."""
    parts = [None if each is None else Partial(each, *parameters) for each in (value, force, time)]
    return ModewiseLoss(
        Partial(_of_numbers, parts[0]), Partial(_of_numbers, parts[1]), rest, parts[2]
    )


def _of_numbers(function, x):
    return function(jnp.asarray(x, jnp.result_type(x, float)))


_NODES, _WEIGHTS = np.polynomial.legendre.leggauss(5)
_PANELS = 128


def integral(function: Callable[[Array], Array], low: Array, high: Array) -> Array:
    """By the composite rule of Gauss and Legendre, elementwise over the ends."""
    low, high = jnp.broadcast_arrays(low, high)
    places: Any = (np.arange(_PANELS)[:, None] + (1 + _NODES[None, :]) / 2).reshape(-1) / _PANELS
    weights: Any = np.tile(_WEIGHTS / 2, _PANELS) / _PANELS
    rows = (1,) * low.ndim
    places, weights = (jnp.asarray(a, low.dtype).reshape(*rows, -1) for a in (places, weights))
    x = low[..., None] + (high - low)[..., None] * places
    return (high - low) * jnp.sum(function(x) * weights, axis=-1)
