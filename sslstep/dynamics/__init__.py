r"""The dynamics of one mode: its loss landscape, its trajectory and the time when it is learned.

An aligned linear model is a set of independent modes. A mode has an eigenvalue γ of the features'
cross-correlation matrix Γ, and a singular value s of the weights, which descends the mode's
landscape. The landscape is the loss as a function of one coordinate, the mode's eigenvalue
:math:`\lambda = \gamma s^2` of the embeddings' cross-correlation matrix C:

.. math:: s' = -\frac{d\mathcal{L}}{ds}, \qquad \lambda' = 4 \gamma \lambda f(\lambda), \qquad
    f = -\frac{d\mathcal{L}}{d\lambda} .

The landscape of Barlow Twins, :func:`plain`, has a maximum at the origin: a mode with a small
initial s waits there before it grows (Appendix F). The landscapes of Appendix G shorten the wait.
Functions of a mode take γ, the initial singular value s(0) and a landscape, by default
:func:`plain`. Time is effective time: learning rate × step. All functions are pure functions of
arrays, work in float32 and float64, and compose with `jit`, `vmap` and `grad`.
"""

from sslstep.dynamics._landscapes import (
    Landscape,
    deep,
    fourth_power,
    hinge,
    modewise,
    plain,
    preconditioned,
    quartic_family,
    self_distillation,
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
