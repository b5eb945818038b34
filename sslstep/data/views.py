r"""Positive pairs of random crops, images as feature vectors, checks of images."""

from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike, DTypeLike
from jaxtyping import Array, Float, Key, Shaped, UInt8, UInt32

from sslstep import _check

__all__ = ["checked_images", "flatten", "random_crop_pairs"]

# Half a level of a byte: values outside [0, 1] by no more are accepted.
_ROUNDING = 0.5 / 255


def random_crop_pairs(
    key: Key[Array, ""] | UInt32[Array, " words"],
    images: Shaped[ArrayLike, "n h w c"],
    size: int,
) -> tuple[Shaped[Array, "n {size} {size} c"], Shaped[Array, "n {size} {size} c"]]:
    r"""Draw two random crops of each image, the positive pairs of Section 4.4.

    A crop of image i is the window

    .. math:: \text{image}_i[r : r + \text{size},\; s : s + \text{size}],
        \qquad r \sim \mathcal{U}\{0, \dots, h - \text{size}\},
        \quad s \sim \mathcal{U}\{0, \dots, w - \text{size}\},

    with r and s drawn independently for each image and each view. Both ends are included. Images
    are neither padded nor resized.

    Args:
        key: random key, typed (``jax.random.key``) or raw (``jax.random.PRNGKey``).
        images: images of any dtype, shape ``(n, h, w, c)``.
        size: side of the crops in pixels, from 1 to min(h, w); static.

    Returns:
        ``(crops, crops_prime)``, each of shape ``(n, size, size, c)`` and the images' dtype. Row i
        of both is a crop of image i.

    Raises:
        ValueError: if ``images`` has another shape, or ``size`` is out of range.
        TypeError: if ``key`` is not a random key.

    Example:
        >>> import jax
        >>> from sslstep.data import photos, random_crop_pairs
        >>> images = photos("train").images[:500]
        >>> crops, crops_prime = random_crop_pairs(jax.random.key(0), images, 20)
        >>> crops.shape, crops.dtype
        ((500, 20, 20, 3), dtype('uint8'))
    """
    _check.require_key("key", key)
    _, height, width, _ = require_images(images)
    if not 1 <= size <= min(height, width):
        raise ValueError(
            f"size must be at least 1 and at most {min(height, width)}, the smaller side of images "
            f"of shape {_check.shape_of(images)}, got {size}."
        )
    crops, crops_prime = _crop_pairs(key, jnp.asarray(images), int(size))
    return crops, crops_prime


@partial(jax.jit, static_argnames="size")
def _crop_pairs(key: Array, images: Array, size: int) -> Array:
    n, height, width, channels = images.shape
    key_rows, key_columns = jax.random.split(key)
    rows = jax.random.randint(key_rows, (2, n), 0, height - size + 1)
    columns = jax.random.randint(key_columns, (2, n), 0, width - size + 1)

    def crop(image: Array, row: Array, column: Array) -> Array:
        return jax.lax.dynamic_slice(image, (row, column, 0), (size, size, channels))

    one_view = jax.vmap(crop)
    return jax.vmap(one_view, in_axes=(None, 0, 0))(images, rows, columns)


def flatten(
    images: UInt8[ArrayLike, "n h w c"],
    *,
    dtype: DTypeLike = jnp.float32,
    standardise: bool = False,
    mean: Float[ArrayLike, " c"] | None = None,
    std: Float[ArrayLike, " c"] | None = None,
) -> Float[Array, "n h*w*c"]:
    r"""Convert images to feature vectors in [0, 1], one row for each image.

    With ``standardise`` each channel is shifted by its mean and divided by its standard deviation
    over all pixels of all images. A channel that is constant becomes zero.

    Both views of a positive pair should be standardised by the same constants: flatten them
    together, as in the example, or give ``mean`` and ``std``.

    Args:
        images: bytes, shape ``(n, h, w, c)``.
        dtype: floating-point type of the result; static.
        standardise: whether to standardise each channel; static.
        mean: mean of each channel for pixels in [0, 1], shape ``(c,)``; None for the images' mean.
        std: positive deviation of each channel, shape ``(c,)``; None for the images' deviation.

    Returns:
        Feature vectors, shape ``(n, h * w * c)``, with c varying fastest.

    Raises:
        ValueError: if an argument has another shape, dtype or range, or ``mean`` or ``std`` is
            given without ``standardise``.

    Example:
        >>> import jax, jax.numpy as jnp
        >>> from sslstep.data import flatten, photos, random_crop_pairs
        >>> crops, crops_prime = random_crop_pairs(jax.random.key(0), photos().images[:500], 20)
        >>> both = flatten(jnp.concatenate([crops, crops_prime]), standardise=True)
        >>> x, x_prime = jnp.split(both, 2)
        >>> x.shape
        (500, 1200)
    """
    shape = require_images(images)
    if jnp.result_type(images) != jnp.uint8:
        raise ValueError(
            f"images must be bytes (uint8) of shape (n, h, w, c), got {jnp.result_type(images)} of "
            f"shape {shape}."
        )
    if not jnp.issubdtype(dtype, jnp.floating):
        raise ValueError(f"dtype must be a floating-point type, got {jnp.dtype(dtype)}.")
    _require_constants(shape[-1], standardise, mean=mean, std=std)
    pixels = jnp.asarray(images).astype(dtype) / 255
    if standardise:
        pixels = _standardised(pixels, mean, std)
    return pixels.reshape(shape[0], -1)


