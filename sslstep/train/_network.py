"""The form of a network, adapters for other libraries, and forward passes."""

import sys
from collections.abc import Callable, Mapping
from typing import Any, Protocol, runtime_checkable

import jax
from flax import linen

from sslstep import _check
from sslstep.train import _spread

_FORM = (
    "network must have the form of train.Network: a flax module of __call__(x, *, train) -> "
    "(h, z), or init(key, x, train=False) and apply(variables, x, *, train, mutable=False), or an "
    "NNX or Equinox module of __call__(x) -> (h, z)"
)


@runtime_checkable
class Network(Protocol):
    """Form of a network that can be trained, such as :class:`sslstep.nn.Encoder`: two methods.

    A flax.linen module has this form if its ``__call__(x, *, train)`` returns a pair (h, z): hidden
    representations, and embeddings of shape ``(n, d)``. Training gives it no random numbers, so
    dropout does not work.

    Functions that take a network also take modules of two other libraries. Training starts from the
    module's own parameters, whatever the key, and does not modify the module.

    - ``flax.nnx``: ``__call__(x)`` returns (h, z) of a batch. The module's ``train()`` and
      ``eval()`` set the mode of its batch norms. Parameters and running averages are dictionaries;
      ``nnx.update(model, state.params)`` writes trained parameters into the module. A module that
      draws random numbers raises ValueError.
    - Equinox: ``__call__(x)`` returns (h, z) of one sample. All inexact arrays are trained;
      ``eqx.combine(state.params, model)`` is the trained model. With state, such as batch norms',
      give the pair of ``eqx.nn.make_with_state``: ``__call__(x, state)`` returns ((h, z), state).
      The axis of samples has the name ``"batch"``, which batch norms take as ``axis_name``.

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
        """``init(key, x, train=False)`` returns the initial variables, ``{"params": ...}``.

        The dictionary may hold running averages under ``batch_stats``. Training drops other
        entries.
        """

    @property
    def apply(self) -> Callable[..., Any]:
        """``apply(variables, x, *, train, mutable=False)`` returns (h, z), as flax's ``apply``.

        With ``mutable=["batch_stats"]`` it returns ``((h, z), updated)``. The dictionary
        ``updated`` holds new running averages under ``batch_stats``, or is empty.
        """


#: A network, a module of NNX or Equinox, or a pair of an Equinox module and its state.
Model = Network | Callable[..., Any] | tuple[Any, Any]


class NNX:
    """A module of ``flax.nnx``, adapted to the form of a :class:`Network`."""

    def __init__(self, model: Any, nnx: Any) -> None:
        self.nnx = nnx
        self.graph, *self.states = nnx.split(model, nnx.Param, nnx.BatchStat, ...)

    def init(self, key: Any, x: Any, train: bool = False) -> Any:
        """Return the module's own parameters and running averages; key and x are unused."""
        params, averages = (self.nnx.to_pure_dict(state) for state in self.states[:2])
        return {"params": params} | ({"batch_stats": averages} if averages else {})

    def apply(self, variables: Any, x: Any, *, train: bool, mutable: Any = False) -> Any:
        """Return (h, z), or ((h, z), updated) if ``mutable``, for a batch x."""
        # The module is a copy, which may be changed within this trace.
        model = self.nnx.merge(self.graph, *self.states, copy=True)
        self.nnx.update(model, variables["params"])
        self.nnx.update(model, variables.get("batch_stats", {}))
        (model.train if train else model.eval)()
        unused = jax.tree.leaves(self.nnx.state(model, self.nnx.RngCount))
        found = model(x)
        counts = jax.tree.leaves(self.nnx.state(model, self.nnx.RngCount))
        if any(new is not old for new, old in zip(counts, unused, strict=False)):
            raise ValueError(
                "the network must draw no random numbers, as dropout does: they would be the same "
                "at every step."
            )
        averages = self.nnx.to_pure_dict(self.nnx.state(model, self.nnx.BatchStat))
        return (found, {"batch_stats": averages} if averages else {}) if mutable else found


