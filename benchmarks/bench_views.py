"""The views' share of a training step, and their colours against dm-pix's.

    make bench    or    python -m benchmarks.bench_views

A step is that of the trainer: two views of each image, forward, the Barlow Twins loss, backward and
SGD. The views' share is the time of making them alone, over that and the time of a step on views
that are given. Where a step that makes them is timed as well, the difference it makes is the share
inside. Two networks: the experiments' at their cpu preset (the small ResNet, 256 photographs of
32x32), and a ResNet-18 (ImageNet's stem, 64 photographs of 96x96). Then brightness, contrast,
saturation and hue in a random order for each image, against dm-pix's under `lax.switch`, and a
jitter of the hue only. All take turns, and the shortest time of each counts. With --full, there are
more turns, and every pipeline is timed inside.
"""

from collections.abc import Callable, Sequence
from functools import partial

import jax
import jax.numpy as jnp

from benchmarks._timing import OURS, Row, Rows, installed, parser, print_machine, take_turns
from sslstep import data, losses, optim, train
from sslstep.experiment import training
from sslstep.recipes import BarlowTwins

KEY = jax.random.key(0)


def small():
    """The network of the experiments' cpu preset, its images, and the side of its views."""
    config = training.Config()
    return training.network(config, BarlowTwins()), data.photos().images[:256], config.size


def resnet18():
    """A ResNet-18, and images of STL-10's size."""
    config = training.Config(backbone="resnet18", stem="imagenet")
    network = training.network(config, BarlowTwins(dim=512, hidden=(2048,)))
    return network, data.photos(size=96).images[:64], 96


# As its code has them, VICReg's views are Barlow Twins'; these are its publication's.
PIPELINES: dict[str, Callable[[int], data.Views]] = {
    "crop_views": data.crop_views,
    "barlow_twins_views": data.barlow_twins_views,
    "vicreg_views, symmetric": partial(data.vicreg_views, symmetric=True),
    "simclr_views": data.simclr_views,
}
NETWORKS = {"small": small, "ResNet-18": resnet18}
# Compiled into a step as well, which takes most of the time here.
INSIDE = ("barlow_twins_views",)


def shares(network, images, size, pipelines, inside, rounds):
    """Seconds of a step on given views, of one that makes them, and of making them alone."""
    optimizer = optim.sgd(0.01)
    x, x_prime = data.two_views(jax.random.split(KEY, len(images)), images, data.crop_views(size))
    state = train.init_state(KEY, network, optimizer, x[:1])
    images = jnp.asarray(images)

    def step(views_fn, batch):
        made = train.make_step(network, losses.barlow_twins, optimizer, views_fn)
        return partial(jax.jit(made), state, batch)

    given = jnp.stack([x, x_prime], axis=1)
    calls = {"given": step(lambda keys, both: (both[:, 0], both[:, 1]), given)}
    for name in pipelines:
        views_fn = partial(data.two_views, views=PIPELINES[name](size))
        if name in inside:
            calls[name] = step(views_fn, images)
        keys = jax.random.split(KEY, len(images))
        calls[f"{name} alone"] = partial(jax.jit(views_fn), keys, images)
    return take_turns(calls, rounds).seconds


def colours(n, size):
    """The colour jitter of Barlow Twins' views, and its hue alone: ours and dm-pix's."""
    import dm_pix

    keys = jax.random.split(KEY, n)
    images = jax.random.uniform(jax.random.key(1), (n, size, size, 3))
    jitter = data.Augmentation(size, scale=None, flip=0.0, jitter=1.0)
    hue = jitter._replace(hue=0.1)
    jitter = hue._replace(brightness=0.4, contrast=0.4, saturation=0.2)

    def pix_jitter(key, image):
        order_key, *keys = jax.random.split(key, 5)
        operations = (
            lambda x: dm_pix.random_brightness(keys[0], x, 0.4),
            lambda x: dm_pix.random_contrast(keys[1], x, 0.6, 1.4),
            lambda x: dm_pix.random_saturation(keys[2], x, 0.8, 1.2),
            lambda x: dm_pix.random_hue(keys[3], x, 0.1),
        )
        for which in jax.random.permutation(order_key, 4):
            image = jnp.clip(jax.lax.switch(which, operations, image), 0, 1)
        return image

    def pix_hue(key, image):
        return dm_pix.random_hue(key, image, 0.1)

    def call(function):
        return partial(jax.jit(function), keys, images)

    return {
        "jitter": {
            OURS: call(partial(data.augment, augmentation=jitter)),
            "dm-pix": call(jax.vmap(pix_jitter)),
        },
        "hue": {
            OURS: call(partial(data.augment, augmentation=hue)),
            "dm-pix": call(jax.vmap(pix_hue)),
        },
    }


def main(args: Sequence[str] | None = None) -> list[Row]:
    """Print the tables."""
    options = parser(__doc__, rounds=3, full="30 turns of each, every pipeline inside")
    options.add_argument("--networks", nargs="+", choices=NETWORKS, default=list(NETWORKS))
    options.add_argument("--pipelines", nargs="+", choices=PIPELINES, default=list(PIPELINES))
    options.add_argument("--images", type=int, help="fewer than the table's")
    chosen = options.parse_args(args)
    rows, rounds = Rows("views", chosen.rows), 30 if chosen.full else chosen.rounds
    inside = chosen.pipelines if chosen.full else INSIDE
    print_machine("float32")
    sizes = []
    for name in chosen.networks:
        network, images, size = NETWORKS[name]()
        images = images[: chosen.images]
        sizes.append((len(images), size))
        best = shares(network, images, size, chosen.pipelines, inside, rounds)
        case = f"{name}, {len(images)} of {size}x{size}"
        given = best["given"]
        rows.add(case, "a step on given views", given)
        for pipeline in chosen.pipelines:
            alone = best[f"{pipeline} alone"]
            share = f"a share of {alone / (alone + given):.1%}"
            rows.add(case, f"{pipeline} alone", alone, also=share)
            if pipeline in inside:
                share = f"a share of {1 - given / best[pipeline]:.1%} inside"
                rows.add(case, f"a step with {pipeline}", best[pipeline], also=share)
    if installed("dm_pix"):
        for n, size in sizes:
            for name, calls in colours(n, size).items():
                for side, seconds in take_turns(calls, 4 * rounds).seconds.items():
                    rows.add(f"{name}, {n} of {size}x{size}", side, seconds)
    return rows.rows


if __name__ == "__main__":
    main()
