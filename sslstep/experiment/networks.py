"""Finite networks for comparison with their infinite-width limit, trained in few inputs.

N samples span at most N dimensions of their inputs, and gradients never leave that span. In a basis
of it a wide network is the same network, an exact change of variables, and costs much less.
"""

from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from sslstep import losses, nn, train
from sslstep.experiment import prediction
from sslstep.measure import spectrum


class Functions(NamedTuple):
    """What training takes: all are functions of ``(params, x, start, init_scale)``."""

    embed: Callable[..., Any]
    loss: Callable[..., Any]
    eigenvalues: Callable[..., Any]


def basis(*samples) -> jax.Array:
    """An orthonormal basis of the span of all samples, (m, k) columns."""
    return jnp.linalg.qr(jnp.concatenate(samples).T)[0]


def rotated(basis, model: nn.MLP, *samples) -> tuple[jax.Array, ...]:
    """Samples in that basis, as `model` takes them.

    The NTK parameterisation divides by the root of the number of inputs, which has changed.
    """
    m, k = basis.shape
    scale = (k / m) ** 0.5 if model.parameterization == "ntk" else 1.0
    return tuple((scale * x @ basis).astype(model.dtype) for x in samples)


@partial(jax.jit, static_argnames="model")
def init(key, basis, *, model: nn.MLP):
    """Parameters that make of rotated samples what those drawn make of the samples."""
    drawn = model.init(key, basis.T)["params"]
    kernel = jnp.matmul(basis.T.astype(model.dtype), drawn["hidden_1"]["kernel"])
    return {"params": {**drawn, "hidden_1": {"kernel": kernel}}}


def functions(apply_fn: Callable[..., Any]) -> Functions:
    """For a model from ``(params, x)`` to the embeddings of ``[X, X']``, made small at first."""

    def embed(params, x, start, init_scale):
        return nn.centred(apply_fn, start, init_scale)(params, x)

    def loss(params, *args):
        z, z_prime = jnp.split(embed(params, *args), 2)
        return losses.simplified_barlow_twins(z, z_prime)

    def eigenvalues(params, *args):
        return spectrum.correlation_eigenvalues(*jnp.split(embed(params, *args), 2))

    return Functions(jax.jit(embed), loss, eigenvalues)


def trained(functions: Functions, params, inputs, init_scale: float, limit: prediction.Limit):
    """A model's initial embeddings, what became of them, and the times of the records.

    `inputs` are what the model takes of the training pairs and of the held-out ones.
    """
    scale = jnp.float32(init_scale)
    initial = tuple(functions.embed(params, x, params, scale).astype(float) for x in inputs)
    at = prediction.record_at(limit, initial[0])
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
