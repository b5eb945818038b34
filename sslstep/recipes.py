"""How each method is trained: its projector, loss, views and optimiser, as settings.

The settings of Appendix D.2 and E are ``PAPER_SMALL_INIT``, ``PAPER_STANDARD_INIT`` and
``PAPER_TABLES``. ``SMALL_INIT`` and ``STANDARD_INIT`` are for a small ResNet on 32x32 images and
two cores. Each has one recipe of each method: ``SMALL_INIT.of("simclr")``.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, Literal, get_args

import jax
import numpy as np
import optax
from jax.typing import ArrayLike

from sslstep import data, dynamics, losses, nn, optim
from sslstep.measure import steps

__all__ = ["BarlowTwins", "Recipe", "Recipes", "SimCLR", "VICReg"]

Method = Literal["barlow_twins", "simclr", "vicreg"]
METHODS: tuple[Method, ...] = get_args(Method)
LABELS: Mapping[Method, str] = {
    "barlow_twins": "Barlow Twins",
    "simclr": "SimCLR",
    "vicreg": "VICReg",
}


@dataclass(frozen=True)
class Recipe:
    """The settings that all methods have, and the objects that training is made of.

    A method is a subclass. :meth:`head`, :meth:`loss_fn`, :meth:`make_views` and
    :meth:`make_optimizer` return the arguments of :func:`sslstep.train.make_step`.

    Example:
        >>> from dataclasses import replace
        >>> from sslstep import recipes
        >>> recipe = replace(recipes.SMALL_INIT.of("vicreg"), dim=4, learning_rate=0.02)
        >>> recipe.loss_fn().func.__name__, recipe.init_scale
        ('vicreg', 0.2)
    """

    dim: int = 16
    """Embedding dimension d."""
    hidden: tuple[int, ...] = (256,)
    """Widths of the projector's hidden layers."""
    views: Literal["crops", "publication"] = "crops"
    """Two plain windows, flipped or not; or the publication's whole pipeline."""
    batch_size: int = 256
    """Pairs in a batch."""
    optimizer: Literal["sgd", "lars"] = "sgd"
    """Gradient descent; or LARS as the publications use it."""
    learning_rate: float = 0.01
    """Learning rate of all parameters, at its peak if there is a schedule."""
    bias_learning_rate: float | None = None
    """Learning rate of biases and batch norms, if it is another (lars)."""
    momentum: float = 0.0
    """Momentum of the optimiser."""
    nesterov: bool = False
    """Whether it is Nesterov's (sgd): SimCLR's code has that."""
    weight_decay: float = 0.0
    """Weight decay of all parameters (sgd), or of weights (lars)."""
    schedule: Literal["constant", "warmup_cosine"] = "constant"
    """Course of the learning rate."""
    warmup_steps: int = 0
    """Steps of rising learning rate (warmup_cosine)."""
    num_steps: int = 2500
    """How many steps to train."""
    init_scale: float = 1.0
    """α, by which every initial parameter is multiplied."""
    zero_init_residual: bool = False
    """Whether residual blocks start as identities: the publications' do, solo-learn's do not."""

    def require_effect(self, name: str) -> None:
        """Refuse settings that do nothing beside the others: they would make a run of their own."""
        descends = self.optimizer == "sgd" and self.momentum > 0
        for setting, off, has_effect, where in (
            ("bias_learning_rate", None, self.optimizer == "lars", "optimizer lars"),
            ("warmup_steps", 0, self.schedule != "constant", "schedule warmup_cosine"),
            ("nesterov", False, descends, "optimizer sgd and a momentum"),
        ):
            value = getattr(self, setting)
            if value != off and not has_effect:
                raise ValueError(f"{name}.{setting} = {value} has no effect without {where}.")

    @property
    def measured(self) -> Literal["correlation", "covariance"]:
        """Whose eigenvalues are shown (Appendix D.4): C's, or the embeddings' covariance's."""
        return "covariance"

    @property
    def normalises(self) -> bool:
        """Whether the loss normalises each dimension of the embedding over the batch."""
        return False

    @property
    def few_dimensions(self) -> bool:
        """Whether a batch is large enough for its C to be that of the whole set, roughly."""
        return self.batch_size >= 4 * self.dim

    def plateaus(self, eigenvalues: np.ndarray) -> np.ndarray:
        """What each eigenvalue (T, d) rises to when it is learned, shape (d,).

        Where no theory says: the largest value that each has, of those that outgrow the largest
        initial eigenvalue twentyfold; for the others, the median of these.
        """
        levels = steps.grown_levels(eigenvalues)
        return np.where(np.isfinite(levels), levels, eigenvalues.max())

    def resting_losses(self) -> np.ndarray | None:
        """Where theory has the loss rest while k = 0...d dimensions are learned, if it says so.

        Not of short batches, whose loss has a part that no learning removes.
        """
        return None

    def head(self, **settings: Any) -> nn.Projector:
        """The projector."""
        raise NotImplementedError

    def loss_fn(self) -> Callable[..., jax.Array]:
        """The loss of a batch's embeddings."""
        raise NotImplementedError

    def publication_views(self, size: int) -> data.Views:
        """The publication's pipeline."""
        raise NotImplementedError

    def make_views(self, size: int) -> data.Views:
        """How both views of an image are made."""
        return data.crop_views(size) if self.views == "crops" else self.publication_views(size)

    def rate(self, peak: float) -> Callable[[Any], ArrayLike]:
        """A learning rate as a function of steps."""
        if self.schedule == "constant":
            return lambda step: np.full(np.shape(step), peak)
        return optim.warmup_cosine(peak, warmup_steps=self.warmup_steps, total_steps=self.num_steps)

    def make_optimizer(self) -> optax.GradientTransformation:
        """The optimiser, with its schedule."""

        def rate(peak: float) -> Any:
            return peak if self.schedule == "constant" else self.rate(peak)

        if self.optimizer == "sgd":
            return optim.sgd(
                rate(self.learning_rate),
                momentum=self.momentum,
                nesterov=self.nesterov,
                weight_decay=self.weight_decay,
            )
        bias = self.bias_learning_rate
        return optim.lars(
            rate(self.learning_rate),
            bias_learning_rate=None if bias is None else rate(bias),
            momentum=self.momentum,
            weight_decay=self.weight_decay,
        )


