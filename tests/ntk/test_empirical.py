"""The empirical NTK against Jacobians written out, closed forms, and its limit."""

import subprocess
import sys
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen
from jax.tree_util import Partial

from sslstep import _xla, kernel_pca, nn
from sslstep.ntk import _contraction, empirical, infinite


class ConvNet(linen.Module):
    dtype: jnp.dtype

    @linen.compact
    def __call__(self, x):
        h = linen.Conv(4, (3, 3), strides=2, param_dtype=self.dtype)(x)
        h = jax.nn.relu(h).mean(axis=(1, 2))
        return linen.Dense(3, param_dtype=self.dtype)(h)


def written_out(apply_fn, params, x, kind):
    """From the whole Jacobians, in NumPy and float64."""
    jacobian = jax.tree.leaves(jax.jit(jax.jacrev(apply_fn))(params, x))
    flat = np.concatenate(
        [np.asarray(leaf, float).reshape(*leaf.shape[:2], -1) for leaf in jacobian], axis=2
    )
    theta = np.einsum("ikp,jlp->ijkl", flat, flat)
    total = theta.sum((2, 3)) if kind == "scalar" else np.trace(theta, axis1=2, axis2=3)
    return total / theta.shape[-1]


def setting(name, dtype):
    rng = np.random.default_rng(0)
    x = jnp.asarray(rng.normal(size=(7, 6, 6, 2)), dtype)
    model = ConvNet(dtype) if name == "conv" else nn.MLP(3, 8, bias_std=0.5, dtype=dtype)
    return model.apply, jax.jit(model.init)(jax.random.key(0), x), x


@pytest.mark.parametrize(
    ("dtype", "name", "kind"),
    [("float32", "dense", "trace"), ("float64", "conv", "scalar")],
    indirect=["dtype"],
)
def test_jacobians_written_out(dtype, name, kind):
    apply_fn, params, x = setting(name, dtype)
    x1, x2 = x[:4], x[2:]
    # Sums of some hundred products, each to eps.
    tol = {"rtol": 100 * float(jnp.finfo(dtype).eps), "atol": 100 * float(jnp.finfo(dtype).eps)}
    expected = written_out(apply_fn, params, x, kind)
    cross = empirical.ntk(apply_fn, params, x1, x2, kind=kind)
    assert cross.dtype == dtype
    np.testing.assert_allclose(cross, expected[:4, 2:], **tol)
    # Blocks that divide neither number of samples.
    blocks = empirical.ntk(apply_fn, params, x1, x2, batch_size=3, kind=kind)
    np.testing.assert_allclose(blocks, cross, **tol)
    own = empirical.ntk(apply_fn, params, x2, batch_size=2, kind=kind)
    np.testing.assert_allclose(own, expected[2:, 2:], **tol)
    np.testing.assert_array_equal(own, own.T)
    assert np.linalg.eigvalsh(own)[0] > -tol["atol"] * np.trace(own)


def linear_model(params, x):
    return x @ params["weights"] + params["bias"][None, :]


def test_linear_model_is_its_gram_matrix(x64):
    rng = np.random.default_rng(0)
    x, y = rng.normal(size=(6, 4)), rng.normal(size=(5, 4))
    params = {"weights": jnp.asarray(rng.normal(size=(4, 3))), "bias": jnp.zeros(3)}
    for kind in ("scalar", "trace"):  # blocks are multiples of the identity: both are it
        kernel = empirical.ntk(linear_model, params, x, y, batch_size=4, kind=kind)
        np.testing.assert_allclose(kernel, x @ y.T + 1, rtol=1e-13, atol=1e-13)


def test_trace_does_not_depend_on_the_basis_of_outputs(x64):
    apply_fn, params, x = setting("dense", jnp.float64)
    rotation, _ = np.linalg.qr(np.random.default_rng(0).normal(size=(3, 3)))

    def turned(params, x):
        return apply_fn(params, x) @ rotation

    trace, scalar = (
        [empirical.ntk(f, params, x, kind=kind) for f in (apply_fn, turned)]
        for kind in ("trace", "scalar")
    )
    np.testing.assert_allclose(trace[1], trace[0], rtol=1e-12)
    assert np.abs(scalar[1] - scalar[0]).max() > 1e-2 * np.abs(scalar[0]).max()


