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

Parallel = Literal["jit", "pmap"]


class CompiledStep:
    """A training step compiled for given devices, with transfers to and from them.

    Created by :func:`compile_step`.

    Attributes:
        devices: all devices of the run, sorted by process.
        parallel: ``"jit"`` or ``"pmap"``.
    """

    devices: tuple[jax.Device, ...]
    parallel: Parallel

    def __init__(self, step: Step, devices: Sequence[jax.Device], parallel: Parallel) -> None:
        # A stable sort: pmap wants the devices of each process to be adjacent.
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
            # Devices are given explicitly: pmap's default is JAX's order.
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
        """Copy every leaf to every device: the state and the images, before the first step.

        Args:
            tree: pytree of arrays, equal on all processes.

        Returns:
            The tree of copies, for calls of the compiled step. They share no memory with ``tree``.
        """
        own = jax.process_index()
        local = [device for device in self.devices if device.process_index == own]

        def placed(leaf):
            copies = [jax.device_put(_copied(leaf), device) for device in local]
            shape = copies[0].shape
            return jax.make_array_from_single_device_arrays(shape, self._everywhere, copies)

        return jax.tree.map(placed, tree)

    def fetch(self, tree: PyTree) -> PyTree:
        """Copy a state or metrics to the first device of this process.

        Args:
            tree: pytree that :meth:`place` or a call returned.

        Returns:
            The tree of copies. They stay valid after the next call, which takes ``tree`` by
            donation.
        """
        return _copies(jax.tree.map(lambda leaf: leaf.addressable_shards[0].data, tree))

    def __call__(
        self, state: TrainState, images: PyTree, indices: Int[np.ndarray, "k batch"]
    ) -> tuple[TrainState, Metrics]:
        """Run k steps in one dispatch, one for each row of ``indices``.

        Args:
            state: state from :meth:`place` or an earlier call. It is donated and cannot be used
                afterwards.
            images: all images, from :meth:`place`.
            indices: indices of the images in each step's batch, shape ``(k, batch)``, equal on all
                processes.

        Returns:
            The state after the last step, and :class:`Metrics` with a leading axis of length k.

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
    step: Step, *, devices: Sequence[jax.Device] | None = None, parallel: Parallel = "jit"
) -> CompiledStep:
    """Compile a step for one device or several, of one process or several.

    Each call donates the state, reads images that stay on the devices, and may run several steps in
    one dispatch. If ``jax.distributed`` is initialised, the devices are those of all processes.

    With ``"jit"`` the step is one program over the whole batch, which ``jax.jit`` partitions: every
    device holds a share of the batch's rows, and a copy of the state and of all images. With
    ``"pmap"`` each device runs the step on its share of the batch. The embeddings are gathered,
    every device computes the loss, and the gradients are averaged. Batch norms of flax
    (``flax.linen.BatchNorm``) and of :mod:`sslstep.nn` then still use statistics of the whole
    batch. A network that computes batch statistics in another way needs ``"jit"``.

    Args:
        step: the step, from :func:`make_step`.
        devices: the devices, in any order. Default: all devices of JAX's default platform.
        parallel: ``"jit"`` or ``"pmap"``, for any number of devices.

    Returns:
        :class:`CompiledStep`: ``(state, images, indices) -> (state, metrics)``.

    Raises:
        ValueError: if ``devices`` holds no device of this process, or ``parallel`` is unknown.

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


@jax.jit
def _copies(tree: PyTree) -> PyTree:
    """Copy all leaves of a tree in one dispatch."""
    return jax.tree.map(jnp.copy, tree)


def _copied(leaf: Any) -> Any:
    """Copy an array, which protects the original from donation.

    A NumPy array stays one: ``jnp.array`` would put it on the default device first.
    """
    return jnp.array(leaf, copy=True) if isinstance(leaf, jax.Array) else np.array(leaf)
