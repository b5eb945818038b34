"""What the kernel of a finite network is asked for: models that mix samples, and odd arguments."""

from functools import partial

import flax.core
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen, nnx
from jax.tree_util import Partial

from sslstep.ntk import empirical

SEPARATE = "apply_fn must map each sample independently"
key = jax.random.key


def samples(shape=(8, 4), seed=0):
    return jnp.asarray(np.random.default_rng(seed).normal(size=shape), jnp.float32)


def weights(last=1.0):
    return {"w": samples((4, 16), 1), "o": last * samples((16, 3), 2)}


def hidden(params, x):
    return jax.nn.relu(x @ params["w"])


def of_batch_norm(params, x):
    h = x @ params["w"]
    h = (h - h.mean(0, keepdims=True)) / jnp.sqrt(h.var(0, keepdims=True) + 1e-5)
    return jax.nn.relu(h) @ params["o"]


def minus_the_mean(params, x):
    z = hidden(params, x) @ params["o"]
    return z - z.mean(0, keepdims=True)


def dropout(params, x):
    h = hidden(params, x)
    return jnp.where(jax.random.bernoulli(key(0), 0.5, h.shape), h, 0.0) @ params["o"]


def scaled_by_the_number(params, x):
    return hidden(params, x) @ params["o"] / len(x)


def scaled_by_the_place(params, x):
    return hidden(params, x) @ params["o"] * jnp.arange(1.0, len(x) + 1)[:, None]


def neighbours(params, x):
    return hidden(params, x + 0.1 * jnp.roll(x, 1, axis=0)) @ params["o"]


class Normalised(linen.Module):
    train: bool
    rate: float = 0.0

    @linen.compact
    def __call__(self, x):
        h = linen.BatchNorm(use_running_average=not self.train)(linen.Dense(16)(x))
        h = linen.Dropout(self.rate, deterministic=self.rate == 0)(jax.nn.relu(h))
        return linen.Dense(3)(h)


MIXING = [
    of_batch_norm, minus_the_mean, dropout, scaled_by_the_number, scaled_by_the_place, neighbours,
]  # fmt: skip


@pytest.mark.parametrize("apply_fn", MIXING)
def test_samples_that_see_each_other_are_refused(apply_fn):
    """By the kernel and by the operator alike."""
    for call in (empirical.ntk, empirical.operator):
        with pytest.raises(ValueError, match=SEPARATE):
            call(apply_fn, weights(), samples())


@pytest.mark.parametrize(
    ("params", "x"),
    [
        (weights(last=0.0), samples()),  # all outputs are zero, and derivatives are not
        (weights(), jnp.ones((8, 4))),  # samples that are alike hide what they share
        (weights(), jnp.zeros((8, 4))),
        (weights(), samples((1, 4))),
        (weights(), 1e3 * samples()),
        (weights(), (100 * samples()).astype(jnp.int32)),
    ],
    ids=["outputs of zero", "alike", "zero", "one", "large", "integers"],
)
def test_wherever_it_hides(params, x):
    def apply_fn(params, x):
        return of_batch_norm(params, x.astype(jnp.float32))

    with pytest.raises(ValueError, match=SEPARATE):
        empirical.ntk(apply_fn, params, x)


def test_modes_of_flax():
    x = samples()
    variables = Normalised(train=False).init(key(1), x)
    params, stats = variables["params"], variables["batch_stats"]

    def apply_fn(model, stats, params, x):
        tree = {"params": params, "batch_stats": stats}
        return model.apply(tree, x, mutable=["batch_stats"], rngs={"dropout": key(2)})[0]

    def of(**settings):
        return empirical.ntk(Partial(partial(apply_fn, Normalised(**settings)), stats), params, x)

    for settings in ({"train": True}, {"train": False, "rate": 0.5}):
        with pytest.raises(ValueError, match=SEPARATE):
            of(**settings)
    assert of(train=False).shape == (8, 8)


