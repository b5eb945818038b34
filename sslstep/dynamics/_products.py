"""Landscapes of modes of deep linear networks, and of a network with a linear predictor."""

from typing import Any

import jax.numpy as jnp
from jax.typing import ArrayLike
from jaxtyping import Array, Real

from sslstep import _check
from sslstep.dynamics._landscapes import Landscape, _array, _pytree, integral


def _like(x: Array, *parameters: Any) -> list[Array]:
    """Broadcast the parameters to the shape of `x`, in its dtype."""
    return [jnp.broadcast_to(jnp.asarray(each, x.dtype), x.shape) for each in parameters]


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
        squared = jnp.maximum(x, 0) / gamma
        # For one layer the power is 0^0 at x = 0, and its derivative would be NaN.
        power = jnp.where(squared > 0, squared, 1) ** ((layers - 1) / layers)
        gain = jnp.where((squared > 0) | (layers == 1), power, 0)
        return layers * gain * self.landscape.force(x)

    def value(self, eigenvalue: Any) -> Any:
        x = _array(eigenvalue)
        return integral(self.force, x, jnp.broadcast_to(jnp.asarray(self.rest, x.dtype), x.shape))


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
        return jnp.sqrt(jnp.maximum(x / gamma + gap, 0))

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
