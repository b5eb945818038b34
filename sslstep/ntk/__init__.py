r"""Neural tangent kernels of infinitely wide and of finite networks.

They are in :mod:`~sslstep.ntk.infinite` and :mod:`~sslstep.ntk.empirical`, which are imported on
first use.
"""

from sslstep._lazy import submodules

__all__ = ["empirical", "infinite"]

__getattr__ = submodules(__name__, __all__)
