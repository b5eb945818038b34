r"""Neural tangent kernels of infinitely wide and of finite networks.

They are in :mod:`~sslstep.ntk.infinite` and :mod:`~sslstep.ntk.empirical`; how the second approach
the first as networks widen is in :mod:`~sslstep.ntk.fluctuations`. Each is imported on first use.
"""

from sslstep._lazy import submodules

__all__ = ["empirical", "fluctuations", "infinite"]

__getattr__ = submodules(__name__, __all__)
