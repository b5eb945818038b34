"""Objectives of training: they compute the arguments of the loss from views and variables."""

from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
from flax import linen
from jax.typing import ArrayLike
from jaxtyping import Array, PyTree, Real

from sslstep import _check
from sslstep.train._network import Model, adapted, forward_in_evaluation, forward_in_training

Variables = Mapping[str, Any]


class Objective:
    r"""Base class of trainable objects whose loss takes more than the embeddings of each view.

    .. math:: \mathcal{L}\big(\mathrm{outputs}(\theta, \xi, \mathrm{views})\big), \qquad
        \xi \leftarrow \mathrm{next\_targets}(\xi, \theta)

    with the loss :math:`\mathcal{L}`, the trained variables θ, and the targets ξ, which follow θ
    without a gradient. A subclass defines :meth:`init` and :meth:`outputs`; :meth:`apply` for
    records and probes; :meth:`first_targets` and :meth:`next_targets` if it has targets. Functions
    that take a :class:`Network` also take an objective.

    Example:
        A linear autoencoder that reconstructs its input from half of its entries:

        >>> import jax, jax.numpy as jnp, optax
        >>> from sslstep import train
        >>> class Autoencoder(train.Objective):
        ...     def init(self, key, x, train=False):
        ...         return {"params": {"w": 0.1 * jax.random.normal(key, (2, x.shape[1]))}}
        ...     def outputs(self, variables, targets, views):
        ...         hidden, seen = views
        ...         w = variables["params"]["w"]
        ...         return (seen @ w.T @ w, hidden), {}
        >>> def error(prediction, truth):
        ...     return ((prediction - truth) ** 2).sum(axis=1).mean()
        >>> def half_seen(keys, x):
        ...     seen = jax.vmap(lambda key: jax.random.bernoulli(key, shape=(5,)))(keys)
        ...     return x, jnp.where(seen, x, 0.0)
        >>> x = jax.random.normal(jax.random.key(0), (8, 5))
        >>> objective, sgd = Autoencoder(), optax.sgd(0.1)
        >>> state = train.init_state(jax.random.key(1), objective, sgd, x)
        >>> state, metrics = train.make_step(objective, error, sgd, half_seen)(state, x)
        >>> int(state.step)
        1
    """

    def init(self, key: Any, x: Any, train: bool = False) -> Variables:
        """Return the initial variables: ``params`` and, for running averages, ``batch_stats``."""
        raise NotImplementedError

    def apply(self, variables: Variables, x: Any, *, train: bool, mutable: Any = False) -> Any:
        """Return (h, z) of a batch x, as :meth:`Network.apply`, for records and probes."""
        raise NotImplementedError(f"{type(self).__name__} has no apply, which gives (h, z).")

    def outputs(
        self, variables: Variables, targets: PyTree, views: PyTree
    ) -> tuple[tuple[Array, ...], Variables]:
        """Compute the arguments of the loss and the new running averages, in training mode.

        Args:
            variables: current variables, with the entries that :meth:`init` returns.
            targets: current targets, from :meth:`first_targets` or :meth:`next_targets`.
            views: the return value of ``views_fn`` of :func:`make_step`.

        Returns:
            A tuple of floating-point arrays with one row for each sample, and a dictionary with new
            running averages under ``batch_stats``, or an empty one.
        """
        raise NotImplementedError

    def first_targets(self, variables: Variables) -> PyTree:
        """Return the targets before the first step, from the initial variables. Default: none."""
        return {}

    def next_targets(self, targets: PyTree, variables: Variables, step: Array) -> PyTree:
        """Update the targets after a step. Default: no change.

        Args:
            targets: targets before the step.
            variables: variables after the step.
            step: number of steps done, including this one.
        """
        return targets


class _OfNetwork(Objective):
    """Objective whose variables are those of one network."""

    def __init__(self, network: Model) -> None:
        self.network = adapted(network)

    def init(self, key: Any, x: Any, train: bool = False) -> Variables:
        """Return the initial variables of the network."""
        return self.network.init(key, x, train=train)

    def apply(self, variables: Variables, x: Any, *, train: bool, mutable: Any = False) -> Any:
        """Return (h, z) of the network for a batch x."""
        return self.network.apply(variables, x, train=train, mutable=mutable)


