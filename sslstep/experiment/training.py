"""Settings and training runs that experiments on ResNets share.

A run is determined by its settings, one method, one recipe and one seed; its folder is named after
them. Experiments that need equal runs train once, read the finished run, or continue an interrupted
run.
"""

import dataclasses
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import lru_cache, partial
from pathlib import Path
from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import serialization
from jax.tree_util import Partial

from sslstep import _atomic, data, nn, train
from sslstep.experiment import image_data, probes
from sslstep.experiment._kept import Store as Store
from sslstep.experiment._record import Arrays, log
from sslstep.experiment._require import require, require_list
from sslstep.measure import probe
from sslstep.recipes import LABELS, METHODS, Method, Recipe, Recipes
from sslstep.train._record import compiled_record


@dataclass(frozen=True)
class Config(image_data.Images):
    """Settings that all methods share; each is one option of the command."""

    methods: tuple[Method, ...] = METHODS
    """Methods to train."""
    seeds: tuple[int, ...] = (0,)
    """Seeds of images, views and initial parameters, with one run for each."""
    num_images: int = 0
    """Number of training images, chosen at random; 0 for all."""
    backbone: Literal["small", "resnet18", "resnet50"] = "small"
    """small: width 8, three stages of one basic block."""
    stem: Literal["imagenet", "small", "small_stride2"] = "small_stride2"
    """First layers: 7x7 with stride 2 and pooling; 3x3; 3x3 with stride 2."""
    size: int = 24
    """Side of the views in pixels."""
    num_probe: int = 1024
    """Number of fixed pairs on which spectra are measured; a multiple of every batch size."""
    num_labelled: int = 2048
    """Labelled images of each split, for linear probes of hidden representations; 0 for none."""
    num_records: int = 120
    """Largest number of records: half at even steps, half at geometrically spaced steps."""
    num_snapshots: int = 12
    """Largest number of kept copies of the parameters, geometrically spaced; 0 for none."""
    checkpoint_every: int = 500
    """Steps between checkpoints, from which an interrupted run continues."""
    dtype: Literal["float32", "bfloat16"] = "float32"
    """Dtype of the network's computations; parameters are float32."""


#: Seeds for claims about means over seeds: the smallest number with a useful interval.
SEEDS = (0, 1, 2)

#: Settings of Appendix D.2, for a GPU.
PAPER: Mapping[str, Any] = {
    "data": "stl10",
    "backbone": "resnet50",
    "stem": "imagenet",
    "size": 96,
    "num_probe": 4096,
    "num_labelled": 5000,
    "num_records": 400,
    "checkpoint_every": 5000,
    "dtype": "bfloat16",
}


class Trained(NamedTuple):
    """A finished run: its folder and its arrays.

    The arrays hold the effective time `t` and the `loss` of every step, the times `record_t` of the
    records, and an array for each recorded quantity.
    """

    folder: Path
    arrays: dict[str, np.ndarray]


def network(config: Config, recipe: Recipe) -> nn.Encoder:
    """Return the encoder: a ResNet followed by the method's projector."""
    dtype = jnp.dtype(config.dtype)
    settings: dict[str, Any] = {
        "stem": config.stem,
        "dtype": dtype,
        "zero_init_residual": recipe.zero_init_residual,
    }
    if config.backbone == "small":
        backbone = nn.ResNet(stage_sizes=(1, 1, 1), width=8, **settings)
    else:
        make = nn.resnet18 if config.backbone == "resnet18" else nn.resnet50
        backbone = make(**settings)
    return nn.Encoder(backbone, recipe.head(dtype=dtype))


class Parts(NamedTuple):
    """The parts of training that do not depend on the images."""

    model: Any  # a network, or a train.Objective
    optimizer: optax.GradientTransformation
    views_fn: Callable[..., tuple[jax.Array, jax.Array]]
    loss_fn: Callable[..., jax.Array]
    step: train.Step
    measure: Callable[..., dict[str, jax.Array]]  # spectra of (state, x, x_prime)


def parts(config: Config, recipe: Recipe) -> Parts:
    """Return the network, optimiser, views, loss, training step and record.

    Calls with equal settings return equal objects, so runs from several seeds share compiled
    programs, and so do recipes with an equal :meth:`~sslstep.recipes.Recipe.of_step`.
    """
    return _parts(network(config, recipe), recipe.of_step(), config.size)


