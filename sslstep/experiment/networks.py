"""Training of finite networks for comparison with their infinite-width limit."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from sslstep import losses, nn, train
from sslstep.experiment import prediction
from sslstep.measure import spectrum


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
