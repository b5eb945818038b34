r"""Section 5.2: the modes that infinite-width self-supervised learning learns, and their accuracy.

    make infinite_width    or    python -m experiments run infinite_width

The embeddings of an infinitely wide MLP and CNN follow from their kernels without training. The
data are n pairs of random crops. (A) The spectrum of K_Γ and the spectrum of K̃/(2n), with the
kernel K̃ of all 2n crops. (B) The step time of each mode. (C) The test accuracy of a linear probe
on the first d dimensions, compared with kernel PCA and an untrained network. (D) The test accuracy
along training, which rises as dimensions are learned. Finite networks are trained on these pairs
for comparison. A factor a on the output makes them lazy: f = a (f_θ - f_θ0) + α f_θ0, with the
initial scale α (Chizat et al., 2019). Expected: the networks reach the predicted accuracy within
three points at a = 1 and a = 10. One to three minutes on two cores.

Presets: `cpu` uses crops of the embedded photographs, with the photograph as the label; `paper`
uses 5,000 pairs of CIFAR-10 from --data-dir with its classes. Kernels are in float64, networks in
float32.
"""

import jax
import jax.numpy as jnp
import numpy as np

from experiments.beyond.infinite_width.config import Config, dims
from experiments.beyond.infinite_width.networks import Predicted, Task, networks
from sslstep import data, dynamics, gram, kernel_pca, linear, nn
from sslstep.experiment import Arrays, Experiment, probes
from sslstep.experiment._require import require, require_list
from sslstep.experiment.image_data import choose
from sslstep.ntk import infinite


def run(config: Config) -> Arrays:
    """Compute the kernels' predictions, and train networks for comparison."""
    numbers = ("num_images", "cnn_images", "num_test", "pool", "dim", "num_seeds")
    positive = ("init_scale", "penalty", "laziness")
    require(config, at_least=dict.fromkeys(numbers, 1), positive=positive, fraction=("step_size",))
    require_list("laziness", config.laziness, least=0, order="increasing")
    smallest = min(config.num_images, config.cnn_images)
    if not config.dim < config.num_modes <= smallest:
        raise ValueError(
            f"num_modes must be above dim = {config.dim} and at most {smallest}, the number of "
            f"images, got {config.num_modes}."
        )
    key_images, key_crops, key_networks, _ = jax.random.split(jax.random.key(config.seed), 4)
    task = load(config, key_images, key_crops)
    num = config.cnn_images
    few = task._replace(x=task.x[:num], x_prime=task.x_prime[:num], labels=task.labels[:num])
    _, cnn_arrays = _predict(config, infinite.cnn(config.cnn_depth, strides=2), few)
    predicted, mlp_arrays = _predict(config, infinite.mlp(config.depth), task)
    arrays: Arrays = {f"cnn_{name}": array for name, array in cnn_arrays.items()}
    arrays |= {f"mlp_{name}": array for name, array in mlp_arrays.items()}
    arrays |= {"num_test": len(task.labels_test), "chance": 1 / task.num_classes}
    arrays["random_correct"] = _random_features(config, key_networks, task)
    if config.laziness:
        arrays |= networks(config, key_networks, task, predicted)
    return {name: np.asarray(array) for name, array in arrays.items()}


def load(config: Config, key_images: jax.Array, key_crops: jax.Array) -> Task:
    """Draw images and crops, standardised by the channel means and deviations of the pairs."""
    source = config.data, config.num_images, config.data_dir
    images, labels, _ = choose(key_images, *source, view=config.crop, with_labels=True)
    if config.crop % config.pool:
        raise ValueError(f"crop = {config.crop} is not a multiple of pool = {config.pool}.")
    crops = data.random_crop_pairs(key_crops, images, config.crop)
    crops_test, labels_test = probes.crops_and_labels(config, "test", config.num_test, config.seed)
    pairs, test = (
        jnp.asarray(probes.pooled(np.asarray(part), config.pool, float))
        for part in (jnp.concatenate(crops), crops_test)
    )
    every_pixel = (0, 1, 2)
    mean, std = pairs.mean(every_pixel, keepdims=True), pairs.std(every_pixel, keepdims=True)
    x, x_prime = jnp.split((pairs - mean) / std, 2)
    return Task(x, x_prime, jnp.asarray(labels), (test - mean) / std, jnp.asarray(labels_test))


def _predict(config: Config, kernel_fn: gram.KernelFn, task: Task) -> tuple[Predicted, Arrays]:
    """Compute a kernel's contrastive and principal modes, step times and probe accuracies."""
    n = len(task.x)
    kernel = gram.pairs(kernel_fn, task.x, task.x_prime)
    k_test = gram.to_pairs(kernel_fn, task.x_test, task.x, task.x_prime)
    modes = kernel_pca.contrastive_modes(kernel, config.num_modes)
    principal = kernel_pca.principal_modes(kernel, config.num_modes)
    start = linear.initial_singular_values(config.init_scale, config.num_modes)
    pca = kernel_pca.embed(principal, kernel[:n]), kernel_pca.embed(principal, k_test)
    ssl = kernel_pca.embed_training(modes)[:n], kernel_pca.embed(modes, k_test)
    arrays = {
        "gammas": modes.eigenvalues,
        "residuals": modes.residuals,
        "principal_gammas": principal.eigenvalues,
        "step_times": dynamics.step_time(modes.eigenvalues, start),
        "correct": task.correct(*ssl, dims(config)),
        "principal_correct": task.correct(*pca, dims(config)),
    }
    ones = jnp.ones_like(modes.eigenvalues)
    functions = kernel_pca.embed_training(modes, ones)[:n]
    return Predicted(modes, functions, kernel_pca.embed(modes, k_test, ones)), arrays


def _random_features(config: Config, key: jax.Array, task: Task) -> np.ndarray:
    """Return whether probes on untrained networks are right, shape (seeds, dimensions, samples)."""
    model = nn.MLP(config.num_modes, config.width, config.depth)
    rows = []
    for key_seed in jax.random.split(key, config.num_seeds):
        params = model.init(key_seed, task.x[:1])
        z, z_test = (jnp.asarray(model.apply(params, a)) for a in (task.x, task.x_test))
        rows.append(task.correct(z, z_test, dims(config)))
    return np.stack(rows)


PAPER = Config(
    data="cifar10", num_images=5000, cnn_images=2000, crop=24, dim=10, width=2048, num_seeds=1
)

EXPERIMENT = Experiment({"cpu": Config(), "paper": PAPER}, run, minutes=1.0)
