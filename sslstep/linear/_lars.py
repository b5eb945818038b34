r"""How many steps LARS takes along the way of gradient flow."""

import jax.numpy as jnp
from jax.typing import ArrayLike
from jaxtyping import Array, Float, Real

from sslstep import _check
from sslstep.linear._dynamics import singular_value

__all__ = ["lars_steps"]


def lars_steps(
    t: Real[ArrayLike, " T"],
    eigenvalues: Real[ArrayLike, " d"],
    initial: Real[ArrayLike, " d"],
    relative_rate: Real[ArrayLike, ""],
) -> Float[Array, " T"]:
    r"""How many steps LARS takes to where gradient flow is at time t (beyond the paper).

    LARS gives each step the length :math:`\rho \|W\|`, whatever the size of the gradient. On one
    array of weights it goes gradient flow's way (Eq. 10) at another speed,

    .. math:: k(t) = \frac1\rho \int_0^t \frac{\|\nabla \mathcal{L}(W(t'))\|_F}{\|W(t')\|_F} dt',
        \qquad \|\nabla \mathcal{L}\|_F^2 = \sum_j \big(4 (1 - \gamma_j s_j^2) \gamma_j s_j\big)^2 .

    The first mode is learned after about :math:`\ln(s(\infty) / s(0)) / \rho` steps, whatever its
    γ. Each later one that grows alone covers the distance :math:`\gamma_j^{-1/2}` in W in steps of
    that length, so its plateau lasts about :math:`\gamma_j^{-1/2} / (\rho \|W\|)` steps: not in
    proportion to :math:`1 / \gamma_j`, and whatever the initial scale, where gradient descent waits
    for :math:`\tau_j` (Eq. 16).

    Args:
        t: effective times ≥ 0 of gradient flow, increasing, shape ``(T,)``; the integral is by the
            trapezoidal rule between them and from 0 at the first.
        eigenvalues: γ_j of the modes that grow, shape ``(d,)``.
        initial: s_j(0), shape ``(d,)``.
        relative_rate: ρ, the learning rate times the trust coefficient; over 1 - μ with momentum μ.

    Returns:
        k(t), shape ``(T,)``.

    Raises:
        ValueError: if shapes do not fit, ρ is not positive or an array, a time is negative,
            t does not increase, or ``initial`` is zero in every mode.

    Example:
        >>> import jax.numpy as jnp
        >>> from sslstep import linear
        >>> t = jnp.linspace(0.0, 4.0, 2001)
        >>> [round(float(linear.lars_steps(t, jnp.ones(1), s0 * jnp.ones(1), 1e-2)[-1]))
        ...  for s0 in (1e-2, 1e-3)]
        [461, 691]
    """
    _check.require_scalar("relative_rate", relative_rate, above=0.0)
    shapes = [_check.shape_of(part) for part in (eigenvalues, initial)]
    if shapes[0] != shapes[1] or len(shapes[0]) != 1 or len(_check.shape_of(t)) != 1:
        raise ValueError(
            f"t must have shape (T,), eigenvalues and initial one shape (d,), got "
            f"{_check.shape_of(t)}, {shapes[0]} and {shapes[1]}."
        )
    _check.require_increasing("t", t, strict=False)
    t, gamma, start, rate = _check.as_floats(t, eigenvalues, initial, relative_rate)
    if _check.is_concrete(start) and start.size and not bool((start != 0).any()):
        raise ValueError("initial must have a mode that is not zero: from zero nothing grows.")
    s = singular_value(t[:, None], gamma[None, :], start[None, :])
    gradient = 4 * (1 - gamma[None, :] * s**2) * gamma[None, :] * s
    # A sum of squares would underflow where the modes are as small as they start.
    ratio = _norm(gradient) / _norm(s)
    steps = jnp.diff(t) * (ratio[1:] + ratio[:-1]) / 2
    return jnp.concatenate([jnp.zeros(1, t.dtype), jnp.cumsum(steps)]) / rate


def _norm(rows: Array) -> Array:
    """Of each row, without underflow."""
    largest = jnp.max(jnp.abs(rows), axis=1, keepdims=True)
    scale = jnp.where(largest > 0, largest, 1)
    return scale[:, 0] * jnp.sqrt(jnp.sum((rows / scale) ** 2, axis=1))
