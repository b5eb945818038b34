"""What experiments that train ResNets share: networks, optimisers and runs from their settings."""

import dataclasses
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax.typing import ArrayLike

from experiments import _images
from sslstep import data, nn, optim, train


@dataclass(frozen=True)
class Config:
    """Settings; each is one option of the command."""

    data: Literal["photos", "cifar10", "stl10"] = "photos"
    """Where the images come from (stl10: its unlabelled split)."""
    data_dir: str | None = None
    """Folder of prepared TFDS data, for cifar10 and stl10; TFDS's own default if not given."""
    num_images: int = 0
    """How many of them to train on, chosen at random; 0 for all."""
    backbone: Literal["small", "resnet18", "resnet50"] = "small"
    """small: width 8, stride-2 stem, three stages of one basic block."""
    stem: Literal["imagenet", "small", "small_stride2"] = "small_stride2"
    """First layers: 7x7 with stride 2 and pooling; 3x3; 3x3 with stride 2."""
    hidden: int = 256
    """Width of the projector's hidden layer."""
    dim: int = 16
    """Embedding dimension d."""
    views: Literal["crops", "barlow_twins"] = "crops"
    """Two plain windows, flipped or not; or the publication's whole pipeline."""
    size: int = 24
    """Side of the views in pixels."""
    batch_size: int = 256
    """Pairs in a batch."""
    optimizer: Literal["sgd", "lars"] = "sgd"
    """Plain gradient descent; or LARS as the publication uses it, warm-up and cosine included."""
    learning_rate: float = 0.01
    """Of all parameters (sgd), or at the peak of the weights' schedule (lars)."""
    bias_learning_rate: float = 0.0
    """Of biases and batch norms, at the peak (lars only)."""
    weight_decay: float = 0.0
    """Of all parameters (sgd), or of weights (lars)."""
    warmup_steps: int = 0
    """Steps of rising learning rate (lars only)."""
    num_steps: int = 2500
    """How many steps to train."""
    init_scale: float = 0.3
    """α, by which every initial parameter is multiplied."""
    num_probe: int = 1024
    """Pairs on which spectra are measured, the same throughout; a multiple of the batch."""
    num_records: int = 240
    """How many times they are measured, at most: half of them evenly, half ever more rarely."""
    checkpoint_every: int = 500
    """Steps between checkpoints, from which an interrupted run goes on."""
    dtype: Literal["float32", "bfloat16"] = "float32"
    """In which the network computes; parameters are float32 either way."""
    seed: int = 0
    """Of everything: images, views, initial parameters."""


class Trained(NamedTuple):
    """A run, with effective times."""

    t: np.ndarray  # after each step
    loss: np.ndarray
    record_t: np.ndarray
    records: dict[str, np.ndarray]


def network(config: Config, head: Callable[..., nn.Projector]) -> nn.Encoder:
    """The encoder: a ResNet, and a projector of one hidden layer."""
    dtype = jnp.dtype(config.dtype)
    settings: dict[str, Any] = {"stem": config.stem, "dtype": dtype}
    if config.backbone == "small":
        backbone = nn.ResNet(stage_sizes=(1, 1, 1), width=8, **settings)
    else:
        make = nn.resnet18 if config.backbone == "resnet18" else nn.resnet50
        backbone = make(**settings)
    return nn.Encoder(backbone, head(dim=config.dim, hidden=(config.hidden,), dtype=dtype))


def optimizer_and_rate(
    config: Config,
) -> tuple[optax.GradientTransformation, Callable[[np.ndarray], ArrayLike]]:
    """The optimiser, and the weights' learning rate as a function of steps."""
    if config.optimizer == "sgd":
        sgd = optim.sgd(config.learning_rate, weight_decay=config.weight_decay)
        return sgd, lambda steps: np.full(steps.shape, config.learning_rate)
    rate, bias_rate = (
        optim.warmup_cosine(peak, warmup_steps=config.warmup_steps, total_steps=config.num_steps)
        for peak in (config.learning_rate, config.bias_learning_rate)
    )
    lars = optim.lars(rate, bias_learning_rate=bias_rate, weight_decay=config.weight_decay)
    return lars, rate


def fit(
    config: Config,
    loss_fn: Callable[..., jax.Array],
    head: Callable[..., nn.Projector],
    folder: Path,
    name: str,
) -> Trained:
    """Train, or go on with what the folder has."""
    key_data, key_probe, key_network = jax.random.split(jax.random.key(config.seed), 3)
    images = _images.choose(
        key_data, config.data, config.num_images or None, config.data_dir
    ).images
    views = data.crop_views(config.size)
    if config.views == "barlow_twins":
        views = data.barlow_twins_views(config.size)
    views_fn = partial(data.two_views, views=views)
    model = network(config, head)
    optimizer, rate = optimizer_and_rate(config)
    step = train.compile_step(train.make_step(model, loss_fn, optimizer, views_fn))
    probe = images[np.arange(config.num_probe) % len(images)]
    x, x_prime = jax.jit(views_fn)(jax.random.split(key_probe, len(probe)), probe)
    state = train.init_state(key_network, model, optimizer, x, init_scale=config.init_scale)
    run = train.fit(
        step,
        state,
        images,
        num_steps=config.num_steps,
        batch_size=config.batch_size,
        folder=folder,
        record=train.make_record(model, x, x_prime, batch_size=config.batch_size),
        record_at=record_steps(config.num_steps, config.num_records),
        checkpoint_every=config.checkpoint_every,
        settings=dataclasses.asdict(config),
        progress=name,
    )
    rates = rate(np.arange(config.num_steps))
    times = np.concatenate([[0.0], np.cumsum(np.asarray(rates, float))])
    record_t = times[run.records["step"]]
    # A warm-up's first rate is 0: its step takes no time.
    later = np.diff(record_t, prepend=-1.0) > 0
    records = {key: value[later] for key, value in run.records.items() if key != "step"}
    return Trained(times[1:], run.metrics["loss"], record_t[later], records)


def record_steps(num_steps: int, num: int) -> np.ndarray:
    """Steps evenly over the run, and as many geometrically, as the first rises are fast."""
    evenly = np.linspace(0, num_steps, num - num // 2)
    rarely = np.geomspace(1, num_steps, num // 2)
    return np.unique(np.concatenate([evenly, rarely]).round().astype(int))


def require_valid(config: Config) -> None:
    """Refuse settings that the library would only refuse later, or in other words."""
    for name in ("hidden", "dim", "size", "batch_size", "num_steps", "checkpoint_every"):
        if getattr(config, name) < 1:
            raise ValueError(f"{name} must be >= 1, got {getattr(config, name)}.")
    for name in ("learning_rate", "init_scale"):
        if not getattr(config, name) > 0:
            raise ValueError(f"{name} must be > 0, got {getattr(config, name)}.")
    if config.num_images < 0:
        raise ValueError(f"num_images must be >= 0, got {config.num_images}.")
    if config.num_records < 2:
        raise ValueError(f"num_records must be >= 2, got {config.num_records}.")
    if config.num_probe % config.batch_size or config.num_probe < 4 * config.dim:
        raise ValueError(
            f"num_probe = {config.num_probe} must be a multiple of batch_size = "
            f"{config.batch_size}, and at least 4 dim = {4 * config.dim}: a correlation of few "
            f"samples has few dimensions."
        )
