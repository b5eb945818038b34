"""Measurements on embeddings: spectra, steps and their tests, alignment, quality, probes."""

from sslstep._lazy import submodules

__all__ = ["alignment", "power_law", "probe", "quality", "similarity", "spectrum", "steps"]

__getattr__ = submodules(__name__, __all__)
