"""Convolutions in loops: as outside of them, in the order of axes that XLA's CPU is fast with."""

import re
from functools import partial

import flax.linen
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from jax import lax

from sslstep import _convolutions, _xla, losses, nn, train
from sslstep.train import _full_batch
from sslstep.train._record import embed_in_batches

PATTERN = r"dim_labels=([^\s,]+)"
LAST = "b01f_01io->b01f"


def orders(function, *arguments):
    """Of all convolutions in the compiled program."""
    text = jax.jit(function).lower(*arguments).compile().as_text()
    return set(re.findall(PATTERN, text))


def equal(function, *arguments):
    for ours, theirs in zip(
        jax.tree.leaves(jax.jit(_convolutions.in_order(function))(*arguments)),
        jax.tree.leaves(jax.jit(function)(*arguments)),
        strict=True,
    ):
        np.testing.assert_allclose(ours, theirs, rtol=1e-12, atol=1e-12)


def conv(x, kernel, numbers, **settings):
    settings = {"window_strides": (1,) * (x.ndim - 2), "padding": "SAME"} | settings
    return lax.conv_general_dilated(x, kernel, dimension_numbers=numbers, **settings)


@pytest.fixture
def rng():
    return np.random.default_rng(0)


def gradients(x, kernel, **settings):
    def loss(x, kernel):
        return jnp.sum(jnp.sin(conv(x, kernel, ("NHWC", "HWIO", "NHWC"), **settings)))

    return jax.grad(loss, (0, 1))(x, kernel)


@pytest.mark.parametrize("strides", [(1, 1), (2, 1)])
def test_gradients_in_a_loop_come_in_order(x64, rng, strides):
    x = jnp.asarray(rng.normal(size=(3, 2, 6, 5, 4)))
    kernel = jnp.asarray(rng.normal(size=(3, 3, 4, 5)))

    def looped(x):
        return lax.map(lambda x: gradients(x, kernel, window_strides=strides), x)

    equal(looped, x)
    assert len(orders(looped, x)) > 1, "XLA orders them itself now: is this still needed?"
    assert orders(_convolutions.in_order(looped), x) == {LAST}


@pytest.mark.parametrize(
    ("numbers", "x", "kernel"),
    [
        (("NCHW", "OIHW", "NCHW"), (2, 4, 6, 5), (3, 4, 3, 2)),
        (("HWCN", "HWIO", "NHWC"), (6, 5, 4, 2), (3, 2, 4, 3)),
        (("NHWC", "HWOI", "CWHN"), (2, 6, 5, 4), (3, 2, 3, 4)),
        (("NCH", "OIH", "NCH"), (2, 4, 6), (3, 4, 3)),
        (("NCDHW", "OIDHW", "NDHWC"), (2, 4, 3, 6, 5), (3, 4, 2, 3, 2)),
    ],
)
def test_any_order_and_number_of_axes(x64, rng, numbers, x, kernel):
    x, kernel = jnp.asarray(rng.normal(size=x)), jnp.asarray(rng.normal(size=kernel))

    def looped(x):
        return lax.map(lambda scale: conv(scale * x, kernel, numbers), jnp.arange(1.0, 4.0))

    equal(looped, x)
    spaces = "012"[: x.ndim - 2]
    assert orders(_convolutions.in_order(looped), x) == {f"b{spaces}f_{spaces}io->b{spaces}f"}


def test_groups_and_dilations(x64, rng):
    x = jnp.asarray(rng.normal(size=(3, 2, 7, 6, 4)))
    for settings, kernel in (
        ({"feature_group_count": 2}, (3, 3, 2, 6)),
        ({"feature_group_count": 4}, (3, 3, 1, 4)),
        (
            {"rhs_dilation": (2, 1), "lhs_dilation": (1, 2), "padding": ((1, 2), (0, 1))},
            (3, 3, 4, 6),
        ),
        ({"batch_group_count": 2}, (3, 3, 4, 6)),
    ):
        kernel = jnp.asarray(rng.normal(size=kernel))
        each = partial(gradients, kernel=kernel, **settings)
        equal(lambda x, each=each: lax.map(each, x), x)


