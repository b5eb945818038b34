"""Losses on four virtual devices against one: `four_devices.py LOSSES RTOL`, LOSSES in Python.

Values to RTOL, gradients to a thousand times that, under pmap and under shard_map, of one axis and
of two.
"""

import os
import sys
from functools import partial

os.environ |= {"XLA_FLAGS": "--xla_force_host_platform_device_count=4", "JAX_PLATFORMS": "cpu"}

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh
from jax.sharding import PartitionSpec as P

from sslstep import losses, optim


def main(chosen, rtol):
    assert jax.device_count() == 4
    jax.config.update("jax_enable_x64", True)
    rng = np.random.default_rng(0)
    x, x_prime = (jnp.asarray(rng.normal(size=(24, 5))) for _ in range(2))
    w = jnp.asarray(rng.normal(size=(5, 6)))
    for loss in chosen:
        compare(loss, w, x, x_prime, rtol)
    print("agree")


def compare(loss, w, x, x_prime, rtol):
    shares = [view.reshape(4, 6, 5) for view in (x, x_prime)]
    mesh = Mesh(np.array(jax.devices()), ("i",))
    grid = Mesh(np.array(jax.devices()).reshape(2, 2), ("i", "j"))

    def of_weights(w, x, x_prime, **kwargs):
        return loss(jnp.tanh(x @ w), jnp.tanh(x_prime @ w), **kwargs)

    def shared(w, x, x_prime, axis_name="i"):
        value, grad = jax.value_and_grad(partial(of_weights, axis_name=axis_name))(w, x, x_prime)
        return value, jax.lax.pmean(grad, axis_name)

    value, grad = jax.jit(jax.value_and_grad(of_weights))(w, x, x_prime)
    by_pmap = jax.pmap(shared, "i", in_axes=(None, 0, 0))(w, *shares)
    found = [jax.tree.map(lambda leaf, each=each: leaf[each], by_pmap) for each in range(4)]
    for devices, axis_name in ((mesh, "i"), (grid, ["i", "j"]), (grid, ("j", "i"))):
        share = P(tuple(axis_name))
        specs = {"mesh": devices, "in_specs": (P(), share, share), "out_specs": (P(), P())}
        for check in (True, False):
            each = partial(shared, axis_name=axis_name)
            mapped = jax.jit(jax.shard_map(each, check_vma=check, **specs))
            found.append(mapped(w, x, x_prime))
    for its_value, its_grad in found:
        np.testing.assert_allclose(its_value, value, rtol=rtol)
        np.testing.assert_allclose(its_grad, grad, rtol=1e3 * rtol, atol=rtol)


if __name__ == "__main__":
    names = {"losses": losses, "optim": optim, "partial": partial}
    main(eval(sys.argv[1], names), float(sys.argv[2]))
