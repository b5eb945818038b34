"""Measurements on embeddings: spectra, steps, alignment, quality, probes, and a diagnosis."""

from typing import Any

from sslstep._lazy import submodules

__all__ = [
    "alignment",
    "diagnose",
    "diagnosis",
    "power_law",
    "probe",
    "quality",
    "similarity",
    "spectrum",
    "steps",
]

_submodule = submodules(__name__, __all__)


def __getattr__(name: str) -> Any:
    if name == "diagnose":
        return _submodule("diagnosis").diagnose
    return _submodule(name)
