"""Crops and feature vectors."""

import itertools
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import stats

from sslstep import data
from sslstep.data import Dataset, flatten, random_crop_pairs
from sslstep.data.views import _crop_pairs


def coordinates(n: int, height: int, width: int, dtype: type = np.int32) -> np.ndarray:
    """Images (n, h, w, 3) whose pixels say which image, row and column they are."""
    return np.stack(
        np.meshgrid(np.arange(n), np.arange(height), np.arange(width), indexing="ij"), -1
    ).astype(dtype)


def offsets(crops: jax.Array) -> np.ndarray:
    """Row and column at which each crop of `coordinates` starts, (n, 2)."""
    return np.asarray(crops)[:, 0, 0, 1:]


def uniform(counts: np.ndarray) -> bool:
    """Whether counts are as of draws that fall in each cell equally often.

    Pearson's statistic exceeds the bound for one in a million of keys, and the keys are fixed.
    """
    expected = counts.sum() / counts.size
    statistic = ((counts - expected) ** 2 / expected).sum()
    return bool(statistic < stats.chi2.isf(1e-6, counts.size - 1))


@pytest.mark.parametrize(
    ("height", "width", "size"), [(8, 8, 5), (9, 6, 5), (6, 9, 1), (7, 7, 7), (5, 9, 5)]
)
def test_a_crop_is_a_window_of_its_image(height: int, width: int, size: int) -> None:
    images = coordinates(50, height, width)
    for crops in random_crop_pairs(jax.random.key(0), images, size):
        assert crops.shape == (50, size, size, 3)
        for i, (row, column) in enumerate(offsets(crops)):
            window = images[i, row : row + size, column : column + size]
            np.testing.assert_array_equal(crops[i], window)


@pytest.mark.parametrize(("height", "width", "size"), [(8, 6, 5), (32, 32, 20), (7, 7, 6)])
def test_offsets_are_uniform_with_both_edges(height: int, width: int, size: int) -> None:
    images = np.broadcast_to(coordinates(1, height, width), (20000, height, width, 3))
    for crops in random_crop_pairs(jax.random.key(0), images, size):
        rows, columns = offsets(crops).T
        counts = np.zeros((height - size + 1, width - size + 1))
        np.add.at(counts, (rows, columns), 1)  # fails on an offset beyond the edge
        assert (counts.sum(0) > 0).all()
        assert (counts.sum(1) > 0).all()
        assert uniform(counts)


def test_views_axes_and_images_are_independent() -> None:
    images = np.broadcast_to(coordinates(1, 8, 8), (20000, 8, 8, 3))
    crops, crops_prime = random_crop_pairs(jax.random.key(0), images, 5)
    first, second = offsets(crops), offsets(crops_prime)
    drawn = [first[:, 0], first[:, 1], second[:, 0], second[:, 1]]
    shifted = [np.roll(each, 1) for each in drawn]  # the image before
    pairs = [*itertools.combinations(drawn, 2), *zip(drawn, shifted, strict=True)]
    for a, b in pairs:
        counts = np.zeros((4, 4))
        np.add.at(counts, (a, b), 1)
        assert uniform(counts)


def test_full_size_is_the_image() -> None:
    images = coordinates(3, 6, 6)
    for crops in random_crop_pairs(jax.random.key(0), images, 6):
        np.testing.assert_array_equal(crops, images)


@pytest.mark.parametrize("dtype", [np.uint8, np.int32, np.float32, jnp.bfloat16, bool])
def test_keeps_the_dtype(dtype: type) -> None:
    crops, crops_prime = random_crop_pairs(jax.random.key(0), coordinates(4, 6, 6, dtype), 3)
    assert crops.dtype == crops_prime.dtype == dtype
    assert isinstance(crops, jax.Array)


@pytest.mark.parametrize("channels", [1, 3, 4])
def test_any_number_of_channels(channels: int) -> None:
    crops, _ = random_crop_pairs(jax.random.key(0), np.zeros((2, 5, 5, channels)), 4)
    assert crops.shape == (2, 4, 4, channels)


def test_same_key_same_crops() -> None:
    images = coordinates(100, 8, 8)
    typed = random_crop_pairs(jax.random.key(3), images, 5)
    again = random_crop_pairs(jax.random.key(3), jnp.asarray(images), 5)
    raw = random_crop_pairs(jax.random.PRNGKey(3), images, 5)
    other = random_crop_pairs(jax.random.key(4), images, 5)
    for i in range(2):
        np.testing.assert_array_equal(typed[i], again[i])
        np.testing.assert_array_equal(typed[i], raw[i])
        assert (typed[i] != other[i]).any()