@pytest.mark.parametrize("order", ["NHWC", "NCHW"])
def test_of_single_channels_only_the_gradient_by_the_kernel_is_ordered(x64, rng, order):
    numbers = (order, "HWIO", order)
    x = jnp.asarray(rng.normal(size=(3, 2, 6, 6, 6)))
    kernel = jnp.asarray(rng.normal(size=(3, 3, 1, 6)))

    def depthwise(x, kernel):
        return conv(x, kernel, numbers, feature_group_count=6)

    def by_input(x):
        return lax.map(lambda x: jax.vjp(lambda y: depthwise(y, kernel), x)[1](x)[0], x)

    def by_kernel(x):
        return lax.map(lambda x: jax.vjp(lambda k: depthwise(x, k), kernel)[1](x)[0], x)

    equal(by_input, x)
    equal(by_kernel, x)
    both = by_input, _convolutions.in_order(by_input)
    before, after = (str(jax.make_jaxpr(function)(x)) for function in both)
    assert after == before
    assert LAST in orders(_convolutions.in_order(by_kernel), x) - orders(by_kernel, x)


def test_every_kind_of_loop(x64, rng):
    x = jnp.asarray(rng.normal(size=(2, 6, 5, 4)))
    kernel = jnp.asarray(rng.normal(size=(3, 3, 4, 4)))

    def step(kernel):
        return kernel - 1e-3 * gradients(x, kernel)[1]

    def nested(kernel, count):
        def outer(kernel, _):
            start = (0, kernel)
            _, kernel = lax.while_loop(lambda c: c[0] < 2, lambda c: (c[0] + 1, step(c[1])), start)
            return jax.checkpoint(jax.jit(step))(kernel), jnp.sum(kernel)

        kernel = lax.fori_loop(0, count, lambda _, kernel: step(kernel), kernel)
        kernel = lax.cond(count > 2, step, lambda kernel: kernel, kernel)
        return lax.scan(outer, kernel, None, length=2)

    equal(nested, kernel, 3)
    assert orders(_convolutions.in_order(nested), kernel, 3) == {LAST}


def test_a_network_of_flax_with_its_second_derivative(x64, rng):
    layer = flax.linen.Conv(3, (3, 3), strides=2, dtype=jnp.float64)
    x = jnp.asarray(rng.normal(size=(3, 2, 6, 5, 4)))
    params = layer.init(jax.random.key(0), x[0])

    def along(x):
        def loss(params):
            return jnp.sum(jnp.sin(layer.apply(params, x)))

        return jax.jvp(jax.grad(loss), (params,), (params,))

    equal(lambda x: lax.map(along, x), x)


def test_what_has_no_loop_stays_as_it_is(rng):
    x = jnp.asarray(rng.normal(size=(2, 6, 5, 4)), jnp.float32)
    kernel = jnp.asarray(rng.normal(size=(3, 3, 4, 5)), jnp.float32)
    both = gradients, _convolutions.in_order(gradients)
    before, after = (str(jax.make_jaxpr(function)(x, kernel)) for function in both)
    assert after == before


def test_what_is_called_twice_stays_one_program(rng):
    x = jnp.asarray(rng.normal(size=(2, 6, 5, 4)), jnp.float32)
    kernel = jnp.asarray(rng.normal(size=(3, 3, 4, 4)), jnp.float32)

    def step(_, x):
        return jax.grad(lambda x: jnp.sum(jnp.sin(conv(x, kernel, ("NHWC", "HWIO", "NHWC")))))(x)

    inner = jax.jit(lambda x: lax.fori_loop(0, 2, step, x))
    for _ in range(6):
        inner = jax.jit(lambda x, inner=inner: inner(inner(x)))
    lengths = [
        len(jax.jit(function).lower(x).as_text().splitlines())
        for function in (inner, _convolutions.in_order(inner))
    ]
    assert lengths[1] < lengths[0] + 20
    np.testing.assert_allclose(_convolutions.in_order(inner)(x), inner(x))