@lru_cache(maxsize=4)
def _parts(network: nn.Encoder, recipe: Recipe, size: int) -> Parts:
    views_fn = partial(data.two_views, views=recipe.make_views(size))
    model, optimizer = recipe.objective(network), recipe.make_optimizer()
    loss_fn = recipe.loss_fn()
    step = train.make_step(model, loss_fn, optimizer, views_fn)
    measure = compiled_record(model, recipe.batch_size, normalise=recipe.normalises)
    return Parts(model, optimizer, views_fn, loss_fn, step, measure)


@lru_cache(maxsize=4)
def _compiled(network: nn.Encoder, recipe: Recipe, size: int) -> train.CompiledStep:
    return train.compile_step(_parts(network, recipe, size).step)


class Samples(NamedTuple):
    """The images, labels and fixed pairs of a run of one seed, and its network's key."""

    images: np.ndarray
    labels: np.ndarray
    x: jax.Array  # the fixed pairs
    x_prime: jax.Array
    key: jax.Array  # for the network


def samples(config: Config, views_fn: Callable[..., Any], seed: int) -> Samples:
    """Draw the images of a seed and the fixed pairs on which spectra are measured."""
    key_data, key_probe, key_network = jax.random.split(jax.random.key(seed), 3)
    images, labels, _ = image_data.choose(
        key_data, config.data, config.num_images or None, config.data_dir, view=config.size
    )
    fixed = images[np.arange(config.num_probe) % len(images)]
    x, x_prime = jax.jit(views_fn)(jax.random.split(key_probe, len(fixed)), fixed)
    return Samples(images, labels, x, x_prime, key_network)


class Setup(NamedTuple):
    """Everything that a run needs: compiled parts, initial state, images and fixed pairs."""

    parts: Parts
    state: train.TrainState
    images: np.ndarray
    labels: np.ndarray
    x: jax.Array  # the fixed pairs
    x_prime: jax.Array


def prepare(config: Config, recipe: Recipe, seed: int) -> Setup:
    """Build the network, step and initial state of a run, and draw its images and fixed pairs.

    Raise `image_data.UnfitError` if there are fewer images than a batch has.
    """
    found = parts(config, recipe)
    images, labels, x, x_prime, key = samples(config, found.views_fn, seed)
    if len(images) < recipe.batch_size:
        raise image_data.UnfitError(
            f"batch_size = {recipe.batch_size} is larger than the data: {len(images)} images. A "
            f"smaller one is an option that ends with batch-size, where the command has one."
        )
    model = recipe.objective(network(config, recipe))
    state = train.init_state(key, model, found.optimizer, x, init_scale=recipe.init_scale)
    return Setup(found, state, images, labels, x, x_prime)


def fit(
    config: Config, method: str, recipe: Recipe, seed: int, runs: Store, *, name: str = ""
) -> Trained:
    """Train a run, continue it if `runs` holds a part of it, or read it if it is complete.

    Two runs are equal if their settings are equal and if the code of this module, of the recipe's
    module, and of their imports is equal. `name` starts the text of the progress bar.
    """
    setup = prepare(config, recipe, seed)
    model, measure = setup.parts.model, setup.parts.measure
    try:
        accuracy = accuracy_of(config, recipe, model)
    except image_data.UnfitError as error:
        log.info("trained without probes: %s", error)
        config = dataclasses.replace(config, num_labelled=0)
        accuracy = accuracy_of(config, recipe, model)
    settings = _settings(config, method, recipe, seed)
    stem = f"{method}-{settings['data']}-seed{seed}"
    made_by = __name__, type(recipe).__module__
    folder = runs.place(stem, settings, *made_by)
    sign_unless_done(runs, folder, recipe.num_steps, *made_by)
    record_at = record_steps(recipe.num_steps, config.num_records)
    copied = snapshot_steps(record_at, config.num_snapshots)

    def record(state: train.TrainState) -> dict[str, Any]:
        if int(state.step) in copied:
            _keep(folder, state)
        return {**measure(state, setup.x, setup.x_prime), **accuracy(state)}

    run = train.fit(
        _compiled(network(config, recipe), recipe.of_step(), config.size),
        setup.state,
        setup.images,
        num_steps=recipe.num_steps,
        batch_size=recipe.batch_size,
        folder=folder,
        record=record,
        record_at=record_at,
        checkpoint_every=config.checkpoint_every,
        settings=settings,
        progress=f"{name} {LABELS[method]}, seed {seed}".strip(),
    )
    rates = recipe.rate(recipe.learning_rate)(np.arange(recipe.num_steps))
    times = np.concatenate([[0.0], np.cumsum(np.asarray(rates, float))])
    record_t = times[run.records["step"]]
    # A warm-up starts with the rate 0, so its first step takes no effective time.
    later = np.diff(record_t, prepend=-1.0) > 0
    records = {key: value[later] for key, value in run.records.items()}
    arrays = {"t": times[1:], "loss": run.metrics["loss"], "record_t": record_t[later], **records}
    return Trained(folder, arrays)


