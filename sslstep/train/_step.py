"""One step of training, as a pure function."""

import inspect
from collections.abc import Callable
from typing import Any, NamedTuple, Protocol, runtime_checkable

import jax
import jax.numpy as jnp
import optax
from jax.typing import ArrayLike
from jaxtyping import Array, Float, Int, Key, PyTree, Real

from sslstep import _check, _keys, nn
from sslstep.train import _spread
from sslstep.train._network import Model, initial_variables
from sslstep.train._objective import Objective, as_objective

__all__ = ["Metrics", "Step", "TrainState", "init_state", "make_step"]


class TrainState(NamedTuple):
    """All that the next step needs.

    Attributes:
        step: how many steps were done.
        params: the network's parameters.
        batch_stats: running averages of its batch norms; an empty dict if there are none.
        opt_state: the optimiser's state.
        key: from which the random numbers of every step are derived, and the order of the data. It
            does not change from step to step.
        targets: variables that follow the parameters without a gradient, such as BYOL's moving
            average; an empty dict if the :class:`Objective` has none.
    """

    step: Int[Array, ""]
    params: PyTree
    batch_stats: PyTree
    opt_state: PyTree
    key: Key[Array, ""]
    targets: PyTree


class Metrics(NamedTuple):
    """What a step reports.

    Attributes:
        loss: of the whole batch, before the step.
        grad_norm: Euclidean norm of the gradient by all parameters.
        own: numbers that the loss returned beside its value, by name; an empty dict if none.
    """

    loss: Float[Array, "..."]
    grad_norm: Float[Array, "..."]
    own: dict[str, Array]


@runtime_checkable
class Step(Protocol):
    """``step(state, images) -> (state, metrics)``, pure."""

    def __call__(self, state: TrainState, images: Any) -> tuple[TrainState, Metrics]:
        """One step of training on a batch; see :func:`make_step`."""


def init_state(
    key: Key[Array, ""],
    network: Model | Objective,
    optimizer: optax.GradientTransformation,
    x: Float[Array, "n ..."],
    *,
    init_scale: Real[ArrayLike, ""] = 1.0,
    where: Callable[[str], bool] | None = None,
) -> TrainState:
    r"""The state before the first step.

    Args:
        key: of the initial parameters and, split from it, of all the training's random numbers.
        network: the network, or the :class:`Objective`.
        optimizer: the optimiser.
        x: inputs as the network will see them, which tell their shape; one is enough.
        init_scale: α, by which :func:`sslstep.nn.scale_init` multiplies initial parameters; traced.
        where: which of them, as that function takes it, told by their paths below the network's
            ``params``, such as ``"projector/output/kernel"``. Default: all.

    Returns:
        The state.

    Raises:
        ValueError: if α is negative or NaN, or ``where`` is true of no path.
        TypeError: if the network has not the form of :class:`Network`, or ``key`` is no key.

    Example:
        >>> import jax, jax.numpy as jnp, optax
        >>> from sslstep import nn, train
        >>> backbone = nn.ResNet(stage_sizes=(1,), width=4, stem="small")
        >>> network = nn.Encoder(backbone, nn.Projector(hidden=(8,), dim=3))
        >>> x = jnp.zeros((2, 8, 8, 3))
        >>> state = train.init_state(jax.random.key(0), network, optax.sgd(0.1), x, init_scale=0.3)
        >>> int(state.step), sorted(state.params)
        (0, ['backbone', 'projector'])
    """
    _check.require_key("key", key)
    key_params, key_steps = jax.random.split(key)
    variables = initial_variables(network, key_params, x)
    params = nn.scale_init(variables["params"], init_scale, where)
    return TrainState(
        step=jnp.zeros((), jnp.int32),
        params=params,
        batch_stats=variables.get("batch_stats", {}),
        opt_state=optimizer.init(params),
        key=key_steps,
        targets=as_objective(network).first_targets({**variables, "params": params}),
    )


