"""Measurements on embeddings: spectra, steps and their tests, alignment of subspaces, probes."""

from sslstep._lazy import submodules

__all__ = ["alignment", "probe", "spectrum", "steps"]

__getattr__ = submodules(__name__, __all__)
