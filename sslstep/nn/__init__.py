"""Networks, as flax.linen modules, and ways to make their initial embeddings small."""

from sslstep.nn.mlp import MLP, centred, scale_init

__all__ = ["MLP", "centred", "scale_init"]
