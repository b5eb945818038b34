r"""Losses of self-supervised learning, on the embeddings of a batch of positive pairs.

A loss is a function of the embeddings of the whole batch, on any number of devices, and returns a
scalar. Embeddings may have any floating dtype. The losses compute in float32, or in float64 for
float64 embeddings. Every loss raises ValueError if the embeddings of its views are not matrices of
one non-empty shape ``(n, d)``, if they hold NaN or infinity, or if n is 1: a batch of one sample
has no variance and no negatives.
"""

from sslstep._spectral import sharpen, smooth
from sslstep.losses._barlow_twins import (
    barlow_twins,
    hinge_barlow_twins,
    quartic_barlow_twins,
    sharpened_barlow_twins,
    simplified_barlow_twins,
    smoothed_barlow_twins,
    spectral_barlow_twins,
)
from sslstep.losses._contrastive import info_nce, simclr, spectral_contrastive
from sslstep.losses._non_contrastive import (
    VICRegTerms,
    prediction_error,
    reconstruction_error,
    vicreg,
    vicreg_terms,
    w_mse,
)
from sslstep.losses._sigreg import lejepa, sigreg

__all__ = [
    "VICRegTerms",
    "barlow_twins",
    "hinge_barlow_twins",
    "info_nce",
    "lejepa",
    "prediction_error",
    "quartic_barlow_twins",
    "reconstruction_error",
    "sharpen",
    "sharpened_barlow_twins",
    "sigreg",
    "simclr",
    "simplified_barlow_twins",
    "smooth",
    "smoothed_barlow_twins",
    "spectral_barlow_twins",
    "spectral_contrastive",
    "vicreg",
    "vicreg_terms",
    "w_mse",
]
