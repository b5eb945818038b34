r"""Linear evaluation as published: a linear classifier on a frozen network's features of crops."""

from collections.abc import Callable
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.tree_util import Partial
from jax.typing import ArrayLike
from jaxtyping import Array, Float, Integer, Key, Shaped

from sslstep import _check, _terminal, _xla, data
from sslstep.data.views import require_bytes_or_floats
from sslstep.measure.probe import _sgd
from sslstep.measure.probe._probe import Probe, require_trained


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
    r"""Train a linear classifier by :func:`sgd` on a frozen network's features of random views.

    Each step draws a random view of each image of its batch (by default a resized crop and a flip),
    computes its features, and updates the linear classifier. No gradient is computed through the
    network.

    Test accuracy on whole images is ``probe.accuracy(fitted, probe.embed_images(embed_fn,
    test_images), test_labels)``.

    ``jax.vmap`` over the protocol's ``learning_rate`` trains several classifiers for little more
    than the cost of one, because they share the features.

    Args:
        key: random key of the initial weights, the order of images and their views.
        embed_fn: function from views in [0, 1], shape ``(b, s, s, c)``, to features, shape
            ``(b, p)``. Any normalisation of views belongs in it. The network must be in evaluation
            mode: ``lambda x: network.apply(variables, x, train=False).h``. For a large network give
            ``jax.tree_util.Partial(embed, variables)`` with ``embed(variables, x)``: the variables
            are then arguments of the compiled program instead of constants, and another network of
            equal shapes does not compile again.
        images: training images, uint8 or floats in [0, 1], shape ``(n, h, w, c)``.
        labels: classes 0...c-1 of the images, shape ``(n,)``.
        protocol: settings of the training; its rates may be traced.
        num_classes: c, the number of classes, at least 2.
        augmentation: augmentation of the training images, without normalisation; static. None:
            ``data.Augmentation(min(h, w))``.
        progress: whether to show a progress bar; None shows it on a terminal only.

    Returns:
        :class:`Probe`. Equal keys give bitwise equal results.

    Raises:
        ValueError: if shapes do not fit, or values, labels or numbers are out of range.

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
    n, height, width, channels = _check.shape_of(data.checked_images(images))
    rates, settings = _sgd.parts(protocol, num_classes)
    labels = _sgd.require_valid("images", n, labels, rates, settings)
    if augmentation is None:
        augmentation = data.Augmentation(min(height, width))
    if augmentation.mean is not None or augmentation.std is not None:
        raise ValueError(
            "augmentation must not normalise (mean, std), because test images are not augmented: "
            "normalise in embed_fn."
        )
    embed = _xla.as_partial(embed_fn)
    images = jnp.asarray(images)
    # Check the augmentation and the shape of the features before training starts.
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
    num = protocol.num_epochs
    with _terminal.progress_bar(progress, total=num, desc="probe", unit="epoch") as bar:
        for epoch in range(num):
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
    """Train for one epoch on features of random views; return the state and the mean loss."""

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
    """Compute the features of whole images, batch by batch.

    Args:
        embed_fn: function from images, shape ``(b, h, w, c)``, to features, shape ``(b, p)``. The
            last batch is padded, so the features of an image must not depend on the other images:
            put batch norms in evaluation mode.
        images: uint8, divided by 255 before ``embed_fn``, or floats, shape ``(n, h, w, c)``.
        batch_size: number of images in a batch.

    Returns:
        Features, shape ``(n, p)``.

    Raises:
        ValueError: if ``images`` or a result of ``embed_fn`` has another shape or dtype.

    Example:
        >>> from sslstep import data
        >>> from sslstep.measure import probe
        >>> images = data.photos().images[:300]
        >>> probe.embed_images(lambda x: x.mean(axis=(1, 2)), images).shape
        (300, 3)
    """
    n, *_ = require_bytes_or_floats(images)
    _check.require_within("batch_size", batch_size, at_least=1)
    embed = _xla.as_partial(embed_fn)
    size = min(batch_size, n)
    array = images if isinstance(images, jax.Array) else np.asarray(images)
    parts = []
    for start in range(0, n, size):
        # The last batch is padded to the common size.
        indices = np.minimum(np.arange(start, start + size), n - 1)
        parts.append(_embed(embed, jnp.asarray(array[indices])))
    return jnp.concatenate(parts)[:n]


@jax.jit
def _embed(embed, images):
    """Compute the features of one batch of whole images."""
    x = images.astype(jnp.float32) / 255 if images.dtype == jnp.uint8 else images
    _require_features(embed, jax.ShapeDtypeStruct(x.shape, x.dtype))
    return embed(x)


def _require_features(embed: Partial, x: jax.ShapeDtypeStruct) -> tuple[int, Any]:
    """Return number and dtype of the features; raise ValueError on a wrong shape."""
    h = jax.eval_shape(embed, x)
    shape = getattr(h, "shape", None)
    if shape is None or len(shape) != 2 or shape[0] != x.shape[0] or shape[1] < 1:
        got = f"shape {shape}" if shape is not None else f"a {type(h).__name__}"
        raise ValueError(
            f"embed_fn must give features of shape ({x.shape[0]}, p) for images of shape "
            f"{x.shape}, got {got}."
        )
    return shape[1], h.dtype
