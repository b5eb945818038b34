r"""The neural tangent kernel of a finite network, exact and within a memory limit.

A forward and a backward pass over a block of samples give the input and the output gradient of
every convolution and matrix product. The kernel is contracted from these, layer by layer, in the
cheaper of two orders: with per-sample gradients or, for layers with few positions, without
(docs/empirical_ntk.md).
"""

from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.tree_util import Partial
from jax.typing import ArrayLike, DTypeLike
from jaxtyping import Array, Float, PyTree, Shaped

from sslstep import _check, _terminal, _xla
from sslstep.ntk import _arguments, _contraction, _program
from sslstep.ntk._matrix_free import Moments, moments, operator, sketch

__all__ = ["Moments", "moments", "ntk", "operator", "sketch"]

GIBIBYTE = 2**30
# Sizes of a pass that are tried if not all samples fit, and the overhead of a pass, in samples.
_AT_A_TIME = (32, 16, 8, 4, 2, 1)
_PASS = 8


def ntk(
    apply_fn: Callable[..., Array],
    params: PyTree,
    x1: Shaped[ArrayLike, "n1 ..."],
    x2: Shaped[ArrayLike, "n2 ..."] | None = None,
    *,
    kind: Literal["scalar", "trace", "full"] = "scalar",
    memory_limit: float = 4 * GIBIBYTE,
    batch_size: int | None = None,
    dtype: DTypeLike | None = None,
    devices: Sequence[jax.Device] | None = None,
    progress: bool | None = None,
) -> Float[Array, "n1 n2"] | Float[Array, "n1 n2 d d"]:
    r"""Compute the empirical NTK (Appendix D.5), exact for any network and tree of parameters.

    A model with d outputs has a d x d block for each pair of samples,

    .. math:: \Theta_{kl}(x, x') = \nabla_\theta f_k(x) \cdot \nabla_\theta f_l(x').

    The theory of Section 5 has a scalar kernel. At infinite width a block is this scalar times the
    identity, which both reductions recover:

    - ``"scalar"``: :math:`\frac1d \sum_{kl} \Theta_{kl}`, the kernel of the function
      :math:`\frac{1}{\sqrt d} \sum_k f_k`, which the paper uses. It needs one backward pass.
    - ``"trace"``: :math:`\frac1d \sum_k \Theta_{kk}`. It does not depend on the basis of the
      outputs, and is closer to the limit: the d(d - 1) off-diagonal terms of ``"scalar"`` are
      noise that does not average out. It needs d backward passes.
    - ``"full"``: the blocks :math:`\Theta_{kl}`, for few samples and outputs.

    Samples are processed in blocks that fit into ``memory_limit``.

    Args:
        apply_fn: the model, ``apply_fn(params, x) -> (n, d)``, such as a flax module's ``apply``.
            It must map each sample independently: batch norm with fixed statistics, no dropout.
            This is checked on four samples, except under a trace. As with ``jax.jit``, a function
            is compiled once: pass the same function at every call, without hidden state. Bind
            arrays that change between calls with :class:`jax.tree_util.Partial`, and flags with
            ``functools.partial``.
        params: parameters, a pytree of floating-point arrays; for a flax module its collection
            ``"params"`` without the others.
        x1: samples, shape ``(n1, ...)``.
        x2: other samples, shape ``(n2, ...)``; None for ``x1``.
        kind: ``"scalar"``, ``"trace"`` or ``"full"``.
        memory_limit: bytes that may be used on each device, besides parameters and samples.
        batch_size: number of samples in a block. None: as many as ``memory_limit`` admits. If it is
            given, ``memory_limit`` bounds only the working space of products.
        dtype: dtype of sums and result, float32 or float64 (with x64 enabled). None: the widest
            dtype of the parameters and float32. Products are in full precision.
        devices: devices over which rows of blocks are distributed, with a thread for each. None:
            JAX's default device.
        progress: whether to show a progress bar over pairs of blocks. None: on a terminal, if there
            are several pairs.

    Returns:
        The kernel in ``dtype``, of shape ``(n1, n2)``, or ``(n1, n2, d, d)`` for ``"full"``. It is
        exactly symmetric with ``x2=None``.

    Raises:
        ValueError: if samples are empty, not finite, or of different kinds; if ``params`` holds
            other arrays than floating-point parameters; if ``apply_fn`` does not return floats
            ``(n, d)``, lets samples interact or does not depend on ``params``; or if an option is
            not as described.
        TypeError: if samples are not an array of numbers, ``apply_fn`` does not return one array,
            or ``memory_limit`` is not a number.

    Example:
        >>> import jax.numpy as jnp
        >>> from sslstep.ntk import empirical
        >>> def linear_model(weights, x):
        ...     return x @ weights
        >>> x = jnp.array([[1.0, 2.0], [0.0, 1.0]])
        >>> empirical.ntk(linear_model, jnp.ones((2, 3)), x)  # x xᵀ
        Array([[5., 2.],
               [2., 1.]], dtype=float32)
    """
    _check.require_one_of("kind", kind, ("scalar", "trace", "full"))
    x1, other = _arguments.both_samples(x1, x2)
    apply_fn, params, dim = _arguments.model(apply_fn, params, x1)
    memory_limit = _arguments.num_bytes("memory_limit", memory_limit)
    dtype = _arguments.accumulator(dtype, params)
    if batch_size is not None:
        _arguments.require_count("batch_size", batch_size)
    if devices is not None and (isinstance(devices, jax.Device) or not devices):
        raise ValueError(f"devices must be a list of at least one device, got {devices!r}.")
    program = _read(apply_fn, params, x1.shape[1:], x1.dtype)
    if not program.sites and not program.others:
        raise ValueError("apply_fn does not depend on params: its kernel is zero.")
    _arguments.require_separate(apply_fn, params, x1, program.consts)
    nums = (len(x1),) if x2 is None else (len(x1), len(other))
    plan = _plan(program, nums, dim, kind, memory_limit, batch_size, dtype)
    rows = _arguments.blocks(x1, plan.block_of(len(x1)))
    columns = rows if x2 is None else _arguments.blocks(other, plan.block_of(len(other)))
    kernel = _kernel(
        plan, program, apply_fn, params, rows, columns, len(nums) == 1, devices, progress
    )
    return kernel[: len(x1), : len(other)]


