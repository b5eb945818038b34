"""Fully connected infinite networks: in float32 as in float64, and at the ends of the range."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.test_util import check_grads

from sslstep import gram
from sslstep.ntk import _dense, _neural_tangents, infinite

EPS = float(np.finfo(np.float32).eps)


def samples(num, seed=0, dim=8):
    return np.random.default_rng(seed).normal(size=(num, dim))


def close_ones(dim=8):
    """Some alike, some nearly so, one opposite, one zero."""
    x = samples(9, dim=dim)
    x[1], x[2], x[3], x[4] = x[0], x[0] * (1 + 1e-6), -x[0], 0.0
    x[5], x[6], x[7] = x[0] + 1e-3 * x[5], -x[0] + 1e-5 * x[6], 3 * x[0]
    return x.astype(np.float32)


def exact(x1, x2, depth, bias_std=0.0):
    """Rectifiers' NTK from angles whose errors are those of float64: differences of directions."""

    def directions(x):
        x = x.astype(np.longdouble)
        length = np.sqrt((x**2).sum(1))
        return x / np.where(length > 0, length, 1)[:, None], length / np.sqrt(x.shape[1])

    (a, r1), (b, r2) = directions(x1), directions(x2)
    theta = 2 * np.arctan2(
        np.linalg.norm(a[:, None] - b[None], axis=2), np.linalg.norm(a[:, None] + b[None], axis=2)
    )
    r1, r2, ntk = r1[:, None], r2[None], 0
    for layer in range(depth + 1):
        bias = bias_std**2 if layer < depth else 0
        # A plane triangle: the sides' angle from half of it, so that none is lost near zero.
        long1, long2 = np.sqrt(2 * r1**2 + bias), np.sqrt(2 * r2**2 + bias)
        inner = 2 * r1 * r2 * np.cos(theta) + bias
        half = (2 * r1 * r2 * 2 * np.sin(theta / 2) ** 2 + (long1 * long2 - 2 * r1 * r2 - bias)) / 2
        ratio = half / np.where(long1 * long2 > 0, long1 * long2, 1)
        theta = 2 * np.arcsin(np.sqrt(np.clip(ratio, 0, 1))) if bias else theta
        ntk = inner + 2 * ntk
        if layer == depth:
            return np.asarray(ntk, float)
        ntk = ntk * (np.pi - theta) / (2 * np.pi)
        # 1 - κ(θ), without a cosine: θ³ / 3 of sin θ - θ cos θ where that would cancel.
        small = np.where(theta < 1e-2, theta**3 / 3 - theta**5 / 30 + theta**7 / 840,
                         np.sin(theta) - theta * np.cos(theta))  # fmt: skip
        lost = 2 * np.sin(theta / 2) ** 2 - small / np.pi
        theta = 2 * np.arcsin(np.sqrt(np.clip(lost / 2, 0, 1)))
        r1, r2 = long1 / 2**0.5, long2 / 2**0.5


@pytest.mark.parametrize("depth", [1, 3])
@pytest.mark.parametrize("dim", [8, 1200])
def test_float32_is_as_float64(depth, dim):
    """Compiled by the user or not, with the second samples given or not; each layer adds eps."""
    x = close_ones(dim)
    kernel_fn = infinite.mlp(depth)
    expected = exact(x, x, depth)
    for value in (kernel_fn(x), kernel_fn(x, x), jax.jit(kernel_fn)(x), jax.jit(kernel_fn)(x, x)):
        error = np.abs(np.asarray(value, float) - expected).max() / expected.max()
        # Directions are rounded, to eps each; between opposite ones the NTK is what is left of π.
        assert error < 10 * (depth + 1) * EPS
    blocks = gram.matrix(jax.jit(kernel_fn), x, batch_size=4)
    np.testing.assert_allclose(
        blocks, expected, rtol=0, atol=10 * (depth + 1) * EPS * expected.max()
    )


def test_jit_keeps_small_eigenvalues():
    """A diagonal off by 1e-3 would be as large as the fortieth of them."""
    x = samples(60, dim=300).astype(np.float32)
    x[30:] = x[:30] + 0.01 * samples(30, 1, 300)
    kernel_fn = infinite.mlp(3)
    eager, jitted = (
        np.linalg.eigvalsh(np.asarray(f(x), float)) for f in (kernel_fn, jax.jit(kernel_fn))
    )
    np.testing.assert_allclose(jitted, eager, rtol=0, atol=20 * EPS * eager[-1])
    assert eager[0] > 100 * EPS * eager[-1]


def test_biases_bring_angles_near_zero():
    x = close_ones()[:4]
    expected = exact(x[:3], x[:3], 2, bias_std=0.5)
    value = np.asarray(jax.jit(infinite.mlp(2, bias_std=0.5))(x[:3], x[:3]), float)
    assert np.abs(value / expected - 1).max() < 30 * EPS


