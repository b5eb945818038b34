"""Matrices in blocks against matrices at once."""

import os
import tracemalloc

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from sslstep import gram
from sslstep.ntk import _neural_tangents, infinite


def rational(x1, x2=None):
    """Any symmetric function of two samples will do: these matrices need not be positive."""
    x2 = x1 if x2 is None else x2
    return 1 / (2 + jnp.matmul(x1, x2.T, precision="highest") ** 2)


def samples(num, seed=0, dtype=np.float32, dim=3):
    return np.random.default_rng(seed).normal(size=(num, dim)).astype(dtype)


def eps_of(array):
    return float(jnp.finfo(array.dtype).eps)


# The last block may be of one row, and one block may be all.
@pytest.mark.parametrize("batch_size", [1, 4, 5, 7, 11, 13, 1000])
def test_any_batch_size_gives_the_matrix(dtype, batch_size):
    x1, x2 = samples(11, 0, dtype), samples(7, 1, dtype)
    symmetric = gram.matrix(rational, x1, batch_size=batch_size)
    assert symmetric.dtype == dtype
    np.testing.assert_array_equal(symmetric, symmetric.T)  # to the last bit
    np.testing.assert_allclose(symmetric, rational(x1), rtol=10 * eps_of(symmetric))
    cross = gram.matrix(rational, x1, x2, batch_size=batch_size)
    np.testing.assert_allclose(cross, rational(x1, x2), rtol=10 * eps_of(cross))
    v = jnp.asarray(samples(11, 2, dtype))
    product = gram.operator(rational, x1, batch_size=batch_size)(v)
    np.testing.assert_allclose(product, symmetric @ v, atol=50 * eps_of(product))


def test_symmetric_matrices_take_half_the_blocks_all_of_one_shape():
    shapes = []

    def recorded(x1, x2=None):
        shapes.append((x1.shape, None if x2 is None else x2.shape))
        return rational(x1, x2)

    gram.matrix(recorded, samples(10), batch_size=4)
    assert shapes.count(((4, 3), None)) == 3
    assert shapes.count(((4, 3), (4, 3))) == 3 + 1  # one of them both ways
    assert len(shapes) == 7
    shapes.clear()
    multiply = gram.operator(recorded, samples(10), batch_size=4)
    for calls in (7, 6):  # at the first product alone
        multiply(jnp.ones((10, 2)))
        assert len(shapes) == calls
        shapes.clear()
    gram.matrix(recorded, samples(10), samples(5), batch_size=4)
    assert shapes == [((4, 3), (4, 3))] * 6


@pytest.mark.parametrize("on_device", [True, False])
def test_images_stay_images(on_device):
    images = np.random.default_rng(0).integers(0, 256, size=(5, 2, 2, 3), dtype=np.uint8)

    def overlap(x1, x2=None):
        assert x1.shape[1:] == (2, 2, 3)
        flat1 = jnp.asarray(x1, jnp.float32).reshape(len(x1), -1)
        flat2 = flat1 if x2 is None else jnp.asarray(x2, jnp.float32).reshape(len(x2), -1)
        return flat1 @ flat2.T

    x = jnp.asarray(images) if on_device else images
    expected = overlap(images)
    np.testing.assert_allclose(gram.matrix(overlap, x, batch_size=2), expected, rtol=1e-6)


def test_a_kernel_of_neural_tangents(x64):
    stax = _neural_tangents.load_neural_tangents().stax
    _, _, theirs = stax.serial(
        stax.Dense(1, W_std=2**0.5), stax.Relu(), stax.Dense(1, W_std=2**0.5)
    )
    x = samples(7, dtype=np.float64)
    with jax.numpy_rank_promotion("allow"), jax.numpy_dtype_promotion("standard"):
        compiled = jax.jit(theirs)
        for kernel in ("ntk", "nngp"):
            kernel_fn = gram.as_kernel_fn(compiled, kernel)
            expected = infinite.mlp(kernel=kernel)(x)
            value = gram.matrix(kernel_fn, x, batch_size=4)
            # The diagonal's angles are zero only to the root of the rounding error.
            np.testing.assert_allclose(value, expected, rtol=1e-7)
            off = ~np.eye(7, dtype=bool)
            np.testing.assert_allclose(value[off], expected[off], rtol=1e-13)
        default = gram.matrix(compiled, x, batch_size=4)
        np.testing.assert_allclose(default, infinite.mlp()(x), rtol=1e-7)


