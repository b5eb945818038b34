r"""Residual networks for images."""

import functools
from collections.abc import Sequence
from typing import Any, Literal

import jax
import jax.numpy as jnp
from flax import linen
from jax.typing import ArrayLike, DTypeLike
from jaxtyping import Array, Float

from sslstep import _check
from sslstep.nn import _conv, _layers

__all__ = ["ResNet", "resnet18", "resnet50"]

# Size, stride and padding of the first convolution, and whether pooling follows.
_STEMS = {
    "imagenet": (7, 2, 3, True),
    "small": (3, 1, 1, False),
    "small_stride2": (3, 2, 1, False),
    "small_padding2": (3, 1, 2, False),
}


class ResNet(linen.Module):
    r"""A residual network without its classifying layer (He et al. 2016).

    Stage s = 0, 1, ... has ``stage_sizes[s]`` blocks of width :math:`2^s` ``width``. Every stage
    but the first halves the image's height and width. A block computes

    .. math:: x \mapsto \mathrm{relu}(\mathrm{shortcut}(x) + F(x)),

    where F is two 3x3 convolutions (``"basic"``), or a 1x1, a 3x3 and a 1x1 convolution, the last
    to four times the width (``"bottleneck"``). Batch norm follows each convolution, and a relu
    lies between two convolutions. The shortcut is the identity, or a 1x1 convolution with batch
    norm where the shape changes. The first 3x3 convolution has the stride, as in torchvision. The
    representation is the mean of the last stage's output over positions.

    The initialisation is PyTorch's: convolution weights are drawn from :math:`\mathcal{N}(0, 2 /
    (k^2 \mathrm{out}))` for a k x k kernel with "out" output channels, and batch norms have scale 1
    and shift 0. Batch norms have ε = 1e-5. As in PyTorch, each batch moves the running mean and
    running unbiased variance by a tenth of the difference to its own value.

    Variables are ``params`` and ``batch_stats``, with names such as ``stem_conv/kernel`` and
    ``stage1_block1/bn1/scale``.

    Attributes:
        stage_sizes: number of blocks of each stage.
        block: ``"basic"`` or ``"bottleneck"``.
        width: width of the first stage, in channels.
        stem: the first layers. ``"imagenet"``: a 7x7 convolution at stride 2, then 3x3 max pooling
            at stride 2. ``"small"``: a 3x3 convolution without pooling. ``"small_padding2"``: the
            same with padding 2 instead of 1, as in solo-learn for CIFAR. ``"small_stride2"``: a 3x3
            convolution at stride 2 without pooling.
        zero_init_residual: whether the last batch norm of each block has initial scale 0, which
            makes F zero at initialisation.
        remat: whether the backward pass recomputes the blocks' activations instead of keeping them
            in memory. On CPUs XLA undoes this, and no memory is saved.
        dtype: dtype of the computation. For 16-bit dtypes, parameters, statistics and
            representations are float32.

    Raises:
        ValueError: if an attribute is not as described.

    Example:
        >>> import jax, jax.numpy as jnp
        >>> from sslstep import nn
        >>> model = nn.ResNet(stage_sizes=(1, 1), width=8, stem="small")
        >>> images = jnp.ones((5, 8, 8, 3))
        >>> variables = model.init(jax.random.key(0), images, train=False)
        >>> h, updated = model.apply(variables, images, train=True, mutable=["batch_stats"])
        >>> h.shape, list(updated)
        ((5, 16), ['batch_stats'])
    """

    stage_sizes: Sequence[int]
    block: Literal["basic", "bottleneck"] = "basic"
    width: int = 64
    stem: Literal["imagenet", "small", "small_stride2", "small_padding2"] = "imagenet"
    zero_init_residual: bool = False
    remat: bool = False
    dtype: DTypeLike = jnp.float32

    def __post_init__(self) -> None:
        if not len(self.stage_sizes):
            raise ValueError("stage_sizes must hold the number of blocks of each stage, got none.")
        _check.require_within("stage_sizes", self.stage_sizes, at_least=1)
        _check.require_within("width", self.width, at_least=1)
        _check.require_one_of("block", self.block, ("basic", "bottleneck"))
        _check.require_one_of("stem", self.stem, _STEMS)
        super().__post_init__()

    @linen.compact
    def __call__(
        self, x: Float[ArrayLike, "n height width channels"], *, train: bool
    ) -> Float[Array, "n p"]:
        """Compute the representations of n images.

        Args:
            x: images of a floating dtype, shape ``(n, height, width, channels)``.
            train: if true, batch norms use the batch's statistics, and update the running averages
                if ``batch_stats`` is mutable; if false, they use the running averages.

        Returns:
            Representations, shape ``(n, p)``; p is the last stage's width, times 4 with
            bottlenecks.
        """
        x = jnp.asarray(x)
        if x.ndim != 4 or 0 in x.shape or not jnp.issubdtype(x.dtype, jnp.floating):
            raise ValueError(
                f"x must be images of shape (n, height, width, channels) and floating dtype, got "
                f"shape {x.shape}, dtype {x.dtype}."
            )
        norm = functools.partial(_layers.BatchNorm, train=train, dtype=self.dtype)
        size, stride, padding, pool = _STEMS[self.stem]
        stem = _layers.Conv(self.width, size, stride, padding, self.dtype, name="stem_conv")
        h = jax.nn.relu(norm(name="stem_bn")(stem(x.astype(self.dtype))))
        if pool:
            h = _conv.max_pool(h)
        block: Any = linen.remat(_Block) if self.remat else _Block
        for stage, blocks in enumerate(self.stage_sizes):
            for i in range(blocks):
                h = block(
                    width=self.width * 2**stage,
                    stride=2 if stage > 0 and i == 0 else 1,
                    bottleneck=self.block == "bottleneck",
                    zero_init_residual=self.zero_init_residual,
                    norm=norm,
                    dtype=self.dtype,
                    name=f"stage{stage + 1}_block{i + 1}",
                )(h)
        return jnp.mean(h.astype(_layers.parameter_dtype(self.dtype)), axis=(1, 2))


