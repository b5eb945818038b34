r"""Augmentations: random views of images, computed on the device that trains.

An :class:`Augmentation` describes a view, and :class:`Views` a pair of views. The functions are
pure and take one random key for each image, so that the views do not depend on the number of
devices. They run inside the compiled training step (:func:`sslstep.train.make_step`), on images
that are bytes on the device.
"""

import math
from collections.abc import Sequence
from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike
from jaxtyping import Array, Float, Key, Real, Shaped

from sslstep import _check, _keys
from sslstep.data import _colour, _resample
from sslstep.data.views import checked_images

__all__ = [
    "Augmentation",
    "Views",
    "augment",
    "barlow_twins_views",
    "crop_views",
    "simclr_views",
    "two_views",
    "vicreg_views",
]

_IMAGENET_MEAN, _IMAGENET_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


class Augmentation(NamedTuple):
    """Random operations that make a view, in the order of application.

    Hashable, and static under ``jax.jit``: operations of probability 0 are not compiled. By default
    only the crop and the flip are active.

    Attributes:
        size: side of the view in pixels.
        scale: range of the crop's area as a fraction of the image's, drawn uniformly. None: the
            crop is a window of ``size`` pixels and is not resized.
        ratio: range of the crop's aspect ratio, drawn log-uniformly.
        flip: probability of a horizontal flip.
        jitter: probability of the colour jitter (brightness, contrast, saturation and hue).
        brightness: range b of the brightness factor, uniform in [max(0, 1 - b), 1 + b].
        contrast: range c of the factor that scales the distance from the image's mean grey, uniform
            in [max(0, 1 - c), 1 + c].
        saturation: range s of the factor that scales the distance from each pixel's grey, uniform
            in [max(0, 1 - s), 1 + s].
        hue: range h of the hue shift, uniform in [-h, h]; 1 is a full circle.
        grey: probability of conversion to grey.
        blur: probability of a Gaussian blur.
        sigma: range of the blur's standard deviation in pixels, drawn uniformly.
        blur_radius: radius of the blur's filter in pixels, at least 0; None: four times the largest
            standard deviation.
        solarise: probability of inverting all values of at least 0.5.
        mean: constant subtracted from each channel at the end; None: no subtraction.
        std: positive divisor of each channel, after the subtraction; None: no division.
    """

    size: int
    scale: tuple[float, float] | None = (0.08, 1.0)
    ratio: tuple[float, float] = (3 / 4, 4 / 3)
    flip: float = 0.5
    jitter: float = 0.0
    brightness: float = 0.0
    contrast: float = 0.0
    saturation: float = 0.0
    hue: float = 0.0
    grey: float = 0.0
    blur: float = 0.0
    sigma: tuple[float, float] = (0.1, 2.0)
    blur_radius: int | None = None
    solarise: float = 0.0
    mean: tuple[float, float, float] | None = None
    std: tuple[float, float, float] | None = None


class Views(NamedTuple):
    """Augmentations of a pair of views.

    Attributes:
        first: augmentation of the first view.
        second: augmentation of the second view.
    """

    first: Augmentation
    second: Augmentation


def barlow_twins_views(size: int) -> Views:
    """Return the augmentations of Barlow Twins (Zbontar et al. 2021, Appendix A) and BYOL.

    They are a resized crop, flip, colour jitter, conversion to grey, blur (probability 1 in the
    first view, 0.1 in the second), solarisation (0 and 0.2), and normalisation by ImageNet's mean
    and standard deviation.

    Args:
        size: side of the views in pixels.

    Example:
        >>> from sslstep import data
        >>> data.barlow_twins_views(96).second.solarise
        0.2
    """
    common = Augmentation(
        size,
        jitter=0.8,
        brightness=0.4,
        contrast=0.4,
        saturation=0.2,
        hue=0.1,
        grey=0.2,
        mean=_IMAGENET_MEAN,
        std=_IMAGENET_STD,
    )
    return Views(common._replace(blur=1.0), common._replace(blur=0.1, solarise=0.2))


def vicreg_views(size: int, *, symmetric: bool = False) -> Views:
    """Return the augmentations of VICReg (Bardes et al. 2022).

    Args:
        size: side of the views in pixels.
        symmetric: if true, both views have blur 0.5 and solarisation 0.1, as in the publication's
            Appendix C.1; if false, they are :func:`sslstep.data.barlow_twins_views`, as in the
            publication's code.

    Example:
        >>> from sslstep import data
        >>> data.vicreg_views(96) == data.barlow_twins_views(96)
        True
    """
    if not symmetric:
        return barlow_twins_views(size)
    both = barlow_twins_views(size).first._replace(blur=0.5, solarise=0.1)
    return Views(both, both)