def test_composes_with_jit_and_vmap() -> None:
    images = coordinates(10, 8, 8)
    keys = jax.random.split(jax.random.key(0), 3)
    compiled = jax.jit(random_crop_pairs, static_argnames="size")
    mapped = jax.vmap(lambda key: random_crop_pairs(key, images, 5))(keys)
    for i, key in enumerate(keys):
        direct = random_crop_pairs(key, images, 5)
        inside = compiled(key, images, size=5)
        for view in range(2):
            np.testing.assert_array_equal(inside[view], direct[view])
            np.testing.assert_array_equal(mapped[view][i], direct[view])


def test_another_key_does_not_compile_again() -> None:
    images = coordinates(10, 11, 13)
    random_crop_pairs(jax.random.key(0), images, 5)
    before = _crop_pairs._cache_size()
    random_crop_pairs(jax.random.key(1), images, 5)
    assert _crop_pairs._cache_size() == before


@pytest.mark.parametrize("size", [0, -1, 6, 9])
def test_size_does_not_fit(size: int) -> None:
    wanted = (
        "size must be at least 1 and at most 5, the smaller side of images of shape (2, 5, 8, 3)"
    )
    with pytest.raises(ValueError, match=re.escape(f"{wanted}, got {size}.")):
        random_crop_pairs(jax.random.key(0), coordinates(2, 5, 8), size)


@pytest.mark.parametrize(
    "function", [flatten, lambda x: random_crop_pairs(jax.random.key(0), x, 1)]
)
def test_not_a_batch_of_images(function: object, unchecked: None) -> None:
    with pytest.raises(
        ValueError, match=r"images must have shape \(n, h, w, c\), got shape \(4, 4"
    ):
        function(np.zeros((4, 4, 3), np.uint8))
    with pytest.raises(ValueError, match=r"images is empty: got shape \(0, 4, 4, 3\)"):
        function(np.zeros((0, 4, 4, 3), np.uint8))


def test_flatten_is_pixels_over_255(dtype: jnp.dtype) -> None:
    images = np.arange(256, dtype=np.uint8).reshape(4, 4, 4, 4)
    rows = flatten(images, dtype=dtype)
    assert rows.shape == (4, 64)
    assert rows.dtype == dtype
    assert rows.min() == 0
    assert rows.max() == 1
    expected = images.reshape(4, -1) / 255
    np.testing.assert_allclose(rows, expected, rtol=2 * jnp.finfo(dtype).eps)


def test_crops_of_a_data_set_or_by_a_number_for_a_key(unchecked: None) -> None:
    found = Dataset(np.zeros((2, 4, 4, 3), np.uint8), np.zeros(2, np.int32), ("one",))
    with pytest.raises(ValueError, match="got a Dataset: give its field `images`"):
        random_crop_pairs(jax.random.key(0), found, 2)
    with pytest.raises(TypeError, match="key must be "):
        random_crop_pairs(0, found.images, 2)


@pytest.mark.parametrize("dtype", ["float16", "bfloat16", "float32", jnp.float32, np.dtype("f4")])
def test_flatten_to_any_floating_type(dtype: object) -> None:
    images = coordinates(5, 4, 4, np.uint8)
    for standardise in (False, True):
        rows = flatten(images, dtype=dtype, standardise=standardise)
        assert rows.dtype == jnp.dtype(dtype)
        assert jnp.isfinite(rows).all()


def test_flatten_standardises_each_channel_over_the_set(dtype: jnp.dtype) -> None:
    rng = np.random.default_rng(0)
    top = np.array([40, 120, 256])
    images = rng.integers(0, top, (50, 8, 8, 3)).astype(np.uint8)
    rows = np.asarray(flatten(images, dtype=dtype, standardise=True)).reshape(images.shape)
    # Sums over 3200 pixels of order one: rounding of order eps times their number at the worst.
    tolerance = 3200 * float(jnp.finfo(dtype).eps)
    np.testing.assert_allclose(rows.mean((0, 1, 2)), 0, atol=tolerance)
    np.testing.assert_allclose(rows.std((0, 1, 2)), 1, atol=tolerance)
    scaled = images / 255
    expected = (scaled - scaled.mean((0, 1, 2))) / scaled.std((0, 1, 2))
    np.testing.assert_allclose(rows, expected, atol=tolerance)


@pytest.mark.parametrize("level", [0, 77, 255])
def test_flatten_makes_a_constant_channel_zero(level: int) -> None:
    images = coordinates(7, 5, 5, np.uint8)
    images[..., 1] = level
    rows = flatten(images, standardise=True).reshape(images.shape)
    assert (rows[..., 1] == 0).all()
    assert jnp.isfinite(rows).all()
    assert rows[..., 2].std() > 0.9