def make_step(
    network: Model | Objective,
    loss_fn: Callable[..., Any],
    optimizer: optax.GradientTransformation,
    views_fn: Callable[[Array, Any], Any],
    *,
    joint_views: bool = False,
    num_microbatches: int = 1,
) -> Step:
    r"""The step of training: views, embeddings, loss, gradient, update.

    .. math:: \theta \leftarrow \theta + \mathrm{optimizer}\big(\nabla_\theta
        \mathcal{L}(f(x; \theta), f(x'; \theta))\big)

    The result is a pure function of ``(state, images)``. It runs as it is, or compiled by
    :func:`compile_step` for any number of devices. Batch norms, the loss and the gradient are those
    of the whole batch, and the random numbers of an image depend on the key, the step and the
    image's place in the whole batch: the number of devices changes nothing but rounding.

    With ``num_microbatches`` above one, the loss and its gradient are still those of the whole
    batch: outputs are computed first, microbatch by microbatch, then the gradient of the loss by
    the outputs, then, with the activations of one microbatch at a time in memory, the gradient
    by the parameters (Gao et al. 2021). It costs a second forward pass. Batch norms then see one
    microbatch at a time: the same images on any number of devices.

    Args:
        network: as :class:`Network` says; or an :class:`Objective`, of which a network's embeddings
            are the simplest case.
        loss_fn: ``loss_fn(z, z_prime)``, a scalar, of the embeddings of both views of the whole
            batch, on any number of devices; of V views ``loss_fn(*views)``, and of an objective its
            outputs. It may return a pair of the scalar and a dictionary of further scalars, which
            are reported with every step.
        optimizer: any of optax's, or of :mod:`sslstep.optim`. It is given the loss as ``value``,
            its gradient as ``grad``, and the loss of this batch and these views as a function of
            parameters, ``value_fn``, for line searches; the function for Sophia, ``obj_fn``; and
            the function's gradient for SAM in its opaque mode, ``grad_fn``. Not those that want the
            gradient of each sample (``optax.contrib.dpsgd``): the losses here are no sums over
            samples.
        views_fn: ``views_fn(keys, images) -> (x, x_prime)`` with one key for each image, such as
            ``partial(data.two_views, views=data.barlow_twins_views(96))``; or a tuple of V views,
            or what the objective takes.
        joint_views: whether all views pass through a network as one batch, so that batch norms see
            them together (SimCLR in TensorFlow); else one after the other (Barlow Twins, VICReg).
        num_microbatches: in how many parts the batch passes through the network. Must divide it;
            under ``pmap``, each device's share of it. They are a loop: on a CPU compile it by
            :func:`compile_step`, as ``jax.jit`` runs convolutions slowly within one.

    Returns:
        ``step(state, images) -> (state, metrics)``. ``images`` is the batch, whatever ``views_fn``
        takes; ``metrics`` are :class:`Metrics`.

    Raises:
        ValueError: if ``num_microbatches`` is below 1, or ``joint_views`` is asked of an objective;
            from the step, if the former does not divide the batch, or the loss returns something
            else than a scalar, alone or with a dictionary of scalars.
        TypeError: from the step, if the network has not the form of :class:`Network`, or the
            optimiser wants what a step does not give it.

    Example:
        >>> import jax, jax.numpy as jnp, optax
        >>> from sslstep import data, losses, nn, train
        >>> backbone = nn.ResNet(stage_sizes=(1,), width=4, stem="small")
        >>> network = nn.Encoder(backbone, nn.Projector(hidden=(8,), dim=3))
        >>> sgd = optax.sgd(0.1)
        >>> def two_crops(keys, images):
        ...     return data.two_views(keys, images, data.crop_views(8))
        >>> state = train.init_state(jax.random.key(0), network, sgd, jnp.zeros((1, 8, 8, 3)))
        >>> step = jax.jit(train.make_step(network, losses.barlow_twins, sgd, two_crops))
        >>> images = jax.random.randint(jax.random.key(1), (16, 12, 12, 3), 0, 256).astype("uint8")
        >>> state, metrics = step(state, images)
        >>> int(state.step), metrics.loss.shape
        (1, ())
    """
    _check.require_at_least("num_microbatches", num_microbatches, 1)
    chosen = as_objective(network, joint_views)
    optimizer = optax.with_extra_args_support(optimizer)
    takes = inspect.signature(optimizer.update).parameters
    takes_any = any(each.kind is each.VAR_KEYWORD for each in takes.values())

    def outputs_of(params, state, keys, images):
        variables = {"params": params}
        if state.batch_stats:
            variables["batch_stats"] = state.batch_stats
        with _spread.synchronised():
            found, updated = chosen.outputs(variables, state.targets, views_fn(keys, images))
        return found, updated.get("batch_stats", state.batch_stats)

    def loss_of(outputs):
        found = loss_fn(*_spread.gathered(outputs))
        loss, own = found if isinstance(found, tuple) else (found, {})
        _require_scalars(loss, own)
        return loss, own

    def whole(state, keys, images):
        def descended(params):
            outputs, stats = outputs_of(params, state, keys, images)
            loss, own = loss_of(outputs)
            return loss, (own, stats)

        (loss, (own, stats)), grads = jax.value_and_grad(descended, has_aux=True)(state.params)
        return loss, own, stats, grads

    def in_parts(state, keys, images):
        parts = jax.tree.map(lambda leaf: _spread.split(leaf, num_microbatches), (keys, images))

        def forward(stats, part):
            outputs, stats = outputs_of(state.params, state._replace(batch_stats=stats), *part)
            return stats, outputs

        stats, outputs = jax.lax.scan(forward, state.batch_stats, parts)
        outputs = jax.tree.map(lambda rows: rows.reshape(-1, *rows.shape[2:]), outputs)
        (loss, own), cotangents = jax.value_and_grad(loss_of, has_aux=True)(outputs)
        cotangents = jax.tree.map(lambda rows: _spread.split(rows, num_microbatches), cotangents)

        def backward(grads, part):
            *part, cotangent = part
            # The running averages do not enter what is computed from a batch's own statistics.
            _, pull, _ = jax.vjp(
                lambda params: outputs_of(params, state, *part), state.params, has_aux=True
            )
            return jax.tree.map(jnp.add, grads, pull(cotangent)[0]), None

        zeros = jax.tree.map(jnp.zeros_like, state.params)
        grads, _ = jax.lax.scan(backward, zeros, (*parts, cotangents))
        return loss, own, stats, grads

    def step(state: TrainState, images: Any) -> tuple[TrainState, Metrics]:
        num = jax.tree.leaves(images)[0].shape[0]
        if num % num_microbatches:
            raise ValueError(
                f"num_microbatches = {num_microbatches} must divide the {num} images of a batch, "
                f"and under pmap those that a device has of it."
            )
        keys = _sample_keys(state, num)
        compute = whole if num_microbatches == 1 else in_parts

        def at(params):
            *found, grads = compute(state._replace(params=params), keys, images)
            return *found, _spread.mean(grads)

        loss, own, batch_stats, grads = at(state.params)
        value_fn = _with_gradient(lambda params: at(params)[::3])
        given = {
            "value": loss,
            "grad": grads,
            "value_fn": value_fn,
            "obj_fn": value_fn,
            "grad_fn": lambda params, i: at(params)[3],
        }
        # Some of optax's take no more than they use.
        given = {name: v for name, v in given.items() if name in takes or takes_any}
        try:
            updates, opt_state = optimizer.update(grads, state.opt_state, state.params, **given)
        except (TypeError, ValueError) as error:
            raise (TypeError if isinstance(error, TypeError) else ValueError)(
                f"optimizer cannot make this step: {error} A step has the gradient of the whole "
                f"batch, and gives the optimiser {', '.join(given)} beside it."
            ) from error
        params = optax.apply_updates(state.params, updates)
        done, variables = state.step + 1, {"params": params, "batch_stats": batch_stats}
        targets = chosen.next_targets(state.targets, variables, done)
        metrics = Metrics(loss, optax.tree.norm(grads), own)
        return TrainState(done, params, batch_stats, opt_state, state.key, targets), metrics

    return step