def test_rounding_is_no_interaction():
    """Low precision, sums that cancel, and outputs that are not finite."""
    x, params = samples(), weights()

    def halved(dtype, params, x):
        h, o = hidden(jax.tree.map(lambda p: p.astype(dtype), params), x.astype(dtype)), params["o"]
        return (h @ o.astype(dtype)).astype(jnp.float32)

    def cancelling(params, x):  # its values are known to 1e-2
        return hidden(params, 1e5 + x) @ params["o"] - hidden(params, 1e5 - x) @ params["o"]

    def partly_infinite(params, x):
        return jnp.concatenate([hidden(params, x) @ params["o"], 1 / (0 * x[:, :1])], axis=1)

    for dtype in (jnp.bfloat16, jnp.float16):
        assert empirical.ntk(partial(halved, dtype), params, x).shape == (8, 8)
        low = jax.tree.map(lambda p, dtype=dtype: p.astype(dtype), params)
        assert empirical.ntk(lambda p, x: hidden(p, x) @ p["o"], low, x.astype(dtype)).shape
    for apply_fn in (cancelling, partly_infinite):
        assert empirical.ntk(apply_fn, params, x).shape == (8, 8)


def test_within_jit_what_is_known_is_checked():
    params, x = weights(), samples()
    with pytest.raises(ValueError, match=SEPARATE):
        jax.jit(lambda s: s * empirical.ntk(of_batch_norm, params, x))(1.0)
    traced = jax.jit(lambda p, x: empirical.ntk(lambda p, x: hidden(p, x) @ p["o"], p, x))
    assert traced(params, x).shape == (8, 8)


def test_other_collections_are_no_parameters():
    """Running averages would be differentiated by: 6% of the kernel and more."""
    model, x = Normalised(train=False), samples()
    variables = model.init(key(1), x)
    for tree in (variables, flax.core.freeze(variables), {"net": variables}, (variables, x)):
        for call in (empirical.ntk, empirical.operator):
            with pytest.raises(ValueError, match=r"params holds 'batch_stats' beside 'params'"):
                call(model.apply, tree, x)
    # Alone, or beside nothing, it is what a module without other collections takes.
    dense = linen.Dense(3)
    params = dense.init(key(1), x)
    expected = empirical.ntk(lambda p, x: dense.apply({"params": p}, x), params["params"], x)
    for tree in (params, params | {"batch_stats": {}}, flax.core.freeze(params)):
        np.testing.assert_array_equal(empirical.ntk(dense.apply, tree, x), expected)


def test_state_of_nnx():
    class Net(nnx.Module):
        def __init__(self, rngs):
            self.dense, self.norm = nnx.Linear(4, 3, rngs=rngs), nnx.BatchNorm(3, rngs=rngs)

        def __call__(self, x):
            return self.norm(self.dense(x), use_running_average=True)

    x = samples()
    graph, state = nnx.split(Net(nnx.Rngs(0)))
    with pytest.raises(ValueError, match=r"a BatchStat of flax\.nnx, which is not a parameter"):
        empirical.ntk(lambda s, x: nnx.merge(graph, s)(x), state, x)
    graph, params, rest = nnx.split(Net(nnx.Rngs(0)), nnx.Param, ...)
    assert empirical.ntk(lambda p, x: nnx.merge(graph, p, rest)(x), params, x).shape == (8, 8)


@pytest.mark.parametrize("limit", [3e6, np.float64(3_000_000.5)])
def test_bytes_may_be_any_number(limit):
    params = {"w": jnp.ones((6, 300)), "o": jnp.ones((300, 3))}

    def apply_fn(params, x):
        return jnp.tanh(x @ params["w"]) @ params["o"]

    x = samples((400, 6))
    expected = empirical.ntk(apply_fn, params, x)
    kernel = empirical.ntk(apply_fn, params, x, memory_limit=limit)
    np.testing.assert_allclose(kernel, expected, rtol=0, atol=1e-5 * float(expected.max()))


def linear(params, x):
    return x @ params


