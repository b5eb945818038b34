r"""Kernels of infinitely wide networks, in closed form.

As the hidden layers of a network become wide, its neural tangent kernel (NTK; Jacot et al., 2018)

.. math:: K(x, x') = \sum_\theta \frac{\partial f(x)}{\partial\theta}
    \frac{\partial f(x')}{\partial\theta}

tends to a limit that depends on the architecture and the scale of the initial parameters only. The
covariance of its initial outputs tends to the NNGP kernel. Recursions over convolutional layers are
those of the neural_tangents library (Novak et al., 2020).

**Layers.** A layer with fan-in m maps h to

- :math:`\sigma_w m^{-1/2} W h + \sigma_b b` for ``parameterization="ntk"``. The entries of W and b
  have variance α², and by default :math:`\sigma_w = \sqrt 2`.
- :math:`W h + b` for ``parameterization="standard"``. The entries of W have variance
  :math:`\alpha^2 \sigma_w^2 / m` and those of b :math:`\alpha^2 \sigma_b^2`. The default
  :math:`\sigma_w = 1 / \sqrt 3` is PyTorch's :math:`U(\pm 1 / \sqrt m)`. The NTK grows in
  proportion to the width. The kernel is the leading term at the given width.

Here α is ``init_scale``, :math:`\sigma_w` ``weight_std`` and :math:`\sigma_b` ``bias_std``. α
multiplies the initial parameters and leaves the network's function of its parameters unchanged.
With L hidden layers of rectifiers and no biases, in either parameterisation,

.. math:: K_\alpha = \alpha^{2L} K_1, \qquad
    K^\mathrm{NNGP}_\alpha = \alpha^{2 (L + 1)} K^\mathrm{NNGP}_1.

**Precision.** Kernels are computed in float64, with or without x64 enabled, and rounded to the
dtype of x1 at the end. Between parallel samples they are exact to about 1e-8. A traced computation
cannot change its precision: under `jit`, `grad` or `vmap` without x64 it is float32 throughout.
:func:`mlp` then is exact to a few eps per layer, because it computes with angles instead of their
cosines. :func:`cnn` and :func:`resnet` are off by up to 1e-3 on the diagonal. Do not compile those:
they compile themselves. Between parallel or antiparallel samples the NTK of rectifiers has a kink;
its derivative there is the mean of both sides.
"""

import contextlib
import math
from collections.abc import Sequence
from functools import partial
from typing import Any, Literal

import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import ArrayLike
from jaxtyping import Array, Float, Real

from sslstep import _check
from sslstep.gram import KernelFn
from sslstep.ntk import _dense, _layers
from sslstep.ntk._neural_tangents import load_neural_tangents

__all__ = ["cnn", "load_neural_tangents", "mlp", "resnet"]

Activation = Literal["erf", "gelu", "linear", "relu"]
Kernel = Literal["nngp", "ntk"]
Padding = Literal["CIRCULAR", "SAME", "VALID"]
Parameterization = Literal["ntk", "standard"]
Pool = Literal["average", "flatten"]


