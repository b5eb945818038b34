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

    Each takes ``(params, x, start, init_scale)``; ``start`` are the initial parameters.
    """

    embed: Callable[..., Any]
    loss: Callable[..., Any]
    eigenvalues: Callable[..., Any]


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

    return Functions(jax.jit(embed), loss, eigenvalues)


def trained(
    functions: Functions, params, inputs, init_scale: float, limit: prediction.Limit, at=None
):
    """Train a model; return its initial embeddings, the outcome, and the times of the records.

    `inputs` are the model's inputs for the training pairs and for the held-out pairs. `at` are the
    steps that are recorded, by default those of `prediction.record_at`.
    """
    scale = jnp.float32(init_scale)
    initial = tuple(functions.embed(params, x, params, scale).astype(float) for x in inputs)
    at = prediction.record_at(limit, initial[0]) if at is None else at
    descent = train.full_batch_descent(
        functions.loss,
        params,
        limit.learning_rate,
        int(at[-1]),
        args=(inputs[0], params, scale),
        record_at=at,
        measure=functions.eigenvalues,
    )
    z, z_test = (functions.embed(descent.params, x, params, scale) for x in inputs)
    curves = descent.records.astype(float)
    return initial, prediction.outcome(z, z_test, curves, descent.times), descent.times
