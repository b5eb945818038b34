"""Training settings of each method: projector, loss, views and optimiser.

``PAPER_SMALL_INIT`` and ``PAPER_STANDARD_INIT`` are the settings of Appendix D.2, and
``PAPER_TABLES`` those of Appendix E. ``SMALL_INIT`` and ``STANDARD_INIT`` are for a small ResNet on
32x32 images and two cores. Each holds one recipe for each method: ``SMALL_INIT.of("simclr")``.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, Literal, get_args

import jax
import numpy as np
import optax
from jax.typing import ArrayLike

from sslstep import data, dynamics, losses, nn, optim, train
from sslstep.measure import steps

__all__ = ["BarlowTwins", "Recipe", "Recipes", "SelfDistillation", "SimCLR", "VICReg"]

Method = Literal["barlow_twins", "simclr", "vicreg"]
METHODS: tuple[Method, ...] = get_args(Method)
LABELS: Mapping[str, str] = {
    "barlow_twins": "Barlow Twins",
    "simclr": "SimCLR",
    "vicreg": "VICReg",
    "byol": "BYOL",
    "simsiam": "SimSiam",
    "spectral": "spectral contrastive",
    "info_nce": "InfoNCE",
}


@dataclass(frozen=True)
class Recipe:
    """Base class of recipes: settings that all methods share, and methods that build from them.

    Each method is a subclass. :meth:`head`, :meth:`loss_fn`, :meth:`make_views` and
    :meth:`make_optimizer` build the parts from which :func:`sslstep.train.make_step` makes a step.

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
    """Random windows with random flips (crops), or the publication's augmentations."""
    batch_size: int = 256
    """Number of positive pairs in a batch."""
    optimizer: Literal["sgd", "lars"] = "sgd"
    """Gradient descent, or LARS as in the publications."""
    learning_rate: float = 0.01
    """Learning rate of all parameters; the peak of the schedule."""
    bias_learning_rate: float | None = None
    """Learning rate of biases and batch norms (lars); None for learning_rate."""
    momentum: float = 0.0
    """Momentum of the optimiser."""
    nesterov: bool = False
    """Whether the momentum is Nesterov's (sgd), as in SimCLR's code."""
    weight_decay: float = 0.0
    """Weight decay of all parameters (sgd), or of weights only (lars)."""
    schedule: Literal["constant", "warmup_cosine"] = "constant"
    """Schedule of the learning rate."""
    warmup_steps: int = 0
    """Number of steps of linear warm-up (warmup_cosine)."""
    num_steps: int = 2500
    """Number of training steps."""
    init_scale: float = 1.0
    """Factor α of every initial parameter."""
    zero_init_residual: bool = False
    """Whether residual branches start at 0, as in the publications but not in solo-learn."""

    def require_effect(self, name: str) -> None:
        """Raise ValueError if a setting has no effect beside the others.

        A setting without effect would make a second run of equal results.

        Args:
            name: name of the recipe in the message.
        """
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
        """Name of the matrix whose eigenvalues figures show (Appendix D.4).

        It is C (``"correlation"``) or the embeddings' covariance (``"covariance"``).
        """
        return "covariance"

    @property
    def normalises(self) -> bool:
        """Whether the loss normalises each dimension of the embedding over the batch."""
        return False

    @property
    def few_dimensions(self) -> bool:
        """Whether a batch is large enough, at least 4 d, for its C to approximate the data's C."""
        return self.batch_size >= 4 * self.dim

    def plateaus(self, eigenvalues: np.ndarray) -> np.ndarray:
        """Estimate the level to which each eigenvalue rises when it is learned.

        The levels are those of :func:`sslstep.measure.steps.grown_levels`, or the largest
        eigenvalue if none has grown. Subclasses return levels of theory where it predicts them.

        Args:
            eigenvalues: d eigenvalues of each of T records, in descending order, shape ``(T, d)``.

        Returns:
            Levels, shape ``(d,)``.
        """
        levels = steps.grown_levels(eigenvalues)
        return np.where(np.isfinite(levels), levels, eigenvalues.max())

    def resting_losses(self) -> np.ndarray | None:
        """Return the predicted loss of each plateau, k = 0...d learned dimensions, shape (d + 1,).

        Return None if theory predicts none. Small batches have none, because sampling noise adds a
        term to their loss that training cannot remove.
        """
        return None

    def of_step(self) -> "Recipe":
        """Return the recipe from which the training step is built: by default this one.

        A subclass with settings that do not change the step returns a copy with fixed values of
        these settings. Recipes that differ in them only then share a compiled step.
        """
        return self

    def head(self, **settings: Any) -> nn.Projector:
        """Build the projector; ``settings`` are further attributes of it, such as ``dtype``."""
        raise NotImplementedError

    def objective(self, network: nn.Encoder) -> train.Network | train.Objective:
        """Return the first argument of :func:`sslstep.train.make_step`: by default the network.

        A recipe whose loss takes more than embeddings returns a :class:`sslstep.train.Objective`.
        """
        return network

    def loss_fn(self) -> Callable[..., jax.Array]:
        """Return the loss as a function of a batch's embeddings, ``(z, z_prime)``."""
        raise NotImplementedError

    def publication_views(self, size: int) -> data.Views:
        """Return the publication's augmentations, for views of ``size`` pixels a side."""
        raise NotImplementedError

    def make_views(self, size: int) -> data.Views:
        """Return the augmentations of both views, for views of ``size`` pixels a side."""
        return data.crop_views(size) if self.views == "crops" else self.publication_views(size)

    def rate(self, peak: float) -> Callable[[Any], ArrayLike]:
        """Return the learning rate with this peak, as a function of the step."""
        if self.schedule == "constant":
            return lambda step: np.full(np.shape(step), peak)
        return optim.warmup_cosine(peak, warmup_steps=self.warmup_steps, total_steps=self.num_steps)

    def make_optimizer(self) -> optax.GradientTransformation:
        """Build the optimiser with its schedule."""

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
    """Recipe of Barlow Twins: :func:`sslstep.losses.barlow_twins`, the publication's projector."""

    off_diagonal: float = 1.0
    """λ, the weight of C's off-diagonal terms."""
    batch_norm: bool = False
    """Whether the loss normalises each embedding dimension over the batch."""
    symmetrise: bool = True
    """Whether the loss uses (C + C^T) / 2, as in Eq. 2; if not, C, as in the publication."""

    @property
    def measured(self) -> Literal["correlation", "covariance"]:
        """Name of the matrix whose eigenvalues figures show: C, on which the loss is defined."""
        return "correlation"

    @property
    def normalises(self) -> bool:
        """Whether the loss normalises each dimension over the batch: the setting batch_norm."""
        return self.batch_norm

    @property
    def as_in_theory(self) -> bool:
        """Whether the loss is that of Eq. 1 and a batch has at least 4 d pairs."""
        return self.few_dimensions and self.off_diagonal == 1 and not self.batch_norm

    def plateaus(self, eigenvalues: np.ndarray) -> np.ndarray:
        """Return level 1 for each eigenvalue if the theory holds; otherwise estimate the levels."""
        if self.as_in_theory:
            return np.ones(eigenvalues.shape[1])
        return super().plateaus(eigenvalues)

    def resting_losses(self) -> np.ndarray | None:
        """Return d - k for k = 0...d (Eq. 14) if the theory holds; otherwise None."""
        return self.dim - np.arange(self.dim + 1) if self.as_in_theory else None

    def head(self, **settings: Any) -> nn.Projector:
        """Build the publication's projector."""
        return nn.barlow_twins_head(self.dim, self.hidden, **settings)

    def loss_fn(self) -> Callable[..., jax.Array]:
        """Return :func:`sslstep.losses.barlow_twins` with this recipe's options."""
        return partial(
            losses.barlow_twins,
            off_diagonal=self.off_diagonal,
            batch_norm=self.batch_norm,
            symmetrise=self.symmetrise,
        )

    publication_views = staticmethod(data.barlow_twins_views)


