"""The stepwise learning of self-supervised models, in JAX.

In which order, and when, does a self-supervised model learn the dimensions of its embedding? A
reproduction and toolkit after Simon et al., "On the stepwise nature of self-supervised learning"
(ICML 2023, arXiv:2303.15438).

Submodules are imported when first used: ``import sslstep; sslstep.linear``.
"""

from typing import Any

from sslstep._lazy import submodules

__all__ = [
    "claims",
    "data",
    "diagnose",
    "dynamics",
    "experiment",
    "gram",
    "kernel_pca",
    "linear",
    "losses",
    "measure",
    "nn",
    "ntk",
    "optim",
    "plotting",
    "recipes",
    "simulate",
    "train",
]


def __getattr__(name: str) -> Any:
    if name == "__version__":
        from importlib.metadata import version

        return version(__name__)
    return submodules(__name__, __all__)(name)


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__, "__version__"})
