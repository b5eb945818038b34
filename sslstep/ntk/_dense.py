r"""Kernels of fully connected networks, by a recursion over layers in lengths and angles.

The covariance of two samples is :math:`r r' \cos\theta`. For small θ the kernel of rectifiers is
linear in θ, but a cosine in float32 determines θ only to 3e-4. Layers therefore pass on the lengths
r, :math:`u = 1 - \cos\theta` and :math:`v = 1 + \cos\theta`, each with full relative precision.
"""

import math
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
from jax import Array

from sslstep.ntk import _layers
from sslstep.ntk._layers import Network, Scales


def kernel_matrix(
    network: Network, kernel: str, scales: Scales, x1: Array, x2: Array | None
) -> tuple[Array, Array, Array]:
    """Kernel matrix, its scale, and whether both inputs are nonzero.

    The scale is the geometric mean of the largest K(x, x) of each input.
    """
    unit1, r1 = _directions(x1)
    unit2, r2 = (unit1, r1) if x2 is None else _directions(x2)
    u, v = chords(unit1, unit2)
    if x2 is None:
        own = jnp.eye(len(x1), dtype=bool)
        u, v = jnp.where(own, 0.0, u), jnp.where(own, 2.0, v)
    through = partial(_through_layers, network, kernel, scales, x1.shape[1])
    matrix = through(r1[:, None], r2[None], u, v)
    sizes = [through(r, r, jnp.zeros_like(r), jnp.full_like(r, 2.0)).max() for r in (r1, r2)]
    nonzero = (r1.max() > 0) & (r2.max() > 0)
    return matrix, jnp.sqrt(sizes[0]) * jnp.sqrt(sizes[1]), nonzero


def _directions(x: Array) -> tuple[Array, Array]:
    """Samples normalised to length 1 (or 0), and their root mean squares."""
    largest = jnp.abs(x).max(axis=1, keepdims=True)
    scaled = x / _or_one(largest)
    length = _root(jnp.sum(scaled**2, axis=1, keepdims=True))
    return scaled / _or_one(length), (largest * length)[:, 0] / x.shape[1] ** 0.5


@jax.custom_jvp
def chords(x: Array, y: Array) -> tuple[Array, Array]:
    """1 - cos and 1 + cos of the angles between directions x (n1, m) and y (n2, m).

    In float32, if angles near 0 or π occur, the cosines are computed with twice as many digits: x
    and y are split into parts with few digits, so that sums of their products are exact (Ozaki et
    al., 2012).
    """
    cosines = _product(x, y)
    u, v = 1 - cosines, 1 + cosines
    eps = float(jnp.finfo(x.dtype).eps)
    if jnp.finfo(x.dtype).bits == 64:
        return jnp.where(u < 8 * eps, 0.0, u), jnp.where(v < 8 * eps, 0.0, v)
    # The error of an angle is the error of its cosine divided by the angle.
    near = jnp.minimum(u, v).min() < eps**0.25
    return jax.lax.cond(near, _exact_chords, lambda x, y: (u, v), x, y)


@chords.defjvp
def _chords_jvp(primals: Any, tangents: Any) -> Any:
    (x, y), (dx, dy) = primals, tangents
    slope = _product(dx, y) + _product(x, dy)
    return chords(x, y), (-slope, slope)


def _exact_chords(x: Array, y: Array) -> tuple[Array, Array]:
    """½|x ∓ y|² = (½|x|² + ½|y|²) ∓ x·y as a sum of three parts, the first two of them exact."""
    # A sum of products is at most the product of the lengths, here 1 and √m 2^-12. As a multiple of
    # 2^-22 and of √m 2^-34 it fits into 24 bits.
    steps = (2.0**-11, 2.0 ** (math.ceil(math.log2(x.shape[1]) / 2) - 23))

    def parts(x):
        high = jnp.round(x / steps[0]) * steps[0]
        middle = jnp.round((x - high) / steps[1]) * steps[1]
        low = x - high - middle
        first = (high, jnp.concatenate([high, middle], 1), jnp.concatenate([high, low, middle], 1))
        swapped = jnp.concatenate([middle, high], 1)
        second = (high, swapped, jnp.concatenate([low, x, middle + low], 1))
        return first, second

    (first, of_x), (of_y, second) = parts(x), parts(y)
    u = v = jnp.zeros((len(x), len(y)), x.dtype)
    for a, a_own, b_own, b in zip(first, of_x, of_y, second, strict=True):
        own = (jnp.sum(a * a_own, 1) / 2)[:, None] + (jnp.sum(b_own * b, 1) / 2)[None]
        product = _product(a, b)
        u, v = u + (own - product), v + (own + product)
    return jnp.maximum(u, 0.0), jnp.maximum(v, 0.0)


