"""Networks, as flax.linen modules, and functions that make their initial embeddings small."""

from sslstep.nn.mlp import MLP, centred, scale_init
from sslstep.nn.projector import (
    Encoder,
    Outputs,
    Projector,
    barlow_twins_head,
    simclr_head,
    vicreg_head,
)
from sslstep.nn.resnet import ResNet, resnet18, resnet50
from sslstep.nn.span import change_basis, span_basis

__all__ = [
    "MLP",
    "Encoder",
    "Outputs",
    "Projector",
    "ResNet",
    "barlow_twins_head",
    "centred",
    "change_basis",
    "resnet18",
    "resnet50",
    "scale_init",
    "simclr_head",
    "span_basis",
    "vicreg_head",
]