def _standardised(pixels: Array, mean: ArrayLike | None, std: ArrayLike | None) -> Array:
    every_pixel = (0, 1, 2)
    if std is None:
        # By the extremes: the rounded mean of equal numbers leaves a nonzero deviation.
        constant = pixels.max(every_pixel) == pixels.min(every_pixel)
        std = jnp.where(constant, jnp.inf, pixels.std(every_pixel))
    if mean is None:
        mean = pixels.mean(every_pixel)
    shift, scale = (jnp.asarray(v, pixels.dtype).reshape(1, 1, 1, -1) for v in (mean, std))
    return (pixels - shift) / scale


def checked_images(images: Shaped[ArrayLike, "n h w c"]) -> Shaped[ArrayLike, "n h w c"]:
    """Return the images after checking that they are bytes, or floats in [0, 1].

    Views clip values outside [0, 1], and a compiled training step cannot check them. Check floats
    before training: ``train.fit(step, state, data.checked_images(images), ...)``.

    Args:
        images: images, shape ``(n, h, w, c)``.

    Raises:
        ValueError: unless ``images`` are such images, up to half a level of a byte.

    Example:
        >>> import numpy as np
        >>> from sslstep import data
        >>> images = data.photos().images[:8]
        >>> data.checked_images(images / np.float32(255)).shape
        (8, 32, 32, 3)
    """
    shape = require_bytes_or_floats(images)
    if jnp.result_type(images) != jnp.uint8 and _check.is_concrete(images):
        with jax.ensure_compile_time_eval():
            array: Any = images if hasattr(images, "min") else jnp.asarray(images)
            least, most = float(array.min()), float(array.max())
        if not (least >= -_ROUNDING and most <= 1 + _ROUNDING):  # NaN fails
            raise ValueError(
                f"images of floats must lie in [0, 1], got {least:g} to {most:g} in shape {shape}: "
                f"give bytes (uint8), divide by 255, or normalise the views instead."
            )
    return images


def require_images(images: ArrayLike) -> tuple[int, ...]:
    """Check that `images` is a non-empty batch of images and return its shape."""
    if hasattr(images, "images"):
        raise ValueError("images must be an array, got a Dataset: give its field `images`.")
    shape = _check.shape_of(images)
    if len(shape) != 4:
        raise ValueError(f"images must have shape (n, h, w, c), got shape {shape}.")
    if 0 in shape:
        raise ValueError(
            f"images is empty: got shape {shape}, wanted (n, h, w, c) with every size >= 1."
        )
    if shape[1] in (1, 3) and min(shape[2:]) > 4:
        raise ValueError(
            f"images must have shape (n, h, w, c), got shape {shape} with channels first."
        )
    return shape


def require_bytes_or_floats(images: ArrayLike) -> tuple[int, ...]:
    """Check shape and dtype of images, but not the range of floats; return the shape."""
    shape, dtype = require_images(images), jnp.result_type(images)
    if dtype != jnp.uint8 and not jnp.issubdtype(dtype, jnp.floating):
        raise ValueError(
            f"images must be bytes (uint8) or floats in [0, 1], got {dtype} of shape {shape}."
        )
    return shape


def _require_constants(channels: int, standardise: bool, **constants: ArrayLike | None) -> None:
    for name, value in constants.items():
        if value is None:
            continue
        if not standardise:
            raise ValueError(f"{name} is used only with standardise=True.")
        _check.require_shape(name, value, (channels,), ", one value for each channel")
    if constants["mean"] is not None:
        _check.require_finite("mean", constants["mean"])
    if constants["std"] is not None:
        _check.require_within("std", constants["std"], above=0)
