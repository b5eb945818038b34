r"""Projectors, which map representations to embeddings, and the whole encoder."""

from collections.abc import Sequence
from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
from flax import linen
from jax.typing import ArrayLike, DTypeLike
from jaxtyping import Array, Float

from sslstep import _check
from sslstep.nn import _layers

__all__ = [
    "Encoder",
    "Outputs",
    "Projector",
    "barlow_twins_head",
    "simclr_head",
    "vicreg_head",
]


class Outputs(NamedTuple):
    """What an encoder makes of n images.

    Attributes:
        h: hidden representations, before the projector, shape ``(n, p)``.
        z: embeddings, on which losses are defined, shape ``(n, d)``.
    """

    h: Float[Array, "n p"]
    z: Float[Array, "n d"]


class Projector(linen.Module):
    r"""A small fully connected network from representations to embeddings.

    .. math:: h_l = \mathrm{relu}(\mathrm{BN}_l(W_l h_{l-1} + b_l)), \qquad z = W_{L+1} h_L

    Weights and biases start as PyTorch's, :math:`\mathcal{U}(\pm 1 / \sqrt{\mathrm{fan\_in}})`, and
    batch norms, which are those of :class:`ResNet`, at scale 1 and shift 0.

    Variables have names such as ``hidden_1/kernel``, ``bn_1/scale``, ``output/kernel`` and
    ``output_bn/scale``.

    Attributes:
        dim: embedding dimension d.
        hidden: the width of each hidden layer; may be empty.
        hidden_bias: whether hidden layers have the biases :math:`b_l`.
        batch_norm: whether hidden layers have batch norm.
        output_bias: whether the last layer has a bias.
        output_batch_norm: whether batch norm, with scale and without shift, follows the last layer.
        dtype: in which to compute. Parameters, statistics and embeddings are float32 if it is
            shorter.

    Raises:
        ValueError: if a size is below 1, or ``dim`` no single number.

    Example:
        >>> import jax, jax.numpy as jnp
        >>> from sslstep import nn
        >>> projector = nn.Projector(4, (32,))
        >>> variables = projector.init(jax.random.key(0), jnp.ones((5, 16)), train=False)
        >>> projector.apply(variables, jnp.ones((5, 16)), train=False).shape
        (5, 4)
    """

    dim: int
    hidden: Sequence[int]
    hidden_bias: bool = False
    batch_norm: bool = True
    output_bias: bool = False
    output_batch_norm: bool = False
    dtype: DTypeLike = jnp.float32

    def __post_init__(self) -> None:
        if _check.shape_of(self.dim):
            raise ValueError(f"dim must be one number, before hidden, got {self.dim}.")
        if not isinstance(self.hidden, Sequence):
            raise ValueError(f"hidden must be the widths of the layers, got {self.hidden}.")
        _check.require_at_least("dim", self.dim, 1)
        _check.require_at_least("hidden", self.hidden, 1)
        super().__post_init__()

    @linen.compact
    def __call__(
        self,
        h: Float[ArrayLike, "n p"],
        *,
        train: bool,
    ) -> Float[Array, "n {self.dim}"]:
        """Embeddings of n representations.

        Args:
            h: representations, shape ``(n, p)``.
            train: as in :class:`ResNet`.

        Returns:
            Shape ``(n, d)``.
        """
        _check.require_matrix("h", h, "(n, p)")
        z = jnp.asarray(h).astype(self.dtype)
        for layer, width in enumerate(self.hidden, start=1):
            z = _layers.Linear(width, self.hidden_bias, self.dtype, name=f"hidden_{layer}")(z)
            if self.batch_norm:
                z = _layers.BatchNorm(train, self.dtype, name=f"bn_{layer}")(z)
            z = jax.nn.relu(z)
        z = _layers.Linear(self.dim, self.output_bias, self.dtype, name="output")(z)
        if self.output_batch_norm:
            z = _layers.BatchNorm(train, self.dtype, use_bias=False, name="output_bn")(z)
        return z.astype(_layers.parameter_dtype(self.dtype))


