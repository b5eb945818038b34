r"""Losses of self-supervised learning, on the embeddings of a batch of positive pairs.

Embeddings may be of any floating type: all arithmetic and every sum is in float32, or in float64 if
they are.

On several devices, within ``jax.pmap`` or ``jax.shard_map``, give ``axis_name``: ``z`` and
``z_prime`` are then this device's share of the batch, and the loss is that of the whole batch,
equal on every device. For its gradient by parameters that every device has a copy of, take the mean
of the devices' gradients::

    grads = jax.lax.pmean(jax.grad(loss_of_params)(params), axis_name)

The reason: what a device differentiates is the sum of all devices' losses, that is, of as many
copies of one loss as there are devices. Under ``jax.shard_map`` with ``check_vma=True``, JAX's
default, the gradient by replicated parameters is the whole one already, and its mean changes
nothing.
"""

from collections.abc import Hashable, Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike
from jaxtyping import Array, Float, Real

from sslstep import _check
from sslstep._linalg import matmul

__all__ = ["VICRegTerms", "barlow_twins", "simclr", "vicreg", "vicreg_terms"]

AxisName = Hashable | Sequence[Hashable] | None


def barlow_twins(
    z: Float[ArrayLike, "n d"],
    z_prime: Float[ArrayLike, "n d"],
    *,
    off_diagonal: Real[ArrayLike, ""] = 5e-3,
    batch_norm: bool = True,
    symmetrise: bool = False,
    eps: Real[ArrayLike, ""] = 1e-5,
    axis_name: AxisName = None,
) -> Float[Array, ""]:
    r"""Barlow Twins (Zbontar et al. 2021).

    .. math:: \mathcal{L} = \sum_i (C_{ii} - 1)^2 + \lambda \sum_{i \ne j} C_{ij}^2, \qquad
        C = \frac1n \sum_i z_i z_i'^\top

    The sums are not divided by d. The defaults are those of the method as it is used. The paper's
    simplified loss :math:`\|C - I\|_F^2` (Eqs. 1 and 2) is ``off_diagonal=1, batch_norm=False,
    symmetrise=True``; of a linear model it is :func:`sslstep.linear.loss`.

    Args:
        z: embeddings of one view, shape ``(n, d)``.
        z_prime: embeddings of the other view of the same samples, same shape.
        off_diagonal: λ ≥ 0; traced.
        batch_norm: whether each dimension of each view is first brought to mean 0 and variance 1
            over the batch: :math:`(z - \bar z) / \sqrt{\mathrm{var} + \epsilon}`, with the biased
            variance (divided by n) and without learned scale and shift.
        symmetrise: whether C is replaced by :math:`(C + C^\top) / 2`.
        eps: ε of the batch norm; traced.
        axis_name: of the devices that share the batch, as at the head of this module.

    Returns:
        The loss, a scalar, float32 or float64.

    Raises:
        ValueError: if the shapes differ or are not ``(n, d)``, are empty, values are not finite, or
            λ or ε is negative.

    Example:
        >>> import jax.numpy as jnp
        >>> from sslstep import losses
        >>> z = jnp.array([[1.0, 0.0], [0.0, 1.0]])
        >>> simplified = dict(off_diagonal=1.0, batch_norm=False, symmetrise=True)
        >>> float(losses.barlow_twins(z, z, **simplified))  # C = I / 2
        0.5
    """
    z, z_prime = _pair(z, z_prime)
    _check.require_at_least("off_diagonal", off_diagonal, 0.0)
    _check.require_at_least("eps", eps, 0.0)
    if batch_norm:
        z, z_prime = (_normalised(view, eps, axis_name) for view in (z, z_prime))
    c = _mean_of_devices(matmul(z.T, z_prime) / z.shape[0], axis_name)
    if symmetrise:
        c = (c + c.T) / 2
    diagonal = jnp.eye(c.shape[0], dtype=bool)
    off = jnp.asarray(off_diagonal, c.dtype)
    return jnp.sum(jnp.where(diagonal, (c - 1) ** 2, off * c**2))


class VICRegTerms(NamedTuple):
    """The parts of VICReg's loss, before they are weighted.

    Attributes:
        invariance: mean squared distance of the two views.
        variance: hinge on each dimension's standard deviation.
        covariance: squared covariances of different dimensions. It falls to 0 in a collapse too:
            watch it together with the variance term.
    """

    invariance: Float[Array, ""]
    variance: Float[Array, ""]
    covariance: Float[Array, ""]


