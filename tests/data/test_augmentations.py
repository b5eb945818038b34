"""Augmentations: each operation against Pillow or SciPy, the draws against torchvision's rules."""

import colorsys
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.ndimage
import scipy.stats
from PIL import Image, ImageEnhance, ImageOps

from sslstep import data
from sslstep.data import _colour, _resample

ONE_BYTE = 1 / 255


@pytest.fixture(scope="module")
def photographs():
    return np.asarray(data.photos("test").images[:6])


@pytest.fixture(scope="module", params=["photographs", "noise"])
def images(request, photographs):
    if request.param == "photographs":
        return photographs
    return np.random.default_rng(0).integers(0, 256, (6, 20, 24, 3), np.uint8)


def keys(n, seed=0):
    return jax.random.split(jax.random.key(seed), n)


def as_floats(images):
    return jnp.asarray(images).astype(jnp.float32) / 255


def pillow(images, operation):
    return np.stack([np.asarray(operation(Image.fromarray(image))) for image in images]) / 255


@pytest.mark.parametrize("box", [(0, 0, 20, 20), (3, 2, 7, 5), (5, 1, 4, 17), (9, 4, 1, 1)])
@pytest.mark.parametrize("size", [8, 24])
def test_crop_and_resize_as_pillow(images, box, size):
    top, left, rows, columns = box

    def operation(image):
        window = image.crop((left, top, left + columns, top + rows))
        return window.resize((size, size), Image.Resampling.BICUBIC)

    height, width = images.shape[1:3]
    matrices = (
        _resample.resize_matrix(jnp.float32(top), jnp.float32(rows), height, size),
        _resample.resize_matrix(jnp.float32(left), jnp.float32(columns), width, size),
    )
    repeated = [jnp.broadcast_to(m, (len(images), *m.shape)) for m in matrices]
    ours = _resample.apply_separable(*repeated, as_floats(images))
    # Pillow rounds to bytes after each of the two passes, whose weights may amplify.
    np.testing.assert_allclose(ours, pillow(images, operation), atol=1.51 * ONE_BYTE)


@pytest.mark.parametrize("factor", [0.0, 0.3, 1.0, 1.8])
@pytest.mark.parametrize(
    ("kind", "enhancer"),
    [
        (_colour.BRIGHTNESS, ImageEnhance.Brightness),
        (_colour.CONTRAST, ImageEnhance.Contrast),
        (_colour.SATURATION, ImageEnhance.Color),
    ],
)
def test_blends_as_pillow(images, kind, enhancer, factor):
    n = len(images)
    ours = _colour.blend(as_floats(images), jnp.full(n, kind), jnp.full(n, factor, jnp.float32))
    theirs = pillow(images, lambda image: enhancer(image).enhance(factor))
    # Pillow cuts the result to a byte, and first rounds the grey that it blends with.
    np.testing.assert_allclose(ours, theirs, atol=(1 + 0.51 * abs(1 - factor)) * ONE_BYTE)


@pytest.mark.parametrize("shift", [-0.5, -0.1, 0.0, 0.25, 0.5])
def test_hue_as_colorsys(images, shift):
    n = len(images)
    ours = _colour.shift_hue(as_floats(images), jnp.full(n, shift, jnp.float32))

    def turned(pixel):
        hue, saturation, value = colorsys.rgb_to_hsv(*pixel)
        return colorsys.hsv_to_rgb((hue + shift) % 1, saturation, value)

    theirs = np.apply_along_axis(turned, -1, images[:, ::3, ::3] / 255)
    np.testing.assert_allclose(ours[:, ::3, ::3], theirs, atol=1e-5)


def test_hue_of_greys_is_left_alone():
    grey = jnp.broadcast_to(jnp.linspace(0, 1, 16)[None, :, None, None], (2, 16, 4, 3))
    np.testing.assert_array_equal(_colour.shift_hue(grey, jnp.array([0.3, -0.5])), grey)


def test_greyscale_and_solarise_as_pillow(images):
    grey = pillow(images, lambda image: image.convert("L"))[..., None]
    np.testing.assert_allclose(_colour.greyscale(as_floats(images)), grey, atol=0.51 * ONE_BYTE)
    inverted = pillow(images, lambda image: ImageOps.solarize(image, 128))
    np.testing.assert_allclose(_colour.solarise(as_floats(images)), inverted, atol=1e-6)


@pytest.mark.parametrize("sigma", [0.1, 0.7, 2.0])
def test_blur_as_scipy(images, sigma):
    images = images[:, :20, :20]
    kernel = _resample.blur_matrix(jnp.float32(sigma), 20, 8)
    kernels = jnp.broadcast_to(kernel, (len(images), 20, 20))
    ours = _resample.apply_separable(kernels, kernels, as_floats(images))
    theirs = scipy.ndimage.gaussian_filter(
        images / 255, sigma, axes=(1, 2), mode="nearest", radius=8
    )
    np.testing.assert_allclose(ours, theirs, atol=1e-6)