class JointEmbedding(_OfNetwork):
    """Objective whose outputs are a network's embeddings of each view.

    :func:`make_step` uses it for a plain network.

    Args:
        network: a :class:`Network` that maps inputs to (h, z), or a module of NNX or Equinox.
        joint_views: if true, all views pass through the network as one batch, with common batch
            statistics; if false, one after the other.
    """

    def __init__(self, network: Model, joint_views: bool = False) -> None:
        super().__init__(network)
        self.joint_views = joint_views

    def outputs(
        self, variables: Variables, targets: PyTree, views: PyTree
    ) -> tuple[tuple[Array, ...], Variables]:
        """Return the embeddings of each view, and the new running averages."""
        if self.joint_views:
            (_, z), updated = forward_in_training(self.network, variables, jnp.concatenate(views))
            return tuple(jnp.split(z, len(views))), updated
        embeddings: list[Array] = []
        for view in views:
            (_, z), updated = forward_in_training(self.network, variables, view)
            variables = {**variables, **updated}
            embeddings.append(z)
        return tuple(embeddings), {k: v for k, v in variables.items() if k == "batch_stats"}


class SelfDistillation(Objective):
    r"""Objective of BYOL and SimSiam: predict a target network's embeddings of the other view.

    .. math:: \mathcal{L}\big(q(f_\theta(x)), q(f_\theta(x')), f_\xi(x), f_\xi(x')\big), \qquad
        \xi \leftarrow \tau \xi + (1 - \tau) \theta

    with the two views x and x', the network :math:`f_\theta`, the predictor q and the target
    network :math:`f_\xi`, through which no gradient goes. A decay τ gives BYOL (Grill et al. 2020).
    No decay gives SimSiam (Chen and He 2021), where ξ is θ. A decay without a predictor gives the
    form of DINO (Caron et al. 2021). The loss takes the four arrays in this order, as
    :func:`sslstep.losses.prediction_error` does.

    Records and probes use :math:`f_\theta` without the predictor. The entries of the parameters are
    ``network`` and ``predictor``.

    Args:
        network: a :class:`Network` that maps inputs to (h, z), or a module of NNX or Equinox.
        predictor: a flax module whose ``__call__(z, *, train)`` returns predictions of z's shape,
            such as :class:`sslstep.nn.Projector`; None for the identity.
        decay: τ in [0, 1], or a function of the number k of steps done, such as BYOL's
            :math:`1 - (1 - \tau_0) (\cos(\pi k / K) + 1) / 2` for K steps in all. None: ξ is θ.

    Raises:
        ValueError: if τ is not within [0, 1].

    Example:
        >>> import jax, jax.numpy as jnp, optax
        >>> from sslstep import data, losses, nn, train
        >>> backbone = nn.ResNet(stage_sizes=(1,), width=4, stem="small")
        >>> network = nn.Encoder(backbone, nn.Projector(hidden=(8,), dim=3))
        >>> byol = train.SelfDistillation(network, nn.Projector(hidden=(8,), dim=3), decay=0.99)
        >>> sgd = optax.sgd(0.1)
        >>> def two_crops(keys, images):
        ...     return data.two_views(keys, images, data.crop_views(8))
        >>> state = train.init_state(jax.random.key(0), byol, sgd, jnp.zeros((1, 8, 8, 3)))
        >>> step = jax.jit(train.make_step(byol, losses.prediction_error, sgd, two_crops))
        >>> images = jax.random.randint(jax.random.key(1), (16, 12, 12, 3), 0, 256).astype("uint8")
        >>> state, metrics = step(state, images)
        >>> sorted(state.params), sorted(state.targets)
        (['network', 'predictor'], ['batch_stats', 'params'])
    """

    def __init__(
        self,
        network: Model,
        predictor: linen.Module | None,
        decay: Real[ArrayLike, ""] | Callable[[Array], ArrayLike] | None = 0.99,
    ) -> None:
        self.network, self.predictor, self.decay = adapted(network), predictor, decay
        if decay is not None and not callable(decay):
            _check.require_within("decay", decay, at_least=0.0, at_most=1.0)

    def init(self, key: Any, x: Any, train: bool = False) -> Variables:
        """Return the initial variables of the network and of the predictor."""
        of_network, of_predictor = jax.random.split(key)
        found = {"network": self.network.init(of_network, x, train=train)}
        if self.predictor is not None:
            _, z = forward_in_evaluation(self.network, found["network"], x)
            found["predictor"] = self.predictor.init(of_predictor, z, train=train)
        collections = sorted({name for variables in found.values() for name in variables})
        return {
            name: {part: variables[name] for part, variables in found.items() if name in variables}
            for name in collections
        }

    def apply(self, variables: Variables, x: Any, *, train: bool, mutable: Any = False) -> Any:
        """Return (h, z) of the trained network, without the predictor, for a batch x."""
        network = _part(variables, "network")
        found = self.network.apply(network, x, train=train, mutable=mutable)
        if not mutable:
            return found
        pair, updated = found
        nested = {name: {**variables[name], "network": own} for name, own in updated.items()}
        return pair, nested

    def outputs(
        self, variables: Variables, targets: PyTree, views: PyTree
    ) -> tuple[tuple[Array, ...], Variables]:
        """Return the predictions from each view, then the targets from each view."""
        network, predictor = (_part(variables, name) for name in ("network", "predictor"))
        followed = {} if self.decay is None else targets
        predictions, aims = [], []
        for view in views:
            (_, z), updated = forward_in_training(self.network, network, view)
            network = {**network, **updated}
            aim = z
            if followed:
                (_, aim), _ = forward_in_training(self.network, followed, view)
            if self.predictor is not None:
                z, updated = self.predictor.apply(predictor, z, train=True, mutable=["batch_stats"])
                predictor = {**predictor, **updated}
            predictions.append(z)
            aims.append(jax.lax.stop_gradient(aim))
        parts = {"network": network, "predictor": predictor}
        averages = {
            name: variables["batch_stats"]
            for name, variables in parts.items()
            if "batch_stats" in variables
        }
        return (*predictions, *aims), {"batch_stats": averages} if averages else {}

    def first_targets(self, variables: Variables) -> PyTree:
        """Return a copy of the network's variables; an empty dict if there is no decay."""
        return {} if self.decay is None else jax.tree.map(jnp.copy, _part(variables, "network"))

    def next_targets(self, targets: PyTree, variables: Variables, step: Array) -> PyTree:
        """Move the targets towards the network's variables by the factor 1 - τ."""
        if self.decay is None:
            return targets
        decay = self.decay(step) if callable(self.decay) else self.decay

        def follow(old: Array, new: Array) -> Array:
            if not jnp.issubdtype(old.dtype, jnp.inexact):  # a count, or a flag
                return new
            return old + (1 - jnp.asarray(decay, old.dtype)) * (new - old)

        return jax.tree.map(follow, targets, _part(variables, "network"))


