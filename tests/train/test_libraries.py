"""Networks of NNX and Equinox in the trainer, against training loops of these libraries."""

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
import tiny
from flax import nnx

from sslstep import losses, train

RATE, BATCH = 0.05, 8
pytestmark = pytest.mark.usefixtures("standard_promotion")
IMAGES = jnp.asarray(tiny.IMAGES)


@pytest.fixture
def standard_promotion():
    """Equinox's batch norm mixes dtypes."""
    with jax.numpy_dtype_promotion("standard"):
        yield


class InNNX(nnx.Module):
    def __init__(self, rngs):
        self.layers = nnx.List([nnx.Linear(12, 6, rngs=rngs)])
        self.norm = nnx.BatchNorm(6, rngs=rngs)
        self.out = nnx.Linear(6, 3, use_bias=False, rngs=rngs)

    def __call__(self, x):
        h = nnx.relu(self.norm(self.layers[0](x)))
        return h, self.out(h)


class InEquinox(eqx.Module):
    hidden: eqx.nn.Linear
    out: eqx.nn.Linear
    power: int = 2  # what is no array is not trained

    def __init__(self, key):
        keys = jax.random.split(key)
        self.hidden = eqx.nn.Linear(12, 6, key=keys[0])
        self.out = eqx.nn.Linear(6, 3, key=keys[1])

    def __call__(self, x):
        h = jax.nn.relu(self.hidden(x)) ** self.power
        return h, self.out(h)


class WithBatchNorm(eqx.Module):
    inner: InEquinox
    norm: eqx.nn.BatchNorm

    def __init__(self, key):
        self.inner = InEquinox(key)
        self.norm = eqx.nn.BatchNorm(6, axis_name="batch", momentum=0.9, mode="batch")

    def __call__(self, x, state):
        h, state = self.norm(self.inner(x)[0], state)
        return (h, self.inner.out(h)), state


def batches(num_steps):
    """The two views of each step's batch, as the trainer makes them from this key."""
    state = train.init_state(jax.random.key(3), tiny.NETWORK, optax.sgd(RATE), IMAGES[:1])
    seen = []

    def views_fn(keys, x):
        seen.append(tiny.noisy(keys, x))
        return seen[-1]

    step = train.make_step(tiny.NETWORK, losses.simplified_barlow_twins, optax.sgd(0.0), views_fn)
    for row in train.batch_indices(state.key, 0, num_steps, BATCH, len(IMAGES)):
        state, _ = step(state, IMAGES[row])
    return seen


def fit(model, folder=None, num_steps=4, **settings):
    sgd = optax.sgd(RATE)
    step = train.make_step(model, losses.simplified_barlow_twins, sgd, tiny.noisy)
    return train.fit(
        train.compile_step(step, devices=jax.devices()[:1]),
        train.init_state(jax.random.key(3), model, sgd, IMAGES[:1], init_scale=0.5),
        tiny.IMAGES,
        num_steps=num_steps,
        batch_size=BATCH,
        folder=folder,
        checkpoint_every=2,
        **settings,
    )


def in_nnx(num_steps):
    model = InNNX(nnx.Rngs(0))
    nnx.update(model, jax.tree.map(lambda leaf: 0.5 * leaf, nnx.state(model, nnx.Param)))
    optimizer = nnx.Optimizer(model, optax.sgd(RATE), wrt=nnx.Param)

    def loss(model, x, x_prime):
        return losses.simplified_barlow_twins(model(x)[1], model(x_prime)[1])

    found = []
    for views in batches(num_steps):
        value, grads = nnx.value_and_grad(loss)(model, *views)
        optimizer.update(model, grads)
        found.append(value)
    return model, found


def in_equinox(num_steps):
    params, static = eqx.partition(InEquinox(jax.random.key(0)), eqx.is_inexact_array)
    model = eqx.combine(jax.tree.map(lambda leaf: 0.5 * leaf, params), static)

    def loss(model, x, x_prime):
        return losses.simplified_barlow_twins(*(jax.vmap(model)(v)[1] for v in (x, x_prime)))

    found = []
    for views in batches(num_steps):
        value, grads = eqx.filter_value_and_grad(loss)(model, *views)
        model = eqx.apply_updates(model, jax.tree.map(lambda g: -RATE * g, grads))
        found.append(value)
    return model, found


def over_samples(model):
    return jax.vmap(model, axis_name="batch", in_axes=(0, None), out_axes=(0, None))


def in_equinox_with_state(num_steps):
    made, state = eqx.nn.make_with_state(WithBatchNorm)(jax.random.key(0))
    params, static = eqx.partition(made, eqx.is_inexact_array)
    model = eqx.combine(jax.tree.map(lambda leaf: 0.5 * leaf, params), static)

    def loss(model, state, views):
        (_, z), state = over_samples(model)(views[0], state)
        (_, z_prime), state = over_samples(model)(views[1], state)
        return losses.simplified_barlow_twins(z, z_prime), state

    found = []
    for views in batches(num_steps):
        (value, state), grads = eqx.filter_value_and_grad(loss, has_aux=True)(model, state, views)
        model = eqx.apply_updates(model, jax.tree.map(lambda g: -RATE * g, grads))
        found.append(value)
    return model, state, found


def close(ours, theirs):
    """Two compilations of a few steps in float32."""
    leaves = jax.tree.leaves(ours), jax.tree.leaves(theirs)
    for a, b in zip(*leaves, strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-6)