def test_half_precision_accumulates_in_float32():
    x = jnp.ones((2, 3000), jnp.bfloat16)
    params = {"weights": jnp.zeros((3000, 2), jnp.bfloat16), "bias": jnp.zeros(2, jnp.bfloat16)}
    kernel = empirical.ntk(linear_model, params, x, kind="trace")
    assert kernel.dtype == jnp.float32
    np.testing.assert_array_equal(kernel, np.full((2, 2), 3001.0))  # beyond bfloat16's 8 bits


def test_under_jit_and_in_the_parameters():
    """It can be recorded during training: traced samples and parameters."""
    apply_fn, params, x = setting("dense", jnp.float32)
    kernel = empirical.ntk(apply_fn, params, x)
    traced = jax.jit(lambda p, x: empirical.ntk(apply_fn, p, x))(params, x)
    np.testing.assert_allclose(traced, kernel, rtol=1e-5)


@pytest.mark.parametrize(("parameterization", "kind"), [("ntk", "scalar"), ("standard", "trace")])
@pytest.mark.slow
def test_approaches_the_infinite_width_kernel(x64, parameterization, kind):
    """Unbiased to order 1 / width, with fluctuations that fall as width^-1/2."""
    x = jnp.asarray(np.random.default_rng(0).normal(size=(4, 6)))
    widths, draws = np.array([64, 256, 1024]), 24
    spread = []
    for width in widths.tolist():
        model = nn.MLP(4, width, parameterization=parameterization, dtype=jnp.float64)
        keys = jax.random.split(jax.random.key(width), draws)

        def draw(key, model=model):
            return empirical.ntk(model.apply, model.init(key, x), x, kind=kind)

        kernels = np.asarray(jax.vmap(draw)(keys))
        limit = np.asarray(infinite.mlp(1, width, parameterization=parameterization)(x))
        kernels, limit = kernels / limit.max(), limit / limit.max()
        # In the standard parameterisation input weights add a term smaller by 1 / width.
        error = kernels.std(axis=0, ddof=1) / draws**0.5
        assert (np.abs(kernels.mean(axis=0) - limit) < 5 * error + 10 / width).all()
        spread.append(np.sqrt(np.mean((kernels - limit) ** 2)))
    slope = np.polyfit(np.log(widths), np.log(spread), 1)[0]
    # A root mean square over 24 draws of correlated entries is good to 1 / sqrt(2 * 24), twice over
    # a factor of 16 in width.
    assert abs(slope + 0.5) < 3 * (2 / 48) ** 0.5 / np.log(16)


@pytest.mark.parametrize(("limit", "several"), [(2**20, True), (2**21 + 2**20, False)])
@pytest.mark.slow
def test_keeps_within_memory(limit, several):
    """Of two blocks or one, in several passes; the bound is on what XLA says it needs."""
    model = nn.ResNet(stage_sizes=(1, 1), width=8, stem="small")
    x = jnp.asarray(np.random.default_rng(0).normal(size=(24, 12, 12, 3)), jnp.float32)
    variables = jax.jit(partial(model.init, train=False))(jax.random.key(0), x)

    def in_evaluation(stats, params, x):
        return model.apply({"params": params, "batch_stats": stats}, x, train=False)

    apply_fn = Partial(in_evaluation, variables["batch_stats"])
    whole = empirical.ntk(apply_fn, variables["params"], x)
    program = empirical._read(apply_fn, variables["params"], x.shape[1:], x.dtype)
    float32 = np.dtype("float32")
    plan = empirical._plan(program, (len(x),), 16, "scalar", limit, None, float32)
    assert 1 <= plan.at_a_time < plan.batch_size
    assert (plan.batch_size < len(x)) == several
    bounded = empirical.ntk(apply_fn, variables["params"], x, memory_limit=limit)
    np.testing.assert_allclose(bounded, whole, rtol=0, atol=1e-5 * float(whole.max()))

    capture = _xla.jit(empirical._capture, jax.devices()[:1])
    passes_of = empirical._passes(plan, x[: plan.batch_size], jax.devices()[0])
    block = (apply_fn, variables["params"], passes_of, jnp.ones((1, 16)))
    captured = capture(*block)
    kept = sum(leaf.nbytes for leaf in jax.tree.leaves(captured))
    passes = capture.lower(*block).compile().memory_analysis().temp_size_in_bytes
    assert (1 + several) * kept + passes < 0.75 * limit
    sides = zip(program.sites.values(), captured.inputs, captured.cotangents, strict=True)
    total = jnp.zeros((plan.batch_size, 1, plan.batch_size, 1))
    for site, *layer in sides:
        product = _contraction._add_site.lower(
            total, tuple(layer), tuple(layer), site=site, full=False, workspace=plan.workspace
        )
        assert product.compile().memory_analysis().temp_size_in_bytes < limit // 4