class _Plan(NamedTuple):
    """Division of the work into blocks and passes."""

    kind: Literal["scalar", "trace", "full"]
    dim: int
    batch_size: int  # samples in a block
    at_a_time: int  # samples of a block that pass through the model together
    num_directions: int  # outputs whose backward passes are held at a time
    workspace: int  # bytes for products
    dtype: np.dtype

    def block_of(self, num: int) -> int:
        """Return the number of samples in a block, if there are `num` samples.

        It is `batch_size`, or the smallest multiple of a pass that holds all samples.
        """
        part = min(self.at_a_time, num)
        return min(self.batch_size, -(-num // part) * part)


def _plan(program, nums, dim, kind, memory_limit, batch_size, dtype) -> _Plan:
    """Choose the largest blocks and numbers of directions that fit into memory.

    `nums` holds the numbers of samples, (n,) if x2 is None, otherwise (n1, n2).
    """
    num = dim if kind == "full" else 1
    # The result is held twice: whole and in parts.
    result = 2 * nums[0] * nums[-1] * num**2 * dtype.itemsize
    workspace = memory_limit // 4
    free = memory_limit - workspace - result
    largest = max(nums)

    def fitting(directions):
        """Return the number of samples in a block, and in a pass, for `directions` outputs."""
        kept, beside = program.sizes(directions)
        if sum(nums) * kept + largest * beside <= free:
            return largest, largest
        found, least = (0, 1), float("inf")
        for part in _AT_A_TIME:
            # Memory left for the arrays of all samples, or of two blocks, beside one pass.
            left = free - part * (kept + beside)
            whole = [-(-num // part) * part for num in nums]
            size = max(whole) if sum(whole) * kept <= left else left // (2 * kept) // part * part
            if size < 1:
                continue
            num = -(-largest // size)
            size = -(-largest // (num * part)) * part  # blocks of nearly equal size
            cost = num * (num + 1) * size * (1 + _PASS / part)
            if cost < least:
                found, least = (size, part), cost
        return found

    directions = 1 if kind == "scalar" else dim
    while kind == "trace" and directions > 1 and fitting(directions)[0] < min(64, fitting(1)[0]):
        directions = -(-directions // 2)
    found, at_a_time = fitting(directions)
    if batch_size is not None:
        found = at_a_time = min(batch_size, largest)
    if found < 1:
        kept, beside = program.sizes(directions)
        raise ValueError(
            f"memory_limit = {memory_limit} bytes is too small: a block of one sample needs "
            f"{3 * kept + beside} bytes, the kernel {result}, and a quarter of the limit is "
            f"reserved for products."
        )
    return _Plan(kind, dim, found, at_a_time, directions, max(workspace, 1), dtype)


def _kernel(
    plan: _Plan,
    program: _program.Program,
    apply_fn: Partial,
    params: PyTree,
    rows: Array,
    columns: Array,
    symmetric: bool,
    devices: Sequence[jax.Device] | None,
    progress: bool | None,
) -> Array:
    """Compute the kernel of all pairs of blocks of samples (blocks, size, ...)."""
    known = (rows, columns, *program.consts, *jax.tree.leaves((apply_fn, params)))
    concrete = not _check.is_traced(*known)
    used = _xla.devices_of(rows) if devices is None else devices
    # Inside a trace the computation is part of the traced program.
    capture: Any = _xla.jit(_capture, used) if concrete else _capture
    parts: dict[tuple[int, int], Array] = {}
    sites, full = list(program.sites.values()), plan.kind == "full"
    groups = _directions(plan)

    def work(device: jax.Device | None, own: range) -> None:
        model: Any = jax.device_put((apply_fn, params), device)
        settings: Any = {"dtype": plan.dtype, "workspace": plan.workspace}
        for directions in groups:
            for i in own:
                left = capture(*model, _passes(plan, rows[i], device), directions)
                for j in range(i if symmetric else 0, len(columns)):
                    right = None
                    if not (symmetric and i == j):
                        right = capture(*model, _passes(plan, columns[j], device), directions)
                    part = _contraction.contract(sites, left, right, full=full, **settings)
                    del right  # frees memory before the next pass
                    parts[i, j] = part if (i, j) not in parts else parts[i, j] + part
                    if concrete:
                        jax.block_until_ready(parts[i, j])
                    bar.update()
                del left

    num_pairs = len(rows) * (len(rows) + 1) // 2 if symmetric else len(rows) * len(columns)
    total = num_pairs * len(groups)
    show = False if progress is None and total == 1 else progress
    with _terminal.progress_bar(show, total=total, desc="NTK", unit=" blocks") as bar:
        if devices is None or not concrete:
            work(None, range(len(rows)))
        else:  # rows are interleaved, as those of a symmetric kernel become shorter
            with ThreadPoolExecutor(len(devices)) as pool:
                own = [range(k, len(rows), len(devices)) for k in range(len(devices))]
                list(pool.map(_xla.for_threads(work), devices, own))
            parts = jax.device_put(parts, devices[0])
    return _joined(plan, parts, len(rows), len(columns), symmetric)


def _joined(plan: _Plan, parts: Any, num_rows: int, num_columns: int, symmetric: bool) -> Array:
    """Join the parts, each of shape (size, F, size, F) for F directions, to one kernel."""
    zeros = jnp.zeros_like(parts[0, 0])  # below the diagonal, if the kernel is symmetric
    strips = [[parts.get((i, j), zeros) for j in range(num_columns)] for i in range(num_rows)]
    kernel = jnp.concatenate([jnp.concatenate(strip, axis=2) for strip in strips])
    n1, num, n2, _ = kernel.shape
    if symmetric:
        flat = kernel.reshape(n1 * num, n2 * num)
        kernel = (jnp.triu(flat) + jnp.triu(flat, 1).T).reshape(kernel.shape)
    return kernel.transpose(0, 2, 1, 3) if plan.kind == "full" else kernel[:, 0, :, 0] / plan.dim


def _directions(plan: _Plan) -> list[Array]:
    """Return the linear combinations of outputs to differentiate, in groups of shape (D, d)."""
    if plan.kind == "scalar":
        return [jnp.ones((1, plan.dim))]
    size = plan.num_directions
    padded = jnp.eye(-(-plan.dim // size) * size, plan.dim)
    return list(padded.reshape(-1, size, plan.dim))


def _read(apply_fn, params, shape, dtype) -> _program.Program:
    return _program.read(Partial.__call__, apply_fn, params, jax.ShapeDtypeStruct(shape, dtype))


def _passes(plan: _Plan, block: Array, device: jax.Device | None) -> Array:
    """Reshape the samples of a block to passes: (passes, samples at a time, ...)."""
    block = jax.device_put(block, device)
    return block.reshape(-1, min(plan.at_a_time, len(block)), *block.shape[1:])


def _capture(apply_fn, params, passes, directions):
    program = _read(apply_fn, params, passes.shape[2:], passes.dtype)
    fixed, leaves = jax.tree.leaves(apply_fn), jax.tree.leaves(params)

    def capture(samples):
        return program.capture(fixed, leaves, samples, directions)

    if len(passes) == 1:
        return capture(passes[0])
    joined = jax.lax.map(capture, passes)
    return jax.tree.map(lambda leaf: leaf.reshape(-1, *leaf.shape[2:]), joined)