def mlp(
    depth: int = 1,
    width: int | None = None,
    *,
    parameterization: Parameterization = "ntk",
    weight_std: Real[ArrayLike, ""] | None = None,
    bias_std: Real[ArrayLike, ""] | Literal["fan_in"] | None = None,
    init_scale: Real[ArrayLike, ""] = 1.0,
    output_bias: bool = False,
    kernel: Kernel = "ntk",
    activation: Activation = "relu",
) -> KernelFn:
    r"""Kernel function of an infinitely wide fully connected network.

    From :math:`\Sigma^0 = x \cdot x' / m_0` and :math:`\Theta^0 = 0`, each linear layer maps, in
    the ``"ntk"`` parameterisation,

    .. math:: \Lambda = \sigma_w^2 \Sigma + \sigma_b^2, \qquad
        \Theta \leftarrow \Lambda + \alpha^2 \sigma_w^2 \Theta, \qquad
        \Sigma \leftarrow \alpha^2 \Lambda,

    and in the ``"standard"`` parameterisation, with fan-in m and the 1 only if there are biases,

    .. math:: \Theta \leftarrow m \Sigma + 1 + \alpha^2 \sigma_w^2 \Theta, \qquad
        \Sigma \leftarrow \alpha^2 (\sigma_w^2 \Sigma + \sigma_b^2).

    Each layer of rectifiers, with
    :math:`\cos\theta = \Sigma(x, x') / \sqrt{\Sigma(x, x) \Sigma(x', x')}`, maps

    .. math:: \Theta \leftarrow \frac{\pi - \theta}{2\pi} \Theta, \qquad \Sigma \leftarrow
        \sqrt{\Sigma(x, x) \Sigma(x', x')}\;
        \frac{\sin\theta + (\pi - \theta) \cos\theta}{2\pi}.

    The NTK is the last Θ, and the NNGP kernel the last Σ. In a network with several outputs each
    output has this kernel, and the kernel between two outputs is zero.

    Args:
        depth: number L ≥ 1 of hidden layers.
        width: width of the hidden layers; required for ``parameterization="standard"`` and for
            ``bias_std="fan_in"``, without effect otherwise.
        parameterization: ``"ntk"`` or ``"standard"``, defined at the top of this module.
        weight_std: :math:`\sigma_w > 0`; traced. None: :math:`\sqrt 2` (``"ntk"``) or
            :math:`1 / \sqrt 3` (``"standard"``).
        bias_std: :math:`\sigma_b \ge 0` of the biases; traced. ``"fan_in"``: PyTorch's
            :math:`\sigma_w / \sqrt m` in a layer of fan-in m. None: no biases. A scale of 0 means
            biases that start at zero and are trained.
        init_scale: α > 0; traced.
        output_bias: whether the output layer has a bias. It adds a constant to every entry of the
            NTK, for any α: 1 in the ``"standard"`` parameterisation, :math:`\sigma_b^2` in
            ``"ntk"``.
        kernel: ``"ntk"`` or ``"nngp"``.
        activation: ``"relu"``, ``"erf"``, ``"gelu"`` or ``"linear"``.

    Returns:
        A pure function ``kernel_fn(x1, x2=None)``. It maps inputs of shapes ``(n1, ...)`` and
        ``(n2, ...)``, which are flattened, to K of shape ``(n1, n2)`` in the dtype of x1. Integers
        are converted to the default float. ``x2=None`` stands for x1; K is then exactly symmetric.
        The function compiles once for each shape. It raises ValueError if inputs are empty, not
        finite or of different shapes; if K exceeds the range of its dtype; or if the constant of
        the output bias is more than 1000 times as large as the rest of K, which float32 would round
        away. Under `jit` values are not checked, and K may be 0, infinite or NaN.

    Raises:
        ValueError: if an argument is out of range or unknown, or lacks one that it needs.

    Example:
        >>> import jax.numpy as jnp
        >>> from sslstep.ntk import infinite
        >>> x = jnp.array([[1.0, 0.0], [1.0, 1.0]])
        >>> print(*(f"{value:.3f}" for value in infinite.mlp(depth=1)(x).ravel()))
        2.000 1.818 1.818 4.000
        >>> print(*(f"{v:.2e}" for v in infinite.mlp(depth=1, init_scale=1e-3)(x).ravel()))
        2.00e-06 1.82e-06 1.82e-06 4.00e-06
    """
    options = parameterization, weight_std, bias_std, init_scale, output_bias, kernel, activation
    return _kernel_fn("dense", (depth,), width, {}, *options)


