"""The views' share of a training step, and their colours against dm-pix's.

    make bench    or    python -m benchmarks.bench_views

A step is that of the trainer: two views of each image, forward, the Barlow Twins loss, backward and
SGD. The views' share is the time of making them alone, over that and the time of a step on views
that are given. Where a step that makes them is timed as well, the difference it makes is the share
inside. Two networks: the experiments' at their cpu preset (the small ResNet, 256 photographs of
32x32), and a ResNet-18 (ImageNet's stem, 64 photographs of 96x96). Then brightness, contrast,
saturation and hue in a random order for each image, against dm-pix's under `lax.switch`, and a
jitter of the hue only. All take turns, and the shortest time of each counts, because other work on
the machine only ever adds to it. With --full, there are more turns, and every pipeline is timed
inside.
"""

import argparse
import os
import time
from functools import partial

import dm_pix
import jax
import jax.numpy as jnp
import numpy as np

from sslstep import data, losses, nn, optim, train

KEY = jax.random.key(0)


def small():
    """The network of the experiments' cpu preset, and its images."""
    backbone = nn.ResNet(stage_sizes=(1, 1, 1), width=8, stem="small_stride2")
    head = nn.barlow_twins_head(dim=16, hidden=(256,))
    return nn.Encoder(backbone, head), data.photos().images[:256], 24


def resnet18():
    """A ResNet-18, and images of STL-10's size."""
    head = nn.barlow_twins_head(dim=512, hidden=(2048,))
    return nn.Encoder(nn.resnet18(), head), data.photos(size=96).images[:64], 96


# As its code has them, VICReg's views are Barlow Twins'; these are its publication's.
PIPELINES = {
    "crop_views": data.crop_views,
    "barlow_twins_views": data.barlow_twins_views,
    "vicreg_views, symmetric": partial(data.vicreg_views, symmetric=True),
    "simclr_views": data.simclr_views,
}
NETWORKS = {"small, 256 of 24x24": small, "ResNet-18, 64 of 96x96": resnet18}
# Compiled into a step as well, which takes most of the time here.
INSIDE = ("barlow_twins_views",)


def shortest(calls, turns):
    """Seconds that each of several functions takes, in turns; the first turn compiles."""
    best = dict.fromkeys(calls, np.inf)
    for turn in range(turns + 1):
        for name, call in calls.items():
            start = time.perf_counter()
            jax.block_until_ready(call())
            if turn:
                best[name] = min(best[name], time.perf_counter() - start)
    return best


def shares(make, inside, turns):
    """Seconds of a step on given views, of one that makes them, and of making them alone."""
    network, images, size = make()
    optimizer = optim.sgd(0.01)
    x, x_prime = data.two_views(jax.random.split(KEY, len(images)), images, data.crop_views(size))
    state = train.init_state(KEY, network, optimizer, x[:1])
    images = jnp.asarray(images)

    def step(views_fn, batch):
        made = train.make_step(network, losses.barlow_twins, optimizer, views_fn)
        return partial(jax.jit(made), state, batch)

    given = jnp.stack([x, x_prime], axis=1)
    calls = {"given": step(lambda keys, both: (both[:, 0], both[:, 1]), given)}
    for name, pipeline in PIPELINES.items():
        views_fn = partial(data.two_views, views=pipeline(size))
        if name in inside:
            calls[name] = step(views_fn, images)
        keys = jax.random.split(KEY, len(images))
        calls[f"{name} alone"] = partial(jax.jit(views_fn), keys, images)
    return shortest(calls, turns)


def colours(n, size):
    """The colour jitter of Barlow Twins' views, ours and dm-pix's; the hue of both."""
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

    return {
        "jitter": partial(jax.jit(partial(data.augment, augmentation=jitter)), keys, images),
        "dm-pix jitter": partial(jax.jit(jax.vmap(pix_jitter)), keys, images),
        "hue": partial(jax.jit(partial(data.augment, augmentation=hue)), keys, images),
        "dm-pix hue": partial(jax.jit(jax.vmap(pix_hue)), keys, images),
    }


def main() -> None:
    """Print the tables."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--rounds", type=int, default=3, help="turns of each (default: 3)")
    parser.add_argument("--full", action="store_true", help="30 turns of each")
    options = parser.parse_args()
    turns = 30 if options.full else options.rounds
    print(f"{jax.devices()[0].device_kind}, {os.cpu_count()} cores, JAX {jax.__version__}, float32")
    inside = tuple(PIPELINES) if options.full else INSIDE
    for name, make in NETWORKS.items():
        best = shares(make, inside, turns)
        given = best["given"]
        print(f"{name:32}{'ms':>10}{'share':>8}{'inside':>8}")
        print(f"{'  step on given views':32}{1e3 * given:10.1f}")
        for pipeline in PIPELINES:
            alone = best[f"{pipeline} alone"]
            row = f"{1e3 * alone:10.1f}{alone / (alone + given):8.1%}"
            if pipeline in inside:
                row += f"{1 - given / best[pipeline]:8.1%}"
            print(f"{'  ' + pipeline:32}{row}", flush=True)
    print(f"{'':32}{'ms':>10}{'dm-pix':>10}{'ratio':>8}")
    for n, size in ((256, 24), (64, 96)):
        best = shortest(colours(n, size), 4 * turns)
        for name in ("jitter", "hue"):
            a, b = (1e3 * best[each] for each in (name, f"dm-pix {name}"))
            print(f"{f'{name}, {n} of {size}x{size}':32}{a:10.1f}{b:10.1f}{b / a:8.2f}", flush=True)


if __name__ == "__main__":
    main()
