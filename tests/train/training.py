"""A training run small enough to be made, killed and made again, here and in processes of its own.

python training.py FOLDER NUM_STEPS
"""

import sys
from functools import lru_cache, partial
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np

from sslstep import data, losses, nn, optim, train

SIZE, BATCH, STEPS = 8, 16, 120
NETWORK = nn.Encoder(
    nn.ResNet(stage_sizes=(1,), width=4, stem="small_stride2"), nn.Projector(hidden=(8,), dim=3)
)
VIEWS = partial(data.two_views, views=data.crop_views(SIZE))
LOSS = partial(losses.barlow_twins, off_diagonal=1.0, batch_norm=False)


def users_loss(z, z_prime):
    """No sum over samples, and not one of the house."""
    identity = jnp.eye(z.shape[1], dtype=z.dtype)
    spread = jnp.linalg.slogdet(jnp.cov(z, rowvar=False) + identity)[1]
    return ((z.T @ z_prime / len(z) - identity) ** 2).sum() - 0.1 * spread


def images(num=64):
    """Random bytes, smooth enough for their crops to have something in common."""
    coarse = np.random.default_rng(0).integers(0, 256, (num, 3, 3, 3))
    return np.kron(coarse, np.ones((1, 4, 4, 1), int)).astype(np.uint8)


def make_step(rate=0.01, loss_fn=LOSS, network=NETWORK, **settings):
    return train.make_step(network, loss_fn, optim.sgd(rate, momentum=0.9), VIEWS, **settings)


# A step and a record are traced once for all tests that take them.
@lru_cache(maxsize=8)
def compiled(devices=1, parallel="jit", **settings):
    step = make_step(**settings)
    return train.compile_step(step, devices=jax.devices()[:devices], parallel=parallel)


def state(seed=0, network=NETWORK, rate=0.01):
    x = jnp.zeros((1, SIZE, SIZE, 3))
    return train.init_state(jax.random.key(seed), network, optim.sgd(rate, momentum=0.9), x)


@lru_cache(maxsize=1)
def record():
    x, x_prime = VIEWS(jax.random.split(jax.random.key(1), 32), images(32))
    return train.make_record(NETWORK, x, x_prime, batch_size=16)


def fit(folder=None, num_steps=STEPS, step=None, start=None, images=images, **settings):
    """The run, as every test makes it unless it says otherwise."""
    settings = {"record": record(), "record_at": range(0, num_steps + 1, 15)} | settings
    settings = {"batch_size": BATCH} | settings
    return train.fit(
        compiled() if step is None else step,
        state() if start is None else start,
        images() if callable(images) else images,
        num_steps=num_steps,
        folder=folder,
        checkpoint_every=10,
        **settings,
    )


def parameters(run):
    return np.concatenate([np.ravel(leaf) for leaf in jax.tree.leaves(run.state.params)])


if __name__ == "__main__":
    folder = Path(sys.argv[1])
    np.save(folder.with_suffix(".npy"), parameters(fit(folder, int(sys.argv[2]))))
