"""Operations of the step on a batch that is spread over several devices.

Under ``jit`` the step sees the whole batch, and XLA spreads its rows. Under ``pmap`` it sees one
device's share: device i of D has the samples i, i + D, i + 2D, ....
"""

import contextlib
from typing import Any

import jax
import jax.numpy as jnp
from flax import linen
from jax.sharding import PartitionSpec
from jaxtyping import Array, PyTree

from sslstep.nn import _layers

# Name of the axis of devices: of the mesh under jit, of the mapped axis under pmap.
AXIS = "sslstep devices"


def is_mapped() -> bool:
    """Whether the step is traced within pmap."""
    try:
        jax.lax.axis_size(AXIS)
    except NameError:
        return False
    return True


def places(num: int) -> Array:
    """Indices in the whole batch of the `num` samples that the step sees."""
    own = jnp.arange(num)
    return jax.lax.axis_index(AXIS) + jax.lax.axis_size(AXIS) * own if is_mapped() else own


def gathered(embeddings: PyTree) -> PyTree:
    """Gather the embeddings of the whole batch from all devices, in the order of the batch."""
    if not is_mapped():
        return embeddings
    return jax.tree.map(
        lambda z: jax.lax.all_gather(z, AXIS, axis=1).reshape(-1, *z.shape[1:]), embeddings
    )


def mean(grads: PyTree) -> PyTree:
    """Average the gradients of all devices, which gives the gradient of the loss.

    Each of D devices computes the same loss from gathered embeddings. Its gradient is its share of
    the gradient of the sum of these D copies.
    """
    return jax.lax.pmean(grads, AXIS) if is_mapped() else grads


def split(a: Array, num: int) -> Array:
    """Split an array into `num` parts along its first axis; spread each part over all devices."""
    a = a.reshape(num, a.shape[0] // num, *a.shape[1:])
    mesh = jax.sharding.get_abstract_mesh()
    if not is_mapped() and AXIS in mesh.axis_names and a.shape[1] % mesh.shape[AXIS] == 0:
        a = jax.lax.with_sharding_constraint(a, PartitionSpec(None, AXIS))
    return a


@contextlib.contextmanager
def synchronised() -> Any:
    """Context in which batch norms of flax and sslstep use the whole batch's statistics."""

    def over_devices(call: Any, args: Any, settings: Any, context: Any) -> Any:
        module = context.module
        if isinstance(module, linen.BatchNorm | _layers.BatchNorm):
            # Flax modules are frozen; this one is flax's copy for this call.
            object.__setattr__(module, "axis_name", AXIS)
        return call(*args, **settings)

    with linen.intercept_methods(over_devices) if is_mapped() else contextlib.nullcontext():
        yield