def vicreg(
    z: Float[ArrayLike, "n d"],
    z_prime: Float[ArrayLike, "n d"],
    *,
    invariance: Real[ArrayLike, ""] = 25.0,
    variance: Real[ArrayLike, ""] = 25.0,
    covariance: Real[ArrayLike, ""] = 1.0,
    eps: Real[ArrayLike, ""] = 1e-4,
    axis_name: AxisName = None,
) -> Float[Array, ""]:
    r"""VICReg (Bardes et al. 2022), as its code computes it.

    .. math:: \mathcal{L} = \lambda\, s + \mu\, \frac{v(z) + v(z')}{2}
        + \nu\, \big(c(z) + c(z')\big)

    with the terms of :func:`vicreg_terms`. The publication's text has no ½ in the variance: for it,
    give ``variance=50``.

    Args:
        z: embeddings of one view, shape ``(n, d)``.
        z_prime: embeddings of the other view of the same samples, same shape.
        invariance: λ ≥ 0; traced.
        variance: μ ≥ 0; traced.
        covariance: ν ≥ 0; traced.
        eps: added to the variances under the root; traced.
        axis_name: of the devices that share the batch, as at the head of this module.

    Returns:
        The loss, a scalar, float32 or float64.

    Raises:
        ValueError: as :func:`vicreg_terms`, or if a weight is negative.

    Example:
        >>> import jax.numpy as jnp
        >>> from sslstep import losses
        >>> z = jnp.array([[3.0, 0.0], [-3.0, 0.0]])
        >>> bool(losses.vicreg(z, z) == 25 * losses.vicreg_terms(z, z).variance)
        True
    """
    weights = {"invariance": invariance, "variance": variance, "covariance": covariance}
    for name, weight in weights.items():
        _check.require_at_least(name, weight, 0.0)
    terms = vicreg_terms(z, z_prime, eps=eps, axis_name=axis_name)._asdict()
    return sum(
        (jnp.asarray(weight, terms[name].dtype) * terms[name] for name, weight in weights.items()),
        start=jnp.zeros((), terms["variance"].dtype),
    )


def vicreg_terms(
    z: Float[ArrayLike, "n d"],
    z_prime: Float[ArrayLike, "n d"],
    *,
    eps: Real[ArrayLike, ""] = 1e-4,
    axis_name: AxisName = None,
) -> VICRegTerms:
    r"""The parts of VICReg's loss, to be logged.

    .. math:: s = \frac{1}{nd} \sum_{bi} (z_{bi} - z'_{bi})^2, \qquad
        v(z) = \frac1d \sum_i \max\Big(0,\, 1 - \sqrt{\mathrm{Cov}_{ii} + \epsilon}\Big), \qquad
        c(z) = \frac1d \sum_{i \ne j} \mathrm{Cov}_{ij}^2

    with the unbiased covariance of z, divided by n - 1.

    Args:
        z: embeddings of one view, shape ``(n, d)``, n of the whole batch at least 2.
        z_prime: embeddings of the other view of the same samples, same shape.
        eps: ε; traced.
        axis_name: of the devices that share the batch, as at the head of this module.

    Returns:
        :class:`VICRegTerms`: s, (v(z) + v(z')) / 2, and c(z) + c(z').

    Raises:
        ValueError: if the shapes differ or are not ``(n, d)``, are empty, values are not finite,
            there is only one sample, or ε is negative.

    Example:
        >>> import jax.numpy as jnp
        >>> from sslstep import losses
        >>> z = jnp.array([[3.0, 0.0], [-3.0, 0.0]])
        >>> [round(float(term), 3) for term in losses.vicreg_terms(z, z)]
        [0.0, 0.495, 0.0]
    """
    z, z_prime = _pair(z, z_prime)
    _check.require_at_least("eps", eps, 0.0)
    n = z.shape[0] * _num_devices(axis_name)
    if n < 2:
        raise ValueError("vicreg needs the variance over a batch of at least 2 samples, got 1.")

    def hinge_and_covariance(view: Array) -> tuple[Array, Array]:
        centred = view - _mean_of_devices(view.mean(axis=0, keepdims=True), axis_name)
        cov = matmul(centred.T, centred) / view.shape[0]
        cov = _mean_of_devices(cov, axis_name) * (n / (n - 1))
        variances = jnp.diagonal(cov)
        deviation = jnp.sqrt(variances + jnp.asarray(eps, view.dtype))
        off = jnp.where(jnp.eye(len(cov), dtype=bool), 0.0, cov)
        return jnp.mean(jax.nn.relu(1 - deviation)), jnp.sum(off**2) / len(cov)

    (v, c), (v_prime, c_prime) = hinge_and_covariance(z), hinge_and_covariance(z_prime)
    distance = _mean_of_devices(jnp.mean((z - z_prime) ** 2), axis_name)
    return VICRegTerms(distance, (v + v_prime) / 2, c + c_prime)


