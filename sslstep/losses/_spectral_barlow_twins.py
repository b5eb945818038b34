r"""Barlow Twins on transformed eigenvalues of C (Appendix G)."""

from collections.abc import Callable

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike
from jaxtyping import Array, Float, Real

from sslstep import _check, _spectral
from sslstep._linalg import matmul
from sslstep.losses._batch import correlation


def spectral_barlow_twins(
    z: Float[ArrayLike, "n d"],
    z_prime: Float[ArrayLike, "n d"],
    transform: Callable[[Array], Array],
    *,
    batch_norm: bool = True,
    eps: Real[ArrayLike, ""] = 1e-5,
) -> Float[Array, ""]:
    r"""Barlow Twins on transformed eigenvalues: any scalar function g (Appendix G).

    .. math:: \mathcal{L} = \| g(C) - I \|_F^2 = \sum_i \big(g(\lambda_i) - 1\big)^2, \qquad
        C = \frac{1}{2n} \sum_i \left( z_i z_i'^\top + z_i' z_i^\top \right)

    With ``transform=lambda x: x`` it is :func:`barlow_twins` with ``off_diagonal=1,
    symmetrise=True``. Transformations may be put together: see :func:`sharpen`. (The paper prints
    the norm without its square, which would couple the modes.)

    With φ = (g - 1)² the gradient by C is :math:`V \varphi'(\Lambda) V^\top`: exact where
    eigenvalues tie, finite where φ' is. It may be differentiated twice, forwards and in reverse:
    the second derivative has the divided differences
    :math:`(\varphi'(\lambda_i) - \varphi'(\lambda_j)) / (\lambda_i - \lambda_j)`, at ties φ''.
    A third derivative is not right at ties. Each gradient takes one eigendecomposition of C.

    Args:
        z: embeddings of one view, shape ``(n, d)``, n at least 2.
        z_prime: embeddings of the other view of the same samples, same shape.
        transform: g, from a scalar to a scalar, in JAX. It may close over traced numbers. A slope
            that is infinite at zero gives infinite gradients there.
        batch_norm: whether each dimension of each view is first brought to mean 0 and variance 1,
            as in :func:`barlow_twins`. The eigenvalues' sum is then at most d.
        eps: ε ≥ 0 of the batch norm, as in :func:`barlow_twins`; traced.

    Returns:
        The loss, a scalar, float32 or float64.

    Raises:
        ValueError: if the shapes differ or are not ``(n, d)``, are empty, values are not finite,
            the batch is of one sample, ε is negative or an array, or ``transform`` does not return
            a scalar.

    Example:
        >>> import jax.numpy as jnp
        >>> from sslstep import losses
        >>> z = jnp.array([[1.0, 0.0], [0.0, 1.0]])  # C = I / 2
        >>> float(losses.spectral_barlow_twins(z, z, lambda x: 2 * x, batch_norm=False))
        0.0
    """
    c = _symmetrised(z, z_prime, batch_norm, eps)
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
    batch_norm: bool = True,
    eps: Real[ArrayLike, ""] = 1e-5,
) -> Float[Array, ""]:
    r"""Barlow Twins with a kink at zero, which small eigenvalues leave at once (G.2, Figure 9B).

    .. math:: g(\lambda) = \mathrm{sign}(\lambda)
        \frac{\sqrt{|\lambda| + \delta} - \sqrt\delta}{\sqrt{1 + \delta} - \sqrt\delta}

    For δ = 0 it is the paper's square root, whose slope at zero is infinite. The slope here is at
    most :math:`\big(2 \sqrt\delta\, (\sqrt{1 + \delta} - \sqrt\delta)\big)^{-1}`, about
    :math:`1 / 2\sqrt\delta`, and g(1) is still 1. The slope counts in two ways: eigenvalues below δ
    grow exponentially, faster than those of plain Barlow Twins by this factor; and negative ones,
    which Γ has too, are driven back by the same factor, which bounds the learning rate
    (:func:`sslstep.dynamics.max_learning_rate`).


    Args:
        z: embeddings of one view, shape ``(n, d)``, n at least 2.
        z_prime: embeddings of the other view of the same samples, same shape.
        softening: δ > 0; traced.
        batch_norm: as in :func:`spectral_barlow_twins`.
        eps: ε ≥ 0 of the batch norm, as in :func:`barlow_twins`; traced.

    Returns:
        The loss, a scalar, float32 or float64.

    Raises:
        ValueError: as :func:`spectral_barlow_twins`, or if δ is not positive or an array.

    Example:
        >>> import jax.numpy as jnp
        >>> from sslstep import losses
        >>> z = 1e-6 * jnp.array([[1.0, 0.0], [0.0, 1.0]])
        >>> round(float(losses.sharpened_barlow_twins(z, z, batch_norm=False)), 3)
        2.0
    """
    _check.require_scalar("softening", softening, above=0.0)
    return spectral_barlow_twins(
        z,
        z_prime,
        lambda x: _spectral.sharpen(x, softening),
        batch_norm=batch_norm,
        eps=eps,
    )