class Reconstruction(_OfNetwork):
    """Objective of masked autoencoders: predict all pixel values of an image from a part of them.

    The network sees the images with their hidden part set to 0. Its output z is the prediction,
    with one number for each of the p pixel values of an image: the projector is the decoder. The
    loss takes ``(prediction, truth, hidden)``, each of shape ``(n, p)``, as
    :func:`sslstep.losses.reconstruction_error` does. The views are those of
    :func:`sslstep.data.masked_view`.

    Args:
        network: a :class:`Network` that maps images to (h, z), or a module of NNX or Equinox.

    Example:
        >>> import jax, jax.numpy as jnp, optax
        >>> from sslstep import data, losses, nn, train
        >>> backbone = nn.ResNet(stage_sizes=(1,), width=4, stem="small")
        >>> network = nn.Encoder(backbone, nn.Projector(hidden=(16,), dim=8 * 8 * 3))
        >>> objective, sgd = train.Reconstruction(network), optax.sgd(0.1)
        >>> loss_fn = losses.reconstruction_error
        >>> def half_hidden(keys, images):
        ...     crop = data.crop_views(8).first
        ...     return data.masked_view(keys, images, crop, patch=4, fraction=0.5)
        >>> state = train.init_state(jax.random.key(0), objective, sgd, jnp.zeros((1, 8, 8, 3)))
        >>> step = jax.jit(train.make_step(objective, loss_fn, sgd, half_hidden))
        >>> images = jax.random.randint(jax.random.key(1), (16, 12, 12, 3), 0, 256).astype("uint8")
        >>> state, metrics = step(state, images)
        >>> int(state.step)
        1
    """

    def outputs(
        self, variables: Variables, targets: PyTree, views: PyTree
    ) -> tuple[tuple[Array, ...], Variables]:
        """Return prediction, truth and mask of hidden values, from the views of `masked_view`."""
        seen, truth, hidden = views
        (_, prediction), updated = forward_in_training(self.network, variables, seen)
        rows = [jnp.broadcast_to(part, truth.shape) for part in (truth, hidden)]
        return (prediction, *(part.reshape(len(part), -1) for part in rows)), updated


def as_objective(network: Model | Objective, joint_views: bool = False) -> Objective:
    """Return an objective unchanged, or the :class:`JointEmbedding` of a network."""
    if not isinstance(network, Objective):
        return JointEmbedding(network, joint_views)
    if joint_views:
        raise ValueError("joint_views must be False for an objective, which embeds views itself.")
    return network


def _part(variables: Variables, name: str) -> dict[str, Any]:
    """Select the variables of one part, ``network`` or ``predictor``, from each collection."""
    return {collection: parts[name] for collection, parts in variables.items() if name in parts}
