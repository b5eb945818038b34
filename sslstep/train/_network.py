"""What can be trained, and how it is called."""

import sys
from collections.abc import Callable, Mapping
from typing import Any, Protocol, runtime_checkable

import jax
from flax import linen

from sslstep import _check
from sslstep.train import _spread

__all__ = ["Model", "Network", "forward_in_evaluation", "forward_in_training", "initial_variables"]

_FORM = (
    "network must have the form of train.Network: a flax module of __call__(x, *, train) -> "
    "(h, z), or init(key, x, train=False) and apply(variables, x, *, train, mutable=False), or an "
    "NNX or Equinox module of __call__(x) -> (h, z)"
)


@runtime_checkable
class Network(Protocol):
    """What can be trained: :class:`sslstep.nn.Encoder`, or anything else with these two methods.

    A flax.linen module has them, if its ``__call__(x, *, train)`` returns a pair (h, z): hidden
    representations, and embeddings of shape ``(n, d)``. It draws no random numbers, so it cannot
    have dropout.

    Modules of two other libraries are taken in the place of one, as they are. Their parameters are
    the initial ones, whatever the key, and they are not modified.

    - ``flax.nnx``: ``__call__(x)`` returns (h, z) of a batch. Batch norms are told by the module's
      ``train()`` and ``eval()``. Parameters and running averages are dictionaries:
      ``nnx.update(model, state.params)`` puts them back.
    - Equinox: ``__call__(x)`` returns (h, z) of one sample, and has no ``eqx.nn.State``. What is
      trained is all inexact arrays: ``eqx.combine(state.params, model)`` is the trained model.

    Example:
        Without flax, two functions:

        >>> import jax, jax.numpy as jnp, optax
        >>> from sslstep import losses, train
        >>> class TwoLayers:
        ...     def init(self, key, x, train=False):
        ...         first, second = jax.random.split(key)
        ...         u = jax.random.normal(first, (x.shape[1], 32)) * x.shape[1] ** -0.5
        ...         return {"params": {"u": u, "w": jax.random.normal(second, (32, 3)) * 32**-0.5}}
        ...
        ...     def apply(self, variables, x, *, train, mutable=False):
        ...         h = jax.nn.relu(x @ variables["params"]["u"])
        ...         z = h @ variables["params"]["w"]
        ...         return ((h, z), {}) if mutable else (h, z)
        >>> network, sgd = TwoLayers(), optax.sgd(0.01)
        >>> x = jax.random.normal(jax.random.key(0), (8, 5))
        >>> def noisy(keys, x):
        ...     noise = jax.vmap(lambda key: jax.random.normal(key, (2, 5)))(keys)
        ...     return x + noise[:, 0], x + noise[:, 1]
        >>> step = train.make_step(network, losses.simplified_barlow_twins, sgd, noisy)
        >>> state, metrics = step(train.init_state(jax.random.key(1), network, sgd, x), x)
        >>> int(state.step)
        1
    """

    @property
    def init(self) -> Callable[..., Any]:
        """``init(key, x, train=False)``: the variables, ``{"params": ...}`` and what else it has.

        Running averages are under ``batch_stats``; other collections are not trained with.
        """

    @property
    def apply(self) -> Callable[..., Any]:
        """``apply(variables, x, *, train, mutable=False)``, as flax's.

        It gives (h, z); with ``mutable=["batch_stats"]`` the pair of that and a dictionary, of
        new running averages under ``batch_stats`` or empty.
        """


#: A network, or a module of NNX or Equinox.
Model = Network | Callable[..., Any]


class _Adapted:
    """A module of another library in the form of a network."""


class NNX(_Adapted):
    """A module of ``flax.nnx``."""

    def __init__(self, model: Any, nnx: Any) -> None:
        self.nnx = nnx
        self.graph, *self.states = nnx.split(model, nnx.Param, nnx.BatchStat, ...)

    def init(self, key: Any, x: Any, train: bool = False) -> Any:
        """The module's own variables."""
        params, averages = (self.nnx.to_pure_dict(state) for state in self.states[:2])
        return {"params": params} | ({"batch_stats": averages} if averages else {})

    def apply(self, variables: Any, x: Any, *, train: bool, mutable: Any = False) -> Any:
        """As a network's."""
        # Copies, which the module may change within this trace.
        model = self.nnx.merge(self.graph, *self.states, copy=True)
        self.nnx.update(model, variables["params"])
        self.nnx.update(model, variables.get("batch_stats", {}))
        (model.train if train else model.eval)()
        found = model(x)
        averages = self.nnx.to_pure_dict(self.nnx.state(model, self.nnx.BatchStat))
        return (found, {"batch_stats": averages} if averages else {}) if mutable else found


