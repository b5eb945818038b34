"""The arms that `speedup` compares: losses, gradients and optimisers, by name."""

from collections.abc import Callable, Mapping
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

import jax
import optax

from sslstep import losses, optim
from sslstep.recipes import BarlowTwins

Rates = Literal["descent", "spectral", "momentum", "vicreg", "adam", "lars"]
Kind = Literal["reference", "obvious", "remedy", "combination"]

# Fixed parameters of combinations: δ of sharpening and ε of smoothing.
SOFTENING, LEAK = 1e-3, 0.1


class Arm(NamedTuple):
    """One way of training.

    Attributes:
        label: name in figures and tables.
        kind: a reference, an obvious alternative, a remedy of Appendix G, or a combination.
        loss: function from the arm's own parameter, which may be traced, to a loss of a batch.
        optimizer: function from the learning rate, which may be traced, to the optimiser.
        own: name of the setting that lists values of the arm's own parameter; None without one.
        rates: name of the list of learning rates to search.
        measured: matrix whose eigenvalues count the learned dimensions; None if none does.
    """

    label: str
    kind: Kind
    loss: Callable[[Any], Callable[..., jax.Array]]
    optimizer: Callable[[Any], optax.GradientTransformation] = optim.sgd
    own: Literal["alphas", "softenings", "leaks", "widths"] | None = None
    rates: Rates = "descent"
    measured: Literal["correlation", "covariance"] | None = "correlation"


def arms(recipe: BarlowTwins) -> Mapping[str, Arm]:
    """Return the arms by name; their variants of Barlow Twins normalise as `recipe` does."""
    plain, batch_norm = recipe.loss_fn(), recipe.batch_norm

    def spectral(loss: Callable[..., jax.Array], own: str) -> Callable[[Any], Any]:
        """Return an arm's loss function for a spectral loss with the parameter `own`."""
        return lambda value: partial(loss, batch_norm=batch_norm, **{own: value})

    def preconditioned(loss: Callable[..., jax.Array], centre: bool = batch_norm) -> Any:
        """Return an arm's loss function for a preconditioned loss."""
        return lambda alpha: optim.preconditioned(loss, alpha=alpha, centre=centre)

    def sharpened_smoothed(leak: Any) -> Callable[..., jax.Array]:
        """Return the loss of sharpened eigenvalues, smoothed by the factor `leak` above 1."""

        def transform(x: jax.Array) -> jax.Array:
            return losses.smooth(losses.sharpen(x, SOFTENING), leak)

        return partial(losses.spectral_barlow_twins, transform=transform, batch_norm=batch_norm)

    smoothed = spectral(losses.smoothed_barlow_twins, "leak")
    momentum = partial(optim.sgd, momentum=0.9)
    lars = partial(optim.lars, weight_decay=0.0)
    quartic = partial(losses.quartic_barlow_twins, batch_norm=batch_norm)
    same: dict[str, Any] = {"loss": lambda _: plain}  # another optimiser
    combined = Arm(
        "preconditioned, smoothed",
        "combination",
        preconditioned(smoothed(LEAK)),
        own="alphas",
        rates="spectral",
    )
    return {
        "plain": Arm("Barlow Twins", "reference", **same),
        "vicreg": Arm(
            "VICReg", "reference", lambda _: losses.vicreg, rates="vicreg", measured="covariance"
        ),
        "unweighted": Arm(
            "λ = 1",
            "obvious",
            lambda _: replace(recipe, off_diagonal=1.0).loss_fn(),
            rates="spectral",
        ),
        "momentum": Arm("momentum 0.9", "obvious", **same, optimizer=momentum, rates="momentum"),
        "adam": Arm("Adam", "obvious", **same, optimizer=optax.adam, rates="adam"),
        "lars": Arm("LARS", "obvious", **same, optimizer=lars, rates="lars"),
        "whitening": Arm("whitening", "obvious", lambda _: losses.w_mse, measured=None),
        "preconditioned": Arm("preconditioned", "remedy", preconditioned(plain), own="alphas"),
        "sharpened": Arm(
            "sharpened",
            "remedy",
            spectral(losses.sharpened_barlow_twins, "softening"),
            own="softenings",
            rates="spectral",
        ),
        "smoothed": Arm("smoothed", "remedy", smoothed, own="leaks", rates="spectral"),
        "quartic": Arm("quartic", "remedy", lambda _: quartic, rates="spectral"),
        "hinge": Arm(
            "hinge",
            "remedy",
            spectral(losses.hinge_barlow_twins, "width"),
            own="widths",
            rates="spectral",
        ),
        "sharpened_smoothed": Arm(
            "sharpened, smoothed", "combination", sharpened_smoothed, own="leaks", rates="spectral"
        ),
        "combined": combined,
        "combined_momentum": combined._replace(
            label="the same, momentum 0.9", optimizer=momentum, rates="momentum"
        ),
        "preconditioned_vicreg": Arm(
            "preconditioned VICReg",
            "combination",
            preconditioned(losses.vicreg, centre=True),
            own="alphas",
            rates="vicreg",
            measured="covariance",
        ),
    }


#: The arms of the paper's settings, Eq. 1: λ = 1 and no batch norm.
ARMS: Mapping[str, Arm] = arms(BarlowTwins())

# The choices of the option --arms.
if TYPE_CHECKING:
    Name = str
else:
    Name = Literal[tuple(ARMS)]
