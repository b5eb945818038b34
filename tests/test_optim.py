"""Optimisers against PyTorch's and the publications' updates, written out in NumPy."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from sslstep import losses, optim, train

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
        (lambda: optim.sgd(np.ones(2)), r"learning_rate must be a number, got shape \(2,\)"),
        (lambda: optim.sgd(0.1, momentum=np.ones(2)), "momentum must be a number"),
        (lambda: optim.sgd(0.1, weight_decay=np.ones(2)), "weight_decay must be a number"),
        (lambda: optim.lars(0.1, trust_coefficient=np.ones(2)), "trust_coefficient must be a num"),
        (lambda: optim.warmup_cosine([0.1], warmup_steps=1, total_steps=9), "peak must be a num"),
    ],
)
def test_rejects(call, message, unchecked):
    with pytest.raises(ValueError, match=message):
        call()


@pytest.mark.parametrize("optimizer", [optim.lars, optim.sgd])
def test_rates_that_are_numbers_are_not_negative(optimizer):
    with pytest.raises(ValueError, match="learning_rate must be >= 0, got -1"):
        optimizer(-1.0)
    optimizer(lambda step: 0.1)


def pairs_of_views(seed=0, n=12, d=4, dtype=jnp.float64):
    """Embeddings whose directions differ in size a hundredfold."""
    rng = np.random.default_rng(seed)
    mixed = np.geomspace(1, 0.01, d)[:, None] * np.linalg.qr(rng.normal(size=(d, d)))[0]
    return tuple(jnp.asarray((rng.normal(size=(n, d)) + 0.3) @ mixed, dtype) for _ in range(2))


def gradients(loss, z, z_prime):
    return np.concatenate(jax.grad(loss, argnums=(0, 1))(z, z_prime))


@pytest.mark.parametrize("centre", [True, False])
@pytest.mark.parametrize("relative", [True, False])
def test_precondition_is_its_definition(x64, relative, centre):
    """Gradients times (σ₁ + α) (S + α I)⁻¹, by NumPy's inverse; values as they are."""
    views = pairs_of_views()
    settings = {"alpha": 0.03, "relative": relative, "centre": centre}
    f = np.concatenate([np.asarray(view) for view in views])
    f = f - f.mean(0) if centre else f
    s = f.T @ f / len(f)
    largest = np.linalg.eigvalsh(s)[-1]
    alpha = 0.03 * largest if relative else 0.03
    p = (largest + alpha) * np.linalg.inv(s + alpha * np.eye(4))
    for loss in (losses.vicreg, losses.simclr):
        plain = gradients(loss, *views)
        ours = gradients(optim.preconditioned(loss, **settings), *views)
        np.testing.assert_allclose(ours, plain @ p, rtol=1e-9, atol=1e-12)
        half = optim.preconditioned(loss, strength=0.25, **settings)
        mixed = plain @ (0.75 * np.eye(4) + 0.25 * p)
        np.testing.assert_allclose(gradients(half, *views), mixed, rtol=1e-9, atol=1e-12)
        assert float(half(*views)) == float(loss(*views))
    # The direction of largest variance keeps its gradient, and none gains more than 1 + σ₁ / α.
    gains = np.linalg.eigvalsh(p)
    assert gains[0] == pytest.approx(1)
    assert gains[-1] <= 1 + largest / alpha


@pytest.mark.parametrize("n", [3, 5, 10])
def test_collapsed_embeddings_are_not_preconditioned_when_centred(n):
    z = np.tile(np.float32([0.1, 0.7, -0.3]), (n, 1))
    weights = np.random.default_rng(n).normal(size=z.shape).astype(np.float32)

    def loss(z, z_prime):
        return jnp.sum(weights * z) + jnp.sum(z_prime)

    found = gradients(optim.preconditioned(loss, alpha=0.1, centre=True), z, z)
    np.testing.assert_allclose(found, gradients(loss, z, z), rtol=1e-6)


def test_precondition_of_the_gradient_of_a_network(x64):
    """∂L/∂θ = Σ ∂F/∂θ · (∂L/∂F P), whatever is before the embeddings."""
    x, x_prime = pairs_of_views(1)
    weights = jnp.asarray(np.random.default_rng(2).normal(size=(4, 3)))

    def embed(weights):
        return jnp.tanh(x @ weights), jnp.tanh(x_prime @ weights)

    loss = optim.preconditioned(losses.barlow_twins, alpha=0.1)
    ours = jax.grad(lambda weights: loss(*embed(weights)))(weights)
    pair, pull = jax.vjp(embed, weights)
    (expected,) = pull(jax.grad(lambda pair: loss(*pair))(pair))
    np.testing.assert_allclose(ours, expected, rtol=1e-12)