def test_pairs_and_test_train_are_parts_of_one_matrix():
    x, x_prime, x_test = samples(5), samples(5, 1), samples(3, 2)
    everything = rational(np.concatenate([x, x_prime, x_test]))
    kernel = gram.pairs(rational, x, x_prime, batch_size=4)
    np.testing.assert_allclose(kernel, everything[:10, :10], rtol=1e-6)
    mixed = gram.pairs(rational, jnp.asarray(x), x_prime, batch_size=4)
    np.testing.assert_array_equal(mixed, kernel)
    k_test_train = gram.to_pairs(rational, x_test, x, x_prime, batch_size=4)
    np.testing.assert_allclose(k_test_train, everything[10:, :10], rtol=1e-6)
    v = jnp.asarray(samples(10, 3))
    product = gram.pairs_operator(rational, x, x_prime, batch_size=4)(v)
    np.testing.assert_allclose(product, kernel @ v, atol=1e-5)


def test_two_towers_know_nothing_of_each_other():
    """Also where their inputs are of different kinds."""
    x, x_prime = samples(5, 0, dim=3), samples(5, 1, dim=4)
    towers = gram.TwoTowers(rational, lambda x1, x2=None: 2 * rational(x1, x2))
    kernel = np.asarray(gram.pairs(towers, x, x_prime, batch_size=2))
    np.testing.assert_allclose(kernel[:5, :5], rational(x), rtol=1e-6)
    np.testing.assert_allclose(kernel[5:, 5:], 2 * rational(x_prime), rtol=1e-6)
    assert not kernel[:5, 5:].any()
    assert not kernel[5:, :5].any()
    v = samples(10, 2)
    product = gram.pairs_operator(towers, x, x_prime, batch_size=2)(v)
    np.testing.assert_allclose(product, kernel @ v, atol=1e-5)
    for view, points in enumerate((x, x_prime)):
        rows = gram.to_pairs(towers, points[:3], x, x_prime, view=view, batch_size=2)
        expected = kernel[5 * view : 5 * view + 3]
        np.testing.assert_allclose(rows, expected, rtol=1e-6)


def test_float64_kernels_can_be_kept_in_float32():
    def wide(x1, x2=None):
        with jax.enable_x64(True):
            return rational(*(None if x is None else jnp.asarray(x, float) for x in (x1, x2)))

    x = samples(7)
    exact = np.asarray(wide(x))
    assert exact.dtype == np.float64
    for x64 in (False, True):
        with jax.enable_x64(x64):
            narrow = gram.matrix(wide, x, batch_size=3, dtype=jnp.float32)
            assert narrow.dtype == jnp.float32
            # Computed in float64 and rounded once: half an ulp.
            error = np.abs(np.asarray(narrow, np.float64) - exact) / exact
            assert error.max() <= 0.51 * np.finfo(np.float32).eps
            default = gram.matrix(wide, x, batch_size=3)
            assert default.dtype == (jnp.float64 if x64 else jnp.float32)
            product = gram.operator(wide, x, batch_size=3)(jnp.ones((7, 1), jnp.float32))
            assert product.dtype == jnp.float32
            np.testing.assert_allclose(product[:, 0], exact.sum(1), rtol=1e-6)