def snapshots(folder: Path, like: train.TrainState) -> list[train.TrainState]:
    """Read the snapshots of a run, oldest first, as states without optimiser state.

    `like` is a state of the run's network, which gives the structure of the parameters.
    """
    paths = sorted((folder / "snapshots").glob("*.msgpack"), key=lambda path: int(path.stem))
    if not paths:
        raise FileNotFoundError(
            f"{folder} has no copies of the network: remove it to train it again."
        )
    found = []
    for path in paths:
        target = {"params": like.params, "batch_stats": like.batch_stats}
        kept = jax.tree.map(jnp.asarray, serialization.from_bytes(target, path.read_bytes()))
        step = jnp.asarray(int(path.stem), like.step.dtype)
        found.append(like._replace(step=step, opt_state=(), **kept))
    return found


def _keep(folder: Path, state: train.TrainState) -> None:
    """Write a snapshot of the network atomically."""
    path = folder / "snapshots" / f"{int(state.step)}.msgpack"
    path.parent.mkdir(parents=True, exist_ok=True)
    kept = {"params": state.params, "batch_stats": state.batch_stats}
    _atomic.write(path, lambda file: file.write(serialization.to_bytes(kept)))


def evaluated(model: Any, params: Any, batch_stats: Any, x: jax.Array) -> nn.Outputs:
    """Return a network's outputs h and z for images, with fixed batch-norm statistics."""
    outputs: Any = model.apply({"params": params, "batch_stats": batch_stats}, x, train=False)
    return outputs


@partial(jax.jit, static_argnames="model")
def settled(model: Any, params: Any, batch_stats: Any, x: jax.Array) -> Any:
    """Return batch-norm running averages that have converged to the statistics of images x."""
    variables = {"params": params, "batch_stats": jax.tree.map(jnp.zeros_like, batch_stats)}
    updated = model.apply(variables, x, train=True, mutable=["batch_stats"])[1]["batch_stats"]
    # An update moves the averages, here from zero, by a tenth of the way.
    return jax.tree.map(lambda average: 10 * average, updated)


def snapshot_steps(record_at: np.ndarray, num: int) -> set[int]:
    """Choose at most `num` of the recorded steps: first, last and geometrically spaced steps."""
    if not num:
        return set()
    wanted = np.concatenate([[0], np.geomspace(1, record_at[-1], num)[1:]])
    return {int(record_at[np.argmin(np.abs(record_at - step))]) for step in wanted}


def fit_all(config: Config, recipes: Recipes, runs: Store, name: str) -> dict[str, np.ndarray]:
    """Train every method from every seed; return the arrays under names `method/seed/array`."""
    require_valid(config, [(method, recipes.of(method)) for method in config.methods])
    arrays: dict[str, np.ndarray] = {}
    for seed in config.seeds:
        for method in config.methods:
            run = fit(config, method, recipes.of(method), seed, runs, name=name)
            arrays |= {f"{method}/{seed}/{key}": value for key, value in run.arrays.items()}
    return arrays


def run_of(arrays: Arrays, prefix: str) -> Arrays:
    """Select the arrays of the run `prefix`, such as `vicreg/0`, and drop the prefix."""
    start = f"{prefix}/"
    return {key[len(start) :]: value for key, value in arrays.items() if key.startswith(start)}


def accuracy_of(
    config: Config, recipe: Recipe, model: Any
) -> Callable[[train.TrainState], dict[str, Any]]:
    """Return a function from a training state to the test accuracy of a ridge probe (Figure 7).

    The probe takes hidden representations of labelled images from the network in evaluation mode.
    They are standardised, because their initial scale is very small. The penalty minimises the
    leave-one-out error on the training split. With `num_labelled` = 0 the function returns {}.
    """
    if not config.num_labelled:
        return lambda state: {}
    splits = []
    for split in ("train", "test"):
        found = image_data.labelled(config.data, split, config.data_dir, config.size)
        middle = probes.central(found.images[: config.num_labelled], config.size)
        splits.append((jnp.asarray(middle), jnp.asarray(found.labels[: config.num_labelled])))
    (images, labels), (images_test, labels_test) = splits
    classes = len(found.label_names)
    embed = _hidden(model, recipe.make_views(config.size).first)

    def measure(state: train.TrainState) -> dict[str, Any]:
        frozen = Partial(embed, state.params, state.batch_stats)
        h, h_test = (probe.embed_images(frozen, part) for part in (images, images_test))
        return {"accuracy": _accuracy(h, labels, h_test, labels_test, classes)}

    return measure


