"""The arms that `speedup` compares: losses, gradients and optimisers, by name."""

from collections.abc import Callable, Mapping
from functools import partial
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

import jax
import optax

from sslstep import losses, optim
from sslstep.recipes import BarlowTwins

Rates = Literal["descent", "momentum", "vicreg", "adam", "lars"]
Kind = Literal["reference", "obvious", "remedy", "combination"]

# Eq. 1: λ = 1 and no batch norm, as the paper trains Barlow Twins.
_barlow_twins = BarlowTwins().loss_fn()
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
    loss: Callable[[Any], Callable[..., jax.Array]] = lambda _: _barlow_twins
    optimizer: Callable[[Any], optax.GradientTransformation] = optim.sgd
    own: Literal["alphas", "softenings", "leaks", "widths"] | None = None
    rates: Rates = "descent"
    measured: Literal["correlation", "covariance"] | None = "correlation"


def _sharpened_smoothed(leak: Any) -> Callable[..., jax.Array]:
    """Return the spectral loss of sharpened eigenvalues, smoothed by the factor `leak` above 1."""

    def transform(x: jax.Array) -> jax.Array:
        return losses.smooth(losses.sharpen(x, SOFTENING), leak)

    return partial(losses.spectral_barlow_twins, transform=transform, batch_norm=False)


def _spectral(loss: Callable[..., jax.Array], own: str) -> Callable[[Any], Any]:
    """Return an arm's loss function for a spectral loss with the parameter `own`."""
    return lambda value: partial(loss, batch_norm=False, **{own: value})


_smoothed = _spectral(losses.smoothed_barlow_twins, "leak")


def _combined(alpha: Any) -> Callable[..., jax.Array]:
    return optim.preconditioned(_smoothed(LEAK), alpha=alpha)


_momentum = partial(optim.sgd, momentum=0.9)

ARMS: Mapping[str, Arm] = {
    "plain": Arm("Barlow Twins", "reference"),
    "vicreg": Arm(
        "VICReg", "reference", lambda _: losses.vicreg, rates="vicreg", measured="covariance"
    ),
    "momentum": Arm("momentum 0.9", "obvious", optimizer=_momentum, rates="momentum"),
    "adam": Arm("Adam", "obvious", optimizer=optax.adam, rates="adam"),
    "lars": Arm("LARS", "obvious", optimizer=partial(optim.lars, weight_decay=0.0), rates="lars"),
    "whitening": Arm("whitening", "obvious", lambda _: losses.w_mse, measured=None),
    "preconditioned": Arm(
        "preconditioned",
        "remedy",
        lambda alpha: optim.preconditioned(_barlow_twins, alpha=alpha),
        own="alphas",
    ),
    "sharpened": Arm(
        "sharpened",
        "remedy",
        _spectral(losses.sharpened_barlow_twins, "softening"),
        own="softenings",
    ),
    "smoothed": Arm("smoothed", "remedy", _smoothed, own="leaks"),
    "quartic": Arm(
        "quartic", "remedy", lambda _: partial(losses.quartic_barlow_twins, batch_norm=False)
    ),
    "hinge": Arm("hinge", "remedy", _spectral(losses.hinge_barlow_twins, "width"), own="widths"),
    "sharpened_smoothed": Arm(
        "sharpened, smoothed", "combination", _sharpened_smoothed, own="leaks"
    ),
    "combined": Arm("preconditioned, smoothed", "combination", _combined, own="alphas"),
    "combined_momentum": Arm(
        "the same, momentum 0.9",
        "combination",
        _combined,
        _momentum,
        own="alphas",
        rates="momentum",
    ),
    "preconditioned_vicreg": Arm(
        "preconditioned VICReg",
        "combination",
        lambda alpha: optim.preconditioned(losses.vicreg, alpha=alpha, centre=True),
        own="alphas",
        rates="vicreg",
        measured="covariance",
    ),
}

# The choices of the option --arms.
if TYPE_CHECKING:
    Name = str
else:
    Name = Literal[tuple(ARMS)]
