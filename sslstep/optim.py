r"""Optimisers and schedules of Barlow Twins, SimCLR and VICReg; Appendix G's preconditioner.

Optimisers are of type ``optax.GradientTransformation``. A learning rate is a number or a schedule,
which maps the step to a number. The preconditioner acts on the gradient by the embeddings, inside
the loss, and combines with any optimiser.
"""

from collections.abc import Callable
from functools import wraps
from typing import Any

import jax
import jax.numpy as jnp
import optax
from jax.typing import ArrayLike
from jaxtyping import Array, Float, PyTree, Real

from sslstep import _check
from sslstep._linalg import centred, matmul
from sslstep.losses._batch import pair

__all__ = ["lars", "precondition", "preconditioned", "sgd", "warmup_cosine"]


def lars(
    learning_rate: optax.ScalarOrSchedule,
    *,
    bias_learning_rate: optax.ScalarOrSchedule | None = None,
    momentum: float = 0.9,
    weight_decay: float = 1e-6,
    trust_coefficient: float = 1e-3,
) -> optax.GradientTransformation:
    r"""Build LARS (You et al. 2017), in the variant of Barlow Twins and VICReg.

    For each array of weights w with gradient g and momentum buffer m,

    .. math:: g \leftarrow g + \beta w, \qquad
        g \leftarrow \kappa \frac{\|w\|}{\|g\|}\, g, \qquad
        m \leftarrow \mu m + g, \qquad w \leftarrow w - \eta\, m.

    The second operation is skipped if either norm is 0. One-dimensional arrays (biases, scales and
    shifts of batch norms) skip the first two: they have no weight decay and no adaptation.

    The learning rate η multiplies the momentum, as in PyTorch. ``optax.lars`` multiplies the
    gradient before the momentum, which delays changes of the rate, and adapts all parameters by
    default.

    The second operation removes the size of g. Plateaus of the loss are therefore shorter than
    under gradient descent (:func:`sslstep.dynamics.lars_steps`).

    Args:
        learning_rate: η, a number or a schedule.
        bias_learning_rate: η of one-dimensional arrays; None for ``learning_rate``.
        momentum: μ.
        weight_decay: β.
        trust_coefficient: κ.

    Returns:
        The optimiser. Its ``update`` needs the parameters.

    Raises:
        ValueError: if an argument is negative or an array.

    Example:
        >>> from sslstep import optim
        >>> rate = optim.warmup_cosine(0.2, warmup_steps=10, total_steps=100)
        >>> optimizer = optim.lars(rate, weight_decay=1.5e-6)
    """
    _require_rate("learning_rate", learning_rate)
    _require_rate("bias_learning_rate", bias_learning_rate)
    for name, value in (
        ("momentum", momentum),
        ("weight_decay", weight_decay),
        ("trust_coefficient", trust_coefficient),
    ):
        _check.require_scalar(name, value, at_least=0.0)
    adapt = optax.chain(
        optax.add_decayed_weights(weight_decay),
        optax.scale_by_trust_ratio(trust_coefficient=trust_coefficient),
    )
    bias_rate = learning_rate if bias_learning_rate is None else bias_learning_rate
    return optax.chain(
        optax.masked(adapt, _is_weight),
        optax.trace(momentum),
        optax.masked(optax.scale_by_learning_rate(learning_rate), _is_weight),
        optax.masked(optax.scale_by_learning_rate(bias_rate), _is_bias),
    )


def sgd(
    learning_rate: optax.ScalarOrSchedule,
    *,
    momentum: float = 0.0,
    nesterov: bool = False,
    weight_decay: float = 0.0,
) -> optax.GradientTransformation:
    r"""Build stochastic gradient descent with weight decay in the gradient, as in PyTorch.

    .. math:: m \leftarrow \mu m + g + \beta w, \qquad w \leftarrow w - \eta\, m,

    with parameters w, their gradient g and the momentum buffer m. With Nesterov momentum,
    :math:`w \leftarrow w - \eta\, (\mu m + g + \beta w)`.

    Args:
        learning_rate: η, a number or a schedule.
        momentum: μ.
        nesterov: whether to use Nesterov momentum, as SimCLR's TensorFlow code does.
        weight_decay: β, applied to all parameters.

    Returns:
        The optimiser. Its ``update`` needs the parameters if ``weight_decay`` is not 0.

    Raises:
        ValueError: if an argument is negative or an array.

    Example:
        >>> from sslstep import optim
        >>> optimizer = optim.sgd(0.5, momentum=0.9, weight_decay=1e-5)
    """
    _require_rate("learning_rate", learning_rate)
    _check.require_scalar("momentum", momentum, at_least=0.0)
    _check.require_scalar("weight_decay", weight_decay, at_least=0.0)
    descent = optax.sgd(learning_rate, momentum=momentum or None, nesterov=nesterov)
    if not weight_decay:
        return descent
    return optax.chain(optax.add_decayed_weights(weight_decay), descent)


