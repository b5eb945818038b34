"""The empirical NTK without its matrix: products, random features, and estimates of its size."""

from collections.abc import Callable
from functools import partial
from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jax.flatten_util import ravel_pytree
from jax.typing import ArrayLike
from jaxtyping import Array, Float, Key, PyTree, Shaped

from sslstep import _check, _xla
from sslstep._linalg import matmul
from sslstep.ntk import _arguments


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
    apply_fn, params, dim = _arguments.model(apply_fn, params, x)
    _arguments.require_count("batch_size", batch_size)
    _arguments.require_count("num_columns", num_columns)
    directions = jnp.ones((1, dim)) if kind == "scalar" else jnp.eye(dim)
    blocks = _arguments.blocks(x, min(batch_size, len(x)))
    consts = jax.make_jaxpr(apply_fn)(params, x[:1]).consts
    _arguments.require_separate(apply_fn, params, x, consts)
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
            return matmul(z, direction.astype(z.dtype))

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


def sketch(
    apply_fn: Callable[..., Array],
    params: PyTree,
    x: Shaped[ArrayLike, "n ..."],
    dim: int,
    *,
    key: Key[Array, ""],
    kind: Literal["scalar", "trace"] = "scalar",
    batch_size: int = 32,
) -> Float[Array, "n p"]:
    r"""Draw features :math:`\Phi` of the empirical NTK Θ, with :math:`E[\Phi \Phi^\top] = \Theta`.

    The features are a count sketch of the gradients (Charikar, Chen and Farach-Colton 2002),

    .. math:: \phi(x)_b = \sum_{i : h(i) = b} \sigma_i \, \nabla_{\theta_i} f(x) ,

    where h assigns each parameter to one of p buckets at random, and :math:`\sigma_i` is a random
    sign. For any p a sample costs one backward pass and one addition for each parameter; a model
    with d outputs costs d times as much with ``"trace"``. The error of an entry of
    :math:`\Phi \Phi^\top` has the standard deviation

    .. math:: \mathrm{sd}\left( \phi(x)^\top \phi(x') \right) \le
        \sqrt{\frac{\Theta(x, x) \Theta(x', x') + \Theta(x, x')^2}{p}}.

    The features of two views can be used as features of a linear model. The modes of their
    :func:`sslstep.linear.cross_correlation` then approximate the network's contrastive modes, at
    the cost :math:`O(n p^2)` for n samples.

    Args:
        apply_fn: the model, ``apply_fn(params, x) -> (n, d)``, which must map each sample
            independently. Bind other arrays with :class:`jax.tree_util.Partial`.
        params: parameters, a pytree of floating-point arrays; for a flax module its collection
            ``"params"``.
        x: samples, shape ``(n, ...)``. A NumPy array stays on the host, and moves to the device one
            block at a time.
        dim: the number of features p.
        key: random key of h and σ. Only features drawn with the same key belong together.
        kind: ``"scalar"`` or ``"trace"``, the kernel that is approximated: see :func:`ntk`.
        batch_size: number of samples in a block; each needs as much memory as the parameters.

    Returns:
        Φ, shape ``(n, p)``, in the widest dtype of the parameters and float32.

    Raises:
        ValueError, TypeError: under the conditions of :func:`ntk`.

    Example:
        >>> import jax, jax.numpy as jnp
        >>> from sslstep.ntk import empirical
        >>> def linear_model(weights, x):
        ...     return x @ weights
        >>> x = jnp.array([[1.0, 2.0], [0.0, 1.0]])
        >>> features = empirical.sketch(
        ...     linear_model, jnp.ones((2, 3)), x, 4096, key=jax.random.key(0)
        ... )
        >>> (features @ features.T).round(3)
        Array([[5., 2.],
               [2., 1.]], dtype=float32)
    """
    _check.require_one_of("kind", kind, ("scalar", "trace"))
    first = _arguments.samples("x", x[:1] if isinstance(x, np.ndarray) and len(x) else x)
    apply_fn, params, outputs = _arguments.model(apply_fn, params, first)
    _arguments.require_count("dim", dim)
    _arguments.require_count("batch_size", batch_size)
    x = x if isinstance(x, np.ndarray) else _arguments.samples("x", x)
    consts = jax.make_jaxpr(apply_fn)(params, first).consts
    _arguments.require_separate(apply_fn, params, jnp.asarray(x[: _arguments.TOGETHER]), consts)
    directions = jnp.ones((1, outputs)) if kind == "scalar" else jnp.eye(outputs)
    size = min(batch_size, len(x))
    parts = []
    for start in range(0, len(x), size):
        # The last block is padded with its last sample, so that all blocks have one shape.
        at = np.minimum(np.arange(start, start + size), len(x) - 1)
        block = _arguments.samples("x", x[at])
        parts.append(_features(apply_fn, params, block, directions / outputs**0.5, key, dim))
    return jnp.concatenate(parts)[: len(x)]