def simclr_views(size: int, *, strength: float = 1.0, blur: float = 0.5) -> Views:
    """Return the augmentations of SimCLR (Chen et al. 2020): crop, flip, jitter, grey and blur.

    Both views have equal augmentations. Views are not normalised. The radius of the blur's filter
    is a twentieth of ``size``.

    Args:
        size: side of the views in pixels.
        strength: strength of the colour jitter; the publication has 1 for ImageNet and 0.5 for
            CIFAR-10.
        blur: probability of the blur; the publication has 0.5 for ImageNet and 0 for CIFAR-10.

    Example:
        >>> from sslstep import data
        >>> data.simclr_views(32, strength=0.5, blur=0.0).first.brightness
        0.4
    """
    both = Augmentation(
        size,
        jitter=0.8,
        brightness=0.8 * strength,
        contrast=0.8 * strength,
        saturation=0.8 * strength,
        hue=0.2 * strength,
        grey=0.2,
        blur=blur,
        blur_radius=size // 10 // 2,
    )
    return Views(both, both)


def crop_views(size: int, *, flip: float = 0.5) -> Views:
    """Return augmentations that cut a random window, not resized, and flip it horizontally.

    Args:
        size: side of the windows in pixels.
        flip: probability of the flip.

    Example:
        >>> from sslstep import data
        >>> data.crop_views(24).first == data.Augmentation(24, scale=None)
        True
    """
    both = Augmentation(size, scale=None, flip=flip)
    return Views(both, both)


def two_views(
    keys: Key[Array, " n"], images: Shaped[ArrayLike, "n h w c"], views: Views
) -> tuple[Float[Array, "n s s c"], Float[Array, "n t t c"]]:
    """Draw two independent random views of each image.

    Args:
        keys: typed random keys (``jax.random.key``), one for each image.
        images: bytes, or floats in [0, 1], shape ``(n, h, w, c)``.
        views: the two augmentations; static.

    Returns:
        ``(x, x_prime)``, the first and the second view of each image, in float32 for bytes and in
        the images' dtype for floats.

    Raises:
        ValueError: under the conditions of :func:`augment`.

    Example:
        >>> import jax
        >>> from sslstep import data
        >>> images = data.photos().images[:8]
        >>> keys = jax.random.split(jax.random.key(0), 8)
        >>> x, x_prime = data.two_views(keys, images, data.barlow_twins_views(24))
        >>> x.shape, x_prime.shape
        ((8, 24, 24, 3), (8, 24, 24, 3))
    """
    both = jax.vmap(jax.random.split)(_keys.of_samples(keys))
    return augment(both[:, 0], images, views.first), augment(both[:, 1], images, views.second)


