"""The empirical NTK as an operator."""

from collections.abc import Callable
from typing import Literal

import jax
import jax.numpy as jnp
from jax import lax
from jax.tree_util import Partial
from jax.typing import ArrayLike
from jaxtyping import Array, Float, PyTree, Shaped

from sslstep import _check, _xla
from sslstep.ntk import _arguments, _separate


def operator(
    apply_fn: Callable[..., Array],
    params: PyTree,
    x: Shaped[ArrayLike, "n ..."],
    *,
    kind: Literal["scalar", "trace"] = "scalar",
    batch_size: int = 64,
    num_columns: int = 8,
) -> Callable[[Float[ArrayLike, "n b"]], Float[Array, "n b"]]:
    r"""v → Θ v without Θ, by one VJP and one JVP for each column.

    .. math:: \Theta v = J (J^\top v), \qquad
              J = \nabla_\theta \frac{1}{\sqrt d} \sum_k f_k(x_i) \text{ for "scalar"},

    and for "trace" the mean of :math:`J_k J_k^\top v` over outputs. For positive pairs give both
    views one after the other: it is then the K̃ of Eq. 22 that
    :func:`sslstep.kernel_pca.contrastive_modes` takes as it is. It pays where n² numbers are too
    many: each column costs some five forward passes over all samples, so that of n columns
    :func:`ntk` is far cheaper.

    Args:
        apply_fn: as in :func:`ntk`.
        params: as in :func:`ntk`.
        x: samples, shape ``(n, ...)``.
        kind: ``"scalar"``, or ``"trace"`` in d times the time.
        batch_size: samples whose passes are held at a time.
        num_columns: columns of v done at a time; each takes as much memory as the parameters.

    Returns:
        A function from v, shape ``(n, b)``, to Θ v, of the same shape and dtype. Traceable. J^T v
        is added up over blocks in float32 at least, and rounded to the parameters' precision once.

    Raises:
        ValueError: as :func:`ntk`; when called, if v does not fit or is not finite.
        TypeError: as :func:`ntk`.

    Example:
        >>> import jax.numpy as jnp
        >>> from sslstep.ntk import empirical
        >>> def linear_model(weights, x):
        ...     return x @ weights
        >>> x = jnp.array([[1.0, 2.0], [0.0, 1.0]])
        >>> empirical.operator(linear_model, jnp.ones((2, 3)), x)(jnp.eye(2))
        Array([[5., 2.],
               [2., 1.]], dtype=float32)
    """
    _check.require_one_of("kind", kind, ("scalar", "trace"))
    x = _arguments.samples("x", x)
    params = _arguments.parameters(params)
    dim = _arguments.output_dim(apply_fn, params, x)
    _arguments.require_count("batch_size", batch_size)
    _arguments.require_count("num_columns", num_columns)
    apply_fn = apply_fn if isinstance(apply_fn, Partial) else Partial(apply_fn)
    directions = jnp.ones((1, dim)) if kind == "scalar" else jnp.eye(dim)
    blocks = _arguments.blocks(x, min(batch_size, len(x)))
    consts = jax.make_jaxpr(apply_fn)(params, x[:1]).consts
    _separate.require_separate(apply_fn, params, x, consts)
    compiled = _xla.jit(_multiply, _xla.devices_of(x))

    def multiply(v: Float[ArrayLike, "n b"]) -> Float[Array, "n b"]:
        if _check.require_matrix("v", v, f"({len(x)}, b)")[0] != len(x):
            raise ValueError(f"v must have shape ({len(x)}, b), got {_check.shape_of(v)}.")
        _check.require_finite("v", v)
        columns = _check.as_float("v", v).T
        traced = _check.is_traced(v, blocks, *consts, *jax.tree.leaves((apply_fn, params)))
        product = _multiply if traced else compiled
        parts = [
            product(apply_fn, params, blocks, directions, columns[i : i + num_columns])
            for i in range(0, len(columns), num_columns)
        ]
        return jnp.concatenate(parts).T.astype(columns.dtype) / dim

    return multiply


def _multiply(apply_fn, params, blocks, directions, columns):
    """(columns, n) to the same, times d."""
    num_samples = columns.shape[1]
    filled = blocks.shape[0] * blocks.shape[1] - num_samples
    columns = jnp.pad(columns, ((0, 0), (0, filled)))
    columns = columns.reshape(len(columns), *blocks.shape[:2]).swapaxes(0, 1)

    def along(direction):
        def component(params, samples):
            z = apply_fn(params, samples)
            return z @ direction.astype(z.dtype)

        def pull(total, block):
            samples, columns = block
            value, backward = jax.vjp(lambda params: component(params, samples), params)
            by_column = lax.map(lambda v: backward(v.astype(value.dtype))[0], columns)
            return jax.tree.map(lambda a, b: a + b.astype(a.dtype), total, by_column), None

        def push(samples):
            _, forward = jax.linearize(lambda params: component(params, samples), params)
            return lax.map(forward, pulled)

        def start(p):
            return jnp.zeros((columns.shape[1], *p.shape), _arguments.accumulator(None, p))

        pulled = lax.scan(pull, jax.tree.map(start, params), (blocks, columns))[0]
        pulled = jax.tree.map(lambda a, p: a.astype(p.dtype), pulled, params)
        return lax.map(push, blocks)

    def add(total, direction):
        return total + along(direction), None

    start = jnp.zeros(columns.shape, jax.eval_shape(along, directions[0]).dtype)
    product = lax.scan(add, start, directions)[0]
    return product.swapaxes(0, 1).reshape(columns.shape[1], -1)[:, :num_samples]
