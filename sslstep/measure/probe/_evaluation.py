r"""The publications' linear evaluation: a classifier on random crops, before a frozen network."""

from collections.abc import Callable
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.tree_util import Partial
from jax.typing import ArrayLike
from jaxtyping import Array, Float, Integer, Key, Shaped
from tqdm import tqdm

from sslstep import _check, data
from sslstep.measure.probe import _sgd
from sslstep.measure.probe._probe import Probe, require_trained

__all__ = ["embed_images", "linear_evaluation"]


def linear_evaluation(
    key: Key[Array, ""],
    embed_fn: Callable[[Array], Array],
    images: Shaped[ArrayLike, "n h w c"],
    labels: Integer[ArrayLike, " n"],
    protocol: _sgd.Protocol,
    *,
    num_classes: int,
    augmentation: data.Augmentation | None = None,
    progress: bool | None = None,
) -> Probe:
    r"""The publications' linear evaluation: :func:`sgd` on features of freshly augmented images.

    Each step takes a random view of each image of its batch, a resized crop and a flip unless told
    otherwise, embeds it, and trains a linear classifier on the embeddings. Views, network and
    update are one compiled program; images stay on the device as they are, bytes for instance. The
    frozen network gets no gradient.

    The test's accuracy is that on whole images, ``probe.accuracy(fitted, probe.embed_images(
    embed_fn, test_images), test_labels)``. (The publications' resized and centred crops of
    ImageNet's test images are for images larger than the network's.)

    Several learning rates at once, for little more than the price of one, since the embeddings are
    shared: ``jax.vmap`` over the protocol's ``learning_rate``.

    Args:
        key: of the initial weights, the order of images and their views.
        embed_fn: ``embed_fn(x)``, from views in [0, 1], shape ``(b, s, s, c)``, to features,
            ``(b, p)``; what normalises views belongs in it. A network in eval mode, batch norms
            using their running averages: ``lambda x: network.apply(variables, x, train=False).h``.
            If large, rather ``jax.tree_util.Partial(embed, variables)`` of ``embed(variables, x)``:
            so the variables are arguments of the compiled program, not constants in it, and another
            network of the same shape does not compile again.
        images: bytes, or floats in [0, 1], shape ``(n, h, w, c)``.
        labels: classes 0...c-1, shape ``(n,)``.
        protocol: numbers of the training; traced as in :func:`sgd`.
        num_classes: c, at least 2.
        augmentation: of the training images, without normalisation; static. None:
            ``data.Augmentation(min(h, w))``.
        progress: whether to show a progress bar; None: on a terminal.

    Returns:
        :class:`Probe`. The same key gives the same bits.

    Raises:
        ValueError: if shapes do not fit, labels are not in 0...c-1, a number is out of range, there
            are fewer images than in a batch, or ``embed_fn`` gives another shape or NaN.

    Example:
        >>> import jax
        >>> from sslstep import data
        >>> from sslstep.measure import probe
        >>> train, test = data.photos("train"), data.photos("test")
        >>> def colours(x):
        ...     return x.mean(axis=(1, 2))
        >>> fitted = probe.linear_evaluation(
        ...     jax.random.key(0),
        ...     colours,
        ...     train.images,
        ...     train.labels,
        ...     probe.Protocol(0.3, num_epochs=1),
        ...     num_classes=len(train.label_names),
        ... )
        >>> probe.predict(fitted, probe.embed_images(colours, test.images[:10])).shape[0]
        10
    """
    n, height, width, channels = _require_images(images)
    data.checked_images(images)
    rates, settings = _sgd.parts(protocol, num_classes)
    labels = _sgd.require_valid("images", n, labels, rates, settings)
    if augmentation is None:
        augmentation = data.Augmentation(min(height, width))
    if augmentation.mean is not None or augmentation.std is not None:
        raise ValueError(
            "augmentation must not normalise (mean, std), as test images would not be normalised "
            "likewise: let embed_fn do it."
        )
    embed = embed_fn if isinstance(embed_fn, Partial) else Partial(embed_fn)
    images = jnp.asarray(images)
    # Before anything is trained: what augment refuses, and what the network makes of the views.
    views = jax.eval_shape(
        lambda keys, images: data.augment(keys, images, augmentation),
        jax.eval_shape(lambda: jax.random.split(jax.random.key(0), protocol.batch_size)),
        jax.ShapeDtypeStruct((protocol.batch_size, height, width, channels), images.dtype),
    )
    num_features, dtype = _require_features(embed, views)
    dtype = jnp.promote_types(dtype, jnp.float32)
    rates = _sgd.Rates(*(jnp.asarray(value, dtype) for value in rates))
    key_init, key_epochs = jax.random.split(key)
    state = _sgd.init_state(key_init, num_features, dtype, rates, settings)
    hidden = None if progress is None else not progress  # None: unless on a terminal
    with tqdm(total=protocol.num_epochs, desc="probe", unit="epoch", disable=hidden) as bar:
        for epoch in range(protocol.num_epochs):
            key = jax.random.fold_in(key_epochs, epoch)
            index = jnp.asarray(epoch)
            state, loss = _epoch(
                key, state, index, embed, images, labels, rates, settings, augmentation
            )
            if not bar.disable and _check.is_concrete(loss):
                bar.set_postfix(loss=f"{float(loss):.4g}", refresh=False)
            bar.update()
    return require_trained(
        state.probe,
        f"embed_fn gives NaN or infinity for some view of images, or learning_rate = "
        f"{protocol.learning_rate} is too large for its {num_features} features.",
    )


