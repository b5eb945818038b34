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
    r"""A residual network without its last, classifying layer (He et al. 2016).

    Stage s of ``stage_sizes[s]`` blocks has :math:`2^s` ``width`` channels, and all stages but the
    first begin by halving the image. A block is, with batch norm after each convolution,

    .. math:: x \mapsto \mathrm{relu}(\mathrm{shortcut}(x) + F(x)),

    where F is two 3x3 convolutions (``"basic"``), or a 1x1, a 3x3 and a 1x1 convolution to four
    times as many channels (``"bottleneck"``), with relu between them, and the shortcut is a 1x1
    convolution where the shape changes. The stride is on the first 3x3 convolution, as in
    torchvision. The representation is the mean over positions of the last stage's channels.

    Weights start as PyTorch's: those of convolutions from :math:`\mathcal{N}(0, 2 / (k^2
    \mathrm{out}))`, batch norms at scale 1 and shift 0. Batch norms have ε = 1e-5, and running
    averages that move by a tenth of the new value: the unbiased variance, as in PyTorch.

    Variables are ``params`` and ``batch_stats``, of names such as ``stem_conv/kernel`` and
    ``stage1_block1/bn1/scale``.

    Attributes:
        stage_sizes: how many blocks each stage has.
        block: ``"basic"`` or ``"bottleneck"``.
        width: channels of the first stage.
        stem: the first layer. ``"imagenet"``: a 7x7 convolution at stride 2, then 3x3 max pooling
            at stride 2, so that the first stage sees a quarter of the height and width.
            ``"small"``: a 3x3 convolution, without pooling; ``"small_padding2"``: with a padding of
            2 instead of 1, as solo-learn has it for CIFAR; ``"small_stride2"``: at stride 2.
        zero_init_residual: whether the last batch norm of each block starts at scale 0, so that
            blocks start as identities.
        remat: whether to ask that the backward pass compute the blocks' activations again instead
            of keeping them. On CPU XLA merges the two, and nothing is saved.
        dtype: in which to compute. Parameters, statistics and the mean over positions are float32
            if it is shorter.

    Raises:
        ValueError: if a size is below 1, or there is no such block or stem.

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
        _check.require_at_least("stage_sizes", self.stage_sizes, 1)
        _check.require_at_least("width", self.width, 1)
        _check.require_one_of("block", self.block, ("basic", "bottleneck"))
        _check.require_one_of("stem", self.stem, _STEMS)
        super().__post_init__()

    @linen.compact
    def __call__(
        self,
        x: Float[ArrayLike, "n height width channels"],
        *,
        train: bool,
    ) -> Float[Array, "n p"]:
        """Representations of n images.

        Args:
            x: images, channels last, normalised as you like.
            train: whether batch norms use the batch's statistics, and update the running averages
                if ``batch_stats`` is mutable; else they use the running averages.

        Returns:
            Shape ``(n, p)``; p is the last stage's width, times 4 with bottlenecks.
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
    """A residual block."""

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
    """ResNet-18: four stages of two basic blocks, p = 512; 11,176,512 parameters.

    Args:
        **settings: of :class:`ResNet`, such as ``stem="small"``.

    Returns:
        The module.

    Example:
        >>> from sslstep import nn
        >>> nn.resnet18(stem="small").stage_sizes
        (2, 2, 2, 2)
    """
    return ResNet(stage_sizes=(2, 2, 2, 2), block="basic", **settings)


def resnet50(**settings: Any) -> ResNet:
    """ResNet-50: stages of 3, 4, 6 and 3 bottlenecks, p = 2048; 23,508,032 parameters.

    Args:
        **settings: of :class:`ResNet`, such as ``stem="small"``.

    Returns:
        The module.

    Example:
        >>> from sslstep import nn
        >>> nn.resnet50().block
        'bottleneck'
    """
    return ResNet(stage_sizes=(3, 4, 6, 3), block="bottleneck", **settings)