def masked_view(
    keys: Key[Array, " n"],
    images: Shaped[ArrayLike, "n h w c"],
    augmentation: Augmentation,
    *,
    patch: int,
    fraction: Real[ArrayLike, ""] = 0.75,
) -> tuple[Float[Array, "n s s c"], Float[Array, "n s s c"], Float[Array, "n s s 1"]]:
    """Draw one random view of each image, and hide random patches of it.

    Each square patch is hidden independently with probability ``fraction``. Hidden pixels become 0,
    which is the mean colour of normalised views.

    Args:
        keys: typed random keys (``jax.random.key``), one for each image.
        images: bytes, or floats in [0, 1], shape ``(n, h, w, c)``.
        augmentation: augmentation of the view; static. Its size must be a multiple of ``patch``.
        patch: side of a patch in pixels; static.
        fraction: probability that a patch is hidden, in [0, 1]; traced.

    Returns:
        ``(seen, truth, hidden)``: the view with hidden pixels at 0, and the whole view, both of
        shape ``(n, size, size, c)``; and the mask, 1 for hidden pixels and 0 for others, shape
        ``(n, size, size, 1)``.

    Raises:
        ValueError: if ``patch`` does not divide the size, or :func:`augment` rejects an argument.

    Example:
        >>> import jax
        >>> from sslstep import data
        >>> images = data.photos().images[:8]
        >>> keys, crop = jax.random.split(jax.random.key(0), 8), data.crop_views(24).first
        >>> seen, truth, hidden = data.masked_view(keys, images, crop, patch=4, fraction=0.5)
        >>> seen.shape, hidden.shape, bool((seen == truth * (1 - hidden)).all())
        ((8, 24, 24, 3), (8, 24, 24, 1), True)
    """
    if patch < 1 or augmentation.size % patch:
        raise ValueError(f"patch must divide the view's size {augmentation.size}, got {patch}.")
    _check.require_within("fraction", fraction, at_least=0.0, at_most=1.0)
    both = jax.vmap(jax.random.split)(_keys.of_samples(keys))
    truth = augment(both[:, 0], images, augmentation)
    grid = (augmentation.size // patch,) * 2
    chance = jnp.asarray(fraction, truth.dtype)
    patches = jax.vmap(lambda key: jax.random.uniform(key, grid, truth.dtype) < chance)(both[:, 1])
    hidden = jnp.repeat(jnp.repeat(patches, patch, axis=1), patch, axis=2)[..., None]
    hidden = hidden.astype(truth.dtype)
    return truth * (1 - hidden), truth, hidden


def augment(
    keys: Key[Array, " n"], images: Shaped[ArrayLike, "n h w c"], augmentation: Augmentation
) -> Float[Array, "n s s c"]:
    r"""Draw one random view of each image.

    The operations, in order: a crop, drawn as in torchvision's ``RandomResizedCrop`` (ten attempts,
    then the largest centred crop of an admitted ratio) and resized with Pillow's bicubic kernel; a
    horizontal flip; brightness, contrast, saturation and hue in a random order for each image;
    conversion to grey; Gaussian blur with repeated edge pixels; solarisation; normalisation. Values
    are clipped to [0, 1] after each operation and not rounded to bytes.

    Args:
        keys: typed random keys (``jax.random.key``), one for each image.
        images: bytes, or floats in [0, 1], shape ``(n, h, w, c)``; c must be 3 for jitter and grey.
            Inside a compiled function values are unknown, and values outside [0, 1] are clipped:
            apply :func:`checked_images` beforehand.
        augmentation: the operations and their ranges; static.

    Returns:
        Views of shape ``(n, size, size, c)``, in float32 for bytes and in the images' dtype for
        floats.

    Raises:
        ValueError: if ``images``, ``keys`` or a field of ``augmentation`` is not as described.

    Example:
        >>> import jax
        >>> from sslstep import data
        >>> images = data.photos().images[:8]
        >>> keys = jax.random.split(jax.random.key(0), 8)
        >>> data.augment(keys, images, data.Augmentation(16, jitter=1.0, hue=0.5)).shape
        (8, 16, 16, 3)
    """
    shape = tuple(jnp.shape(checked_images(images)))
    _require_valid(augmentation, shape)
    if not _keys.is_key(keys) or keys.shape != shape[:1]:
        raise ValueError(
            f"keys must be one typed key (jax.random.key) for each of the {shape[0]} images, got "
            f"dtype {keys.dtype} of shape {keys.shape}."
        )
    return _augment(_keys.of_samples(keys), jnp.asarray(images), augmentation)


@partial(jax.jit, static_argnames="augmentation")
def _augment(keys: Array, images: Array, augmentation: Augmentation) -> Array:
    a = augmentation
    key_crop, key_flip, key_jitter, key_rest = jax.vmap(partial(jax.random.split, num=4))(keys).T
    flip = _uniform(key_flip) < a.flip
    if a.scale is None:
        x = _window(key_crop, images, a.size, flip)
    else:
        x = _resized_crop(key_crop, images, a, a.scale, flip)
    if a.jitter:
        x = _colour.jitter(x, *_jitter_draws(key_jitter, a))
    draws = _uniform(key_rest, 4)
    if a.grey:
        x = jnp.where(_each(draws[:, 0] < a.grey), _colour.greyscale(x), x)
    if a.blur:
        low, high = a.sigma
        sigma = low + (high - low) * draws[:, 2]
        radius = math.ceil(4 * high) if a.blur_radius is None else a.blur_radius
        kernel = jax.vmap(lambda s: _resample.blur_matrix(s, a.size, radius))(sigma)
        blurred = _resample.apply_separable(kernel, kernel, x)
        x = jnp.where(_each(draws[:, 1] < a.blur), blurred, x)
    if a.solarise:
        x = jnp.where(_each(draws[:, 3] < a.solarise), _colour.solarise(x), x)
    if a.mean is not None:
        x = x - jnp.asarray(a.mean, x.dtype)[None, None, None, :]
    if a.std is not None:
        x = x / jnp.asarray(a.std, x.dtype)[None, None, None, :]
    return x.astype(jnp.float32 if images.dtype == jnp.uint8 else images.dtype)


def _window(keys: Array, images: Array, size: int, flip: Array) -> Array:
    _, height, width, channels = images.shape

    def crop(key: Array, image: Array, flipped: Array) -> Array:
        rows, columns = jax.random.split(key)
        row = jax.random.randint(rows, (), 0, height - size + 1)
        column = jax.random.randint(columns, (), 0, width - size + 1)
        window = jax.lax.dynamic_slice(image, (row, column, 0), (size, size, channels))
        return jnp.where(flipped, window[:, ::-1], window)

    return _floats(jax.vmap(crop)(keys, images, flip))


def _resized_crop(
    keys: Array, images: Array, a: Augmentation, scale: tuple[float, float], flip: Array
) -> Array:
    _, height, width, _ = images.shape

    def matrices(key: Array, flipped: Array) -> tuple[Array, Array]:
        """Draw a box; return the matrices that resize its rows and its columns, perhaps flipped."""
        top, left, rows, columns = _resample.crop_box(key, height, width, scale, a.ratio)
        across = _resample.resize_matrix(left, columns, width, a.size)
        across = jnp.where(flipped, across[::-1], across)
        return _resample.resize_matrix(top, rows, height, a.size), across

    return _resample.apply_separable(*jax.vmap(matrices)(keys, flip), _floats(images))


def _jitter_draws(keys: Array, a: Augmentation) -> tuple[Array, Array]:
    """Draw order and strengths of the four operations; strengths are neutral without jitter."""
    order_keys, strength_keys = jax.vmap(jax.random.split)(keys).T
    order = jax.vmap(lambda key: jax.random.permutation(key, 4))(order_keys)
    draws = _uniform(strength_keys, 5)
    widths = (a.brightness, a.contrast, a.saturation)
    low = jnp.asarray([*(max(0.0, 1 - b) for b in widths), -a.hue], jnp.float32)
    high = jnp.asarray([*(1 + b for b in widths), a.hue], jnp.float32)
    strength = low[None, :] + (high - low)[None, :] * draws[:, :4]
    neutral = jnp.asarray([1.0, 1.0, 1.0, 0.0], jnp.float32)[None, :]
    return order, jnp.where(draws[:, 4:] < a.jitter, strength, neutral)


def _uniform(keys: Array, *shape: int) -> Array:
    return jax.vmap(lambda key: jax.random.uniform(key, shape, jnp.float32))(keys)


def _floats(images: Array) -> Array:
    floats = images.astype(jnp.float32)
    return floats / 255 if images.dtype == jnp.uint8 else floats


def _each(flags: Array) -> Array:
    return flags[:, None, None, None]


def _require_valid(a: Augmentation, shape: Sequence[int]) -> None:
    _, height, width, channels = shape
    most = f" and at most {min(height, width)} for images of shape {tuple(shape)}"
    if a.size < 1 or (a.scale is None and a.size > min(height, width)):
        raise ValueError(f"size must be at least 1{most if a.scale is None else ''}, got {a.size}.")
    for name in ("flip", "jitter", "grey", "blur", "solarise"):
        value = getattr(a, name)
        if not 0 <= value <= 1:
            raise ValueError(f"{name} is a probability and must lie in [0, 1], got {value}.")
    for name in ("brightness", "contrast", "saturation"):
        if not 0 <= (value := getattr(a, name)) < math.inf:
            raise ValueError(f"{name} must lie in [0, inf), got {value}.")
    if not 0 <= a.hue <= 0.5:
        raise ValueError(f"hue must lie in [0, 0.5], got {a.hue}.")
    for name, pair in (("scale", a.scale), ("ratio", a.ratio), ("sigma", a.sigma)):
        if pair is not None and not 0 < pair[0] <= pair[1] < math.inf:
            raise ValueError(f"{name} must be 0 < low <= high < inf, got {pair}.")
    if a.scale is not None and a.scale[1] > 1:
        raise ValueError(f"scale must be 0 < low <= high <= 1.0, got {a.scale}.")
    if a.blur_radius is not None and a.blur_radius < 0:
        raise ValueError(f"blur_radius must be at least 0, got {a.blur_radius}.")
    if (a.jitter or a.grey) and channels != 3:
        raise ValueError(f"jitter and grey need images of 3 channels, got {channels}.")
    for name in ("mean", "std"):
        value = getattr(a, name)
        if value is not None and len(value) not in (1, channels):
            raise ValueError(
                f"{name} must have one number for each of {channels} channels, got {value}."
            )
        if value is not None and not all(map(math.isfinite, value)):
            raise ValueError(f"{name} must be finite, got {value}.")
    if a.std is not None and min(a.std) <= 0:
        raise ValueError(f"std must be positive, got {a.std}.")