class Equinox:
    """A module of Equinox, which takes one sample, adapted to the form of a :class:`Network`."""

    def __init__(self, model: Any, equinox: Any, state: Any = None) -> None:
        self.equinox, self.model, self.state = equinox, model, state

    def init(self, key: Any, x: Any, train: bool = False) -> Any:
        """Return the module's own inexact arrays and its state; key and x are unused."""
        params = self.equinox.filter(self.model, self.equinox.is_inexact_array)
        return {"params": params} | self._kept(self.state)

    def apply(self, variables: Any, x: Any, *, train: bool, mutable: Any = False) -> Any:
        """Return (h, z), or ((h, z), updated) if ``mutable``, for a batch x."""
        model = self.equinox.combine(variables["params"], self.model)
        if self.state is None:
            found, state = jax.vmap(model)(x), None
        else:
            model = self.equinox.nn.inference_mode(model, not train)
            leaves = list(variables["batch_stats"].values())
            state = jax.tree.unflatten(jax.tree.structure(self.state), leaves)
            over_samples = jax.vmap(model, axis_name="batch", in_axes=(0, None), out_axes=(0, None))
            found, state = over_samples(x, state)
        return (found, self._kept(state)) if mutable else found

    def _kept(self, state: Any) -> dict[str, Any]:
        """Return the leaves of the module's state as running averages; {} without state."""
        leaves = enumerate(jax.tree.leaves(state))
        return {} if state is None else {"batch_stats": {f"{k:04}": leaf for k, leaf in leaves}}


def adapted(network: Model) -> Any:
    """Wrap a module of NNX or Equinox as a network; return anything else unchanged."""
    if isinstance(network, Network):
        return network
    nnx, equinox = sys.modules.get("flax.nnx"), sys.modules.get("equinox")
    if nnx is not None and isinstance(network, nnx.Module):
        return NNX(network, nnx)
    if equinox is not None:
        model: Any = network
        state = None
        if isinstance(network, tuple) and len(network) == 2:
            model, state = network
        if isinstance(model, equinox.Module):
            return Equinox(model, equinox, state)
    return network  # _require_takes raises an error if it does not fit


def initial_variables(network: Model, key: Any, x: Any) -> Any:
    """Initialise the network's variables, from the first input of x."""
    return _called(adapted(network), "init", key, x[:1], train=False)


def forward_in_training(network: Model, variables: Any, x: Any) -> Any:
    """Return ((h, z), updated) of a network in training mode: batch norms use batch statistics."""
    taken = adapted(network)
    found = _called(taken, "apply", variables, x, train=True, mutable=["batch_stats"])
    fits = _is_pair(found) and _is_pair(found[0]) and isinstance(found[1], Mapping)
    wanted = "((h, z), updated) where mutable is set, {} for no averages"
    _require_returned(taken, fits, wanted, found)
    if _spread.is_mapped() and found[1] and not isinstance(taken, linen.Module):
        raise ValueError(
            f'parallel = "pmap" supports running averages in flax.linen modules only, got a '
            f'{type(taken).__name__}: compile the step with parallel = "jit".'
        )
    return found


def forward_in_evaluation(network: Model, variables: Any, x: Any) -> Any:
    """Return (h, z) of a network in evaluation mode: batch norms use running averages."""
    taken = adapted(network)
    found = _called(taken, "apply", variables, x, train=False)
    _require_returned(taken, _is_pair(found), "(h, z)", found)
    return found


def _is_pair(value: Any) -> bool:
    """Whether the value is a tuple or list of length 2."""
    return isinstance(value, tuple | list) and len(value) == 2


def _require_returned(network: Network, fits: bool, wanted: str, found: Any) -> None:
    if fits:
        return
    is_module = isinstance(network, NNX | Equinox | linen.Module)
    name = "the network's __call__" if is_module else "network.apply"
    if isinstance(network, linen.Module):  # flax's apply adds the updated variables to the result
        wanted = "(h, z), hidden representations and embeddings"
        found = found[0] if _is_pair(found) and isinstance(found[1], Mapping) else found
    shapes = jax.tree.map(lambda leaf: getattr(leaf, "shape", type(leaf)), found)
    raise ValueError(f"{name} must return {wanted}, got {shapes}.")


def _called(network: Network, name: str, first: Any, x: Any, **settings: Any) -> Any:
    """Call a method of the network after checking that it takes these arguments."""
    if isinstance(network, linen.Module):
        # Flax's init and apply take any argument and pass it on to __call__.
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
