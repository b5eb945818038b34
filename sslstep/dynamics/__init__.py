r"""The dynamics of one mode: landscapes, and when and along which curve they are descended.

An aligned linear model is a set of modes, each with an eigenvalue γ of Γ and a singular value s
that descends a landscape of its own. The landscape is a function of one coordinate, the mode's
eigenvalue :math:`\lambda = \gamma s^2` of C:

.. math:: s' = -\frac{d\mathcal{L}}{ds}, \qquad \lambda' = 4 \gamma \lambda f(\lambda), \qquad
    f = -\frac{d\mathcal{L}}{d\lambda} .

Barlow Twins' own landscape, :func:`plain`, has a maximum at the origin, so a small start waits
(Appendix F); those of Appendix G are remedies. Functions of a mode take its eigenvalue, the
singular value that it starts from, and the landscape, plain unless told otherwise. Time is
effective time: learning rate × step. Everything is a pure function of arrays, works in float32 and
float64, and composes with `jit`, `vmap` and `grad`.
"""

from sslstep.dynamics._landscapes import (
    Landscape,
    fourth_power,
    hinge,
    modewise,
    plain,
    preconditioned,
    quartic_family,
    sharpened,
    smoothed,
)
from sslstep.dynamics._mode import (
    critical_time,
    effective_eigenvalue,
    mode_eigenvalue,
    settling_time,
    singular_value,
    step_time,
    supervised_trajectory,
)
from sslstep.dynamics._plateaus import VICRegPlateau, plateau_loss, vicreg_plateau
from sslstep.dynamics._products import deep, self_distillation
from sslstep.dynamics._rates import max_learning_rate, speedup
from sslstep.dynamics._together import (
    lars_steps,
    preconditioned_eigenvalues,
    preconditioned_step_times,
)

__all__ = [
    "Landscape",
    "VICRegPlateau",
    "critical_time",
    "deep",
    "effective_eigenvalue",
    "fourth_power",
    "hinge",
    "lars_steps",
    "max_learning_rate",
    "mode_eigenvalue",
    "modewise",
    "plain",
    "plateau_loss",
    "preconditioned",
    "preconditioned_eigenvalues",
    "preconditioned_step_times",
    "quartic_family",
    "self_distillation",
    "settling_time",
    "sharpened",
    "singular_value",
    "smoothed",
    "speedup",
    "step_time",
    "supervised_trajectory",
    "vicreg_plateau",
]