@pytest.mark.parametrize("stored", [None, np.float16, np.float32, np.float64])
def test_a_file_holds_the_same(tmp_path, monkeypatch, stored):
    x = samples(7)
    path = tmp_path / "kernel.npy"
    value = gram.matrix(rational, x, batch_size=3, out=path, dtype=stored)
    assert isinstance(value, np.memmap)
    assert not value.flags.writeable
    assert value.dtype == (stored or np.float32)
    np.testing.assert_array_equal(value, np.load(path))
    expected = gram.matrix(rational, x, batch_size=3)
    np.testing.assert_array_equal(value, np.asarray(expected).astype(value.dtype))
    assert os.listdir(tmp_path) == ["kernel.npy"]
    monkeypatch.setenv("HOME", str(tmp_path))
    with pytest.raises(FileExistsError, match=r"kernel\.npy exists already"):
        gram.pairs(rational, x, x, out="~/kernel.npy")
    np.testing.assert_array_equal(value, np.load(path))


def test_views_in_files_are_read_block_by_block(tmp_path):
    rng = np.random.default_rng(0)
    views = rng.normal(size=(2, 30, 20_000)).astype(np.float32)
    np.save(tmp_path / "views.npy", views)
    x, x_prime = np.load(tmp_path / "views.npy", mmap_mode="r")

    def inner_products(x1, x2=None):
        return x1 @ (x1 if x2 is None else x2).T / x1.shape[1]

    tracemalloc.start()
    value = gram.pairs(inner_products, x, x_prime, batch_size=4)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < x.nbytes
    both = views.reshape(60, -1)
    np.testing.assert_allclose(value, both @ both.T / both.shape[1], atol=1e-6)
    mixed = gram.pairs(inner_products, x, x_prime.astype(np.float64), batch_size=4)
    np.testing.assert_allclose(mixed, value, atol=1e-6)


def test_two_towers_in_a_file(tmp_path):
    x, x_prime = samples(5, 0), samples(5, 1)
    towers = gram.TwoTowers(rational, rational)
    value = gram.pairs(towers, x, x_prime, batch_size=2, out=tmp_path / "kernel.npy")
    np.testing.assert_array_equal(value, gram.pairs(towers, x, x_prime, batch_size=2))


@pytest.mark.parametrize("error", [ValueError, KeyboardInterrupt])
def test_an_interrupted_file_never_gets_its_name(tmp_path, error):
    calls = []

    def interrupted(x1, x2=None):
        calls.append(None)
        if len(calls) == 3:
            raise error("stop")
        return rational(x1, x2)

    with pytest.raises(error, match="stop"):
        gram.matrix(interrupted, samples(7), batch_size=3, out=tmp_path / "kernel.npy")
    assert os.listdir(tmp_path) == []


