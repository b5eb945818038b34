"""What a step descends: the outputs of samples that a loss is a function of."""

from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
from flax import linen
from jax.typing import ArrayLike
from jaxtyping import Array, PyTree, Real

from sslstep import _check
from sslstep.train._network import Model, adapted, forward_in_evaluation, forward_in_training

__all__ = ["JointEmbedding", "Objective", "Reconstruction", "SelfDistillation"]

Variables = Mapping[str, Any]


class Objective:
    r"""What is trained, where the loss sees more than one network's embeddings of the views.

    .. math:: \mathcal{L}\big(\mathrm{outputs}(\theta, \xi, \mathrm{views})\big), \qquad
        \xi \leftarrow \mathrm{next\_targets}(\xi, \theta)

    θ are the variables that are trained, and ξ, the targets, follow them without a gradient.
    Derive a class and define :meth:`init`, :meth:`outputs` and, for records, :meth:`apply`; with
    targets, the last two methods. Functions that take a :class:`Network` take an objective.

    Example:
        A linear autoencoder of one view that is hidden in part:

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
        """The initial variables: ``params`` and, of running averages, ``batch_stats``."""
        raise NotImplementedError

    def apply(self, variables: Variables, x: Any, *, train: bool, mutable: Any = False) -> Any:
        """(h, z) of one input, as :meth:`Network.apply`: for records and probes."""
        raise NotImplementedError(f"{type(self).__name__} has no apply, which gives (h, z).")

    def outputs(
        self, variables: Variables, targets: PyTree, views: PyTree
    ) -> tuple[tuple[Array, ...], Variables]:
        """The arguments of the loss, and the new running averages.

        Args:
            variables: of :meth:`init`, in training.
            targets: of :meth:`first_targets`, or what :meth:`next_targets` made of them.
            views: what ``views_fn`` of :func:`make_step` returned.

        Returns:
            A tuple of arrays of floats with one row for each sample, and a dictionary, of new
            running averages under ``batch_stats`` or empty.
        """
        raise NotImplementedError

    def first_targets(self, variables: Variables) -> PyTree:
        """The targets before the first step: none."""
        return {}

    def next_targets(self, targets: PyTree, variables: Variables, step: Array) -> PyTree:
        """The targets after a step, whose variables are given; ``step`` counts it as done."""
        return targets


class _OfNetwork(Objective):
    """Of one network, whose variables are all that there are."""

    def __init__(self, network: Model) -> None:
        self.network = adapted(network)

    def init(self, key: Any, x: Any, train: bool = False) -> Variables:
        """Those of the network."""
        return self.network.init(key, x, train=train)

    def apply(self, variables: Variables, x: Any, *, train: bool, mutable: Any = False) -> Any:
        """(h, z) of the network."""
        return self.network.apply(variables, x, train=train, mutable=mutable)


class JointEmbedding(_OfNetwork):
    """A network's embeddings of each view: what :func:`make_step` makes of a network.

    Args:
        network: from an input to (h, z), as :func:`make_step` takes it.
        joint_views: as :func:`make_step` takes it.
    """

    def __init__(self, network: Model, joint_views: bool = False) -> None:
        super().__init__(network)
        self.joint_views = joint_views

    def outputs(
        self, variables: Variables, targets: PyTree, views: PyTree
    ) -> tuple[tuple[Array, ...], Variables]:
        """The embeddings of each view."""
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
    r"""A network that predicts the target network's embeddings of the other view.

    .. math:: \mathcal{L}\big(q(f_\theta(x)), q(f_\theta(x')), f_\xi(x), f_\xi(x')\big), \qquad
        \xi \leftarrow \tau \xi + (1 - \tau) \theta

    No gradient goes through :math:`f_\xi`. With a decay τ this is BYOL (Grill et al. 2020), without
    one SimSiam (Chen and He 2021), where ξ is θ, and with a decay and no predictor q the form of
    DINO (Caron et al. 2021). The loss has four arguments, such as
    :func:`sslstep.losses.prediction_error`.

    Records and probes see the network of θ, without the predictor. Parameters are under
    ``network`` and ``predictor``.

    Args:
        network: from an input to (h, z), as :func:`make_step` takes it.
        predictor: a flax module whose ``__call__(z, *, train)`` gives predictions of z's shape,
            such as :class:`sslstep.nn.Projector`; None for the identity.
        decay: τ within [0, 1], a number, or a function of how many steps were done, as BYOL's
            :math:`1 - (1 - \tau_0) (\cos(\pi k / K) + 1) / 2`. None: the targets are the network.

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
        """Variables of the network and of the predictor."""
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
        """(h, z) of the network that is trained."""
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
        """Predictions of each view's target, then the targets of each view."""
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
                z, updated = self._predict(predictor, z)
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

    def _predict(self, variables: Variables, z: Array) -> tuple[Array, Variables]:
        predictor: Any = self.predictor
        return predictor.apply(variables, z, train=True, mutable=["batch_stats"])

    def first_targets(self, variables: Variables) -> PyTree:
        """A copy of the network's variables, or nothing without a decay."""
        return {} if self.decay is None else jax.tree.map(jnp.copy, _part(variables, "network"))

    def next_targets(self, targets: PyTree, variables: Variables, step: Array) -> PyTree:
        """The moving average."""
        if self.decay is None:
            return targets
        decay = self.decay(step) if callable(self.decay) else self.decay

        def follow(old: Array, new: Array) -> Array:
            return old + (1 - jnp.asarray(decay, old.dtype)) * (new - old)

        return jax.tree.map(follow, targets, _part(variables, "network"))


class Reconstruction(_OfNetwork):
    """A network that predicts the pixels of an image of which it sees a part: masked autoencoders.

    The network's hidden representations h are those of what is seen, and its z, as wide as an image
    has values, is the prediction: its projector is the decoder. The loss has the arguments
    ``(prediction, truth, hidden)``, each of shape ``(n, pixels)``, such as
    :func:`sslstep.losses.reconstruction_error`.

    Args:
        network: from an image to (h, z), as :func:`make_step` takes it.

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
        """The prediction, the truth and where it was hidden, of what ``masked_view`` returns."""
        seen, truth, hidden = views
        (_, prediction), updated = forward_in_training(self.network, variables, seen)
        rows = [jnp.broadcast_to(part, truth.shape) for part in (truth, hidden)]
        return (prediction, *(part.reshape(len(part), -1) for part in rows)), updated


def as_objective(network: Model | Objective, joint_views: bool = False) -> Objective:
    """What is trained, of a network or as it is."""
    if not isinstance(network, Objective):
        return JointEmbedding(network, joint_views)
    if joint_views:
        raise ValueError("joint_views is for a network; an objective says how views pass.")
    return network


def _part(variables: Variables, name: str) -> dict[str, Any]:
    """The variables of one part, as that part's own functions take them."""
    return {collection: parts[name] for collection, parts in variables.items() if name in parts}