def cnn(
    depth: int = 3,
    channels: int | None = None,
    *,
    filter_size: int = 3,
    strides: int = 1,
    padding: Padding = "SAME",
    pool: Pool = "flatten",
    parameterization: Parameterization = "ntk",
    weight_std: Real[ArrayLike, ""] | None = None,
    bias_std: Real[ArrayLike, ""] | Literal["fan_in"] | None = None,
    init_scale: Real[ArrayLike, ""] = 1.0,
    output_bias: bool = False,
    kernel: Kernel = "ntk",
    activation: Activation = "relu",
) -> KernelFn:
    r"""Kernel function of an infinitely wide convolutional network.

    The network has ``depth`` convolutions, each followed by the activation, and a linear layer that
    reads all features (``pool="flatten"``) or their means over the image (``"average"``). The
    fan-in of a convolution is :math:`k^2` times its input channels, and that of the linear layer is
    the number of features that it reads.

    The cost of an entry of the kernel grows in proportion to the number of pixels for
    ``"flatten"``, and to its square for ``"average"``. Images of 32 x 32 pixels need a GPU, or few
    samples at a time.

    Args:
        depth: number L ≥ 1 of convolutions.
        channels: channels of every convolution; required for ``parameterization="standard"`` and
            for ``bias_std="fan_in"``, without effect otherwise.
        filter_size: side k of the filters in pixels.
        strides: stride of every convolution in pixels.
        padding: ``"SAME"`` (zeros), ``"VALID"`` (none) or ``"CIRCULAR"``.
        pool: ``"flatten"`` or ``"average"``.
        parameterization: ``"ntk"`` or ``"standard"``, defined at the top of this module.
        weight_std: :math:`\sigma_w > 0`; traced. None: :math:`\sqrt 2` (``"ntk"``) or
            :math:`1 / \sqrt 3` (``"standard"``).
        bias_std: :math:`\sigma_b \ge 0` of the biases, one for each channel; traced. ``"fan_in"``:
            :math:`\sigma_w / \sqrt m` in a layer of fan-in m. None: no biases.
        init_scale: factor α > 0 of all initial parameters; traced.
        output_bias: whether the linear layer has a bias.
        kernel: ``"ntk"`` or ``"nngp"``.
        activation: ``"relu"``, ``"erf"``, ``"gelu"`` or ``"linear"``.

    Returns:
        A pure function ``kernel_fn(x1, x2=None)``. It maps images of shapes ``(n1, h, w, c)`` and
        ``(n2, h, w, c)`` to K of shape ``(n1, n2)`` in the dtype of x1. ``x2=None`` stands for x1.
        Conversions, checks and errors are those of the function that :func:`mlp` returns.

    Raises:
        ValueError: if an argument is out of range or unknown, if ``channels`` is required and None,
            or if ``output_bias`` is true without ``bias_std``.
        ModuleNotFoundError: if neural_tangents is not installed.
        ImportError: if neural_tangents is incompatible with the installed JAX.

    Example:
        >>> import jax
        >>> from sslstep.ntk import infinite
        >>> images = jax.random.normal(jax.random.key(0), (2, 8, 8, 3))
        >>> infinite.cnn(depth=2, strides=2)(images).shape
        (2, 2)
    """
    images = _of_images(filter_size, strides, padding, pool)
    options = parameterization, weight_std, bias_std, init_scale, output_bias, kernel, activation
    return _kernel_fn("conv", (depth,), channels, images, *options)


def resnet(
    num_blocks: int | Sequence[int] = 1,
    channels: int | None = None,
    *,
    filter_size: int = 3,
    pool: Pool = "flatten",
    parameterization: Parameterization = "ntk",
    weight_std: Real[ArrayLike, ""] | None = None,
    bias_std: Real[ArrayLike, ""] | Literal["fan_in"] | None = None,
    init_scale: Real[ArrayLike, ""] = 1.0,
    output_bias: bool = False,
    kernel: Kernel = "ntk",
    activation: Activation = "relu",
) -> KernelFn:
    r"""Kernel function of an infinitely wide residual network (He et al., 2016, Fig. 4e).

    The network is a convolution, pre-activation blocks, the activation φ, and a linear layer that
    reads all features (``pool="flatten"``) or their means over the image (``"average"``). A block
    maps h to

    .. math:: S(h) + \mathrm{conv}(\varphi(\mathrm{conv}(\varphi(h)))).

    S is the identity, except in the first block of the second and later stages: there S is a
    convolution of size 1 and stride 2, and the block's first convolution has stride 2. Convolutions
    pad with zeros. There is no normalisation, and all stages have the same number of channels.

    The terms of the sum scale with different powers of α. The kernel is therefore not a power of α
    times a fixed kernel; it is computed for the given α.

    Args:
        num_blocks: number of blocks in a single stage, or a sequence with the number of each stage,
            such as ``(2, 2, 2, 2)``.
        channels: channels of every convolution; required for ``parameterization="standard"`` and
            for ``bias_std="fan_in"``, without effect otherwise.
        filter_size: side of the filters in pixels.
        pool: ``"flatten"`` or ``"average"``.
        parameterization: ``"ntk"`` or ``"standard"``, defined at the top of this module.
        weight_std: :math:`\sigma_w > 0`; traced. None: :math:`\sqrt 2` (``"ntk"``) or
            :math:`1 / \sqrt 3` (``"standard"``).
        bias_std: :math:`\sigma_b \ge 0` of the biases, one for each channel; traced. ``"fan_in"``:
            :math:`\sigma_w / \sqrt m` in a layer of fan-in m. None: no biases.
        init_scale: factor α > 0 of all initial parameters; traced.
        output_bias: whether the linear layer has a bias.
        kernel: ``"ntk"`` or ``"nngp"``.
        activation: ``"relu"``, ``"erf"``, ``"gelu"`` or ``"linear"``.

    Returns:
        A pure function ``kernel_fn(x1, x2=None)``. It maps images of shapes ``(n1, h, w, c)`` and
        ``(n2, h, w, c)`` to K of shape ``(n1, n2)`` in the dtype of x1. ``x2=None`` stands for x1.
        Conversions, checks and errors are those of the function that :func:`mlp` returns.

    Raises:
        ValueError: if an argument is out of range or unknown, if ``channels`` is required and None,
            or if ``output_bias`` is true without ``bias_std``.
        ModuleNotFoundError: if neural_tangents is not installed.
        ImportError: if neural_tangents is incompatible with the installed JAX.

    Example:
        >>> import jax
        >>> from sslstep.ntk import infinite
        >>> images = jax.random.normal(jax.random.key(0), (2, 8, 8, 3))
        >>> infinite.resnet((1, 1))(images).shape
        (2, 2)
    """
    stages = tuple(num_blocks) if isinstance(num_blocks, Sequence) else (int(num_blocks),)
    images = _of_images(filter_size, 1, "SAME", pool)
    options = parameterization, weight_std, bias_std, init_scale, output_bias, kernel, activation
    return _kernel_fn("residual", stages, channels, images, *options)