def test_values_that_are_not_finite_are_located():
    x = samples(10)
    x[7] = np.nan
    message = r"NaN or infinity, in float32, within rows 0 to 3 and columns 4 to 7"
    with pytest.raises(ValueError, match=message):
        gram.matrix(rational, x, batch_size=4)
    with pytest.raises(ValueError, match=message):
        gram.operator(rational, x, batch_size=4)(jnp.ones((10, 1)))
    towers = gram.TwoTowers(rational, rational)
    with pytest.raises(ValueError, match="rows 5 to 8 and columns 5 to 8"):
        gram.pairs(towers, samples(5), np.full((5, 3), np.nan, np.float32), batch_size=4)
    with pytest.raises(ValueError, match="in float16"):  # which does not reach as far
        gram.matrix(lambda a, b=None: 1e6 * rational(a, b), samples(4), dtype=jnp.float16)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda x: gram.matrix(lambda a, b=None: a, x), r"wanted \(5, 5\) .* got \(5, 3\)"),
        (lambda x: gram.matrix(None, x), "kernel_fn must be one function"),
        (lambda x: gram.pairs(x, x, rational), "kernel_fn must be one function .* got a "),
        (lambda x: gram.matrix(gram.TwoTowers(rational, rational), x), "got a TwoTowers"),
        (lambda x: gram.matrix(rational, x[:0]), r"x1 must hold samples.*\(0, 3\)"),
        (lambda x: gram.matrix(rational, x, x[:, :0]), r"x2 must hold samples.*\(5, 0\)"),
        (lambda x: gram.matrix(rational, x, batch_size=0), "batch_size must be >= 1, got 0"),
        (lambda x: gram.matrix(rational, x, dtype=jnp.int32), "floating type, got int32"),
        (lambda x: gram.matrix(rational, x, dtype=np.float64), "float64 needs x64 enabled"),
        (lambda x: gram.operator(rational, x)(jnp.ones((4, 2))), r"v must have shape \(5, b\)"),
        (lambda x: gram.operator(rational, x)(jnp.ones(5)), r"v must be a matrix"),
        (lambda x: gram.operator(rational, x)(jnp.full((5, 1), jnp.nan)), "v of shape"),
        (lambda x: gram.pairs(rational, x, x[:4]), "got 5 and 4"),
        (lambda x: gram.pairs(rational, x, x[:, :2]), "need TwoTowers"),
        (lambda x: gram.to_pairs(rational, x, x, x, view=0), "view is for TwoTowers"),
        (
            lambda x: gram.to_pairs(gram.TwoTowers(rational, rational), x, x, x),
            "view must be 0",
        ),
        (lambda x: gram.as_kernel_fn(rational, "ntkk"), "kernel must be one of 'nngp', 'ntk'"),
        (
            lambda x: gram.operator(rational, x, devices=[]),
            r"devices must be of this process, 0, or some of each of the 1 processes, got \[\]",
        ),
        (
            lambda x: jax.jit(gram.operator(rational, x, devices=jax.devices()))(x),
            "v must be known, and not traced",
        ),
    ],
)
def test_wrong_input(unchecked, call, message):
    with pytest.raises(ValueError, match=message):
        call(samples(5))


def test_a_kernel_of_two_sets_of_points(dtype):
    """Without a default for the second, which then is never None."""

    def required(x1, x2):
        return rational(x1, x2)

    x, x_prime = samples(5, 0, dtype), samples(5, 1, dtype)

    def placed(x1, x2, /):
        return rational(x1, x2)

    for call in (lambda k: gram.matrix(k, x), lambda k: gram.pairs(k, x, x_prime)):
        for kernel_fn in (required, placed, jax.jit(required)):
            np.testing.assert_allclose(call(kernel_fn), call(rational), rtol=10 * eps_of(x))
    with pytest.raises(TypeError, match="kernel_fn must return an array, got a list"):
        gram.matrix(lambda x1, x2=None: [1.0], x)
    with pytest.raises(TypeError, match="must return floats, got uint8: are x integers"):
        gram.pairs(lambda x1, x2=None: x1 @ x1.T, *jnp.ones((2, 3, 4), jnp.uint8))
    with pytest.raises(TypeError, match="must return kernels, among them nngp"):
        gram.as_kernel_fn(rational, "nngp")(x)


def test_a_kernel_that_is_not_symmetric():
    """Of blocks on the diagonal one half is used: the result would be symmetric, whatever came."""

    def skewed(x1, x2=None):
        return (1 + 0.01 * jnp.tanh(x1[:, :1])) * rational(x1, x2)

    x, message = (
        samples(10),
        "the kernel of a block of samples must be symmetric: .* must be the tr",
    )
    for call in (
        lambda: gram.matrix(skewed, x, batch_size=4),
        lambda: gram.pairs(skewed, x, x),
        lambda: gram.operator(skewed, x)(jnp.ones((10, 1))),
    ):
        with pytest.raises(ValueError, match=message):
            call()
    assert gram.matrix(skewed, x, x[:3]).shape == (10, 3)  # of two sets it need not be