def simclr(
    z: Float[ArrayLike, "n d"],
    z_prime: Float[ArrayLike, "n d"],
    *,
    temperature: Real[ArrayLike, ""] = 0.1,
    axis_name: AxisName = None,
) -> Float[Array, ""]:
    r"""SimCLR's normalised temperature-scaled cross entropy, NT-Xent (Chen et al. 2020).

    .. math:: \mathcal{L} = -\frac{1}{2n} \sum_{i=1}^{2n}
        \log \frac{\exp(\hat z_i \cdot \hat z_{p(i)} / \tau)}
        {\sum_{k \ne i} \exp(\hat z_i \cdot \hat z_k / \tau)}, \qquad
        \hat z = \frac{z}{\max(|z|, 10^{-12})}

    over the 2n embeddings of both views, p(i) being the other view of i: one positive and 2n - 2
    negatives for each. The publication's TensorFlow code adds the two views' means and so has
    exactly twice this.

    Args:
        z: embeddings of one view, shape ``(n, d)``.
        z_prime: embeddings of the other view of the same samples, same shape.
        temperature: τ > 0; traced.
        axis_name: of the devices that share the batch, as at the head of this module.

    Returns:
        The loss, a scalar, float32 or float64.

    Raises:
        ValueError: if the shapes differ or are not ``(n, d)``, are empty, values are not finite, or
            τ is not positive.

    Example:
        >>> import jax.numpy as jnp
        >>> from sslstep import losses
        >>> z = jnp.eye(2)
        >>> round(float(losses.simclr(z, z, temperature=1.0)), 4)  # -log(e / (e + 2))
        0.5514
    """
    z, z_prime = _pair(z, z_prime)
    _check.require_at_least("temperature", temperature, 0.0, strict=True)
    here = jnp.concatenate([_unit(z), _unit(z_prime)])
    others, first = here, jnp.zeros((), jnp.int32)
    n = z.shape[0]
    total = n * _num_devices(axis_name)
    if axis_name is not None:
        views = here.reshape(2, n, -1)
        others = jax.lax.all_gather(views, axis_name, axis=1, tiled=True).reshape(2 * total, -1)
        first = jax.lax.axis_index(axis_name) * n
    # Where this device's embeddings, and the other views of them, are among all.
    places = jnp.arange(2 * total, dtype=jnp.int32)
    own = first + jnp.concatenate([places[:n], total + places[:n]])
    positive = (own + total) % (2 * total)
    logits = matmul(here, others.T) / jnp.asarray(temperature, here.dtype)
    itself = own[:, None] == places[None, :]
    logits = jnp.where(itself, -jnp.inf, logits)
    agreement = jnp.take_along_axis(logits, positive[:, None], axis=1)[:, 0]
    loss = jnp.mean(jax.nn.logsumexp(logits, axis=1) - agreement)
    return _mean_of_devices(loss, axis_name)


def _pair(z: ArrayLike, z_prime: ArrayLike) -> list[Array]:
    """The embeddings of both views, checked, as float32 or float64."""
    _check.require_matrix("z", z, "(n, d)")
    _check.require_matrix("z_prime", z_prime, "(n, d)")
    if _check.shape_of(z) != _check.shape_of(z_prime):
        raise ValueError(
            f"z and z_prime hold the embeddings of two views of the same samples and must have one "
            f"shape (n, d), got {_check.shape_of(z)} and {_check.shape_of(z_prime)}."
        )
    _check.require_finite("z", z)
    _check.require_finite("z_prime", z_prime)
    pair = _check.as_floats(z, z_prime)
    dtype = jnp.float64 if pair[0].dtype == jnp.float64 else jnp.float32
    return [view.astype(dtype) for view in pair]


def _num_devices(axis_name: AxisName) -> int:
    return 1 if axis_name is None else jax.lax.axis_size(axis_name)


def _mean_of_devices(value: Array, axis_name: AxisName) -> Array:
    return value if axis_name is None else jax.lax.pmean(value, axis_name)


def _normalised(z: Array, eps: ArrayLike, axis_name: AxisName) -> Array:
    centred = z - _mean_of_devices(z.mean(axis=0, keepdims=True), axis_name)
    variance = _mean_of_devices(jnp.mean(centred**2, axis=0, keepdims=True), axis_name)
    return centred * jax.lax.rsqrt(variance + jnp.asarray(eps, z.dtype))


def _unit(z: Array) -> Array:
    return z * jax.lax.rsqrt(jnp.maximum(jnp.sum(z**2, axis=1, keepdims=True), 1e-24))