def _of_images(filter_size: int, strides: int, padding: str, pool: str) -> dict[str, Any]:
    _check.require_within("filter_size", filter_size, at_least=1)
    _check.require_within("strides", strides, at_least=1)
    _check.require_one_of("padding", padding, ("CIRCULAR", "SAME", "VALID"))
    _check.require_one_of("pool", pool, ("average", "flatten"))
    return {"filter_size": filter_size, "strides": strides, "padding": padding, "pool": pool}


def _kernel_fn(
    layers: str,
    blocks: tuple[int, ...],
    width: int | None,
    images: dict[str, Any],
    parameterization: str,
    weight_std: ArrayLike | None,
    bias_std: ArrayLike | str | None,
    init_scale: ArrayLike,
    output_bias: bool,
    kernel: str,
    activation: str,
) -> KernelFn:
    _check.require_within(
        "num_blocks" if layers == "residual" else "depth", blocks or 0, at_least=1
    )
    _check.require_one_of("parameterization", parameterization, ("ntk", "standard"))
    _check.require_one_of("activation", activation, _layers.ACTIVATIONS)
    _check.require_one_of("kernel", kernel, ("nngp", "ntk"))
    if isinstance(bias_std, str) and bias_std != "fan_in":
        raise ValueError(f"bias_std must be None, a number or 'fan_in', got {bias_std!r}.")
    bias = bias_std if bias_std is None or isinstance(bias_std, str) else "fixed"
    name = "width" if layers == "dense" else "channels"
    if width is not None:
        _check.require_within(name, width, at_least=1)
    elif parameterization == "standard" or bias == "fan_in":
        raise ValueError(
            f"{name} must be given with parameterization='standard' or bias_std='fan_in': the "
            f"kernel depends on it."
        )
    if output_bias and bias is None:
        raise ValueError("output_bias=True needs a bias_std, got None.")
    network = _layers.Network(
        layers, blocks, width, parameterization, activation, bias, output_bias, **images
    )
    if weight_std is None:
        weight_std = 2**0.5 if parameterization == "ntk" else 3**-0.5
    scales: Any = (weight_std, bias_std if bias == "fixed" else 1.0, init_scale)
    _check.require_within("weight_std", weight_std, above=0.0)
    _check.require_within("bias_std", scales[1], at_least=0.0)
    _check.require_within("init_scale", init_scale, above=0.0)

    def kernel_fn(
        x1: Real[ArrayLike, "n1 ..."], x2: Real[ArrayLike, "n2 ..."] | None = None
    ) -> Float[Array, "n1 n2"]:
        concrete = _check.is_concrete(x1, x2, *scales)
        # Concrete inputs are evaluated now, even inside a trace, which could not use float64.
        with jax.ensure_compile_time_eval() if concrete else contextlib.nullcontext():
            x1 = _require_inputs("x1", x1, network)
            if x2 is not None:
                x2 = _require_inputs("x2", x2, network)
                if x1.shape[1:] != x2.shape[1:]:
                    raise ValueError(
                        f"samples of x1 and x2 must have the same shape, got {x1.shape[1:]} and "
                        f"{x2.shape[1:]}."
                    )
            with jax.enable_x64(True) if concrete else contextlib.nullcontext():
                traced = _layers.Scales(*(jnp.asarray(value, float) for value in scales))
                matrix, *found = _evaluate(network, kernel, traced, x1, x2)
                if concrete:
                    sizes = (value.item() for value in jax.device_get(found))
                    problem = _out_of_range(matrix.dtype, kernel, *sizes)
                    if problem and x2 is None:
                        raise ValueError(problem)
                    if problem:  # unless only entries between these samples are small, or zero
                        kernel_fn(_largest(x1))
                        kernel_fn(_largest(x2))
        return matrix

    return kernel_fn


