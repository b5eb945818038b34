"""The smallest run there is, for what does not depend on the network.

python tiny.py FOLDER NUM_STEPS
"""

import sys
import time
from functools import lru_cache

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import linen

from sslstep import losses, train


class Linear:
    """One matrix, or whatever parameters are given."""

    def __init__(self, **others):
        self.others = others

    def init(self, key, x, train=False):
        return {"params": {"w": jax.random.normal(key, (12, 3)), **self.others}}

    def apply(self, variables, x, *, train, mutable=False):
        z = x.reshape(len(x), -1) @ variables["params"]["w"]
        return ((z, z), {}) if mutable else (z, z)


NETWORK = Linear()
IMAGES = np.random.default_rng(0).normal(size=(32, 12)).astype(np.float32)


def noisy(keys, x):
    noise = jax.vmap(lambda key: jax.random.normal(key, (2, 12)))(keys)
    return x + 0.3 * noise[:, 0], x + 0.3 * noise[:, 1]


def state(network=NETWORK, optimizer=None, key=None):
    key = jax.random.key(0) if key is None else key
    return train.init_state(key, network, optimizer or optax.sgd(1e-2), jnp.asarray(IMAGES[:1]))


@lru_cache(maxsize=8)  # traced once for all tests that take it
def compiled(devices=1, parallel="jit", optimizer=None, network=NETWORK, **settings):
    loss = losses.simplified_barlow_twins
    step = train.make_step(network, loss, optimizer or optax.sgd(1e-2), noisy, **settings)
    return train.compile_step(step, devices=jax.devices()[:devices], parallel=parallel)


def fit(folder=None, num_steps=4, step=None, start=None, **settings):
    step, start = step or compiled(), start or state()
    settings = {"batch_size": 8, "checkpoint_every": 10} | settings
    return train.fit(step, start, IMAGES, num_steps=num_steps, folder=folder, **settings)


class TwoLayers(linen.Module):
    """With a batch norm, from an image to a vector of a given length."""

    dim: int

    @linen.compact
    def __call__(self, x, *, train):
        h = linen.Dense(6)(x.reshape(len(x), -1))
        h = linen.BatchNorm(use_running_average=not train)(h)
        return h, linen.Dense(self.dim)(jnp.tanh(h))


class Predictor(linen.Module):
    """Another, of embeddings."""

    @linen.compact
    def __call__(self, z, *, train):
        z = linen.BatchNorm(use_running_average=not train)(linen.Dense(5)(z))
        return linen.Dense(3)(jnp.tanh(z))


def half_hidden(keys, x):
    hidden = jax.vmap(lambda key: jax.random.bernoulli(key, shape=(12,)))(keys).astype(x.dtype)
    return x * (1 - hidden), x, hidden


#: Objective, loss and views of each kind, of arrays of 12 numbers.
OBJECTIVES = {
    "byol": (
        train.SelfDistillation(TwoLayers(3), Predictor(), decay=0.9),
        losses.prediction_error,
        noisy,
    ),
    "simsiam": (
        train.SelfDistillation(TwoLayers(3), Predictor(), decay=None),
        losses.prediction_error,
        noisy,
    ),
    "masked": (train.Reconstruction(TwoLayers(12)), losses.reconstruction_error, half_hidden),
}


def fit_objective(folder, kind, num_steps):
    objective, loss, views_fn = OBJECTIVES[kind]
    sgd = optax.sgd(0.1, momentum=0.9)
    step = train.compile_step(
        train.make_step(objective, loss, sgd, views_fn), devices=jax.devices()[:1]
    )
    start, at = state(objective, sgd), range(0, num_steps + 1, 10)
    x, x_prime = jnp.asarray(IMAGES), jnp.asarray(IMAGES[::-1])
    record = train.make_record(objective, x, x_prime, batch_size=32)
    return fit(folder, num_steps, step, start, record=record, record_at=at)


def slow(state):
    time.sleep(0.05)
    return {"step_done": state.step}


if __name__ == "__main__":
    num_steps = int(sys.argv[2])
    fit(sys.argv[1], num_steps, record=slow, record_at=range(num_steps + 1))
