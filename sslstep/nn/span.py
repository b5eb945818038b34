r"""A wide network on few samples, as the same network on fewer inputs.

N samples span at most N dimensions of their inputs. Gradients never leave that span, and weights of
the first layer outside it see no input. In an orthonormal basis of the span a network is therefore
the same network at every step of training, and smaller.
"""

from typing import Any

import jax.numpy as jnp
from jax.typing import ArrayLike
from jaxtyping import Array, Float, PyTree

from sslstep.nn.mlp import MLP

__all__ = ["change_basis", "span_basis"]


def span_basis(*samples: Float[ArrayLike, "_ m"]) -> Float[Array, "m k"]:
    """An orthonormal basis of the span of all samples.

    Args:
        samples: one array or more, with a row for each sample.

    Returns:
        Columns, ``k = min(N, m)`` for N samples in all.

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
    r"""A network and its samples in another basis of the inputs.

    With V the basis, first-layer weights W become :math:`V^\top W` and samples :math:`x V`. The NTK
    parameterisation divides by the root of the number of inputs, which becomes k:
    :math:`x V (k / m)^{1/2}`.

    Args:
        model: the network.
        basis: V, from :func:`span_basis`.
        params: its parameters for m inputs.
        samples: any number of arrays of samples within the span.

    Returns:
        The parameters for k inputs, and each array of samples, ``(n, k)``, in the model's dtype.
        The network of these parameters has the same embeddings of these samples.

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
