r"""How many steps LARS takes along the way of gradient flow."""

import warnings

import jax.numpy as jnp
import numpy as np
from jax.typing import ArrayLike
from jaxtyping import Array, Float, Real

from sslstep import _check
from sslstep.linear._dynamics import mode_eigenvalue, singular_value

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

    The law is that of short steps. A step of fixed length does not come to rest: on a plateau LARS
    bounces in :math:`s_1` with a gradient of order :math:`\rho \sqrt{\gamma_1}`, and where that of
    the growing mode is less, it grows by a factor in :math:`\gamma_1 / \gamma_j` steps instead.
    Counts are short by 5% at :math:`\gamma_1 / \gamma_j = 0.1 / \rho`, by 10 to 13% at
    :math:`0.3 / \rho`, by 31 to 51% at :math:`1 / \rho`, and five to seven times at
    :math:`10 / \rho` (two modes, ρ from 5e-4 to 5e-3, s(0) from 1e-6 to 1e-3).

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

    Warns:
        UserWarning: if within t a mode is learned with :math:`\gamma_1 / \gamma_j > 0.3 / \rho`.

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
    _check.require_at_least("t", t, 0.0)
    _check.require_increasing("t", t, strict=False)
    t, gamma, start, rate = _check.as_floats(t, eigenvalues, initial, relative_rate)
    if _check.is_concrete(start) and start.size and not bool((start != 0).any()):
        raise ValueError("initial must have a mode that is not zero: from zero nothing grows.")
    mode = t[:, None], gamma[None, :], start[None, :]
    s, eigenvalues_of_c = singular_value(*mode), mode_eigenvalue(*mode)
    _warn_if_long(gamma, eigenvalues_of_c, rate)
    gradient = 4 * (1 - eigenvalues_of_c) * (gamma[None, :] * s)
    # A sum of squares would underflow where the modes are as small as they start.
    ratio = _norm(gradient) / _norm(s)
    steps = jnp.diff(t) * (ratio[1:] + ratio[:-1]) / 2
    return jnp.concatenate([jnp.zeros(1, t.dtype), jnp.cumsum(steps)]) / rate


def _warn_if_long(gamma: Array, eigenvalues_of_c: Array, rate: Array) -> None:
    """Warn of steps too long for the law, where values are known."""
    if not _check.is_concrete(eigenvalues_of_c, rate) or not eigenvalues_of_c.size:
        return
    learned = np.asarray(gamma)[np.asarray(eigenvalues_of_c[-1] >= 0.5)]
    if learned.size and learned.max() / learned.min() > 0.3 / float(rate):
        warnings.warn(
            f"relative_rate = {float(rate):.3g} is too long a step for eigenvalues from "
            f"{learned.max():.3g} to {learned.min():.3g}: LARS takes more than 10% more steps than "
            f"this, as it bounces on plateaus.",
            stacklevel=3,
        )


def _norm(rows: Array) -> Array:
    """Of each row, without underflow."""
    largest = jnp.max(jnp.abs(rows), axis=1, keepdims=True)
    scale = jnp.where(largest > 0, largest, 1)
    return scale[:, 0] * jnp.sqrt(jnp.sum((rows / scale) ** 2, axis=1))