def test_the_state_of_nnx_may_be_donated():
    """A step that takes over the state's memory leaves the module its averages."""
    model, views = InNNX(nnx.Rngs(0)), jnp.ones((2, 8, 12))
    sgd = optax.sgd(RATE)
    state = train.init_state(jax.random.key(0), model, sgd, views[0])
    jax.jit(lambda state: state, donate_argnums=0)(state)
    assert all(leaf.is_deleted() for leaf in jax.tree.leaves(state.batch_stats))
    assert np.isfinite(model(views[0])[1]).all()


def test_nnx_is_trained_as_by_its_own_loop():
    model, theirs = InNNX(nnx.Rngs(0)), in_nnx(4)
    before = nnx.to_pure_dict(nnx.state(model))
    run = fit(model)
    np.testing.assert_allclose(run.metrics["loss"], theirs[1], rtol=1e-5)
    close(run.state.params, nnx.to_pure_dict(nnx.state(theirs[0], nnx.Param)))
    close(run.state.batch_stats, nnx.to_pure_dict(nnx.state(theirs[0], nnx.BatchStat)))
    jax.tree.map(np.testing.assert_array_equal, nnx.to_pure_dict(nnx.state(model)), before)
    nnx.update(model, run.state.params)
    nnx.update(model, run.state.batch_stats)
    model.eval()
    theirs[0].eval()
    close(model(IMAGES), theirs[0](IMAGES))


def test_equinox_is_trained_as_by_its_own_loop():
    model, theirs = InEquinox(jax.random.key(0)), in_equinox(4)
    run = fit(model)
    np.testing.assert_allclose(run.metrics["loss"], theirs[1], rtol=1e-5)
    close(eqx.combine(run.state.params, model), theirs[0])
    assert run.state.batch_stats == {}


def test_equinox_with_state_is_trained_as_by_its_own_loop():
    model, state = eqx.nn.make_with_state(WithBatchNorm)(jax.random.key(0))
    theirs, their_state, their_losses = in_equinox_with_state(4)
    run = fit((model, state))
    np.testing.assert_allclose(run.metrics["loss"], their_losses, rtol=1e-5)
    close(run.state.params, eqx.filter(theirs, eqx.is_inexact_array))
    close(run.state.batch_stats, their_state)
    fixed = IMAGES, IMAGES[::-1]
    evaluated = train.make_record((model, state), *fixed, batch_size=len(IMAGES), train=False)
    in_inference = over_samples(eqx.nn.inference_mode(theirs))
    (h, _), _ = in_inference(IMAGES, their_state)
    expected = np.linalg.eigvalsh(np.cov(np.asarray(h, float).T, bias=True))[::-1]
    # Both views are the images, whose covariance is their common one.
    np.testing.assert_allclose(evaluated(run.state)["hidden"], expected, rtol=1e-4, atol=1e-7)


@pytest.mark.parametrize(
    "made",
    [
        lambda: InNNX(nnx.Rngs(0)),
        lambda: InEquinox(jax.random.key(0)),
        lambda: eqx.nn.make_with_state(WithBatchNorm)(jax.random.key(0)),
    ],
)
def test_runs_are_recorded_and_go_on(tmp_path, made):
    x, x_prime = tiny.noisy(jax.random.split(jax.random.key(5), 32), IMAGES)
    evaluated = train.make_record(made(), x, x_prime, batch_size=32, train=False)
    settings = {"record": evaluated, "record_at": range(5)}
    whole = fit(made(), **settings)
    fit(made(), tmp_path, num_steps=2, record=evaluated, record_at=range(3))
    resumed = fit(made(), tmp_path, **settings)
    jax.tree.map(np.testing.assert_array_equal, resumed.state.params, whole.state.params)
    np.testing.assert_array_equal(resumed.records["hidden"], whole.records["hidden"])
    scale = train.choose_init_scale(jax.random.key(0), made(), x, x_prime, target=1e-3)
    assert 0 < float(scale) < 1


def test_modules_of_another_form_are_refused(unchecked):
    class Single(nnx.Module):
        def __call__(self, x):
            return x

    with pytest.raises(ValueError, match=r"the network's __call__ must return \(h, z\)"):
        train.make_record(Single(), jnp.ones((4, 3)), jnp.ones((4, 3)), batch_size=4, train=False)(
            train.init_state(jax.random.key(0), Single(), optax.sgd(0.1), jnp.ones((4, 3)))
        )
    with pytest.raises(TypeError, match="an NNX or Equinox module"):
        train.init_state(jax.random.key(0), lambda x: x, optax.sgd(0.1), jnp.ones((4, 3)))


class WithDropout(InNNX):
    def __init__(self, rngs):
        super().__init__(rngs)
        self.dropout = nnx.Dropout(0.5, rngs=rngs)

    def __call__(self, x):
        h, _ = super().__call__(x)
        return h, self.out(self.dropout(h))


def test_random_numbers_that_would_never_change_are_refused():
    """Dropout hid the same units at every step; in evaluation mode it draws none."""
    model = WithDropout(nnx.Rngs(0))
    state = train.init_state(jax.random.key(0), model, optax.sgd(0.1), IMAGES[:1])
    for mode in (True, False):
        record = train.make_record(model, IMAGES, IMAGES, batch_size=32, train=mode)
        if mode:
            with pytest.raises(ValueError, match="the network must draw no random numbers"):
                record(state)
        else:
            assert np.isfinite(record(state)["hidden"]).all()
