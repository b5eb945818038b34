"""Residual networks in PyTorch, layer by layer those of sslstep.nn."""

import torch
from torch.nn import (
    AdaptiveAvgPool2d,
    BatchNorm1d,
    BatchNorm2d,
    Conv2d,
    Flatten,
    Linear,
    MaxPool2d,
    Module,
    ReLU,
    Sequential,
)


class _Block(Module):
    def __init__(self, before, width, stride, bottleneck):
        super().__init__()
        layers = [(width, 3, stride), (width, 3, 1)]
        if bottleneck:
            layers = [(width, 1, 1), (width, 3, stride), (4 * width, 1, 1)]
        parts, channels = [], before
        for features, size, step in layers:
            conv = Conv2d(channels, features, size, step, size // 2, bias=False)
            parts += [conv, BatchNorm2d(features), ReLU(inplace=True)]
            channels = features
        self.body, self.shortcut = Sequential(*parts[:-1]), Sequential()
        if stride > 1 or before != channels:
            conv = Conv2d(before, channels, 1, stride, bias=False)
            self.shortcut = Sequential(conv, BatchNorm2d(channels))

    def forward(self, x):
        return torch.relu(self.body(x) + self.shortcut(x))


def network_like(encoder):
    """A ResNet and a head of hidden layers with batch norm, of the sizes of an `nn.Encoder`."""
    backbone, head = encoder.backbone, encoder.projector
    width, bottleneck = backbone.width, backbone.block == "bottleneck"
    stems = {"imagenet": (7, 2, 3), "small": (3, 1, 1), "small_stride2": (3, 2, 1)}
    parts = [Conv2d(3, width, *stems[backbone.stem], bias=False), BatchNorm2d(width), ReLU()]
    parts += [MaxPool2d(3, 2, 1)] if backbone.stem == "imagenet" else []
    channels = width
    for stage, blocks in enumerate(backbone.stage_sizes):
        for number in range(blocks):
            features, step = width * 2**stage, 2 if stage > 0 and number == 0 else 1
            parts.append(_Block(channels, features, step, bottleneck))
            channels = 4 * features if bottleneck else features
    parts += [AdaptiveAvgPool2d(1), Flatten()]
    for hidden in head.hidden:
        parts += [Linear(channels, hidden, bias=False), BatchNorm1d(hidden), ReLU()]
        channels = hidden
    return Sequential(*parts, Linear(channels, head.dim, bias=False))
