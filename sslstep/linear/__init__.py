r"""The linear model of Section 4: its modes, exact dynamics, and generic small initialisation.

A linear map :math:`f(x) = W x` trained with the simplified Barlow Twins loss
:math:`\|W \Gamma W^\top - I\|_F^2` learns the top eigenmodes of Γ one at a time. Everything here
is a pure function of arrays, works in float32 and float64, and composes with `jit`, `vmap` and
`grad`. Time t is effective time: learning rate × step. Curves and step times of single modes are in
:mod:`sslstep.dynamics`; its ``critical_time``, ``mode_eigenvalue`` and ``singular_value`` are
re-exported here.
"""

from sslstep.dynamics import critical_time, mode_eigenvalue, singular_value
from sslstep.linear._modes import (
    Modes,
    cross_correlation,
    growth_modes,
    loss,
    modes,
    pencil_modes,
    second_moment,
    top_spectral,
)
from sslstep.linear._sampling import SampledModes, sampled_modes
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
    "SampledModes",
    "align",
    "alignment_exponent",
    "coupled_elements",
    "critical_time",
    "cross_correlation",
    "elements",
    "growth_modes",
    "init_weights",
    "initial_singular_values",
    "loss",
    "mode_eigenvalue",
    "modes",
    "pencil_modes",
    "sampled_modes",
    "second_moment",
    "singular_value",
    "small_init_trajectory",
    "top_spectral",
]