@dataclass(frozen=True)
class BarlowTwins(Recipe):
    """Barlow Twins: :func:`sslstep.losses.barlow_twins` with the publication's projector."""

    off_diagonal: float = 1.0
    """λ, the weight of C's off-diagonal terms."""
    batch_norm: bool = False
    """Whether the loss normalises each embedding dimension over the batch."""
    symmetrise: bool = True
    """Whether the loss is of (C + C^T) / 2, as in Eq. 2, or of C, as the publication's."""

    @property
    def measured(self) -> Literal["correlation", "covariance"]:
        """C's, as the loss sees it."""
        return "correlation"

    @property
    def normalises(self) -> bool:
        """As the setting says."""
        return self.batch_norm

    @property
    def as_in_theory(self) -> bool:
        """Whether it is the loss of Eq. 1, of batches that are not short of rank."""
        return self.few_dimensions and self.off_diagonal == 1 and not self.batch_norm

    def plateaus(self, eigenvalues: np.ndarray) -> np.ndarray:
        """They are 1 in theory."""
        if self.as_in_theory:
            return np.ones(eigenvalues.shape[1])
        return super().plateaus(eigenvalues)

    def resting_losses(self) -> np.ndarray | None:
        """They are d - k in theory (Eq. 14)."""
        return self.dim - np.arange(self.dim + 1) if self.as_in_theory else None

    def head(self, **settings: Any) -> nn.Projector:
        """The publication's."""
        return nn.barlow_twins_head(self.dim, self.hidden, **settings)

    def loss_fn(self) -> Callable[..., jax.Array]:
        """The loss with these options."""
        return partial(
            losses.barlow_twins,
            off_diagonal=self.off_diagonal,
            batch_norm=self.batch_norm,
            symmetrise=self.symmetrise,
        )

    def publication_views(self, size: int) -> data.Views:
        """Barlow Twins'."""
        return data.barlow_twins_views(size)


@dataclass(frozen=True)
class SimCLR(Recipe):
    """SimCLR: :func:`sslstep.losses.simclr` with the authors' or the paper's projector."""

    temperature: float = 0.2
    """τ of the loss."""
    head_batch_norm: bool = False
    """Whether the projector has batch norm after each layer, as in the authors' code."""

    def head(self, **settings: Any) -> nn.Projector:
        """With or without batch norm."""
        variant: Any = "tensorflow" if self.head_batch_norm else "plain"
        return nn.simclr_head(self.dim, self.hidden, variant=variant, **settings)

    def loss_fn(self) -> Callable[..., jax.Array]:
        """The loss at this temperature."""
        return partial(losses.simclr, temperature=self.temperature)

    def publication_views(self, size: int) -> data.Views:
        """SimCLR's."""
        return data.simclr_views(size)


