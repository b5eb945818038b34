r"""Section 5.2: what infinite-width self-supervised learning learns, and what it is worth.

    make infinite_width    or    python -m experiments.infinite_width

The embeddings of an infinitely wide MLP and CNN, from their kernels and without training, on two
random crops of each image. (A) The spectrum of K_Γ below that of the kernel itself, K̃/(2n); (B)
when each mode is learned; (C) the test accuracy of a linear probe on the first d dimensions,
against kernel PCA and an untrained network; (D) the accuracy along training, which rises in steps
as dimensions are learned. Beside them finite networks trained on the same pairs: as they are, and
made lazy by a factor on the output, f = a (f_θ - f_θ0) + α f_θ0, which leaves the theory exact and
takes feature learning away as a grows (Chizat et al., 2019). With it come the claims of Section 5.

Expected: both networks have the predicted accuracy within three points, and a = 1 and a = 10
agree: what is left is due to the finite width, by which some steps come early. One to three
minutes on two cores, most of them training; the paper preset takes some twenty.

Presets: `cpu` uses the embedded photographs, whose labels are the photographs; `paper` 5,000 pairs
of CIFAR-10 from --data-dir and its classes. Kernels are in float64, networks in float32.
"""

from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from experiments import _panels, infinite_width_claims, kernel_claims
from experiments._images import Source, choose, labelled
from experiments._require import require
from experiments._run import Arrays, Experiment, command
from experiments.infinite_width_claims import dims, network_step_times
from experiments.infinite_width_networks import Predicted, Task, correct, networks, num_classes_of
from sslstep import data, gram, kernel_pca, linear, nn, plotting
from sslstep.measure import probe
from sslstep.ntk import infinite


@dataclass(frozen=True)
class Config:
    """Settings; each is one option of the command."""

    data: Source = "photos"
    """Where the images come from: by name, or a folder of one's own."""
    data_dir: str | None = None
    """Folder of prepared TFDS data, for cifar10 and stl10; TFDS's own default if not given."""
    num_images: int = 500
    """n, the number of positive pairs, whose first views are the probe's labelled samples."""
    cnn_images: int = 300
    """n for the CNN's kernel, which costs far more; the first of them."""
    num_test: int = 2000
    """Test images, at most; of each the crop in the middle."""
    crop: int = 20
    """Side of a crop, in pixels."""
    pool: int = 2
    """Crops are averaged over squares of this side, in pixels; 1 keeps them."""
    depth: int = 1
    """Hidden layers of the MLP."""
    cnn_depth: int = 3
    """3x3 convolutions of the CNN, each with stride 2, before its features are flattened."""
    num_modes: int = 64
    """Modes of each kernel that are computed, and dimensions that are probed."""
    dim: int = 8
    """Embedding dimension d of the trained networks, and of panel D."""
    width: int = 1024
    """Width of the trained networks."""
    laziness: tuple[float, ...] = (1.0, 10.0)
    """Factors a on the output of the trained networks, ascending; none of them: no training."""
    num_seeds: int = 3
    """Networks trained for each factor; one decides no claim about them."""
    init_scale: float = 0.01
    """α, of the initial embeddings relative to those of the network as it is drawn."""
    step_size: float = 0.5
    """Learning rate, relative to the largest stable one."""
    num_records: int = 60
    """Records along training, logarithmically spaced."""
    penalty: float = 0.1
    """Ridge penalty μ of panel D: a dimension counts once its variance is of this size."""
    seed: int = 0
    """Seed of the choice of images, the crops and the networks."""


