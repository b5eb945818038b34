r"""Modewise loss landscapes: why self-supervised learning waits (App. F), and remedies (App. G).

Each mode of the linear model descends a landscape of its own in a nondimensional coordinate, at a
speed set by its eigenvalue: :math:`\bar s' = -\gamma\, d\mathcal{L} / d\bar s`. (The paper's Eq. 51
prints a plus sign and leaves out γ.) The self-supervised landscape is symmetric with a maximum at
the origin, so a small start waits; the supervised one slopes at the origin, so it does not.

The remedies of Appendix G are other landscapes, each a :class:`ModewiseLoss`: :func:`sharpened`,
:func:`smoothed`, :func:`quartic`, :func:`hinge`, that of any function of eigenvalues,
:func:`modewise`, and, of each of these, that of preconditioned gradients, :func:`preconditioned`.
"""

from sslstep.landscape._descent import max_learning_rate, speedup, step_time, trajectory
from sslstep.landscape._modewise import (
    ModewiseLoss,
    hinge,
    modewise,
    plain,
    preconditioned,
    quartic,
    sharpened,
    smoothed,
)
from sslstep.landscape._symmetry import (
    VICRegPlateau,
    escape_time,
    self_supervised,
    self_supervised_trajectory,
    settling_time,
    supervised,
    supervised_trajectory,
    vicreg_plateau,
)

__all__ = [
    "ModewiseLoss",
    "VICRegPlateau",
    "escape_time",
    "hinge",
    "max_learning_rate",
    "modewise",
    "plain",
    "preconditioned",
    "quartic",
    "self_supervised",
    "self_supervised_trajectory",
    "settling_time",
    "sharpened",
    "smoothed",
    "speedup",
    "step_time",
    "supervised",
    "supervised_trajectory",
    "trajectory",
    "vicreg_plateau",
]