@lru_cache(maxsize=4)
def _hidden(model: Any, view: data.Augmentation) -> Callable[..., jax.Array]:
    """Return the function of (params, batch_stats, x) to h, of x normalised as the view is."""

    def embed(params: Any, batch_stats: Any, x: jax.Array) -> jax.Array:
        if view.mean is not None and view.std is not None:
            x = (x - jnp.asarray(view.mean)) / jnp.asarray(view.std)
        return evaluated(model, params, batch_stats, x).h

    return embed


@partial(jax.jit, static_argnames="classes")
def _accuracy(
    h: jax.Array, labels: jax.Array, h_test: jax.Array, labels_test: jax.Array, classes: int
) -> jax.Array:
    """Return the test accuracy of a ridge probe on standardised representations."""
    mean, deviation = h.mean(axis=0), h.std(axis=0)
    scale = jnp.where(deviation > 0, deviation, 1)
    h, h_test = ((part - mean) / scale for part in (h, h_test))
    targets = jax.nn.one_hot(labels, classes)
    grid = jnp.geomspace(1e-5, 1.0, 11)
    best = grid[jnp.argmin(probe.loo_error(h, targets, grid))]
    return probe.accuracy(probe.ridge(h, targets, best), h_test, labels_test)


def _settings(config: Config, method: str, recipe: Recipe, seed: int) -> dict[str, Any]:
    """Return all settings that determine a run."""
    apart = ("methods", "seeds", "data_dir", "checkpoint_every")
    names = [field.name for field in dataclasses.fields(Config) if field.name not in apart]
    kept = {name: getattr(config, name) for name in names}
    kept["data"] = image_data.identity(config.data, config.size)
    return {**kept, "method": method, "seed": seed, "recipe": dataclasses.asdict(recipe)}


def sign_unless_done(runs: Store, folder: Path, num_steps: int, *modules: str) -> None:
    """Record the current code as a maker of a run, unless the run is complete and only read."""
    done = 0
    if (folder / "metrics.jsonl").is_file():
        done = int(train.read_run(folder)[0].get("step", np.zeros(1))[-1])
    if done == num_steps:
        runs.note(folder)
    else:
        runs.sign(folder, *modules)


def record_steps(num_steps: int, num: int) -> np.ndarray:
    """Return at most `num` steps, half even and half geometric, because early rises are fast."""
    evenly = np.linspace(0, num_steps, num - num // 2)
    rarely = np.geomspace(1, num_steps, num // 2)
    return np.unique(np.concatenate([evenly, rarely]).round().astype(int))


def require_valid(config: Config, recipes: list[tuple[str, Recipe]]) -> None:
    """Raise ValueError if settings or recipes are invalid, before training starts."""
    for name in ("methods", "seeds"):
        require_list(name, getattr(config, name))
    never_negative = dict.fromkeys(("num_images", "num_labelled", "num_snapshots"), 0)
    require(config, at_least={"size": 1, "checkpoint_every": 1, "num_records": 3, **never_negative})
    for name, recipe in recipes:
        require(
            recipe,
            at_least={"dim": 1, "batch_size": 1, "num_steps": 1},
            positive=("learning_rate", "init_scale"),
            of=f"{name}.",
        )
        recipe.require_effect(name)
        if config.num_probe % recipe.batch_size or config.num_probe < 4 * recipe.dim:
            raise ValueError(
                f"num_probe = {config.num_probe} must be a multiple of {name}.batch_size = "
                f"{recipe.batch_size}, and at least 4 {name}.dim = {4 * recipe.dim}: a correlation "
                f"of few samples has few dimensions."
            )


def require_pairs(config: Any, name: str, dim: int) -> None:
    """Raise ValueError unless the setting `name`, a number of pairs, is from 2 dim to num_probe."""
    if not 2 * dim <= getattr(config, name) <= config.num_probe:
        raise ValueError(
            f"{name} = {getattr(config, name)} must lie between 2 dim = {2 * dim} and num_probe = "
            f"{config.num_probe}."
        )