def test_jitter_in_each_image_s_own_order(photographs):
    """All 24 orders of the four operations, against one after the other."""
    orders = np.stack(np.meshgrid(*[range(4)] * 4, indexing="ij"), -1).reshape(-1, 4)
    orders = jnp.asarray([order for order in orders if len(set(order.tolist())) == 4])
    images = as_floats(np.repeat(photographs[:1], len(orders), axis=0))
    strength = jnp.tile(jnp.array([[1.4, 0.6, 1.7, 0.2]]), (len(orders), 1))
    ours = _colour.jitter(images, orders, strength)
    for i, order in enumerate(orders):
        image = images[i : i + 1]
        for kind in order:
            value = strength[i, kind][None]
            hue = kind == _colour.HUE
            image = (
                _colour.shift_hue(image, value) if hue else _colour.blend(image, kind[None], value)
            )
        np.testing.assert_allclose(ours[i], image[0], atol=1e-6)
    assert len({np.asarray(image).round(4).tobytes() for image in ours}) > 12


def torchvision_box(rng, height, width, scale, ratio):
    """torchvision's RandomResizedCrop.get_params, from its documentation."""
    for _ in range(10):
        area = height * width * rng.uniform(*scale)
        aspect = np.exp(rng.uniform(*np.log(ratio)))
        w, h = round(np.sqrt(area * aspect)), round(np.sqrt(area / aspect))
        if 0 < w <= width and 0 < h <= height:
            return rng.integers(0, height - h + 1), rng.integers(0, width - w + 1), h, w
    whole = width / height
    w, h = width, height
    if whole < ratio[0]:
        h = round(width / ratio[0])
    elif whole > ratio[1]:
        w = round(height * ratio[1])
    return (height - h) // 2, (width - w) // 2, h, w


@pytest.mark.parametrize(
    ("height", "width", "scale"), [(32, 32, (0.08, 1.0)), (20, 30, (0.5, 1.0)), (8, 40, (0.9, 1.0))]
)
def test_crop_boxes_are_drawn_as_torchvision_draws_them(height, width, scale):
    n = 4000
    a = data.Augmentation(8, scale=scale)
    draw = jax.jit(jax.vmap(lambda key: _resample.crop_box(key, height, width, scale, a.ratio)))
    ours = np.stack(draw(keys(n)), axis=1)
    rng = np.random.default_rng(1)
    theirs = np.array([torchvision_box(rng, height, width, scale, a.ratio) for _ in range(n)])
    assert (ours[:, :2] >= 0).all()
    assert (ours[:, 0] + ours[:, 2] <= height).all()
    assert (ours[:, 1] + ours[:, 3] <= width).all()
    for ours_k, theirs_k in zip(ours.T, theirs.T, strict=True):
        assert scipy.stats.ks_2samp(ours_k, theirs_k).pvalue > 1e-4


@pytest.mark.parametrize(("shape", "ratio"), [((9, 9), (100, 100)), ((1, 40), (0.01, 0.02))])
def test_a_crop_of_an_extreme_ratio_has_pixels(shape, ratio):
    images = np.full((4, *shape, 3), 100, np.uint8)
    a = data.Augmentation(4, scale=(0.2, 1.0), ratio=ratio)
    np.testing.assert_allclose(data.augment(keys(4), images, a), 100 / 255, rtol=1e-6)


@pytest.mark.parametrize("p", [0.0, 0.2, 1.0])
@pytest.mark.parametrize("operation", ["flip", "grey", "solarise"])
def test_probabilities(operation, p):
    n = 2000
    images = np.zeros((n, 4, 4, 3), np.uint8)
    images[:, :, :2] = (40, 10, 20)
    a = data.Augmentation(4, scale=None, flip=0.0)._replace(**{operation: p})
    if operation == "solarise":
        images += 200
    changed = (abs(data.augment(keys(n), images, a) - as_floats(images)) > 1e-3).any((1, 2, 3))
    allowed = 4.5 * np.sqrt(n * p * (1 - p))
    assert abs(int(changed.sum()) - n * p) <= allowed


def test_jitter_and_blur_probabilities(photographs):
    n = 600
    images = np.repeat(photographs[:1], n, axis=0)
    for change in (
        {"jitter": 0.8, "brightness": 0.4},
        {"blur": 0.8, "sigma": (1.0, 2.0)},
    ):
        a = data.Augmentation(32, scale=None, flip=0.0)._replace(**change)
        far = np.abs(data.augment(keys(n), images, a) - as_floats(images)).max(axis=(1, 2, 3))
        assert abs(int((far > 1e-4).sum()) - 0.8 * n) <= 4.5 * np.sqrt(n * 0.16)


