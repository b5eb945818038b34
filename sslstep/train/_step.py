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


class TrainState(NamedTuple):
    """State of training between two steps.

    Attributes:
        step: number of steps done.
        params: parameters of the network.
        batch_stats: running averages of its batch norms; an empty dict if there are none.
        opt_state: state of the optimiser.
        key: random key of the run, from which the random numbers of every step and the order of the
            data are derived. It does not change from step to step.
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
    """Numbers that a step reports.

    Attributes:
        loss: loss of the whole batch before the update.
        grad_norm: Euclidean norm of the gradient by all parameters, before the update.
        own: scalars that the loss function returned in addition to the loss, by name.
    """

    loss: Float[Array, "..."]
    grad_norm: Float[Array, "..."]
    own: dict[str, Array]


@runtime_checkable
class Step(Protocol):
    """``step(state, images) -> (state, metrics)``, pure."""

    def __call__(self, state: TrainState, images: Any) -> tuple[TrainState, Metrics]:
        """Update the state by one step of training on a batch; see :func:`make_step`."""


def init_state(
    key: Key[Array, ""],
    network: Model | Objective,
    optimizer: optax.GradientTransformation,
    x: Float[Array, "n ..."],
    *,
    init_scale: Real[ArrayLike, ""] = 1.0,
    where: Callable[[str], bool] | None = None,
) -> TrainState:
    r"""Initialise the state of training.

    Args:
        key: random key. It is split in two: one key initialises the parameters, the other becomes
            the state's key.
        network: the :class:`Network` or :class:`Objective` to train.
        optimizer: the optimiser.
        x: inputs of the network, shape ``(n, ...)``. Their shape and dtype matter; one is enough.
        init_scale: α ≥ 0, which multiplies the initial parameters (:func:`sslstep.nn.scale_init`);
            traced.
        where: predicate that selects the parameters to scale by their paths below ``params``, such
            as ``"projector/output/kernel"``. Default: all parameters.

    Raises:
        ValueError: if α is negative or NaN, or ``where`` selects no parameter.
        TypeError: if ``network`` is not a :class:`Network`, or ``key`` is not a random key.

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
        # Copies: the step gives up the state's memory, and a module keeps its own averages.
        batch_stats=jax.tree.map(jnp.array, variables.get("batch_stats", {})),
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
    r"""Make the training step: views, embeddings, loss, gradient, update.

    .. math:: \theta \leftarrow \theta + \mathrm{optimizer}\big(\nabla_\theta
        \mathcal{L}(f(x; \theta), f(x'; \theta))\big)

    with the network f, its parameters θ, and two views x, x' of the batch. The step is a pure
    function of ``(state, images)``. :func:`compile_step` compiles it for any number of devices. The
    loss, its gradient and batch norms use the whole batch. The random numbers of an image depend on
    the key, the step and the image's place in the whole batch. The number of devices therefore
    changes the result by rounding only.

    With ``num_microbatches`` above 1, the activations of one microbatch at a time are in memory
    (Gao et al. 2021), for the cost of a second forward pass. The loss is still that of the whole
    batch. Batch norms use one microbatch at a time, which holds the same images on any number of
    devices.

    Args:
        network: the :class:`Network`, or an :class:`Objective`, which defines the arguments of the
            loss.
        loss_fn: ``loss_fn(z, z_prime)``, a scalar function of the embeddings of both views of the
            whole batch. For V views it is ``loss_fn(*embeddings)``, and for an objective
            ``loss_fn(*outputs)``. It may return a pair of the scalar and a dictionary of further
            scalars, which :class:`Metrics` reports as ``own``.
        optimizer: an optimiser of optax or :mod:`sslstep.optim`. Its ``update`` gets the keyword
            arguments that it takes: ``value``, the loss; ``grad``, its gradient; ``value_fn`` (for
            line searches) and ``obj_fn`` (for Sophia), the loss on this batch and these views as a
            function of the parameters; ``grad_fn`` (for SAM in opaque mode), the gradient of this
            function. Optimisers that need the gradient of each sample (``optax.contrib.dpsgd``) do
            not work, because these losses are not sums over samples.
        views_fn: ``views_fn(keys, images) -> (x, x_prime)`` with one key for each image, such as
            ``partial(data.two_views, views=data.barlow_twins_views(96))``. It may return a tuple of
            V views, or the views that the objective takes.
        joint_views: if true, all views pass through the network as one batch, with common batch
            statistics (SimCLR in TensorFlow). If false, they pass one after the other (Barlow
            Twins, VICReg).
        num_microbatches: number of parts in which the batch passes through the network. It must
            divide the batch, and under ``pmap`` each device's share of the batch. The parts are a
            loop. On a CPU use :func:`compile_step`: plain ``jax.jit`` runs convolutions inside a
            loop slowly.

    Returns:
        ``step(state, images) -> (state, metrics)``. ``images`` is the batch that ``views_fn``
        takes; ``metrics`` are :class:`Metrics`.

    Raises:
        ValueError: if ``num_microbatches`` is below 1 or does not divide the batch, ``joint_views``
            is true for an objective, or ``loss_fn`` does not return a scalar, alone or with
            scalars.
        TypeError: if ``network`` is not a :class:`Network`, or the optimiser needs an argument that
            the step does not give.

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
    _check.require_within("num_microbatches", num_microbatches, at_least=1)
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
            # Outputs in training mode do not depend on the running averages.
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
                f"num_microbatches = {num_microbatches} must divide the number of images in a "
                f"batch (with pmap, in a device's share of it), got {num} images."
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
        # Some optimisers of optax reject unknown keyword arguments.
        given = {name: v for name, v in given.items() if name in takes or takes_any}
        try:
            updates, opt_state = optimizer.update(grads, state.opt_state, state.params, **given)
        except (TypeError, ValueError) as error:
            raise (TypeError if isinstance(error, TypeError) else ValueError)(
                f"optimizer cannot make this step: {error} The optimiser is given the gradient of "
                f"the whole batch and, as keyword arguments, {', '.join(given) or 'nothing'}."
            ) from error
        params = optax.apply_updates(state.params, updates)
        done, variables = state.step + 1, {"params": params, "batch_stats": batch_stats}
        targets = chosen.next_targets(state.targets, variables, done)
        metrics = Metrics(loss, optax.tree.norm(grads), own)
        return TrainState(done, params, batch_stats, opt_state, state.key, targets), metrics

    return step


def _require_scalars(loss: Any, own: Any) -> None:
    shapes = {name: jnp.shape(value) for name, value in {"the loss": loss, **own}.items()}
    reserved = sorted({"step", "loss", "grad_norm"} & set(own))
    if any(shapes.values()) or reserved:
        wanted = "a scalar, or a pair of a scalar and a dictionary of scalars of names other than"
        raise ValueError(
            f"loss_fn must return {wanted} step, loss and grad_norm, got shapes {shapes}."
        )


def _with_gradient(value_and_grads: Callable[[PyTree], tuple[Array, PyTree]]) -> Any:
    """Make a function of the parameters that returns the value and has the given gradient.

    An optimiser may differentiate it, and gets the gradient averaged over all devices.
    """
    value: Any = jax.custom_vjp(lambda params: value_and_grads(params)[0])
    value.defvjp(
        value_and_grads,
        lambda grads, cotangent: (
            jax.tree.map(lambda grad: cotangent.astype(grad.dtype) * grad, grads),
        ),
    )

    # Line searches pass on the keyword arguments that they do not use themselves.
    def value_fn(params: PyTree, *, obj_fn: Any = None, grad_fn: Any = None) -> Array:
        return value(params)

    return value_fn


def _sample_keys(state: TrainState, num: int) -> Array:
    """Derive one key for each of this device's images from its place in the whole batch."""
    key = state.key if _keys.is_key(state.key) else jax.random.wrap_key_data(state.key)
    key = jax.random.fold_in(_keys.of_samples(key), state.step)
    return jax.vmap(lambda place: jax.random.fold_in(key, place))(_spread.places(num))
