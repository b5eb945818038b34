"""Convolutions and pooling against XLA's, with their derivatives."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax
from jax.test_util import check_grads

from sslstep.nn import _conv


def lax_conv(x, kernel, stride, padding):
    return lax.conv_general_dilated(
        x, kernel, (stride, stride), [(padding, padding)] * 2,
        dimension_numbers=("NHWC", "HWIO", "NHWC"),
    )  # fmt: skip


def lax_pool(x):
    margins = ((0, 0), (1, 1), (1, 1), (0, 0))
    low = jnp.asarray(-jnp.inf, x.dtype)
    return lax.reduce_window(x, low, lax.max, (1, 3, 3, 1), (1, 2, 2, 1), margins)


def with_gradients(function, *arguments):
    out, back = jax.vjp(function, *arguments)
    weights = np.random.default_rng(9).normal(size=out.shape)
    return out, *back(jnp.asarray(weights, out.dtype))


@pytest.mark.parametrize("stride", [1, 2])
@pytest.mark.parametrize(("size", "padding"), [(1, 0), (1, 1), (3, 1), (3, 2), (7, 3)])
def test_equals_lax(x64, size, padding, stride):
    rng = np.random.default_rng(size + stride)
    for height, width in ((1, 1), (2, 1), (1, 4), (4, 3), (7, 5)):
        x = jnp.asarray(rng.normal(size=(2, height, width, 3)))
        kernel = jnp.asarray(rng.normal(size=(size, size, 3, 4)))
        ours = with_gradients(lambda x, k: _conv.conv(x, k, stride, padding), x, kernel)
        theirs = with_gradients(lambda x, k: lax_conv(x, k, stride, padding), x, kernel)
        for a, b in zip(ours, theirs, strict=True):
            np.testing.assert_allclose(a, b, atol=1e-12)


@pytest.mark.parametrize(("shape", "size"), [((2, 2, 2, 2), 3), ((2, 4, 4, 2), 1)])
def test_differentiable_in_both_modes_and_twice(x64, shape, size):
    rng = np.random.default_rng(0)
    x, kernel = (jnp.asarray(rng.normal(size=s)) for s in (shape, (size, size, 2, 3)))

    @jax.jit
    def conv(x, kernel):
        return _conv.conv(x, kernel, 2, size // 2)

    check_grads(conv, (x, kernel), order=2)


def test_bfloat16_sums_are_rounded_once():
    rng = np.random.default_rng(0)
    x = jnp.asarray(rng.normal(size=(4, 2, 2, 64)), jnp.bfloat16)
    kernel = jnp.asarray(rng.normal(size=(3, 3, 64, 8)), jnp.bfloat16)
    ours = _conv.conv(x, kernel, 1, 1)
    assert ours.dtype == jnp.bfloat16
    exact = np.asarray(lax_conv(x.astype(jnp.float32), kernel.astype(jnp.float32), 1, 1))
    error = np.abs(np.asarray(ours, np.float32) - exact)
    eps = float(jnp.finfo(jnp.bfloat16).eps)
    assert np.all(error <= 0.5 * eps * np.abs(exact) * 1.01 + 1e-4)


@pytest.mark.parametrize("size", [(1, 1), (2, 3), (5, 4), (8, 8), (9, 7)])
def test_max_pool_equals_lax(x64, size):
    for seed in range(3):
        x = jnp.asarray(np.random.default_rng(seed).normal(size=(2, *size, 3)))
        ours, theirs = with_gradients(_conv.max_pool, x), with_gradients(lax_pool, x)
        for a, b in zip(ours, theirs, strict=True):
            np.testing.assert_array_equal(np.asarray(a).round(12), np.asarray(b).round(12))


def test_max_pool_of_ties_and_nan(x64):
    """After relu many entries are zero: each gradient goes to one of them, as in PyTorch."""
    torch = pytest.importorskip("torch")
    x = np.maximum(np.random.default_rng(0).normal(size=(2, 6, 5, 3)), 0.0)
    out, gradient = with_gradients(_conv.max_pool, jnp.asarray(x))
    theirs = torch.tensor(x.transpose(0, 3, 1, 2), requires_grad=True)
    pooled = torch.nn.functional.max_pool2d(theirs, 3, 2, 1)
    weights = np.random.default_rng(9).normal(size=out.shape)
    pooled.backward(torch.tensor(weights.transpose(0, 3, 1, 2)))
    np.testing.assert_array_equal(out, pooled.detach().permute(0, 2, 3, 1))
    np.testing.assert_allclose(gradient, theirs.grad.permute(0, 2, 3, 1), atol=1e-14)
    spoiled = jnp.asarray(x).at[0, 2, 2, 0].set(jnp.nan)
    np.testing.assert_array_equal(_conv.max_pool(spoiled), lax_pool(spoiled))
