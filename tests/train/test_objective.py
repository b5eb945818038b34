"""Objectives beyond the embeddings of two views: more views, predictors, targets, own metrics."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
import tiny
from flax import linen

from sslstep import losses, train

RATE = 0.1
X = np.random.default_rng(1).normal(size=(8, 2, 5))


class Encoder:
    """One matrix."""

    def init(self, key, x, train=False):
        return {"params": {"w": jax.random.normal(key, (3, 5))}}

    def apply(self, variables, x, *, train, mutable=False):
        z = x @ variables["params"]["w"].T
        return ((z, z), {}) if mutable else (z, z)


class Predictor(linen.Module):
    """Another."""

    @linen.compact
    def __call__(self, z, *, train):
        return z @ self.param("p", jax.random.normal, (3, 3)).T


def both(keys, x):
    return x[:, 0], x[:, 1]


def after(num_steps, objective, loss=None):
    loss = loss or partial(losses.prediction_error, normalise=False)
    sgd = optax.sgd(RATE)
    state = train.init_state(jax.random.key(0), objective, sgd, jnp.asarray(X[:, 0]))
    step, states = jax.jit(train.make_step(objective, loss, sgd, both)), [state]
    for _ in range(num_steps):
        states.append(step(states[-1], jnp.asarray(X))[0])
    return states


@pytest.mark.parametrize("decay", [None, 0.9, lambda step: 1 - 0.1 / jnp.asarray(step, float)])
def test_gradient_and_targets_by_hand(x64, decay):
    """Of a linear network and a linear predictor, in NumPy."""
    states = after(3, train.SelfDistillation(Encoder(), Predictor(), decay=decay))
    w, p = (
        np.asarray(states[0].params[part][name])
        for part, name in (("network", "w"), ("predictor", "p"))
    )
    target = w.copy()
    for i, state in enumerate(states[1:], start=1):
        grad_w, grad_p = np.zeros_like(w), np.zeros_like(p)
        for x, other in ((X[:, 0], X[:, 1]), (X[:, 1], X[:, 0])):
            error = x @ w.T @ p.T - other @ (w if decay is None else target).T
            grad_p += 2 * error.T @ (x @ w.T) / len(X)
            grad_w += 2 * p.T @ error.T @ x / len(X)
        w, p = w - RATE * grad_w, p - RATE * grad_p
        np.testing.assert_allclose(state.params["network"]["w"], w, rtol=1e-12)
        np.testing.assert_allclose(state.params["predictor"]["p"], p, rtol=1e-12)
        if decay is not None:
            tau = decay(i) if callable(decay) else decay
            target = tau * target + (1 - tau) * w
            np.testing.assert_allclose(state.targets["params"]["w"], target, rtol=1e-12)
        else:
            assert state.targets == {}


def test_targets_take_over_what_has_no_mean():
    """Counts and flags of a network, such as Equinox's batch norms have."""
    objective = train.SelfDistillation(tiny.NETWORK, None, decay=0.75)
    old = {"flag": jnp.array(True), "count": jnp.array(3), "mean": jnp.array(1.0)}
    new = {"flag": jnp.array(False), "count": jnp.array(9), "mean": jnp.array(5.0)}
    found = objective.next_targets(
        {"batch_stats": old}, {"batch_stats": {"network": new}}, jnp.array(1)
    )
    assert jax.tree.map(float, found["batch_stats"]) == {"flag": 0, "count": 9, "mean": 2}


def test_no_predictor_and_records_of_the_network(x64):
    """DINO's form; records see the network of θ, by its own name or as the objective."""
    alone = train.SelfDistillation(Encoder(), None)
    state = after(2, alone)[-1]
    assert set(state.params) == {"network"}
    with_one = train.SelfDistillation(Encoder(), Predictor())
    state = after(2, with_one)[-1]
    x, x_prime = (jnp.asarray(X[:, view]) for view in (0, 1))
    found = train.make_record(with_one, x, x_prime, batch_size=8)(state)
    own = state._replace(params=state.params["network"])
    wanted = train.make_record(Encoder(), x, x_prime, batch_size=8)(own)
    for name, value in wanted.items():
        np.testing.assert_array_equal(found[name], value)


