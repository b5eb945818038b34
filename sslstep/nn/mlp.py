r"""Fully connected networks whose infinite-width limits are known in closed form."""

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
    r"""A fully connected ReLU network of ``depth`` hidden layers of one width.

    .. math:: h_0 = x, \qquad h_l = \mathrm{relu}(\mathrm{layer}_l(h_{l-1})), \qquad
        f(x) = \mathrm{layer}_{L+1}(h_L)

    A layer of ``fan_in`` inputs with weights W and biases b is, with
    :math:`\sigma_W` = ``weight_std`` and :math:`\sigma_b` = ``bias_std``,

    - ``"ntk"``: :math:`\sigma_W W h / \sqrt{\mathrm{fan\_in}} + \sigma_b b`, with every weight and
      bias drawn from :math:`\mathcal{N}(0, 1)`. Gradient flow has a limit as the width grows.
    - ``"standard"``: :math:`W h + b`, with weights drawn from
      :math:`\mathcal{U}(\pm \sqrt{3} \sigma_W / \sqrt{\mathrm{fan\_in}})` and biases from
      :math:`\mathcal{U}(\pm \sqrt{3} \sigma_b)`, whose standard deviations are
      :math:`\sigma_W / \sqrt{\mathrm{fan\_in}}` and :math:`\sigma_b`. Its NTK grows in proportion
      to the width.

    Both have the same law of f at a given :math:`\sigma_W, \sigma_b` as the width grows, and differ
    in how fast they learn. Arguments mean what they mean to :func:`sslstep.ntk.infinite.mlp`, which
    gives the kernel of the limit.

    Parameters are ``params/hidden_1/kernel`` ... ``params/output/kernel``, of shape
    ``(fan_in, fan_out)``, and ``bias`` beside them where there is one.

    Attributes:
        dim: embedding dimension d.
        width: of each hidden layer.
        depth: how many hidden layers L.
        parameterization: ``"ntk"`` or ``"standard"``.
        weight_std: :math:`\sigma_W`. Default: :math:`\sqrt 2` for ``"ntk"``, and
            :math:`1 / \sqrt 3` for ``"standard"``, which is PyTorch's
            :math:`\mathcal{U}(\pm 1 / \sqrt{\mathrm{fan\_in}})`.
        bias_std: :math:`\sigma_b` of the hidden layers; ``"fan_in"`` for
            :math:`\sigma_W / \sqrt{\mathrm{fan\_in}}`, PyTorch's with the default weights; None for
            no biases.
        output_bias: whether the last layer has a bias too; needs ``bias_std``.
        dtype: of the parameters. Inputs are converted to it.

    Raises:
        ValueError: if a size is below 1, ``weight_std`` is not positive, ``bias_std`` is negative,
            the parameterisation is unknown, or ``output_bias`` is asked for without ``bias_std``.

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
            _check.require_at_least(name, getattr(self, name), 1)
        _check.require_one_of("parameterization", self.parameterization, ("ntk", "standard"))
        if self.weight_std is not None:
            _check.require_at_least("weight_std", self.weight_std, 0.0, strict=True)
        if isinstance(self.bias_std, str):
            if self.bias_std != "fan_in":
                raise ValueError(
                    f'bias_std must be a number, "fan_in" or None, not {self.bias_std!r}.'
                )
        elif self.bias_std is not None:
            _check.require_at_least("bias_std", self.bias_std, 0.0)
        elif self.output_bias:
            raise ValueError('output_bias=True needs bias_std, a number or "fan_in".')
        super().__post_init__()

    @linen.compact
    def __call__(self, x: Shaped[ArrayLike, "n ..."]) -> Float[Array, "n {self.dim}"]:
        """Embeddings of n inputs, each flattened."""
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
    """A layer of :class:`MLP`."""

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
        """The parameter as it enters the layer."""
        if self.ntk:
            return std * self.param(name, linen.initializers.normal(1.0), shape, self.dtype)

        def uniform(key, shape, dtype):
            bound = math.sqrt(3) * std
            return jax.random.uniform(key, shape, dtype, -bound, bound)

        return self.param(name, uniform, shape, self.dtype)


def scale_init(
    params: PyTree,
    init_scale: Real[ArrayLike, ""],
    where: Callable[[str], bool] | None = None,
) -> PyTree:
    r"""Multiply initial parameters by α.

    A network of L hidden layers without biases then has embeddings :math:`\alpha^{L+1}` and an NTK
    :math:`\alpha^{2L}` times as large. To shrink embeddings and keep the NTK, use :func:`centred`.

    Args:
        params: any pytree of parameters. Leaves that are not of floating type are kept.
        init_scale: α ≥ 0; traced.
        where: which to scale, told by their path in ``params``: ``"output/kernel"``, or
            ``"params/output/kernel"`` where ``params`` is all that a flax module's ``init``
            returned. Default: all of them, biases and the scales of normalisation layers too.

    Returns:
        The parameters, in the same structure and dtypes.

    Raises:
        ValueError: if α is negative or NaN, or ``where`` is true of no path.
        TypeError: if ``where`` is no function.

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
    r"""A model with small initial embeddings and large weights (Chizat et al. 2019, Section 1.2).

    .. math:: \tilde f(x; \theta) = f(x; \theta) - (1 - \alpha) f(x; \theta_0)

    At :math:`\theta = \theta_0` its output is α times that of f, and everywhere its derivative by
    θ, hence its NTK, is that of f. Section 5's theory assumes just this: small embeddings, and a
    kernel that stays. Scaling the weights themselves (:func:`scale_init`) shrinks the NTK as well,
    and a network with small weights leaves the NTK regime.

    Args:
        apply_fn: the model, ``apply_fn(params, x) -> (n, d)``, such as a flax module's ``apply``.
        params0: the initial parameters :math:`\theta_0`. Kept, not copied.
        init_scale: α ≥ 0; traced. With α = 0 the initial embedding is exactly zero, where the
            losses of self-supervised learning have a saddle that gradient descent never leaves.

    Returns:
        ``f(params, x) -> (n, d)``, pure. It evaluates ``apply_fn`` twice.

    Raises:
        ValueError: if α is negative or NaN.

    Example:
        >>> import jax.numpy as jnp
        >>> from sslstep import nn
        >>> f = nn.centred(lambda params, x: x @ params, jnp.full((2, 1), 3.0), init_scale=0.5)
        >>> f(jnp.full((2, 1), 3.0), jnp.ones((1, 2)))
        Array([[3.]], dtype=float32)
    """
    _check.require_at_least("init_scale", init_scale, 0.0)

    def apply(params: PyTree, x: Any) -> Array:
        z = apply_fn(params, x)
        rest = 1 - jnp.asarray(init_scale, z.dtype)
        return z - rest * apply_fn(params0, x)

    return apply