def _product(a: Array, b: Array) -> Array:
    return jnp.matmul(a, b.T, precision="highest")


def _through_layers(
    network: Network,
    kernel: str,
    scales: Scales,
    fan_in: int,
    r1: Array,
    r2: Array,
    u: Array,
    v: Array,
) -> Array:
    weight_std, _, alpha = scales
    (depth,) = network.blocks
    ntk = jnp.zeros_like(u)
    for layer in range(depth + 1):
        has_bias = network.bias is not None and (layer < depth or network.output_bias)
        below = r1 * r2 * (1 - u)
        r1, r2 = r1 * weight_std, r2 * weight_std
        if has_bias:
            bias_std = _layers.bias_std_of(network, weight_std, scales.bias_std, fan_in)
            r1, r2, u, v = _with_bias(bias_std, r1, r2, u, v)
        own = r1 * r2 * (1 - u)
        if network.parameterization == "standard":
            own = fan_in * below + float(has_bias)
        ntk = own + (alpha * weight_std) * (ntk * (alpha * weight_std))
        r1, r2 = alpha * r1, alpha * r2
        if layer < depth:
            r1, r2, u, v, slope = _activated(network.activation, r1, r2, u, v)
            ntk = ntk * slope
            fan_in = network.width or 1  # None: the kernel does not depend on the width
    return ntk if kernel == "ntk" else r1 * r2 * (1 - u)


def _with_bias(bias_std, r1, r2, u, v):
    """Lengths and angles of vectors after a component equal to the bias is appended to all."""

    def longer(r):
        length = _hypotenuse(r, bias_std)
        safe = _or_one(length)
        return length, jnp.where(length > 0, r / safe, 1.0), bias_std / safe

    (r1, cos1, sin1), (r2, cos2, sin2) = longer(r1), longer(r2)
    both = cos1 * cos2
    u = both * u + (cos1 * sin2 - cos2 * sin1) ** 2 / (1 + both + sin1 * sin2)
    rest = sin1**2 + sin2**2 - (sin1 * sin2) ** 2  # 1 - both²
    return r1, r2, u, both * v + rest / (1 + both) + sin1 * sin2


def _activated(name, r1, r2, u, v):
    """Lengths and angles after the activation, and its factor in the NTK."""
    if name == "linear":
        return r1, r2, u, v, jnp.ones_like(u)
    if name == "relu":
        slope, u = _rectified(u, v)
        return r1 * 0.5**0.5, r2 * 0.5**0.5, u, 2 - u, slope / 2
    moments = {"erf": _erf, "gelu": _gelu}[name]
    covariance, slope = moments(r1, r2, u, v)
    r1, r2 = (_root(moments(r, r, jnp.zeros_like(r), 2.0)[0]) for r in (r1, r2))
    u = 1 - covariance / _or_one(r1) / _or_one(r2)
    u = jnp.where(u < 4 * jnp.finfo(u.dtype).eps, 0.0, u)
    return r1, r2, u, 2 - u, slope


# arcsin √t / √t for t up to 1/2, to a relative error of 1.4e-16: the polynomial that interpolates
# it at Chebyshev's points, computed with 50 digits. XLA's arctan2 takes ten times as long.
_ARCSINE = (
    1.0,
    0.16666666666664987,
    0.07500000000401816,
    0.044642856762615,
    0.030381963396751827,
    0.022371584779320355,
    0.017364281439103527,
    0.01380344589589198,
    0.013191002571753903,
    -0.002601537848299688,
    0.07871611357002127,
    -0.2968705430689824,
    1.0082016650534187,
    -2.4908808126226116,
    4.6420689099888435,
    -6.229299875397985,
    5.7579408313146985,
    -3.278933156739812,
    0.8892904367638688,
)


