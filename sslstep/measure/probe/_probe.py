r"""The linear probe: its predictions, its accuracy, and the accuracy's standard error."""

from typing import NamedTuple

import jax.numpy as jnp
import numpy as np
from jax.typing import ArrayLike
from jaxtyping import Array, Float, Integer, Real

from sslstep import _check
from sslstep._linalg import matmul


class Probe(NamedTuple):
    r"""A linear map :math:`h \mapsto W^\top h + b` from p features to c targets or logits.

    Attributes:
        weights: W, shape ``(p, c)``.
        bias: b, shape ``(c,)``.
    """

    weights: Float[Array, "p c"]
    bias: Float[Array, " c"]


def predict(probe: Probe, features: Float[ArrayLike, "n p"]) -> Float[Array, "n c"]:
    r"""Return the probe's predicted targets or logits, :math:`W^\top h + b`.

    Args:
        probe: a fitted probe.
        features: h, shape ``(n, p)``.

    Returns:
        Predictions, shape ``(n, c)``; the largest entry of a row is the predicted class.

    Raises:
        ValueError: if shapes do not fit, or values of the features or the probe are not finite.

    Example:
        >>> import jax.numpy as jnp
        >>> from sslstep.measure import probe
        >>> probe.predict(probe.Probe(jnp.array([[2.0]]), jnp.array([1.0])), jnp.array([[3.0]]))
        Array([[7.]], dtype=float32)
    """
    num, what = probe.weights.shape[0], f", to fit weights of shape {probe.weights.shape}"
    _check.require_matrix("features", features, f"(n, {num})", what, columns=num)
    _check.require_finite("features", features)
    for part, value in probe._asdict().items():
        _check.require_finite(f"probe.{part}", value)
    features = _check.as_float("features", features).astype(probe.weights.dtype)
    return matmul(features, probe.weights) + probe.bias[None, :]


def accuracy(
    probe: Probe, features: Float[ArrayLike, "n p"], labels: Integer[ArrayLike, " n"]
) -> Float[Array, ""]:
    """Return the fraction of samples whose predicted class is their label.

    Args:
        probe: a probe fitted to c classes; :func:`ridge` takes one-hot targets.
        features: h, shape ``(n, p)``.
        labels: classes 0...c-1, shape ``(n,)``.

    Returns:
        The accuracy, a scalar in [0, 1]; :func:`standard_error` gives its error. NaN if a
        prediction is not finite, for example if training diverged under ``jax.vmap``.

    Raises:
        ValueError: if shapes do not fit, or values, labels or numbers are out of range.

    Example:
        >>> import jax, jax.numpy as jnp
        >>> from sslstep.measure import probe
        >>> features, labels = jnp.array([[0.0], [1.0], [5.0], [6.0]]), jnp.array([0, 0, 1, 1])
        >>> fitted = probe.ridge(features, jax.nn.one_hot(labels, 2), 1e-3)
        >>> float(probe.accuracy(fitted, features, labels))
        1.0
    """
    predictions = predict(probe, features)
    labels = require_labels("labels", labels, *predictions.shape)
    return share_right(predictions, labels)


def share_right(predictions: Array, labels: Array) -> Array:
    """Return the accuracy of predictions (n, c); NaN if a prediction is not finite."""
    share = jnp.mean(jnp.argmax(predictions, axis=1) == labels, dtype=predictions.dtype)
    return jnp.where(jnp.isfinite(predictions).all(), share, jnp.nan)


def require_trained(probe: Probe, cause: str) -> Probe:
    """Return the probe; raise ValueError with the cause if concrete weights are not finite."""
    if _check.is_concrete(*probe) and not all(bool(jnp.isfinite(part).all()) for part in probe):
        raise ValueError(f"the probe's weights are NaN or infinite: {cause}")
    return probe


def standard_error(accuracy: Real[ArrayLike, "..."], num_samples: int) -> Float[Array, "..."]:
    r"""Return the binomial standard error of an accuracy a, :math:`\sqrt{a (1 - a) / n}`.

    The error covers the choice of the test samples, not the choice of the training samples. Two
    probes on one test set have correlated errors: their accuracies differ by less than the two
    standard errors suggest.

    Args:
        accuracy: a in [0, 1], any shape.
        num_samples: n, the number of test samples.

    Returns:
        The standard error, in the shape of ``accuracy``.

    Raises:
        ValueError: if an accuracy is not in [0, 1], or ``num_samples`` is below 1.

    Example:
        >>> from sslstep.measure import probe
        >>> round(float(probe.standard_error(0.5, 10_000)), 4)
        0.005
    """
    _check.require_within("accuracy", accuracy, at_least=0.0, at_most=1.0)
    _check.require_within("num_samples", num_samples, at_least=1)
    accuracy = _check.as_float("accuracy", accuracy)
    return jnp.sqrt(accuracy * (1 - accuracy) / num_samples)


def require_labels(name: str, labels: ArrayLike, n: int, num_classes: int) -> Array:
    """Return n integer labels; raise ValueError on another shape, dtype, or an unknown class."""
    _check.require_shape(name, labels, (n,), ", one for each sample")
    if not jnp.issubdtype(jnp.result_type(labels), jnp.integer):
        raise ValueError(f"{name} must be integers, got dtype {jnp.result_type(labels)}.")
    if _check.is_concrete(labels):
        values = np.asarray(labels)
        if ((values < 0) | (values >= num_classes)).any():
            raise ValueError(
                f"{name} must be classes 0...{num_classes - 1}, got {values.min()} to "
                f"{values.max()}."
            )
    return jnp.asarray(labels)
