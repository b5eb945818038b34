"""The training step, compiled for one device or several."""

from collections.abc import Sequence
from functools import partial
from typing import Any, Literal

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec
from jaxtyping import Array, Int, PyTree

from sslstep import _check, _xla
from sslstep.train._step import Metrics, Step, TrainState

__all__ = ["CompiledStep", "compile_step"]

_AXIS = "devices"

Parallel = Literal["jit", "pmap", "shard_map"]


class CompiledStep:
    """A compiled step, and the ways of its arrays to the devices and back.

    Made by :func:`compile_step`.

    Attributes:
        devices: all devices of the run, those of the first process first.
        num_local: how many of them belong to this process.
        parallel: ``"jit"``, ``"pmap"`` or ``"shard_map"``.
    """

    devices: tuple[jax.Device, ...]
    num_local: int
    parallel: Parallel

    def __init__(self, step: Step, devices: Sequence[jax.Device], parallel: Parallel) -> None:
        # In the caller's order, but for pmap those of a process must stand together.
        self.devices = tuple(sorted(devices, key=lambda device: device.process_index))
        self.parallel = parallel
        local = [device for device in self.devices if device.process_index == jax.process_index()]
        self.num_local = len(local)
        axis_name = None if parallel == "jit" else _AXIS
        prepared = partial(_xla.prepared, for_cpu=_xla.on_cpu(devices))

        def run(state, images, indices):
            def one(state, chosen):
                batch = jax.tree.map(lambda leaf: leaf[chosen], images)
                return step(state, batch, axis_name=axis_name)

            if indices.shape[0] > 1:
                return jax.lax.scan(one, state, indices)
            state, metrics = one(state, indices[0])
            return state, jax.tree.map(lambda value: value[None], metrics)

        if parallel == "jit":
            options = _xla.compiler_options(devices)
            self._compiled = jax.jit(prepared(run), donate_argnums=0, compiler_options=options)
        elif parallel == "pmap":
            # Only this process's devices have a place in the arrays that it hands to pmap.
            self._mesh = Mesh(np.asarray(local), (_AXIS,))
            # Always named: by itself pmap takes them in JAX's order, where the arrays do not lie.
            self._compiled = jax.pmap(prepared(run), _AXIS, devices=self.devices, donate_argnums=0)
        else:
            self._mesh = Mesh(np.asarray(self.devices), (_AXIS,))
            one, share = PartitionSpec(), PartitionSpec(None, _AXIS)
            mapped = jax.shard_map(
                run, mesh=self._mesh, in_specs=(one, one, share), out_specs=(one, one)
            )
            options = _xla.compiler_options(devices)
            self._compiled = jax.jit(prepared(mapped), donate_argnums=0, compiler_options=options)

    def place(self, tree: PyTree) -> PyTree:
        """A copy of every leaf on every device: for a state, and for images before the first step.

        Args:
            tree: pytree of arrays, equal on all processes.

        Returns:
            The tree, as a call takes it. The copies share no memory with ``tree``.
        """
        if self.parallel == "jit":
            place = lambda leaf: _put(leaf, self.devices[0])  # noqa: E731
        elif self.parallel == "pmap":
            split = NamedSharding(self._mesh, PartitionSpec(_AXIS))
            place = lambda leaf: _stacked(leaf, self.num_local, split)  # noqa: E731
        else:
            whole = NamedSharding(self._mesh, PartitionSpec())
            place = lambda leaf: _replicated(leaf, whole)  # noqa: E731
        return jax.tree.map(place, tree)

    def fetch(self, tree: PyTree) -> PyTree:
        """One copy of what :meth:`place` or a step returned, on this process's first device.

        Args:
            tree: a state or metrics.

        Returns:
            The tree, without the axis of devices. It shares no memory with what is donated to the
            next step, and outlives it.
        """
        if self.parallel == "jit":
            return jax.tree.map(_copied, tree)
        first = jax.tree.map(lambda leaf: leaf.addressable_shards[0].data, tree)
        return jax.tree.map((lambda leaf: leaf[0]) if self.parallel == "pmap" else _copied, first)

    def __call__(
        self, state: TrainState, images: PyTree, indices: Int[np.ndarray, "k batch"]
    ) -> tuple[TrainState, Metrics]:
        """As many steps as ``indices`` has rows, in one dispatch.

        Args:
            state: from :meth:`place` or an earlier call. It is donated: use the returned one.
            images: all images, from :meth:`place`.
            indices: which images each step's batch has, equal on all processes.

        Returns:
            The new state, and the metrics of each step, a leading axis of length k.

        Raises:
            ValueError: if the number of devices does not divide the batch.
        """
        k, batch = indices.shape
        if batch % len(self.devices):
            raise ValueError(
                f"the batch has {batch} images, which {len(self.devices)} devices cannot share "
                f"evenly: choose a multiple."
            )
        # Dealt out like cards: whichever part of its share a device takes first, all devices
        # together take the first part of the batch, as one device would.
        shares = indices.reshape(k, -1, len(self.devices)).swapaxes(1, 2)
        if self.parallel == "pmap":
            mine = [d.process_index == jax.process_index() for d in self.devices]
            indices = shares[:, np.asarray(mine)].swapaxes(0, 1)
        elif self.parallel == "shard_map":
            dealt = shares.reshape(k, batch)
            share = NamedSharding(self._mesh, PartitionSpec(None, _AXIS))
            return self._compiled(
                state,
                images,
                jax.make_array_from_callback(dealt.shape, share, lambda index: dealt[index]),
            )
        return self._compiled(state, images, indices)