def barlow_twins_head(
    dim: int = 8192, hidden: Sequence[int] = (8192, 8192), **settings: Any
) -> Projector:
    """The projector of Barlow Twins: hidden layers without biases, with batch norm.

    Appendix D.2 has one hidden layer: ``barlow_twins_head(512, (2048,))``.

    Args:
        dim: embedding dimension d.
        hidden: widths of the hidden layers.
        **settings: of :class:`Projector`, such as ``dtype``.

    Returns:
        The module.

    Example:
        >>> from sslstep import nn
        >>> nn.barlow_twins_head(512, (2048,)).hidden_bias
        False
    """
    return Projector(dim, tuple(hidden), **settings)


def vicreg_head(
    dim: int = 8192, hidden: Sequence[int] = (8192, 8192), **settings: Any
) -> Projector:
    """The projector of VICReg: hidden layers with biases and batch norm, no bias in the last.

    Appendix D.2's is ``vicreg_head(128, (512, 512))``.

    Args:
        dim: embedding dimension d.
        hidden: widths of the hidden layers.
        **settings: of :class:`Projector`, such as ``dtype``.

    Returns:
        The module.

    Example:
        >>> from sslstep import nn
        >>> nn.vicreg_head(128, (512, 512)).hidden_bias
        True
    """
    return Projector(dim, tuple(hidden), hidden_bias=True, **settings)


def simclr_head(
    dim: int = 128,
    hidden: Sequence[int] = (2048, 2048),
    *,
    variant: Literal["tensorflow", "plain"] = "tensorflow",
    **settings: Any,
) -> Projector:
    """The projector of SimCLR.

    ``"tensorflow"`` is that of the authors' code: layers without biases, batch norm after each, the
    last with scale and without shift. SimCLRv2 has two hidden layers, SimCLR one, as wide as the
    representation. The weights start as PyTorch's, where the authors draw them from N(0, 0.01²).

    ``"plain"`` has biases and no batch norm: linear, relu, linear, as in solo-learn. Appendix D.2
    does not state its head. With every initial parameter scaled by its α, this one starts at the
    eigenvalues it reports, about 1e-6, and one with batch norm a hundred times or more above.

    Args:
        dim: embedding dimension d.
        hidden: widths of the hidden layers.
        variant: which of the two.
        **settings: of :class:`Projector`, such as ``dtype``.

    Returns:
        The module.

    Raises:
        ValueError: if there is no such variant.

    Example:
        >>> from sslstep import nn
        >>> nn.simclr_head(128, (2048,), variant="plain").batch_norm
        False
    """
    _check.require_one_of("variant", variant, ("tensorflow", "plain"))
    if variant == "tensorflow":
        return Projector(dim, tuple(hidden), output_batch_norm=True, **settings)
    settings = {"hidden_bias": True, "output_bias": True, **settings}
    return Projector(dim, tuple(hidden), batch_norm=False, **settings)


class Encoder(linen.Module):
    """The network that self-supervised learning trains: a backbone and its projector.

    Calling it returns representations and embeddings, ``(h, z)``. Its variables are those of the
    two modules, under ``backbone`` and ``projector``.

    Attributes:
        backbone: module that maps inputs to representations, such as :class:`ResNet`.
        projector: module that maps representations to embeddings, such as :class:`Projector`. The
            ``__call__`` of both takes ``train``.

    Example:
        >>> import jax, jax.numpy as jnp
        >>> from sslstep import nn
        >>> backbone = nn.ResNet(stage_sizes=(1, 1), width=8, stem="small")
        >>> encoder = nn.Encoder(backbone, nn.barlow_twins_head(4, (32,)))
        >>> images = jnp.ones((5, 8, 8, 3))
        >>> variables = encoder.init(jax.random.key(0), images, train=False)
        >>> h, z = encoder.apply(variables, images, train=False)
        >>> h.shape, z.shape
        ((5, 16), (5, 4))
    """

    backbone: linen.Module
    projector: linen.Module

    @linen.compact
    def __call__(
        self,
        x: Float[ArrayLike, "n ..."],
        *,
        train: bool,
    ) -> Outputs:
        """Representations and embeddings of n inputs.

        Args:
            x: inputs, as the backbone takes them.
            train: as in :class:`ResNet`.

        Returns:
            :class:`Outputs`: ``h``, shape ``(n, p)``, and ``z``, shape ``(n, d)``.
        """
        backbone: Any = self.backbone
        projector: Any = self.projector
        h = backbone(x, train=train)
        return Outputs(h, projector(h, train=train))
