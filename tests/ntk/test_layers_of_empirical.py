"""The empirical NTK of every kind of layer against Jacobians written out by jax.jacrev."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen
from jax import lax
from jax.tree_util import Partial

from sslstep import nn
from sslstep.ntk import _arguments, _contraction, _program, empirical


def jacobian_kernel(apply_fn, params, x):
    """The full kernel (n, n, d, d), in NumPy and float64."""
    jacobian = jax.tree.leaves(jax.jit(jax.jacrev(apply_fn))(params, x))
    flat = np.concatenate(
        [np.asarray(leaf, float).reshape(*leaf.shape[:2], -1) for leaf in jacobian], axis=2
    )
    return np.einsum("ikp,jlp->ijkl", flat, flat)


def conv(stride=1, padding="SAME", kernel_dilation=1, input_dilation=1, groups=1, size=3):
    """A convolution with a bias, then all positions weighted differently."""

    class Net(linen.Module):
        dtype: jnp.dtype

        @linen.compact
        def __call__(self, x):
            y = linen.Conv(
                4,
                (size, size),
                strides=stride,
                padding=padding,
                kernel_dilation=kernel_dilation,
                input_dilation=input_dilation,
                feature_group_count=groups,
                param_dtype=self.dtype,
            )(x)
            y = jnp.tanh(y).reshape(len(y), -1)
            return linen.Dense(3, param_dtype=self.dtype)(y)

    return Net


def of(body):
    """A flax module of a function (module, x)."""

    class Net(linen.Module):
        dtype: jnp.dtype

        @linen.compact
        def __call__(self, x):
            return body(self, x)

    return Net


def dense(net, width, x):
    return linen.Dense(width, param_dtype=net.dtype)(x)


def normalised(net, x):
    settings = {"param_dtype": net.dtype, "force_float32_reductions": False}
    y = linen.Conv(4, (3, 3), param_dtype=net.dtype)(x)
    y = linen.BatchNorm(use_running_average=True, **settings)(y)
    y = linen.GroupNorm(2, **settings)(jnp.tanh(y))
    return linen.LayerNorm(**settings)(dense(net, 3, y.mean(axis=(1, 2))))


def windows(y):
    return lax.reduce_window(y, np.zeros((), y.dtype), lax.add, (1, 2, 2, 1), (1, 1, 1, 1), "VALID")


def pooled(net, x):
    y = linen.Conv(5, (3, 3), padding="VALID", param_dtype=net.dtype)(x)
    y = linen.max_pool(y, (2, 2), (2, 2))
    y = linen.Conv(5, (2, 2), param_dtype=net.dtype)(y)
    return dense(net, 2, windows(y).reshape(len(y), -1))


def residual(net, x):
    y = linen.Conv(4, (1, 1), param_dtype=net.dtype)(x)
    for _ in range(2):
        y = y + jnp.tanh(linen.Conv(4, (3, 3), param_dtype=net.dtype)(y))
    return dense(net, 3, y.sum(axis=(1, 2)))


def shared_weights(net, x):
    """One convolution and one matrix, each used twice, and a weight that is normalised."""
    layer = linen.Conv(2, (3, 3), param_dtype=net.dtype)
    y = jnp.tanh(layer(jnp.tanh(layer(x)))).reshape(len(x), -1)[:, :8]
    matrix = net.param("matrix", linen.initializers.normal(), (8, 8), net.dtype)
    y = jnp.tanh(y @ matrix) @ matrix.T
    weights = net.param("weights", linen.initializers.normal(), (8, 3), net.dtype)
    return y @ (weights / jnp.linalg.norm(weights, axis=0, keepdims=True))


def several_positions(net, x):
    """Matrices that act on the left, on the right and along two axes, as in attention."""
    y = x.reshape(len(x), -1, 4)
    mixed = dense(net, 5, y)
    left = net.param("left", linen.initializers.normal(), (6, y.shape[1]), net.dtype)
    y = jnp.einsum("sp,npc->nsc", left, jnp.tanh(mixed))
    y = linen.MultiHeadDotProductAttention(1, qkv_features=4, param_dtype=net.dtype)(y, y)
    return linen.DenseGeneral(3, axis=(1, 2), param_dtype=net.dtype)(jnp.tanh(y))


def calls(net, x):
    """What stands inside calls: rematerialised, compiled, and a loop over layers."""
    y = linen.remat(linen.Conv)(3, (3, 3), param_dtype=net.dtype)(x)
    y = y.mean(axis=(1, 2))
    stack = net.param("stack", linen.initializers.normal(), (2, 3, 3), net.dtype)
    y, _ = lax.scan(lambda y, w: (jnp.tanh(y @ w), None), y, stack)
    last = net.param("last", linen.initializers.normal(), (3, 2), net.dtype)
    return jax.jit(lambda y, w: jax.jit(jnp.matmul)(y, w))(y, last)


def scaled(net, x):
    """Weights times numbers, known and not: the NTK parameterisation."""
    scale = jnp.asarray(0.3, net.dtype) + 0 * x.sum()
    first = net.param("first", linen.initializers.normal(), (72, 5), net.dtype)
    second = net.param("second", linen.initializers.normal(), (5, 3), net.dtype)
    y = jnp.tanh(x.reshape(len(x), -1) @ (0.5 * first * jnp.asarray(3.0, net.dtype)))
    temperature = net.param("temperature", linen.initializers.ones, (), net.dtype)
    third = net.param("third", linen.initializers.normal(), (5, 5), net.dtype)
    y = y @ (temperature * third)
    return (y * scale) @ (second.T * jnp.sin(jnp.asarray(2.0, net.dtype))).T


def one_output(net, x):
    return dense(net, 1, jnp.tanh(dense(net, 7, x.reshape(len(x), -1))))


CONVOLUTIONS = {
    "no padding": conv(padding="VALID"),
    "uneven padding": conv(padding=((2, 0), (1, 3)), stride=(2, 1)),
    "dilation": conv(kernel_dilation=2),
    "input dilation": conv(input_dilation=2, padding=((1, 1), (2, 1))),
    "groups": conv(groups=2),
    "groups, stride, dilation": conv(groups=2, stride=2, kernel_dilation=2),
    "one pixel": conv(size=1),
    "few positions": conv(stride=3),
}
LAYERS = {
    **CONVOLUTIONS,
    "dense": of(lambda net, x: dense(net, 3, jnp.tanh(dense(net, 7, x.reshape(len(x), -1))))),
    "one output": of(one_output),
    "stride": conv(stride=2),
    "normalisation": of(normalised),
    "pooling": of(pooled),
    "residual": of(residual),
    "shared weights": of(shared_weights),
    "several positions": of(several_positions),
    "calls": of(calls),
    "scaled": of(scaled),
}


def setting(layer, dtype):
    x = jnp.asarray(np.random.default_rng(0).normal(size=(5, 6, 6, 2)), dtype)
    model = LAYERS[layer](dtype)
    variables = jax.jit(model.init)(jax.random.key(1), x)
    # Statistics, biases and scales that are not 0 and 1.
    leaves, tree = jax.tree.flatten(variables)
    keys = jax.random.split(jax.random.key(2), len(leaves))
    leaves = [a + jax.random.uniform(k, a.shape, dtype) for a, k in zip(leaves, keys, strict=True)]
    variables = dict(jax.tree.unflatten(tree, leaves))
    params = variables.pop("params")

    def apply_fn(params, x):
        return model.apply({"params": params, **variables}, x)

    return apply_fn, params, x


def kinds(theta):
    dim = theta.shape[-1]
    scalar, trace = theta.sum((2, 3)) / dim, np.trace(theta, axis1=2, axis2=3) / dim
    return {"full": theta, "scalar": scalar, "trace": trace}


#: Of which both contractions are tested, in float64.
EITHER = ["groups", "several positions"]


@pytest.mark.parametrize("layer", LAYERS)
def test_equals_jacobians(monkeypatch, layer):
    """Of two sets of samples, all kinds in float64; or float32 and the kind of all entries."""
    if layer in CONVOLUTIONS:  # that samples are found separate is seen with the other layers
        monkeypatch.setattr(_arguments, "require_separate", lambda *_: None)
    dtype = jnp.dtype("float32" if layer in EITHER else "float64")
    with jax.enable_x64(dtype == jnp.float64):
        apply_fn, params, x = setting(layer, dtype)
        theta = jacobian_kernel(apply_fn, params, x)
        tol = (1e-5 if dtype == jnp.float32 else 1e-12) * np.abs(theta).max()
        for kind, values in kinds(theta[:3, 2:]).items():
            if dtype == jnp.float64 or kind == "full":
                kernel = empirical.ntk(apply_fn, params, x[:3], x[2:], kind=kind)
                assert kernel.dtype == dtype
                np.testing.assert_allclose(kernel, values, rtol=0, atol=tol)


@pytest.mark.parametrize("layer", EITHER)
def test_either_contraction(monkeypatch, x64, layer):
    """By positions or by gradients: the price of a pair of positions decides."""
    apply_fn, params, x = setting(layer, jnp.float64)
    theta = jacobian_kernel(apply_fn, params, x)
    for price in (-(10**12), 10**12):
        monkeypatch.setattr("sslstep.ntk._contraction._ENTRY", price)
        _contraction._add_site.clear_cache()
        for kind, values in kinds(theta).items():
            kernel = empirical.ntk(apply_fn, params, x, kind=kind, batch_size=2)
            np.testing.assert_allclose(kernel, values, rtol=0, atol=1e-12 * np.abs(theta).max())
    _contraction._add_site.clear_cache()


def test_windows_that_differ_in_size_alone():
    """Of one stride and one shape of output: each has a contraction of its own."""
    x = jnp.asarray(np.random.default_rng(0).normal(size=(3, 8, 8, 2)), jnp.float32)
    numbers = ("NHWC", "HWIO", "NHWC")

    def model(params, x):
        y = sum(
            lax.conv_general_dilated(x, kernel, (4, 4), "VALID", dimension_numbers=numbers)
            for kernel in params
        )
        return y.reshape(len(x), -1)

    params = [jnp.ones((size, size, 2, 1)) for size in (3, 4)]
    theta = jacobian_kernel(model, params, x)
    kernel = empirical.ntk(model, params, x, kind="full")
    np.testing.assert_allclose(kernel, theta, rtol=0, atol=1e-5 * np.abs(theta).max())


def test_complex_numbers_on_the_way(x64):
    x = jnp.asarray(np.random.default_rng(0).normal(size=(4, 5)))
    params = jnp.asarray(np.random.default_rng(1).normal(size=(5, 3)))

    def model(params, x):
        return (jnp.fft.fft(x) @ params.astype(jnp.complex128)).real

    theta = jacobian_kernel(model, params, x)
    kernel = empirical.ntk(model, params, x, kind="trace")
    np.testing.assert_allclose(kernel, np.trace(theta, axis1=2, axis2=3) / 3, rtol=1e-12)


def test_layers_are_recognised():
    """Convolutions and matrices used once are contracted; the rest is differentiated as it is."""
    expected = {"dense": 2, "groups": 2, "residual": 4, "shared weights": 0, "several positions": 7}
    expected["scaled"] = 2
    for layer, number in expected.items():
        read, params, x = setting(layer, jnp.float32)
        program = _program.read(Partial.__call__, Partial(read), params, x[0])
        assert len(program.sites) == number, layer
    model = nn.ResNet(stage_sizes=(1, 1), width=4, stem="imagenet")
    x = jnp.zeros((1, 32, 32, 3))
    variables = jax.eval_shape(lambda: model.init(jax.random.key(0), x, train=False))

    def apply_fn(stats, params, x):
        return model.apply({"params": params, "batch_stats": stats}, x, train=False)

    program = _program.read(apply_fn, variables["batch_stats"], variables["params"], x[0])
    matrices = [leaf for leaf in jax.tree.leaves(variables["params"]) if len(leaf.shape) > 1]
    assert len(program.sites) == len(matrices) == 6


@pytest.mark.slow
def test_whole_resnet():
    """The ResNet of this package, whose convolutions are written anew for CPUs."""
    model = nn.ResNet(stage_sizes=(1, 1), width=4, stem="imagenet")
    x = jnp.asarray(np.random.default_rng(0).normal(size=(4, 16, 16, 3)), jnp.float32)
    variables = model.init(jax.random.key(0), x, train=False)

    def apply_fn(params, x):
        return model.apply({**variables, "params": params}, x, train=False)

    theta = jacobian_kernel(apply_fn, variables["params"], x)
    kernel = empirical.ntk(apply_fn, variables["params"], x, kind="trace")
    values = np.trace(theta, axis1=2, axis2=3) / theta.shape[-1]
    np.testing.assert_allclose(kernel, values, rtol=0, atol=1e-5 * np.abs(values).max())
