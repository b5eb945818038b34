r"""Fully connected networks with closed-form infinite-width limits; small initial embeddings."""

import math
from collections.abc import Callable
from typing import Any, Literal

import jax
import jax.numpy as jnp
from flax import linen
from jax.typing import ArrayLike, DTypeLike
from jaxtyping import Array, Float, PyTree, Real, Shaped

from sslstep import _check
from sslstep.nn import _layers

__all__ = ["MLP", "centred", "scale_init"]


class MLP(linen.Module):
    r"""A fully connected ReLU network with L hidden layers of equal width.

    .. math:: h_0 = x, \qquad h_l = \mathrm{relu}(\mathrm{layer}_l(h_{l-1})), \qquad
        f(x) = \mathrm{layer}_{L+1}(h_L)

    A layer maps its ``fan_in`` inputs h by weights W and biases b, with
    :math:`\sigma_W` = ``weight_std`` and :math:`\sigma_b` = ``bias_std``:

    - ``"ntk"``: :math:`\sigma_W W h / \sqrt{\mathrm{fan\_in}} + \sigma_b b`, with every weight and
      bias drawn from :math:`\mathcal{N}(0, 1)`. Gradient flow has a limit as the width grows.
    - ``"standard"``: :math:`W h + b`, with weights drawn from
      :math:`\mathcal{U}(\pm \sqrt{3} \sigma_W / \sqrt{\mathrm{fan\_in}})` and biases from
      :math:`\mathcal{U}(\pm \sqrt{3} \sigma_b)`. Their standard deviations are
      :math:`\sigma_W / \sqrt{\mathrm{fan\_in}}` and :math:`\sigma_b`. The NTK grows in proportion
      to the width.

    For equal :math:`\sigma_W` and :math:`\sigma_b` the distribution of f at initialisation has the
    same limit of infinite width in both parameterisations, but they learn at different rates.
    :func:`sslstep.ntk.infinite.mlp` computes the kernel of the limit, from the same arguments.

    Parameters are ``params/hidden_1/kernel`` ... ``params/output/kernel``, of shape
    ``(fan_in, fan_out)``. A layer with a bias also has ``bias``, of shape ``(fan_out,)``.

    Attributes:
        dim: embedding dimension d.
        width: number of units of each hidden layer.
        depth: number L of hidden layers.
        parameterization: ``"ntk"`` or ``"standard"``.
        weight_std: :math:`\sigma_W`. Default: :math:`\sqrt 2` for ``"ntk"``;
            :math:`1 / \sqrt 3` for ``"standard"``, which is PyTorch's
            :math:`\mathcal{U}(\pm 1 / \sqrt{\mathrm{fan\_in}})`.
        bias_std: :math:`\sigma_b` of the hidden layers. ``"fan_in"``:
            :math:`\sigma_W / \sqrt{\mathrm{fan\_in}}`, which is PyTorch's with the default weights.
            None: no biases.
        output_bias: whether the last layer has a bias too; needs ``bias_std``.
        dtype: dtype of the parameters. Inputs are converted to it.

    Raises:
        ValueError: if an attribute is out of range, or ``output_bias`` has no ``bias_std``.

    Example:
        >>> import jax, jax.numpy as jnp
        >>> from sslstep import nn
        >>> model = nn.MLP(dim=10, width=64, parameterization="standard")
        >>> images = jnp.ones((5, 8, 8, 3))
        >>> params = model.init(jax.random.key(0), images)
        >>> model.apply(params, images).shape
        (5, 10)
    """

    dim: int
    width: int
    depth: int = 1
    parameterization: Literal["ntk", "standard"] = "ntk"
    weight_std: float | None = None
    bias_std: float | Literal["fan_in"] | None = None
    output_bias: bool = False
    dtype: DTypeLike = jnp.float32

    def __post_init__(self) -> None:
        for name in ("dim", "width", "depth"):
            _check.require_within(name, getattr(self, name), at_least=1)
        _check.require_one_of("parameterization", self.parameterization, ("ntk", "standard"))
        if self.weight_std is not None:
            _check.require_within("weight_std", self.weight_std, above=0.0)
        if isinstance(self.bias_std, str):
            if self.bias_std != "fan_in":
                raise ValueError(
                    f'bias_std must be a number, "fan_in" or None, not {self.bias_std!r}.'
                )
        elif self.bias_std is not None:
            _check.require_within("bias_std", self.bias_std, at_least=0.0)
        elif self.output_bias:
            raise ValueError('output_bias=True needs bias_std, a number or "fan_in".')
        super().__post_init__()

    @linen.compact
    def __call__(self, x: Shaped[ArrayLike, "n ..."]) -> Float[Array, "n {self.dim}"]:
        """Compute the embeddings of n inputs, each flattened to a vector; shape (n, d)."""
        h = jnp.asarray(x)
        if h.ndim < 2 or 0 in h.shape:
            raise ValueError(f"x must be a batch of inputs of shape (n, ...), got shape {h.shape}.")
        h = h.reshape(h.shape[0], -1)
        for layer in range(1, self.depth + 1):
            h = jax.nn.relu(self._layer(self.width, f"hidden_{layer}", self.bias_std)(h))
        return self._layer(self.dim, "output", self.bias_std if self.output_bias else None)(h)

    def _layer(self, features: int, name: str, bias_std: Any) -> "_Dense":
        default = math.sqrt(2) if self.parameterization == "ntk" else 1 / math.sqrt(3)
        weight_std = default if self.weight_std is None else self.weight_std
        ntk = self.parameterization == "ntk"
        return _Dense(features, ntk, weight_std, bias_std, self.dtype, name=name)


