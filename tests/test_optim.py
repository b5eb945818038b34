"""Optimisers against PyTorch's and the publications' updates, written out in NumPy."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from sslstep import optim

SHAPES = {"kernel": (3, 4, 5), "dense": (6, 2), "bias": (5,), "zero": (2, 3)}


def problem(seed):
    rng = np.random.default_rng(seed)
    params = {name: rng.normal(size=shape) for name, shape in SHAPES.items()}
    params["zero"][:] = 0
    grads = [{n: rng.normal(size=s) for n, s in SHAPES.items()} for _ in range(20)]
    grads[7]["dense"][:] = 0
    return params, grads


def follow(optimizer, params, grads):
    params = jax.tree.map(jnp.asarray, params)
    state = optimizer.init(params)
    update = jax.jit(optimizer.update)
    for grad in grads:
        updates, state = update(jax.tree.map(jnp.asarray, grad), state, params)
        params = optax.apply_updates(params, updates)
    return params


def publications_lars(params, grads, rate, bias_rate, beta, mu=0.9, kappa=0.001):
    params = {name: value.copy() for name, value in params.items()}
    moments = dict.fromkeys(params, 0.0)
    for k, grad in enumerate(grads):
        for name, w in params.items():
            g = grad[name]
            if w.ndim > 1:
                g = g + beta * w
                norms = np.linalg.norm(w), np.linalg.norm(g)
                g = g * (kappa * norms[0] / norms[1] if min(norms) > 0 else 1.0)
            moments[name] = mu * moments[name] + g
            params[name] = w - (rate if w.ndim > 1 else bias_rate)(k) * moments[name]
    return params


@pytest.mark.parametrize("beta", [0.0, 0.1])
@pytest.mark.parametrize("seed", range(3))
def test_lars_is_the_publications(x64, beta, seed):
    params, grads = problem(seed)
    rate = optim.warmup_cosine(0.5, warmup_steps=5, total_steps=25)
    ours = follow(optim.lars(rate, bias_learning_rate=0.02, weight_decay=beta), params, grads)
    theirs = publications_lars(params, grads, rate, lambda k: 0.02, beta)
    for name in params:
        np.testing.assert_allclose(ours[name], theirs[name], rtol=1e-12)
    # optax's own has the rate inside the momentum, which shows under a schedule.
    optaxs = follow(optax.lars(rate, beta, weight_decay_mask=False), params, grads)
    assert np.abs(np.asarray(optaxs["kernel"]) - theirs["kernel"]).max() > 1e-6


def test_lars_forgets_the_size_of_the_gradient_of_weights(x64):
    params, grads = problem(0)
    optimizer = optim.lars(0.3, weight_decay=0.0)
    once = follow(optimizer, params, grads)
    tenfold = follow(optimizer, params, [{n: 10 * g for n, g in grad.items()} for grad in grads])
    np.testing.assert_allclose(tenfold["kernel"], once["kernel"], rtol=1e-12)
    np.testing.assert_allclose(
        tenfold["bias"] - params["bias"], 10 * (once["bias"] - params["bias"]), rtol=1e-10
    )


@pytest.mark.parametrize(
    "settings",
    [
        {},
        {"momentum": 0.9},
        {"momentum": 0.9, "nesterov": True, "weight_decay": 0.1},
        {"weight_decay": 0.1},
    ],
)
def test_sgd_is_pytorch_s(x64, settings):
    torch = pytest.importorskip("torch")
    params, grads = problem(0)
    ours = follow(optim.sgd(0.05, **settings), params, grads)
    tensors = {name: torch.tensor(value) for name, value in params.items()}
    theirs = torch.optim.SGD(tensors.values(), lr=0.05, **settings)
    for grad in grads:
        for name, tensor in tensors.items():
            tensor.grad = torch.tensor(grad[name])
        theirs.step()
    for name, tensor in tensors.items():
        np.testing.assert_allclose(ours[name], tensor.numpy(), rtol=1e-12)


@pytest.mark.parametrize(("warmup", "total", "end"), [(10, 100, 1e-3), (0, 40, 0.0), (7, 8, 0.5)])
def test_warmup_cosine_is_the_publications(x64, warmup, total, end):
    rate = optim.warmup_cosine(0.3, warmup_steps=warmup, total_steps=total, end_factor=end)
    for k in range(total + 1):
        if k < warmup:
            expected = 0.3 * k / warmup
        else:
            q = 0.5 * (1 + np.cos(np.pi * (k - warmup) / (total - warmup)))
            expected = 0.3 * q + 0.3 * end * (1 - q)
        np.testing.assert_allclose(rate(k), expected, rtol=1e-6, atol=1e-9)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: optim.warmup_cosine(0.1, warmup_steps=10, total_steps=10), "warmup_steps must"),
        (lambda: optim.warmup_cosine(-0.1, warmup_steps=1, total_steps=10), "peak must be >= 0"),
        (lambda: optim.lars(0.1, weight_decay=-1.0), "weight_decay must be >= 0"),
        (lambda: optim.sgd(0.1, momentum=-1.0), "momentum must be >= 0"),
    ],
)
def test_rejects(call, message):
    with pytest.raises(ValueError, match=message):
        call()
