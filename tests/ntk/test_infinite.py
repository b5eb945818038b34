"""Infinite networks against their recursion written out, and against wide finite ones."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.test_util import check_grads

from sslstep.ntk import _neural_tangents, infinite

DEFAULT_STD = {"ntk": 2**0.5, "standard": 3**-0.5}


def samples(num, seed=0, dim=6, dtype=np.float64):
    return np.random.default_rng(seed).normal(size=(num, dim)).astype(dtype)


def recursion(
    x, depth, width, parameterization, kernel, bias_std=None, init_scale=1.0, output_bias=False
):
    """The kernel over x, layer by layer (the formulas of `mlp`'s docstring), in float64."""
    std, fan_in = DEFAULT_STD[parameterization], x.shape[1]
    covariance = x @ x.T / fan_in
    ntk = np.zeros_like(covariance)
    for layer in range(depth + 1):
        has_bias = bias_std is not None and (layer < depth or output_bias)
        bias = {None: 0.0, "fan_in": std / fan_in**0.5}.get(bias_std, bias_std) * has_bias
        new = init_scale**2 * (std**2 * covariance + bias**2)
        own = new / init_scale**2 if parameterization == "ntk" else fan_in * covariance + has_bias
        ntk = own + init_scale**2 * std**2 * ntk
        covariance = new
        if layer < depth:
            norms = np.sqrt(np.diag(covariance))
            cosine = np.clip(covariance / np.outer(norms, norms), -1, 1)
            rest = np.pi - np.arccos(cosine)
            ntk = ntk * rest / (2 * np.pi)
            angular = np.sqrt(1 - cosine**2) + rest * cosine
            covariance = np.outer(norms, norms) * angular / (2 * np.pi)
            fan_in = width
    return ntk if kernel == "ntk" else covariance


def relative_error(value, expected):
    """Off the diagonal and on it, in float64: compared in float32, half an ulp would be zero."""
    error = np.abs(np.asarray(value, np.float64) / expected - 1)
    diagonal = np.eye(len(error), dtype=bool)
    return error[~diagonal].max(), error[diagonal].max()


@pytest.mark.parametrize(
    ("depth", "bias_std", "output_bias", "parameterization", "kernel"),
    [
        (1, None, False, "standard", "ntk"),
        (3, None, False, "ntk", "ntk"),
        (3, None, False, "standard", "nngp"),
        (2, 0.0, True, "standard", "ntk"),
        (2, 0.3, False, "ntk", "nngp"),
        (2, 0.3, False, "standard", "ntk"),
        (2, "fan_in", True, "ntk", "ntk"),
        (2, "fan_in", True, "standard", "ntk"),
        (2, "fan_in", True, "standard", "nngp"),
    ],
)
def test_mlp_is_the_recursion(x64, depth, bias_std, output_bias, parameterization, kernel):
    x = samples(7)
    settings = {"bias_std": bias_std, "output_bias": output_bias}
    for init_scale in (1.0, 0.1):
        arguments = (depth, 32, parameterization, kernel)
        expected = recursion(x, *arguments, **settings, init_scale=init_scale)
        value = infinite.mlp(
            depth, 32, parameterization=parameterization, kernel=kernel, init_scale=init_scale,
            **settings,
        )(x)  # fmt: skip
        off, _ = relative_error(value, expected)
        # Biases bring angles close to zero, and an angle is known to eps divided by itself; of the
        # reference one of zero to the root of eps: the diagonal has a test of its own.
        assert off < 1e-11
        wrong, _ = relative_error(value, expected * (1 + 1e-9))
        assert wrong > 1e-10


def test_diagonal_in_closed_form(dtype):
    """Each of L + 1 layers contributes 2 |x|²/m₀, rounded once in float32."""
    x = samples(7, dtype=dtype)
    norms = (x.astype(np.float64) ** 2).mean(1)
    tolerance = 0.6 * np.finfo(np.float32).eps if dtype == jnp.float32 else 1e-14
    for depth in (1, 3):
        value = infinite.mlp(depth)(x)
        assert value.dtype == dtype
        diagonal = np.diagonal(np.asarray(value, np.float64))
        np.testing.assert_allclose(diagonal, 2 * (depth + 1) * norms, rtol=tolerance)
        diagonal = np.diagonal(np.asarray(infinite.mlp(depth, kernel="nngp")(x), np.float64))
        np.testing.assert_allclose(diagonal, 2 * norms, rtol=tolerance)


@pytest.mark.parametrize("parameterization", ["ntk", "standard"])
def test_small_scales_in_float32_are_rounded_once(parameterization):
    x = samples(7, dtype=np.float32)
    for init_scale in (1e-4, 1e-2):
        value = infinite.mlp(3, 16, parameterization=parameterization, init_scale=init_scale)(x)
        expected = recursion(x.astype(np.float64), 3, 16, parameterization, "ntk")
        off, on = relative_error(value, init_scale**6 * expected)
        assert value.dtype == jnp.float32
        assert max(off, on) < 0.7 * np.finfo(np.float32).eps  # half an ulp, and 1e-8 of angles


def test_symmetric_and_positive(dtype):
    """So far as angles near zero are known: eps divided by the angle, or its root."""
    x = samples(60, dim=3, dtype=dtype)
    for kernel_fn in (infinite.mlp(1), infinite.mlp(3, kernel="nngp")):
        value = kernel_fn(x)
        np.testing.assert_array_equal(value, value.T)
        eigenvalues = np.linalg.eigvalsh(np.asarray(value, np.float64))
        tolerance = 60 * np.finfo(np.float32).eps if dtype == jnp.float32 else 1e-7
        assert eigenvalues[0] > -tolerance * eigenvalues[-1]
        np.testing.assert_allclose(kernel_fn(x, x), value, rtol=1e-6)


def test_one_compilation_serves_all_scales(x64):
    x = samples(5, dim=4)
    settings = {"parameterization": "standard", "bias_std": 0.1, "activation": "erf"}

    def kernel(init_scale, **changed):
        return infinite.mlp(1, 8, init_scale=init_scale, **(settings | changed))(x)

    first = kernel(1.0)
    compiled = infinite._evaluate._cache_size()
    for init_scale in (0.3, 1e-3, np.float32(0.1), jnp.asarray(2.0)):
        assert not np.allclose(kernel(init_scale), first)
    kernel(0.7, weight_std=0.3, bias_std=0.2)
    assert infinite._evaluate._cache_size() == compiled
    swept = jax.vmap(kernel)(jnp.array([0.3, 1.0]))
    np.testing.assert_allclose(swept, [kernel(0.3), first], rtol=1e-13)


@pytest.mark.parametrize("kernel_fn", [infinite.mlp(2), infinite.cnn(2)])
def test_transformations_in_float64(x64, kernel_fn):
    x1, x2 = (jnp.asarray(samples(num, num, 3 * 3 * 2).reshape(num, 3, 3, 2)) for num in (2, 3))
    np.testing.assert_allclose(jax.jit(kernel_fn)(x1, x2), kernel_fn(x1, x2), rtol=1e-12)
    check_grads(jax.jit(lambda x: kernel_fn(x, x2)), (x1,), order=1, rtol=1e-6)


def test_derivative_by_the_scale(x64):
    """K ∝ α^{2L}, so that dK/dα = 2 L K / α."""
    x = samples(4)
    value, slope = jax.jvp(lambda a: infinite.mlp(2, init_scale=a)(x), (0.1,), (1.0,))
    np.testing.assert_allclose(slope, 4 * value / 0.1, rtol=1e-12)


def test_traced_float32_is_float32(dtype):
    """Within `jit` precision is what it is: off the diagonal that is enough."""
    x1, x2 = samples(5, 0, dtype=dtype), samples(4, 1, dtype=dtype)
    value = jax.jit(infinite.mlp(2))(x1, x2)
    assert value.dtype == dtype
    tolerance = 100 * float(jnp.finfo(dtype).eps)
    np.testing.assert_allclose(value, infinite.mlp(2)(x1, x2), rtol=tolerance)
    constants = jax.jit(lambda: infinite.mlp(2)(x1))()  # known while tracing: computed at once
    np.testing.assert_array_equal(constants, infinite.mlp(2)(x1))


def test_images_and_integers_and_bytes(x64):
    pixels = np.random.default_rng(0).integers(0, 256, size=(3, 2, 2, 3), dtype=np.uint8)
    expected = infinite.mlp(1)(pixels.reshape(3, -1).astype(np.float64))
    np.testing.assert_array_equal(infinite.mlp(1)(pixels), expected)
    assert infinite.mlp(1)(pixels.astype(np.float32)).dtype == jnp.float32


# Convolutions: layers as neural_tangents has them, put together here.


def theirs(layers, x1, x2, kernel="ntk"):
    stax = _neural_tangents.load_neural_tangents().stax
    with jax.numpy_rank_promotion("allow"), jax.numpy_dtype_promotion("standard"):
        return jax.jit(lambda a, b: stax.serial(*layers)[2](a, b, kernel))(x1, x2)


@pytest.mark.parametrize("pool", ["flatten", "average"])
def test_cnn_is_as_of_neural_tangents(x64, pool):
    stax = _neural_tangents.load_neural_tangents().stax
    x1, x2 = (samples(num, num, 5 * 4 * 2).reshape(num, 5, 4, 2) for num in (3, 2))
    std = {"W_std": 2**0.5, "b_std": 0.2}
    layers = [stax.Conv(1, (3, 3), (2, 2), "SAME", **std), stax.Relu()] * 2
    layers += [stax.Flatten() if pool == "flatten" else stax.GlobalAvgPool()]
    layers += [stax.Dense(1, W_std=2**0.5)]
    value = infinite.cnn(2, strides=2, pool=pool, bias_std=0.2)(x1, x2)
    np.testing.assert_allclose(value, theirs(layers, x1, x2), rtol=1e-12)
    std = {"W_std": 0.1 * 3**-0.5, "parameterization": "standard"}
    layers = [stax.Conv(16, (2, 2), (1, 1), "VALID", **std), stax.Relu()] * 2
    layers += [stax.Flatten() if pool == "flatten" else stax.GlobalAvgPool()]
    layers += [stax.Dense(1, **std)]
    settings = {"filter_size": 2, "padding": "VALID", "pool": pool, "init_scale": 0.1}
    kernel = "ntk" if pool == "flatten" else "nngp"
    settings |= {"kernel": kernel, "parameterization": "standard"}
    value = infinite.cnn(2, 16, **settings)(x1, x2)
    np.testing.assert_allclose(value, theirs(layers, x1, x2, kernel), rtol=1e-12)


# Finite networks: the same parameterisation in a few lines, parameters drawn and differentiated.


class Finite:
    """Draws parameters while it is called without them, and takes them one by one with them."""

    def __init__(self, parameterization, bias_std, init_scale, key=None, params=None):
        self.settings = parameterization, bias_std, init_scale
        self.key, self.params = key, [] if params is None else list(params)

    def take(self, shape, size):
        """A parameter whose initial standard deviation is α times `size`, and what it enters as."""
        parameterization, _, init_scale = self.settings
        outside, inside = (size, 1.0) if parameterization == "ntk" else (1.0, size)
        if self.key is None:
            return outside * self.params.pop(0)
        self.key, key = jax.random.split(self.key)
        self.params.append(init_scale * inside * jax.random.normal(key, shape))
        return outside * self.params[-1]

    def conv(self, h, width, size, strides=1, bias=True):
        parameterization, bias_std, _ = self.settings
        std, fan_in = DEFAULT_STD[parameterization], size**2 * h.shape[-1]
        filters = self.take((size, size, h.shape[-1], width), std / fan_in**0.5)
        out = jax.lax.conv_general_dilated(
            h, filters, (strides, strides), "SAME", dimension_numbers=("NHWC", "HWIO", "NHWC")
        )
        if bias_std is None or not bias:
            return out
        bias_size = std / fan_in**0.5 if bias_std == "fan_in" else bias_std
        return out + self.take((1, 1, 1, width), bias_size)


def finite_mlp(layer, x, width, output_bias):
    h = x[:, None, None, :]
    for _ in range(2):
        h = jax.nn.relu(layer.conv(h, width, 1))
    return layer.conv(h, 1, 1, bias=output_bias)[:, 0, 0, 0]


def finite_resnet(layer, x, width, output_bias):
    h = layer.conv(x, width, 3)
    for strides in (1, 2):
        main = layer.conv(jax.nn.relu(h), width, 3, strides)
        main = layer.conv(jax.nn.relu(main), width, 3)
        h = main + (h if strides == 1 else layer.conv(h, width, 1, strides))
    h = jax.nn.relu(h)
    h = h.reshape(h.shape[0], 1, 1, -1)
    return layer.conv(h, 1, 1, bias=output_bias)[:, 0, 0, 0]


@pytest.mark.parametrize(("parameterization", "bias_std"), [("ntk", 0.5), ("standard", "fan_in")])
@pytest.mark.parametrize("architecture", ["mlp", pytest.param("resnet", marks=pytest.mark.slow)])
def test_wide_networks_have_the_kernel(x64, architecture, parameterization, bias_std):
    """Their mean over many initialisations, to its standard error and what 1/width leaves."""
    if architecture == "mlp":
        x, width, num_draws = samples(3), 128, 100
        finite, make, arguments = finite_mlp, infinite.mlp, (2,)
    else:
        x, width, num_draws = samples(3, dim=48).reshape(3, 4, 4, 3), 32, 100
        finite, make, arguments = finite_resnet, infinite.resnet, ((1, 1),)
    output_bias, init_scale = bias_std == 0.5, 0.7
    settings = (parameterization, bias_std, init_scale)

    def draw(key):
        layer = Finite(*settings, key=key)
        finite(layer, x, width, output_bias)
        jacobian = jax.jacrev(
            lambda params: finite(Finite(*settings, params=params), x, width, output_bias)
        )(layer.params)
        flat = jnp.concatenate([leaf.reshape(len(x), -1) for leaf in jacobian], axis=1)
        return flat @ flat.T

    draws = np.asarray(jax.lax.map(draw, jax.random.split(jax.random.key(0), num_draws)))

    def kernel(init_scale, bias_std):
        return make(
            *arguments, width, parameterization=parameterization, bias_std=bias_std,
            init_scale=init_scale, output_bias=output_bias and bias_std is not None,
        )(x)  # fmt: skip

    def deviations(expected):
        """Of the mean on and off the diagonal, in units of what is allowed."""
        for entries in (np.eye(3, dtype=bool), ~np.eye(3, dtype=bool)):
            values, wanted = draws[:, entries].mean(1), np.asarray(expected)[entries].mean()
            allowed = 4 * values.std(ddof=1) / num_draws**0.5 + 2 * wanted / width
            yield abs(values.mean() - wanted) / allowed

    expected = kernel(init_scale, bias_std)
    assert max(deviations(expected)) < 1
    # That is sharp enough to see a scale that is in every derivative too, or is not 1, or a bias.
    assert max(deviations(expected * init_scale**2)) > 1
    assert max(deviations(kernel(1.0, bias_std))) > 1
    if parameterization == "ntk":
        assert max(deviations(kernel(init_scale, None))) > 1


def test_output_bias_adds_its_constant(x64):
    x = samples(4)
    for parameterization, constant in (("standard", 1.0), ("ntk", 0.09)):
        settings = {"parameterization": parameterization, "bias_std": 0.3, "init_scale": 1e-2}
        with_bias = infinite.mlp(1, 8, output_bias=True, **settings)(x)
        without = infinite.mlp(1, 8, **settings)(x)
        np.testing.assert_allclose(with_bias - without, constant, rtol=1e-12)


def test_small_entries_between_samples_are_no_loss():
    """Nor is a kernel of zeros, where those of samples with themselves are not."""
    x, y = jnp.eye(1, 3), jnp.array([[1e-4, 1.0, 0.0]])
    for bias in (None, 1.0):
        # Two linear layers: Θ = 2 σ_w⁴ x·y / m, and with biases those of both layers.
        settings = {"bias_std": bias, "output_bias": bias is not None, "activation": "linear"}
        exact = 8 * 1e-4 / 3 + (0 if bias is None else 5)
        np.testing.assert_allclose(infinite.mlp(1, **settings)(x, y), exact, rtol=1e-6)
    left, right = (jnp.zeros((1, 1, 4, 1)).at[0, 0, i].set(1) for i in (0, 3))
    assert infinite.cnn(1, activation="erf")(left, right) == 0  # no window sees both
    with pytest.raises(ValueError, match="largest entry is"):
        infinite.cnn(1, activation="erf", weight_std=1e-30)(left, right)


def test_what_float32_cannot_hold_is_refused():
    x = samples(4, dtype=np.float32)
    settings = {"parameterization": "standard", "bias_std": "fan_in", "output_bias": True}
    with pytest.raises(ValueError, match=r"output bias adds a constant .* float64"):
        infinite.mlp(1, 8, init_scale=1e-3, **settings)(x)
    assert infinite.mlp(1, 8, **settings)(x).dtype == jnp.float32
    with pytest.raises(ValueError, match=r"largest entry is .*e-40, and .* give float64"):
        infinite.mlp(2, init_scale=7e-11)(x)
    with jax.enable_x64(True):
        infinite.mlp(1, 8, init_scale=1e-3, **settings)(x.astype(np.float64))
        infinite.mlp(2, init_scale=7e-11)(x.astype(np.float64))


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: infinite.mlp(0), "depth must be >= 1, got 0"),
        (lambda: infinite.mlp(parameterization="standard"), "width must be given"),
        (lambda: infinite.cnn(bias_std="fan_in"), "channels must be given"),
        (lambda: infinite.mlp(1, 0), "width must be >= 1, got 0"),
        (lambda: infinite.mlp(parameterization="mup"), "parameterization must be one of"),
        (lambda: infinite.mlp(activation="tanh"), "activation must be one of 'erf'"),
        (lambda: infinite.mlp(kernel="both"), "kernel must be one of 'nngp', 'ntk'"),
        (lambda: infinite.mlp(bias_std="fan_out"), "bias_std must be None, a number or 'fan_in'"),
        (lambda: infinite.mlp(bias_std=-1.0), "bias_std must be >= 0, got -1"),
        (lambda: infinite.mlp(weight_std=0.0), "weight_std must be > 0, got 0"),
        (lambda: infinite.mlp(init_scale=0.0), "init_scale must be > 0, got 0"),
        (lambda: infinite.mlp(init_scale=float("nan")), "init_scale must be > 0, got nan"),
        (lambda: infinite.mlp(output_bias=True), "output_bias=True needs a bias_std"),
        (lambda: infinite.cnn(padding="FULL"), "padding must be one of"),
        (lambda: infinite.cnn(pool="max"), "pool must be one of"),
        (lambda: infinite.cnn(strides=0), "strides must be >= 1"),
        (lambda: infinite.resnet(()), "num_blocks must be >= 1"),
        (lambda: infinite.resnet((1, 0)), "num_blocks must be >= 1"),
        (
            lambda: infinite.mlp()(np.ones(3)),
            r"x1 must have shape \(n, \.\.\.\).* got shape \(3,\)",
        ),
        (lambda: infinite.mlp()(np.ones((0, 3))), "no size 0"),
        (lambda: infinite.mlp()(np.ones((2, 3)), np.ones((2, 4))), r"got \(3,\) and \(4,\)"),
        (lambda: infinite.mlp()(np.full((2, 3), np.nan)), "x1 of shape .* NaN or infinite"),
        (lambda: infinite.mlp()(np.ones((2, 3)), np.full((2, 3), np.inf)), "x2 of shape"),
        (
            lambda: infinite.mlp()(np.ones((2, 3), bool)),
            "x1 must hold real numbers, got dtype bool",
        ),
        (lambda: infinite.cnn()(np.ones((2, 12))), r"\(n, height, width, channels\)"),
        (lambda: infinite.cnn(padding="VALID")(np.ones((2, 6, 6, 1))), "too small: 3 convolution"),
    ],
)
def test_wrong_input(unchecked, call, message):
    with pytest.raises(ValueError, match=message):
        call()
