r"""The landscapes of Appendix G."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.scipy.special import logit
from jax.typing import ArrayLike
from jaxtyping import Array, Real

from sslstep import _check, _spectral


class ModewiseLoss(NamedTuple):
    r"""What one mode descends, as functions of its eigenvalue :math:`\lambda = \bar s^2` of C.

    .. math:: \lambda' = 4 \gamma \lambda\, f(\lambda), \qquad f = -\frac{d\mathcal{L}}{d\lambda}

    Attributes:
        value: the loss :math:`\mathcal{L}(\lambda)`, elementwise.
        force: f, elementwise: positive below the minimum.
        rest: the least λ > 0 without force, where small starts end.
        time: an antiderivative of :math:`1 / 4 \lambda f(\lambda)`, elementwise, on (0, rest): the
            closed form of γ t. None: by quadrature.
    """

    value: Callable[[Array], Array]
    force: Callable[[Array], Array]
    rest: Real[ArrayLike, ""] = 1.0
    time: Callable[[Array], Array] | None = None


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
    return _landscape(lambda x: (1 - x) ** 2, lambda x: 2 * (1 - x), time=lambda x: logit(x) / 8)


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

    def parts(x):
        delta = jnp.asarray(softening, x.dtype)
        c, top = jnp.sqrt(delta), jnp.sqrt(1 + delta)
        return delta, c, top, 1 / (top + c)

    def time(x):
        delta, c, top, n = parts(x)
        u = jnp.sqrt(x + delta)
        # u - c and top - u, without the differences.
        rise, gap = jnp.log(x / (u + c)), jnp.log((1 - x) / (top + u))
        slow = c / (2 * n) * rise - c * n / 2 * jnp.log(u + c)
        return n**2 / 2 * (slow - (1 + delta) * gap)

    def force(x):
        delta, _, _, n = parts(x)
        u = jnp.sqrt(jnp.abs(x) + delta)
        return (1 - _spectral.sharpen(x, softening)) / (n * u)

    distance = _spectral.squared_distance(lambda x: _spectral.sharpen(x, softening))
    return _landscape(distance, force, time=time)


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

    def weight(x):
        return jnp.where(x > 1, jnp.asarray(leak, x.dtype) ** 2, 1)

    return _landscape(
        lambda x: weight(x) * (1 - x) ** 2,
        lambda x: 2 * weight(x) * (1 - x),
        time=lambda x: logit(x) / 8,
    )


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

    def time(x):
        rest = 1 - x
        return (logit(x) + 1 / rest + 1 / (2 * rest**2)) / 16

    return _landscape(lambda x: (1 - x) ** 4, lambda x: 4 * (1 - x) ** 3, time=time)


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
    _check.require_scalar("width", width, at_least=0.0)
    _check.require_at_least("1 - width", 1 - jnp.asarray(width), 0.0, strict=True)
    number: Any = width
    rest = 1 - number  # in the precision of what it is used with, if it is a Python number

    def excess(x):
        return _spectral.flatten(x, width) - 1

    def time(x):
        a = jnp.asarray(rest, x.dtype)
        return logit(x / a) / (8 * a)

    return _landscape(lambda x: excess(x) ** 2, lambda x: -2 * excess(x), rest, time)


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
    distance = _spectral.squared_distance(transform)

    slope = jnp.vectorize(jax.grad(distance))
    return _landscape(jnp.vectorize(distance), lambda x: -slope(x), rest)


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

    def force(x):
        a = jnp.asarray(alpha, x.dtype)
        return loss.force(x) * (1 + a) / (jnp.clip(x, 0, 1) + a)

    def value(x):
        a, rest = jnp.asarray(alpha, x.dtype), jnp.asarray(loss.rest, x.dtype)
        # The integral of f from x to its zero, over log(λ + α), where it is smooth; below 0 the
        # gain is (1 + α) / α.
        low = jnp.log(jnp.clip(x, 0, rest) + a)
        work = integral(lambda y: loss.force(jnp.exp(y) - a) * (1 + a), low, jnp.log(rest + a))
        below = (1 + a) / a * (loss.value(jnp.minimum(x, 0)) - loss.value(jnp.zeros_like(x)))
        return jnp.where(x < rest, work + below, loss.value(x))

    return _landscape(value, force, loss.rest)


def _landscape(
    value: Callable[[Array], Array],
    force: Callable[[Array], Array],
    rest: Real[ArrayLike, ""] = 1.0,
    time: Callable[[Array], Array] | None = None,
) -> ModewiseLoss:
    """Of functions that take arrays: they then take numbers too."""

    def of_numbers(function):
        return lambda x: function(jnp.asarray(x, jnp.result_type(x, float)))

    return ModewiseLoss(of_numbers(value), of_numbers(force), rest, time)


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