@pytest.mark.parametrize("relative", [True, False])
@pytest.mark.parametrize("scale", [0.0, 1e-30, 1e-12, 1.0, 1e12, 1e18])
def test_precondition_is_finite_at_any_scale(relative, scale):
    z, z_prime = (scale * view for view in pairs_of_views(dtype=jnp.float32))

    def total(z):
        return jnp.sum(optim.precondition(z, z_prime, relative=relative)[0])

    gradient = np.asarray(jax.grad(total)(z))
    assert np.isfinite(gradient).all()
    if scale == 0.0:
        np.testing.assert_array_equal(gradient, 1)
    elif relative:  # nothing depends on the scale
        z, z_prime = pairs_of_views(dtype=jnp.float32)
        np.testing.assert_allclose(gradient, jax.grad(total)(z), rtol=1e-3)


def test_precondition_accumulates_half_precision_in_float32():
    halves = [view.astype(jnp.bfloat16) for view in pairs_of_views(n=512, dtype=jnp.float32)]
    singles = [view.astype(jnp.float32) for view in halves]
    loss = optim.preconditioned(losses.barlow_twins, alpha=0.01)
    ours, expected = (jax.grad(loss, argnums=(0, 1))(*views) for views in (halves, singles))
    for one, other in zip(ours, expected, strict=True):
        assert one.dtype == jnp.bfloat16
        # The cotangent is rounded to half precision before and after the product.
        worst = np.abs(np.asarray(one.astype(jnp.float32) - other)).max()
        assert worst <= 2 * float(jnp.finfo(jnp.bfloat16).eps) * np.abs(np.asarray(other)).max()
    pair = optim.precondition(*halves)
    np.testing.assert_array_equal(pair[0], halves[0])
    assert pair[0].dtype == jnp.bfloat16


def test_settings_of_precondition_are_traced():
    views, calls = pairs_of_views(dtype=jnp.float32), []

    @jax.jit
    def gradient(alpha, strength):
        calls.append(1)
        loss = optim.preconditioned(losses.vicreg, alpha=alpha, strength=strength)
        return jax.grad(loss)(*views)

    none, some, more = gradient(0.1, 0.0), gradient(0.1, 1.0), gradient(0.01, 1.0)
    assert len(calls) == 1
    plain = jax.grad(losses.vicreg)(*views)
    np.testing.assert_allclose(none, plain, atol=1e-6 * float(jnp.abs(plain).max()))
    assert np.linalg.norm(none) < np.linalg.norm(some) < np.linalg.norm(more)


@pytest.mark.parametrize("parts", [1, 3])
def test_precondition_in_the_training_step(x64, parts):
    """With microbatches the matrix is that of the whole batch; a warm-up follows the step."""

    class Linear:
        def init(self, key, x, train):
            return {"params": {"w": jnp.asarray(np.random.default_rng(3).normal(size=(4, 3)))}}

        def apply(self, variables, x, train, mutable):
            return (x, x @ variables["params"]["w"]), {}

    network, sgd, warmup = Linear(), optax.sgd(1e-2), optax.linear_schedule(0.0, 1.0, 2)
    images = jnp.stack(pairs_of_views(4), axis=1)

    @jax.jit
    def step(state, images):
        loss = optim.preconditioned(losses.vicreg, alpha=0.05, strength=warmup(state.step))
        make = train.make_step(
            network, loss, sgd, lambda keys, x: (x[:, 0], x[:, 1]), num_microbatches=parts
        )
        return make(state, images)

    state = train.init_state(jax.random.key(0), network, sgd, images[:, 0])
    weights = np.asarray(state.params["w"])
    for strength in (0.0, 0.5, 1.0):
        state, _ = step(state, images)
        loss = optim.preconditioned(losses.vicreg, alpha=0.05, strength=strength)
        gradient = jax.grad(lambda w, f=loss: f(images[:, 0] @ w, images[:, 1] @ w))(weights)
        weights = weights - 1e-2 * np.asarray(gradient)
        np.testing.assert_allclose(state.params["w"], weights, rtol=1e-10)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda z: optim.precondition(z, z, alpha=0.0), "alpha must be > 0"),
        (lambda z: optim.precondition(z, z, strength=-0.1), "strength must be >= 0"),
        (lambda z: optim.precondition(z, z, strength=1.1), "strength must be <= 1, got 1.1"),
        (lambda z: optim.precondition(z, z, alpha=jnp.ones(2)), "alpha must be a number"),
        (lambda z: optim.precondition(z, z, strength=jnp.ones(2)), "strength must be a number"),
        (lambda z: optim.precondition(z, z[:2]), "one shape"),
        (lambda z: optim.precondition(z[0], z[0]), r"z must be a matrix .*\(n, d\)"),
        (lambda z: optim.precondition(z, jnp.full((3, 2), jnp.inf)), "z_prime .*infinite"),
    ],
)
def test_precondition_rejects(call, message, unchecked):
    with pytest.raises(ValueError, match=message):
        call(jnp.ones((3, 2)))