class _Block(linen.Module):
    """A residual block of :class:`ResNet`."""

    width: int
    stride: int
    bottleneck: bool
    zero_init_residual: bool
    norm: Any
    dtype: DTypeLike

    @linen.compact
    def __call__(self, x):
        width, stride = self.width, self.stride
        # Features, size and stride of each convolution.
        layers = [(width, 3, stride), (width, 3, 1)]
        if self.bottleneck:
            layers = [(width, 1, 1), (width, 3, stride), (4 * width, 1, 1)]
        h = x
        for i, (features, size, step) in enumerate(layers, start=1):
            last = i == len(layers)
            h = self._conv(features, size, step, f"conv{i}")(h)
            h = self.norm(zero_scale=last and self.zero_init_residual, name=f"bn{i}")(h)
            h = h if last else jax.nn.relu(h)
        if stride > 1 or x.shape[-1] != h.shape[-1]:
            x = self.norm(name="shortcut_bn")(
                self._conv(h.shape[-1], 1, stride, "shortcut_conv")(x)
            )
        return jax.nn.relu(x + h)

    def _conv(self, features: int, size: int, stride: int, name: str) -> _layers.Conv:
        return _layers.Conv(features, size, stride, size // 2, self.dtype, name=name)


def resnet18(**settings: Any) -> ResNet:
    """Make a ResNet-18: four stages of two basic blocks, p = 512; 11,176,512 parameters.

    Args:
        **settings: further attributes of :class:`ResNet`, such as ``stem="small"``.

    Example:
        >>> from sslstep import nn
        >>> nn.resnet18(stem="small").stage_sizes
        (2, 2, 2, 2)
    """
    return ResNet(stage_sizes=(2, 2, 2, 2), block="basic", **settings)


def resnet50(**settings: Any) -> ResNet:
    """Make a ResNet-50: stages of 3, 4, 6 and 3 bottlenecks, p = 2048; 23,508,032 parameters.

    Args:
        **settings: further attributes of :class:`ResNet`, such as ``stem="small"``.

    Example:
        >>> from sslstep import nn
        >>> nn.resnet50().block
        'bottleneck'
    """
    return ResNet(stage_sizes=(3, 4, 6, 3), block="bottleneck", **settings)
