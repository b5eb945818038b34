"""Every optimiser of optax: its own update on the batch's loss, value and gradient."""

import inspect
import os
import subprocess
import sys
from functools import lru_cache
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
import tiny

from sslstep import losses, train

RATE = 1e-2
SGD = optax.sgd(RATE)


class TwoLayers(tiny.Linear):
    """Two matrices, as some optimisers treat each by its shape."""

    def init(self, key, x, train=False):
        first, second = jax.random.split(key)
        u = jax.random.normal(first, (12, 8)) / 12**0.5
        return {"params": {"u": u, "w": jax.random.normal(second, (8, 3)) / 8**0.5}}

    def apply(self, variables, x, *, train, mutable=False):
        h = jnp.tanh(x @ variables["params"]["u"])
        z = h @ variables["params"]["w"]
        return ((h, z), {}) if mutable else (h, z)


NETWORK = TwoLayers()
PARAMS = NETWORK.init(jax.random.key(0), tiny.IMAGES)["params"]

# What those take that want more than a learning rate.
GIVEN = {
    "MultiSteps": ((SGD, 2), {}),
    "add_noise": ((0.1, 0.5), {"key": 0}),
    "adaptive_grad_clip": ((0.1,), {}),
    "apply_if_finite": ((optax.polyak_sgd(), 2), {}),
    "chain": ((optax.contrib.reduce_on_plateau(), optax.adam(RATE)), {}),
    "clip": ((1.0,), {}),
    "clip_by_block_rms": ((1.0,), {}),
    "clip_by_global_norm": ((1.0,), {}),
    "conditionally_mask": ((SGD, lambda step: step > 1), {}),
    "conditionally_transform": ((SGD, lambda step: step > 1), {}),
    "differentially_private_aggregate": None,  # wants the gradient of each sample
    "dpsgd": None,  # likewise
    "ema": ((0.9,), {}),
    "flatten": ((optax.adam(RATE),), {}),
    "freeze": ((False,), {}),
    "inject_hyperparams": None,  # of a function, tested below
    "inject_stateful_hyperparams": None,
    "lookahead": None,  # for parameters of its own kind, a pair
    "masked": ((SGD, True), {}),
    "measure_with_ema": ((lambda updates: updates, 0.9), {}),
    "mechanize": ((optax.adamw(RATE),), {}),
    "multi_transform": (({"a": SGD, "b": optax.polyak_sgd()}, {"u": "a", "w": "b"}), {}),
    "named_chain": ((("a", SGD),), {}),
    "noisy_sgd": ((RATE,), {"key": 0}),
    "optimistic_adam": None,  # optax warns that its second version is meant
    "partition": (({"a": SGD, "b": optax.polyak_sgd()}, {"u": "a", "w": "b"}), {}),
    "sam": ((SGD, SGD), {"opaque_mode": True}),
    "scale": ((-RATE,), {}),
    "scale_by_backtracking_linesearch": ((5,), {}),
    "scale_by_schedule": ((lambda step: -RATE,), {}),
    "scale_by_zoom_linesearch": ((5,), {}),
    "schedule_free": ((SGD, RATE), {}),
    "selective_transform": None,  # of a mask, as freeze
    "snapshot": (("norm", lambda updates, *_, **__: optax.tree.norm(updates)), {}),
    "split_real_and_imaginary": ((SGD,), {}),
    "stateless": ((lambda updates, params: updates,), {}),
    "stateless_with_tree_map": ((lambda update, param: -RATE * update,), {}),
    "trace": ((0.9,), {}),
    "with_extra_args_support": ((SGD,), {}),
}


def constructors():
    """All of optax and optax.contrib that make an optimiser, or a part of none that is here."""
    found = {}
    for module in (optax, optax.contrib):
        for name, function in vars(module).items():
            try:
                returned = str(inspect.signature(function).return_annotation)
            except (TypeError, ValueError):
                continue
            if (
                name[0] != "_"
                and inspect.isfunction(function)
                and "GradientTransformation" in returned
            ):
                found[name] = function
    return {
        name: function
        for name, function in found.items()
        if not (name.startswith("scale_by_") and name.removeprefix("scale_by_") in found)
    }


CONSTRUCTORS = {name: f for name, f in constructors().items() if GIVEN.get(name, ()) is not None}


def made(name):
    function = CONSTRUCTORS[name]
    if name in GIVEN:
        args, settings = GIVEN[name]
        return function(*args, **settings)
    parameters = inspect.signature(function).parameters.values()
    wanted = [p.name for p in parameters if p.default is p.empty and p.kind is not p.VAR_KEYWORD]
    assert wanted in ([], ["learning_rate"]), f"{name} is new: say what it takes"
    return function(*[RATE] * len(wanted))


def run(optimizer, devices=1, parallel="jit", **settings):
    """Three steps, and the state before them."""
    start = tiny.state(NETWORK, optimizer)
    step = tiny.compiled(devices, parallel, optimizer, NETWORK, **settings)
    return tiny.fit(None, 3, step, start), start


