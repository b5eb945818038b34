"""The loss of Barlow Twins, the paper's simplification, and spectral forms (Appendix G)."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike
from jaxtyping import Array, Float, Real

from sslstep import _check, _spectral
from sslstep._linalg import matmul
from sslstep.losses._batch import correlation


def barlow_twins(
    z: Float[ArrayLike, "n d"],
    z_prime: Float[ArrayLike, "n d"],
    *,
    off_diagonal: Real[ArrayLike, ""] = 5e-3,
    batch_norm: bool = True,
    symmetrise: bool = False,
    eps: Real[ArrayLike, ""] = 1e-5,
) -> Float[Array, ""]:
    r"""Compute the loss of Barlow Twins (Zbontar et al. 2021).

    .. math:: \mathcal{L} = \sum_i (C_{ii} - 1)^2 + \lambda \sum_{i \ne j} C_{ij}^2, \qquad
        C = \frac1n \sum_i z_i z_i'^\top

    with the embeddings :math:`z_i, z_i'` of both views of sample i. The sums are not divided by d.
    The defaults are those of the publication. With ``off_diagonal=1, batch_norm=False,
    symmetrise=True`` the loss is :func:`simplified_barlow_twins`.

    Args:
        z: embeddings of one view, shape ``(n, d)``, n at least 2.
        z_prime: embeddings of the other view of the same samples, same shape.
        off_diagonal: λ ≥ 0, the weight of the off-diagonal terms; traced.
        batch_norm: whether to normalise each dimension of each view over the batch first:
            :math:`(z - \bar z) / \sqrt{\mathrm{var} + \epsilon}`, with the biased variance (divided
            by n) and without learned scale and shift.
        symmetrise: whether to replace C by :math:`(C + C^\top) / 2`.
        eps: ε ≥ 0 of the batch norm; traced. At 0 a dimension that is constant over the batch makes
            the loss NaN or, by rounding, arbitrary.

    Raises:
        ValueError: if ``off_diagonal`` or ``eps`` is negative or an array.

    Example:
        >>> import jax.numpy as jnp
        >>> from sslstep import losses
        >>> z = jnp.array([[1.0, 0.0], [0.0, 1.0]])
        >>> float(losses.barlow_twins(z, z, batch_norm=False))  # C = I / 2
        0.5
    """
    _check.require_scalar("off_diagonal", off_diagonal, at_least=0.0)
    c = correlation(z, z_prime, batch_norm, eps, symmetrise=symmetrise)
    diagonal = jnp.eye(c.shape[0], dtype=bool)
    off = jnp.asarray(off_diagonal, c.dtype)
    return jnp.sum(jnp.where(diagonal, (c - 1) ** 2, off * c**2))


def simplified_barlow_twins(
    z: Float[ArrayLike, "n d"],
    z_prime: Float[ArrayLike, "n d"],
) -> Float[Array, ""]:
    r"""Compute the simplified Barlow Twins loss of the paper's theory (Eqs. 1 and 2).

    .. math:: \mathcal{L} = \| C - I \|_F^2, \qquad
        C = \frac{1}{2n} \sum_i \left( z_i z_i'^\top + z_i' z_i^\top \right)

    with the embeddings :math:`z_i, z_i'` of both views of sample i. For a linear model it equals
    :func:`sslstep.linear.loss` (Eq. 5).

    Args:
        z: embeddings of one view, shape ``(n, d)``, n at least 2.
        z_prime: embeddings of the other view of the same samples, same shape.

    Example:
        >>> import jax.numpy as jnp
        >>> from sslstep import losses
        >>> z = jnp.array([[1.0, 0.0], [0.0, 1.0]])
        >>> z_prime = jnp.array([[1.0, 0.0], [1.0, 1.0]])
        >>> float(losses.simplified_barlow_twins(z, z_prime))  # C = [[1/2, 1/4], [1/4, 1/2]]
        0.625
    """
    return barlow_twins(z, z_prime, off_diagonal=1.0, batch_norm=False, symmetrise=True)


def spectral_barlow_twins(
    z: Float[ArrayLike, "n d"],
    z_prime: Float[ArrayLike, "n d"],
    transform: Callable[[Array], Array],
    *,
    batch_norm: bool = True,
    eps: Real[ArrayLike, ""] = 1e-5,
) -> Float[Array, ""]:
    r"""Compute the Barlow Twins loss on eigenvalues transformed by a function g (Appendix G).

    .. math:: \mathcal{L} = \| g(C) - I \|_F^2 = \sum_i \big(g(\lambda_i) - 1\big)^2, \qquad
        C = \frac{1}{2n} \sum_i \left( z_i z_i'^\top + z_i' z_i^\top \right)

    with the eigenvalues :math:`\lambda_i` of C. With ``transform=lambda x: x`` the loss is
    :func:`barlow_twins` with ``off_diagonal=1, symmetrise=True``. Transformations can be composed:
    see :func:`sharpen`. (The paper prints the norm without its square, which would couple the
    modes.)

    Let φ = (g - 1)² and :math:`C = V \Lambda V^\top`. The gradient by C is
    :math:`V \varphi'(\Lambda) V^\top`, which is exact for equal eigenvalues and finite where φ' is.
    The second derivative, forward or reverse, uses the divided differences
    :math:`(\varphi'(\lambda_i) - \varphi'(\lambda_j)) / (\lambda_i - \lambda_j)`, and φ'' for equal
    eigenvalues. The third derivative is wrong for equal eigenvalues. Each gradient takes one
    eigendecomposition of C.

    Args:
        z: embeddings of one view, shape ``(n, d)``, n at least 2.
        z_prime: embeddings of the other view of the same samples, same shape.
        transform: g, a JAX function from a scalar to a scalar. It may close over traced numbers. An
            infinite slope at zero gives infinite gradients there.
        batch_norm: whether to normalise each dimension of each view over the batch first; see
            :func:`barlow_twins`. The sum of the eigenvalues is then at most d.
        eps: ε ≥ 0, added to the variance in the batch norm; traced.

    Raises:
        ValueError: if ``eps`` is negative or an array, or ``transform`` does not return a scalar.

    Example:
        >>> import jax.numpy as jnp
        >>> from sslstep import losses
        >>> z = jnp.array([[1.0, 0.0], [0.0, 1.0]])  # C = I / 2
        >>> float(losses.spectral_barlow_twins(z, z, lambda x: 2 * x, batch_norm=False))
        0.0
    """
    c = correlation(z, z_prime, batch_norm, eps, symmetrise=True)
    shape = jax.eval_shape(transform, jax.ShapeDtypeStruct((), c.dtype)).shape
    if shape != ():
        raise ValueError(
            f"transform must take a scalar to a scalar, of shape (), but returns shape {shape}."
        )
    return _spectral.trace(_spectral.squared_distance(transform), c)


def sharpened_barlow_twins(
    z: Float[ArrayLike, "n d"],
    z_prime: Float[ArrayLike, "n d"],
    *,
    softening: Real[ArrayLike, ""] = 1e-4,
    **settings: Any,
) -> Float[Array, ""]:
    r"""Compute the Barlow Twins loss with a steep transform near zero (G.2, Figure 9B).

    .. math:: g(\lambda) = \mathrm{sign}(\lambda)
        \frac{\sqrt{|\lambda| + \delta} - \sqrt\delta}{\sqrt{1 + \delta} - \sqrt\delta}

    is the transform of an eigenvalue λ of C. Small eigenvalues grow faster than under Barlow Twins.
    At δ = 0 it is the paper's square root, whose slope at zero is infinite. For δ > 0 the slope is
    at most :math:`\big(2 \sqrt\delta\, (\sqrt{1 + \delta} - \sqrt\delta)\big)^{-1}`, about
    :math:`1 / 2\sqrt\delta`, and g(1) = 1. Positive eigenvalues below δ grow exponentially, faster
    than under Barlow Twins by this factor. Negative eigenvalues shrink faster by the same factor,
    which bounds the learning rate (:func:`sslstep.dynamics.max_learning_rate`).

    Args:
        z: embeddings of one view, shape ``(n, d)``, n at least 2.
        z_prime: embeddings of the other view of the same samples, same shape.
        softening: δ > 0; traced.
        **settings: ``batch_norm`` and ``eps`` of :func:`spectral_barlow_twins`.

    Raises:
        ValueError: if ``softening`` is not a positive number.

    Example:
        >>> import jax.numpy as jnp
        >>> from sslstep import losses
        >>> z = 1e-6 * jnp.array([[1.0, 0.0], [0.0, 1.0]])
        >>> round(float(losses.sharpened_barlow_twins(z, z, batch_norm=False)), 3)
        2.0
    """
    _check.require_scalar("softening", softening, above=0.0)
    return spectral_barlow_twins(z, z_prime, lambda x: _spectral.sharpen(x, softening), **settings)


def smoothed_barlow_twins(
    z: Float[ArrayLike, "n d"],
    z_prime: Float[ArrayLike, "n d"],
    *,
    leak: Real[ArrayLike, ""] = 0.0,
    **settings: Any,
) -> Float[Array, ""]:
    r"""Compute the Barlow Twins loss with a flat side above 1, for larger rates (G.3, Figure 9C).

    .. math:: g(\lambda) = \min(\lambda,\; 1 + \epsilon (1 - \lambda))

    is the transform of an eigenvalue λ of C, with ε = ``leak``. At ε = 0 eigenvalues above 1 have
    no gradient, and stay where a large step has put them. At ε > 0 their gradient is ε² times that
    of Barlow Twins, and they return to 1. At ε = 1 the loss is that of Barlow Twins.

    Args:
        z: embeddings of one view, shape ``(n, d)``, n at least 2.
        z_prime: embeddings of the other view of the same samples, same shape.
        leak: ε of the transform, in [0, 1]; traced.
        **settings: ``batch_norm`` and ``eps`` of :func:`spectral_barlow_twins`.

    Raises:
        ValueError: if ``leak`` is not a number in [0, 1].

    Example:
        >>> import jax.numpy as jnp
        >>> from sslstep import losses
        >>> z = jnp.array([[2.0, 0.0], [0.0, 2.0]])  # C = 2 I
        >>> [round(float(losses.smoothed_barlow_twins(z, z, leak=leak, batch_norm=False)), 3)
        ...  for leak in (0.0, 0.1, 1.0)]
        [0.0, 0.02, 2.0]
    """
    _check.require_scalar("leak", leak, at_least=0.0, at_most=1.0)
    return spectral_barlow_twins(z, z_prime, lambda x: _spectral.smooth(x, leak), **settings)


def hinge_barlow_twins(
    z: Float[ArrayLike, "n d"],
    z_prime: Float[ArrayLike, "n d"],
    *,
    width: Real[ArrayLike, ""] = 0.1,
    **settings: Any,
) -> Float[Array, ""]:
    r"""Compute the Barlow Twins loss with a flat basin around eigenvalue 1 (G.3).

    .. math:: \mathcal{L} = \sum_i \max(0,\, |\lambda_i - 1| - w)^2

    with the eigenvalues :math:`\lambda_i` of C. Eigenvalues within w of 1 have no gradient. From a
    small start they rise to 1 - w.

    Args:
        z: embeddings of one view, shape ``(n, d)``, n at least 2.
        z_prime: embeddings of the other view of the same samples, same shape.
        width: w in [0, 1), half the width of the basin; traced.
        **settings: ``batch_norm`` and ``eps`` of :func:`spectral_barlow_twins`.

    Raises:
        ValueError: if ``width`` is not a number in [0, 1).

    Example:
        >>> import jax.numpy as jnp
        >>> from sslstep import losses
        >>> z = jnp.array([[1.5, 0.0], [0.0, 1.5]])  # C = 1.125 I
        >>> [round(float(losses.hinge_barlow_twins(z, z, width=w, batch_norm=False)), 3)
        ...  for w in (0.0, 0.1, 0.2)]
        [0.031, 0.001, 0.0]
    """
    _check.require_scalar("width", width, at_least=0.0, below=1.0)
    return spectral_barlow_twins(z, z_prime, lambda x: _spectral.flatten(x, width), **settings)


def quartic_barlow_twins(
    z: Float[ArrayLike, "n d"],
    z_prime: Float[ArrayLike, "n d"],
    *,
    batch_norm: bool = True,
    eps: Real[ArrayLike, ""] = 1e-5,
) -> Float[Array, ""]:
    r"""Compute the quartic Barlow Twins loss, without curvature at its minimum (G.3, Figure 9D).

    .. math:: \mathcal{L} = \sum_i (1 - \lambda_i)^4 = \big\| (I - C)^2 \big\|_F^2

    with the eigenvalues :math:`\lambda_i` of C. The function uses the second form, which needs no
    eigendecomposition.

    Args:
        z: embeddings of one view, shape ``(n, d)``, n at least 2.
        z_prime: embeddings of the other view of the same samples, same shape.
        batch_norm: whether to normalise each dimension of each view over the batch first; see
            :func:`barlow_twins`.
        eps: ε ≥ 0, added to the variance in the batch norm; traced.

    Raises:
        ValueError: if ``eps`` is negative or an array.

    Example:
        >>> import jax.numpy as jnp
        >>> from sslstep import losses
        >>> z = jnp.array([[1.0, 0.0], [0.0, 1.0]])  # C = I / 2
        >>> float(losses.quartic_barlow_twins(z, z, batch_norm=False))
        0.125
    """
    c = correlation(z, z_prime, batch_norm, eps, symmetrise=True)
    rest = jnp.eye(c.shape[0], dtype=c.dtype) - c
    return jnp.sum(matmul(rest, rest) ** 2)
