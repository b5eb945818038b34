r"""Neural tangent kernels (NTKs) of infinitely wide and of finite networks.

:mod:`~sslstep.ntk.infinite` has kernels of infinitely wide networks, and
:mod:`~sslstep.ntk.empirical` those of finite networks. :mod:`~sslstep.ntk.fluctuations` predicts
the difference at a given width. Each module is imported on first use.
"""

from sslstep._lazy import submodules

__all__ = ["empirical", "fluctuations", "infinite"]

__getattr__ = submodules(__name__, __all__)