@lru_cache(maxsize=1)
def batches():
    """The views of three steps."""
    start, found = tiny.state().key, []
    for number, chosen in enumerate(train.batch_indices(start, 0, 3, 8, 32)):
        key = jax.random.fold_in(start, number)
        keys = jax.vmap(lambda place, key=key: jax.random.fold_in(key, place))(jnp.arange(8))
        found.append(tiny.noisy(keys, tiny.IMAGES[chosen]))
    return found


def loss_of(params, x, x_prime):
    z, z_prime = (NETWORK.apply({"params": params}, v, train=True)[1] for v in (x, x_prime))
    return losses.simplified_barlow_twins(z, z_prime)


differentiated = jax.jit(jax.value_and_grad(loss_of))


def by_hand(optimizer, start):
    """The same steps by the recipe in optax's documentation."""
    params, opt_state = start.params, optimizer.init(start.params)
    optimizer = optax.with_extra_args_support(optimizer)
    for x, x_prime in batches():

        def value_fn(params, *, x=x, x_prime=x_prime, obj_fn=None, grad_fn=None):
            return loss_of(params, x, x_prime)

        value, grad = differentiated(params, x, x_prime)
        more = {"value": value, "grad": grad, "value_fn": value_fn, "obj_fn": value_fn}
        more["grad_fn"] = lambda params, _, f=value_fn: jax.grad(f)(params)
        if "sam" in str(optimizer.update):  # which takes nothing else
            more = {"grad_fn": more["grad_fn"]}
        updates, opt_state = optimizer.update(grad, opt_state, params, **more)
        params = optax.apply_updates(params, updates)
    return params


@pytest.fixture(autouse=True)
def optax_s_promotion():
    """Optax itself adds integers to floating-point numbers, and arrays of one entry to others."""
    with jax.numpy_rank_promotion("allow"), jax.numpy_dtype_promotion("standard"):
        yield


@pytest.mark.parametrize("name", CONSTRUCTORS)
def test_it_makes_its_own_steps(name):
    optimizer = made(name)
    found, start = run(optimizer)
    assert jax.tree.structure(found.state) == jax.tree.structure(start)
    if name in ("add_noise", "noisy_sgd", "sophia"):
        return  # their random numbers follow the compiler
    expected = by_hand(optimizer, start)
    for ours, theirs in zip(
        jax.tree.leaves(found.state.params), jax.tree.leaves(expected), strict=True
    ):
        scale = float(jnp.abs(theirs).max())
        np.testing.assert_allclose(ours, theirs, rtol=1e-3, atol=1e-4 * scale)


def test_hyperparameters_that_are_injected():
    optimizer = optax.inject_hyperparams(optax.adam)(learning_rate=RATE)
    assert "learning_rate" in run(optimizer)[0].state.opt_state.hyperparams


NEEDY = {
    "lbfgs": optax.lbfgs(),
    "polyak_sgd": optax.polyak_sgd(),
    "reduce_on_plateau": optax.chain(optax.adam(RATE), optax.contrib.reduce_on_plateau()),
    "sam": optax.contrib.sam(SGD, SGD, opaque_mode=True),
    "sophia": optax.contrib.sophia(RATE),
}


@pytest.mark.parametrize("name", NEEDY)
def test_microbatches_and_several_steps_a_dispatch(name):
    whole, _ = run(NEEDY[name])
    parts, start = run(NEEDY[name], num_microbatches=2)
    np.testing.assert_allclose(parts.metrics["loss"], whole.metrics["loss"], rtol=1e-3)
    step = tiny.compiled(1, optimizer=NEEDY[name], network=NETWORK)
    together = tiny.fit(None, 3, step, start, steps_per_dispatch=3)
    np.testing.assert_allclose(together.metrics["loss"], whole.metrics["loss"], rtol=1e-3)


def test_the_gradient_of_each_sample_is_not_to_be_had():
    with pytest.raises(ValueError, match="optimizer cannot make this step"):
        run(optax.contrib.differentially_private_aggregate(1.0, 0.1, key=0))


def test_an_optimiser_that_wants_what_a_step_has_not():
    def update(updates, state, params=None, *, hessian, **_):
        return updates, state

    odd = optax.GradientTransformationExtraArgs(SGD.init, update)
    with pytest.raises(TypeError, match=r"optimizer.*hessian.*value, grad, value_fn"):
        run(odd)


ON_TWO = """
import sys
sys.path.insert(0, sys.argv[1])
import numpy as np
import test_optimizers as here
for name, optimizer in here.NEEDY.items():
    one = here.run(optimizer)[0].metrics["loss"]
    for parallel in ("jit", "pmap"):
        two = here.run(optimizer, 2, parallel)[0].metrics["loss"]
        np.testing.assert_allclose(two, one, rtol=1e-3, err_msg=f"{name} under {parallel}")
"""


@pytest.mark.slow
def test_several_devices_make_the_steps_of_one():
    flags = f"{os.environ.get('XLA_FLAGS', '')} --xla_force_host_platform_device_count=2"
    environment = os.environ | {"XLA_FLAGS": flags}
    command = [sys.executable, "-c", ON_TWO, str(Path(__file__).parent)]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