@dataclass(frozen=True)
class VICReg(Recipe):
    """VICReg: :func:`sslstep.losses.vicreg` with the publication's projector."""

    invariance: float = 25.0
    """λ, the weight of the distance of the two views."""
    variance: float = 25.0
    """μ, the weight of the hinge on standard deviations."""
    covariance: float = 1.0
    """ν, the weight of covariances."""

    def _levels(self) -> dynamics.VICRegPlateau | None:
        """While k = 0...d dimensions are learned; None where no closed form holds."""
        if self.covariance <= 0 or self.variance < 16 * self.covariance:
            return None
        return dynamics.vicreg_plateau(
            np.arange(self.dim + 1),
            self.dim,
            variance=self.variance,
            covariance=self.covariance,
        )

    def plateaus(self, eigenvalues: np.ndarray) -> np.ndarray:
        """The k-th dimension to be learned rises to the level of k equal ones."""
        levels = self._levels()
        return (
            super().plateaus(eigenvalues) if levels is None else np.asarray(levels.eigenvalue[1:])
        )

    def resting_losses(self) -> np.ndarray | None:
        """All but the invariance term."""
        levels = self._levels() if self.few_dimensions else None
        return None if levels is None else np.asarray(levels.loss)

    def head(self, **settings: Any) -> nn.Projector:
        """The publication's."""
        return nn.vicreg_head(self.dim, self.hidden, **settings)

    def loss_fn(self) -> Callable[..., jax.Array]:
        """The loss with these weights."""
        return partial(
            losses.vicreg,
            invariance=self.invariance,
            variance=self.variance,
            covariance=self.covariance,
        )

    def publication_views(self, size: int) -> data.Views:
        """VICReg's."""
        return data.vicreg_views(size)


@dataclass(frozen=True)
class Recipes:
    """One of each method."""

    barlow_twins: BarlowTwins = BarlowTwins()
    simclr: SimCLR = SimCLR()
    vicreg: VICReg = VICReg()

    def of(self, method: Method) -> Recipe:
        """The recipe of a method."""
        recipe: Recipe = getattr(self, method)
        return recipe

    def changed(self, *, every: Mapping[str, Any], **own: Mapping[str, Any]) -> "Recipes":
        """Recipes with other settings: those of every method, and a method's own by its name."""
        new: Any = {m: replace(self.of(m), **every, **own.get(m, {})) for m in METHODS}
        return Recipes(**new)


#: Epochs of the publications are of STL-10's unlabelled images.
STL10_IMAGES = 100_000

#: Small initialisation, on 32x32 images and two cores: dimensions are learned one at a time.
SMALL_INIT = Recipes(
    barlow_twins=BarlowTwins(init_scale=0.3),
    simclr=SimCLR(init_scale=0.2, learning_rate=0.01, momentum=0.9, num_steps=1500),
    vicreg=VICReg(hidden=(256, 256), init_scale=0.2, learning_rate=0.01, momentum=0.9),
)

#: Standard initialisation, the same.
STANDARD_INIT = Recipes(
    barlow_twins=BarlowTwins(
        dim=64,
        off_diagonal=5e-3,
        batch_norm=True,
        symmetrise=False,
        learning_rate=0.01,
        momentum=0.9,
        num_steps=1000,
    ),
    simclr=SimCLR(dim=64, learning_rate=0.5, momentum=0.9, weight_decay=1e-5, num_steps=1000),
    vicreg=VICReg(dim=64, hidden=(256, 256), learning_rate=0.01, momentum=0.9, num_steps=1000),
)

#: Appendix D.2, small initialisation: for ResNet-50 on STL-10.
PAPER_SMALL_INIT = Recipes(
    barlow_twins=BarlowTwins(
        dim=512,
        hidden=(2048,),
        views="publication",
        batch_size=64,
        optimizer="lars",
        learning_rate=0.2 * 64 / 256,
        bias_learning_rate=0.0048 * 64 / 256,
        momentum=0.9,
        weight_decay=1e-6,
        schedule="warmup_cosine",
        warmup_steps=10 * (STL10_IMAGES // 64),
        num_steps=320 * (STL10_IMAGES // 64),
        init_scale=0.093,
        symmetrise=False,
    ),
    simclr=SimCLR(
        dim=128,
        hidden=(2048,),
        views="publication",
        learning_rate=0.01,
        momentum=0.9,
        nesterov=True,
        weight_decay=1e-5,
        num_steps=320 * (STL10_IMAGES // 256),
        init_scale=0.087,
    ),
    vicreg=VICReg(
        dim=128,
        hidden=(512, 512),
        views="publication",
        optimizer="lars",
        learning_rate=0.25,
        momentum=0.9,
        weight_decay=1e-5,
        schedule="warmup_cosine",
        warmup_steps=STL10_IMAGES // 256,
        num_steps=500 * (STL10_IMAGES // 256),
        init_scale=0.133,
    ),
)

#: Appendix D.2, standard initialisation.
PAPER_STANDARD_INIT = PAPER_SMALL_INIT.changed(
    barlow_twins={"off_diagonal": 0.0051, "batch_norm": True},
    simclr={"learning_rate": 0.5},
    vicreg={"learning_rate": 0.5},
    every={"init_scale": 1.0, "zero_init_residual": True},
)

#: Appendix E: small initialisation but for d and α.
PAPER_TABLES = PAPER_SMALL_INIT.changed(
    barlow_twins={"init_scale": 0.542},
    simclr={"init_scale": 0.284},
    vicreg={"init_scale": 0.604},
    every={"dim": 50},
)
