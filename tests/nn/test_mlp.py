"""The fully connected network, and its initial scale."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from sslstep import nn

KINDS = ("ntk", "standard")
TREE = {"a": {"b": jnp.ones(2)}, "c": jnp.ones(2), "count": jnp.array(3)}


def network(x, layers, parameterization, weight_std, bias_std):
    """The definition in NumPy, on layers of (weights, bias)."""
    h = x
    for i, (weights, bias) in enumerate(layers):
        factor = weight_std / np.sqrt(len(weights)) if parameterization == "ntk" else 1.0
        h = factor * h @ weights
        if bias is not None:
            # bias_std None stands for "fan_in".
            std = weight_std / np.sqrt(len(weights)) if bias_std is None else bias_std
            h = h + (std if parameterization == "ntk" else 1.0) * bias
        if i < len(layers) - 1:
            h = np.maximum(h, 0)
    return h


@pytest.mark.parametrize("parameterization", KINDS)
@pytest.mark.parametrize(
    ("bias_std", "output_bias"), [(None, False), (0.3, False), ("fan_in", True)]
)
def test_is_its_definition(x64, parameterization, bias_std, output_bias):
    model = nn.MLP(4, 16, 2, parameterization, 1.3, bias_std, output_bias, dtype=jnp.float64)
    x = np.random.default_rng(0).normal(size=(5, 2, 3))
    params = model.init(jax.random.key(0), x)
    arrays = jax.tree.map(np.asarray, params["params"])
    names = ("hidden_1", "hidden_2", "output")
    layers = [(p["kernel"], p.get("bias")) for p in (arrays[name] for name in names)]
    assert [w.shape for w, _ in layers] == [(6, 16), (16, 16), (16, 4)]
    hidden = bias_std is not None
    assert [b is not None for _, b in layers] == [hidden, hidden, output_bias]
    std = None if bias_std == "fan_in" else bias_std
    expected = network(x.reshape(5, 6), layers, parameterization, 1.3, std)
    np.testing.assert_allclose(model.apply(params, x), expected, rtol=1e-13, atol=1e-14)


@pytest.mark.parametrize("seed", range(2))
def test_initial_parameters(seed):
    """Their distribution: moments within five standard errors, and bounds."""
    x, width = jnp.ones((1, 300)), 2000

    def layer(**settings):
        model = nn.MLP(3, width, bias_std="fan_in", **settings)
        return model.init(jax.random.key(seed), x)["params"]["hidden_1"]

    for value in jax.tree.leaves(layer(parameterization="ntk")):
        assert abs(float(value.mean())) < 5 / value.size**0.5
        assert abs(float(jnp.mean(value**2)) - 1) < 5 * (2 / value.size) ** 0.5
    # PyTorch's: U(±1/sqrt(fan_in)) for weights and biases.
    for value in jax.tree.leaves(layer(parameterization="standard")):
        scaled = value * 300**0.5
        assert 1 - 20 / value.size < float(jnp.abs(scaled).max()) <= 1
        assert abs(float(scaled.mean())) < 5 * (1 / 3 / value.size) ** 0.5
        assert abs(float(jnp.mean(scaled**2)) - 1 / 3) < 5 * (4 / 45 / value.size) ** 0.5


@pytest.mark.parametrize("parameterization", KINDS)
def test_both_parameterizations_are_one_law_of_outputs(parameterization):
    """The variance of f over many initialisations, against |x|² W⁴ / (2 m): ReLU halves it."""
    weight_std, draws, dim = 1.2, 400, 50
    model = nn.MLP(dim, 64, parameterization=parameterization, weight_std=weight_std)
    x = jnp.asarray([[1.0, -2.0, 0.5]])
    keys = jax.random.split(jax.random.key(0), draws)
    z = jax.vmap(lambda key: model.apply(model.init(key, x), x))(keys)
    expected = weight_std**4 * float(jnp.sum(x**2)) / 3 / 2
    by_draw = np.asarray(jnp.mean(z**2, axis=(1, 2)))
    assert abs(by_draw.mean() - expected) < 5 * by_draw.std() / draws**0.5


def test_inputs_are_converted_to_the_dtype_of_the_parameters(dtype):
    model = nn.MLP(2, 3, dtype=dtype)
    pixels = jnp.array([[200, 100]], jnp.uint8)
    params = model.init(jax.random.key(0), pixels)
    assert all(leaf.dtype == dtype for leaf in jax.tree.leaves(params))
    z = model.apply(params, pixels)
    assert z.dtype == dtype
    np.testing.assert_array_equal(z, model.apply(params, pixels.astype(jnp.float32)))


@pytest.mark.parametrize("depth", [1, 3])
def test_scale_init_is_homogeneous(x64, depth):
    model = nn.MLP(3, 8, depth, dtype=jnp.float64)
    x = jnp.asarray(np.random.default_rng(0).normal(size=(4, 5)))
    params, alpha = model.init(jax.random.key(0), x), 1e-3
    scaled = model.apply(nn.scale_init(params, alpha), x)
    np.testing.assert_allclose(scaled, alpha ** (depth + 1) * model.apply(params, x), rtol=1e-12)
    last = nn.scale_init(params, alpha, where=lambda path: path == "params/output/kernel")
    np.testing.assert_allclose(model.apply(last, x), alpha * model.apply(params, x), rtol=1e-12)


def test_scale_init_is_traced_and_keeps_other_leaves():
    params = {"kernel": jnp.ones(2), "half": jnp.ones(2, jnp.bfloat16), "count": jnp.array(3)}
    calls = []

    @jax.jit
    def scaled(alpha):
        calls.append(alpha)
        return nn.scale_init(params, alpha)

    first, second = scaled(0.5), scaled(0.25)
    assert len(calls) == 1
    assert (float(first["kernel"][0]), float(second["half"][0])) == (0.5, 0.25)
    assert int(second["count"]) == 3
    assert second["half"].dtype == jnp.bfloat16


def test_scale_init_wants_its_arguments_in_order(unchecked):
    with pytest.raises(TypeError, match="init_scale must be a number, got a dict"):
        nn.scale_init(0.1, {"kernel": jnp.ones(2)})
    with pytest.raises(TypeError, match="where must be a function of a path"):
        nn.scale_init({"kernel": jnp.ones(2)}, 0.1, where="kernel")


def test_centred_scales_the_output_and_keeps_the_derivative(x64):
    model = nn.MLP(3, 8, bias_std=0.1, dtype=jnp.float64)
    x = jnp.asarray(np.random.default_rng(0).normal(size=(4, 5)))
    params0 = model.init(jax.random.key(0), x)
    params = model.init(jax.random.key(1), x)
    f = nn.centred(model.apply, params0, 0.01)
    start = model.apply(params0, x)
    np.testing.assert_allclose(f(params0, x), 0.01 * start, rtol=1e-12)
    np.testing.assert_allclose(f(params, x), model.apply(params, x) - 0.99 * start, rtol=1e-12)
    ours, plain = (jax.jacrev(g)(params, x) for g in (f, model.apply))
    jax.tree.map(np.testing.assert_array_equal, ours, plain)
    assert not np.any(nn.centred(model.apply, params0)(params0, x))


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: nn.MLP(3, 0), "width must be >= 1, got 0"),
        (lambda: nn.MLP(3, 4, 0), "depth must be >= 1"),
        (lambda: nn.MLP(3, 4, parameterization="mup"), "parameterization must be .* got 'mup'"),
        (lambda: nn.MLP(3, 4, weight_std=0.0), "weight_std must be > 0"),
        (lambda: nn.MLP(3, 4, bias_std=-1.0), "bias_std must be >= 0"),
        (lambda: nn.MLP(3, 4, bias_std="fan_out"), "bias_std must be a number"),
        (lambda: nn.MLP(3, 4, output_bias=True), "output_bias=True needs bias_std"),
        (lambda: nn.MLP(3, 4).init(jax.random.key(0), jnp.ones(3)), r"\(n, ...\), got .*\(3,\)"),
        (lambda: nn.scale_init({}, -1.0), "init_scale must be >= 0"),
        (lambda: nn.scale_init(TREE, 0.5, lambda path: path == "b"), r"none of: a/b, c\."),
        (lambda: nn.scale_init(TREE, 0.5, lambda path: path == "count"), "where matches none of"),
        (lambda: nn.scale_init(list(range(14)) + 12 * [1.0], 0.5, str.isalpha), "22 and 3 more"),
        (lambda: nn.centred(jnp.dot, {}, -1.0), "init_scale must be >= 0"),
    ],
)
def test_rejects(call, message, unchecked):
    with pytest.raises(ValueError, match=message):
        call()