PIPELINES = {
    "crop": data.crop_views(12),
    "barlow_twins": data.barlow_twins_views(12),
    "vicreg": data.vicreg_views(12, symmetric=True),
    "simclr": data.simclr_views(20),
}


@pytest.mark.parametrize("views", PIPELINES.values(), ids=PIPELINES)
def test_a_view_depends_on_its_key_alone(photographs, views):
    """In a larger batch the same view, and another from another key."""
    n = len(photographs)
    whole = data.two_views(keys(n), photographs, views)
    parts = [
        data.two_views(keys(n)[i : i + 3], photographs[i : i + 3], views) for i in range(0, n, 3)
    ]
    for view, halves in zip(whole, zip(*parts, strict=True), strict=True):
        # Products of other sizes may be summed in another order.
        np.testing.assert_allclose(view, np.concatenate(halves), atol=5e-6)
        assert bool(jnp.isfinite(view).all())
    assert not np.allclose(*whole)
    again = data.two_views(keys(n, 1), photographs, views)
    assert not np.allclose(again[0], whole[0])


def test_compiled_with_other_code_it_is_the_same_view(photographs):
    views = PIPELINES["simclr"]
    whole = data.two_views(keys(6), photographs, views)
    within = jax.jit(partial(data.two_views, views=views))(keys(6), photographs)
    np.testing.assert_allclose(within, whole, atol=5e-6)


def test_floats_and_bytes_agree(photographs):
    views = PIPELINES["simclr"]
    from_bytes = data.two_views(keys(6), photographs, views)
    from_floats = data.two_views(keys(6), as_floats(photographs), views)
    np.testing.assert_allclose(from_bytes[0], from_floats[0], atol=1e-6)
    half = data.augment(keys(6), as_floats(photographs).astype(jnp.bfloat16), views.first)
    assert half.dtype == jnp.bfloat16


def test_normalisation(photographs):
    plain = data.Augmentation(32, scale=None, flip=0.0)
    a = plain._replace(mean=(0.1, 0.2, 0.3), std=(0.5, 0.25, 2.0))
    wanted = (photographs / 255 - [0.1, 0.2, 0.3]) / [0.5, 0.25, 2.0]
    np.testing.assert_allclose(data.augment(keys(6), photographs, a), wanted, atol=1e-5)


def test_black_and_white_images_stay_finite():
    images = np.zeros((6, 32, 32, 3), np.uint8)
    images[3:] = 255
    for views in PIPELINES.values():
        for view in data.two_views(keys(6), images, views):
            assert bool(jnp.isfinite(view).all())


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"size": 40}, "size must be at least 1 and at most 32"),
        ({"size": 0, "scale": (0.1, 1.0)}, "size must be at least 1, got 0"),
        ({"flip": 1.5}, "flip is a probability"),
        ({"hue": 0.7}, r"hue must lie in \[0, 0.5\]"),
        ({"brightness": -0.1}, "brightness must lie in"),
        ({"scale": (0.5, 2.0)}, "scale must be 0 < low <= high <= 1.0"),
        ({"sigma": (0.0, 1.0)}, "sigma must be"),
        ({"mean": (0.5, 0.5)}, "mean must have one number"),
        ({"mean": (0.5, float("nan"), 0.5)}, "mean must be finite"),
        ({"std": (0.5, 0.0, 0.5)}, "std must be positive"),
        ({"std": (0.5, -0.5, 0.5)}, "std must be positive"),
        ({"blur": 1.0, "blur_radius": -1}, "blur_radius must be at least 0, got -1"),
        ({"contrast": float("inf")}, "contrast must lie in"),
        ({"sigma": (0.1, float("inf"))}, "sigma must be"),
        ({"ratio": (1.0, float("inf"))}, "ratio must be"),
    ],
)
def test_bad_augmentations_are_refused(photographs, change, message):
    a = data.Augmentation(16, scale=None)._replace(**change)
    with pytest.raises(ValueError, match=message):
        data.augment(keys(6), photographs, a)


def test_bad_images_and_keys_are_refused(photographs, unchecked):
    a = data.Augmentation(16, jitter=1.0)
    with pytest.raises(ValueError, match="bytes"):
        data.augment(keys(6), photographs.astype(np.int32), a)
    with pytest.raises(ValueError, match="3 channels"):
        data.augment(keys(6), photographs[..., :1], a)
    with pytest.raises(ValueError, match="one typed key"):
        data.augment(keys(5), photographs, a)
    with pytest.raises(ValueError, match="shape"):
        data.augment(keys(6), photographs[0], a)