@pytest.mark.parametrize(
    ("batch_size", "at_a_time", "sizes"),
    [(1000, 1000, {1000: 1000, 10: 10}), (96, 32, {1000: 96, 90: 96, 40: 64, 10: 10})],
)
def test_few_samples_are_not_filled_up_to_many(batch_size, at_a_time, sizes):
    plan = empirical._Plan("scalar", 1, batch_size, at_a_time, 1, 1, np.dtype("float32"))
    assert {num: plan.block_of(num) for num in sizes} == sizes


@pytest.mark.parametrize("nested", [False, True])
def test_bound_arrays_are_not_compiled_in(nested, x64):
    """Statistics that change between calls, as along training, do not compile anew."""
    x = jnp.ones((3, 2))

    def model(scale, params, x, *, shift=0.0):
        return scale * x @ params + shift

    def bound(scale):
        inner = Partial(model, jnp.asarray(scale))
        return Partial(inner, shift=jnp.asarray(scale)) if nested else inner

    params = jnp.asarray(np.random.default_rng(0).normal(size=(2, 3)))
    one = empirical.ntk(bound(1.0), params, x)
    compiled = _compilations()
    two = empirical.ntk(bound(2.0), params, x)
    assert _compilations() == compiled
    np.testing.assert_allclose(two, 4 * one)


def _compilations():
    capture = _xla.jit(empirical._capture, jax.devices()[:1])
    return capture._cache_size(), _contraction._add_site._cache_size()


def test_float32_model_in_float64(x64):
    """Gradients of float32 whose products are exact."""
    params = jnp.asarray(np.random.default_rng(0).normal(size=(300, 2)), jnp.float32)
    x = jnp.asarray(np.random.default_rng(1).normal(size=(5, 300)), jnp.float32)

    def model(params, x):
        return x @ params

    kernel = empirical.ntk(model, params, x, kind="trace", dtype=jnp.float64)
    wide = np.asarray(x, float)
    np.testing.assert_allclose(kernel, wide @ wide.T, rtol=1e-13)


def test_few_against_many():
    """Neither side is filled up to the other's number."""
    params = jnp.ones((5, 3))
    x1, x2 = jnp.ones((1, 5)), jnp.ones((600, 5))
    kernel = empirical.ntk(lambda p, x: x @ p, params, x1, x2, memory_limit=2**17)
    np.testing.assert_allclose(kernel, np.full((1, 600), 5.0))


def test_loops_count_as_memory():
    def model(params, x):
        y, _ = jax.lax.scan(lambda y, _: (jnp.tanh(y), None), x @ params, None, length=100)
        return y

    x, params = jnp.ones((1, 4)), jnp.ones((4, 50))
    program = empirical._read(Partial(model), params, x.shape[1:], x.dtype)
    assert program.sizes(1)[1] > 100 * 50 * 4


def test_differentiable_in_what_the_model_reads(x64):
    params = jnp.asarray(np.random.default_rng(0).normal(size=(2, 3)))
    x = jnp.asarray(np.random.default_rng(1).normal(size=(4, 2)))

    def total(scale):
        return empirical.ntk(lambda p, x: scale * x @ p, params, x).sum()

    np.testing.assert_allclose(jax.grad(total)(2.0), total(2.0), rtol=1e-12)  # scale squared
    multiply = empirical.operator(lambda p, x: x @ p, params, x)
    inside = jax.jit(lambda s: s * multiply(jnp.eye(4)))(1.0)
    np.testing.assert_allclose(inside, x @ x.T, rtol=1e-12)