class _Dense(linen.Module):
    """A dense layer of :class:`MLP`, in either parameterisation."""

    features: int
    ntk: bool
    weight_std: float
    bias_std: Any
    dtype: DTypeLike

    @linen.compact
    def __call__(self, h):
        fan_in = h.shape[-1]
        weight_std = self.weight_std / math.sqrt(fan_in)
        weights = self._parameter("kernel", (fan_in, self.features), weight_std)
        out = jnp.matmul(h.astype(self.dtype), weights)
        if self.bias_std is None:
            return out
        bias_std = weight_std if self.bias_std == "fan_in" else self.bias_std
        bias = self._parameter("bias", (self.features,), bias_std)
        return _layers.with_bias(out, bias, self.dtype)

    def _parameter(self, name: str, shape: tuple[int, ...], std: float) -> Array:
        """Return a parameter with the factor of the NTK parameterisation, if that is used."""
        if self.ntk:
            return std * self.param(name, linen.initializers.normal(1.0), shape, self.dtype)

        def uniform(key, shape, dtype):
            bound = math.sqrt(3) * std
            return jax.random.uniform(key, shape, dtype, -bound, bound)

        return self.param(name, uniform, shape, self.dtype)


def scale_init(
    params: PyTree, init_scale: Real[ArrayLike, ""], where: Callable[[str], bool] | None = None
) -> PyTree:
    r"""Multiply initial parameters by α.

    In a ReLU network with L hidden layers and no biases this multiplies the embeddings by
    :math:`\alpha^{L+1}` and the NTK by :math:`\alpha^{2L}`. :func:`centred` shrinks the embeddings
    and keeps the NTK.

    Args:
        params: pytree of parameters. Leaves without a floating dtype are not scaled.
        init_scale: α ≥ 0; traced.
        where: predicate that selects the parameters to scale by their paths in ``params``, such as
            ``"output/kernel"``. If ``params`` is the whole dictionary that a flax module's ``init``
            returned, a path is ``"params/output/kernel"``. Default: all parameters, including
            biases and the scales of normalisation layers.

    Returns:
        The scaled parameters, with unchanged structure and dtypes.

    Raises:
        ValueError: if α is negative or NaN, or ``where`` selects no parameter.
        TypeError: if ``where`` is not a function.

    Example:
        >>> import jax.numpy as jnp
        >>> from sslstep import nn
        >>> params = {"hidden": {"kernel": jnp.ones(2)}, "output": {"kernel": jnp.ones(2)}}
        >>> nn.scale_init(params, 0.5, where=lambda path: "output" in path)["output"]["kernel"]
        Array([0.5, 0.5], dtype=float32)
    """
    _check.require_scalar("init_scale", init_scale, at_least=0.0)
    if where is not None and not callable(where):
        raise TypeError(f"where must be a function of a path, such as a lambda, got {where!r}.")
    leaves = jax.tree_util.tree_leaves_with_path(params)
    names = [_name(path) for path, leaf in leaves if _is_floating(leaf)]
    chosen = {name for name in names if where is None or where(name)}
    if where is not None and not chosen:
        rest = f" and {len(names) - 9} more" if len(names) > 10 else ""
        shown = names[:9] if rest else names
        raise ValueError(f"where matches none of: {', '.join(shown)}{rest}.")

    def scaled(path, leaf):
        if not _is_floating(leaf) or _name(path) not in chosen:
            return leaf
        return leaf * jnp.asarray(init_scale, jnp.result_type(leaf))

    return jax.tree_util.tree_map_with_path(scaled, params)


def _name(path: Any) -> str:
    return jax.tree_util.keystr(path, simple=True, separator="/")


def _is_floating(leaf: Any) -> bool:
    return jnp.issubdtype(jnp.result_type(leaf), jnp.floating)


def centred(
    apply_fn: Callable[..., Array], params0: PyTree, init_scale: Real[ArrayLike, ""] = 0.0
) -> Callable[[PyTree, Any], Array]:
    r"""Subtract a model's initial output, which gives small embeddings at unchanged weights.

    .. math:: \tilde f(x; \theta) = f(x; \theta) - (1 - \alpha) f(x; \theta_0)

    with the model f, its parameters θ and their initial values :math:`\theta_0` (Chizat et al.
    2019, Section 1.2). The initial output of :math:`\tilde f` is α times that of f. Its derivative
    by θ, and therefore its NTK, equal those of f at every θ. Section 5 of the paper assumes small
    embeddings and a constant kernel. Scaling the weights (:func:`scale_init`) would shrink the NTK
    too, and a network with small weights leaves the NTK regime.

    Args:
        apply_fn: the model f, ``apply_fn(params, x) -> (n, d)``, such as a flax module's ``apply``.
        params0: initial parameters :math:`\theta_0`; not copied.
        init_scale: α ≥ 0; traced. At α = 0 the initial embeddings are exactly zero, which is a
            saddle of self-supervised losses that gradient descent never leaves.

    Returns:
        :math:`\tilde f`, a pure function ``(params, x) -> (n, d)``. It evaluates ``apply_fn``
        twice.

    Raises:
        ValueError: if α is negative or NaN.

    Example:
        >>> import jax.numpy as jnp
        >>> from sslstep import nn
        >>> f = nn.centred(lambda params, x: x @ params, jnp.full((2, 1), 3.0), init_scale=0.5)
        >>> f(jnp.full((2, 1), 3.0), jnp.ones((1, 2)))
        Array([[3.]], dtype=float32)
    """
    _check.require_within("init_scale", init_scale, at_least=0.0)

    def apply(params: PyTree, x: Any) -> Array:
        z = apply_fn(params, x)
        rest = 1 - jnp.asarray(init_scale, z.dtype)
        return z - rest * apply_fn(params0, x)

    return apply
