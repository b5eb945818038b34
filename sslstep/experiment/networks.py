"""Functions of networks, and training for comparison with the infinite-width limit."""

from collections.abc import Callable
from functools import cache
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.tree_util import Partial

from sslstep import losses, nn, train
from sslstep.experiment import prediction, training
from sslstep.measure import spectrum
from sslstep.ntk import empirical


def batch_outputs(model: Any, params: Any, batch_stats: Any, x: jax.Array) -> nn.Outputs:
    """Return a network's outputs h and z for images, with batch norms in training mode."""
    variables = {"params": params, "batch_stats": batch_stats}
    outputs: nn.Outputs = model.apply(variables, x, train=True, mutable=["batch_stats"])[0]
    return outputs


@cache
def embedding(model: Any) -> Callable[..., jax.Array]:
    """Return a function of (batch_stats, params, x) that embeds samples x.

    The statistics of batch norms are fixed at `batch_stats`. With the argument `directions` the
    function projects the embeddings on its columns. Networks with equal settings share the
    function, so the NTK is compiled once for all of them.
    """

    def apply_fn(
        batch_stats: Any, params: Any, x: jax.Array, directions: jax.Array | None = None
    ) -> jax.Array:
        z = training.evaluated(model, params, batch_stats, x).z
        return z if directions is None else z @ directions

    return apply_fn


def settled_embedding(model: Any, state: train.TrainState, x: jax.Array) -> Callable[..., Any]:
    """Return :func:`embedding` with batch norms held at the statistics of samples x."""
    stats = training.settled(model, state.params, state.batch_stats, x)
    return Partial(embedding(model), stats)


@cache
def _with_fixed(model: Any) -> Callable[..., jax.Array]:
    """Return a function of (fixed parameters, parameters, x) that embeds samples x."""

    def apply_fn(fixed: Any, params: Any, x: jax.Array) -> Any:
        return model.apply({"params": {**fixed, **params}}, x)

    return apply_fn


def exact_ntk(model: Any, variables: Any, x: Any, *, only: str = "", **settings: Any) -> np.ndarray:
    """Return the NTK of a network with a field `dtype` in float64, or one layer's part of it.

    `only` names the layer whose parameters count; "" stands for all layers. `settings` are those of
    :func:`sslstep.ntk.empirical.ntk`.
    """
    with jax.enable_x64(True):
        variables, x = jax.tree.map(lambda leaf: jnp.asarray(leaf, jnp.float64), (variables, x))
        layers = variables["params"]
        trained = {name: layers[name] for name in layers if only in ("", name)}
        fixed = {name: layers[name] for name in layers if name not in trained}
        apply_fn = Partial(_with_fixed(model.clone(dtype=jnp.float64)), fixed)
        return np.asarray(empirical.ntk(apply_fn, trained, x, **settings))


class Functions(NamedTuple):
    """A model's embeddings, loss and eigenvalues of C as functions for training.

    Each takes ``(params, x, start, init_scale)``; ``start`` are the initial parameters. `loss_fn`
    is the loss as a function of the embeddings of both views.
    """

    embed: Callable[..., Any]
    loss: Callable[..., Any]
    eigenvalues: Callable[..., Any]
    loss_fn: Callable[..., Any]


def functions(
    apply_fn: Callable[..., Any], loss_fn: Callable[..., Any] = losses.simplified_barlow_twins
) -> Functions:
    """Return the functions of a model whose initial embeddings are scaled by ``init_scale``.

    ``apply_fn(params, x)`` returns the embeddings of ``[X, X']``.
    """

    def embed(params, x, start, init_scale):
        return nn.centred(apply_fn, start, init_scale)(params, x)

    def loss(params, *args):
        return loss_fn(*jnp.split(embed(params, *args), 2))

    def eigenvalues(params, *args):
        return spectrum.correlation_eigenvalues(*jnp.split(embed(params, *args), 2))

    return Functions(jax.jit(embed), loss, eigenvalues, loss_fn)


class Compared(NamedTuple):
    """A trained model and the limit's prediction from the model's initial embeddings.

    `initial` are the initial embeddings of training and held-out pairs, `times` the effective times
    of the records, and `distances` those of :func:`sslstep.experiment.prediction.distances`.
    """

    initial: tuple[Any, Any]
    times: Any
    trained: prediction.Outcome
    predicted: prediction.Outcome
    distances: list[float]


def compared(
    functions: Functions, params, inputs, init_scale: float, limit: prediction.Limit, at=None
) -> Compared:
    """Train a model, and compare it with gradient descent of the infinite-width kernel.

    `inputs` are the model's inputs for the training pairs and for the held-out pairs. `at` are the
    steps that are recorded, by default those of `prediction.record_at`. If they are given,
    eigenvalues are divided by those that are predicted for the end, because the eigenvalues of
    another loss do not rise to 1.
    """
    scale = jnp.float32(init_scale)
    z, z_test = (functions.embed(params, x, params, scale).astype(float) for x in inputs)
    steps = prediction.record_at(limit, z) if at is None else at
    descent = train.full_batch_descent(
        functions.loss,
        params,
        limit.learning_rate,
        int(steps[-1]),
        args=(inputs[0], params, scale),
        record_at=steps,
        measure=functions.eigenvalues,
    )
    end, end_test = (functions.embed(descent.params, x, params, scale) for x in inputs)
    times = descent.times
    trained = prediction.outcome(end, end_test, descent.records.astype(float), times)
    predicted = prediction.kernel_descent(limit, z, z_test, times, functions.loss_fn)
    if at is not None:
        level, both = predicted.curves[-1], (trained, predicted)
        trained, predicted = (prediction.relative_to(level, each, times) for each in both)
    distances = prediction.distances(trained, predicted, float(times[-1]))
    return Compared((z, z_test), times, trained, predicted, distances)
