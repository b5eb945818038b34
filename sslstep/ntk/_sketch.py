"""Random features of the empirical NTK, and its size from products with random vectors."""

from collections.abc import Callable
from functools import partial
from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.flatten_util import ravel_pytree
from jax.tree_util import Partial
from jax.typing import ArrayLike
from jaxtyping import Array, Float, Key, PyTree, Shaped

from sslstep import _check
from sslstep.ntk import _arguments, _separate


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
    r"""Features :math:`\Phi` with :math:`E[\Phi \Phi^\top] = \Theta`: randomly projected gradients.

    .. math:: \phi(x)_b = \sum_{i : h(i) = b} \sigma_i \, \nabla_{\theta_i} f(x)

    is a count sketch (Charikar, Chen and Farach-Colton 2002): h puts every parameter into one of p
    buckets at random, and σ is a random sign. So a sample costs one backward pass and as many
    additions as there are parameters, whatever p is; for ``"trace"`` d times that. An entry of
    :math:`\Phi \Phi^\top` has the error

    .. math:: \mathrm{sd}\left( \phi(x)^\top \phi(x') \right) \le
        \sqrt{\frac{\Theta(x, x) \Theta(x', x') + \Theta(x, x')^2}{p}}.

    The features of all views are those of a linear model: the modes of their
    :func:`sslstep.linear.cross_correlation` are the network's contrastive modes, in
    :math:`O(n p^2)` for any n.

    Args:
        apply_fn: the model, as for :func:`ntk`.
        params: parameters, as for :func:`ntk`.
        x: samples, shape ``(n, ...)``; a NumPy array stays on the host, of which one block at a
            time is used.
        dim: p, the number of features.
        key: of h and σ. Samples are comparable only with the same key.
        kind: ``"scalar"`` or ``"trace"``, as for :func:`ntk`.
        batch_size: samples that are differentiated at a time; each needs as much memory as the
            parameters.

    Returns:
        Φ, shape ``(n, p)``, in the widest dtype of the parameters and float32.

    Raises:
        ValueError: as :func:`operator`, of ``apply_fn``, ``params``, ``x`` and ``kind``; or if
            ``dim`` or ``batch_size`` is not an integer of at least 1.
        TypeError: as :func:`operator`.

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
    params = _arguments.parameters(params)
    outputs = _arguments.output_dim(apply_fn, params, first)
    _arguments.require_count("dim", dim)
    _arguments.require_count("batch_size", batch_size)
    apply_fn = apply_fn if isinstance(apply_fn, Partial) else Partial(apply_fn)
    x = x if isinstance(x, np.ndarray) else _arguments.samples("x", x)
    consts = jax.make_jaxpr(apply_fn)(params, first).consts
    _separate.require_separate(apply_fn, params, jnp.asarray(x[: _separate.TOGETHER]), consts)
    directions = jnp.ones((1, outputs)) if kind == "scalar" else jnp.eye(outputs)
    size = min(batch_size, len(x))
    parts = []
    for start in range(0, len(x), size):
        # All blocks have one shape: the last is filled up with its last sample.
        at = np.minimum(np.arange(start, start + size), len(x) - 1)
        block = _arguments.samples("x", x[at])
        parts.append(_features(apply_fn, params, block, directions / outputs**0.5, key, dim))
    return jnp.concatenate(parts)[: len(x)]


@partial(jax.jit, static_argnames="dim")
def _features(apply_fn, params, samples, directions, key, dim):
    """The sketch of a block, summed over the outputs' directions, each with its own h and σ."""
    dtype = _arguments.accumulator(None, params)

    def along(total, given):
        direction, key = given

        def gradient(sample):
            def component(params):
                z = apply_fn(params, sample[None])[0]
                return z @ direction.astype(z.dtype)

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
    r"""Estimates of a kernel's size, each with its standard error.

    Attributes:
        trace: :math:`\mathrm{tr}\, K`.
        trace_error: its standard error.
        frobenius: :math:`\|K\|_F`.
        frobenius_error: its standard error.
        effective_rank: :math:`(\mathrm{tr}\, K)^2 / \|K\|_F^2`, between 1 and the rank.
        effective_rank_error: its standard error.
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
    r"""Trace, Frobenius norm and effective rank of a kernel, from products with random vectors.

    For vectors z of random signs :math:`E[z^\top K z] = \mathrm{tr}\, K` (Hutchinson 1990) and
    :math:`E\|K z\|^2 = \|K\|_F^2`. Standard errors are those of a jackknife over the vectors, which
    also takes the bias of order 1 / ``num_vectors`` from the root and the quotient.

    Args:
        multiply: a block v, shape ``(n, b)``, to K v: of :func:`operator`, say, or
            :func:`sslstep.gram.operator`.
        num_samples: n.
        num_vectors: how many vectors, at least 2.
        key: of the vectors.

    Returns:
        :class:`Moments`.

    Raises:
        ValueError: if ``num_vectors`` is below 2, or a product is not finite.

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
    _check.require_at_least("num_vectors", num_vectors, 2)
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
