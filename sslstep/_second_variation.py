r"""Products with H, the second derivative of a loss by an additional dimension of the embeddings.

Let z be the embeddings in the k learned dimensions, and u a small additional dimension. A loss that
is even in u expands as :math:`L([z, u]) = L(z) + \tfrac12 u^\top H u + \dots`. If the loss is even
in each of several additional dimensions, they do not couple in second order. One directional
derivative of the gradient, along a block of additional dimensions, is then H times each of them.
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import ArrayLike
from jaxtyping import Array

from sslstep import _check

Loss = Callable[..., Any]


@partial(
    jax.tree_util.register_dataclass,
    data_fields=["learned"],
    meta_fields=["loss_fn", "num_views", "dim"],
)
@dataclass(frozen=True)
class NegativeHessian:
    """The function from a block v of shape (N, b) to -H v.

    The embeddings have `dim` dimensions, the first k of them `learned`. Each `dim` - k columns of v
    cost one derivative of the loss's gradient, one after the other.
    """

    learned: Array
    loss_fn: Loss
    num_views: int
    dim: int

    @jax.jit
    def __call__(self, v: Array) -> Array:
        learned = self.learned.astype(v.dtype)
        (rows, columns), free = v.shape, self.dim - learned.shape[1]
        padded = jnp.pad(v, [(0, 0), (0, -columns % free)])
        parts = padded.reshape(rows, -1, free).transpose(1, 0, 2)

        def product(part: Array) -> Array:
            at = jnp.concatenate([learned, jnp.zeros_like(part)], axis=1)
            direction = jnp.concatenate([jnp.zeros_like(learned), part], axis=1)
            of = partial(gradient, self.loss_fn, self.num_views)
            return jax.jvp(of, (at,), (direction,))[1][:, -free:]

        images = jax.lax.map(product, parts).transpose(1, 0, 2)
        return -images.reshape(rows, -1)[:, :columns]


def value(loss_fn: Loss, num_views: int, z: Array) -> Array:
    """Return the loss of z, the embeddings of all views, one view after the other."""
    return loss_fn(*jnp.split(z, num_views))


@partial(jax.jit, static_argnums=(0, 1))
def gradient(loss_fn: Loss, num_views: int, z: Array) -> Array:
    """Return the gradient of the loss by the embeddings of all views; compiled once for a loss."""
    return jax.grad(partial(value, loss_fn, num_views))(z)


def negative_hessian(
    loss_fn: Loss,
    embeddings: ArrayLike | None,
    size: int,
    dim: int,
    *,
    num_views: int,
    dtype: Any,
) -> NegativeHessian:
    """Check the arguments, and that the loss has a second-order expansion; return -H."""
    if embeddings is None:
        learned = jnp.zeros((size, 0), dtype)
    else:
        rows, columns = _check.require_matrix("embeddings", embeddings, f"({size}, k)")
        if rows != size or columns >= dim:
            raise ValueError(
                f"embeddings must have shape ({size}, k) with k below the embedding dimension "
                f"{dim}, a column for each dimension learned, got {(rows, columns)}."
            )
        if not _check.is_concrete(embeddings):
            raise ValueError("embeddings must be known, and not traced by jit, vmap or grad.")
        _check.require_finite("embeddings", embeddings)
        learned = _check.as_float("embeddings", embeddings).astype(dtype)
    hessian = NegativeHessian(learned, loss_fn, num_views, dim)
    if not _check.is_traced():
        _require_expansion(hessian, size)
    return hessian


def require_symmetries(loss_fn: Loss, size: int, dim: int, num_views: int, dtype: Any) -> None:
    """Raise ValueError unless the loss is even in each dimension and treats all of them equally.

    It must not depend on the order of the samples either. The check compares gradients of the loss
    at random embeddings. Raise TypeError if JAX cannot trace the loss as a function of the views.
    """
    rng = np.random.default_rng(0)
    n = size // num_views
    if n < 2:
        raise ValueError(f"a loss compares samples, and needs at least 2, got {n}.")
    z = jnp.asarray(rng.standard_normal((size, dim)), dtype)
    try:
        shape = jax.eval_shape(partial(value, loss_fn, num_views), z)
    except TypeError as error:  # JAX's errors about values of traced arrays are TypeErrors too
        raise TypeError(
            f"loss_fn must be a JAX function of {num_views} views of shape (n, d), and may not "
            f"take their values by float(), bool() or NumPy: {str(error).partition(chr(10))[0]}"
        ) from error
    if getattr(shape, "shape", None) != () or not jnp.issubdtype(shape.dtype, jnp.floating):
        raise ValueError(f"loss_fn must return a real number, of shape (), got {shape}.")
    of = partial(gradient, loss_fn, num_views)
    order = (rng.permutation(n)[None, :] + n * np.arange(num_views)[:, None]).ravel()
    flip = np.where(np.arange(dim) == 0, -1, 1)
    roll = np.roll(np.arange(dim), 1)
    signs, here = jnp.asarray(flip, dtype)[None, :], of(z)
    if not bool(jnp.isfinite(here).all()):
        raise ValueError("loss_fn has a gradient that is not finite at random embeddings.")
    for moved, wanted, message in (
        (z[order], here[order], "it sees the order of the samples: the same permutation of all "
         "views must not change it"),
        (z * signs, here * signs, "it is not even: the sign of a dimension, in all views alike, "
         "must not change it"),
        (z[:, roll], here[:, roll], "it does not treat all dimensions alike"),
    ):  # fmt: skip
        if _apart(of(moved), wanted) > _tolerance(dtype):
            raise ValueError(f"loss_fn has no modes that grow by themselves: {message}.")


def _require_expansion(hessian: NegativeHessian, size: int) -> None:
    loss_fn, num_views, dim = hessian.loss_fn, hessian.num_views, hessian.dim
    dtype, num = hessian.learned.dtype, hessian.learned.shape[1]
    require_symmetries(loss_fn, size, dim, num_views, dtype)
    u = jnp.asarray(np.random.default_rng(1).standard_normal((size, dim - num)), dtype)

    def at(amplitude: float) -> Array:
        """Return the gradient by the new dimensions, at u times `amplitude`."""
        new = u * jnp.asarray(amplitude, dtype)
        z = jnp.concatenate([hessian.learned, new], axis=1)
        return gradient(loss_fn, num_views, z)[:, num:]

    where = f"with {num} dimension(s) learned and the others at zero" if num else "at zero"
    hope = (
        " Give the embeddings that are learned first, with embeddings=, for what grows from there."
        if num == 0
        else ""
    )
    parts = gradient(loss_fn, num_views, u) * u
    along = jnp.abs(jnp.sum(parts, axis=1)).sum()  # 0 if no gradient lies along an embedding
    if num == 0 and along <= _tolerance(dtype) * jnp.abs(parts).sum():
        raise ValueError(
            "loss_fn does not depend on the length of the embeddings, like a loss that normalises "
            f"them: it has no expansion at zero, where its rates are infinite.{hope}"
        )
    small = 1e-6
    slope, product = at(small) / small, -hessian(u)
    if not bool(jnp.isfinite(product).all() & jnp.isfinite(at(0.0)).all()):
        raise ValueError(
            f"loss_fn or its derivatives are not finite {where}: it has no expansion there.{hope}"
        )
    negligible = 1e-4 * float(jnp.linalg.norm(at(1.0)))  # as of a loss that is quartic
    if _apart(slope, product, negligible) > 1e-2:
        raise ValueError(
            f"loss_fn is not twice differentiable {where}: its gradient by new dimensions of size "
            f"{small:g}, divided by this size, has the norm {float(jnp.linalg.norm(slope)):.3g}, "
            f"but its second derivative times them {float(jnp.linalg.norm(product)):.3g}.{hope}"
        )


def _apart(a: Array, b: Array, floor: float = 0.0) -> float:
    size = max(float(jnp.linalg.norm(a)), float(jnp.linalg.norm(b)), floor)
    return float(jnp.linalg.norm(a - b)) / size if size > 0 else 0.0


def _tolerance(dtype: Any) -> float:
    """Return a relative tolerance for sums in another order: half the digits of the dtype."""
    return float(jnp.finfo(dtype).eps) ** 0.5
