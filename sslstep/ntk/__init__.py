r"""Neural tangent kernels: :mod:`~sslstep.ntk.infinite` and :mod:`~sslstep.ntk.empirical`.

Each is imported when it is first used.
"""

from sslstep._lazy import submodules

__all__ = ["empirical", "infinite"]

__getattr__ = submodules(__name__, __all__)
