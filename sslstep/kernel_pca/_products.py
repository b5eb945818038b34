"""A solve's products with a kernel: computed by several processes, and kept in a folder.

The Krylov solver is a function of its products with the kernel: the same products give the same
bits. A folder therefore keeps the products alone, each in a file that is named by a digest of its
block of vectors. The call that resumes a solve repeats it from the start, and reads products
instead of computing them; the rest is cheap beside a kernel. No file depends on the options of the
call, so that a solve with another tolerance, number of modes or operator P reads the products that
it shares with earlier ones.

If a kernel is spread over several processes, the first process alone runs the solver. The others
wait for the width of the next block and take part in its product. Processes that each ran the
solver would need equal bits of every step to stay together, and devices of different kinds do not
give these.
"""

import contextlib
import hashlib
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.experimental import multihost_utils
from jaxtyping import Array

from sslstep import _atomic
from sslstep.kernel_pca._krylov import ConvergenceError

Multiply = Callable[[Array], Array]


@contextlib.contextmanager
def kept(
    folder: str | os.PathLike[str], multiply: Multiply, probe: Array | np.ndarray
) -> Iterator[Multiply]:
    """Lock a folder and yield v → K v, which writes each product to it, or reads it from there.

    `probe` is a product of the kernel with a vector, NaN in rows that are not known. Raise
    ValueError if the folder holds products with another kernel, to which it is compared.
    """
    from sslstep.train._lock import held  # here, because it imports the trainer's packages

    path = Path(os.path.expanduser(folder))
    path.mkdir(parents=True, exist_ok=True)
    with held(path / "lock", f"the solve in {path}"):
        _require_same_kernel(path / "kernel.npy", np.asarray(probe))
        yield lambda v: _read_or_multiply(path, multiply, v)


def _require_same_kernel(path: Path, probe: np.ndarray) -> None:
    if not path.exists():
        _atomic.write(path, lambda file: np.save(file, probe))
    known = np.load(path)
    if (known.shape, known.dtype) != (probe.shape, probe.dtype):
        kinds = (f"{len(a)} samples in {a.dtype}" for a in (known, probe))
        raise ValueError(
            f"folder = {path.parent} holds products with a kernel over {next(kinds)}, and this one "
            f"is over {next(kinds)}: name another folder."
        )
    both = np.isfinite(known) & np.isfinite(probe)
    apart, size = (float(np.linalg.norm(a[both])) for a in (known - probe, known))
    # Sums in another order differ by some eps, times at most the root of the number of terms.
    if apart > 1e3 * float(np.finfo(known.dtype).eps) * size:
        raise ValueError(
            f"folder = {path.parent} holds products with another kernel: one vector's product "
            f"differs by {apart:.1e} where its norm is {size:.1e}. Name another folder for other "
            f"samples or another kernel function."
        )


def _read_or_multiply(folder: Path, multiply: Multiply, v: Array) -> Array:
    block = np.ascontiguousarray(v)
    name = hashlib.sha256(repr((block.shape, str(block.dtype))).encode())
    name.update(block.data)
    path = folder / f"product-{name.hexdigest()[:32]}.npy"
    if path.exists():
        return jnp.asarray(np.load(path))
    image = multiply(v)
    product = np.asarray(image)
    if product.shape == block.shape and np.isfinite(product).all():  # else the solver refuses it
        _atomic.write(path, lambda file: np.save(file, product))
    return image


class _Announced:
    """A kernel of several processes, of which the others are told the width of each block."""

    def __init__(self, kernel: Any) -> None:
        self.kernel, self.probe = kernel, kernel.probe

    def __call__(self, v: Array) -> Array:
        _tell(v.shape[1])
        return self.kernel(v)


def led(kernel: Any, solve: Callable[[Multiply], Any], like: Any, dtype: Any) -> Any:
    """Return `solve(kernel)` of the first process on all processes, which multiply together.

    `like` is a pytree of arrays of the shapes and dtypes of the result, and `dtype` that of the
    blocks. An error of any process is raised on all.
    """
    from sslstep.train._peers import Peers  # here, because it imports the trainer's packages

    peers = Peers(ConvergenceError)
    if jax.process_index() == 0:
        with peers.later():
            like = solve(_Announced(kernel))
        _tell(0)
    else:
        while width := _tell(0):
            with peers.later():
                kernel(jnp.zeros((kernel.size, width), dtype))
    peers.any(0)
    return jax.tree.map(jnp.asarray, multihost_utils.broadcast_one_to_all(like))


def _tell(width: int) -> int:
    """Return the width that the first process gives; 0 says that the solve has ended."""
    return int(multihost_utils.broadcast_one_to_all(np.int32(width)))