def test_a_loss_of_three_views(x64):
    """One after the other, or all at once: of a network without batch norm the same."""

    def three(keys, x):
        return x[:, 0], x[:, 1], x[:, 0] - x[:, 1]

    def loss(*views):
        return sum(jnp.sum(view**2) * (i + 1) for i, view in enumerate(views))

    sgd, w = optax.sgd(RATE), None
    state = train.init_state(jax.random.key(0), Encoder(), sgd, jnp.asarray(X[:, 0]))
    w = np.asarray(state.params["w"])
    views = (X[:, 0], X[:, 1], X[:, 0] - X[:, 1])
    gradient = sum(2 * (i + 1) * w @ x.T @ x for i, x in enumerate(views))
    for settings in ({}, {"joint_views": True}, {"num_microbatches": 4}):
        step = train.make_step(Encoder(), loss, sgd, three, **settings)
        new = step(state, jnp.asarray(X))[0].params["w"]
        np.testing.assert_allclose(new, w - RATE * gradient, rtol=1e-12)


def test_the_simplest_case_is_an_objective_too(x64):
    """A network, and the objective that is made of it, by name."""
    loss, sgd = losses.simplified_barlow_twins, optax.sgd(1e-3)
    found = []
    for each in (Encoder(), train.JointEmbedding(Encoder())):
        state = train.init_state(jax.random.key(0), each, sgd, jnp.asarray(X[:, 0]))
        found.append(train.make_step(each, loss, sgd, both)(state, jnp.asarray(X))[0].params["w"])
    np.testing.assert_array_equal(*found)


def own_loss(z, z_prime):
    loss = losses.simplified_barlow_twins(z, z_prime)
    return loss, {"largest": jnp.abs(z).max()}


def test_numbers_of_one_s_own_are_in_every_row(tmp_path):
    step = train.make_step(tiny.NETWORK, own_loss, optax.sgd(1e-2), tiny.noisy)
    run = tiny.fit(tmp_path, step=train.compile_step(step, devices=jax.devices()[:1]))
    assert run.metrics["largest"].shape == (4,)
    assert (run.metrics["largest"] > 0).all()
    np.testing.assert_array_equal(train.read_run(tmp_path)[0]["largest"], run.metrics["largest"])
    # The descent is that of the loss alone, but for another program's rounding.
    np.testing.assert_allclose(run.metrics["loss"], tiny.fit().metrics["loss"], rtol=1e-5)


@pytest.mark.parametrize(
    ("returned", "shown"),
    [
        (lambda z, y: (jnp.sum(z), {"loss": jnp.sum(z)}), "of names other than step, loss"),
        (lambda z, y: (jnp.sum(z), {"rows": z[0]}), "'rows': (3,)"),
        (lambda z, y: z[:, 0], "'the loss': (8,)"),
    ],
)
def test_what_a_loss_returns_is_checked(returned, shown):
    step = train.make_step(tiny.NETWORK, returned, optax.sgd(1e-2), tiny.noisy)
    with pytest.raises(ValueError, match="loss_fn must return a scalar") as caught:
        step(tiny.state(), jnp.asarray(tiny.IMAGES[:8]))
    assert shown in str(caught.value)


def test_arguments():
    with pytest.raises(ValueError, match=r"decay must be <= 1, got 1\.5"):
        train.SelfDistillation(Encoder(), None, decay=1.5)
    parts = train.SelfDistillation(Encoder(), None), losses.prediction_error, optax.sgd(1)
    with pytest.raises(ValueError, match="joint_views must be False for an objective"):
        train.make_step(*parts, tiny.noisy, joint_views=True)


@pytest.mark.parametrize("kind", tiny.OBJECTIVES)
def test_taken_up_again_it_ends_in_the_same_bits(tmp_path, kind):
    """Its state is in checkpoints as a whole, the targets of BYOL too; kills are in test_fit.py."""
    whole, parts = tmp_path / "whole", tmp_path / "parts"
    undisturbed = tiny.fit_objective(whole, kind, 40)
    for num_steps in (17, 40):
        run = tiny.fit_objective(parts, kind, num_steps)
    ours, theirs = (
        jax.tree.leaves(each.state._replace(key=jax.random.key_data(each.state.key)))
        for each in (run, undisturbed)
    )
    for one, other in zip(ours, theirs, strict=True):
        np.testing.assert_array_equal(one, other)
    for name in ("metrics.jsonl", "records.jsonl"):
        assert (parts / name).read_bytes() == (whole / name).read_bytes()
