"""Measurements on embeddings: spectra, steps and their tests, alignment, probes; power laws."""

from sslstep._lazy import submodules

__all__ = ["alignment", "power_law", "probe", "spectrum", "steps"]

__getattr__ = submodules(__name__, __all__)
