"""Loss landscapes of one mode, also of deep networks and of a network with a linear predictor."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import wraps
from typing import Any, TypeVar, dataclass_transform

import jax
import jax.numpy as jnp
import numpy as np
from jax.scipy.special import logit
from jax.typing import ArrayLike
from jaxtyping import Array, Real

from sslstep import _check, _spectral, _xla

_Class = TypeVar("_Class")


class Landscape:
    r"""The loss of one mode, as a function of its eigenvalue :math:`\lambda = \gamma s^2` of C.

    .. math:: s' = -\frac{d\mathcal{L}}{ds}, \qquad \lambda' = 4 \gamma \lambda\, f(\lambda),
        \qquad f = -\frac{d\mathcal{L}}{d\lambda}

    Here γ is the mode's eigenvalue of Γ, and s its singular value.

    A landscape is a pytree whose leaves are its parameters. It passes through `jit`, `vmap` and
    `grad`, and a new value of a parameter does not recompile. :func:`modewise` makes a landscape
    from a function. For other equations, derive a dataclass that is registered as a pytree, and
    define :meth:`value`; closed forms of :meth:`force` and :meth:`time` are optional.

    Attributes:
        rest: the smallest λ > 0 at which the force is zero; a mode that starts small ends there.

    Example:
        >>> import jax
        >>> from sslstep import dynamics
        >>> when = jax.jit(lambda landscape: dynamics.step_time(1.0, 1e-6, landscape=landscape))
        >>> [round(float(when(dynamics.sharpened(d))), 2) for d in (1e-2, 1e-4)]
        [1.02, 0.65]
    """

    rest: Any = 1.0

    def value(self, eigenvalue: Any) -> Any:
        r"""Return the loss :math:`\mathcal{L}(\lambda)`, elementwise."""
        raise NotImplementedError

    def force(self, eigenvalue: Any) -> Array:
        """Return the force f = -dL/dλ, elementwise; it is positive below the minimum."""
        x = _array(eigenvalue)
        return -jax.jvp(self.value, (x,), (jnp.ones_like(x),))[1]

    def time(self, eigenvalue: Array) -> Array | None:
        r"""Return an antiderivative of :math:`1 / (4 \lambda f(\lambda))` on (0, rest), or None.

        Its increments are γ t. If it is None, step times and trajectories use quadrature.
        """
        return None


@dataclass_transform(frozen_default=True, eq_default=False)
def _pytree(cls: type[_Class]) -> type[_Class]:
    """Make the class a frozen dataclass and a pytree whose leaves are its fields."""
    return jax.tree_util.register_dataclass(dataclass(frozen=True, eq=False)(cls))


def jit_of_landscape(function: Callable[..., Array]) -> Callable[..., Array]:
    """Compile a function whose first argument is a landscape, for each type of landscape apart.

    A pytree's type is part of the key of compiled programs anyway. But three runs of the tests on
    JAX 0.10 returned the numbers of another type of landscape with as many leaves, and the cause
    was not found. The type is therefore a static argument, too.
    """

    def typed(kind: type, landscape: "Landscape", *arguments: Any) -> Array:
        return function(landscape, *arguments)

    typed.__name__ = function.__name__
    compiled = jax.jit(typed, static_argnums=0)

    @wraps(function)
    def call(landscape: "Landscape", *arguments: Any) -> Array:
        result: Array = compiled(type(landscape), landscape, *arguments)
        return result

    return call


def _array(x: Any) -> Array:
    return jnp.asarray(x, jnp.result_type(x, float))


def _like(x: Array, *parameters: Any) -> list[Array]:
    """Broadcast the parameters to the shape of `x`, in its dtype."""
    return [jnp.broadcast_to(jnp.asarray(each, x.dtype), x.shape) for each in parameters]


@_pytree
class Plain(Landscape):
    """Landscape of :func:`plain`; subclasses form the quartic family, with closed-form curves."""

    growth = saturation = 1.0

    def value(self, eigenvalue: Any) -> Any:
        return (1 - eigenvalue) ** 2


@_pytree
class QuarticFamily(Plain):
    """Landscape of :func:`quartic_family`."""

    growth: Any
    saturation: Any

    @property
    def rest(self) -> Any:
        a, b = _array(self.growth), _array(self.saturation)
        return jnp.where(b > 0, a / jnp.where(b > 0, b, 1), jnp.inf)

    def value(self, eigenvalue: Any) -> Any:
        x = _array(eigenvalue)
        a, b = (jnp.asarray(part, x.dtype) for part in (self.growth, self.saturation))
        return (a - b * x) ** 2 / b

    def force(self, eigenvalue: Any) -> Array:  # also where b is 0
        x = _array(eigenvalue)
        a, b = (jnp.asarray(part, x.dtype) for part in (self.growth, self.saturation))
        return 2 * (a - b * x)


@_pytree
class _Sharpened(Landscape):
    softening: Any

    def value(self, eigenvalue: Any) -> Any:
        return (1 - _spectral.sharpen(eigenvalue, self.softening)) ** 2

    def time(self, eigenvalue: Array) -> Array:
        x = eigenvalue
        delta = jnp.asarray(self.softening, x.dtype)
        c, top = jnp.sqrt(delta), jnp.sqrt(1 + delta)
        n, u = 1 / (top + c), jnp.sqrt(x + delta)
        # log(u - c) and log(top - u), computed without the differences.
        rise, gap = jnp.log(x / (u + c)), jnp.log((1 - x) / (top + u))
        slow = c / (2 * n) * rise - c * n / 2 * jnp.log(u + c)
        return n**2 / 2 * (slow - (1 + delta) * gap)


@_pytree
class _Smoothed(Landscape):
    leak: Any

    def value(self, eigenvalue: Any) -> Any:
        x = _array(eigenvalue)
        return jnp.where(x > 1, jnp.asarray(self.leak, x.dtype) ** 2, 1) * (1 - x) ** 2

    def time(self, eigenvalue: Array) -> Array:
        return logit(eigenvalue) / 8


@_pytree
class _FourthPower(Landscape):
    def value(self, eigenvalue: Any) -> Any:
        return (1 - eigenvalue) ** 4

    def time(self, eigenvalue: Array) -> Array:
        rest = 1 - eigenvalue
        return (logit(eigenvalue) + 1 / rest + 1 / (2 * rest**2)) / 16


@_pytree
class _Hinge(Landscape):
    width: Any

    @property
    def rest(self) -> Any:
        return 1 - self.width

    def value(self, eigenvalue: Any) -> Any:
        x = _array(eigenvalue)
        return jnp.maximum(jnp.abs(1 - x) - jnp.asarray(self.width, x.dtype), 0) ** 2

    def time(self, eigenvalue: Array) -> Array:
        a = 1 - jnp.asarray(self.width, eigenvalue.dtype)
        return logit(eigenvalue / a) / (8 * a)


@_pytree
class _Modewise(Landscape):
    transform: Any
    rest: Any = 1.0

    def value(self, eigenvalue: Any) -> Any:
        return jnp.vectorize(_spectral.squared_distance(self.transform))(_array(eigenvalue))


@_pytree
class Preconditioned(Landscape):
    """Landscape of :func:`preconditioned`; `first` is that of the mode that is learned first."""

    first: Any
    alpha: Any

    @property
    def rest(self) -> Any:
        return self.first.rest

    def force(self, eigenvalue: Any) -> Array:
        x = _array(eigenvalue)
        a = jnp.asarray(self.alpha, x.dtype)
        return self.first.force(x) * (1 + a) / (jnp.clip(x, 0, 1) + a)

    def value(self, eigenvalue: Any) -> Any:
        x = _array(eigenvalue)
        a, rest = jnp.asarray(self.alpha, x.dtype), jnp.asarray(self.rest, x.dtype)
        # The loss is the integral of f from x to `rest`, taken over log(λ + α), in which f is
        # smooth. Below λ = 0 the gain is (1 + α) / α.
        low = jnp.log(jnp.clip(x, 0, rest) + a)
        loss = self.first
        work = integral(lambda y: loss.force(jnp.exp(y) - a) * (1 + a), low, jnp.log(rest + a))
        below = (1 + a) / a * (loss.value(jnp.minimum(x, 0)) - loss.value(jnp.zeros_like(x)))
        return jnp.where(x < rest, work + below, loss.value(x))


@_pytree
class Deep(Landscape):
    """Landscape of :func:`deep`."""

    landscape: Any
    eigenvalue: Any
    num_layers: Any

    @property
    def rest(self) -> Any:
        return self.landscape.rest

    def force(self, eigenvalue: Any) -> Array:
        x = _array(eigenvalue)
        gamma, layers = _like(x, self.eigenvalue, self.num_layers)
        exponent = (layers - 1) / layers
        # For one layer the power is 0^0 at x = 0, and its derivative would be NaN. The powers are
        # divided, because x / γ may underflow.
        power = jnp.where(x > 0, x, 1) ** exponent / gamma**exponent
        gain = jnp.where((x > 0) | (layers == 1), power, 0)
        return layers * gain * self.landscape.force(x)

    def value(self, eigenvalue: Any) -> Any:
        x = _array(eigenvalue)
        return integral(self.force, x, jnp.asarray(self.rest, x.dtype))


@_pytree
class SelfDistillation(Landscape):
    """Landscape of :func:`self_distillation`."""

    eigenvalue: Any
    variance: Any
    gap: Any

    @property
    def rest(self) -> Any:
        parts = (_array(part) for part in (self.eigenvalue, self.variance, self.gap))
        gamma, variance, gap = jnp.broadcast_arrays(*parts)
        return gamma * jnp.maximum((gamma / variance) ** 2 - gap, 0)

    def _predictor(self, x: Array) -> Array:
        gamma, gap = _like(x, self.eigenvalue, self.gap)
        return jnp.sqrt(jnp.maximum(x + gamma * gap, 0)) / jnp.sqrt(gamma)  # x / γ may underflow

    def force(self, eigenvalue: Any) -> Array:
        x = _array(eigenvalue)
        gamma, variance = _like(x, self.eigenvalue, self.variance)
        p = self._predictor(x)
        return 2 * p * (1 - variance / gamma * p)

    def value(self, eigenvalue: Any) -> Any:
        x = _array(eigenvalue)
        gamma, variance = _like(x, self.eigenvalue, self.variance)
        p = variance / gamma * self._predictor(x)
        return gamma**4 / variance**3 * (1 - p) ** 2 * (1 + 2 * p + 3 * p**2) / 3


def plain() -> Landscape:
    r"""Landscape of Barlow Twins, :math:`(1 - \lambda)^2` (Eqs. 14 and 50, Figures 8A and 9A).

    .. math:: s' = 4 (1 - \gamma s^2) \gamma s, \qquad \gamma t = \tfrac18 \mathrm{logit}\, \lambda

    As a function of :math:`\bar s = \gamma^{1/2} s` it has minima at ±1 and a maximum at 0. The
    sign of s(0) decides at which minimum the mode ends. This is the default landscape of the
    functions of this module.

    Example:
        >>> import jax.numpy as jnp
        >>> from sslstep import dynamics
        >>> dynamics.plain().value(jnp.array([0.0, 1.0, 2.0]))
        Array([1., 0., 1.], dtype=float32)
    """
    return Plain()


def quartic_family(
    growth: Real[ArrayLike, "..."] = 1.0, saturation: Real[ArrayLike, "..."] = 1.0
) -> Landscape:
    r"""Landscape of losses quartic in the weights, :math:`s' = p s - q s^3` (Ziyin et al. 2022).

    .. math:: p = 4 \gamma a, \qquad q = 4 \gamma^2 b, \qquad
        \mathcal{L} = \frac{(a - b \lambda)^2}{b}, \qquad
        s(t) = \frac{s_0 e^{pt}}{\sqrt{1 + s_0^2\, q\, (e^{2pt} - 1) / p}}

    with growth a, saturation b and :math:`s_0 = s(0)`; :func:`plain` has a = b = 1. Every loss of
    the form :math:`\mathrm{Tr}[W A W^\top] + \mathrm{Tr}[(W B W^\top)^2]`, where A and B have
    common eigenvectors, is in the family. A mode with eigenvalues :math:`-p/2` of A and
    :math:`\sqrt q / 2` of B has the coefficients p and q. Examples:

    - any p and q: eigenvalue 1, ``growth=p / 4`` and ``saturation=q / 4``. Then λ is s².
    - the spectral contrastive loss, whose Γ and Σ have the eigenvalues γ and σ²: p = 4γ and
      :math:`q = 4 \sigma^4`, ``saturation=variance**2 / eigenvalue**2``.
    - weight decay :math:`\beta \|W\|^2`: ``growth=1 - beta / (2 * eigenvalue)``. A mode is learned
      if γ > β/2, and :math:`\lambda(\infty) = 1 - \beta / 2\gamma`.

    Args:
        growth: a, of any sign; traced. Its shape broadcasts with that of the modes.
        saturation: b ≥ 0; traced. At b = 0 a mode grows without bound: ``rest`` is infinite, and
            the loss is not finite.

    Example:
        >>> from sslstep import dynamics
        >>> p, q = 2.0, 8.0
        >>> loss = dynamics.quartic_family(p / 4, q / 4)
        >>> print(f"{dynamics.singular_value(100.0, 1.0, 1e-6, landscape=loss):.3f}")  # sqrt(p / q)
        0.500
    """
    return QuarticFamily(growth, saturation)


def sharpened(softening: Real[ArrayLike, ""] = 1e-4) -> Landscape:
    r"""Landscape of :func:`sslstep.losses.sharpened_barlow_twins` (G.2, Figure 9B).

    With :math:`c = \sqrt\delta,\; N = \sqrt{1 + \delta} - \sqrt\delta` and
    :math:`u = \sqrt{\lambda + \delta}`,

    .. math:: \mathcal{L} = \frac{(u - \sqrt{1 + \delta})^2}{N^2}, \qquad
        \gamma t = \frac{N^2}{2} \left[ \frac{c}{2N} \log(u - c) - \frac{c N}{2} \log(u + c)
        - (1 + \delta) \log(\sqrt{1 + \delta} - u) \right]

    As δ → 0 the solution tends to that of footnote 26,
    :math:`\bar s = 1 - (1 - \bar s_0)\, e^{-2 \gamma t}` with :math:`\bar s = \gamma^{1/2} s`: the
    mode grows at once. At δ > 0 a mode that starts from a :math:`\lambda_0` far below δ waits for
    about :math:`c \log(\delta / \lambda_0) / 4\gamma`.

    Args:
        softening: δ > 0; traced.

    Raises:
        ValueError: if δ is not positive or is an array.

    Example:
        >>> from sslstep import dynamics
        >>> waits = [dynamics.step_time(1.0, 1e-6, landscape=loss)
        ...          for loss in (dynamics.plain(), dynamics.sharpened(1e-4))]
        >>> [round(float(t), 2) for t in waits]
        [3.45, 0.65]
    """
    _check.require_scalar("softening", softening, above=0.0)
    return _Sharpened(softening)


def smoothed(leak: Real[ArrayLike, ""] = 0.0) -> Landscape:
    r"""Landscape of :func:`sslstep.losses.smoothed_barlow_twins` (G.3, Figure 9C).

    .. math:: \mathcal{L} = (1 - \lambda)^2 \; (\lambda \le 1), \quad
        \epsilon^2 (1 - \lambda)^2 \; (\lambda > 1)

    From a small start λ grows as on :func:`plain`; only the largest stable learning rate differs.

    Args:
        leak: ε ≥ 0, a scalar; traced.

    Raises:
        ValueError: if ε is negative or is an array.

    Example:
        >>> import jax.numpy as jnp
        >>> from sslstep import dynamics
        >>> dynamics.smoothed(0.5).value(jnp.array([0.0, 1.0, 2.0]))
        Array([1.  , 0.  , 0.25], dtype=float32)
    """
    _check.require_scalar("leak", leak, at_least=0.0)
    return _Smoothed(leak)


def fourth_power() -> Landscape:
    r"""Landscape of :func:`sslstep.losses.quartic_barlow_twins` (G.3, Figure 9D).

    .. math:: \mathcal{L} = (1 - \lambda)^4, \qquad \gamma t = \tfrac1{16} \left[
        \mathrm{logit}\, \lambda + \frac{1}{1 - \lambda} + \frac{1}{2 (1 - \lambda)^2} \right]

    From a small start λ grows twice as fast as on :func:`plain`, but it approaches 1 only as
    :math:`t^{-1/2}`. The landscape is not in :func:`quartic_family`, whose losses are quartic in s.

    Example:
        >>> from sslstep import dynamics
        >>> float(dynamics.fourth_power().value(0.5))
        0.0625
    """
    return _FourthPower()


def hinge(width: Real[ArrayLike, ""] = 0.1) -> Landscape:
    r"""Landscape of :func:`sslstep.losses.hinge_barlow_twins` (G.3).

    .. math:: \mathcal{L} = \max(0, |\lambda - 1| - w)^2, \qquad
        \gamma t = \frac{1}{8 a} \mathrm{logit}\, \frac{\lambda}{a}, \quad a = 1 - w

    Args:
        width: w in [0, 1); traced.

    Returns:
        The landscape; a mode that starts small ends at λ = 1 - w.

    Raises:
        ValueError: if w is not within [0, 1) or is an array.

    Example:
        >>> import jax.numpy as jnp
        >>> from sslstep import dynamics
        >>> dynamics.hinge(0.5).value(jnp.array([0.0, 1.0, 1.5, 2.5]))
        Array([0.25, 0.  , 0.  , 1.  ], dtype=float32)
    """
    _check.require_scalar("width", width, at_least=0.0, below=1.0)
    return _Hinge(width)


def modewise(transform: Callable[[Array], Array], rest: Real[ArrayLike, ""] = 1.0) -> Landscape:
    r"""Landscape :math:`(g(\lambda) - 1)^2` of :func:`sslstep.losses.spectral_barlow_twins`.

    Args:
        transform: g, a JAX function from a scalar to a scalar. It is static. To trace its
            parameters, bind them with :class:`jax.tree_util.Partial`.
        rest: the smallest λ > 0 at which g is 1; traced.

    Returns:
        The landscape. Times are computed by quadrature, which is exact to rounding where g is
        smooth.

    Raises:
        ValueError: if ``rest`` is not positive or is an array.

    Example:
        >>> from sslstep import dynamics
        >>> loss = dynamics.modewise(lambda x: x * (2 - x))
        >>> float(loss.value(0.5)), float(dynamics.fourth_power().value(0.5))
        (0.0625, 0.0625)
    """
    _check.require_scalar("rest", rest, above=0.0)
    return _Modewise(_xla.as_partial(transform), rest)


def preconditioned(landscape: Landscape, alpha: Real[ArrayLike, ""] = 0.1) -> Landscape:
    r"""Landscape of a mode under :func:`sslstep.optim.precondition`, once another is learned.

    Let another mode be learned, with λ = 1, and let both views of a sample have the same embedding.
    Then the second moment of the embeddings equals C, and preconditioning multiplies the force on
    the mode by a gain,

    .. math:: f \to f\, \frac{1 + \alpha}{\min(\lambda, 1) + \alpha} ,

    whether α is relative or absolute. The returned landscape has this force. For :func:`plain`,

    .. math:: \gamma t = \tfrac18 \left[ \frac{\alpha}{1 + \alpha} \log \lambda
        - \log(1 - \lambda) \right] .

    The mode that is learned first descends ``landscape`` itself.
    :func:`preconditioned_eigenvalues` has the curves of all modes together, and
    :func:`max_learning_rate` their largest learning rate.

    Preconditioning shortens the wait, but not the rise, which takes a time of order 1/γ. With
    :math:`\lambda_0 = \gamma s^2(0)`, the ratio of the step times on :func:`plain` and here is
    therefore below both the gain 1 + 1/α of a small direction and :math:`\log_2 1 / \lambda_0`.

    Args:
        landscape: the landscape without preconditioning.
        alpha: α > 0; traced.

    Returns:
        The landscape. Times are computed by quadrature.

    Raises:
        ValueError: if α is not positive or is an array.

    Example:
        >>> from sslstep import dynamics
        >>> faster = dynamics.preconditioned(dynamics.plain(), 0.1)
        >>> [round(float(dynamics.step_time(1.0, 1e-6, landscape=loss)), 2)
        ...  for loss in (dynamics.plain(), faster)]
        [3.45, 0.39]
    """
    _check.require_scalar("alpha", alpha, above=0.0)
    return Preconditioned(landscape, alpha)


def deep(
    landscape: Landscape,
    eigenvalue: Real[ArrayLike, "..."],
    num_layers: Real[ArrayLike, "..."],
) -> Landscape:
    r"""Landscape of a mode of a linear network of L balanced layers.

    The network is :math:`W = W_L \cdots W_1` with
    :math:`W_{l+1}^\top W_{l+1} = W_l W_l^\top`, which gradient flow conserves. A mode has the
    singular value s in W and :math:`s^{1/L}` in each layer. Its equation of motion and the force
    are (Saxe et al. 2014; Arora et al. 2018)

    .. math:: s' = - L s^{2 - 2/L}\, \frac{d\mathcal{L}}{ds}, \qquad
        f \to L \left( \frac{\lambda}{\gamma} \right)^{(L - 1) / L} f .

    With L ≥ 2 and :func:`plain`, a mode with a small :math:`s_0 = s(0)` is learned at about

    .. math:: \tau \approx \frac{s_0^{-2 (L - 1) / L}}{8 \gamma (L - 1)} ,

    a power of :math:`s_0`. With one layer, as in the paper, the time is logarithmic in
    :math:`s_0`.

    Args:
        landscape: the landscape of the mode as a function of W, with the force f.
        eigenvalue: γ > 0 of the mode; traced. It must equal, in value and in shape, the
            ``eigenvalue`` that :func:`step_time` and other functions of a mode are given.
        num_layers: L ≥ 1; traced. L = 1 leaves the landscape unchanged.

    Returns:
        The landscape. Times are computed by quadrature.

    Raises:
        ValueError: if γ is not positive or L is below 1.

    Example:
        >>> from sslstep import dynamics
        >>> plain, two = dynamics.plain(), dynamics.deep(dynamics.plain(), 1.0, 2)
        >>> for start in (1e-2, 1e-4):
        ...     times = [dynamics.step_time(1.0, start, landscape=each) for each in (plain, two)]
        ...     print([round(float(t), 1) for t in times])
        [1.2, 12.4]
        [2.3, 1249.9]
    """
    _check.require_within("eigenvalue", eigenvalue, above=0.0)
    _check.require_within("num_layers", num_layers, at_least=1.0)
    return Deep(landscape, eigenvalue, num_layers)


def self_distillation(
    eigenvalue: Real[ArrayLike, "..."],
    variance: Real[ArrayLike, "..."] = 1.0,
    gap: Real[ArrayLike, "..."] = 0.0,
) -> Landscape:
    r"""Landscape of a mode of BYOL or SimSiam with a linear network and a linear predictor.

    The loss is :func:`sslstep.losses.prediction_error` without normalisation, and the targets come
    from the current weights without a gradient. Γ (eigenvalue γ) and Σ, the second moment of the
    views (eigenvalue σ), have common eigenvectors, and the predictor is aligned with the network's
    singular vectors. The singular values s of the network and p of the predictor then obey

    .. math:: s' = 4 p s (\gamma - \sigma p), \qquad p' = 4 s^2 (\gamma - \sigma p), \qquad
        p^2 - s^2 = c

    with a constant c, so the force is :math:`f = 2 p (1 - \sigma p / \gamma)` with
    :math:`p = (\lambda / \gamma + c)^{1/2}`. It is not the gradient of the loss, because no
    gradient goes through the targets; :meth:`Landscape.value` is the potential of f.

    The wait before a step depends on the initial predictor :math:`p_0`, with
    :math:`s_0 = s(0)`:

    - :math:`p_0 = s_0`, c = 0: p is half-way to its end at
      :math:`t = \frac14 \left( \frac{1}{\gamma s_0} + \frac{\sigma}{\gamma^2}
      [\ln(\frac{\gamma}{\sigma s_0} - 1) - 2] \right)`. The wait is proportional to
      :math:`1 / s_0`.
    - :math:`p_0` of order one, :math:`c = p_0^2`: as for the other losses the wait is logarithmic
      in :math:`s_0`, with the growth rate :math:`4 p_0 (\gamma - \sigma p_0)` of s. A mode with
      :math:`\gamma \le \sigma p_0` is never learned: its step time is infinite, and its curves are
      NaN.

    Args:
        eigenvalue: γ > 0 of the mode; traced. It must equal, in value and in shape, the
            ``eigenvalue`` that :func:`step_time` and other functions of a mode are given.
        variance: σ > 0 of the mode; traced. It is at least γ if both views have the same
            distribution.
        gap: c = p₀² - s₀², at least -s₀²; traced.

    Returns:
        The landscape. A mode that starts small ends at :math:`p = \gamma / \sigma`,
        :math:`\lambda = \gamma (\gamma^2 / \sigma^2 - c)`. Times are computed by quadrature.

    Raises:
        ValueError: if γ or σ is not positive.

    Example:
        >>> from sslstep import dynamics
        >>> for start in (1e-2, 1e-4):
        ...     small, large = (dynamics.self_distillation(1.0, 1.0, gap) for gap in (0.0, 0.25))
        ...     times = [dynamics.step_time(1.0, start, landscape=a) for a in (small, large)]
        ...     print([round(float(t), 1) for t in times])
        [26.0, 4.5]
        [2502.2, 9.1]
    """
    _check.require_within("eigenvalue", eigenvalue, above=0.0)
    _check.require_within("variance", variance, above=0.0)
    return SelfDistillation(eigenvalue, variance, gap)


_NODES, _WEIGHTS = np.polynomial.legendre.leggauss(5)
_PANELS = 128


def integral(function: Callable[[Array], Array], low: Array, high: Array) -> Array:
    """Integrate from `low` to `high`, elementwise, by the composite Gauss-Legendre rule.

    The function is called once, with all nodes along a first axis.
    """
    low, high = jnp.broadcast_arrays(low, high)
    places: Any = (np.arange(_PANELS)[:, None] + (1 + _NODES[None, :]) / 2).reshape(-1) / _PANELS
    weights: Any = np.tile(_WEIGHTS / 2, _PANELS) / _PANELS
    ones = (1,) * low.ndim
    places, weights = (jnp.asarray(a, low.dtype).reshape(-1, *ones) for a in (places, weights))
    x = low[None] + (high - low)[None] * places
    return (high - low) * jnp.sum(function(x) * weights, axis=0)