def _require_rate(name: str, rate: optax.ScalarOrSchedule | None) -> None:
    """Check a learning rate; the values of a schedule are unknown and pass."""
    if rate is not None and not callable(rate):
        _check.require_scalar(name, rate, at_least=0.0)


def precondition(
    z: Float[ArrayLike, "n d"],
    z_prime: Float[ArrayLike, "n d"],
    *,
    alpha: Real[ArrayLike, ""] = 0.1,
    relative: bool = True,
    strength: Real[ArrayLike, ""] = 1.0,
    centre: bool = False,
) -> tuple[Float[Array, "n d"], Float[Array, "n d"]]:
    r"""Precondition the gradient by the embeddings towards their small directions (Eq. 52).

    The function is the identity. Its backward pass multiplies the gradient by a matrix,

    .. math:: \nabla_F \mathcal{L} \leftarrow \nabla_F \mathcal{L}\, P, \qquad
        P = (\sigma_1 + \alpha) (S + \alpha I)^{-1}, \qquad S = \frac{1}{2n} F^\top F,

    where F, shape ``(2n, d)``, stacks the embeddings of both views of the whole batch, and
    :math:`\sigma_1` is the largest eigenvalue of S. The factor in front is not in Eq. 52. It keeps
    the gradient along the direction of largest variance, and with it the meaning of the learning
    rate. A direction of variance σ gains a factor :math:`(\sigma_1 + \alpha) / (\sigma + \alpha)`,
    at most :math:`1 + \sigma_1 / \alpha`. P is not differentiated.

    The factor also applies to directions that the loss shrinks, such as those along which the views
    disagree. Their largest stable learning rate decreases by this factor
    (:func:`sslstep.dynamics.max_learning_rate`).

    Args:
        z: embeddings of one view, shape ``(n, d)``.
        z_prime: embeddings of the other view of these samples, shape ``(n, d)``.
        alpha: regulariser α > 0; a smaller one gains more; traced.
        relative: if true, α is in units of :math:`\sigma_1`, and the gain is at most 1 + 1/α at any
            scale of the embeddings. If false, α is absolute, and the gain starts once
            :math:`\sigma_1` reaches α.
        strength: κ in [0, 1], which replaces P by (1 - κ) I + κ P; traced. A value that rises with
            the step is a warm-up; see the example of :func:`preconditioned`.
        centre: if true, S is the covariance of the 2n embeddings. If false, as in the paper, the
            mean of the embeddings counts as variance.

    Returns:
        ``(z, z_prime)``, with unchanged values and dtypes. P is computed in float32, or in float64
        for float64 embeddings, and is I if all embeddings are zero. Reverse mode only: the modified
        gradient is not the gradient of any function.

    Raises:
        ValueError: if the embeddings do not fit or are not finite, or α or κ is out of its range.

    Example:
        >>> import jax, jax.numpy as jnp
        >>> from sslstep import losses, optim
        >>> z = jnp.array([[1.0, 0.0], [0.0, 0.1]])
        >>> def loss(z):
        ...     pair = optim.precondition(z, z, alpha=0.01)
        ...     return losses.barlow_twins(*pair, batch_norm=False)
        >>> gain = jax.grad(loss)(z) / jax.grad(lambda z: losses.barlow_twins(
        ...     z, z, batch_norm=False))(z)
        >>> [round(float(g), 2) for g in jnp.diagonal(gain)]
        [1.0, 50.5]
    """
    views = pair(z, z_prime)
    _check.require_scalar("alpha", alpha, above=0.0)
    _check.require_scalar("strength", strength, at_least=0.0, at_most=1.0)
    z, z_prime = jnp.asarray(z), jnp.asarray(z_prime)
    f = jnp.concatenate(jax.lax.stop_gradient(views))
    if centre:
        f = centred(f)
    # In units of the largest entry, so that squares of small embeddings do not underflow.
    unit = jnp.max(jnp.abs(f))
    unit = jnp.where(unit > 0, unit, 1)
    s = matmul((f / unit).T, f / unit) / f.shape[0]
    sigma, vectors = jnp.linalg.eigh((s + s.T) / 2)
    sigma = jnp.maximum(sigma, 0)
    alpha = jnp.asarray(alpha, f.dtype)
    # In units of sigma_1.
    largest = sigma[-1]
    ratio = jnp.where(largest > 0, sigma / jnp.where(largest > 0, largest, 1), 1)
    shift = alpha if relative else alpha / jnp.maximum(largest * unit**2, jnp.finfo(f.dtype).tiny)
    shift = jnp.maximum(shift, jnp.finfo(f.dtype).eps)  # the precision of eigenvalues
    gain = jnp.where(jnp.isinf(shift), 1, (1 + shift) / (ratio + shift))
    kappa = jnp.asarray(strength, f.dtype)
    matrix = matmul(vectors * (1 + kappa * (gain - 1))[None, :], vectors.T)
    matrix = jax.lax.stop_gradient(matrix)
    return _with_gradient_times(z, matrix), _with_gradient_times(z_prime, matrix)


