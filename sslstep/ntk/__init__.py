r"""Neural tangent kernels: :mod:`~sslstep.ntk.infinite` and :mod:`~sslstep.ntk.empirical`.

Each is imported when it is asked for: ``from sslstep.ntk import infinite``.
"""
