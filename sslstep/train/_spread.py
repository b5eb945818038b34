"""A batch that lies on several devices, as the step sees it.

Under ``jit`` the step has the whole batch, and XLA spreads its rows. Under ``pmap`` it has one
device's share, dealt out like cards: of D devices the i-th has the samples i, i + D, i + 2D, ....
"""

import contextlib
from typing import Any

import jax
import jax.numpy as jnp
from flax import linen
from jax.sharding import PartitionSpec
from jaxtyping import Array, PyTree

from sslstep.nn import _layers

__all__ = ["AXIS", "gathered", "is_mapped", "mean", "places", "split", "synchronised"]

# The axis of devices: the mesh's under jit, the mapped one under pmap.
AXIS = "sslstep devices"


def is_mapped() -> bool:
    """Whether the step is traced within pmap."""
    try:
        jax.lax.axis_size(AXIS)
    except NameError:
        return False
    return True


def places(num: int) -> Array:
    """Where in the whole batch the samples at hand are."""
    own = jnp.arange(num)
    return jax.lax.axis_index(AXIS) + jax.lax.axis_size(AXIS) * own if is_mapped() else own


def gathered(embeddings: PyTree) -> PyTree:
    """The embeddings of the whole batch, in its order."""
    if not is_mapped():
        return embeddings
    return jax.tree.map(
        lambda z: jax.lax.all_gather(z, AXIS, axis=1).reshape(-1, *z.shape[1:]), embeddings
    )


def mean(grads: PyTree) -> PyTree:
    """The gradient of the loss, from what each device has found.

    A device differentiates the sum of all devices' losses: of as many copies as there are devices.
    """
    return jax.lax.pmean(grads, AXIS) if is_mapped() else grads


def split(a: Array, num: int) -> Array:
    """Cut along the first axis; the rows of each part are spread over all devices."""
    a = a.reshape(num, a.shape[0] // num, *a.shape[1:])
    mesh = jax.sharding.get_abstract_mesh()
    if not is_mapped() and AXIS in mesh.axis_names and a.shape[1] % mesh.shape[AXIS] == 0:
        a = jax.lax.with_sharding_constraint(a, PartitionSpec(None, AXIS))
    return a


@contextlib.contextmanager
def synchronised() -> Any:
    """A block in which flax's batch norms, and ours, have the statistics of the whole batch."""

    def over_devices(call: Any, args: Any, settings: Any, context: Any) -> Any:
        module = context.module
        if isinstance(module, linen.BatchNorm | _layers.BatchNorm):
            # The module is flax's copy for this call, and frozen for everybody else.
            object.__setattr__(module, "axis_name", AXIS)
        return call(*args, **settings)

    with linen.intercept_methods(over_devices) if is_mapped() else contextlib.nullcontext():
        yield