@partial(jax.jit, static_argnames=("network", "kernel"))
def _evaluate(network, kernel, scales, x1, x2):
    """Return the kernel matrix in the dtype of x1 and three numbers for checks of its range.

    They are the kernel's scale, whether the exact kernel is nonzero, and the largest entry without
    the constant that the output bias adds.
    """
    wide = jnp.result_type(float)
    with jax.numpy_dtype_promotion("standard"), jax.numpy_rank_promotion("allow"):
        inputs = x1.astype(wide), None if x2 is None else x2.astype(wide)
        engine = _dense if network.layers == "dense" else _layers
        matrix, size, nonzero = engine.kernel_matrix(network, kernel, scales, *inputs)
        matrix = jax.lax.optimization_barrier(matrix)  # keeps XLA from computing it for each use
        rest = matrix - _layers.output_constant(network, scales, x1.shape[1:])
    if x2 is None:
        matrix = (matrix + matrix.T) / 2
    return matrix.astype(x1.dtype), size, nonzero, jnp.abs(rest).max()


def _require_inputs(name: str, x: ArrayLike, network: _layers.Network) -> Array:
    shape = _check.shape_of(x)
    wanted = "(n, ...)" if network.layers == "dense" else "(n, height, width, channels)"
    if len(shape) < 2 or 0 in shape or (network.layers != "dense" and len(shape) != 4):
        raise ValueError(f"{name} must have shape {wanted} with no size 0, got shape {shape}.")
    if network.layers != "dense" and min(_layers.feature_map(network, shape[1:])) < 1:
        raise ValueError(
            f"images of {name}, of shape {shape[1:]}, are too small: {sum(network.blocks)} "
            f"convolution(s) of size {network.filter_size} without padding leave no pixels."
        )
    _check.require_finite(name, x)
    x = _check.as_float(name, x)
    return x.reshape(x.shape[0], -1) if network.layers == "dense" else x


def _largest(x: Any) -> Array:
    """Return the sample with the largest entry, as a batch of one."""
    return x[jnp.argmax(jnp.abs(x).reshape(len(x), -1).max(axis=1))][None]


def _out_of_range(
    dtype: np.dtype, kernel: str, size: float, nonzero: bool, rest: float
) -> str | None:
    """Return the error that the dtype cannot hold such a kernel, if it cannot."""
    info = jnp.finfo(dtype)
    smallest, largest = (float(value) for value in (info.tiny, info.max))
    if not size <= largest or (nonzero and size < 1e3 * smallest):
        found = f"{size:.3g}" if 0 < size < math.inf else "beyond 1e308 or within 1e-308 of zero"
        return (
            f"the kernel's largest entry is {found}, and {dtype} ranges from {smallest:.3g} to "
            f"{largest:.3g}: give float64 inputs, with x64 enabled, or another init_scale or "
            f"weight_std."
        )
    if kernel == "ntk" and dtype != jnp.float64 and 0 < 1e3 * rest < size:
        return (
            f"the output bias adds a constant to every entry of the kernel, and {dtype} would "
            f"round away the rest ({rest:.3g} at most): give float64 inputs, with x64 enabled, or "
            f"set output_bias=False."
        )
    return None