@pytest.mark.parametrize("kernel", ["ntk", "nngp"])
@pytest.mark.parametrize("activation", ["erf", "gelu", "linear"])
def test_as_of_neural_tangents(x64, activation, kernel):
    stax = _neural_tangents.load_neural_tangents().stax
    acting = {"erf": stax.Erf, "gelu": stax.Gelu, "linear": stax.Identity}
    x1, x2 = samples(4), samples(3, 1)
    std = {"W_std": 1.3, "b_std": 0.2}
    layers = [stax.Dense(1, **std), acting[activation](), stax.Dense(1, **std)]
    layers += [acting[activation](), stax.Dense(1, W_std=1.3)]
    with jax.numpy_rank_promotion("allow"), jax.numpy_dtype_promotion("standard"):
        expected = jax.jit(lambda a, b: stax.serial(*layers)[2](a, b, kernel))(x1, x2)
    settings = {"activation": activation, "kernel": kernel, "weight_std": 1.3, "bias_std": 0.2}
    np.testing.assert_allclose(infinite.mlp(2, **settings)(x1, x2), expected, rtol=1e-12)
    with jax.enable_x64(False):
        low = jax.jit(infinite.mlp(2, **settings))(x1.astype("f"), x2.astype("f"))
    scale = float(np.abs(expected).max())
    np.testing.assert_allclose(low, expected, rtol=0, atol=10 * EPS * scale)


@pytest.mark.parametrize("activation", ["relu", "gelu"])
def test_large_inputs(activation):
    """GELU is the rectifier there."""
    x = samples(5).astype(np.float32)
    expected = infinite.mlp(2)(x)
    for factor in (1e6, 1e12, 1e15):
        value = infinite.mlp(2, activation=activation)(np.float32(factor) * x)
        np.testing.assert_allclose(value / np.float32(factor) ** 2, expected, rtol=1e-5)
    settings = {"init_scale": 1e-30, "weight_std": 1e30}  # that undo each other, but for the output
    value = infinite.mlp(6, **settings)(1e-30 * x)
    np.testing.assert_allclose(value, infinite.mlp(6, weight_std=1.0)(x), rtol=1e-5)


@pytest.mark.parametrize(
    "call",
    [
        lambda x: infinite.mlp(6, init_scale=1e-30)(x),
        lambda x: infinite.mlp(6, weight_std=1e30)(x),
        lambda x: infinite.mlp(6, init_scale=1e-30)(x, -x[:1]),
        lambda x: infinite.mlp(6, init_scale=1e-30, bias_std=0.0)(x),
        lambda x: infinite.mlp(6, weight_std=1e30, bias_std=0.3)(x),
        lambda x: infinite.mlp(2, kernel="nngp", init_scale=1e-70, activation="gelu")(x),
        lambda x: infinite.mlp(2)(x.astype(np.float16) * np.float16(1e4)),
        lambda x: infinite.cnn(2, init_scale=1e-90)(x.reshape(-1, 2, 2, 2)),
        lambda x: infinite.resnet(1, weight_std=1e90)(x.reshape(-1, 2, 2, 2)),
    ],
)
def test_what_no_float_holds_is_refused(call):
    with pytest.raises(ValueError, match=r"the kernel's largest entry is .*, and float.* ranges"):
        call(samples(3).astype(np.float32))


def test_kernels_of_zero_are_zero():
    x = samples(2).astype(np.float32)
    np.testing.assert_array_equal(infinite.mlp(2)(0 * x), np.zeros((2, 2)))
    np.testing.assert_array_equal(infinite.mlp(1)(x[:1], -x[:1]), [[0.0]])  # opposite directions


@pytest.mark.parametrize(("activation", "depth"), [("relu", 2), ("gelu", 1)])
def test_derivatives_are_finite_and_right(activation, depth):
    x = close_ones()
    own = infinite.mlp(depth, activation=activation)
    other = infinite.mlp(depth, activation=activation, bias_std=0.3)
    for total in (lambda x: own(x).sum(), lambda x: other(x, x).sum()):
        assert np.isfinite(jax.jit(jax.grad(total))(x)).all()
    with jax.enable_x64(True):
        a, b = jnp.asarray(samples(3)), jnp.asarray(samples(2, 1))
        kernel_fn = jax.jit(infinite.mlp(depth, activation=activation))
        check_grads(lambda a: kernel_fn(a, b), (a,), order=1, rtol=1e-5)


def test_chords_of_close_and_of_opposite_directions():
    near = jnp.asarray(close_ones(40))
    near /= jnp.maximum(jnp.linalg.norm(near, axis=1, keepdims=True), 1e-30)
    u, v = _dense._exact_chords(near, near)
    wide = np.asarray(near, np.longdouble)
    for value, sign in ((u, -1), (v, 1)):
        expected = (np.linalg.norm(wide[:, None] + sign * wide[None], axis=2) ** 2) / 2
        np.testing.assert_allclose(value, expected, rtol=4 * EPS, atol=1e-12)


def test_angles_from_their_halves(dtype):
    """θ and π - θ from 1 ∓ cos θ, relative to themselves, against arctan2 in longer numbers."""
    half = np.geomspace(1e-20, 0.5, 2000)
    u = np.concatenate([[0.0], half, np.linspace(0.5, 1.5, 999), 2 - half[::-1], [2.0]])
    v = np.concatenate([[2.0], 2 - half, np.linspace(1.5, 0.5, 999), half[::-1], [0.0]])
    u, v = (jnp.asarray(a, dtype) for a in (u, v))
    roots = [np.sqrt(np.asarray(a, np.longdouble)) for a in (u, v)]
    for angle, expected in zip(
        _dense._angles(u, v), (2 * np.arctan2(*roots), 2 * np.arctan2(*roots[::-1])), strict=True
    ):
        np.testing.assert_allclose(angle, expected, rtol=4 * float(jnp.finfo(dtype).eps), atol=0)