def smoothed_barlow_twins(
    z: Float[ArrayLike, "n d"],
    z_prime: Float[ArrayLike, "n d"],
    *,
    leak: Real[ArrayLike, ""] = 0.0,
    batch_norm: bool = True,
    eps: Real[ArrayLike, ""] = 1e-5,
) -> Float[Array, ""]:
    r"""Barlow Twins with a flat side above one, for larger learning rates (G.3, Figure 9C).

    .. math:: g(\lambda) = \min(\lambda,\; 1 + \epsilon (1 - \lambda))

    With ε = 0 eigenvalues above 1 feel nothing, and stay where a large step has put them. With
    ε > 0 they come back to 1, at ε² times the speed. ε = 1 would bring back the plain loss.


    Args:
        z: embeddings of one view, shape ``(n, d)``, n at least 2.
        z_prime: embeddings of the other view of the same samples, same shape.
        leak: ε in [0, 1]; traced.
        batch_norm: as in :func:`spectral_barlow_twins`.
        eps: ε ≥ 0 of the batch norm, as in :func:`barlow_twins`; traced.

    Returns:
        The loss, a scalar, float32 or float64.

    Raises:
        ValueError: as :func:`spectral_barlow_twins`, or if ε of the leak is not within [0, 1]
            or an array.

    Example:
        >>> import jax.numpy as jnp
        >>> from sslstep import losses
        >>> z = jnp.array([[2.0, 0.0], [0.0, 2.0]])  # C = 2 I
        >>> [round(float(losses.smoothed_barlow_twins(z, z, leak=leak, batch_norm=False)), 3)
        ...  for leak in (0.0, 0.1, 1.0)]
        [0.0, 0.02, 2.0]
    """
    _check.require_scalar("leak", leak, at_least=0.0, at_most=1.0)
    return spectral_barlow_twins(
        z,
        z_prime,
        lambda x: _spectral.smooth(x, leak),
        batch_norm=batch_norm,
        eps=eps,
    )


def hinge_barlow_twins(
    z: Float[ArrayLike, "n d"],
    z_prime: Float[ArrayLike, "n d"],
    *,
    width: Real[ArrayLike, ""] = 0.1,
    batch_norm: bool = True,
    eps: Real[ArrayLike, ""] = 1e-5,
) -> Float[Array, ""]:
    r"""Barlow Twins with a flat basin around one (G.3).

    .. math:: \mathcal{L} = \sum_i \max(0,\, |\lambda_i - 1| - w)^2

    Eigenvalues within w of 1 feel nothing; a small start ends at 1 - w.


    Args:
        z: embeddings of one view, shape ``(n, d)``, n at least 2.
        z_prime: embeddings of the other view of the same samples, same shape.
        width: w in [0, 1), half the width of the basin; traced.
        batch_norm: as in :func:`spectral_barlow_twins`.
        eps: ε ≥ 0 of the batch norm, as in :func:`barlow_twins`; traced.

    Returns:
        The loss, a scalar, float32 or float64.

    Raises:
        ValueError: as :func:`spectral_barlow_twins`, or if w is not within [0, 1) or an
            array.

    Example:
        >>> import jax.numpy as jnp
        >>> from sslstep import losses
        >>> z = jnp.array([[1.5, 0.0], [0.0, 1.5]])  # C = 1.125 I
        >>> [round(float(losses.hinge_barlow_twins(z, z, width=w, batch_norm=False)), 3)
        ...  for w in (0.0, 0.1, 0.2)]
        [0.031, 0.001, 0.0]
    """
    _check.require_scalar("width", width, at_least=0.0, below=1.0)
    return spectral_barlow_twins(
        z,
        z_prime,
        lambda x: _spectral.flatten(x, width),
        batch_norm=batch_norm,
        eps=eps,
    )


def quartic_barlow_twins(
    z: Float[ArrayLike, "n d"],
    z_prime: Float[ArrayLike, "n d"],
    *,
    batch_norm: bool = True,
    eps: Real[ArrayLike, ""] = 1e-5,
) -> Float[Array, ""]:
    r"""Barlow Twins to the fourth power, without curvature at its minimum (G.3, Figure 9D).

    .. math:: \mathcal{L} = \sum_i (1 - \lambda_i)^4 = \big\| (I - C)^2 \big\|_F^2

    The second form needs no eigenvectors: it costs two products of d × d matrices beyond C.


    Args:
        z: embeddings of one view, shape ``(n, d)``, n at least 2.
        z_prime: embeddings of the other view of the same samples, same shape.
        batch_norm: as in :func:`spectral_barlow_twins`.
        eps: ε ≥ 0 of the batch norm, as in :func:`barlow_twins`; traced.

    Returns:
        The loss, a scalar, float32 or float64.

    Raises:
        ValueError: as :func:`spectral_barlow_twins`.

    Example:
        >>> import jax.numpy as jnp
        >>> from sslstep import losses
        >>> z = jnp.array([[1.0, 0.0], [0.0, 1.0]])  # C = I / 2
        >>> float(losses.quartic_barlow_twins(z, z, batch_norm=False))
        0.125
    """
    c = _symmetrised(z, z_prime, batch_norm, eps)
    rest = jnp.eye(c.shape[0], dtype=c.dtype) - c
    return jnp.sum(matmul(rest, rest) ** 2)


def _symmetrised(z: ArrayLike, z_prime: ArrayLike, batch_norm: bool, eps: ArrayLike) -> Array:
    c = correlation(z, z_prime, batch_norm, eps)
    return (c + c.T) / 2
