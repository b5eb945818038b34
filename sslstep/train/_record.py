"""What is measured of a network while it trains."""

from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike
from jaxtyping import Array, Float, Real

from sslstep import _check, _xla, nn
from sslstep.losses import _batch
from sslstep.measure import spectrum
from sslstep.train._network import Model, forward_in_evaluation, forward_in_training
from sslstep.train._step import TrainState

__all__ = ["Metric", "embed_in_batches", "make_record", "measured", "require_views"]

#: A further number of what a network gives for two views of the same images.
Metric = Callable[[nn.Outputs, Any], Array]


def embed_in_batches(
    network: Model,
    variables: dict[str, Any],
    x: Float[Array, "n ..."],
    batch_size: int,
    *,
    train: bool = True,
) -> tuple[Array, Array]:
    """Representations and embeddings (h, z) of n inputs, a batch at a time.

    In training mode batch norms use each batch's own statistics, as they do in the steps, so the
    result depends on which inputs share a batch.
    """
    batches = x.reshape(-1, batch_size, *x.shape[1:])

    def embed(batch):
        if train:
            (h, z), _ = forward_in_training(network, variables, batch)
        else:
            h, z = forward_in_evaluation(network, variables, batch)
        return h, z

    def embed_all(batches):
        return jax.lax.map(embed, batches)  # a loop, though it be of one batch

    h, z = _xla.prepared(embed_all, _xla.on_cpu(_xla.devices_of(x)))(batches)
    return h.reshape(x.shape[0], -1), z.reshape(x.shape[0], -1)


def require_views(x: Array, x_prime: Array, batch_size: int) -> None:
    """Check that two views of the same images can pass through a network in whole batches."""
    if x.shape != x_prime.shape:
        raise ValueError(
            f"x and x_prime are two views of the same images and must have one shape, got "
            f"{x.shape} and {x_prime.shape}."
        )
    _check.require_at_least("batch_size", batch_size, 1)
    if x.shape[0] % batch_size:
        raise ValueError(f"batch_size = {batch_size} must divide the {x.shape[0]} pairs of x.")


def make_record(
    network: Model,
    x: Float[Array, "n ..."],
    x_prime: Float[Array, "n ..."],
    *,
    batch_size: int,
    train: bool = True,
    normalise: bool = False,
    eps: Real[ArrayLike, ""] = 1e-5,
    threshold: Real[ArrayLike, ""] = 0.5,
    metrics: Mapping[str, Metric] | None = None,
) -> Callable[[TrainState], dict[str, Array]]:
    r"""The spectra of Appendix D.4 on a fixed set of positive pairs.

    The pairs should be many more than there are dimensions: a correlation of n samples has rank n,
    and the eigenvalues of a batch overshoot by its sampling noise.

    Args:
        network: as :func:`make_step` takes it.
        x: one view of n images, as the network takes them.
        x_prime: the other view.
        batch_size: how many pass through the network at once. Must divide n.
        train: whether batch norms use the statistics of each such batch, as in training; then
            ``batch_size`` should be training's. Else they use the running averages, which lag
            behind.
        normalise: whether C is that of embeddings brought to mean 0 and variance 1 in each
            dimension over the pairs of each view, as Barlow Twins' loss with batch norm sees them:
            :math:`(z - \bar z) / \sqrt{\mathrm{var} + \epsilon}`. Embeddings much smaller than
            √ε thus have small eigenvalues, however well they correlate.
        eps: ε of that batch norm, at least 0; a dimension that is constant gives NaN at 0.
        threshold: the eigenvalue above which a dimension counts as learned.
        metrics: what else to record, by its name: functions of both views'
            :class:`sslstep.nn.Outputs` (h, z), in JAX, such as :mod:`sslstep.measure.quality` has.

    Returns:
        ``record(state)``, pure and compiled, a dictionary of ``correlation``: eigenvalues of
        (C + Cᵀ)/2 (Eq. 2), shape ``(d,)``; ``covariance``: of the centred covariance of embeddings
        of both views, ``(d,)``; ``hidden``: of that of hidden representations, ``(p,)``;
        ``learned``: how many eigenvalues of C are above the threshold; and each of ``metrics``.
        Eigenvalues are in descending order.

    Raises:
        ValueError: if the views differ in shape, ``batch_size`` does not divide n, or ε is
            negative, or a metric is called as one of the entries above, or ``step``.

    Example:
        >>> import jax, jax.numpy as jnp, optax
        >>> from sslstep import nn, train
        >>> from sslstep.measure import quality, spectrum
        >>> backbone = nn.ResNet(stage_sizes=(1,), width=4, stem="small")
        >>> network = nn.Encoder(backbone, nn.Projector(hidden=(8,), dim=3))
        >>> x, x_prime = jax.random.normal(jax.random.key(1), (2, 32, 8, 8, 3))
        >>> state = train.init_state(jax.random.key(0), network, optax.sgd(0.1), x)
        >>> record = train.make_record(network, x, x_prime, batch_size=16)
        >>> {name: value.shape for name, value in record(state).items()}
        {'correlation': (3,), 'covariance': (3,), 'hidden': (4,), 'learned': ()}

        More than spectra:

        >>> metrics = {
        ...     "lidar": lambda first, second: quality.lidar(first.z, second.z),
        ...     "rankme of h": lambda first, second: spectrum.effective_rank(first.h),
        ... }
        >>> record = train.make_record(network, x, x_prime, batch_size=16, metrics=metrics)
        >>> sorted(record(state).keys() & metrics.keys())
        ['lidar', 'rankme of h']
    """
    require_views(x, x_prime, batch_size)
    _check.require_at_least("eps", eps, 0.0)
    require_names(metrics or {})

    @jax.jit
    def measure(params, batch_stats, x, x_prime):
        variables = {"params": params, "batch_stats": batch_stats}
        first, second = (
            nn.Outputs(*embed_in_batches(network, variables, view, batch_size, train=train))
            for view in (x, x_prime)
        )
        return measured(
            first, second, normalise=normalise, eps=eps, threshold=threshold, metrics=metrics or {}
        )

    return lambda state: measure(state.params, state.batch_stats, x, x_prime)


def measured(
    first: nn.Outputs,
    second: nn.Outputs | None,
    *,
    normalise: bool,
    eps: Any,
    threshold: Any,
    metrics: Mapping[str, Metric],
) -> dict[str, Array]:
    """The entries of a record, of both views' outputs, or of what there is of them."""
    views = [first] if second is None else [first, second]
    found = {"covariance": spectrum.covariance_eigenvalues(jnp.concatenate([v.z for v in views]))}
    if second is not None:
        pair = _batch.pair(first.z, second.z)
        if normalise:
            pair = [_batch.normalised(view, eps) for view in pair]
        found["correlation"] = spectrum.correlation_eigenvalues(*pair)
        found["learned"] = spectrum.learned_dimensions(found["correlation"], threshold)
    if first.h is not None:
        found["hidden"] = spectrum.covariance_eigenvalues(jnp.concatenate([v.h for v in views]))
    return found | {name: metric(first, second) for name, metric in metrics.items()}


def require_names(metrics: Mapping[str, Metric]) -> None:
    """Raise ValueError if a metric has the name of a quantity that every record holds."""
    for name in ("step", "correlation", "covariance", "hidden", "learned"):
        if name in metrics:
            raise ValueError(f"metrics must not be called {name!r}, which every record has.")