@dataclass(frozen=True)
class SimCLR(Recipe):
    """Recipe of SimCLR: :func:`sslstep.losses.simclr`, the authors' projector or a plain one."""

    temperature: float = 0.2
    """τ, the temperature of the loss."""
    head_batch_norm: bool = False
    """Whether the projector has batch norm after each layer, as in the authors' code."""

    def head(self, **settings: Any) -> nn.Projector:
        """Build the projector with batch norm (``"tensorflow"``) or without (``"plain"``)."""
        variant: Any = "tensorflow" if self.head_batch_norm else "plain"
        return nn.simclr_head(self.dim, self.hidden, variant=variant, **settings)

    def loss_fn(self) -> Callable[..., jax.Array]:
        """Return :func:`sslstep.losses.simclr` at this recipe's temperature."""
        return partial(losses.simclr, temperature=self.temperature)

    publication_views = staticmethod(data.simclr_views)


@dataclass(frozen=True)
class VICReg(Recipe):
    """Recipe of VICReg: :func:`sslstep.losses.vicreg`, the publication's projector."""

    invariance: float = 25.0
    """λ, the weight of the invariance term."""
    variance: float = 25.0
    """μ, the weight of the variance term."""
    covariance: float = 1.0
    """ν, the weight of the covariance term."""

    def _levels(self) -> dynamics.VICRegPlateau | None:
        """Return eigenvalue and loss of the plateaus k = 0...d; None if theory predicts none.

        Theory predicts them if μ >= 16 ν > 0 for the weights μ of variance and ν of covariance, and
        if a batch has at least 4 d pairs. In smaller batches dimensions have a considerable
        covariance by chance, which the loss also penalises.
        """
        closed_form = self.covariance > 0 and self.variance >= 16 * self.covariance
        if not (closed_form and self.few_dimensions):
            return None
        return dynamics.vicreg_plateau(
            np.arange(self.dim + 1),
            self.dim,
            variance=self.variance,
            covariance=self.covariance,
        )

    def plateaus(self, eigenvalues: np.ndarray) -> np.ndarray:
        """Return the level of k equal eigenvalues for the k-th dimension if the theory holds."""
        levels = self._levels()
        return (
            super().plateaus(eigenvalues) if levels is None else np.asarray(levels.eigenvalue[1:])
        )

    def resting_losses(self) -> np.ndarray | None:
        """Return the variance and covariance terms of the loss for k = 0...d, or None."""
        levels = self._levels()
        return None if levels is None else np.asarray(levels.loss)

    def head(self, **settings: Any) -> nn.Projector:
        """Build the publication's projector."""
        return nn.vicreg_head(self.dim, self.hidden, **settings)

    def loss_fn(self) -> Callable[..., jax.Array]:
        """Return :func:`sslstep.losses.vicreg` with this recipe's weights."""
        return partial(
            losses.vicreg,
            invariance=self.invariance,
            variance=self.variance,
            covariance=self.covariance,
        )

    publication_views = staticmethod(data.vicreg_views)


