"""Measurements on embeddings: spectra and the times at which their dimensions are learned."""

from sslstep._lazy import submodules

__all__ = ["alignment", "probe", "spectrum", "steps"]

__getattr__ = submodules(__name__, __all__)
