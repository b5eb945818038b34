r"""A linear classifier trained by stochastic gradient descent."""

from collections.abc import Callable
from functools import partial
from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
import optax
from jax.typing import ArrayLike
from jaxtyping import Array, Float, Integer, Key, Real

from sslstep import _check
from sslstep._linalg import matmul
from sslstep.measure.probe._probe import Probe, require_labels, require_trained


class Protocol(NamedTuple):
    """Settings for training a linear classifier by gradient descent with momentum.

    The defaults are those of Barlow Twins and VICReg. The publications' learning rates were chosen
    for ImageNet features of a ResNet-50:

    =============  =======================  ========================================================
    publication    ``learning_rate``        settings that differ from the defaults
    =============  =======================  ========================================================
    Barlow Twins   0.3
    VICReg         0.02
    SimCLR         0.1 * batch_size / 256   ``nesterov=True, cosine="step", init_std=0.0``, and
                                            a ``weight_decay`` of 0 or the default
    =============  =======================  ========================================================

    Attributes:
        learning_rate: η, the initial learning rate; may be traced.
        num_epochs: number of passes over the training samples.
        batch_size: samples in a batch, at most the number of samples.
        momentum: μ, factor of the previous update; may be traced.
        nesterov: whether to use Nesterov momentum.
        weight_decay: β; β times weights and bias is added to their gradient; may be traced.
        init_std: standard deviation of the initial weights; the bias starts at 0; may be traced.
        cosine: how often the learning rate is updated, ``"epoch"`` or ``"step"``; it falls to zero
            along half a cosine.
    """

    learning_rate: Real[ArrayLike, ""]
    num_epochs: int = 100
    batch_size: int = 256
    momentum: Real[ArrayLike, ""] = 0.9
    nesterov: bool = False
    weight_decay: Real[ArrayLike, ""] = 1e-6
    init_std: Real[ArrayLike, ""] = 0.01
    cosine: Literal["epoch", "step"] = "epoch"


class Rates(NamedTuple):
    """The traced settings of a :class:`Protocol`."""

    learning_rate: ArrayLike
    momentum: ArrayLike
    weight_decay: ArrayLike
    init_std: ArrayLike


class Settings(NamedTuple):
    """The static settings of a :class:`Protocol`, which determine the compiled program."""

    num_classes: int
    num_epochs: int
    batch_size: int
    nesterov: bool
    cosine: Literal["epoch", "step"]


class State(NamedTuple):
    """The state of training between two steps: the probe and the optimiser's state."""

    probe: Probe
    momentum: Any


def sgd(
    key: Key[Array, ""],
    features: Float[ArrayLike, "n p"],
    labels: Integer[ArrayLike, " n"],
    protocol: Protocol,
    *,
    num_classes: int,
) -> Probe:
    r"""Train a linear classifier by SGD on fixed features, by the publications' protocol.

    Each step takes a batch B and updates θ = (W, b) by the gradient g of the multinomial
    cross-entropy and the momentum m:

    .. math:: g = \nabla_\theta\, \frac{-1}{|B|} \sum_{i \in B} \log
        \mathrm{softmax}(W^\top h_i + b)_{y_i} + \beta \theta, \qquad
        m \leftarrow \mu m + g, \qquad
        \theta \leftarrow \theta - \tfrac{\eta}{2} \left(1 + \cos \pi \tfrac{k}{K}\right) m,

    with the learning rate η, the momentum μ and the weight decay β of ``protocol``. Initially
    :math:`W \sim \mathcal{N}(0, \mathrm{init\_std}^2)`, b = 0 and m = 0. k of K is the number of
    completed epochs, or of completed steps if ``protocol.cosine`` is ``"step"``. Each epoch cuts a
    random permutation of the samples into batches and drops an incomplete last batch.

    Features are not rescaled: for a network from a small initialisation choose the learning rate in
    proportion to the inverse mean square of its features.

    For several learning rates at once: ``jax.vmap(lambda rate: probe.sgd(key, features, labels,
    probe.Protocol(rate), num_classes=c))(rates)``.

    Args:
        key: random key of the initial weights and the order of samples.
        features: h, shape ``(n, p)``.
        labels: y, classes 0...c-1, shape ``(n,)``.
        protocol: settings of the training.
        num_classes: c, the number of classes, at least 2.

    Returns:
        :class:`Probe`, in the features' dtype, or float32 if that dtype is shorter. Equal keys give
        bitwise equal results. Under ``jax.vmap`` or ``jax.jit`` divergence gives NaN.

    Raises:
        ValueError: if shapes do not fit, or values, labels or numbers are out of range, or training
            diverges.

    Example:
        >>> import jax, jax.numpy as jnp
        >>> from sslstep.measure import probe
        >>> labels = jnp.arange(64) % 2
        >>> features = jax.nn.one_hot(labels, 2)
        >>> protocol = probe.Protocol(learning_rate=0.3, batch_size=16)
        >>> fitted = probe.sgd(jax.random.key(0), features, labels, protocol, num_classes=2)
        >>> float(probe.accuracy(fitted, features, labels))
        1.0
    """
    h = _check.precise_matrix("features", features, "(n, p)")
    rates, settings = parts(protocol, num_classes)
    labels = require_valid("features", len(h), labels, rates, settings)
    fitted = _train(key, h, labels, Rates(*(jnp.asarray(v, h.dtype) for v in rates)), settings)
    return require_trained(
        fitted,
        f"training diverged, as learning_rate = {protocol.learning_rate} is too large for these "
        f"features.",
    )


