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
    r"""Empirical NTK as an operator: compute Θ v by one VJP and one JVP for each column of v.

    .. math:: \Theta v = J (J^\top v), \qquad
              J_i = \nabla_\theta \frac{1}{\sqrt d} \sum_k f_k(x_i) \text{ for "scalar"},

    and for "trace" the mean of :math:`J_k J_k^\top v` over outputs k, with :math:`J_k` the Jacobian
    of output k. With the two views of positive pairs in ``x``, one view after the other, Θ is the
    paper's K̃ (Eq. 22): :func:`sslstep.kernel_pca.contrastive_modes` accepts the operator. A column
    costs about five forward passes over all samples. Use the operator if n² numbers do not fit in
    memory; otherwise :func:`ntk` is far cheaper.

    Args:
        apply_fn: the model, ``apply_fn(params, x) -> (n, d)``, which must map each sample
            independently. Bind other arrays with :class:`jax.tree_util.Partial`.
        params: parameters, a pytree of floating-point arrays; for a flax module its collection
            ``"params"``.
        x: samples, shape ``(n, ...)``.
        kind: ``"scalar"`` or ``"trace"``; ``"trace"`` takes d times as long.
        batch_size: number of samples that pass through the model at a time.
        num_columns: number of columns of v per pass; each needs as much memory as the parameters.

    Returns:
        A traceable function from v, shape ``(n, b)``, to Θ v in the shape and dtype of v. J^T v is
        summed over blocks in float32 or wider and rounded to the parameters' precision once. It
        raises ValueError if v does not have n rows or, where it is not traced, is not finite.

    Raises:
        ValueError, TypeError: under the conditions of :func:`ntk`.

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
        _check.require_matrix("v", v, f"({len(x)}, b)", rows=len(x))
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
    """Multiply each row of `columns`, shape (b, n), by d Θ, with d the number of outputs.

    `blocks` holds the samples, shape (blocks, size, ...); `directions`, shape (D, d), the
    combinations of outputs over which products are summed.
    """
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
