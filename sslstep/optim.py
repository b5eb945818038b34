r"""Optimisers and schedules of the source publications, put together from optax's parts.

Each is an ``optax.GradientTransformation``, and works wherever those do. A learning rate is a
number or a schedule, a function of the step.
"""

import jax
import jax.numpy as jnp
import optax
from jaxtyping import PyTree

from sslstep import _check

__all__ = ["lars", "sgd", "warmup_cosine"]


def lars(
    learning_rate: optax.ScalarOrSchedule,
    *,
    bias_learning_rate: optax.ScalarOrSchedule | None = None,
    momentum: float = 0.9,
    weight_decay: float = 1e-6,
    trust_coefficient: float = 1e-3,
) -> optax.GradientTransformation:
    r"""LARS as Barlow Twins and VICReg use it (You et al. 2017).

    For each array of weights w with gradient g,

    .. math:: g \leftarrow g + \beta w, \qquad
        g \leftarrow \kappa \frac{\|w\|}{\|g\|}\, g, \qquad
        m \leftarrow \mu m + g, \qquad w \leftarrow w - \eta\, m,

    the second only if neither norm is 0. Arrays of one dimension (biases, the scales and shifts of
    batch norms) have neither weight decay nor adaptation: their first two steps are left out.

    The learning rate is applied after the momentum, as PyTorch does. ``optax.lars`` applies it
    before, so that a changing rate acts with a delay, and adapts all parameters unless told
    otherwise.

    As the second step forgets the size of g, a weight's speed does not follow the gradient's:
    plateaus of a loss need not last as long as under gradient descent.

    Args:
        learning_rate: η.
        bias_learning_rate: η of one-dimensional arrays; None: the same.
        momentum: μ.
        weight_decay: β.
        trust_coefficient: κ.

    Returns:
        The optimiser. Its ``update`` wants the parameters.

    Raises:
        ValueError: if a number is negative.

    Example:
        >>> from sslstep import optim
        >>> rate = optim.warmup_cosine(0.2, warmup_steps=10, total_steps=100)
        >>> optimizer = optim.lars(rate, weight_decay=1.5e-6)
    """
    for name, value in (
        ("momentum", momentum),
        ("weight_decay", weight_decay),
        ("trust_coefficient", trust_coefficient),
    ):
        _check.require_at_least(name, value, 0.0)
    adapt = optax.chain(
        optax.add_decayed_weights(weight_decay),
        optax.scale_by_trust_ratio(trust_coefficient=trust_coefficient),
    )
    rates = [(learning_rate, _is_weight)]
    rates += [(learning_rate if bias_learning_rate is None else bias_learning_rate, _is_bias)]
    return optax.chain(
        optax.masked(adapt, _is_weight),
        optax.trace(momentum),
        *(optax.masked(optax.scale_by_learning_rate(rate), mask) for rate, mask in rates),
    )


def sgd(
    learning_rate: optax.ScalarOrSchedule,
    *,
    momentum: float = 0.0,
    nesterov: bool = False,
    weight_decay: float = 0.0,
) -> optax.GradientTransformation:
    r"""Stochastic gradient descent, weight decay added to the gradient as in PyTorch.

    .. math:: m \leftarrow \mu m + g + \beta w, \qquad w \leftarrow w - \eta\, m

    and with Nesterov's momentum :math:`w \leftarrow w - \eta\, (\mu m + g + \beta w)`.

    Args:
        learning_rate: η.
        momentum: μ.
        nesterov: whether to use Nesterov's momentum, as SimCLR's TensorFlow code does.
        weight_decay: β, of all parameters.

    Returns:
        The optimiser. Its ``update`` wants the parameters if there is weight decay.

    Raises:
        ValueError: if a number is negative.

    Example:
        >>> from sslstep import optim
        >>> optimizer = optim.sgd(0.5, momentum=0.9, weight_decay=1e-5)
    """
    _check.require_at_least("momentum", momentum, 0.0)
    _check.require_at_least("weight_decay", weight_decay, 0.0)
    descent = optax.sgd(learning_rate, momentum=momentum or None, nesterov=nesterov)
    if not weight_decay:
        return descent
    return optax.chain(optax.add_decayed_weights(weight_decay), descent)


def warmup_cosine(
    peak: float, *, warmup_steps: int, total_steps: int, end_factor: float = 1e-3
) -> optax.Schedule:
    r"""A rate that rises linearly from 0, then falls along half a cosine, step by step.

    .. math:: \eta(k) = \begin{cases} \eta_0\, k / w & k < w \\
        \eta_0 \left( q + (1 - q) f \right), \quad
        q = \tfrac12 \left(1 + \cos \pi \tfrac{k - w}{n - w}\right) & w \le k \le n \end{cases}

    Args:
        peak: η₀.
        warmup_steps: w; 10 epochs in the publications.
        total_steps: n.
        end_factor: f, what fraction of the peak is left at the end.

    Returns:
        The schedule: from the step, counted from 0, to the rate.

    Raises:
        ValueError: if the warm-up is not shorter than the whole, or a number is negative.

    Example:
        >>> from sslstep import optim
        >>> rate = optim.warmup_cosine(0.2, warmup_steps=10, total_steps=100)
        >>> [round(float(rate(k)), 4) for k in (0, 5, 10, 55, 100)]
        [0.0, 0.1, 0.2, 0.1001, 0.0002]
    """
    _check.require_at_least("peak", peak, 0.0)
    _check.require_at_least("end_factor", end_factor, 0.0)
    if not 0 <= warmup_steps < total_steps:
        raise ValueError(
            f"warmup_steps must lie in [0, total_steps), got {warmup_steps} of {total_steps}."
        )
    schedule = optax.warmup_cosine_decay_schedule(
        init_value=0.0,
        peak_value=peak,
        warmup_steps=warmup_steps,
        decay_steps=total_steps,
        end_value=peak * end_factor,
    )
    # optax counts in integers, which do not mix with floats where promotion is strict.
    return lambda step: schedule(jnp.asarray(step, jnp.result_type(float)))


def _is_weight(params: PyTree) -> PyTree:
    return jax.tree.map(lambda array: array.ndim > 1, params)


def _is_bias(params: PyTree) -> PyTree:
    return jax.tree.map(lambda array: array.ndim <= 1, params)
