"""What a network, a loss and a key must be, and what is said of others."""

import jax
import jax.numpy as jnp
import optax
import pytest
import training
from flax import linen

from sslstep import losses, train

KEY, SGD, X = jax.random.key(0), optax.sgd(0.1), jnp.ones((8, 6))


class Of(linen.Module):
    """Embeddings of three dimensions, by a method that each test writes."""

    def embed(self, x):
        z = linen.Dense(3)(x)
        return z, z


class OfInputs(Of):
    @linen.compact
    def __call__(self, x):
        return self.embed(x)


class Whole(Of):
    @linen.compact
    def __call__(self, x, *, train):
        return self.embed(x)


class Typo(Of):
    @linen.compact
    def __call__(self, x, *, train):
        return self.embed(x, training=train)


class Uncalled(linen.Module):
    pass


class Plain:
    def init(self, key, x):
        return {"params": {}}

    def apply(self, variables, x, *, train):
        return x, x


def views(keys, x):
    return x, 2 * x


def step_of(network):
    state = train.init_state(KEY, Whole(), SGD, X)
    return train.make_step(network, losses.vicreg, SGD, views)(state, X)


@pytest.mark.parametrize(
    ("call", "found"),
    [
        (lambda: train.init_state(KEY, OfInputs(), SGD, X), r"has OfInputs\.__call__\(x\)\."),
        (lambda: train.choose_init_scale(KEY, OfInputs(), X, X), r"has OfInputs\.__call__\(x\)\."),
        (lambda: train.init_state(KEY, Uncalled(), SGD, X), "This Uncalled has no __call__"),
        (lambda: train.init_state(KEY, Plain(), SGD, X), r"has Plain\.init\(key, x\)\."),
        (lambda: step_of(Plain()), r"has Plain\.apply\(variables, x, \*, train\)\."),
        (lambda: train.choose_init_scale(KEY, views, X, X), "This function has no init"),
    ],
)
def test_a_network_of_another_form(call, found, unchecked):
    form = r"the form of train\.Network: .* __call__\(x, \*, train\) -> \(h, z\)"
    with pytest.raises(TypeError, match=rf"{form}, or .*{found}"):
        call()


def test_errors_within_a_network_are_its_own():
    with pytest.raises(TypeError, match=r"embed\(\) got an unexpected keyword argument 'training'"):
        train.init_state(KEY, Typo(), SGD, X)


def test_errors_within_a_loss_are_its_own():
    def broken(z, z_prime, **settings):
        return losses.vicreg(z, z_prime, invariant=1.0, **settings)

    step = training.compiled(parallel="pmap", loss_fn=broken)
    with pytest.raises(TypeError, match="unexpected keyword argument 'invariant'"):
        training.fit(None, 1, step=step, record=None, record_at=())


def test_a_seed_is_no_key(unchecked):
    for call in (
        lambda: train.init_state(5, Whole(), SGD, X),
        lambda: train.choose_init_scale(5, Whole(), X, X),
    ):
        with pytest.raises(TypeError, match=r"key must be a random key, .* got 5\."):
            call()
    old = jax.random.PRNGKey(0)
    assert int(train.init_state(old, Whole(), SGD, X).step) == 0


def test_choose_init_scale_wants_more_images_than_dimensions():
    with pytest.raises(ValueError, match="x has 3 images, which must be more than the 3 dim"):
        train.choose_init_scale(KEY, Whole(), X[:3], X[:3])
