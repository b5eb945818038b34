"""The losses of `any_loss` with the settings of their training and prediction, for linear models.

The weights of a linear model are (m, d) here: features x (n, m) have the embeddings x @ w.
"""

from collections.abc import Callable
from functools import cache, partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from sslstep import linear, losses


def rounded_vicreg(z: jax.Array, z_prime: jax.Array, width: float = 2e-4) -> jax.Array:
    """Compute VICReg's loss with the corner of the hinge rounded.

    The rounding extends over about `width` in the standard deviation.
    """

    def hinge(view: jax.Array) -> jax.Array:
        deviation = jnp.sqrt(jnp.var(view, axis=0, ddof=1) + 1e-4)
        return jnp.mean(width * jax.nn.softplus((1 - deviation) / width))

    return losses.vicreg(z, z_prime, variance=0.0) + 25 * (hinge(z) + hinge(z_prime)) / 2


class Loss(NamedTuple):
    """A loss, with the settings of its training and of its prediction."""

    title: str
    function: Callable[..., Any]
    predicted_by: Callable[..., Any] | None = None
    """Loss of the predicted gradient flow; None: gradient descent of `function` is predicted."""
    step: float = 0.1
    """Largest learning rate times 4γ_1, the first rate of simplified Barlow Twins."""
    span: float = 1.0
    """Time of training, in units of 2 ln(1/α) / 4γ_d: by then simplified Barlow Twins rests."""
    turns: bool = True
    """Whether the loss is invariant under rotations of the embeddings."""
    within: float = 0.05
    """Claimed bound on the relative error of step times."""
    constant: bool = False
    """Whether training starts from a constant first dimension."""
    share: float = 1.0
    """Fraction of the pairs on which the loss is trained."""
    tol: float = 1e-3
    """Tolerance of the flow; smaller for a loss that is singular at embeddings of length 0."""


LOSSES = {
    "simplified": Loss("simplified Barlow Twins", losses.simplified_barlow_twins, within=0.03),
    "barlow_twins": Loss(
        r"Barlow Twins, $\lambda = 0.1$",
        partial(losses.barlow_twins, batch_norm=False, off_diagonal=0.1),
        span=3.0,
        turns=False,
        within=0.03,
    ),
    "spectral": Loss("spectral contrastive", losses.spectral_contrastive),
    "info_nce": Loss(
        "InfoNCE", partial(losses.info_nce, normalise=False, temperature=1.0), span=2.0
    ),
    "vicreg": Loss("VICReg", losses.vicreg, rounded_vicreg, step=0.0003, turns=False),
    "lejepa": Loss("LeJEPA", losses.lejepa, step=0.4, share=0.25),
    "simclr": Loss(
        "SimCLR",
        partial(losses.simclr, temperature=0.5),
        step=0.02,
        span=0.15,
        constant=True,
        share=0.5,
        tol=1e-5,
    ),
}


@cache
def of_weights(
    function: Callable[..., Any], first: int
) -> tuple[Callable[..., Any], Callable[..., Any], Callable[..., Any]]:
    """Return three functions of weights (m, d) and both views of a model.

    They compute the loss, the loss with the eigenvalues of C, and the norm of the weights without
    the `first` columns. They are cached, so that each is compiled once.
    """

    def loss(w, x, x_prime):
        return function(x @ w, x_prime @ w)

    def measure(w, x, x_prime):
        found = eigenvalues(x @ w, x_prime @ w)
        return loss(w, x, x_prime), found[: len(found) - first]

    def size(w, x, x_prime):
        return jnp.linalg.norm(w[:, first:])

    return loss, measure, size


def eigenvalues(z, z_prime):
    """Return the eigenvalues of C of centred embeddings, descending."""
    c = linear.cross_correlation(z, z_prime, centre=True)
    return jnp.linalg.eigvalsh(c)[::-1]
