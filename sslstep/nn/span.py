r"""Reduction of a network's input dimension to the span of its samples.

N samples span at most N dimensions of their inputs. Gradients of the first layer lie in that span,
and weights orthogonal to it have no effect on these samples. In an orthonormal basis of the span
the network therefore has the same embeddings at every step of training, with fewer weights.
"""

from typing import Any

import jax.numpy as jnp
from jax.typing import ArrayLike
from jaxtyping import Array, Float, PyTree

from sslstep.nn.mlp import MLP

__all__ = ["change_basis", "span_basis"]


def span_basis(*samples: Float[ArrayLike, "_ m"]) -> Float[Array, "m k"]:
    """Compute an orthonormal basis of the span of all samples.

    Args:
        samples: one array or more, each of shape ``(n, m)`` with one sample a row.

    Returns:
        The basis as columns, shape ``(m, k)``, with k = min(N, m) for N samples in all.

    Example:
        >>> import jax.numpy as jnp
        >>> from sslstep import nn
        >>> nn.span_basis(jnp.ones((2, 5)), jnp.ones((1, 5))).shape
        (5, 3)
    """
    return jnp.linalg.qr(jnp.concatenate([jnp.asarray(each) for each in samples]).T)[0]


def change_basis(
    model: MLP, basis: Float[ArrayLike, "m k"], params: PyTree, *samples: Float[ArrayLike, "_ m"]
) -> tuple[Any, ...]:
    r"""Transform a network's parameters and samples to a basis of the inputs.

    Let V be the basis, shape ``(m, k)``. The first-layer weights W, shape ``(m, width)``, become
    :math:`V^\top W`, and samples x become :math:`x V`. In the NTK parameterisation samples become
    :math:`x V (k / m)^{1/2}`, because the layer divides by the root of its number of inputs. The
    embeddings of the samples do not change.

    Args:
        model: the network.
        basis: V, from :func:`span_basis`.
        params: variables of the network with m inputs.
        samples: any number of arrays of samples within the span, each of shape ``(n, m)``.

    Returns:
        The variables of the network with k inputs, then each array of samples, shape ``(n, k)``,
        all in the model's dtype.

    Example:
        >>> import jax, jax.numpy as jnp
        >>> from sslstep import nn
        >>> x = jax.random.normal(jax.random.key(0), (4, 30))
        >>> model = nn.MLP(dim=2, width=8)
        >>> params = model.init(jax.random.key(1), x)
        >>> smaller, few = nn.change_basis(model, nn.span_basis(x), params, x)
        >>> z, expected = model.apply(smaller, few), model.apply(params, x)
        >>> few.shape, bool(jnp.allclose(z, expected, atol=1e-5))
        ((4, 4), True)
    """
    basis = jnp.asarray(basis)
    m, k = basis.shape
    layers: Any = params
    hidden = layers["params"]["hidden_1"]
    kernel = (basis.T @ hidden["kernel"].astype(basis.dtype)).astype(model.dtype)
    new = {"params": {**layers["params"], "hidden_1": {**hidden, "kernel": kernel}}}
    scale = (k / m) ** 0.5 if model.parameterization == "ntk" else 1.0
    return new, *((scale * jnp.asarray(x) @ basis).astype(model.dtype) for x in samples)