def test_without_jit_and_in_search_of_a_nan_it_is_the_function_itself(rng):
    x = jnp.asarray(rng.normal(size=(3, 2, 6, 5, 4)), jnp.float32)
    kernel = jnp.asarray(rng.normal(size=(3, 3, 4, 5)), jnp.float32)

    def bad(x):
        seen.append(not isinstance(x, jax.core.Tracer))
        return jnp.log(lax.map(lambda x: gradients(x, kernel)[0], x) - 1e9)

    seen: list[bool] = []
    with jax.disable_jit():
        jax.jit(_convolutions.in_order(bad))(x)
    assert seen == [True]
    with jax.debug_nans(True), pytest.raises(FloatingPointError) as raised:
        jax.jit(_convolutions.in_order(bad))(x)
    assert any(entry.name == "bad" for entry in raised.traceback)


def test_takes_and_returns_trees():
    def function(a, *, b):
        return {"sum": a[0] + b["c"], "none": None}

    out = _convolutions.in_order(function)((1.0, 2.0), b={"c": 3.0})
    assert out == {"sum": 4.0, "none": None}


def test_jit_orders_them_on_cpu_alone(rng):
    x = jnp.asarray(rng.normal(size=(3, 2, 6, 5, 4)), jnp.float32)
    kernel = jnp.asarray(rng.normal(size=(3, 3, 4, 5)), jnp.float32)

    def looped(x):
        return lax.map(lambda x: gradients(x, kernel), x)

    ordered = _xla.jit(looped, jax.devices("cpu")[:1])
    assert set(re.findall(PATTERN, ordered.lower(x).compile().as_text())) == {LAST}
    assert ordered is _xla.jit(looped, jax.devices("cpu")[:1])
    elsewhere = _xla._jit(looped, False)
    assert len(set(re.findall(PATTERN, elsewhere.lower(x).compile().as_text()))) > 1
    assert _xla.on_cpu(_xla.devices_of({"x": x, "number": 1.0}))


@pytest.mark.parametrize("parallel", ["jit", "pmap"])
def test_steps_of_training_in_one_dispatch(parallel):
    backbone = nn.ResNet(stage_sizes=(1, 1), width=4, stem="small")
    network = nn.Encoder(backbone, nn.Projector(hidden=(8,), dim=3))
    sgd = optax.sgd(0.1)
    x = jnp.asarray(np.random.default_rng(0).normal(size=(8, 16, 16, 3)), jnp.float32)
    step = train.make_step(
        network, losses.barlow_twins, sgd, lambda keys, x: (x, x[:, ::-1]), num_microbatches=2
    )
    compiled = train.compile_step(step, devices=jax.devices("cpu")[:1], parallel=parallel)
    state = compiled.place(train.init_state(jax.random.key(0), network, sgd, x[:1]))
    indices = np.arange(16, dtype=np.int32).reshape(2, 8) % 8
    if parallel == "pmap":
        indices = indices[:, None]
    with jax.enable_checks(True):
        text = compiled._compiled.lower(state, compiled.place(x), indices).compile().as_text()
    assert set(re.findall(PATTERN, text)) == {LAST}


def test_full_batch_descent(rng):
    x = jnp.asarray(rng.normal(size=(2, 6, 5, 4)), jnp.float32)
    kernel = jnp.asarray(rng.normal(size=(3, 3, 4, 5)), jnp.float32)

    def loss(kernel, x):
        return jnp.mean(jnp.sin(conv(x, kernel, ("NHWC", "HWIO", "NHWC"))))

    def compiled(on_cpu):
        functions = {"loss_fn": loss, "measure": loss, "on_record": None}
        stops = jnp.array([0, 3])
        lowered = _full_batch._descend.lower(
            kernel, (x,), jnp.array(0.1), stops, on_cpu=on_cpu, **functions
        )
        return set(re.findall(PATTERN, lowered.compile().as_text()))

    assert compiled(on_cpu=True) == {LAST}
    assert len(compiled(on_cpu=False)) > 1


def test_records(rng):
    class Network(flax.linen.Module):
        @flax.linen.compact
        def __call__(self, x, train=True):
            kernel = self.param("kernel", flax.linen.initializers.lecun_normal(), (4, 3, 3, 3))
            h = conv(x, kernel, ("NCHW", "OIHW", "NCHW")).reshape(len(x), -1)
            return h, h[:, :2]

    x = jnp.asarray(rng.normal(size=(8, 3, 6, 6)), jnp.float32)
    variables = Network().init(jax.random.key(0), x)

    def embed(x):
        return embed_in_batches(Network(), variables, x, 4)

    assert orders(embed, x) == {LAST}
