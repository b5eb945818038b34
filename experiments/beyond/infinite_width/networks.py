"""Training of finite networks on the pairs of `infinite_width`, and predictions for them."""

from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from experiments.beyond.infinite_width.config import Config
from sslstep import dynamics, kernel_pca, linear, losses, nn, simulate, train
from sslstep.experiment import Arrays, log, probes
from sslstep.experiment._loops import geometric_steps, progress, stacked
from sslstep.measure import alignment, probe, spectrum


class Task(NamedTuple):
    """The pairs, the labels of their first views, and labelled test crops."""

    x: jax.Array
    x_prime: jax.Array
    labels: jax.Array
    x_test: jax.Array
    labels_test: jax.Array

    @property
    def num_classes(self) -> int:
        """The number of classes."""
        return int(max(self.labels.max(), self.labels_test.max())) + 1

    def correct(self, z: jax.Array, z_test: jax.Array, dims: np.ndarray) -> np.ndarray:
        """Return which test samples a probe of the first d dimensions classifies right, by d."""
        z, z_test, grid = z.astype(float), z_test.astype(float), jnp.geomspace(1e-7, 1.0, 22)
        return probes.correct_by_dim(dims, z, z_test, self.labels, self.labels_test, grid)


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
    at = geometric_steps(num_steps, config.num_records)
    loss_fn, measure = _lazy(model)
    rows: list[Arrays] = []
    with progress(num_steps, config.num_seeds * len(config.laziness), "networks") as advance:
        for seed, params in enumerate(draws):
            kernel = _kernel_descent(predicted, initial[seed], eta, at)
            theory = _expected(config, task, predicted, aligned[seed], eta, at)
            theory |= _judged(config, task, predicted, kernel, kernel.z_test[-1], prefix="kernel_")
            found = {"predicted": {**theory, "step_times": jnp.sort(step_times[seed])}}
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
                found[f"network_{laziness:g}"] = result
                log.info(
                    "network of seed %d, a = %g: accuracy %.4f (kernel from its start %.4f), "
                    "alignment with the top modes %.4f, with the kernel from its start %.4f",
                    *(seed, laziness, result["correct"].mean(), theory["kernel_correct"].mean()),
                    *(float(result[each]) for each in ("alignment", "kernel_alignment")),
                )
            rows.append({f"{a}_{b}": array for a, own in found.items() for b, array in own.items()})
    return stacked(rows) | {"t": eta * at, "learning_rate": eta, "num_steps": num_steps}


def _lazy(model: nn.MLP) -> tuple[Callable[..., Any], Callable[..., Any]]:
    """Return the loss of lazy networks with embeddings a (f - f_0) + α f_0, and their records."""

    def embed(params, x, start, laziness, init_scale):
        laziness, init_scale = (jnp.asarray(a, start.dtype) for a in (laziness, init_scale))
        return laziness * (model.apply(params, x) - start) + init_scale * start

    def loss(params, pairs, test, start, start_test, *scales):
        return losses.simplified_barlow_twins(*jnp.split(embed(params, pairs, start, *scales), 2))

    def measure(params, pairs, test, start, start_test, *scales):
        z, z_prime = jnp.split(embed(params, pairs, start, *scales), 2)
        z_test = embed(params, test, start_test, *scales)
        return Records(spectrum.correlation_eigenvalues(z, z_prime), z, z_test)

    return loss, measure


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
        num_classes=task.num_classes,
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
        "accuracy": _along(z, z_test, *labels, config.penalty, num_classes=task.num_classes),
        "correct": task.correct(z[-1], z_test[-1], np.array([config.dim]))[0],
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