@partial(jax.jit, static_argnames="dim")
def _features(apply_fn, params, samples, directions, key, dim):
    """Return the sketch of a block, summed over `directions` of outputs; each has its own h, σ."""
    dtype = _arguments.accumulator(None, params)

    def along(total, given):
        direction, key = given

        def gradient(sample):
            def component(params):
                z = apply_fn(params, sample[None])[0]
                return matmul(z, direction.astype(z.dtype))

            return ravel_pytree(jax.grad(component)(params))[0]

        gradients = jax.vmap(gradient)(samples).astype(dtype)
        key_buckets, key_signs = jax.random.split(key)
        num = gradients.shape[1]
        buckets = jax.random.randint(key_buckets, (num,), 0, dim)
        signs = jax.random.rademacher(key_signs, (num,), dtype)
        signed = (gradients * signs[None, :]).T
        return total + jax.ops.segment_sum(signed, buckets, num_segments=dim).T, None

    start = jnp.zeros((len(samples), dim), dtype)
    keys = jax.random.split(key, len(directions))
    return jax.lax.scan(along, start, (directions, keys))[0]


class Moments(NamedTuple):
    r"""Estimates of a kernel's trace, norm and effective rank, with standard errors.

    Attributes:
        trace: estimate of :math:`\mathrm{tr}\, K`.
        trace_error: standard error of ``trace``.
        frobenius: estimate of :math:`\|K\|_F`.
        frobenius_error: standard error of ``frobenius``.
        effective_rank: estimate of :math:`(\mathrm{tr}\, K)^2 / \|K\|_F^2`, which is between 1 and
            the rank of K.
        effective_rank_error: standard error of ``effective_rank``.
    """

    trace: float
    trace_error: float
    frobenius: float
    frobenius_error: float
    effective_rank: float
    effective_rank_error: float


def moments(
    multiply: Callable[[Array], Array],
    num_samples: int,
    num_vectors: int = 32,
    *,
    key: Key[Array, ""],
) -> Moments:
    r"""Estimate trace, Frobenius norm and effective rank of a kernel by random products.

    Vectors z of random signs have :math:`E[z^\top K z] = \mathrm{tr}\, K` (Hutchinson 1990) and
    :math:`E\|K z\|^2 = \|K\|_F^2`. A jackknife over the vectors gives the standard errors, and
    removes the bias of order 1 / ``num_vectors`` of the square root and the quotient.

    Args:
        multiply: a function from a block v, shape ``(n, b)``, to K v, such as those of
            :func:`operator` and :func:`sslstep.gram.operator`.
        num_samples: the number of samples n.
        num_vectors: the number of random vectors, at least 2.
        key: random key of the vectors.

    Raises:
        ValueError: if a number is out of range, or a product is not finite.

    Example:
        >>> import jax, jax.numpy as jnp
        >>> from sslstep.ntk import empirical
        >>> kernel = jnp.diag(jnp.array([3.0, 1.0, 0.0]))
        >>> found = empirical.moments(lambda v: kernel @ v, 3, key=jax.random.key(0))
        >>> found.trace, round(found.effective_rank, 3)
        (4.0, 1.6)
    """
    _arguments.require_count("num_samples", num_samples)
    _arguments.require_count("num_vectors", num_vectors)
    _check.require_within("num_vectors", num_vectors, at_least=2)
    vectors = jax.random.rademacher(key, (num_samples, num_vectors), jnp.result_type(float))
    product = multiply(vectors)
    _check.require_finite("the product with the kernel", product)
    z, images = np.asarray(vectors, np.float64), np.asarray(product, np.float64)
    traces, squares = (z * images).sum(axis=0), (images**2).sum(axis=0)

    def of(trace: Any, square: Any) -> np.ndarray:
        safe = np.where(square > 0, square, 1.0)
        return np.stack([trace, square**0.5, np.where(square > 0, trace**2 / safe, 0.0)])

    whole = of(traces.mean(), squares.mean())
    num = num_vectors
    without = of(*((a.sum() - a) / (num - 1) for a in (traces, squares)))
    middle = without.mean(axis=1)
    value = num * whole - (num - 1) * middle
    error = ((num - 1) / num * ((without - middle[:, None]) ** 2).sum(axis=1)) ** 0.5
    pairs = zip(value.tolist(), error.tolist(), strict=True)
    return Moments(*(number for pair in pairs for number in pair))