def test_flatten_with_given_constants() -> None:
    images = coordinates(7, 5, 5, np.uint8)
    mean, std = np.float32([0.1, 0.2, 0.3]), np.float32([0.5, 1.0, 2.0])
    rows = flatten(images, standardise=True, mean=mean, std=std)
    np.testing.assert_allclose(
        rows, ((images / 255 - mean) / std).reshape(7, -1), rtol=1e-5, atol=1e-7
    )


def test_flatten_views_together_or_with_the_same_constants() -> None:
    images = np.random.default_rng(0).integers(0, 256, (30, 8, 8, 3), dtype=np.uint8)
    crops = random_crop_pairs(jax.random.key(0), images, 5)
    both = jnp.concatenate(crops)
    pixels = both.astype(jnp.float32) / 255
    constants = {"mean": pixels.mean((0, 1, 2)), "std": pixels.std((0, 1, 2))}
    together = flatten(both, standardise=True)
    apart = [flatten(view, standardise=True, **constants) for view in crops]
    np.testing.assert_array_equal(together, jnp.concatenate(apart))


def test_flatten_composes_with_jit_and_vmap() -> None:
    images = np.random.default_rng(0).integers(0, 256, (2, 5, 4, 4, 3), dtype=np.uint8)

    def standardised(each: jax.Array) -> jax.Array:
        return flatten(each, standardise=True)

    direct = jnp.stack([standardised(each) for each in images])
    mapped = jax.jit(jax.vmap(standardised))(images)
    np.testing.assert_allclose(mapped, direct, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("dtype", [np.float32, np.int32, np.int8])
def test_flatten_wants_bytes(dtype: type, unchecked: None) -> None:
    with pytest.raises(
        ValueError, match=r"images must be bytes .* got (float32|int32|int8) of sha"
    ):
        flatten(np.zeros((1, 2, 2, 3), dtype))


def test_flatten_wants_a_floating_type() -> None:
    with pytest.raises(ValueError, match="dtype must be a floating-point type, got uint8"):
        flatten(np.zeros((1, 2, 2, 3), np.uint8), dtype=jnp.uint8)


def test_flatten_wants_sound_constants(unchecked: None) -> None:
    images = np.zeros((1, 2, 2, 3), np.uint8)
    ones = np.ones(3, np.float32)
    with pytest.raises(ValueError, match="mean is used only with standardise=True"):
        flatten(images, mean=ones)
    with pytest.raises(ValueError, match="std is used only with standardise=True"):
        flatten(images, std=ones)
    for shape in ((), (1,), (4,), (1, 3)):
        wanted = rf"mean must have shape \(3,\), .* got {re.escape(str(shape))}"
        with pytest.raises(ValueError, match=wanted):
            flatten(images, standardise=True, mean=np.ones(shape))
    with pytest.raises(ValueError, match=r"mean of shape .* NaN or infinite"):
        flatten(images, standardise=True, mean=np.array([0.5, np.nan, 0.5]))
    for std in (0.0, -1.0, np.nan):
        with pytest.raises(ValueError, match="std must be > 0, got"):
            flatten(images, standardise=True, std=np.array([1.0, std, 1.0]))


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda x: 255 * x, r"lie in \[0, 1\], got 0 to 255"),
        (lambda x: (x - x.mean()) / x.std(), r"lie in \[0, 1\], got -"),
        (lambda x: np.where(x == x.max(), np.nan, x), "got nan"),
        (lambda x: np.moveaxis(x, -1, 1), "channels first"),
        (lambda x: (255 * x).astype(np.int32), "bytes"),
        (lambda x: x[..., 0], r"shape \(n, h, w, c\)"),
    ],
)
def test_views_of_what_is_no_image_in_0_to_1_are_refused(unchecked, change, said):
    """They were clipped: 56% of the pixels of images in 0...255."""
    sound = np.random.default_rng(0).uniform(size=(4, 12, 12, 3)).astype(np.float32)
    sound[0, 0, 0], sound[0, 0, 1] = 0, 1
    keys = jax.random.split(jax.random.key(0), 4)
    makers = (
        data.checked_images,
        lambda x: data.augment(keys, x, data.Augmentation(8)),
        lambda x: data.two_views(keys, jnp.asarray(x), data.crop_views(8)),
    )
    for make in makers:
        make(sound)
        make(sound * (1 + 1e-6))
        with pytest.raises(ValueError, match=said):
            make(change(sound))
    jax.jit(makers[1])(255 * sound)  # where values are not known, nothing is looked at