def _angles(u, v):
    """θ and π - θ, each with full relative precision; the smaller is 2 arcsin √(min(u, v) / 2)."""
    smaller = jnp.minimum(u, v) / 2
    # Estrin's scheme: neighbouring terms are joined in pairs, again and again. A processor adds the
    # pairs side by side, where Horner's scheme waits for each sum: a fifth of a kernel's time.
    terms: list[Any] = list(_ARCSINE)
    power = smaller
    while len(terms) > 1:
        pairs = [a + b * power for a, b in zip(terms[::2], terms[1::2], strict=False)]
        terms = pairs + terms[2 * len(pairs) :]
        power = power * power
    angle = 2 * jnp.sqrt(smaller) * terms[0]
    return jnp.where(u < v, angle, jnp.pi - angle), jnp.where(u < v, jnp.pi - angle, angle)


@jax.custom_jvp
def _rectified(u, v):
    """(π - θ) / π, and 1 minus the cosine of the angle between rectified samples."""
    theta, rest = _angles(u, v)
    # The error is eps θ, which makes the error of the angle between rectified samples eps.
    lower = (jnp.sqrt(u * v) - theta * (1 - u)) * (1 / jnp.pi)
    return rest * (1 / jnp.pi), jnp.maximum(u - lower, 0.0)


@_rectified.defjvp
def _rectified_jvp(primals: Any, tangents: Any) -> Any:
    (u, v), (du, dv) = primals, tangents
    slope, below = _rectified(u, v)
    by_u = (du - dv) / 2  # as u + v = 2
    # π - θ has a kink at 0 and at π: its derivative there is the mean of both sides.
    kink = u * v < (16 * jnp.finfo(u.dtype).eps) ** 2
    sine = jnp.sqrt(jnp.where(kink, 1.0, u * v))
    return (slope, below), (jnp.where(kink, 0.0, -by_u / (jnp.pi * sine)), slope * by_u)


# Let s = scale r, cos = s / √(1 + s²) and sin = 1 / √(1 + s²) on either side. For the activations
# below, both covariances of Gaussians with covariance [[r², c], [c, r'²]] are functions of
# t = cos cos' (1 - u) and of 1 - t².


def _tilted(scale, r1, r2, u, v):
    h1, h2 = _hypotenuse(1.0, scale * r1), _hypotenuse(1.0, scale * r2)
    cos1, cos2, sin1, sin2 = scale * r1 / h1, scale * r2 / h2, 1 / h1, 1 / h2
    t = cos1 * cos2 * (1 - u)
    root = jnp.sqrt(sin1**2 + (cos1 * sin2) ** 2 + (cos1 * cos2) ** 2 * u * v)
    return cos1 * cos2, sin1 * sin2, t, root


def _erf(r1, r2, u, v):
    _, sines, t, root = _tilted(2**0.5, r1, r2, u, v)
    return 2 / jnp.pi * jnp.arctan2(t, root), 4 / jnp.pi * sines / root


def _gelu(r1, r2, u, v):
    """Covariance and slope of GELU (Tsuchida et al., 2021)."""
    cosines, sines, t, root = _tilted(1.0, r1, r2, u, v)
    angle = jnp.arctan2(t, root)
    rest = t**2 * sines / root + cosines**2 * root / sines
    covariance = r1 * r2 * (1 - u) * (0.25 + angle / (2 * jnp.pi)) + rest / (2 * jnp.pi)
    first = (sines / root) ** 2 + sines**2 - cosines**2 + 1
    return covariance, 0.25 + (angle + t / root * first) / (2 * jnp.pi)


def _hypotenuse(a, b):
    """√(a² + b²) without overflow or underflow of the squares, with derivative 0 at 0."""
    a, b = jnp.abs(a), jnp.abs(b)
    larger = jnp.maximum(a, b)
    safe = _or_one(larger)
    return larger * _root((a / safe) ** 2 + (b / safe) ** 2)


def _root(value: Array) -> Array:
    """Square root with derivative 0 at 0."""
    return jnp.where(value > 0, jnp.sqrt(_or_one(value)), 0.0)


def _or_one(value: Array) -> Array:
    return jnp.where(value > 0, value, 1.0)
