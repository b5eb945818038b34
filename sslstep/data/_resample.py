"""Random crop boxes; resizing and blurring as a product with a matrix for each axis."""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from sslstep._linalg import HIGHEST

_ATTEMPTS = 10  # as in torchvision's RandomResizedCrop


def crop_box(
    key: Array, height: int, width: int, scale: tuple[float, float], ratio: tuple[float, float]
) -> tuple[Array, Array, Array, Array]:
    """Draw a random crop: top, left, height and width, whole numbers in float32."""
    area, aspect, places = jax.random.split(key, 3)
    low, high = scale
    areas = height * width * jax.random.uniform(area, (_ATTEMPTS,), minval=low, maxval=high)
    logs = jnp.log(jnp.asarray(ratio, jnp.float32))
    ratios = jnp.exp(jax.random.uniform(aspect, (_ATTEMPTS,), minval=logs[0], maxval=logs[1]))
    columns, rows = jnp.round(jnp.sqrt(areas * ratios)), jnp.round(jnp.sqrt(areas / ratios))
    fits = (columns > 0) & (columns <= width) & (rows > 0) & (rows <= height)
    first = jnp.argmax(fits)

    # If none fits: the largest centred crop of an admitted ratio.
    whole = width / height
    last_columns = max(round(height * ratio[1]), 1) if whole > ratio[1] else width
    last_rows = max(round(width / ratio[0]), 1) if whole < ratio[0] else height
    found = fits.any()
    columns = jnp.where(found, columns[first], 1.0 * last_columns)
    rows = jnp.where(found, rows[first], 1.0 * last_rows)
    u = jax.random.uniform(places, (2,))
    top = jnp.where(found, jnp.floor(u[0] * (height - rows + 1)), 1.0 * ((height - last_rows) // 2))
    left = jnp.where(
        found, jnp.floor(u[1] * (width - columns + 1)), 1.0 * ((width - last_columns) // 2)
    )
    # Rounding may lift a product to its exclusive upper bound.
    return jnp.minimum(top, height - rows), jnp.minimum(left, width - columns), rows, columns


def resize_matrix(
    first: Float[Array, ""], length: Float[Array, ""], size: int, out: int
) -> Float[Array, "{out} {size}"]:
    r"""Matrix that resizes pixels ``first ... first + length`` of a row of ``size`` to ``out``.

    The weights are the cubic kernel of Keys (1981) with a = -1/2, widened by the factor of
    shrinking and normalised within the window, as in Pillow's crop and ``Image.BICUBIC`` resize.
    """
    scale = length / out
    width = jnp.maximum(scale, 1.0)
    centre = (jnp.arange(out, dtype=jnp.float32) + 0.5) * scale
    inside = jnp.arange(size, dtype=jnp.float32) - first
    weights = _cubic((inside[None, :] + 0.5 - centre[:, None]) / width)
    weights = jnp.where(((inside >= 0) & (inside < length))[None, :], weights, 0.0)
    return weights / weights.sum(axis=1, keepdims=True)


def _cubic(x: Array) -> Array:
    x = jnp.abs(x)
    near = (1.5 * x - 2.5) * x * x + 1
    far = ((-0.5 * x + 2.5) * x - 4) * x + 2
    return jnp.where(x < 1, near, jnp.where(x < 2, far, 0.0))


def blur_matrix(sigma: Float[Array, ""], size: int, radius: int) -> Float[Array, "{size} {size}"]:
    """Matrix of a Gaussian filter with ``2 radius + 1`` taps and repeated edge pixels."""
    # Pixels beyond an edge have the edge pixel's value: their weights are added to its weight.
    places = jnp.arange(-radius, size + radius, dtype=jnp.float32)
    distance = places[None, :] - jnp.arange(size, dtype=jnp.float32)[:, None]
    weights = jnp.exp(-0.5 * (distance / sigma) ** 2)
    weights = jnp.where(jnp.abs(distance) <= radius, weights, 0.0)
    weights = weights / weights.sum(axis=1, keepdims=True)
    inside = weights[:, radius : radius + size]
    inside = inside.at[:, 0].add(weights[:, :radius].sum(axis=1))
    return inside.at[:, -1].add(weights[:, radius + size :].sum(axis=1))


def apply_separable(
    rows: Float[Array, "n out h"], columns: Float[Array, "n out w"], images: Float[Array, "n h w c"]
) -> Float[Array, "n out out c"]:
    """Apply a matrix to the width and one to the height of each image; clip to [0, 1] each time."""
    wide = jnp.einsum("now,nhwc->nhoc", columns, images, precision=HIGHEST)
    wide = jnp.clip(wide, 0.0, 1.0)
    return jnp.clip(jnp.einsum("noh,nhpc->nopc", rows, wide, precision=HIGHEST), 0.0, 1.0)