@pytest.mark.parametrize("kind", ["scalar", "trace"])
def test_operator(x64, kind):
    """Columns and samples in blocks that divide neither; modes from it as from the matrix."""
    apply_fn, params, x = setting("conv", jnp.float64)
    x1, x2 = x[:4], x[2:]
    x = jnp.concatenate([x1, x2[:4]])
    kernel = empirical.ntk(apply_fn, params, x, kind=kind)
    multiply = empirical.operator(apply_fn, params, x, kind=kind, batch_size=3, num_columns=2)
    v = jnp.asarray(np.random.default_rng(1).normal(size=(8, 5)))
    np.testing.assert_allclose(multiply(v), kernel @ v, rtol=1e-11, atol=1e-11)
    np.testing.assert_allclose(jax.jit(multiply)(v), kernel @ v, rtol=1e-11, atol=1e-11)
    with pytest.raises(ValueError, match=r"v must have shape \(8, b\), got \(7, 1\)"):
        multiply(jnp.ones((7, 1)))


def test_operator_is_a_kernel_for_contrastive_modes(x64):
    apply_fn, params, _ = setting("dense", jnp.float64)
    x = jnp.asarray(np.random.default_rng(3).normal(size=(40, 6, 6, 2)))
    noise = jnp.asarray(np.random.default_rng(4).normal(size=x.shape))
    both = jnp.concatenate([x, x + 0.1 * noise])
    kernel = empirical.ntk(apply_fn, params, both)
    expected = kernel_pca.contrastive_modes(kernel, 3, solver="dense")
    found = kernel_pca.contrastive_modes(
        empirical.operator(apply_fn, params, both), 3, num_pairs=len(x), solver="krylov"
    )
    np.testing.assert_allclose(found.eigenvalues, expected.eigenvalues, rtol=1e-8)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"kind": "mean"}, "kind must be one of 'scalar', 'trace', 'full', got 'mean'"),
        ({"memory_limit": 100}, "memory_limit = 100 bytes is too small: a block of one"),
        ({"params": jnp.ones((2, 3), int)}, "floating-point arrays: params has dtype int32"),
        ({"params": {}}, "params holds no arrays"),
        ({"dtype": jnp.float64}, "dtype = float64 needs x64"),
        ({"dtype": jnp.bfloat16}, "dtype must be float32 or float64, got bfloat16"),
        ({"devices": []}, "devices must be a list of at least one device"),
        ({"batch_size": 2.5}, "batch_size must be a whole number, got 2.5"),
        ({"apply_fn": lambda params, x: 2 * x}, "apply_fn does not depend on params"),
        ({"batch_size": 0}, "batch_size must be >= 1"),
        ({"x1": jnp.ones((0, 2))}, "x1 must hold samples"),
        ({"x1": jnp.full((2, 2), jnp.nan)}, "x1 of shape .* NaN"),
        ({"x2": jnp.ones((3, 4))}, r"the same shape, got \(2,\) and \(4,\)"),
        (
            {"apply_fn": lambda params, x: x.sum(axis=1)},
            r"\(n, d\): for one sample of shape \(2,\)",
        ),
    ],
)
def test_rejects(settings, message, unchecked):
    valid = {"apply_fn": lambda p, x: x @ p, "params": jnp.ones((2, 3)), "x1": jnp.ones((3, 2))}
    with pytest.raises(ValueError, match=message):
        empirical.ntk(**(valid | settings))


ON_FOUR = """
import jax

jax.config.update("jax_num_cpu_devices", 4)
import jax.numpy as jnp
import numpy as np

from sslstep import nn
from sslstep.ntk import empirical

model = nn.MLP(3, 16)
x1, x2 = jax.random.normal(jax.random.key(0), (2, 11, 5))
params = model.init(jax.random.key(1), x1)
devices = jax.devices()
assert len(devices) == 4
for kind in ("scalar", "trace", "full"):
    for other in (None, x2[:7]):
        alone = empirical.ntk(model.apply, params, x1, other, kind=kind, batch_size=2)
        shared = empirical.ntk(
            model.apply, params, x1, other, kind=kind, batch_size=2, devices=devices
        )
        assert shared.devices() == {devices[0]}
        np.testing.assert_allclose(shared, alone, rtol=0, atol=1e-6 * float(jnp.abs(alone).max()))
print("alike")
"""


@pytest.mark.slow
def test_rows_over_four_devices():
    """In a process of its own, which has them."""
    result = subprocess.run([sys.executable, "-c", ON_FOUR], capture_output=True, text=True)
    assert result.stdout == "alike\n", result.stderr
