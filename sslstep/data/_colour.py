"""Operations on the colours of a batch of images in [0, 1], with one strength for each image."""

import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from sslstep._linalg import matmul

__all__ = ["greyscale", "jitter", "shift_hue", "solarise"]

# ITU-R 601-2, as Pillow converts to "L".
_LUMA = (0.299, 0.587, 0.114)
BRIGHTNESS, CONTRAST, SATURATION, HUE = range(4)


def greyscale(images: Float[Array, "n h w 3"]) -> Float[Array, "n h w 1"]:
    """Luma: .299 R + .587 G + .114 B."""
    # A matrix product: sums of slices would be fused with, and thrice repeat, what comes before.
    luma = jnp.asarray(_LUMA, images.dtype)[:, None]
    return matmul(images, luma[None, None])


def blend(
    images: Float[Array, "n h w 3"], kind: Int[Array, " n"], factor: Float[Array, " n"]
) -> Float[Array, "n h w 3"]:
    """``factor x + (1 - factor) base``, clipped; the base is black, the mean grey, or the grey."""
    kind, factor = kind.reshape(-1, 1, 1, 1), factor.reshape(-1, 1, 1, 1)
    grey = greyscale(images)
    base = jnp.where(kind == CONTRAST, grey.mean(axis=(1, 2), keepdims=True), grey)
    base = jnp.where(kind == BRIGHTNESS, 0.0, base)
    return jnp.clip(factor * images + (1 - factor) * base, 0.0, 1.0)


def shift_hue(
    images: Float[Array, "n h w 3"], shift: Float[Array, " n"]
) -> Float[Array, "n h w 3"]:
    """The hue turned by ``shift`` of a full circle, saturation and value kept (HSV)."""
    red, green, blue = (images[..., i] for i in range(3))
    top, bottom = images.max(axis=-1), images.min(axis=-1)
    chroma = top - bottom
    safe = jnp.where(chroma > 0, chroma, 1.0)
    # Not top == red: what is compiled into one loop may be computed twice, and rounded differently.
    # Of channels that are all but equal, either formula is right.
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
    """Brightness, contrast, saturation and hue changed, in an order of each image's own.

    ``order[i]`` is a permutation of (0, 1, 2, 3), the four in that order; ``strength[i]`` holds
    the factors of the first three (1: no change) and the shift of the hue (0: no change).
    """
    # Any order is up to three blends, the hue, up to three blends: the hue, the dearest, is then
    # computed once, where computing all four at each of four places would need it four times.
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
    """Inverted where a byte would be at least 128, that is from 0.5 on."""
    return jnp.where(images >= 0.5, 1 - images, images)