class Equinox(_Adapted):
    """A module of Equinox, which takes one sample."""

    def __init__(self, model: Any, equinox: Any) -> None:
        self.equinox, self.model = equinox, model

    def init(self, key: Any, x: Any, train: bool = False) -> Any:
        """The module's own arrays."""
        return {"params": self.equinox.filter(self.model, self.equinox.is_inexact_array)}

    def apply(self, variables: Any, x: Any, *, train: bool, mutable: Any = False) -> Any:
        """As a network's."""
        found = jax.vmap(self.equinox.combine(variables["params"], self.model))(x)
        return (found, {}) if mutable else found


def adapted(network: Model) -> Any:
    """The network, or one made of a module of NNX or Equinox, if these are imported at all."""
    if isinstance(network, Network):
        return network
    for name, adapter in (("flax.nnx", NNX), ("equinox", Equinox)):
        library = sys.modules.get(name)
        if library is not None and isinstance(network, library.Module):
            return adapter(network, library)
    return network  # which is told what it lacks where it is called


def initial_variables(network: Model, key: Any, x: Any) -> Any:
    """What a network draws for inputs such as these, of which it is shown one."""
    return _called(adapted(network), "init", key, x[:1], train=False)


def forward_in_training(network: Model, variables: Any, x: Any) -> Any:
    """((h, z), updated) of a network whose batch norms use the batch's own statistics."""
    taken = adapted(network)
    with _spread.synchronised():
        found = _called(taken, "apply", variables, x, train=True, mutable=["batch_stats"])
    fits = _is_pair(found) and _is_pair(found[0]) and isinstance(found[1], Mapping)
    wanted = "((h, z), updated) where mutable is set, {} for no averages"
    _require_returned(taken, fits, wanted, found)
    if _spread.is_mapped() and found[1] and not isinstance(taken, linen.Module):
        raise ValueError(
            f'parallel = "pmap" has batch norms of flax modules only, and {type(taken).__name__} '
            f'is none: compile the step with parallel = "jit".'
        )
    return found


def forward_in_evaluation(network: Model, variables: Any, x: Any) -> Any:
    """(h, z) of a network whose batch norms use their running averages."""
    taken = adapted(network)
    found = _called(taken, "apply", variables, x, train=False)
    _require_returned(taken, _is_pair(found), "(h, z)", found)
    return found


def _is_pair(value: Any) -> bool:
    """Whether it is two things, and not an array of two rows."""
    return isinstance(value, tuple | list) and len(value) == 2


def _require_returned(network: Network, fits: bool, wanted: str, found: Any) -> None:
    if fits:
        return
    name = "network.apply"
    if isinstance(network, _Adapted):
        name = "the network's __call__"
    if isinstance(network, linen.Module):  # whose apply is flax's own, and a pair in training
        name, wanted = "the network's __call__", "(h, z), hidden representations and embeddings"
        found = found[0] if _is_pair(found) and isinstance(found[1], Mapping) else found
    shapes = jax.tree.map(lambda leaf: getattr(leaf, "shape", type(leaf)), found)
    raise ValueError(f"{name} must return {wanted}, got {shapes}.")


def _called(network: Network, name: str, first: Any, x: Any, **settings: Any) -> Any:
    """The network's ``init`` of a key or ``apply`` of its variables, once it is seen to fit."""
    if isinstance(network, linen.Module):
        # Flax's own methods take anything, and hand on what is not for themselves.
        given = {key: value for key, value in settings.items() if key != "mutable"}
        _require_takes(network, "__call__", x, **given)
    else:
        _require_takes(network, name, first, x, **settings)
    return getattr(network, name)(first, x, **settings)


def _require_takes(network: Network, name: str, *args: Any, **settings: Any) -> None:
    function, kind = getattr(network, name, None), type(network).__name__
    if not callable(function):
        raise TypeError(f"{_FORM}. This {kind} has no {name}.")
    if not _check.takes(function, *args, **settings):
        raise TypeError(f"{_FORM}. This one has {kind}.{name}{_check.parameters(function)}.")