@pytest.mark.parametrize("short", [jnp.float16, jnp.bfloat16])
def test_short_types_do_not_hide_asymmetry(short):
    """1e3 eps of float16 is 1: kernels came back as their upper halves, mirrored."""

    def skewed(x1, x2=None):
        return (rational(x1, x2) + 0.1 * jnp.arange(len(x1), dtype=jnp.float32)[:, None]).astype(
            short
        )

    with pytest.raises(ValueError, match="the kernel of a block of samples must be symmetric"):
        gram.matrix(skewed, samples(4))
    x = jnp.asarray(samples(50, dim=300), short)  # while sums of products, rounded, are let pass

    def cubic(x1, x2=None):
        return (x1 @ (x1 if x2 is None else x2).T / 30) ** 3

    kernel, given = gram.matrix(cubic, x, batch_size=20), cubic(x)
    assert kernel.dtype == short
    error = 4 * eps_of(kernel) * float(jnp.abs(given).max())
    np.testing.assert_allclose(kernel.astype(float), given.astype(float), atol=error)


def test_asymmetry_beside_the_diagonal():
    """K(a, a) is symmetric, and K(a, b) is not the transpose of K(b, a)."""

    def skewed(x1, x2=None):
        return rational(x1, x2) + (0 if x2 is None else 0.01 * jnp.tanh(x1[:, :1]))

    x, message = (
        samples(10),
        "the kernel between two blocks of samples must be symmetric: .* be the",
    )
    for call in (
        lambda: gram.matrix(skewed, x, batch_size=4),
        lambda: gram.pairs(skewed, x, x, batch_size=9),
        lambda: gram.operator(skewed, x, batch_size=4)(jnp.ones((10, 1))),
    ):
        with pytest.raises(ValueError, match=message):
            call()


def test_rounding_between_samples_without_overlap_is_no_asymmetry():
    """Beside the diagonal all is rounding, which is relative to the diagonal."""

    def noisy(x1, x2=None):
        kernel = x1 @ (x1 if x2 is None else x2).T
        return kernel if x2 is None else kernel + 1e-7 * x1[:, :1]

    kernel = gram.matrix(noisy, np.eye(8, dtype=np.float32), batch_size=4)
    np.testing.assert_allclose(kernel, np.eye(8), atol=2e-7)


def test_the_operator_can_be_traced(dtype):
    """A kernel's product inside a compiled algorithm, its blocks unrolled."""
    x, v = samples(5, 0, dtype), jnp.asarray(samples(5, 1, dtype))
    multiply = gram.operator(rational, x, batch_size=2, progress=False)
    np.testing.assert_allclose(jax.jit(multiply)(v), multiply(v), atol=20 * eps_of(v))


@pytest.mark.parametrize("kind", [np.asarray, jnp.asarray])
def test_a_device_that_is_named_changes_no_bit(dtype, kind):
    """Several of them, of one process and of two: in kernel_pca/test_products.py."""
    x, v = kind(samples(11, 0, dtype)), samples(11, 1, dtype)
    named, plain = (
        gram.operator(rational, x, batch_size=4, devices=devices)(v)
        for devices in (jax.devices()[:1], None)
    )
    np.testing.assert_array_equal(named, plain)


def test_progress_is_shown_on_request(capsys):
    gram.matrix(rational, samples(5), batch_size=2)
    assert capsys.readouterr().err == ""  # not a terminal
    gram.matrix(rational, samples(5), batch_size=2, progress=True)
    assert "6/6" in capsys.readouterr().err


def test_a_file_holds_no_bfloat16(tmp_path):
    path = tmp_path / "kernel.npy"
    with pytest.raises(ValueError, match="knows no bfloat16: give another dtype"):
        gram.matrix(rational, samples(5), dtype=jnp.bfloat16, out=path)
    assert list(tmp_path.iterdir()) == []


def test_views_of_two_dtypes(x64):
    """Also blocks of one view alone are of the common dtype."""
    x, x_prime = samples(3), samples(3, seed=1, dtype=np.float64)
    both = np.concatenate([x, x_prime])
    found = gram.pairs(rational, x, x_prime, batch_size=1)
    assert found.dtype == both.dtype
    np.testing.assert_allclose(found, rational(both), rtol=1e-13)