def compile_step(
    step: Step,
    *,
    devices: Sequence[jax.Device] | None = None,
    parallel: Parallel | None = None,
) -> CompiledStep:
    """Compile a step: ``jax.jit`` for one device, ``jax.pmap`` for several.

    The state is donated to each call, images stay on the devices, and several steps can be done in
    one dispatch. With ``jax.distributed`` initialised, devices are those of all processes.

    Args:
        step: from :func:`make_step`.
        devices: in any order. Default: all of JAX's default platform.
        parallel: ``"jit"`` for one device; ``"pmap"`` or ``"shard_map"`` for any number. Default:
            ``"jit"`` for one and ``"pmap"`` for several.

    Returns:
        :class:`CompiledStep`: ``(state, images, indices) -> (state, metrics)``.

    Raises:
        ValueError: if there is no device, none of this process, or ``"jit"`` is asked for with
            several.

    Example:
        >>> import jax, jax.numpy as jnp, numpy as np, optax
        >>> from sslstep import data, losses, nn, train
        >>> backbone = nn.ResNet(stage_sizes=(1,), width=4, stem="small")
        >>> network = nn.Encoder(backbone, nn.Projector(hidden=(8,), dim=3))
        >>> sgd = optax.sgd(0.1)
        >>> def two_crops(keys, images):
        ...     return data.two_views(keys, images, data.crop_views(8))
        >>> step = train.make_step(network, losses.barlow_twins, sgd, two_crops)
        >>> compiled = train.compile_step(step, devices=jax.devices()[:1])
        >>> state = train.init_state(jax.random.key(0), network, sgd, jnp.zeros((1, 8, 8, 3)))
        >>> images = np.random.default_rng(0).integers(0, 256, (32, 12, 12, 3), np.uint8)
        >>> indices = train.batch_indices(state.key, 0, 2, batch_size=16, num_images=32)
        >>> state, metrics = compiled(compiled.place(state), compiled.place(images), indices)
        >>> int(state.step), metrics.loss.shape
        (2, (2,))
    """
    devices = jax.devices() if devices is None else list(devices)
    if parallel is None:
        parallel = "jit" if len(devices) == 1 else "pmap"
    _check.require_one_of("parallel", parallel, ("jit", "pmap", "shard_map"))
    if parallel == "jit" and len(devices) != 1:
        raise ValueError(f'parallel="jit" is for one device, and devices has {len(devices)}.')
    if not any(device.process_index == jax.process_index() for device in devices):
        raise ValueError(f"devices has none of this process's: {devices}.")
    return CompiledStep(step, devices, parallel)


def _copied(leaf: Any) -> Any:
    """A copy: of what is placed or fetched the one will be donated, and the other outlives that."""
    return jnp.array(leaf, copy=True)


def _put(leaf: Any, device: jax.Device) -> Array:
    if isinstance(leaf, jax.Array):
        return jax.device_put(_copied(leaf), device)
    # Straight there, not by way of another device; device_put may keep NumPy's memory as its own.
    return jax.device_put(np.array(leaf), device)


def _stacked(leaf: Any, num: int, sharding: NamedSharding) -> Array:
    leaf = jnp.array(leaf, copy=True)
    parts = [jax.device_put(leaf[None], device) for device in sharding.mesh.devices.flat]
    return jax.make_array_from_single_device_arrays((num, *leaf.shape), sharding, parts)


def _replicated(leaf: Any, sharding: NamedSharding) -> Array:
    leaf = jnp.array(leaf, copy=True)
    parts = [
        jax.device_put(leaf.copy(), device)
        for device in sharding.mesh.devices.flat
        if device.process_index == jax.process_index()
    ]
    return jax.make_array_from_single_device_arrays(leaf.shape, sharding, parts)
