"""The training step, compiled for one device or several."""

from collections.abc import Sequence
from typing import Any, Literal

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec
from jaxtyping import Int, PyTree

from sslstep import _check, _xla
from sslstep.train._spread import AXIS
from sslstep.train._step import Metrics, Step, TrainState

__all__ = ["CompiledStep", "compile_step"]

Parallel = Literal["jit", "pmap"]


class CompiledStep:
    """A compiled step, and the ways of its arrays to the devices and back.

    Made by :func:`compile_step`.

    Attributes:
        devices: all devices of the run, those of the first process first.
        parallel: ``"jit"`` or ``"pmap"``.
    """

    devices: tuple[jax.Device, ...]
    parallel: Parallel

    def __init__(self, step: Step, devices: Sequence[jax.Device], parallel: Parallel) -> None:
        # In the caller's order, but for pmap those of a process must stand together.
        self.devices = tuple(sorted(devices, key=lambda device: device.process_index))
        self.parallel = parallel
        mesh = Mesh(np.asarray(self.devices), (AXIS,))
        self._everywhere = NamedSharding(mesh, PartitionSpec())
        self._by_rows = NamedSharding(mesh, PartitionSpec(None, AXIS))

        def run(state, images, indices):
            def one(state, chosen):
                return step(state, jax.tree.map(lambda leaf: leaf[chosen], images))

            if indices.shape[0] > 1:
                return jax.lax.scan(one, state, indices)
            state, metrics = one(state, indices[0])
            return state, jax.tree.map(lambda value: value[None], metrics)

        def run_on_mesh(state, images, indices):
            with jax.sharding.use_abstract_mesh(mesh.abstract_mesh):
                return run(state, images, indices)

        on_cpu = _xla.on_cpu(devices)
        if parallel == "pmap":
            # Devices are always named: by itself pmap takes them in JAX's order.
            self._compiled = jax.pmap(
                _xla.prepared(run, on_cpu),
                AXIS,
                in_axes=(None, None, 1),
                out_axes=None,
                devices=self.devices,
                donate_argnums=0,
            )
        else:
            self._compiled = jax.jit(
                _xla.prepared(run_on_mesh, on_cpu),
                in_shardings=(self._everywhere, self._everywhere, self._by_rows),
                out_shardings=self._everywhere,
                donate_argnums=0,
                compiler_options=_xla.compiler_options(devices),
            )

    def place(self, tree: PyTree) -> PyTree:
        """A copy of every leaf on every device: for a state, and for images before the first step.

        Args:
            tree: pytree of arrays, equal on all processes.

        Returns:
            The tree, as a call takes it. The copies share no memory with ``tree``.
        """
        own = jax.process_index()
        local = [device for device in self.devices if device.process_index == own]

        def placed(leaf):
            copies = [jax.device_put(_copied(leaf), device) for device in local]
            shape = copies[0].shape
            return jax.make_array_from_single_device_arrays(shape, self._everywhere, copies)

        return jax.tree.map(placed, tree)

    def fetch(self, tree: PyTree) -> PyTree:
        """One copy of what :meth:`place` or a step returned, on this process's first device.

        Args:
            tree: a state or metrics.

        Returns:
            The tree. It shares no memory with what is donated to the next step, and outlives it.
        """
        return jax.tree.map(lambda leaf: _copied(leaf.addressable_shards[0].data), tree)

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
        dealt: Any = indices
        if self.parallel == "pmap":
            mine = [device.process_index == jax.process_index() for device in self.devices]
            dealt = indices.reshape(k, -1, len(mine)).swapaxes(1, 2)[:, np.asarray(mine)]
        elif jax.process_count() > 1:
            dealt = jax.make_array_from_callback(
                indices.shape, self._by_rows, lambda index: indices[index]
            )
        return self._compiled(state, images, dealt)


def compile_step(
    step: Step,
    *,
    devices: Sequence[jax.Device] | None = None,
    parallel: Parallel = "jit",
) -> CompiledStep:
    """Compile a step for one device or several, of one process or several.

    The state is donated to each call, images stay on the devices, and several steps can be done in
    one dispatch. With ``jax.distributed`` initialised, devices are those of all processes.

    By default the step is a program of the whole batch, which ``jax.jit`` spreads: every device has
    a share of the rows, and copies of the state and the images. ``"pmap"`` is the older way,
    ``jax.pmap``: each device runs the step on its share, embeddings are gathered, every device
    computes the loss, and gradients are averaged. Its batch norms are those of the whole batch if
    they are flax's (``flax.linen.BatchNorm``) or those of :mod:`sslstep.nn`; a network that
    computes statistics of a batch in another way needs ``"jit"``.

    Args:
        step: from :func:`make_step`.
        devices: in any order. Default: all of JAX's default platform.
        parallel: ``"jit"`` or ``"pmap"``, for any number of devices.

    Returns:
        :class:`CompiledStep`: ``(state, images, indices) -> (state, metrics)``.

    Raises:
        ValueError: if there is no device or none of this process, or no such way.

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
    _check.require_one_of("parallel", parallel, ("jit", "pmap"))
    if not any(device.process_index == jax.process_index() for device in devices):
        raise ValueError(f"devices has none of this process's: {devices}.")
    return CompiledStep(step, devices, parallel)


def _copied(leaf: Any) -> Any:
    """A copy: of what is placed or fetched the one will be donated, and the other outlives that.

    NumPy's stay so until they are put on a device, not on another one before.
    """
    return jnp.array(leaf, copy=True) if isinstance(leaf, jax.Array) else np.array(leaf)
