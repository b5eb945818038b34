r"""Projectors, which map representations to embeddings, and encoders."""

from collections.abc import Sequence
from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
from flax import linen
from jax.typing import ArrayLike, DTypeLike
from jaxtyping import Array, Float

from sslstep import _check
from sslstep.nn import _layers

__all__ = ["Encoder", "Outputs", "Projector", "barlow_twins_head", "simclr_head", "vicreg_head"]


class Outputs(NamedTuple):
    """Outputs of an encoder for n images.

    Attributes:
        h: hidden representations, the projector's inputs, shape ``(n, p)``.
        z: embeddings, the arguments of the loss, shape ``(n, d)``.
    """

    h: Float[Array, "n p"]
    z: Float[Array, "n d"]


class Projector(linen.Module):
    r"""A fully connected network with L hidden layers from representations to embeddings.

    .. math:: h_l = \mathrm{relu}(\mathrm{BN}_l(W_l h_{l-1} + b_l)), \qquad z = W_{L+1} h_L

    with the representation :math:`h_0`, weights W, biases b and batch norms BN. Weights and biases
    have PyTorch's initialisation, :math:`\mathcal{U}(\pm 1 / \sqrt{\mathrm{fan\_in}})`. Batch norms
    are those of :class:`ResNet`, initially with scale 1 and shift 0.

    Variables have names such as ``hidden_1/kernel``, ``bn_1/scale``, ``output/kernel`` and
    ``output_bn/scale``.

    Attributes:
        dim: embedding dimension d.
        hidden: width of each hidden layer; may be empty.
        hidden_bias: whether hidden layers have the biases :math:`b_l`.
        batch_norm: whether hidden layers have batch norm.
        output_bias: whether the last layer has a bias.
        output_batch_norm: whether a batch norm without shift follows the last layer.
        dtype: dtype of the computation. For 16-bit dtypes, parameters, statistics and embeddings
            are float32.

    Raises:
        ValueError: if ``dim`` or ``hidden`` is not a size or a sequence of sizes.

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
        _check.require_within("dim", self.dim, at_least=1)
        _check.require_within("hidden", self.hidden, at_least=1)
        super().__post_init__()

    @linen.compact
    def __call__(self, h: Float[ArrayLike, "n p"], *, train: bool) -> Float[Array, "n {self.dim}"]:
        """Compute the embeddings of n representations.

        Args:
            h: representations, shape ``(n, p)``.
            train: whether batch norms use the batch's statistics; if not, the running averages.

        Returns:
            Embeddings, shape ``(n, d)``.
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
    """Make the projector of Barlow Twins: hidden layers with batch norm and without biases.

    Appendix D.2 uses one hidden layer: ``barlow_twins_head(512, (2048,))``.

    Args:
        dim: embedding dimension d.
        hidden: widths of the hidden layers.
        **settings: further attributes of :class:`Projector`, such as ``dtype``.

    Example:
        >>> from sslstep import nn
        >>> nn.barlow_twins_head(512, (2048,)).hidden_bias
        False
    """
    return Projector(dim, tuple(hidden), **settings)


def vicreg_head(
    dim: int = 8192, hidden: Sequence[int] = (8192, 8192), **settings: Any
) -> Projector:
    """Make the projector of VICReg: hidden layers with biases and batch norm, no output bias.

    Appendix D.2 uses ``vicreg_head(128, (512, 512))``.

    Args:
        dim: embedding dimension d.
        hidden: widths of the hidden layers.
        **settings: further attributes of :class:`Projector`, such as ``dtype``.

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
    """Make the projector of SimCLR.

    ``"tensorflow"`` is the projector of the authors' code. Its layers have no biases, and batch
    norm follows each; the last batch norm has no shift. SimCLRv2 uses two hidden layers, and SimCLR
    one, as wide as the representation. Weights have PyTorch's initialisation; the authors draw them
    from N(0, 0.01²).

    ``"plain"`` has biases and no batch norm, as in solo-learn. Appendix D.2 does not describe its
    projector. With all initial parameters scaled by the paper's α, ``"plain"`` starts at the
    eigenvalues that the paper reports, about 1e-6. A projector with batch norm starts at least a
    hundred times higher.

    Args:
        dim: embedding dimension d.
        hidden: widths of the hidden layers.
        variant: ``"tensorflow"`` or ``"plain"``.
        **settings: further attributes of :class:`Projector`, such as ``dtype``.

    Raises:
        ValueError: if ``variant`` is unknown.

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
    """A backbone followed by a projector: the network that self-supervised learning trains.

    A call returns representations and embeddings, ``(h, z)``. The variables of the two modules are
    under ``backbone`` and ``projector``.

    Attributes:
        backbone: module that maps inputs to representations, such as :class:`ResNet`. Its
            ``__call__`` takes ``train``.
        projector: module that maps representations to embeddings, such as :class:`Projector`. Its
            ``__call__`` takes ``train``.

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
    def __call__(self, x: Float[ArrayLike, "n ..."], *, train: bool) -> Outputs:
        """Compute the representations and embeddings of n inputs.

        Args:
            x: inputs of the backbone, shape ``(n, ...)``.
            train: whether batch norms use the batch's statistics; if not, the running averages.

        Returns:
            :class:`Outputs`: ``h``, shape ``(n, p)``, and ``z``, shape ``(n, d)``.
        """
        backbone: Any = self.backbone
        projector: Any = self.projector
        h = backbone(x, train=train)
        return Outputs(h, projector(h, train=train))
