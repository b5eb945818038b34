"""Full-batch gradient descent: against a plain loop, exact solutions, and what goes wrong."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from sslstep import losses, nn, simulate, train


def half_square(theta, target):
    return 0.5 * jnp.sum((theta - target) ** 2)


def barlow_twins(params, x, x_prime):
    z, z_prime = MODEL.apply(params, x), MODEL.apply(params, x_prime)
    return losses.simplified_barlow_twins(z, z_prime)


MODEL = nn.MLP(dim=2, width=6, parameterization="standard", bias_std="fan_in", dtype=jnp.float64)


def pairs(seed, n=8, m=5):
    rng = np.random.default_rng(seed)
    common = rng.normal(size=(n, m))
    return tuple(jnp.asarray(common + 0.3 * rng.normal(size=(n, m))) for _ in range(2))


def test_same_steps_as_a_plain_loop(x64):
    args, eta, at = pairs(0), 0.1, [0, 1, 5, 12]
    params = MODEL.init(jax.random.key(0), args[0])
    start = jax.tree.map(np.array, params)
    gradient = jax.jit(jax.value_and_grad(barlow_twins))
    walk, expected = params, []
    for step in range(21):
        loss, grads = gradient(walk, *args)
        if step in at:
            expected.append((loss, walk))
        if step < 20:
            walk = jax.tree.map(lambda p, g: p - eta * g, walk, grads)

    def measure(params, x, x_prime):
        return {"loss": barlow_twins(params, x, x_prime), "params": params}

    run = train.full_batch_descent(
        barlow_twins, params, eta, 20, args=args, record_at=at, measure=measure
    )
    np.testing.assert_allclose(run.times, eta * np.array(at), rtol=1e-15)
    np.testing.assert_allclose(run.records["loss"], [loss for loss, _ in expected], rtol=1e-12)

    def close(ours, theirs):
        np.testing.assert_allclose(ours, theirs, rtol=1e-11, atol=1e-14)

    for i, (_, theirs) in enumerate(expected):
        jax.tree.map(close, jax.tree.map(lambda leaf, i=i: leaf[i], run.records["params"]), theirs)
    # The last step is taken though it is not recorded, and the caller's parameters are left alone.
    jax.tree.map(close, run.params, walk)
    jax.tree.map(np.testing.assert_array_equal, params, start)


def test_exact_decay_in_each_dtype(dtype):
    """Of a quadratic: the error shrinks by 1 - η a step."""
    target = jnp.asarray([1.0, -2.0], dtype)
    at = np.array([0, 3, 10])
    run = train.full_batch_descent(
        half_square, jnp.zeros(2, dtype), 0.3, 10, args=(target,), record_at=at
    )
    np.testing.assert_allclose(
        run.records, 2.5 * 0.7 ** (2 * at), rtol=100 * float(jnp.finfo(dtype).eps)
    )
    assert run.params.dtype == run.records.dtype == dtype


def test_records_the_first_and_the_last_by_default():
    run = train.full_batch_descent(half_square, jnp.zeros(1), 0.5, 4, args=(jnp.ones(1),))
    np.testing.assert_allclose(run.times, [0.0, 2.0])
    np.testing.assert_allclose(run.records, [0.5, 0.5 * 0.25**4])
    none = train.full_batch_descent(half_square, jnp.zeros(1), 0.5, 0, args=(jnp.ones(1),))
    np.testing.assert_allclose((none.times, none.records), ([0.0], [0.5]))


def test_sweeping_the_rate_the_steps_and_the_data_compiles_once():
    calls = []

    def loss(theta, target):
        calls.append(theta)
        return half_square(theta, target)

    def run(eta, num_steps, target):
        return train.full_batch_descent(loss, jnp.zeros(2), eta, num_steps, args=(target,))

    run(0.1, 5, jnp.ones(2))
    traced = len(calls)
    for eta, num_steps in ((0.2, 7), (0.3, 9)):
        run(eta, num_steps, jnp.full(2, eta, jnp.float32))
    assert len(calls) == traced


def test_every_record_is_told():
    told = []
    run = train.full_batch_descent(
        half_square,
        jnp.zeros(1),
        0.1,
        9,
        args=(jnp.ones(1),),
        record_at=[0, 2, 7],
        on_record=lambda step: told.append(int(step)),
    )
    jax.block_until_ready(run)
    jax.effects_barrier()
    assert sorted(told) == [0, 2, 7, 9]


def test_divergence_names_the_step(dtype):
    """The error grows by 9 a step: the loss, about 81^k / 2, overflows at a step known before."""
    largest = float(jnp.finfo(dtype).max)
    step = int(np.ceil((np.log(2) + np.log(largest)) / np.log(81)))
    args = (jnp.ones(1, dtype),)
    for num_steps in (step, step + 50):  # at the very end, and on the way
        with pytest.raises(simulate.DivergenceError, match=f"at step {step} .*rate is 10"):
            train.full_batch_descent(half_square, jnp.zeros(1, dtype), 10.0, num_steps, args=args)
    train.full_batch_descent(half_square, jnp.zeros(1, dtype), 10.0, step - 1, args=args)


@jax.jit
def of_a_traced_rate(eta):
    return train.full_batch_descent(
        half_square, jnp.zeros(1), eta, 25, args=(jnp.ones(1),), record_at=range(26)
    ).records


def test_under_jit_divergence_is_in_the_records():
    """The loss 81^k / 2 overflows at k = 21."""
    records = of_a_traced_rate(10.0)
    np.testing.assert_allclose(records[:21], 81.0 ** np.arange(21) / 2, rtol=1e-5)
    assert np.isinf(records[21:]).all()


def test_over_seeds_with_vmap():
    starts = jnp.arange(3.0)[:, None]

    def final(start, eta):
        run = train.full_batch_descent(half_square, start, eta, 5, args=(jnp.ones(1),))
        return run.params

    rates = jnp.array([0.1, 0.5, 0.9])
    expected = 1 + (starts - 1) * (1 - rates[:, None]) ** 5
    np.testing.assert_allclose(jax.vmap(final)(starts, rates), expected, rtol=1e-5)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"learning_rate": 0.0}, "learning_rate must be > 0"),
        ({"num_steps": -1}, "num_steps must be >= 0"),
        ({"record_at": [3, 2]}, "record_at must increase strictly"),
        ({"record_at": [0, 6]}, "record_at must increase strictly within 0...num_steps = 5"),
        ({"loss_fn": lambda theta: theta}, r"loss_fn must return a scalar, got shape \(2,\)"),
    ],
)
def test_rejects(settings, message, unchecked):
    valid = {"loss_fn": jnp.sum, "params": jnp.ones(2), "learning_rate": 0.1, "num_steps": 5}
    with pytest.raises(ValueError, match=message):
        train.full_batch_descent(**(valid | settings))