@dataclass(frozen=True)
class SelfDistillation(Recipe):
    """Recipe of BYOL, or of SimSiam if ``decay`` is None."""

    predictor: tuple[int, ...] = (64,)
    """Widths of the predictor's hidden layers; none for a linear predictor."""
    predictor_scale: float = 1.0
    """By which the predictor's initial parameters are multiplied, in the place of α."""
    decay: float | None = None
    """τ of the target network's moving average; none where the targets are the network's."""
    normalise: bool = True
    """Whether predictions and targets have length 1, as in the publications."""

    def head(self, **settings: Any) -> nn.Projector:
        """Build the projector of Barlow Twins, which makes spectra of the methods comparable."""
        return nn.barlow_twins_head(self.dim, self.hidden, **settings)

    def objective(self, network: nn.Encoder) -> train.Objective:
        """Return the objective that trains the network and a predictor."""
        return _Distilled(self, network)

    def loss_fn(self) -> Callable[..., jax.Array]:
        """Return :func:`sslstep.losses.prediction_error` with this recipe's normalisation."""
        return partial(losses.prediction_error, normalise=self.normalise)

    # SimSiam's publication has similar augmentations, and BYOL's those of Barlow Twins.
    publication_views = staticmethod(data.simclr_views)


class _Distilled(train.SelfDistillation):
    """Self-distillation whose predictor starts at a scale of its own, independent of α."""

    def __init__(self, recipe: SelfDistillation, network: nn.Encoder) -> None:
        super().__init__(network, nn.Projector(recipe.dim, recipe.predictor), recipe.decay)
        self._scale = recipe.predictor_scale / recipe.init_scale

    def init(self, key: Any, x: Any, train: bool = False) -> Any:
        """Return the initial variables, with the predictor multiplied by its scale over α.

        Training multiplies all initial parameters by α, so the predictor starts at its own scale.
        """
        found = super().init(key, x, train=train)
        scaled = nn.scale_init(found["params"]["predictor"], self._scale)
        return {**found, "params": {**found["params"], "predictor": scaled}}


@dataclass(frozen=True)
class Recipes:
    """One recipe for each method."""

    barlow_twins: BarlowTwins = BarlowTwins()
    simclr: SimCLR = SimCLR()
    vicreg: VICReg = VICReg()

    def of(self, method: Method) -> Recipe:
        """Return the recipe of a method, such as ``"simclr"``."""
        recipe: Recipe = getattr(self, method)
        return recipe

    def changed(self, *, every: Mapping[str, Any], **own: Mapping[str, Any]) -> "Recipes":
        """Return a copy with other settings.

        Args:
            every: settings to change in all recipes, by name.
            own: settings to change in the recipe of one method, by the name of the method.
        """
        new: Any = {m: replace(self.of(m), **every, **own.get(m, {})) for m in METHODS}
        return Recipes(**new)


#: Number of STL-10's unlabelled images, which make an epoch in the settings of the paper.
STL10_IMAGES = 100_000

#: Small initialisation, on 32x32 images and two cores: dimensions are learned one at a time.
SMALL_INIT = Recipes(
    barlow_twins=BarlowTwins(init_scale=0.3),
    simclr=SimCLR(init_scale=0.2, learning_rate=0.01, momentum=0.9, num_steps=1500),
    vicreg=VICReg(hidden=(256, 256), init_scale=0.2, learning_rate=0.01, momentum=0.9),
)

#: Standard initialisation, on 32x32 images and two cores.
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

#: Appendix E: the settings of small initialisation with another d and other α.
PAPER_TABLES = PAPER_SMALL_INIT.changed(
    barlow_twins={"init_scale": 0.542},
    simclr={"init_scale": 0.284},
    vicreg={"init_scale": 0.604},
    every={"dim": 50},
)