def run(config: Config) -> Arrays:
    """Kernels to predictions, networks trained beside them, and what the claims need."""
    require(
        config,
        at_least=dict.fromkeys(
            ("num_images", "cnn_images", "num_test", "pool", "dim", "num_seeds"), 1
        ),
        positive=("init_scale", "penalty", "laziness"),
        fraction=("step_size",),
    )
    if list(config.laziness) != sorted(set(config.laziness)):
        raise ValueError(f"laziness must ascend, got {config.laziness}.")
    smallest = min(config.num_images, config.cnn_images)
    if not config.dim < config.num_modes <= smallest:
        raise ValueError(
            f"num_modes must be above dim = {config.dim} and at most {smallest}, the number of "
            f"images, got {config.num_modes}."
        )
    keys = jax.random.split(jax.random.key(config.seed), 4)
    task = load(config, keys[0], keys[1])
    num = config.cnn_images
    few = task._replace(x=task.x[:num], x_prime=task.x_prime[:num], labels=task.labels[:num])
    mlp = infinite.mlp(config.depth)
    _, cnn_arrays = _predict(config, infinite.cnn(config.cnn_depth, strides=2), few)
    predicted, mlp_arrays = _predict(config, mlp, task)
    arrays: Arrays = {f"cnn_{name}": array for name, array in cnn_arrays.items()}
    arrays |= {f"mlp_{name}": array for name, array in mlp_arrays.items()}
    arrays |= {"num_test": len(task.labels_test), "chance": 1 / num_classes_of(task)}
    arrays["random_correct"] = _random_features(config, keys[2], task)
    if config.laziness:
        arrays |= networks(config, keys[2], task, predicted)
    arrays |= kernel_claims.measure(keys[3], mlp, task.x, task.x_prime, task.x_test)
    return {name: np.asarray(array) for name, array in arrays.items()}


def load(config: Config, key_images: jax.Array, key_crops: jax.Array) -> Task:
    """Crops of images chosen at random, standardised by the pairs' own mean and deviation."""
    source = config.data, config.num_images, config.data_dir
    images, labels, _ = choose(key_images, *source, view=config.crop, with_labels=True)
    if config.crop % config.pool:
        raise ValueError(f"crop = {config.crop} is not a multiple of pool = {config.pool}.")
    crops = data.random_crop_pairs(key_crops, images, config.crop)
    pairs = _pooled(jnp.concatenate(crops), config.pool)
    every_pixel = (0, 1, 2)
    mean, std = pairs.mean(every_pixel, keepdims=True), pairs.std(every_pixel, keepdims=True)
    test_split = labelled(config.data, "test", config.data_dir, config.crop)
    # Their order may be that of the labels.
    few = np.random.default_rng(config.seed).permutation(len(test_split.images))[: config.num_test]
    edge = (test_split.images.shape[1] - config.crop) // 2
    middle = slice(edge, edge + config.crop)
    test = _pooled(jnp.asarray(test_split.images[few][:, middle, middle]), config.pool)
    x, x_prime = jnp.split((pairs - mean) / std, 2)
    labels_test = jnp.asarray(test_split.labels[few])
    return Task(x, x_prime, jnp.asarray(labels), (test - mean) / std, labels_test)


