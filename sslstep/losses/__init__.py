r"""Losses of self-supervised learning, on the embeddings of a batch of positive pairs.

Embeddings may be of any floating type: all arithmetic and every sum is in float32, or in float64 if
they are. A batch of one sample, on all devices together, is refused: its variance is 0, it has no
negatives, and a loss of it would have no gradient.

On several devices, within ``jax.pmap`` or ``jax.shard_map``, give ``axis_name``: ``z`` and
``z_prime`` are then this device's share of the batch, and the loss is that of the whole batch,
equal on every device. For its gradient by parameters that every device has a copy of, take the mean
of the devices' gradients::

    grads = jax.lax.pmean(jax.grad(loss_of_params)(params), axis_name)

The reason: what a device differentiates is the sum of all devices' losses, that is, of as many
copies of one loss as there are devices. Under ``jax.shard_map`` with ``check_vma=True``, JAX's
default, the gradient by replicated parameters is the whole one already, and its mean changes
nothing.
"""

from sslstep._spectral import sharpen, smooth
from sslstep.losses._barlow_twins import barlow_twins, simplified_barlow_twins
from sslstep.losses._batch import AxisName as AxisName
from sslstep.losses._simclr import simclr
from sslstep.losses._spectral_barlow_twins import (
    hinge_barlow_twins,
    quartic_barlow_twins,
    sharpened_barlow_twins,
    smoothed_barlow_twins,
    spectral_barlow_twins,
)
from sslstep.losses._vicreg import VICRegTerms, vicreg, vicreg_terms

__all__ = [
    "VICRegTerms",
    "barlow_twins",
    "hinge_barlow_twins",
    "quartic_barlow_twins",
    "sharpen",
    "sharpened_barlow_twins",
    "simclr",
    "simplified_barlow_twins",
    "smooth",
    "smoothed_barlow_twins",
    "spectral_barlow_twins",
    "vicreg",
    "vicreg_terms",
]