@partial(jax.jit, static_argnames="settings")
def _train(key, h, labels, rates, settings):
    """Train for all epochs in one compiled loop; return the probe."""
    key_init, key_epochs = jax.random.split(key)

    def epoch(state, index):
        key = jax.random.fold_in(key_epochs, index)
        return train_epoch(key, state, index, lambda _, at: h[at], labels, rates, settings)

    start = init_state(key_init, h.shape[1], h.dtype, rates, settings)
    state, _ = jax.lax.scan(epoch, start, jnp.arange(settings.num_epochs))
    return state.probe


def parts(protocol: Protocol, num_classes: int) -> tuple[Rates, Settings]:
    """Split a protocol into its traced rates and its static settings."""
    rates = Rates(*(getattr(protocol, name) for name in Rates._fields))
    return rates, Settings(num_classes, *(getattr(protocol, n) for n in Settings._fields[1:]))


def require_valid(name: str, n: int, labels: ArrayLike, rates: Rates, settings: Settings) -> Array:
    """Return the labels; raise ValueError if labels or settings are invalid for n samples."""
    _check.require_within("num_classes", settings.num_classes, at_least=2)
    labels = require_labels("labels", labels, n, settings.num_classes)
    _check.require_within("num_epochs", settings.num_epochs, at_least=1)
    if not 1 <= settings.batch_size <= n:
        raise ValueError(
            f"batch_size must lie between 1 and the {n} samples of {name}, got "
            f"{settings.batch_size}."
        )
    _check.require_one_of("cosine", settings.cosine, ("epoch", "step"))
    for rate, value in rates._asdict().items():
        if _check.shape_of(value):
            raise ValueError(
                f"{rate} must be a scalar, got shape {_check.shape_of(value)}; use jax.vmap for "
                f"several."
            )
        _check.require_within(rate, value, at_least=0.0)
    return labels


def init_state(
    key: Array, num_features: int, dtype: Any, rates: Rates, settings: Settings
) -> State:
    """Return the initial state: random normal weights, zero bias, zero momentum."""
    shape = (num_features, settings.num_classes)
    weights = jnp.asarray(rates.init_std, dtype) * jax.random.normal(key, shape, dtype)
    probe = Probe(weights, jnp.zeros(shape[1], dtype))
    return State(probe, _direction(rates, settings).init(probe))


def train_epoch(
    key: Array,
    state: State,
    epoch: Array,
    features_fn: Callable[[Array, Array], Array],
    labels: Array,
    rates: Rates,
    settings: Settings,
) -> tuple[State, Array]:
    """Train for one epoch; return the state and the mean loss.

    `features_fn(key, indices)` returns the features of a batch of samples.
    """
    key_order, key_views = jax.random.split(key)
    n, size = labels.shape[0], settings.batch_size
    num_steps = n // size
    order = jax.random.permutation(key_order, n)[: num_steps * size].reshape(num_steps, size)
    direction = _direction(rates, settings)

    def step(state: State, inputs: tuple[Array, Array]) -> tuple[State, Array]:
        index, batch = inputs
        h = features_fn(jax.random.fold_in(key_views, index), batch)

        def loss(probe: Probe) -> Array:
            logits = matmul(h, probe.weights) + probe.bias[None, :]
            targets = labels[batch]
            return optax.softmax_cross_entropy_with_integer_labels(logits, targets).mean()

        value, gradient = jax.value_and_grad(loss)(state.probe)
        update, momentum = direction.update(gradient, state.momentum, state.probe)
        whole, now = settings.num_epochs, epoch
        if settings.cosine == "step":
            whole, now = whole * num_steps, epoch * num_steps + index
        rate = rates.learning_rate * (1 + jnp.cos(jnp.pi * now.astype(h.dtype) / whole)) / 2
        probe = jax.tree.map(lambda value, change: value - rate * change, state.probe, update)
        return State(probe, momentum), value

    state, losses = jax.lax.scan(step, state, (jnp.arange(num_steps), order))
    return state, losses.mean()


def _direction(rates: Rates, settings: Settings) -> optax.GradientTransformation:
    """Return the transformation from gradient to update direction: weight decay, then momentum."""
    decay = optax.add_decayed_weights(rates.weight_decay)
    return optax.chain(decay, optax.trace(rates.momentum, settings.nesterov))
