r"""Self-supervised learning with a kernel (Section 5): a kernel PCA, exact at every time.

An infinitely wide network trained with the simplified Barlow Twins loss learns the leading modes of
its contrastive kernel one at a time. :func:`contrastive_modes` finds them by products with the
kernel alone, :func:`embed` evaluates the embeddings anywhere, and :func:`gradient_flow_ssl` does
both from a kernel function and positive pairs. When each mode is learned is a matter of its
eigenvalue: see :mod:`sslstep.linear`, whose functions of γ and s(0) hold here as they are. That is
the theory of small starts; :func:`flow` and :func:`gradient_descent` train the kernel machine from
any start, on any loss. Which modes grow under any loss, and at what rates, :func:`growth_modes`
finds, :func:`stepwise_flow` follows them from a start however small, and :func:`plateaus` has the
levels at which it rests. :func:`approximate_modes` finds the modes of samples too many for their
kernel, with bounds.
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
from sslstep.kernel_pca._machine import KernelDescent, flow, gradient_descent
from sslstep.kernel_pca._modes import (
    KernelModes,
    contrastive_modes,
    principal_modes,
)
from sslstep.kernel_pca._stepwise import stepwise_flow

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