def _pooled(crops: jax.Array, side: int) -> jax.Array:
    n, height, width, channels = crops.shape
    squares = crops.reshape(n, height // side, side, width // side, side, channels)
    return squares.astype(float).mean((2, 4)) / 255


def _predict(config: Config, kernel_fn: gram.KernelFn, task: Task) -> tuple[Predicted, Arrays]:
    """Without training: modes of a kernel and its principal ones, and what they are worth."""
    n = len(task.x)
    kernel = gram.pairs(kernel_fn, task.x, task.x_prime)
    k_test = gram.test_train(kernel_fn, task.x_test, task.x, task.x_prime)
    modes = kernel_pca.contrastive_modes(kernel, config.num_modes)
    principal = kernel_pca.principal_modes(kernel, config.num_modes)
    start = linear.initial_singular_values(config.init_scale, config.num_modes)
    pca = kernel_pca.embed(principal, kernel[:n]), kernel_pca.embed(principal, k_test)
    ssl = kernel_pca.embed_training(modes)[:n], kernel_pca.embed(modes, k_test)
    arrays = {
        "gammas": modes.eigenvalues,
        "residuals": modes.residuals,
        "principal_gammas": principal.eigenvalues,
        "step_times": linear.half_rise_time(modes.eigenvalues, start),
        "correct": _correct_by_dim(config, task, *ssl),
        "principal_correct": _correct_by_dim(config, task, *pca),
    }
    ones = jnp.ones_like(modes.eigenvalues)
    functions = kernel_pca.embed_training(modes, ones)[:n]
    return Predicted(modes, functions, kernel_pca.embed(modes, k_test, ones)), arrays


def _correct_by_dim(config: Config, task: Task, z: jax.Array, z_test: jax.Array) -> np.ndarray:
    """Which test samples a probe of the first d dimensions classifies right, for each d."""
    kept = jnp.arange(z.shape[1])[None, :] < dims(config)[:, None]  # others are zero: one program
    return np.stack([correct(task, z * row, z_test * row) for row in kept])


def _random_features(config: Config, key: jax.Array, task: Task) -> np.ndarray:
    """The same with the outputs of networks that were not trained, one for each seed."""
    model = nn.MLP(config.num_modes, config.width, config.depth)
    rows = []
    for key_seed in jax.random.split(key, config.num_seeds):
        params = model.init(key_seed, task.x[:1])
        z, z_test = (jnp.asarray(model.apply(params, a)) for a in (task.x, task.x_test))
        rows.append(_correct_by_dim(config, task, z, z_test))
    return np.stack(rows)


def plot(config: Config, arrays: Arrays) -> Any:
    """Spectra, step times, and accuracies against d and t."""
    import matplotlib.pyplot as plt

    fig, ((spectra, times), (by_dim, by_time)) = plt.subplots(2, 2, figsize=(7.0, 5.4))
    blue, _, green, *_ = plotting.CATEGORIES
    j = np.arange(1, config.num_modes + 1)
    for name, color, marker in (("mlp", blue, "o"), ("cnn", green, "s")):
        label = name.upper()
        style: Any = {"color": color, "markersize": 2.2, "linewidth": 0.8}
        spectra.loglog(j, arrays[f"{name}_gammas"], f"{marker}-", **style, label=label)
        spectra.loglog(j, arrays[f"{name}_principal_gammas"], ":", **style)
    spectra.plot([], [], ":", color="0.4", linewidth=0.8, label=r"of $\tilde K / 2n$")
    spectra.set(xlabel="mode $j$", ylabel=r"eigenvalue $\gamma_j$ of $K_\Gamma$")
    spectra.legend(loc="lower left")
    _plot_times(config, arrays, times)
    _plot_by_dim(config, arrays, by_dim)
    _plot_by_time(config, arrays, by_time)
    plotting.label_panels((spectra, times, by_dim, by_time))
    return fig


_LAZY: tuple[dict[str, Any], ...] = (
    {"color": plotting.CATEGORIES[1], "marker": "D"},
    {"color": plotting.CATEGORIES[0], "marker": "o"},
    {"color": plotting.CATEGORIES[4], "marker": "v"},
)


def _plot_times(config, arrays, ax) -> None:
    if not config.laziness:
        j = np.arange(1, config.num_modes + 1)
        ax.loglog(j, arrays["mlp_step_times"], **plotting.THEORY, label="MLP")
        ax.loglog(j, arrays["cnn_step_times"], color=plotting.CATEGORIES[2], label="CNN")
    else:
        j = np.arange(1, config.dim + 1)
        for laziness, style in zip(config.laziness, _LAZY, strict=False):
            measured = network_step_times(arrays, laziness).mean(axis=0)
            label = f"network, $a = {laziness:g}$"
            ax.semilogy(j, measured, **style, linestyle="none", markersize=4, label=label)
        expected = arrays["predicted_step_times"].mean(axis=0)
        ax.semilogy(j, expected, **plotting.THEORY, label="infinite width")
        ax.set_xticks(j)
        ax.tick_params(axis="y", which="minor", labelleft=False)
    ax.set(xlabel="mode $j$", ylabel=r"step time $\tau_j$ (learning rate $\times$ steps)")
    ax.legend(loc="lower right")


def _plot_by_dim(config, arrays, ax) -> None:
    d, (_, _, green, orange, _) = dims(config), plotting.CATEGORIES
    num_test = int(arrays["num_test"])
    ax.plot(d, _percent(arrays["mlp_correct"]), **plotting.THEORY, label="MLP, SSL")
    style: Any = {"color": "black", "linestyle": ":", "linewidth": 1.0}
    ax.plot(d, _percent(arrays["mlp_principal_correct"]), **style, label="MLP, kernel PCA")
    n = f" ($n = {config.cnn_images}$)" if config.cnn_images != config.num_images else ""
    dashed: Any = {**plotting.THEORY, "color": green}
    ax.plot(d, _percent(arrays["cnn_correct"]), **dashed, label=f"CNN, SSL{n}")
    ax.plot(
        d, _percent(arrays["cnn_principal_correct"]), **{**style, "color": green}, label="CNN, PCA"
    )
    random = _percent(arrays["random_correct"].mean(axis=0))
    ax.plot(d, random, color=orange, label="untrained network")
    for laziness, look in zip(config.laziness, _LAZY, strict=False):
        measured = float(arrays[f"network_{laziness:g}_correct"].mean())
        error = 100 * float(probe.standard_error(measured, num_test))
        label = f"network, $a = {laziness:g}$"
        ax.errorbar(
            [config.dim], [100 * measured], error, **look, markersize=4, label=label, zorder=5
        )
    ax.axhline(100 * float(arrays["chance"]), color="0.6", linewidth=0.7, zorder=0)
    ax.annotate("chance", (1, 100 * float(arrays["chance"])), va="bottom", fontsize=6, color="0.4")
    ax.set(xscale="log", xlabel="dimensions $d$ probed", ylabel="test accuracy (%)")
    ax.set(ylim=(0.6 * 100 * float(arrays["chance"]), None))
    ax.legend(loc="lower right", fontsize=6, labelspacing=0.25, frameon=True, edgecolor="none")


def _percent(correct: np.ndarray) -> np.ndarray:
    return 100 * correct.mean(axis=-1)


def _plot_by_time(config, arrays, ax) -> None:
    if not config.laziness:
        ax.set_axis_off()
        return
    t = arrays["t"]
    tau = arrays["predicted_step_times"].mean(axis=0)
    plotting.time_marks(ax, tau, label=r"predicted $\tau_j$")
    for laziness, look in zip(config.laziness, _LAZY, strict=False):
        accuracy = 100 * arrays[f"network_{laziness:g}_accuracy"].mean(axis=0)
        ax.plot(t, accuracy, color=look["color"], label=f"network, $a = {laziness:g}$")
    expected = 100 * arrays["predicted_kernel_accuracy"].mean(axis=0)
    ax.plot(t, expected, **plotting.THEORY, label="infinite width")
    ax.set(xscale="log", xlim=(0.3 * tau[0], t[-1]))
    ax.set(xlabel=_panels.TIME, ylabel="test accuracy (%)")
    ax.legend(loc="upper left", frameon=True, framealpha=1, edgecolor="none")


_CIFAR: Any = {"data": "cifar10", "num_images": 5000, "cnn_images": 2000, "crop": 24, "dim": 10}

EXPERIMENT = Experiment(
    "infinite_width",
    __doc__ or "",
    {
        "cpu": Config(),
        "paper": Config(**_CIFAR, width=2048, num_seeds=1),
    },
    run,
    plot,
    infinite_width_claims.check,
)

if __name__ == "__main__":
    command(EXPERIMENT)