def _require_scalars(loss: Any, own: Any) -> None:
    shapes = {name: jnp.shape(value) for name, value in {"": loss, **own}.items()}
    reserved = sorted({"step", "loss", "grad_norm"} & set(own))
    if any(shapes.values()) or reserved:
        wanted = "a scalar, or a pair of a scalar and a dictionary of scalars of names other than"
        raise ValueError(
            f"loss_fn must return {wanted} step, loss and grad_norm, got shapes "
            f"{ {name or 'the loss': shape for name, shape in shapes.items()} }."
        )


def _with_gradient(value_and_grads: Callable[[PyTree], tuple[Array, PyTree]]) -> Any:
    """The value alone, a function of parameters whose derivative is the gradient that is given.

    An optimiser may differentiate it as it likes: the gradient is that of all devices.
    """
    value: Any = jax.custom_vjp(lambda params: value_and_grads(params)[0])
    value.defvjp(
        value_and_grads,
        lambda grads, cotangent: (
            jax.tree.map(lambda grad: cotangent.astype(grad.dtype) * grad, grads),
        ),
    )

    # Line searches hand on what they do not know, and ask that the function takes it.
    def value_fn(params: PyTree, *, obj_fn: Any = None, grad_fn: Any = None) -> Array:
        return value(params)

    return value_fn


def _sample_keys(state: TrainState, num: int) -> Array:
    """One key for each image at hand, by its place in the whole batch."""
    typed = jnp.issubdtype(state.key.dtype, jax.dtypes.prng_key)
    key = _keys.of_samples(state.key if typed else jax.random.wrap_key_data(state.key))
    key = jax.random.fold_in(key, state.step)
    return jax.vmap(lambda place: jax.random.fold_in(key, place))(_spread.places(num))
