"""Training of finite networks on the pairs of `infinite_width`, and predictions for them."""

from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from tqdm import tqdm

from experiments.beyond.infinite_width.config import Config
from sslstep import dynamics, kernel_pca, linear, losses, nn, simulate, train
from sslstep.experiment import Arrays, log
from sslstep.measure import alignment, probe, spectrum


class Task(NamedTuple):
    """The pairs, the labels of their first views, and labelled test crops."""

    x: jax.Array
    x_prime: jax.Array
    labels: jax.Array
    x_test: jax.Array
    labels_test: jax.Array


class Predicted(NamedTuple):
    """A kernel's modes, and the values of their functions on training and test samples."""

    modes: kernel_pca.KernelModes
    functions: jax.Array
    functions_test: jax.Array


class Records(NamedTuple):
    """Records of training: eigenvalues of C (T, d) and embeddings for the probe.

    `z` (T, n, d) embeds the probe's training samples, `z_test` (T, m, d) its test samples.
    """

    eigenvalues: jax.Array
    z: jax.Array
    z_test: jax.Array


def networks(config: Config, key: jax.Array, task: Task, predicted: Predicted) -> Arrays:
    """Train networks from equal initial parameters at each laziness; add the predictions."""
    model, modes = nn.MLP(config.dim, config.width, config.depth), predicted.modes
    gammas = modes.eigenvalues[: config.dim]
    eta = float(config.step_size * dynamics.max_learning_rate(modes.eigenvalues))
    both = jnp.concatenate([task.x, task.x_prime])
    pairs, test = (a.reshape(len(a), -1).astype(jnp.float32) for a in (both, task.x_test))
    draws = [model.init(k, pairs[:1]) for k in jax.random.split(key, config.num_seeds)]
    starts = [(model.apply(params, pairs), model.apply(params, test)) for params in draws]
    initial = [config.init_scale * jnp.asarray(start[0], float) for start in starts]
    aligned = [kernel_pca.align(f0, modes).singular_values for f0 in initial]
    step_times = [dynamics.step_time(gammas, s, learning_rate=eta) for s in aligned]
    # Long enough for the last mode to settle if the network is 10% slower than predicted.
    num_steps = int((1.1 * np.max(step_times) + 0.6 / gammas[-1]) / eta)
    at = np.unique(np.geomspace(1, num_steps, config.num_records).astype(int))
    loss_fn, measure = partial(_loss, model), partial(_measure, model)
    rows: dict[str, list[Any]] = {}
    total = num_steps * config.num_seeds * len(config.laziness)
    with tqdm(total=total, desc="networks", unit=" steps", disable=None) as bar:

        def advance(step: int) -> None:
            bar.update(bar.n // num_steps * num_steps + int(step) - bar.n)

        for seed, params in enumerate(draws):
            kernel = _kernel_descent(predicted, initial[seed], eta, at)
            theory = _expected(config, task, predicted, aligned[seed], eta, at)
            theory |= _judged(config, task, predicted, kernel, kernel.z_test[-1], prefix="kernel_")
            _append(rows, "predicted", {**theory, "step_times": jnp.sort(step_times[seed])})
            for laziness in config.laziness:
                run = train.full_batch_descent(
                    loss_fn,
                    params,
                    eta / laziness**2,
                    num_steps,
                    args=(pairs, test, *starts[seed], laziness, config.init_scale),
                    record_at=at,
                    measure=measure,
                    on_record=advance,
                )
                result = _judged(config, task, predicted, run.records, kernel.z_test[-1])
                _append(rows, f"network_{laziness:g}", result)
                log.info("network of seed %d, a = %g: %s", seed, laziness, _summary(result, theory))
    arrays = {name: np.stack(values) for name, values in rows.items()}
    return arrays | {"t": eta * at, "learning_rate": eta, "num_steps": num_steps}


def _embed(model, params, x, start, laziness, init_scale):
    """Return the embeddings a (f - f_0) + α f_0 of a lazy network."""
    laziness, init_scale = (jnp.asarray(a, start.dtype) for a in (laziness, init_scale))
    return laziness * (model.apply(params, x) - start) + init_scale * start


def _loss(model, params, pairs, test, start, start_test, laziness, init_scale):
    """Return the simplified Barlow Twins loss of a lazy network on the pairs."""
    z = _embed(model, params, pairs, start, laziness, init_scale)
    return losses.simplified_barlow_twins(*jnp.split(z, 2))


def _measure(model, params, pairs, test, start, start_test, laziness, init_scale):
    """Return the records of a lazy network at one step."""
    z, z_prime = jnp.split(_embed(model, params, pairs, start, laziness, init_scale), 2)
    z_test = _embed(model, params, test, start_test, laziness, init_scale)
    return Records(spectrum.correlation_eigenvalues(z, z_prime), z, z_test)


def _kernel_descent(predicted: Predicted, initial, eta, at) -> Records:
    """Return the records of gradient descent of the kernel from a network's initial embeddings."""
    # In the modes' coordinates a step costs (modes,); `kernel_pca.gradient_descent` would multiply
    # by the whole kernel (2n, 2n).
    modes = predicted.modes
    start = initial.T @ modes.coefficients
    every = linear.Modes(modes.eigenvalues, jnp.eye(len(modes.eigenvalues)))
    run = simulate.gradient_descent(start, every, eta, int(at[-1]), record_at=at, keep_weights=True)
    functions = predicted.functions, predicted.functions_test
    z, z_test = (jnp.einsum("nk,tdk->tnd", h, run.coefficients) for h in functions)
    return Records(run.eigenvalues, z, z_test)


def _expected(config, task, predicted, start, eta, at) -> Arrays:
    """Predict eigenvalues of C and accuracies along training by Eqs. 10, 40 and 42."""
    dim, t = config.dim, eta * at[:, None]
    gammas = predicted.modes.eigenvalues[:dim]
    accuracy = probe.accuracy_along(
        predicted.functions[:, :dim],
        task.labels,
        predicted.functions_test[:, :dim],
        task.labels_test,
        linear.singular_value(t, gammas, start, learning_rate=eta),
        config.penalty,
        num_classes=num_classes_of(task),
    )
    curves = linear.mode_eigenvalue(t, gammas, start, learning_rate=eta)
    return {"eigenvalues": curves, "accuracy": accuracy}


def _judged(config, task, predicted, records, reference, prefix="") -> Arrays:
    """Return eigenvalues and probe accuracy along training, and results at its end.

    The results at the end are the correctly classified test samples, and the alignment of the test
    embeddings with the predicted functions and with `reference`.
    """
    eigenvalues, z, z_test = records
    top = predicted.functions_test[:, : config.dim]
    labels = task.labels, task.labels_test
    result = {
        "eigenvalues": eigenvalues,
        "accuracy": _along(z, z_test, *labels, config.penalty, num_classes=num_classes_of(task)),
        "correct": correct(task, z[-1], z_test[-1]),
        "alignment": alignment.subspace_alignment(z_test[-1].astype(float), top),
        "kernel_alignment": alignment.subspace_alignment(z_test[-1].astype(float), reference),
    }
    return {prefix + name: array for name, array in result.items()}


@partial(jax.jit, static_argnames="num_classes")
def _along(z, z_test, labels, labels_test, penalty, *, num_classes):
    """Return the test accuracy of a ridge probe at each record, shape (T,)."""
    targets = jax.nn.one_hot(labels, num_classes)
    targets -= targets.mean(axis=0, keepdims=True)  # remove the class frequencies

    def accuracy(each):
        z, z_test = (a.astype(float) for a in each)
        return probe.accuracy(probe.ridge(z, targets, penalty), z_test, labels_test)

    return jax.lax.map(accuracy, (z, z_test))


def _append(rows: dict[str, list[Any]], name: str, result: Arrays) -> None:
    """Append the arrays of one network to the lists in `rows`."""
    for key, array in result.items():
        rows.setdefault(f"{name}_{key}", []).append(np.asarray(array))


def _summary(result: Arrays, theory: Arrays) -> str:
    """Return a log message with accuracy and alignments at the end of training."""
    right = float(np.mean(result["correct"])), float(np.mean(theory["kernel_correct"]))
    return (
        f"accuracy {right[0]:.4f} (kernel from its start {right[1]:.4f}), alignment with the top "
        f"modes {float(result['alignment']):.4f}, with the kernel from its start "
        f"{float(result['kernel_alignment']):.4f}"
    )


def num_classes_of(task: Task) -> int:
    """Return the number of classes of a task."""
    return int(max(task.labels.max(), task.labels_test.max())) + 1


def correct(task: Task, z: jax.Array, z_test: jax.Array) -> jax.Array:
    """Return which test samples a linear probe on embeddings classifies right."""
    return _probed(z, task.labels, z_test, task.labels_test, num_classes=num_classes_of(task))


@partial(jax.jit, static_argnames="num_classes")
def _probed(z, labels, z_test, labels_test, *, num_classes):
    """Fit a ridge probe with the penalty of least leave-one-out error; return correctness."""
    z, targets = z.astype(float), jax.nn.one_hot(labels, num_classes)
    penalties = jnp.var(z, axis=0).sum() * jnp.geomspace(1e-7, 1.0, 22)
    best = penalties[jnp.argmin(probe.loo_error(z, targets, penalties))]
    predictions = probe.predict(probe.ridge(z, targets, best), z_test.astype(float))
    return jnp.argmax(predictions, axis=1) == labels_test