def with_output(function):
    return {"apply_fn": lambda params, x: function(x @ params)}


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"memory_limit": "1GB"}, "memory_limit must be a number"),
        ({"memory_limit": True}, "memory_limit must be a number of bytes, got True"),
        ({"memory_limit": float("nan")}, "memory_limit must be a number of bytes, at least 1"),
        ({"memory_limit": float("inf")}, "memory_limit must be a number of bytes, at least 1"),
        ({"memory_limit": 0}, "memory_limit must be a number of bytes, at least 1, got 0"),
        ({"memory_limit": -2.0}, r"memory_limit must be a number of bytes, at least 1, got -2\.0"),
        ({"batch_size": 3.0}, r"batch_size must be a whole number, got 3\.0"),
        (with_output(lambda z: (z, z)), r"one array of shape \(n, d\), got a tuple. Select one"),
        (with_output(lambda z: {"z": z}), r"one array of shape \(n, d\), got a dict. Select one"),
        (with_output(lambda z: None), r"one array of shape \(n, d\), got a NoneType"),
        (with_output(lambda z: z.sum()), r"for one sample of shape \(2,\) it returned shape \(\)"),
        (with_output(lambda z: z[0]), r"for one sample of shape \(2,\) it returned shape \(3,\)"),
        (with_output(lambda z: z[:1]), r"for 4 samples of shape \(2,\) it returned shape \(1, 3\)"),
        (with_output(lambda z: z.T @ z), r"\(n, d\): for one sample .* returned shape \(3, 3\)"),
        (with_output(lambda z: z[:, :0]), r"embeddings of shape \(n, d\), got d = 0"),
        (with_output(lambda z: z.astype(int)), "floating-point numbers, got dtype int32"),
        (with_output(lambda z: z.astype(complex)), "floating-point numbers, got dtype complex64"),
        ({"x1": {"image": jnp.ones((3, 2))}}, "x1 must be one array of samples, got a dict"),
        ({"x1": None}, "x1 must be one array of samples, got a NoneType"),
        ({"x1": [[1.0, 2.0], [1.0]]}, "x1 must hold samples of one shape"),
        ({"x1": np.array(["a"])}, "x1 must be an array of numbers, got dtype <U1"),
        ({"x2": jnp.ones((3, 2), jnp.float16)}, "the same dtype, got float32 and float16"),
        ({"x2": jnp.ones((0, 2))}, r"x2 must hold samples, .* got shape \(0, 2\)"),
        ({"params": jax.random.key(0)}, "floating-point arrays: params has dtype key<fry>"),
        ({"params": [jnp.ones((2, 3)), "adam"]}, r"floating-point arrays: params\[1\] is a str"),
        ({"params": [jnp.ones((2, 3)), jnp.tanh]}, r"arrays: params\[1\] is a "),
        ({"params": jnp.ones((2, 3), complex)}, "params has dtype complex64"),
        ({"params": {"w": jnp.ones((0, 3))}}, "params holds no numbers"),
    ],
)
def test_is_named_where_it_enters(settings, message, unchecked):
    valid = {"apply_fn": linear, "params": jnp.ones((2, 3)), "x1": jnp.ones((3, 2))}
    with pytest.raises((TypeError, ValueError), match=message):
        empirical.ntk(**(valid | settings))


def test_lists_and_sizes_of_zero(unchecked):
    x = [[1.0, 2.0], [3.0, 4.0]]
    kernel = empirical.ntk(linear, np.ones((2, 3)), x)
    np.testing.assert_array_equal(kernel, [[5.0, 11.0], [11.0, 25.0]])
    params = {"w": jnp.ones((2, 3)), "none": jnp.ones((0, 3))}

    def apply_fn(params, x):
        return x @ params["w"] + x[:, :0] @ params["none"]

    np.testing.assert_array_equal(empirical.ntk(apply_fn, params, x), kernel)


def test_an_error_of_the_model_says_what_it_was_given():
    model = linen.Dense(3)
    params = model.init(key(0), samples())["params"]  # where apply wants {"params": ...}
    with pytest.raises(Exception, match=r"apply_fn\(params, x\) with x of shape \(1, 4\)"):
        empirical.ntk(model.apply, params, samples())
