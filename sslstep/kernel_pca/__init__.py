r"""Self-supervised learning with a kernel (Section 5), as a form of kernel PCA.

An infinitely wide network trained with the simplified Barlow Twins loss from a small start learns
the leading modes of its contrastive kernel one at a time:

- :func:`contrastive_modes` computes the modes; products with the kernel suffice.
- :func:`approximate_modes` computes approximate modes, with error bounds, for samples too many for
  the kernel.
- :func:`embed` evaluates the embeddings of any points.
- :func:`gradient_flow_ssl` does both, given a kernel function and positive pairs.

The time at which a mode is learned follows from its eigenvalue γ and its initial singular value
s(0), by the functions of :mod:`sslstep.dynamics`. For other losses and starts:

- :func:`flow` and :func:`gradient_descent` train the kernel machine from any start, on any loss.
- :func:`stepwise_flow` does so efficiently from very small starts.
- :func:`growth_modes` computes the modes that grow under any loss, and their rates.
- :func:`plateaus` computes the levels of the loss between steps.
"""

from sslstep.kernel_pca._approximate import (
    ApproximateModes,
    approximate_growth_modes,
    approximate_modes,
)
from sslstep.kernel_pca._embed import (
    align,
    embed,
    embed_training,
    final_singular_values,
    gradient_flow_ssl,
    learned_kernel,
)
from sslstep.kernel_pca._growth import growth_modes, plateaus
from sslstep.kernel_pca._krylov import ConvergenceError
from sslstep.kernel_pca._machine import KernelDescent, flow, gradient_descent, stepwise_flow
from sslstep.kernel_pca._modes import KernelModes, contrastive_modes, principal_modes

__all__ = [
    "ApproximateModes",
    "ConvergenceError",
    "KernelDescent",
    "KernelModes",
    "align",
    "approximate_growth_modes",
    "approximate_modes",
    "contrastive_modes",
    "embed",
    "embed_training",
    "final_singular_values",
    "flow",
    "gradient_descent",
    "gradient_flow_ssl",
    "growth_modes",
    "learned_kernel",
    "plateaus",
    "principal_modes",
    "stepwise_flow",
]
