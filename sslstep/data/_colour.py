"""Colour operations on a batch of images in [0, 1], with a strength for each image."""

import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from sslstep._linalg import matmul

# Weights of ITU-R 601-2, as in Pillow's conversion to "L".
_LUMA = (0.299, 0.587, 0.114)
BRIGHTNESS, CONTRAST, SATURATION, HUE = range(4)


def greyscale(images: Float[Array, "n h w 3"]) -> Float[Array, "n h w 1"]:
    """Luma of each pixel: .299 R + .587 G + .114 B."""
    # A sum of slices would be fused with its operand's computation and repeat it three times.
    luma = jnp.asarray(_LUMA, images.dtype)[:, None]
    return matmul(images, luma[None, None])


def blend(
    images: Float[Array, "n h w 3"], kind: Int[Array, " n"], factor: Float[Array, " n"]
) -> Float[Array, "n h w 3"]:
    """``factor x + (1 - factor) base``, clipped to [0, 1].

    The base depends on `kind`: black for brightness, the image's mean grey for contrast, and each
    pixel's grey for saturation.
    """
    kind, factor = kind.reshape(-1, 1, 1, 1), factor.reshape(-1, 1, 1, 1)
    grey = greyscale(images)
    base = jnp.where(kind == CONTRAST, grey.mean(axis=(1, 2), keepdims=True), grey)
    base = jnp.where(kind == BRIGHTNESS, 0.0, base)
    return jnp.clip(factor * images + (1 - factor) * base, 0.0, 1.0)


def shift_hue(
    images: Float[Array, "n h w 3"], shift: Float[Array, " n"]
) -> Float[Array, "n h w 3"]:
    """Rotate the hue by ``shift`` of a full circle, at fixed saturation and value (HSV)."""
    red, green, blue = (images[..., i] for i in range(3))
    top, bottom = images.max(axis=-1), images.min(axis=-1)
    chroma = top - bottom
    safe = jnp.where(chroma > 0, chroma, 1.0)
    # Not `top == red`: a fused loop may compute both sides separately and round them differently.
    # For channels that are equal up to rounding either formula is right.
    hue = jnp.where(
        (red >= green) & (red >= blue),
        (green - blue) / safe,
        jnp.where(green >= blue, (blue - red) / safe + 2, (red - green) / safe + 4),
    )
    hue = hue + 6 * shift.reshape(-1, 1, 1)

    def channel(offset: int) -> Array:
        k = hue + offset
        k = k - 6 * jnp.floor(k / 6)
        return top - chroma * jnp.clip(jnp.minimum(k, 4 - k), 0.0, 1.0)

    turned = jnp.stack([channel(5), channel(3), channel(1)], axis=-1)
    return jnp.where(shift.reshape(-1, 1, 1, 1) == 0, images, turned)


def jitter(
    images: Float[Array, "n h w 3"], order: Int[Array, "n 4"], strength: Float[Array, "n 4"]
) -> Float[Array, "n h w 3"]:
    """Change brightness, contrast, saturation and hue, in a separate order for each image.

    Args:
        images: images in [0, 1].
        order: for each image, a permutation of the operations (0: brightness, 1: contrast,
            2: saturation, 3: hue).
        strength: for each image, the factors of brightness, contrast and saturation (1: no change)
            and the shift of the hue (0: no change).
    """
    # Every order is up to three blends, the hue shift, and up to three blends. The hue shift is the
    # most expensive operation, and this form computes it once.
    hue_at = jnp.argmax(order == HUE, axis=1)
    factors = jnp.take_along_axis(strength, order, axis=1)

    def blends(images: Array, places: list[int], active: Array) -> Array:
        for place in places:
            use = active[:, place]
            images = blend(images, order[:, place], jnp.where(use, factors[:, place], 1.0))
        return images

    places = jnp.arange(4)[None, :]
    images = blends(images, [0, 1, 2], places < hue_at[:, None])
    images = shift_hue(images, strength[:, HUE])
    return blends(images, [1, 2, 3], places > hue_at[:, None])


def solarise(images: Float[Array, "n h w c"]) -> Float[Array, "n h w c"]:
    """Replace each value v ≥ 0.5 by 1 - v; values lie in [0, 1]."""
    return jnp.where(images >= 0.5, 1 - images, images)
