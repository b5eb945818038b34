r"""The linear model of Section 4: its modes, exact dynamics, and generic small initialisation.

A linear map :math:`f(x) = W x` trained with the simplified Barlow Twins loss
:math:`\|W \Gamma W^\top - I\|_F^2` learns the top eigenmodes of Γ one at a time. Everything here
is a pure function of arrays, works in float32 and float64, and composes with `jit`, `vmap` and
`grad`. Time t is effective time: learning rate × step.
"""

from sslstep.linear._dynamics import (
    critical_time,
    effective_eigenvalue,
    half_rise_time,
    max_learning_rate,
    mode_eigenvalue,
    plateau_loss,
    quartic,
    singular_value,
)
from sslstep.linear._faster import (
    preconditioned_eigenvalues,
    preconditioned_half_rise_time,
    preconditioned_max_learning_rate,
    preconditioning_speedup,
)
from sslstep.linear._lars import lars_steps
from sslstep.linear._modes import Modes, cross_correlation, loss, modes, top_spectral
from sslstep.linear._small_init import (
    Aligned,
    align,
    alignment_exponent,
    coupled_elements,
    elements,
    init_weights,
    initial_singular_values,
    small_init_trajectory,
)

__all__ = [
    "Aligned",
    "Modes",
    "align",
    "alignment_exponent",
    "coupled_elements",
    "critical_time",
    "cross_correlation",
    "effective_eigenvalue",
    "elements",
    "half_rise_time",
    "init_weights",
    "initial_singular_values",
    "lars_steps",
    "loss",
    "max_learning_rate",
    "mode_eigenvalue",
    "modes",
    "plateau_loss",
    "preconditioned_eigenvalues",
    "preconditioned_half_rise_time",
    "preconditioned_max_learning_rate",
    "preconditioning_speedup",
    "quartic",
    "singular_value",
    "small_init_trajectory",
    "top_spectral",
]