@partial(jax.jit, static_argnames=("settings", "augmentation"))
def _epoch(key, state, epoch, embed, images, labels, rates, settings, augmentation):
    def features(key: Array, batch: Array) -> Array:
        keys = jax.random.split(key, batch.shape[0])
        h = embed(data.augment(keys, images[batch], augmentation))
        return jax.lax.stop_gradient(h).astype(state.probe.weights.dtype)

    return _sgd.train_epoch(key, state, epoch, features, labels, rates, settings)


def embed_images(
    embed_fn: Callable[[Array], Array],
    images: Shaped[ArrayLike, "n h w c"],
    *,
    batch_size: int = 256,
) -> Float[Array, "n p"]:
    """Features of images as they are, so many at a time.

    Args:
        embed_fn: as :func:`linear_evaluation` takes it. As batches are filled up to one size, an
            image's features must not depend on the others': batch norms in eval mode.
        images: bytes, which become numbers in [0, 1], or floats, shape ``(n, h, w, c)``.
        batch_size: how many pass through the network at once.

    Returns:
        Features, shape ``(n, p)``.

    Raises:
        ValueError: if ``images`` is not such an array, or ``embed_fn`` gives another shape.

    Example:
        >>> from sslstep import data
        >>> from sslstep.measure import probe
        >>> images = data.photos().images[:300]
        >>> probe.embed_images(lambda x: x.mean(axis=(1, 2)), images).shape
        (300, 3)
    """
    n, *_ = _require_images(images)
    _check.require_at_least("batch_size", batch_size, 1)
    embed = embed_fn if isinstance(embed_fn, Partial) else Partial(embed_fn)
    size = min(batch_size, n)
    array = images if isinstance(images, jax.Array) else np.asarray(images)
    parts = []
    for start in range(0, n, size):
        # The last batch is filled up, so that all have one shape.
        indices = np.minimum(np.arange(start, start + size), n - 1)
        parts.append(_embed(embed, jnp.asarray(array[indices])))
    return jnp.concatenate(parts)[:n]


@jax.jit
def _embed(embed, images):
    x = images.astype(jnp.float32) / 255 if images.dtype == jnp.uint8 else images
    _require_features(embed, jax.ShapeDtypeStruct(x.shape, x.dtype))
    return embed(x)


def _require_images(images: ArrayLike) -> tuple[int, ...]:
    shape, dtype = _check.shape_of(images), jnp.result_type(images)
    if len(shape) != 4 or 0 in shape:
        raise ValueError(
            f"images must have shape (n, h, w, c) with every size >= 1, got shape {shape}."
        )
    if dtype != jnp.uint8 and not jnp.issubdtype(dtype, jnp.floating):
        raise ValueError(
            f"images must be bytes (uint8) or floats in [0, 1], got {dtype} of shape {shape}."
        )
    return shape


def _require_features(embed: Partial, x: jax.ShapeDtypeStruct) -> tuple[int, Any]:
    h = jax.eval_shape(embed, x)
    shape = getattr(h, "shape", None)
    if shape is None or len(shape) != 2 or shape[0] != x.shape[0] or shape[1] < 1:
        got = f"shape {shape}" if shape is not None else f"a {type(h).__name__}"
        raise ValueError(
            f"embed_fn must give features of shape ({x.shape[0]}, p) for images of shape "
            f"{x.shape}, got {got}."
        )
    return shape[1], h.dtype