@jax.custom_vjp
def _with_gradient_times(z: Array, matrix: Array) -> Array:
    """Return z; the backward pass multiplies the cotangent by the matrix."""
    return z


def _forward(z, matrix):
    return z, matrix


def _backward(matrix, cotangent):
    product = matmul(cotangent.astype(matrix.dtype), matrix)
    return product.astype(cotangent.dtype), jnp.zeros_like(matrix)


_with_gradient_times.defvjp(_forward, _backward)


def preconditioned(loss_fn: Callable[..., Array], **settings: Any) -> Callable[..., Array]:
    r"""Wrap a loss to precondition its gradient (:func:`precondition`); values do not change.

    :func:`sslstep.train.make_step` takes the wrapped loss, also with microbatches and on several
    devices. For a strength that depends on the step, call ``make_step`` inside a function of the
    state, as in the example.

    Args:
        loss_fn: ``loss_fn(z, z_prime, ...)``, a scalar.
        **settings: ``alpha``, ``relative``, ``strength`` and ``centre`` of :func:`precondition`.

    Returns:
        ``loss(z, z_prime, *args, **kwargs)``, which raises ValueError under the conditions of
        :func:`precondition`.

    Example:
        >>> import jax, jax.numpy as jnp, optax
        >>> from sslstep import data, losses, nn, optim, train
        >>> backbone = nn.ResNet(stage_sizes=(1,), width=4, stem="small")
        >>> network = nn.Encoder(backbone, nn.Projector(hidden=(8,), dim=3))
        >>> sgd, warmup = optax.sgd(0.1), optax.linear_schedule(0.0, 1.0, 1000)
        >>> def two_crops(keys, images):
        ...     return data.two_views(keys, images, data.crop_views(8))
        >>> def step(state, images):
        ...     loss = optim.preconditioned(losses.vicreg, strength=warmup(state.step))
        ...     return train.make_step(network, loss, sgd, two_crops)(state, images)
        >>> state = train.init_state(jax.random.key(0), network, sgd, jnp.zeros((1, 8, 8, 3)))
        >>> images = jnp.zeros((4, 12, 12, 3), "uint8")
        >>> state, metrics = jax.jit(step)(state, images)
        >>> int(state.step)
        1
    """

    @wraps(loss_fn)
    def loss(z: Any, z_prime: Any, *args: Any, **kwargs: Any) -> Array:
        return loss_fn(*precondition(z, z_prime, **settings), *args, **kwargs)

    return loss


def warmup_cosine(
    peak: float, *, warmup_steps: int, total_steps: int, end_factor: float = 1e-3
) -> optax.Schedule:
    r"""Build a learning rate schedule with linear warm-up from 0 and cosine decay, per step.

    .. math:: \eta(k) = \begin{cases} \eta_0\, k / w & k < w \\
        \eta_0 \left( q + (1 - q) f \right), \quad
        q = \tfrac12 \left(1 + \cos \pi \tfrac{k - w}{n - w}\right) & w \le k \le n \end{cases}

    with the rate η(k) at step k.

    Args:
        peak: largest rate η₀.
        warmup_steps: length w of the warm-up; 10 epochs in the publications.
        total_steps: length n of the schedule.
        end_factor: final rate as a fraction f of the peak.

    Returns:
        The schedule, which maps the step, counted from 0, to the rate.

    Raises:
        ValueError: if a number is negative or an array, or unless ``warmup_steps`` <
            ``total_steps``.

    Example:
        >>> from sslstep import optim
        >>> rate = optim.warmup_cosine(0.2, warmup_steps=10, total_steps=100)
        >>> [round(float(rate(k)), 4) for k in (0, 5, 10, 55, 100)]
        [0.0, 0.1, 0.2, 0.1001, 0.0002]
    """
    _check.require_scalar("peak", peak, at_least=0.0)
    _check.require_scalar("end_factor", end_factor, at_least=0.0)
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
    # optax counts steps in integers; strict dtype promotion rejects integers beside floats.
    return lambda step: schedule(jnp.asarray(step, jnp.result_type(float)))


def _is_weight(params: PyTree) -> PyTree:
    return jax.tree.map(lambda array: array.ndim > 1, params)


def _is_bias(params: PyTree) -> PyTree:
    return jax.tree.map(lambda array: array.ndim <= 1, params)
