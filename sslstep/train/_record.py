"""Spectra and other quantities of a network during training."""

from collections.abc import Callable, Mapping
from types import MappingProxyType
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

#: Function of the outputs of both views of the same images, which a record stores.
Metric = Callable[[nn.Outputs, Any], Array]


def embed_in_batches(
    network: Model,
    variables: dict[str, Any],
    x: Float[Array, "n ..."],
    batch_size: int,
    *,
    train: bool = True,
) -> tuple[Array, Array]:
    """Compute (h, z) of n inputs in batches; shapes ``(n, p)`` and ``(n, d)``.

    In training mode (``train``) batch norms use the statistics of each batch, so the result depends
    on which inputs share a batch.
    """
    batches = x.reshape(-1, batch_size, *x.shape[1:])

    def embed(batch):
        if train:
            (h, z), _ = forward_in_training(network, variables, batch)
        else:
            h, z = forward_in_evaluation(network, variables, batch)
        return h, z

    def embed_all(batches):
        return jax.lax.map(embed, batches)  # a loop, even for one batch

    h, z = _xla.prepared(embed_all, _xla.on_cpu(_xla.devices_of(x)))(batches)
    return h.reshape(x.shape[0], -1), z.reshape(x.shape[0], -1)


def require_views(x: Array, x_prime: Array, batch_size: int) -> None:
    """Raise ValueError unless the views have one shape and `batch_size` divides their number."""
    _check.require_one_shape("x and x_prime, views of the same images,", x, x_prime)
    _check.require_within("batch_size", batch_size, at_least=1)
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
    r"""Make the function that records the spectra of Appendix D.4 on fixed positive pairs.

    The number n of pairs should be much larger than the embedding dimension d: the symmetrised
    cross-correlation C of n pairs has rank 2n at most, and sampling noise enlarges its top
    eigenvalues.

    Args:
        network: a :class:`Network` or :class:`Objective`, or a module of NNX or Equinox.
        x: one view of n images, as the network takes them.
        x_prime: the other view of the same images, same shape.
        batch_size: number of images that pass through the network at once; it must divide n.
        train: if true, batch norms use the statistics of each batch, as in training; choose
            training's batch size. If false, they use the running averages, which lag behind.
        normalise: if true, C is the correlation of normalised embeddings,
            :math:`(z - \bar z) / \sqrt{\mathrm{var} + \epsilon}` in each dimension over the n
            images of each view, as in Barlow Twins with batch norm. Embeddings much smaller than
            √ε then have small eigenvalues even if the views agree.
        eps: ε ≥ 0 of this normalisation; at 0 a constant dimension gives NaN or, by rounding, an
            arbitrary value.
        threshold: the eigenvalue of C above which a dimension counts as learned.
        metrics: further quantities to record: for each name a JAX function of the
            :class:`sslstep.nn.Outputs` (h, z) of both views, such as those of
            :mod:`sslstep.measure.quality`.

    Returns:
        ``record(state)``, a pure compiled function that returns a dictionary. Eigenvalues are in
        descending order.

        - ``correlation``: eigenvalues of (C + Cᵀ)/2 (Eq. 2), shape ``(d,)``.
        - ``covariance``: eigenvalues of the centred covariance of the embeddings of both views,
          shape ``(d,)``.
        - ``hidden``: eigenvalues of the centred covariance of the hidden representations of both
          views, shape ``(p,)``.
        - ``learned``: number of eigenvalues of C above the threshold.
        - one entry for each of ``metrics``.

    Raises:
        ValueError: if the views or ``batch_size`` do not fit, ε is negative, or a metric is named
            ``step`` or as one of the entries above.

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
    _check.require_within("eps", eps, at_least=0.0)
    require_names(metrics or {})
    options: Any = {"normalise": normalise, "eps": eps, "threshold": threshold}
    measure = compiled_record(network, batch_size, train, **options, metrics=metrics or {})
    return lambda state: measure(state, x, x_prime)


def compiled_record(
    network: Model, batch_size: int, train: bool = True, **options: Any
) -> Callable[[TrainState, Array, Array], dict[str, Array]]:
    """Return the compiled record of a state and both views; `options` are those of `measured`."""

    @jax.jit
    def measure(params, batch_stats, x, x_prime):
        variables = {"params": params, "batch_stats": batch_stats}
        first, second = (
            nn.Outputs(*embed_in_batches(network, variables, view, batch_size, train=train))
            for view in (x, x_prime)
        )
        return measured(first, second, **options)

    return lambda state, x, x_prime: measure(state.params, state.batch_stats, x, x_prime)


def measured(
    first: nn.Outputs,
    second: nn.Outputs | None,
    *,
    normalise: bool = False,
    eps: Any = 1e-5,
    threshold: Any = 0.5,
    metrics: Mapping[str, Metric] = MappingProxyType({}),
) -> dict[str, Array]:
    """Compute the entries of a record; omit those that need a missing second view or missing h."""
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
