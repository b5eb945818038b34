"""Recipes whose last layer starts at a scale of its own, for the losses of `dose`."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import jax
import tyro

from sslstep import data, losses, nn, train
from sslstep.recipes import BarlowTwins, Recipe


@dataclass(frozen=True)
class Scaled(Recipe):
    """Recipe with Barlow Twins' projector and a scaled last layer."""

    output_scale: tyro.conf.Suppress[float] = 1.0
    """Factor of the last layer's initial weights, in addition to α; set by the experiment."""

    def of_step(self) -> Recipe:
        """Return this recipe at the scale 1 and of one step, if the rate is constant."""
        num_steps = 1 if self.schedule == "constant" else self.num_steps
        return replace(self, output_scale=1.0, num_steps=num_steps)

    def head(self, **settings: Any) -> nn.Projector:
        """Build the projector of Barlow Twins for every loss, so that the starts are equal."""
        return nn.barlow_twins_head(self.dim, self.hidden, **settings)

    def objective(self, network: nn.Encoder) -> train.Objective:
        """Return the objective of a network whose last layer is scaled at initialisation."""
        return _Scaled(network, self.output_scale)

    publication_views = staticmethod(data.barlow_twins_views)


class _Scaled(train.JointEmbedding):
    """Objective of a network whose last layer is multiplied by `scale` at initialisation."""

    def __init__(self, network: nn.Encoder, scale: float) -> None:
        super().__init__(network)
        self.scale = scale

    def init(self, key: Any, x: Any, train: bool = False) -> Any:
        """Return the network's initial variables, with the last layer scaled."""
        found = super().init(key, x, train=train)
        where = "projector/output/kernel".__eq__
        return {**found, "params": nn.scale_init(found["params"], self.scale, where)}


@dataclass(frozen=True)
class ScaledBarlowTwins(Scaled, BarlowTwins):
    """Barlow Twins with a scaled last layer."""


@dataclass(frozen=True)
class Spectral(Scaled):
    """The spectral contrastive loss (HaoChen et al. 2021) with a scaled last layer."""

    def loss_fn(self) -> Callable[..., jax.Array]:
        """Return :func:`sslstep.losses.spectral_contrastive`."""
        return losses.spectral_contrastive


@dataclass(frozen=True)
class InfoNCE(Scaled):
    """InfoNCE without normalisation, with a scaled last layer."""

    temperature: float = 1.0
    """τ, the temperature of the loss."""

    def loss_fn(self) -> Callable[..., jax.Array]:
        """Return :func:`sslstep.losses.info_nce` at this recipe's temperature."""
        return partial(losses.info_nce, normalise=False, temperature=self.temperature)
