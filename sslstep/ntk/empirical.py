r"""The neural tangent kernel of a finite network, from Jacobians contracted in blocks."""

from collections.abc import Callable
from functools import partial
from typing import Literal

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike
from jaxtyping import Array, Float, PyTree, Shaped

from sslstep import _check

__all__ = ["ntk"]

_BLOCK_BYTES = 2**28


def ntk(
    apply_fn: Callable[..., Array],
    params: PyTree,
    x1: Shaped[ArrayLike, "n1 ..."],
    x2: Shaped[ArrayLike, "n2 ..."] | None = None,
    *,
    batch_size: int | None = None,
    kind: Literal["scalar", "trace"] = "scalar",
) -> Float[Array, "n1 n2"]:
    r"""The empirical NTK as one matrix (Appendix D.5).

    A model of d outputs has a d x d block for each pair of samples,

    .. math:: \Theta_{kl}(x, x') = \nabla_\theta f_k(x) \cdot \nabla_\theta f_l(x'),

    where the theory of Section 5 knows one number. In the limit of infinite width a block is that
    number times the identity, and both ways to reduce it give the number:

    - ``"scalar"``: :math:`\frac1d \sum_{kl} \Theta_{kl}`, the kernel of the one function
      :math:`\frac{1}{\sqrt d} \sum_k f_k`, as the paper computes it. The default, for its cost: a
      gradient for each sample instead of d.
    - ``"trace"``: :math:`\frac1d \sum_k \Theta_{kk}`, in d times the time. It does not depend on
      the basis of the outputs, and averaging over d outputs it lies closer to the limit, where the
      d(d - 1) off-diagonal terms of ``"scalar"`` are noise that no d averages out.

    The gradients of two blocks of samples are held at a time, and every array of parameters adds
    one matrix product. With ``x2=None`` only blocks on and above the diagonal are computed.

    Args:
        apply_fn: the model, ``apply_fn(params, x) -> (n, d)``, such as a flax module's ``apply``.
            Samples must not interact: batch normalisation has to use fixed statistics. Compiled
            once for each function: hand over the same one, not a new lambda at every call.
        params: what to differentiate by; a pytree of floating-point arrays.
        x1: samples, shape ``(n1, ...)``.
        x2: other samples, shape ``(n2, ...)``; those of ``x1`` if None.
        batch_size: samples in a block. Default: as many as have gradients of 256 MiB. Gradients of
            ``x2`` are computed anew for each block of ``x1``, so larger is faster.
        kind: ``"scalar"`` or ``"trace"``.

    Returns:
        The kernel, shape ``(n1, n2)``, in the parameters' dtype but at least float32; exactly
        symmetric with ``x2=None``.

    Raises:
        ValueError: if samples are empty, not finite or of different shapes, ``apply_fn`` does not
            return ``(n, d)``, or ``batch_size`` or ``kind`` is not one of the above.

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
    if kind not in ("scalar", "trace"):
        raise ValueError(f'kind must be "scalar" or "trace", got {kind!r}.')
    x1 = _samples("x1", x1)
    other = x1 if x2 is None else _samples("x2", x2)
    if x1.shape[1:] != other.shape[1:]:
        raise ValueError(
            f"samples of x1 and x2 must have one shape, got {x1.shape[1:]} and {other.shape[1:]}."
        )
    dim = _output_dim(apply_fn, params, x1)
    if batch_size is None:
        gradient = sum(leaf.size * leaf.dtype.itemsize for leaf in jax.tree.leaves(params))
        batch_size = max(1, _BLOCK_BYTES // gradient)
    _check.require_at_least("batch_size", batch_size, 1)
    blocks = [_blocks(x, batch_size) for x in ((x1,) if x2 is None else (x1, other))]
    directions = jnp.ones((1, dim)) if kind == "scalar" else jnp.eye(dim)
    kernel = _contract(params, directions, *blocks, apply_fn=apply_fn)
    return kernel[: len(x1), : len(other)]


@partial(jax.jit, static_argnames="apply_fn")
def _contract(params, directions, blocks1, blocks2=None, *, apply_fn):
    """The kernels of the outputs' components along directions, summed and divided by d."""
    symmetric = blocks2 is None
    columns = blocks1 if symmetric else blocks2
    num, size = columns.shape[:2]
    dtype = _accumulator(*jax.tree.leaves(params))

    def kernel_along(direction):
        def component(params, sample):
            z = apply_fn(params, sample[None])[0]
            return jnp.sum(z * direction.astype(z.dtype))

        def gradients(samples):
            """By each array of parameters, shape (samples, its size)."""
            tree = jax.vmap(jax.grad(component), in_axes=(None, 0))(params, samples)
            return [leaf.reshape(len(samples), -1) for leaf in jax.tree.leaves(tree)]

        def row(number_and_block):
            i, block = number_and_block
            left = gradients(block)

            def fill(j, row, right=None):
                right = gradients(columns[j]) if right is None else right
                return jax.lax.dynamic_update_slice(row, product(left, right), (0, j * size))

            row = jnp.zeros((len(block), num * size), dtype)
            if not symmetric:
                return jax.lax.fori_loop(0, num, fill, row)
            return jax.lax.fori_loop(i + 1, num, fill, fill(i, row, left))

        rows = jax.lax.map(row, (jnp.arange(blocks1.shape[0]), blocks1))
        return rows.reshape(-1, num * size)

    def product(left, right):
        return sum(
            jnp.matmul(a, b.T, precision="highest", preferred_element_type=dtype)
            for a, b in zip(left, right, strict=True)
        )

    def add(kernel, direction):
        return kernel + kernel_along(direction), None

    start = jnp.zeros((blocks1.shape[0] * blocks1.shape[1], num * size), dtype)
    kernel = jax.lax.scan(add, start, directions)[0] / directions.shape[1]
    return jnp.triu(kernel) + jnp.triu(kernel, 1).T if symmetric else kernel


def _accumulator(*leaves: Array) -> jnp.dtype:
    """The widest of the leaves' dtypes, and at least float32."""
    widest = max((leaf.dtype for leaf in leaves), key=lambda dtype: jnp.finfo(dtype).bits)
    return widest if jnp.finfo(widest).bits >= 32 else jnp.dtype(jnp.float32)


def _blocks(x: Array, batch_size: int) -> Array:
    """Samples in blocks of one size, the last filled up with copies of the last sample."""
    num = -(-len(x) // batch_size)
    size = -(-len(x) // num)
    filler = jnp.broadcast_to(x[-1:], (num * size - len(x), *x.shape[1:]))
    return jnp.concatenate([x, filler]).reshape(num, size, *x.shape[1:])


def _samples(name: str, value: ArrayLike) -> Array:
    shape = _check.shape_of(value)
    if not shape or 0 in shape:
        raise ValueError(
            f"{name} must hold samples, shape (n, ...) with n >= 1, got shape {shape}."
        )
    _check.require_finite(name, value)
    return jnp.asarray(value)


def _output_dim(apply_fn, params, x: Array) -> int:
    shape = jax.eval_shape(apply_fn, params, x[:1]).shape
    if len(shape) != 2 or shape[0] != 1:
        raise ValueError(
            f"apply_fn must return embeddings of shape (n, d): for one sample of shape "
            f"{x.shape[1:]} it returned shape {shape}."
        )
    return shape[1]
