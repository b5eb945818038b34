r"""Figure 2 (A, B): a wide network of one hidden layer learns in steps that its NTK predicts.

    make fig2ab    or    python -m experiments run fig2ab

A ReLU network of width 2048 in PyTorch's parameterisation is trained on two random 20x20 crops of
each of 50 images, by 7000 steps of full-batch gradient descent (Appendix D.1). (A) Loss and (B)
eigenvalues of C, with predictions of the neural tangent kernel (NTK) at initialisation; (C) the
modes' amplitudes on a logarithmic scale; (D) the errors of the predicted step times.

Expected: ten modes are learned, the first at the predicted time. Later steps occur up to twice as
early as predicted, because the first steps move the weights, which enlarges the other modes. If
each step is predicted from the embeddings at the previous step, predictions by the initial kernel
are as accurate as the kernel is constant. Half a minute to one minute on two cores.

As printed ("weights are scaled upon initialization by α", 1e-4), nothing is learned. Preset
`literal` runs this reading, and `python -m experiments run mlp_readings` compares several readings.
Presets `cpu` (photographs) and `paper` (CIFAR-10 from --data-dir) scale the initial embeddings by α
instead of the weights. Preset `last_layer` scales the output layer only; its steps occur at the
predicted times.
"""

from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from experiments.fig2ab import reading
from experiments.fig2ab.reading import Config, Network, finite_kernel
from sslstep import dynamics, kernel_pca, linear, losses, train
from sslstep.experiment import Arrays, Experiment
from sslstep.experiment._loops import geometric_steps, progress
from sslstep.experiment._require import require
from sslstep.measure import spectrum

_modes = partial(kernel_pca.contrastive_modes, solver="dense")


def run(config: Config) -> Arrays:
    """Train, predict by finite and infinite-width kernels, and measure the kernel's change."""
    least = {"num_images": 1, "dim": 3, "num_records": 2, "num_steps": 1}
    require(config, at_least=least, positive=("init_scale", "learning_rate"))
    key_data, key_network, _ = jax.random.split(jax.random.key(config.seed), 3)
    x = reading.samples(config, key_data)
    network = reading.initial_network(config, key_network, x)
    kernel = finite_kernel(network)
    arrays, final = learn(config, network, kernel)
    with jax.enable_x64(True):
        limit = _modes(reading.infinite_kernel(config, x), config.dim)
        aligned = kernel_pca.align(arrays["initial_embeddings"], limit)
        found = predict(config, limit, aligned.singular_values, 0.0)
        arrays |= {f"infinite_{name}": np.asarray(array) for name, array in found.items()}
    change = finite_kernel(network._replace(params=final)) - kernel
    arrays["kernel_change"] = np.linalg.norm(change) / np.linalg.norm(kernel)
    # The relative change of γ_j, to first order.
    c = arrays["coefficients"]
    arrays["gamma_changes"] = np.einsum("ij,ik,kj->j", c, change, c)
    return arrays


def learn(config: Config, network: Network, kernel: np.ndarray) -> tuple[Arrays, Any]:
    """Run gradient descent, predict it by the kernel; return arrays and final parameters."""
    model, gain = network.model, network.gain

    def embeddings(params, x, offset):
        return gain * (model.apply(params, x) - offset)

    def loss_fn(params, x, offset):
        z, z_prime = jnp.split(embeddings(params, x, offset), 2)
        return losses.simplified_barlow_twins(z, z_prime)

    def measure(params, x, offset):
        z = embeddings(params, x, offset)
        return loss_fn(params, x, offset), spectrum.correlation_eigenvalues(*jnp.split(z, 2)), z

    with progress(config.num_steps) as advance:
        descent = train.full_batch_descent(
            loss_fn,
            network.params,
            config.learning_rate,
            config.num_steps,
            args=(network.x, network.offset),
            record_at=np.r_[0, geometric_steps(config.num_steps, config.num_records)],
            measure=measure,
            on_record=advance,
        )
        jax.block_until_ready(descent)
    loss, eigenvalues, z = descent.records
    times = np.asarray(descent.times, np.float64)
    step_times = np.asarray(spectrum.step_times(descent.times, eigenvalues))
    with jax.enable_x64(True):
        modes = _modes(kernel, config.dim)
        embedded = jnp.asarray(np.asarray(z, np.float64))
        align = jax.jit(jax.vmap(lambda z: kernel_pca.align(z, modes).singular_values))
        values = np.abs(np.asarray(align(embedded)))
        curves = predict(config, modes, values[0], times[:, None])
        more = _modes(kernel, min(2 * config.dim, config.num_images))
        images = embedded[-1].T @ more.coefficients
        arrays: Arrays = {
            "t": times,
            # Share of each mode, also beyond the first d, in the final embeddings.
            "mode_shares": more.eigenvalues * jnp.sum(images**2, axis=0),
            "loss": loss,
            "eigenvalues": eigenvalues,
            "step_times": step_times,
            "singular_values": values,
            "coefficients": modes.coefficients,
            "initial_embeddings": embedded[0],
            "updated_step_times": _updated(config, modes, times, step_times, values),
            **curves,
        }
    return {name: np.asarray(array) for name, array in arrays.items()}, descent.params


def predict(config: Config, modes: kernel_pca.KernelModes, start: Any, t: Any) -> Arrays:
    """Predict the eigenvalues of C at times t and the step times, both sorted; needs x64."""
    eta, gammas = config.learning_rate, modes.eigenvalues
    curves = linear.mode_eigenvalue(t, gammas, start, learning_rate=eta)
    return {
        "gammas": np.asarray(gammas),
        "predicted_singular_values": linear.singular_value(t, gammas, start, learning_rate=eta),
        "predicted_eigenvalues": -np.sort(-np.asarray(curves), axis=-1),
        "predicted_step_times": np.sort(dynamics.step_time(gammas, start, learning_rate=eta)),
    }


def _updated(config, modes, times, step_times, values) -> np.ndarray:
    """Predict each step time from the embeddings at the previous step, shape (d,)."""
    updated = np.full(config.dim, np.inf)
    for j, before in enumerate(np.r_[0.0, step_times[:-1]]):
        if np.isfinite(before):
            record = min(int(np.searchsorted(times, before)), len(times) - 1)
            later = predict(config, modes, values[record], 0.0)["predicted_step_times"]
            updated[j] = times[record] + later[j]
    return updated


PRESETS = {
    "cpu": Config(),
    "paper": Config(data="cifar10"),
    "literal": Config(data="cifar10", scaled="all"),
    "last_layer": Config(scaled="last", num_steps=24_000),
}

EXPERIMENT = Experiment(PRESETS, run, minutes=0.5, quick=())
